#!/usr/bin/env bash
# Proves that a model server can be replaced under load: 50 calls a second, half of them streams, go
# on while one of two servers, then the other, and then a single one drains, closes its port and comes
# up anew. Prints the answers by kind, and how long calls waited.
#
#   scripts/prove-rolling.sh [SECONDS]     for each of: before, draining, away, back; 5 if nothing is said
#
# The servers are the tests' own stand-ins. Takes 16 times SECONDS.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

seconds=${1:-5}
if [[ $# -gt 1 || ! $seconds =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: scripts/prove-rolling.sh [SECONDS]" >&2
    exit 64
fi

export PROVE_ROLLING_PHASE_SECONDS=$seconds
exec cargo test --locked --test it -- --nocapture --test-threads=1 rolling::
