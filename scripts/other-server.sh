#!/usr/bin/env bash
# Runs a real model server that is not vLLM, with a small model that knows by heart what the client
# tests ask for. Needs python3 (3.10 or later) and what PyPI holds; llama-cpp-python is compiled, so
# g++, too. Everything goes below target/servers.
#
#   scripts/other-server.sh llama.cpp [PORT [KEY]]          llama.cpp's own server
#   scripts/other-server.sh llama-cpp-python [PORT [KEY]]   the Python server over the same library
#   scripts/other-server.sh test llama.cpp|llama-cpp-python starts it, a gateway before it, and
#                                                           scripts/test-clients.sh before both
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cache=$PWD/target/servers
model=$cache/by-heart.gguf
name=by-heart/tide
context=32768

usage() {
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
    exit 64
}

# install NAME: a virtual environment from tests/servers/requirements-NAME.txt.
install() {
    local from=tests/servers/requirements-$1.txt to=$cache/$1
    [[ -f $to/.installed && $(cat "$to/.installed") == "$(cksum <"$from")" ]] && return 0
    rm -rf "$to"
    mkdir -p "$cache"
    echo "installing $from" >&2
    python3 -m venv "$to"
    # Plain x86-64 or ARM, so that it runs on whatever machine the cache comes to.
    CMAKE_BUILD_PARALLEL_LEVEL=${CMAKE_BUILD_PARALLEL_LEVEL:-2} CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_OPENMP=OFF -DLLAMA_CURL=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAVA_BUILD=OFF" \
        "$to/bin/pip" install --quiet --disable-pip-version-check --requirement "$from" >&2
    cksum <"$from" >"$to/.installed"
}

make_model() {
    install llama-cpp
    [[ -f $model && $model -nt tests/servers/make_gguf.py && $model -nt tests/servers/template.jinja ]] && return 0
    "$cache/llama-cpp/bin/python" tests/servers/make_gguf.py "$model.new" docs src >&2
    mv "$model.new" "$model"
}

# run MAKE PORT [KEY]: becomes the server.
run() {
    local make=$1 port=$2 key=${3:-}
    make_model
    case $make in
    llama.cpp)
        exec "$cache/llama-cpp/bin/python" tests/servers/llama_cpp.py "$model" "$port" "$name" ${key:+"$key"}
        ;;
    llama-cpp-python)
        install llama-cpp-python
        exec "$cache/llama-cpp-python/bin/python" -m llama_cpp.server --model "$model" --model_alias "$name" \
            --host 127.0.0.1 --port "$port" --n_ctx "$context" --n_threads 1 --n_threads_batch 1 ${key:+--api_key "$key"}
        ;;
    *) usage ;;
    esac
}

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

await_http() {
    local i
    for ((i = 0; i < 600; i++)); do
        curl --silent --fail --output /dev/null --max-time 2 "$1" && return 0
        kill -0 "$2" 2>/dev/null || break
        sleep 0.1
    done
    echo "nothing answers at $1" >&2
    tail -n 20 "$3" >&2
    return 1
}

children=()
finish() {
    local pid
    for pid in ${children[@]+"${children[@]}"}; do
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    rm -rf "$work"
}

# try MAKE: the clients' tests through a gateway in front of it.
try() {
    local make=$1 port upstream key limited tollgate=${TOLLGATE_BIN:-target/debug/tollgate}
    [[ $make == llama.cpp || $make == llama-cpp-python ]] || usage
    make_model
    [[ $make == llama.cpp ]] || install llama-cpp-python
    [[ -n ${TOLLGATE_BIN:-} ]] || cargo build --locked --quiet --bin tollgate
    tollgate=$(realpath "$tollgate")
    work=$(mktemp -d)
    trap finish EXIT
    port=$(free_port)
    upstream=http://127.0.0.1:$port
    "$0" "$make" "$port" >"$work/server.log" 2>&1 &
    children+=($!)
    await_http "$upstream/v1/models" $! "$work/server.log"
    key=$("$tollgate" keys add clients --file "$work/keys.json")
    limited=$("$tollgate" keys add limited --token-limit 3000 --file "$work/keys.json")
    port=$(free_port)
    (cd "$work" && exec env PORT="$port" VLLM_ENDPOINT="$upstream" API_KEYS_FILE="$work/keys.json" \
        DATA_DIR="$work/data" "$tollgate" serve) >"$work/gateway.log" 2>&1 &
    children+=($!)
    await_http "http://127.0.0.1:$port/health" $! "$work/gateway.log"
    BASE_URL=http://127.0.0.1:$port/v1 API_KEY=$key LIMITED_KEY=$limited UPSTREAM=$upstream MODEL=$name \
        scripts/test-clients.sh
}

case ${1:-} in
test) try "${2:-}" ;;
llama.cpp | llama-cpp-python) run "$1" "${2:-8001}" "${3:-}" ;;
*) usage ;;
esac
