#!/usr/bin/env bash
# Lets real clients work through a gateway: the official SDKs of Python and Node, the AI SDK,
# and OpenCode. Installs the pinned clients under target/clients, builds and starts the project's
# model server and a gateway, on free ports. What cannot be tried here is named.
#
#   scripts/test-clients.sh
#   BASE_URL=http://127.0.0.1:8000/v1 API_KEY=sk-... UPSTREAM=http://127.0.0.1:8001 \
#       MODEL=... scripts/test-clients.sh        against servers that are running already
#
# LIMITED_KEY, beside API_KEY, is a key with a token budget that may be used up. TOLLGATE_BIN and MODEL_SERVER_BIN name binaries to use in place of a debug build.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

root=$PWD
cache=$root/target/clients
work=$(mktemp -d)
# A name with a slash, and the one that an early guide has in its opencode.json.
model=${MODEL:-deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B}
body_limit_bytes=262144
passed=0
failed=0
skipped=()
children=()
gateway_pid=
limited_key=${LIMITED_KEY:-}

finish() {
    local pid
    for pid in ${children[@]+"${children[@]}"}; do
        kill "$pid" 2>/dev/null || true
    done
    for pid in ${children[@]+"${children[@]}"}; do
        wait "$pid" 2>/dev/null || true
    done
    rm -rf "$work"
}
trap finish EXIT

say() { printf '%s\n' "$*"; }

skip() {
    say "-- skipped: $*"
    skipped+=("$*")
}

# bounded SECONDS COMMAND...: never waits longer than that.
bounded() {
    if command -v timeout >/dev/null; then
        timeout --kill-after=5 "$@"
    else
        shift
        "$@"
    fi
}

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])' 2>/dev/null ||
        node -e 'const s = require("net").createServer().listen(0, "127.0.0.1", () => { console.log(s.address().port); s.close(); })'
}

# await_http URL PID LOG: until it answers; the log is shown if it does not.
await_http() {
    local i
    for ((i = 0; i < 200; i++)); do
        if curl --silent --fail --output /dev/null --max-time 2 "$1"; then
            return 0
        fi
        kill -0 "$2" 2>/dev/null || break
        sleep 0.1
    done
    say "nothing answers at $1"
    cat "$3"
    return 1
}

# up_to_date FOLDER FILES...: whether FOLDER was installed from exactly these files.
up_to_date() {
    local folder=$1
    shift
    [[ -f $folder/.installed && $(cat "$folder/.installed") == "$(cat "$@" | cksum)" ]]
}

# install_node NAME: puts the pinned packages of tests/clients/NAME into the cache.
install_node() {
    local from=tests/clients/$1 to=$cache/$1
    mkdir -p "$to"
    cp -R "$from"/*.mjs "$from"/package.json "$from"/package-lock.json "$from"/.npmrc "$to"
    [[ ! -d $from/seeds ]] || cp -R "$from/seeds" "$to"
    up_to_date "$to" "$from/package.json" "$from/package-lock.json" && return 0
    rm -rf "$to/node_modules" "$to/.installed"
    say "installing the packages of $from"
    # Not `npm ci`: it wants every platform's optional package in the lock file.
    (cd "$to" && bounded 180 npm install --no-save --ignore-scripts >"$work/npm.log" 2>&1) || {
        tail -n 5 "$work/npm.log"
        return 1
    }
    cat "$from/package.json" "$from/package-lock.json" | cksum >"$to/.installed"
}

install_python() {
    local from=tests/clients/python/requirements.txt to=$cache/python
    up_to_date "$to" "$from" && return 0
    rm -rf "$to"
    mkdir -p "$cache"
    say "installing $from"
    { python3 -m venv "$to" &&
        bounded 180 "$to/bin/pip" install --quiet --disable-pip-version-check --requirement "$from"; } \
        >"$work/pip.log" 2>&1 || {
        tail -n 5 "$work/pip.log"
        return 1
    }
    cksum <"$from" >"$to/.installed"
}

# count NAME PASSED FAILED STATUS: a run that failed without a failed test counts as one.
count() {
    passed=$((passed + $2))
    failed=$((failed + $3))
    if [[ $4 -ne 0 && $3 -eq 0 ]]; then
        say "FAIL $1 ended with status $4"
        failed=$((failed + 1))
    fi
}

run_python() {
    local status=0 ok=0 bad=0
    say "== Python SDK"
    bounded 120 "$cache/python/bin/python" -B tests/clients/python/sdk_test.py \
        --base-url "$base_url" --key "$key" --model "$model" ${upstream_option[@]+"${upstream_option[@]}"} \
        --weather-prompt "$weather_prompt" --body-limit-bytes "$body_limit_bytes" --limited-key "$limited_key" |
        tee "$work/python.log" || status=$?
    read -r ok bad < <(sed -n 's/^python sdk .*: \([0-9]*\) passed, \([0-9]*\) failed$/\1 \2/p' "$work/python.log") || true
    count "the Python SDK" "${ok:-0}" "${bad:-0}" "$status"
}

# run_node NAME SECONDS FILE: one file of node's own test runner.
run_node() {
    local status=0 tap=$work/$1.tap
    bounded "$2" node --test --test-reporter=spec --test-reporter-destination=stdout \
        --test-reporter=tap --test-reporter-destination="$tap" "$3" || status=$?
    printf '%s %s %s\n' "$(tap_total "$tap" pass)" "$(tap_total "$tap" fail)" "$status" >"$work/$1.totals"
}

tap_total() {
    local total
    total=$(sed -n "s/^# $2 \([0-9]*\)$/\1/p" "$1" 2>/dev/null | tail -n 1)
    say "${total:-0}"
}

count_node() {
    local ok bad status
    read -r ok bad status <"$work/$1.totals"
    count "$1" "$ok" "$bad" "$status"
}

start_servers() {
    local port pid
    if [[ -z ${TOLLGATE_BIN:-} || -z ${MODEL_SERVER_BIN:-} ]]; then
        say "building the gateway and the model server"
        cargo build --locked --quiet --bin tollgate --example model_server
        : "${TOLLGATE_BIN:=$root/target/debug/tollgate}" "${MODEL_SERVER_BIN:=$root/target/debug/examples/model_server}"
    fi
    port=$(free_port)
    # As older vLLMs do, it refuses a prompt and a maximum that exceed the context together.
    "$MODEL_SERVER_BIN" --port "$port" --model "$model" --max-model-len 32768 --refuse-overflow \
        >"$work/model-server.log" 2>&1 &
    pid=$!
    children+=("$pid")
    UPSTREAM=http://127.0.0.1:$port
    await_http "$UPSTREAM/health" "$pid" "$work/model-server.log"

    key=$("$TOLLGATE_BIN" keys add clients --file "$work/keys.json")
    limited_key=$("$TOLLGATE_BIN" keys add limited --token-limit 3000 --file "$work/keys.json")
    port=$(free_port)
    (cd "$work" && exec env PORT="$port" VLLM_ENDPOINT="$UPSTREAM" API_KEYS_FILE="$work/keys.json" \
        DATA_DIR="$work/data" MAX_BODY_BYTES="$body_limit_bytes" "$TOLLGATE_BIN" serve) \
        >"$work/gateway.log" 2>&1 &
    gateway_pid=$!
    children+=("$gateway_pid")
    base_url=http://127.0.0.1:$port/v1
    await_http "http://127.0.0.1:$port/health" "$gateway_pid" "$work/gateway.log"
}

stop_gateway() {
    local status=0
    kill -TERM "$gateway_pid" 2>/dev/null || true
    wait "$gateway_pid" || status=$?
    if [[ $status -eq 0 ]]; then
        say "ok   the gateway ended by itself after SIGTERM"
        passed=$((passed + 1))
    else
        say "FAIL the gateway ended with status $status after SIGTERM"
        failed=$((failed + 1))
    fi
}

# calls_tools: whether the model server gives a tool call back as one. vLLM has to; of other makes some
# hand the text on.
calls_tools() {
    [[ -n ${UPSTREAM:-} ]] || return 0
    ! curl --silent --fail --output /dev/null --max-time 10 "$UPSTREAM/version" || return 0
    curl --silent --max-time 30 -H "X-API-Key: $key" -H 'Content-Type: application/json' "$base_url/chat/completions" \
        -d '{"model": "'"$model"'", "max_tokens": 100, "messages": [{"role": "user", "content": "'"$weather_prompt"'"}],
            "tools": [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"type": "string"}}, "required": ["city", "unit"]}}}]}' |
        grep --quiet '"tool_calls": *\['
}

if ! command -v python3 >/dev/null && ! command -v node >/dev/null; then
    say "skipped: all clients: neither python3 nor node is installed"
    say "0 passed, 0 failed"
    exit 0
fi
if ! command -v curl >/dev/null; then
    say "scripts/test-clients.sh: curl is missing" >&2
    exit 1
fi

if [[ -n ${BASE_URL:-} ]]; then
    base_url=$BASE_URL
    key=${API_KEY:?API_KEY is to go with BASE_URL}
    body_limit_bytes=${BODY_LIMIT_BYTES:-33554432}
    weather_prompt=${WEATHER_PROMPT:-What is the weather like in Paris?}
    turn_prompt=${TURN_PROMPT:-Write a note about the tide, count its bytes, and read it back.}
else
    start_servers
    # Directives to the project's model server.
    weather_prompt='What is the weather like in Paris? [[call=get_weather]]'
    turn_prompt='Write a note and read it back. [[agent]]'
fi
upstream_option=()
if [[ -n ${UPSTREAM:-} ]]; then
    upstream_option=(--upstream "$UPSTREAM")
fi
export BASE_URL=$base_url API_KEY=$key MODEL=$model BODY_LIMIT_BYTES=$body_limit_bytes UPSTREAM=${UPSTREAM:-}
export LIMITED_KEY=$limited_key
export WEATHER_PROMPT=$weather_prompt PROMPT=$turn_prompt
say "clients speak to $base_url, model $model"

node_works=false
if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
    skip "Node SDK, AI SDK, OpenCode: node or npm is not installed"
elif ! node -e 'const [a, b] = process.versions.node.split(".").map(Number); process.exit(a > 20 || (a === 20 && b >= 11) ? 0 : 1)'; then
    skip "Node SDK, AI SDK, OpenCode: node $(node --version) is older than 20.11"
else
    node_works=true
fi

# Takes over a minute, most of it OpenCode's own pauses: beside the others.
loop_pid=
opencode_works=false
if $node_works; then
    if ! install_node opencode; then
        skip "OpenCode: its package could not be installed"
    elif ! (cd "$cache/opencode" && node -e 'import("./opencode.mjs").then((it) => process.exit(it.findBinary() ? 0 : 1))'); then
        skip "OpenCode: there is no binary for this platform"
    else
        opencode_works=true
    fi
fi
if $opencode_works && [[ -z ${TOLLGATE_BIN:-} ]]; then
    skip "the endless-loop test: TOLLGATE_BIN does not name a gateway to start"
elif $opencode_works; then
    (export TOLLGATE_BIN && run_node loop 180 "$cache/opencode/loop_test.mjs") >"$work/loop.log" 2>&1 &
    loop_pid=$!
    children+=("$loop_pid")
fi

if ! command -v python3 >/dev/null; then
    skip "Python SDK: python3 is not installed"
elif install_python; then
    run_python
else
    skip "Python SDK: it could not be installed"
fi

if $node_works && install_node node; then
    say "== Node SDK"
    run_node node-sdk 120 "$cache/node/sdk_test.mjs"
    count_node node-sdk
    say "== AI SDK"
    run_node ai-sdk 120 "$cache/node/ai_sdk_test.mjs"
    count_node ai-sdk
elif $node_works; then
    skip "Node SDK, AI SDK: the packages could not be installed"
fi

if $opencode_works; then
    if calls_tools; then
        say "== OpenCode: turns"
    else
        skip "OpenCode's turns: the model server parses no tool calls"
        opencode_works=false
    fi
fi
if $opencode_works; then
    run_node turns 400 "$cache/opencode/turn_test.mjs"
    count_node turns
    if [[ -n ${TOLLGATE_BIN:-} ]]; then
        say "== OpenCode: the configuration that the gateway's program prints"
        (export TOLLGATE_BIN && run_node config 200 "$cache/opencode/config_test.mjs")
        count_node config
    else
        skip "OpenCode with the printed configuration: TOLLGATE_BIN does not name the program"
    fi
    if [[ -n ${TOLLGATE_BIN:-} && -n $gateway_pid ]]; then
        say "== OpenCode: token budgets"
        (export TOLLGATE_BIN && run_node budgets 150 "$cache/opencode/budget_test.mjs")
        count_node budgets
    else
        skip "OpenCode's turns on a budget: they need a gateway and a model server of this project"
    fi
fi
if [[ -n $loop_pid ]]; then
    say "== OpenCode: streams that do not end properly"
    wait "$loop_pid" || true
    cat "$work/loop.log"
    count_node loop
fi

if [[ -n $gateway_pid ]]; then
    say "== Gateway"
    stop_gateway
fi
if [[ $failed -ne 0 && -f $work/gateway.log ]]; then
    say "== last lines of the gateway's log"
    tail -n 20 "$work/gateway.log"
fi
for reason in ${skipped[@]+"${skipped[@]}"}; do
    say "skipped: $reason"
done
say "$passed passed, $failed failed"
[[ $failed -eq 0 ]]
