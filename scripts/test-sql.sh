#!/usr/bin/env bash
# Runs the SQL of sql/ on made data. The pinned translator and database come into target/sql-venv;
# the fake of BigQuery in tests/it uses them too.
#
#   scripts/test-sql.sh             installs what is missing, then runs tests/sql
#   scripts/test-sql.sh --install   installs only
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=target/sql-venv
requirements=tests/sql/requirements.txt

install() {
    local log
    [[ -f $venv/.installed && $(cat "$venv/.installed") == "$(cksum <"$requirements")" ]] && return 0
    rm -rf "$venv"
    mkdir -p target
    log=$(mktemp)
    echo "installing $requirements"
    if ! { python3 -m venv "$venv" &&
        "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$requirements"; } >"$log" 2>&1; then
        tail -n 5 "$log"
        rm -f "$log"
        return 1
    fi
    rm -f "$log"
    cksum <"$requirements" >"$venv/.installed"
}

if ! command -v python3 >/dev/null; then
    echo "skipped: SQL tests: python3 is not installed"
    exit 0
fi
if ! install; then
    echo "skipped: SQL tests: $requirements could not be installed"
    exit 0
fi
[[ ${1:-} != --install ]] || exit 0

exec "$venv/bin/python" -B -m unittest discover --start-directory tests/sql --pattern '*_test.py' "$@"
