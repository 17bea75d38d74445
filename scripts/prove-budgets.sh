#!/usr/bin/env bash
# Proves that token budgets hold, at length: several gateways on one Postgres, one on SQLite, calls
# that are left, gateways that are killed and frozen, a database that fails. Prints the figures.
#
#   scripts/prove-budgets.sh                               with the tests' own engine
#   scripts/prove-budgets.sh --vllm http://127.0.0.1:8001  with a vLLM that does nothing else
#
# The count is the engine's own, from its /metrics. A vLLM should have a context of some thousand
# tokens and no API key. Takes some minutes, most of it waiting for leases to run out.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export PROVE_BUDGETS_AT_LENGTH=1
tests=(fleet:: fleet_faults::)
if [[ ${1:-} == --vllm && $# -eq 2 ]]; then
    if ! curl --silent --fail --max-time 5 "${2%/}/metrics" | grep --quiet '^vllm:prompt_tokens_total'; then
        echo "scripts/prove-budgets.sh: there is no vLLM at $2" >&2
        exit 1
    fi
    export PROVE_BUDGETS_ENGINE=$2
    # The others need an engine that fails when it is told to.
    tests=(fleet::)
elif [[ $# -gt 0 ]]; then
    echo "usage: scripts/prove-budgets.sh [--vllm URL]" >&2
    exit 64
fi

# One after another: they share the engine and these cores.
exec cargo test --locked --test it -- --nocapture --test-threads=1 "${tests[@]}"
