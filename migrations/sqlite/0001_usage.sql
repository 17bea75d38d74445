-- One row per settled call. The columns are those of schema/usage.json (a test compares them).
-- Timestamps are microseconds since 1970, UTC; labels are a JSON array of {key, value}.
CREATE TABLE usage (
    request_id        TEXT NOT NULL PRIMARY KEY,
    client_request_id TEXT,
    started_at        BIGINT NOT NULL,
    finished_at       BIGINT NOT NULL,
    principal         TEXT NOT NULL,
    key_name          TEXT,
    key_id            TEXT,
    username          TEXT,
    model             TEXT,
    served_model      TEXT,
    upstream          TEXT NOT NULL,
    endpoint          TEXT NOT NULL,
    stream            BOOLEAN NOT NULL,
    status            BIGINT NOT NULL,
    outcome           TEXT NOT NULL,
    error_code        TEXT,
    prompt_tokens     BIGINT NOT NULL,
    cached_tokens     BIGINT NOT NULL,
    completion_tokens BIGINT NOT NULL,
    total_tokens      BIGINT NOT NULL,
    counted_by        TEXT NOT NULL,
    attempts          BIGINT NOT NULL,
    wait_ms           BIGINT NOT NULL,
    first_byte_ms     BIGINT,
    duration_ms       BIGINT NOT NULL,
    request_bytes     BIGINT NOT NULL,
    response_bytes    BIGINT NOT NULL,
    client            TEXT,
    service           TEXT NOT NULL,
    revision          TEXT NOT NULL,
    instance_id       TEXT NOT NULL,
    region            TEXT NOT NULL,
    labels            TEXT NOT NULL
);

CREATE INDEX usage_started_at ON usage (started_at);
CREATE INDEX usage_key_name ON usage (key_name, started_at);
