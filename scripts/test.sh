#!/usr/bin/env bash
# Runs every test. What a test needs is installed here, or it is said what was skipped.
# Arguments go to the test runner: scripts/test.sh config::
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if ! command -v cargo >/dev/null; then
    echo "scripts/test.sh: cargo is missing; install Rust first (rust-toolchain.toml names the version)" >&2
    exit 1
fi
if ! command -v cc >/dev/null; then
    echo "scripts/test.sh: a C compiler is missing; the embedded database is compiled from C" >&2
    exit 1
fi

# The stand-in for BigQuery runs real SQL, with what this installs.
echo "== SQL tests"
if [[ $# -eq 0 ]]; then
    scripts/test-sql.sh
else
    scripts/test-sql.sh --install
fi

echo "== Rust tests"
if cargo nextest --version >/dev/null 2>&1; then
    scripts/test-postgres.sh cargo nextest run --locked --no-fail-fast --no-tests=fail "$@"
else
    scripts/test-postgres.sh cargo test --locked --no-fail-fast "$@"
fi

# The clients are tried as a whole; a filter asks for less.
if [[ $# -eq 0 ]]; then
    echo "== Client tests"
    scripts/test-clients.sh
fi
