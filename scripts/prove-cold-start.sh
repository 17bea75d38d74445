#!/usr/bin/env bash
# Proves what a cold start looks like to many clients: 200 of them, streams and plain calls, and
# OpenCode arrive at a model server that sleeps. Prints a table of answers, waits and of what the
# server saw. Then the same with one that never comes.
#
#   scripts/prove-cold-start.sh [SECONDS]      what a start takes; 90 if nothing is said
#
# The server is the tests' own stand-in. OpenCode takes part if scripts/test-clients.sh has
# installed it. Takes five times SECONDS and a little.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

seconds=${1:-90}
if [[ $# -gt 1 || ! $seconds =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: scripts/prove-cold-start.sh [SECONDS]" >&2
    exit 64
fi

export PROVE_COLD_START_SECONDS=$seconds
opencode=$PWD/target/clients/opencode
if command -v node >/dev/null && [[ -f $opencode/.installed ]]; then
    cp tests/clients/opencode/*.mjs "$opencode"
    export PROVE_COLD_START_OPENCODE=$opencode
else
    echo "skipped: OpenCode: run scripts/test-clients.sh once to install it"
fi

# One after another: they share these cores.
exec cargo test --locked --test it -- --nocapture --test-threads=1 crowd::
