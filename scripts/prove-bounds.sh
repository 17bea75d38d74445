#!/usr/bin/env bash
# Proves that what a vLLM counts for a call is never more than the gateway's bound of it: sends
# generated calls, right and wrong ones, and compares its counters before and after each.
#
#   scripts/prove-bounds.sh http://127.0.0.1:8001 [CALLS]
#
# The vLLM should have a context of some thousand tokens, no API key, and nothing else to do. Takes
# some two seconds for each call; 200 calls if nothing else is said. Ends at the first call that
# costs more than its bound, and prints it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ $# -lt 1 || $# -gt 2 || $1 == -* ]]; then
    echo "usage: scripts/prove-bounds.sh URL [CALLS]" >&2
    exit 64
fi
if ! curl --silent --fail --max-time 5 "${1%/}/metrics" | grep --quiet '^vllm:prompt_tokens_total'; then
    echo "scripts/prove-bounds.sh: there is no vLLM at $1" >&2
    exit 1
fi

export PROVE_BOUNDS_ENGINE=${1%/} PROVE_BOUNDS_CALLS=${2:-200}
exec cargo test --locked --test it -- --nocapture bounds::a_real_vllm
