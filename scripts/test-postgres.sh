#!/usr/bin/env bash
# Runs a command with TOLLGATE_TEST_POSTGRES set to a Postgres server for tests, which lives as long
# as the command. The server is Debian's, installed here if it is missing and that is allowed; where
# there is none, the command runs without, and tests say what they skip.
#
#   scripts/test-postgres.sh COMMAND [ARGUMENT...]
set -euo pipefail

programs() {
    local newest
    newest=$(printf '%s\n' /usr/lib/postgresql/*/bin/initdb | sort --version-sort | tail -n 1)
    [[ -x $newest ]] && dirname "$newest"
}

install() {
    local -a as_root=()
    command -v apt-get >/dev/null || return 1
    if [[ $EUID -ne 0 ]]; then
        command -v sudo >/dev/null && sudo --non-interactive true 2>/dev/null || return 1
        as_root=(sudo --non-interactive)
    fi
    echo "installing postgresql"
    "${as_root[@]}" apt-get update --quiet >/dev/null &&
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
            apt-get install --yes --quiet --no-install-recommends postgresql >/dev/null
}

# The server's programs refuse to be run by root.
as_server=()
[[ $EUID -ne 0 ]] || as_server=(setpriv --reuid=postgres --regid=postgres --clear-groups)

if ! bin=$(programs) && ! { install && bin=$(programs); }; then
    echo "skipped: tests on Postgres: it is not installed and cannot be (apt-get install postgresql)"
    exec "$@"
fi

folder=$(mktemp --directory --tmpdir tollgate-pg-XXXXXX)
chmod 755 "$folder"
[[ $EUID -ne 0 ]] || chown postgres:postgres "$folder"
server=
stop() {
    if [[ -n $server ]]; then
        kill -QUIT "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    fi
    rm -rf "$folder"
}
trap stop EXIT

# A socket in the folder, no port; what is lost in a crash may be lost.
cd_run=(env --chdir="$folder" "${as_server[@]}")
"${cd_run[@]}" "$bin/initdb" --no-sync --no-instructions --auth=trust --encoding=UTF8 --locale=C \
    --wal-segsize=1 --username=postgres -D "$folder/data" >/dev/null
"${cd_run[@]}" "$bin/postgres" -D "$folder/data" -c fsync=off -c listen_addresses= \
    -c max_connections=200 -c "unix_socket_directories=$folder" >"$folder/log" 2>&1 &
server=$!
for _ in {1..300}; do
    "$bin/pg_isready" --quiet --host="$folder" && break
    if ! kill -0 "$server" 2>/dev/null; then
        cat "$folder/log"
        exit 1
    fi
    sleep 0.1
done

TOLLGATE_TEST_POSTGRES="postgres://postgres@localhost/postgres?host=$folder" "$@"
