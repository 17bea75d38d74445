#!/usr/bin/env bash
# Measures the gateway beside nginx and beside no proxy at all; docs/performance.md says how.
# Arguments go to the benchmark: scripts/bench.sh --json --repeats 3 --only streams
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ $(uname -s) != Linux ]]; then
    echo "scripts/bench.sh: CPU time and memory are read from /proc, which only Linux has" >&2
    exit 1
fi
if ! command -v nginx >/dev/null && [[ ! -x /usr/sbin/nginx ]]; then
    if [[ $EUID -eq 0 ]] && command -v apt-get >/dev/null; then
        { apt-get update && apt-get install --yes --no-install-recommends nginx-light; } >&2 ||
            echo "scripts/bench.sh: nginx could not be installed" >&2
    else
        echo "scripts/bench.sh: install nginx to compare with it; going on without" >&2
    fi
fi

# The benchmark brings an executable with the features of the tests; what is measured is the one
# that is shipped.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cargo build --locked --release --bin tollgate
cp "${CARGO_TARGET_DIR:-target}/release/tollgate" "$work/tollgate"

cargo bench --locked --bench gateway -- --gateway "$work/tollgate" "$@"
