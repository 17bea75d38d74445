//! The table of variables: the one list behind the flags of `serve`, the rows of `check`, the known
//! names of `.env` and `docs/configuration.md`. Knows no values.

use std::fmt::Write as _;

/// One variable of the environment.
#[derive(Clone, Copy, Debug)]
pub struct Var {
    pub name: &'static str,
    /// The default as a reader should see it.
    pub default: &'static str,
    pub meaning: &'static str,
    pub kind: Kind,
}

/// What sort of value a variable takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Plain,
    /// `true` or `false`; as a flag the value may be left out.
    Switch,
    /// No flag, stars in every output; `NAME_FILE` names a file that holds the value.
    Secret,
}

impl Var {
    /// The flag of `serve`, without the dashes; `None` for secrets, which a process list would show.
    #[must_use]
    pub fn flag(&self) -> Option<String> {
        (self.kind != Kind::Secret).then(|| self.name.to_ascii_lowercase().replace('_', "-"))
    }
}

/// The table of `docs/configuration.md`; a test compares the two.
#[must_use]
pub fn markdown_table() -> String {
    let mut table = String::from("| variable | default | meaning |\n| --- | --- | --- |\n");
    for var in VARS {
        let note = match var.kind {
            Kind::Secret => " Secret.",
            Kind::Plain | Kind::Switch => "",
        };
        let meaning = var.meaning.replace('|', "\\|");
        let _infallible = writeln!(
            table,
            "| `{}` | `{}` | {meaning}{note} |",
            var.name, var.default
        );
    }
    table
}

const fn plain(name: &'static str, default: &'static str, meaning: &'static str) -> Var {
    Var {
        name,
        default,
        meaning,
        kind: Kind::Plain,
    }
}

const fn switch(name: &'static str, default: &'static str, meaning: &'static str) -> Var {
    Var {
        name,
        default,
        meaning,
        kind: Kind::Switch,
    }
}

const fn secret(name: &'static str, default: &'static str, meaning: &'static str) -> Var {
    Var {
        name,
        default,
        meaning,
        kind: Kind::Secret,
    }
}

/// Every variable that Tollgate reads, in the order of the docs.
pub const VARS: &[Var] = &[
    plain(
        "HOST",
        "127.0.0.1; 0.0.0.0 on Cloud Run",
        "Address to listen on; an IP address or `localhost`.",
    ),
    plain(
        "PORT",
        "8000",
        "Port to listen on; 0 takes any free one. Cloud Run sets it.",
    ),
    plain(
        "VLLM_ENDPOINT",
        "http://127.0.0.1:8001",
        "Base URL of the model server, with or without `/v1`. Several, separated by commas, share the load.",
    ),
    plain(
        "UPSTREAMS_FILE",
        "none",
        "TOML file that describes several model servers; takes the place of `VLLM_ENDPOINT`. See upstreams.md.",
    ),
    secret(
        "VLLM_API_KEY",
        "none",
        "Sent to the model server as Bearer (vLLM's `--api-key`). Not sent while a client has the same key.",
    ),
    plain(
        "UPSTREAM_AUTH",
        "auto",
        "`id_token`: a Google ID token in `X-Serverless-Authorization`, for a private Cloud Run service. `none`. `auto`: `id_token` for `https://*.run.app` when on Google Cloud.",
    ),
    plain(
        "MODEL_ALIASES",
        "opencode-llm=*,llm-user-managed=*",
        "Further names of models, `name=model` separated by commas. `name=*` means the only model there is.",
    ),
    plain(
        "GCP_PROJECT",
        "that of the metadata server",
        "Google project of the secret and the dataset, and for links from log lines to traces.",
    ),
    plain(
        "GOOGLE_CLOUD_PROJECT",
        "none",
        "Read when `GCP_PROJECT` is not set.",
    ),
    plain(
        "API_KEYS_SECRET_NAME",
        "none; vllm-api-keys on Cloud Run",
        "Secret that holds the API keys: its latest version, or the one named by `NAME/versions/N`.",
    ),
    plain(
        "API_KEYS_FILE",
        "$DATA_DIR/keys.json",
        "File with the API keys. A file named here must exist, and takes the place of the default secret.",
    ),
    plain(
        "KEY_REFRESH_SECONDS",
        "30",
        "Age at which a request makes the gateway read the keys again.",
    ),
    plain(
        "KEY_MAX_STALE_SECONDS",
        "86400",
        "How long the last good keys serve while they cannot be read.",
    ),
    plain(
        "USAGE_SINK",
        "bigquery with a dataset; else local; stdout on Cloud Run",
        "Where usage rows go: `bigquery`, `local` (embedded table), `stdout` or `none` (log lines only).",
    ),
    plain(
        "BIGQUERY_DATASET",
        "none",
        "Dataset for usage rows, `NAME` or `PROJECT.NAME`. It must exist.",
    ),
    plain(
        "BIGQUERY_TABLE",
        "usage",
        "Table in that dataset; it is created if missing.",
    ),
    plain(
        "LABELS",
        "none",
        "Labels on every usage row, `key=value` separated by commas, by the rules of Google's labels.",
    ),
    secret(
        "DATABASE_URL",
        "sqlite://$DATA_DIR/tollgate.db; none on Cloud Run",
        "Users and token budgets: `postgres://...`, shared by all instances; `sqlite://path`, a file for one instance; or `none`.",
    ),
    plain(
        "DATA_DIR",
        "./tollgate-data",
        "Directory of the embedded files.",
    ),
    secret(
        "JWT_SECRET_KEY",
        "generated into DATA_DIR",
        "Signs user tokens, at least 32 bytes. Must be set with Postgres.",
    ),
    plain(
        "JWT_EXPIRATION_HOURS",
        "24",
        "Life of an access token. Sessions end 30 days after the login.",
    ),
    plain(
        "REGISTRATION",
        "open on loopback, else admin",
        "Who may register: `open`, `admin` (whoever shows an admin key), `closed`. The default `open` holds for requests from this machine alone.",
    ),
    plain(
        "DEFAULT_TOKEN_LIMIT",
        "1000000",
        "Token limit of a new user.",
    ),
    plain(
        "MAX_SELF_TOKEN_LIMIT",
        "as DEFAULT_TOKEN_LIMIT",
        "Highest token limit that users may give themselves.",
    ),
    plain(
        "LEASE_SECONDS",
        "60",
        "How long a leased part of a token budget stays an instance's own without word of it; then it counts as used. Calls go on that long without the database.",
    ),
    switch(
        "PUBLIC_MODELS",
        "true",
        "Whether `GET /v1/models` answers without a key.",
    ),
    plain(
        "CORS_ORIGINS",
        "none",
        "Browser origins that may call, separated by commas; `*` for all. Credentials are never allowed.",
    ),
    plain("MAX_BODY_BYTES", "33554432", "Largest request body."),
    plain(
        "MAX_BUFFERED_BYTES",
        "134217728",
        "All request bodies held at once, those on their way in included.",
    ),
    plain(
        "COLD_START_WAIT_SECONDS",
        "240; 15 for a loopback model server outside Cloud Run",
        "How long a call waits for a model server that is starting.",
    ),
    plain(
        "KEEPALIVE_SECONDS",
        "15",
        "Silence after which a stream gets an SSE comment.",
    ),
    plain(
        "UPSTREAM_IDLE_SECONDS",
        "300",
        "Longest silence of the model server within a stream.",
    ),
    plain(
        "CLIENT_STALL_SECONDS",
        "60",
        "How long a client may take no byte.",
    ),
    plain(
        "DRAIN_SECONDS",
        "8",
        "Time from SIGTERM to the end; streams are cut shortly before it.",
    ),
    switch(
        "H2C",
        "false",
        "Accepts HTTP/2 without TLS (Cloud Run's port name `h2c`).",
    ),
    plain(
        "METRICS_PORT",
        "none",
        "A second port, on 127.0.0.1 only, with `/metrics`, `/health` and `/ready`.",
    ),
    plain(
        "LOG_LEVEL",
        "info",
        "`error`, `warn`, `info`, `debug`, `trace` or `off`; also per target, `info,hyper=debug`. Usage lines are always written.",
    ),
    plain(
        "LOG_FORMAT",
        "auto",
        "`json` (Cloud Logging's fields), `text`, or `auto`: text on a terminal, else json.",
    ),
    switch(
        "ALLOW_EPHEMERAL",
        "false",
        "Allows the embedded files on Cloud Run, where they are lost with the instance.",
    ),
    plain(
        "SECRET_MANAGER_ENDPOINT",
        "Google's",
        "For emulators, `http://127.0.0.1:N`.",
    ),
    plain(
        "BIGQUERY_ENDPOINT",
        "Google's",
        "For emulators, `http://127.0.0.1:N`.",
    ),
    plain(
        "GCE_METADATA_HOST",
        "Google's",
        "For emulators, `127.0.0.1:N`.",
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_variable_stands_twice() {
        let names: BTreeSet<_> = VARS.iter().map(|var| var.name).collect();
        assert_eq!(names.len(), VARS.len());
    }

    #[test]
    fn secrets_have_no_flag() {
        let flag = |name: &str| VARS.iter().find(|var| var.name == name).unwrap().flag();
        assert_eq!(flag("DATABASE_URL"), None);
        assert_eq!(flag("MAX_BODY_BYTES").as_deref(), Some("max-body-bytes"));
    }

    #[test]
    fn the_documented_table_is_this_table() {
        let docs = include_str!("../../docs/configuration.md");
        let expected = markdown_table();
        assert!(
            docs.contains(&expected),
            "docs/configuration.md must hold exactly this table:\n{expected}"
        );
        let rows = docs.lines().filter(|line| line.starts_with("| `")).count();
        assert_eq!(rows, VARS.len(), "a row elsewhere escapes the comparison");
    }
}
