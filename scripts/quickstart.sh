#!/usr/bin/env bash
# Builds Tollgate, makes a first key, and serves on this machine with the embedded defaults.
# Needs Rust and a C compiler. Settings come from the environment or ./.env, as they do for the
# program: PORT, VLLM_ENDPOINT, DATA_DIR and the others of docs/configuration.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The value of a setting in ./.env; empty if it is not there.
in_file() {
    if [[ -f .env ]]; then
        sed -nE "s/^(export )?$1=[\"']?([^\"'#]*[^\"'# ]).*/\2/p" .env | tail -n 1
    fi
}

port=${PORT:-$(in_file PORT)}
port=${port:-8000}
set_endpoint=${VLLM_ENDPOINT:-$(in_file VLLM_ENDPOINT)}
endpoint=${set_endpoint:-http://127.0.0.1:8001}
bin=${CARGO_TARGET_DIR:-target}/release
model_server=""

stop_model_server() {
    if [[ -n $model_server ]]; then
        kill "$model_server" 2>/dev/null || true
    fi
}
trap stop_model_server EXIT

for tool in cargo cc; do
    if ! command -v "$tool" >/dev/null; then
        echo "quickstart: $tool is missing; install Rust (https://rustup.rs) and a C compiler first" >&2
        exit 1
    fi
done

# Whether something listens at the first of the endpoints.
listens() {
    local address=${endpoint%%,*}
    address=${address#*://}
    address=${address%%/*}
    local host=${address%:*} number=${address##*:}
    if [[ $address != *:* ]]; then
        number=80
        [[ $endpoint == https://* ]] && number=443
    fi
    (exec 3<>"/dev/tcp/$host/$number") 2>/dev/null
}

if listens; then
    echo "== building (the first time takes some minutes)"
    cargo build --release --locked --bin tollgate
elif [[ -n $set_endpoint && $set_endpoint != http://127.0.0.1:8001 ]]; then
    echo "quickstart: nothing listens at $endpoint; start the model server or unset VLLM_ENDPOINT" >&2
    exit 1
else
    echo "== nothing listens at $endpoint: building a scripted model server besides (some minutes)"
    cargo build --release --locked --bin tollgate --example model_server
    "$bin/examples/model_server" --port 8001 --model scripted-model --max-model-len 32768 --agent >/dev/null &
    model_server=$!
    echo "   It stands in for vLLM so that you can try everything else. It is a script, not a model:"
    echo "   its answers mean nothing. For real ones start vLLM on port 8001 and run this again."
fi

key="YOUR_KEY"
if "$bin/tollgate" keys list --json | grep -q '"name"'; then
    echo "== using the keys made earlier (tollgate keys list); a key is shown only once"
    echo "   another one: $bin/tollgate keys add NAME"
else
    echo "== making a first key, with admin rights"
    key=$("$bin/tollgate" keys add me --admin)
fi

cat <<TEXT

Try it, in another terminal:

  curl http://localhost:$port/v1/chat/completions -H "Authorization: Bearer $key" \\
    -H "Content-Type: application/json" \\
    -d '{"model": "opencode-llm", "messages": [{"role": "user", "content": "Hello!"}]}'

For OpenCode put this into opencode.json, and 'export TOLLGATE_API_KEY=$key' into your shell:

  {
    "\$schema": "https://opencode.ai/config.json",
    "provider": {
      "tollgate": {
        "npm": "@ai-sdk/openai-compatible",
        "name": "Tollgate",
        "options": {"baseURL": "http://localhost:$port/v1", "apiKey": "{env:TOLLGATE_API_KEY}"},
        "models": {"opencode-llm": {"name": "My model"}}
      }
    }
  }

What was used:  $bin/tollgate usage
Stop:           Ctrl-C

TEXT
"$bin/tollgate" serve
