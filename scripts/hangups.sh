#!/usr/bin/env bash
# Prints how long it takes until the model server knows that a client has left (aim: 100 ms).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec cargo test --locked --test it hangups:: -- --nocapture
