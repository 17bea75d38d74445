#!/usr/bin/env bash
# Tries a gateway from outside, as its users do, and says what is wrong. 0 only if all is well.
#
#   API_KEY=sk-... scripts/smoke.sh https://tollgate-....run.app
#
# Without API_KEY only what needs no key is tried. MODEL chooses a model (the only one by default).
# ID_TOKEN is for a service that also wants a Google identity: $(gcloud auth print-identity-token).
# WAIT_SECONDS (600) bounds the chat, for the model server may have to start first.
set -euo pipefail

url=${1:?which gateway? smoke.sh https://...}
url=${url%/}
model=${MODEL:-opencode-llm}
wait_seconds=${WAIT_SECONDS:-600}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

# Secrets reach curl by a file, not as arguments, which a process list would show.
config() {
    if [[ -n ${ID_TOKEN:-} ]]; then
        printf 'header = "X-Serverless-Authorization: Bearer %s"\n' "$ID_TOKEN"
    fi
    if [[ -n ${1:-} ]]; then
        printf 'header = "X-API-Key: %s"\n' "$1"
    fi
}

# call KEY SECONDS PATH CURL-OPTIONS...: the status; the body is in $work/body.
call() {
    local key=$1 seconds=$2 path=$3
    shift 3
    : >"$work/body"
    config "$key" | curl --config - --silent --show-error --no-buffer --output "$work/body" \
        --write-out '%{http_code}' --connect-timeout 10 --max-time "$seconds" "$@" "$url$path" \
        2>"$work/error" || true
}

# result WHAT STATUS WANTED [PATTERN] HINT
result() {
    local what=$1 status=$2 wanted=$3 pattern=$4 hint=$5
    if [[ $status == "$wanted" ]] && grep -q -- "$pattern" "$work/body"; then
        echo "ok    $what"
        return
    fi
    failed=$((failed + 1))
    echo "FAIL  $what: answered $status, wanted $wanted${pattern:+ with $pattern}"
    { cat "$work/error" "$work/body"; echo; } | head -c 600 | sed -e '/^$/d' -e 's/^/      /'
    echo "      $hint"
}

chat() {
    printf '{"model": "%s", "stream": %s, "max_tokens": 16, "messages": [{"role": "user", "content": "Say hello."}]}' \
        "$model" "$1"
}

echo "== $url"
# Twice, for the gateway may have to start as well.
status=$(call "" 60 /health --retry 1 --retry-all-errors)
result "the gateway answers" "$status" 200 '"status"' \
    "403 as HTML: the platform wants an identity (docs/deploy.md, \"Callers without a Google identity\"). 000: no such address."
if [[ $status != 200 ]]; then
    echo "the rest needs a gateway that answers"
    exit 1
fi
status=$(call "" 30 /ready)
result "it has its keys" "$status" 200 '' "The log says what Secret Manager answered."
status=$(call "" 30 /v1/chat/completions --header 'Content-Type: application/json' --data "$(chat false)")
result "no key, no answer" "$status" 401 missing_api_key "Callers without a key must not reach the model."
status=$(call "sk-this-key-is-not-one-of-yours" 30 /v1/chat/completions \
    --header 'Content-Type: application/json' --data "$(chat false)")
result "nor with a wrong one" "$status" 401 invalid_api_key "Unknown keys must not reach the model."

if [[ -z ${API_KEY:-} ]]; then
    echo "skip  models, a chat and a stream: API_KEY is not set"
else
    status=$(call "$API_KEY" 30 /v1/models)
    result "models are listed" "$status" 200 '"data"' "401: the key is not in the secret, or was revoked."
    status=$(call "$API_KEY" "$wait_seconds" /v1/chat/completions \
        --header 'Content-Type: application/json' --data "$(chat false)" --retry 5 --retry-max-time "$wait_seconds")
    result "a chat" "$status" 200 '"choices"' \
        "502: the model server refuses the gateway (roles/run.invoker?) or is broken. 503: it is still starting. 404: set MODEL."
    status=$(call "$API_KEY" "$wait_seconds" /v1/chat/completions \
        --header 'Content-Type: application/json' --data "$(chat true)")
    result "a stream, to its end" "$status" 200 '^data: \[DONE\]' "The last event says why it broke off."
fi

if [[ $failed -gt 0 ]]; then
    echo "$failed failed"
    exit 1
fi
echo "all is well"
