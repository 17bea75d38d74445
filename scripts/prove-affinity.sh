#!/usr/bin/env bash
# Measures how many turns of conversations meet the model server that has their past cached: 200
# conversations of six turns, 40 at once, before three servers of which one is as quick as the others,
# ten times slower, or dies. The servers are the tests' own. Prints a table; takes about a minute.
#
#   scripts/prove-affinity.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ $# -gt 0 ]]; then
    echo "usage: scripts/prove-affinity.sh" >&2
    exit 64
fi

PROVE_AFFINITY_AT_LENGTH=1 exec cargo test --locked --test it -- --nocapture affinity::share
