#!/usr/bin/env bash
# Builds the image from the Dockerfile, runs it as Cloud Run would (read-only, no root, 512 MiB), and prints
# size, start time and memory. Not part of the tests: the first build takes a quarter of an hour.
# `--build` and `--measure` do one half of it.
#
# No registry is asked: stand-ins for the base images are made on the spot, a Debian with this
# machine's Rust in it, and for distroless the few files of a Debian that a program in C needs.
# RUST_IMAGE and RUNTIME_IMAGE name real ones instead.
#
# Needs root, and of Debian: buildah podman runc debootstrap curl; and Rust.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

for tool in buildah podman runc debootstrap curl cargo rustc; do
    if ! command -v "$tool" >/dev/null; then
        echo "image.sh: $tool is missing" >&2
        exit 1
    fi
done
if [[ $(id -u) != 0 ]]; then
    echo "image.sh: must be root, for the stand-ins are made with debootstrap" >&2
    exit 1
fi

work=$PWD/target/image
mkdir -p "$work"
rust_image=${RUST_IMAGE:-localhost/tollgate-rust-stand-in}
runtime_image=${RUNTIME_IMAGE:-localhost/tollgate-runtime-stand-in}
image=localhost/tollgate:measured
container=
model_server=

finish() {
    [[ -z $model_server ]] || kill "$model_server" 2>/dev/null || true
    [[ -z $container ]] || podman rm --force --time 0 "$container" >/dev/null 2>&1 || true
}
trap finish EXIT

# from_folder NAME FOLDER BUILDAH-CONFIG-OPTIONS...: an image of one layer.
from_folder() {
    local name=$1 folder=$2 made
    shift 2
    made=$(buildah from scratch)
    buildah add --quiet "$made" "$folder" / >/dev/null
    buildah config "$@" "$made"
    buildah commit --quiet --rm "$made" "$name" >/dev/null
}

make_rust_image() {
    local folder=$work/rust
    echo "== stand-in for the Rust image"
    rm -rf "$folder"
    debootstrap --variant=minbase --include=gcc,libc6-dev,ca-certificates bookworm "$folder" >"$work/debootstrap.log"
    mkdir -p "$folder/usr/local/rust" "$folder/cargo/registry"
    (cd "$(rustc --print sysroot)" && tar cf - --exclude=./share bin lib) | tar xf - -C "$folder/usr/local/rust"
    # What the build needs of crates is mounted, so it asks no network.
    from_folder "$rust_image" "$folder" --env CARGO_HOME=/cargo --env CARGO_NET_OFFLINE=true \
        --env PATH=/usr/local/rust/bin:/usr/bin:/bin
}

make_runtime_image() {
    local folder=$work/runtime file
    echo "== stand-in for distroless"
    rm -rf "$folder"
    mkdir -p "$folder/etc/ssl/certs" "$folder/lib64" "$folder/tmp"
    for file in ld-linux-x86-64.so.2 libc.so.6 libm.so.6 libgcc_s.so.1 libdl.so.2 libpthread.so.0 librt.so.1 \
        libresolv.so.2 libnss_dns.so.2 libnss_files.so.2; do
        install -D --mode 755 "$(realpath "/lib/x86_64-linux-gnu/$file")" "$folder/lib/x86_64-linux-gnu/$file"
    done
    ln -s ../lib/x86_64-linux-gnu/ld-linux-x86-64.so.2 "$folder/lib64/ld-linux-x86-64.so.2"
    cp /etc/ssl/certs/ca-certificates.crt "$folder/etc/ssl/certs/"
    printf 'root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532::/nonexistent:/sbin/nologin\n' >"$folder/etc/passwd"
    from_folder "$runtime_image" "$folder" --user 65532
}

build() {
    echo "== building"
    cargo fetch --locked --quiet
    nice -n 15 buildah build --isolation chroot --layers --quiet --tag "$image" \
        --build-arg "RUST_IMAGE=$rust_image" --build-arg "RUNTIME_IMAGE=$runtime_image" \
        --volume "${CARGO_HOME:-$HOME/.cargo}/registry:/cargo/registry" .
}

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# await URL: milliseconds until it answers.
await() {
    local begun=$1 i
    for ((i = 0; i < 3000; i++)); do
        if curl --silent --fail --output /dev/null --max-time 1 "$2"; then
            echo $((($(date +%s%N) - begun) / 1000000))
            return
        fi
        sleep 0.01
    done
    echo "image.sh: nothing answers at $2" >&2
    podman logs "$container" >&2
    return 1
}

memory() {
    awk '/^VmRSS|^VmHWM/ { printf "%s %.1f MiB  ", $1, $2 / 1024 }' "/proc/$1/status"
    echo
}

check() {
    if [[ $2 == "$3" ]]; then
        echo "ok    $1: $2"
    else
        echo "FAIL  $1: $2, wanted $3"
        exit 1
    fi
}

measure() {
    local upstream port key begun pid ended
    echo "== running it: read-only, without capabilities, 512 MiB, one CPU"
    cargo build --locked --quiet --example model_server --bin tollgate
    upstream=$(free_port)
    target/debug/examples/model_server --port "$upstream" --model tiny --max-model-len 32768 >/dev/null &
    model_server=$!
    rm -f "$work/keys.json"
    key=$(target/debug/tollgate keys add image --file "$work/keys.json")
    chmod 644 "$work/keys.json"
    port=$(free_port)
    begun=$(date +%s%N)
    container=$(podman --runtime runc run --detach --network host --read-only --read-only-tmpfs=false \
        --ulimit nofile=10000:10000 --ulimit nproc=4096:4096 --memory 512m --memory-swap 512m --cpus 1 --cap-drop all --security-opt no-new-privileges \
        --volume "$work/keys.json:/keys.json:ro" \
        --env K_SERVICE=tollgate --env K_REVISION=tollgate-00001 --env "PORT=$port" --env API_KEYS_FILE=/keys.json \
        --env USAGE_SINK=stdout --env GCP_PROJECT=measured --env "VLLM_ENDPOINT=http://127.0.0.1:$upstream" "$image")
    echo "started and ready after: $(await "$begun" "http://127.0.0.1:$port/ready") ms (with podman's own work)"
    pid=$(podman inspect --format '{{.State.Pid}}' "$container")
    check "user" "$(awk '/^Uid/ { print $2 }' "/proc/$pid/status")" 65532
    check "root file system" "$(awk '$5 == "/" { print substr($6, 1, 2) }' "/proc/$pid/mountinfo")" ro
    check "memory limit" "$(of_cgroup "$pid" memory.max memory.limit_in_bytes)" 536870912
    check "capabilities" "$(awk '/^CapEff/ { print $2 }' "/proc/$pid/status")" 0000000000000000
    echo "idle:  $(memory "$pid")"
    API_KEY=$key scripts/smoke.sh "http://127.0.0.1:$port"
    load "http://127.0.0.1:$port" "$key"
    echo "loaded: $(memory "$pid")"
    echo "peak charged to the container (pages of the program itself are not): $(($(of_cgroup "$pid" memory.peak memory.max_usage_in_bytes) / 1048576)) MiB"
    begun=$(date +%s%N)
    podman stop --time 10 "$container" >/dev/null
    ended=$((($(date +%s%N) - begun) / 1000000))
    check "exit code after SIGTERM ($ended ms)" "$(podman inspect --format '{{.State.ExitCode}}' "$container")" 0
}

# A thousand streams, fifty at a time.
load() {
    (umask 077 && printf 'header = "X-API-Key: %s"\n' "$2" >"$work/curl")
    seq 1000 | xargs -P 50 -I '{}' curl --config "$work/curl" --silent --output /dev/null --write-out '%{http_code}\n' \
        --header 'Content-Type: application/json' --data \
        '{"model":"opencode-llm","stream":true,"max_tokens":64,"messages":[{"role":"user","content":"Hello {}"}]}' \
        "$1/v1/chat/completions" | sort | uniq -c
}

# of_cgroup PID NAME NAME-IN-VERSION-1: what the kernel says of the container's memory.
of_cgroup() {
    local path
    path=$(awk -F: '$2 == "memory" { print $3 }' "/proc/$1/cgroup")
    if [[ -n $path ]]; then
        cat "/sys/fs/cgroup/memory$path/$3"
    else
        cat "/sys/fs/cgroup$(awk -F: '$1 == 0 { print $3 }' "/proc/$1/cgroup")/$2"
    fi
}

mb() {
    podman inspect --format '{{.Size}}' "$1" | awk '{ printf "%.1f MB", $1 / 1e6 }'
}

if [[ ${1:-} != --measure ]]; then
    if [[ -z ${RUST_IMAGE:-} ]] && ! buildah inspect "$rust_image" >/dev/null 2>&1; then
        make_rust_image
    fi
    if [[ -z ${RUNTIME_IMAGE:-} ]] && ! buildah inspect "$runtime_image" >/dev/null 2>&1; then
        make_runtime_image
    fi
    build
fi
echo "image: $(mb "$image"), of these the base $(mb "$runtime_image")"
if [[ ${1:-} != --build ]]; then
    measure
fi
