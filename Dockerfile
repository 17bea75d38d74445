# Builds the gateway. Plain Dockerfile features only (no cache mounts, no here-documents), so that
# Cloud Build, `gcloud run deploy --source .`, docker and old buildahs all build it alike.
# The bases are arguments: pin them by digest, or put your own in their place.
ARG RUST_IMAGE=rust:1.95.0-bookworm
ARG RUNTIME_IMAGE=gcr.io/distroless/cc-debian12:nonroot

# Everything that changes only with Cargo.lock; cloudbuild.yaml keeps this stage as a cache.
# hadolint ignore=DL3006
FROM ${RUST_IMAGE} AS dependencies
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
# An empty program stands in for ours: what is built here is the dependencies.
RUN mkdir -p src benches/gateway \
    && echo 'fn main() {}' > src/main.rs \
    && touch src/lib.rs benches/gateway/main.rs \
    && cargo build --release --locked --bin tollgate

FROM dependencies AS build
COPY src src
COPY migrations migrations
COPY schema schema
# Cargo goes by times, and the files above may be older than the stand-ins were.
RUN touch src/main.rs src/lib.rs \
    && cargo build --release --locked --bin tollgate \
    && mkdir /data

# hadolint ignore=DL3006
FROM ${RUNTIME_IMAGE}
COPY --from=build /src/target/release/tollgate /usr/local/bin/tollgate
COPY --from=build --chown=65532:65532 /data /data
# By number: a name that /etc/passwd lacks would run as root on Cloud Run.
USER 65532:65532
# Cloud Run sets PORT, and nothing is written there. Elsewhere the port is 8000, and the embedded
# files want a volume to outlive the container: `docker run -v tollgate:/data -p 8000:8000 ...`.
ENV HOST=0.0.0.0 DATA_DIR=/data
EXPOSE 8000
ENTRYPOINT ["/usr/local/bin/tollgate"]
