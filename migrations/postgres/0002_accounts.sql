-- The tables of ../sqlite/0002_accounts.sql, where they are described.
CREATE VIEW clock AS SELECT CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS BIGINT) AS now_ms;

CREATE TABLE settings (
    name  TEXT NOT NULL PRIMARY KEY,
    value BYTEA NOT NULL
);

CREATE TABLE users (
    id              BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name            TEXT COLLATE "C" NOT NULL UNIQUE,
    password_hash   TEXT NOT NULL,
    token_limit     BIGINT NOT NULL,
    limit_is_admins BOOLEAN NOT NULL,
    is_disabled     BOOLEAN NOT NULL,
    generation      BIGINT NOT NULL,
    created_at_ms   BIGINT NOT NULL,
    key_prefix      TEXT NOT NULL
);

CREATE TABLE user_keys (
    hash          BYTEA NOT NULL PRIMARY KEY,
    user_id       BIGINT NOT NULL,
    added_at_ms   BIGINT NOT NULL,
    expires_at_ms BIGINT
);
CREATE INDEX user_keys_user_id ON user_keys (user_id);

CREATE TABLE refresh_tokens (
    hash          BYTEA NOT NULL PRIMARY KEY,
    user_id       BIGINT NOT NULL,
    family        TEXT NOT NULL,
    expires_at_ms BIGINT NOT NULL,
    used_at_ms    BIGINT
);
CREATE INDEX refresh_tokens_user_id ON refresh_tokens (user_id, family);

-- One row per budget and period; used and leased are tokens.
CREATE TABLE budgets (
    owner           TEXT NOT NULL,
    period_start_ms BIGINT NOT NULL,
    used            BIGINT NOT NULL CHECK (used >= 0),
    leased          BIGINT NOT NULL CHECK (leased >= 0),
    alerted         BIGINT NOT NULL,
    alerted_limit   BIGINT NOT NULL,
    PRIMARY KEY (owner, period_start_ms)
);

-- Of a lease in force, tokens are what it still holds; of a charged one, what was charged and is not
-- accounted for. settled is what was used on it.
CREATE TABLE leases (
    id              TEXT NOT NULL PRIMARY KEY,
    owner           TEXT NOT NULL,
    period_start_ms BIGINT NOT NULL,
    tokens          BIGINT NOT NULL CHECK (tokens >= 0),
    settled         BIGINT NOT NULL CHECK (settled >= 0),
    is_charged      BOOLEAN NOT NULL,
    number          BIGINT NOT NULL,
    granted         BIGINT NOT NULL,
    passed          BIGINT NOT NULL,
    expires_at_ms   BIGINT NOT NULL
);
CREATE INDEX leases_budget ON leases (owner, period_start_ms, is_charged, expires_at_ms);
CREATE INDEX leases_expires_at_ms ON leases (expires_at_ms);

CREATE TABLE budget_days (
    owner             TEXT NOT NULL,
    day_ms            BIGINT NOT NULL,
    requests          BIGINT NOT NULL,
    prompt_tokens     BIGINT NOT NULL,
    completion_tokens BIGINT NOT NULL,
    PRIMARY KEY (owner, day_ms)
);
