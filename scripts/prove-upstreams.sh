#!/usr/bin/env bash
# Proves what becomes of calls when a real vLLM starts under them, drains, is stopped, loses its engine,
# has its queue full, or is one of two and is killed. Prints a table of what clients got; ends with 1
# if a promise is broken.
#
#   scripts/prove-upstreams.sh --vllm-command COMMAND [SCENARIO...]
#
# COMMAND starts a vLLM in the foreground; a port and options of `vllm serve` are put behind it, as in
# "vllm serve MODEL --port". It may stand in VLLM_COMMAND, too. The model must be able to have a context
# of 32768; a tiny one on a CPU will do. With VLLM_USE_RUST_FRONTEND=1 vLLM takes its other front end.
# Scenarios: start drain stop engine queue two; all if none is named. Each starts vLLM once or twice.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

command=${VLLM_COMMAND:-}
if [[ ${1:-} == --vllm-command && $# -ge 2 ]]; then
    command=$2
    shift 2
fi
if [[ -z $command || ${1:-} == -* ]]; then
    echo "usage: scripts/prove-upstreams.sh --vllm-command COMMAND [SCENARIO...]" >&2
    exit 64
fi

cargo build --locked
place=$(mktemp -d)
echo "logs are in $place"
python3 -B tests/servers/vllm/prove.py "$PWD/target/debug/tollgate" "$place" "$command" "$@"
rm -r "$place"
