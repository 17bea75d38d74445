//! Users, their tokens, and the database that holds them and all token budgets.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::reader::{Reader, in_range, stars, unset};
use super::{AccountsConfig, Database, Origin, Registration, values};
use crate::secret::Secret;

/// Tokens signed with a shorter secret can be forged by guessing.
const JWT_SECRET_BYTES: usize = 32;
/// Parts of secrets that stand in examples everywhere.
const PLACEHOLDERS: [&str; 6] = [
    "change-me",
    "changeme",
    "change_me",
    "your-secret",
    "your_secret",
    "placeholder",
];
/// Highest token limit; sums of it do not overflow.
pub const MOST_TOKENS: u64 = u32::MAX as u64 * 1_000;
const HOUR: u64 = 3_600;

/// Reads the settings of users and their tokens.
pub(super) fn read(
    reader: &mut Reader<'_>,
    host_is_loopback: bool,
    database: &Database,
) -> AccountsConfig {
    let jwt_secret = reader.secret("JWT_SECRET_KEY", stars);
    match &jwt_secret {
        Some(secret) => {
            let text = secret.expose().to_ascii_lowercase();
            if text.len() < JWT_SECRET_BYTES {
                reader.fault(
                    "JWT_SECRET_KEY",
                    format_args!("is shorter than {JWT_SECRET_BYTES} bytes"),
                );
            } else if PLACEHOLDERS.iter().any(|known| text.contains(known)) {
                reader.fault(
                    "JWT_SECRET_KEY",
                    "is a placeholder from an example; make a random one",
                );
            }
        }
        None if matches!(database, Database::Postgres(_)) => reader.fault(
            "JWT_SECRET_KEY",
            "is needed with Postgres: every instance must sign and check tokens with the same one",
        ),
        None => {}
    }
    let hours = reader.number("JWT_EXPIRATION_HOURS", 24, 1, 24 * 30);
    let registration = read_registration(reader, host_is_loopback);
    let default_token_limit = read_default_token_limit(reader);
    let max_self_token_limit = reader.parsed(
        "MAX_SELF_TOKEN_LIMIT",
        default_token_limit,
        u64::to_string,
        |text| in_range(text, 1, MOST_TOKENS),
    );
    let lease = reader.number("LEASE_SECONDS", 60, 15, HOUR);
    AccountsConfig {
        jwt_secret,
        access_token_life: Duration::from_secs(hours * HOUR),
        registration,
        default_token_limit,
        max_self_token_limit,
        lease: Duration::from_secs(lease),
    }
}

/// Reads the token limit of a new user.
pub(super) fn read_default_token_limit(reader: &mut Reader<'_>) -> u64 {
    reader.number("DEFAULT_TOKEN_LIMIT", 1_000_000, 1, MOST_TOKENS)
}

fn read_registration(reader: &mut Reader<'_>, host_is_loopback: bool) -> Registration {
    let is_set = reader.find("REGISTRATION").is_some();
    let words = ["open", "admin", "closed"];
    let default = if host_is_loopback { "open" } else { "admin" };
    let word = reader.parsed(
        "REGISTRATION",
        default,
        |word| (*word).to_owned(),
        |text| values::word(text, &words),
    );
    if word == "open" && !host_is_loopback {
        reader.warn(
            "REGISTRATION",
            "`open` on an address that is not loopback lets anybody register",
        );
    }
    match word {
        "open" if is_set => Registration::Open,
        "open" => Registration::Local,
        "closed" => Registration::Closed,
        _ => Registration::Admin,
    }
}

/// Reads where users and budgets are.
pub(super) fn read_database(
    reader: &mut Reader<'_>,
    data_dir: &Path,
    on_cloud_run: bool,
    ephemeral: &Result<(), &'static str>,
) -> Database {
    let default = data_dir.join("tollgate.db");
    // `secret` would show an unset one as `none`, which is not what is in effect.
    if reader.find("DATABASE_URL").is_none() && reader.find("DATABASE_URL_FILE").is_none() {
        if on_cloud_run {
            reader.show("DATABASE_URL", unset(), Origin::Default);
            return Database::None;
        }
        let shown = format!("sqlite://{}", default.display());
        reader.show("DATABASE_URL", shown, Origin::Default);
        return Database::Sqlite(default);
    }
    let Some(url) = reader.secret("DATABASE_URL", shown_database) else {
        return Database::None;
    };
    let text = url.expose().as_str();
    if text == "none" {
        return Database::None;
    }
    if text.starts_with("postgres://") || text.starts_with("postgresql://") {
        // By the client's own reading. Its words repeat no part of the credentials.
        if let Err(cause) = text.parse::<sqlx::postgres::PgConnectOptions>() {
            reader.fault(
                "DATABASE_URL",
                format_args!("cannot be read: {}", last(&cause)),
            );
        }
        return Database::Postgres(Secret::new(text.to_owned()));
    }
    let path = text
        .strip_prefix("sqlite://")
        .filter(|path| !path.is_empty() && !path.starts_with(':') && !path.contains('?'));
    let Some(path) = path else {
        reader.fault(
            "DATABASE_URL",
            "is neither `postgres://`, nor `sqlite://` with the path of a file, nor `none`",
        );
        return Database::None;
    };
    if let Err(why) = ephemeral {
        reader.fault("DATABASE_URL", format_args!("`sqlite://` {why}"));
    }
    Database::Sqlite(PathBuf::from(path))
}

/// The innermost cause: the frames around it say the same.
fn last<'e>(mut error: &'e (dyn Error + 'static)) -> &'e (dyn Error + 'static) {
    while let Some(cause) = error.source() {
        error = cause;
    }
    error
}

/// Credentials in a URL are masked by the reader; a text that is no URL might be nothing else.
fn shown_database(url: &str) -> String {
    if url == "none" || url.contains("://") {
        url.to_owned()
    } else {
        stars(url)
    }
}
