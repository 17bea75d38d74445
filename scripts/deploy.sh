#!/usr/bin/env bash
# Deploys one part. Settings: scripts/settings.sh. What it makes is described in docs/deploy.md.
#
#   scripts/deploy.sh vllm         the private GPU service, and the gateway's right to call it
#   scripts/deploy.sh build        by Cloud Build: tests, image, gateway, smoke test
#   scripts/deploy.sh image        by Cloud Build: tests and image
#   scripts/deploy.sh gateway      the gateway from an image
#   scripts/deploy.sh colocated    gateway and vLLM in one instance
#
# IMAGE is the image of the gateway; if it is not set, the newest that was built. CHECK_ONLY=1 asks Google to check a service without deploying it.
# CLOUD_SQL=PROJECT:REGION:INSTANCE gives the gateway that database; without it the next deployment has none again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# replace FILE: deploys what a file describes. Whatever the file does not say is reset.
replace() {
    local rendered status=0
    rendered=$(mktemp)
    scripts/render.sh "$1" >"$rendered" || status=$?
    if [[ $status -eq 0 ]]; then
        run gcloud run services replace "$rendered" --region "$REGION" ${CHECK_ONLY:+--dry-run} || status=$?
    fi
    rm -f "$rendered"
    return "$status"
}

deploy_vllm() {
    replace service-vllm.yaml
    [[ -n ${CHECK_ONLY:-} ]] && return
    run gcloud run services add-iam-policy-binding tollgate-vllm --region "$REGION" --format none \
        --member "serviceAccount:$GATEWAY_ACCOUNT" --role roles/run.invoker
}

deploy_gateway() {
    VLLM_URL=${VLLM_URL:-$(url_of tollgate-vllm)}
    if [[ -z $VLLM_URL ]]; then
        echo "deploy.sh: there is no service tollgate-vllm in $REGION; deploy it first, or set VLLM_URL" >&2
        exit 1
    fi
    export VLLM_URL
    replace service.yaml
    echo "gateway: $(url_of tollgate)"
}

deploy_colocated() {
    replace service-colocated.yaml
    echo "gateway: $(url_of tollgate-colocated)"
    echo "callers: gcloud run services proxy tollgate-colocated --region $REGION --port 8000"
}

# build DEPLOY: whether what was built is deployed too.
build() {
    run gcloud builds submit --config cloudbuild.yaml --region "$REGION" \
        --gcs-source-staging-dir "gs://$BUILD_BUCKET/source" \
        --substitutions "_REGION=$REGION,_DEPLOY=$1,_CLOUD_SQL=$CLOUD_SQL" .
}

usage() {
    sed -n '2,/^set/{/^set/!s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
}

case ${1:-} in
    vllm | gateway | colocated | build | image) ;;
    -h | --help)
        usage
        exit 0
        ;;
    *)
        usage >&2
        exit 64
        ;;
esac
# shellcheck source=scripts/settings.sh
source scripts/settings.sh
export IMAGE=${IMAGE:-$REPOSITORY/tollgate:latest}
case $1 in
    vllm) deploy_vllm ;;
    gateway) deploy_gateway ;;
    colocated) deploy_colocated ;;
    build) build true ;;
    image) build false ;;
esac
