//! Variables of what this version does not have. Those that ask for a missing part are faults;
//! those that only describe one are checked and named in a warning, so that nothing is ignored
//! silently.

use super::reader::{Reader, in_range, stars};
use super::values;

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
const NO_USERS: &str = "this version has no users";

/// Checks the settings of users and their tokens.
pub(super) fn read_accounts(reader: &mut Reader<'_>, host_is_loopback: bool) {
    if let Some(secret) = reader.secret("JWT_SECRET_KEY", stars) {
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
    reader.number("JWT_EXPIRATION_HOURS", 24, 1, 24 * 30);
    let words = ["open", "admin", "closed"];
    let default = if host_is_loopback { "open" } else { "admin" };
    let registration = reader.parsed(
        "REGISTRATION",
        default,
        |word| (*word).to_owned(),
        |text| values::word(text, &words),
    );
    if registration == "open" && !host_is_loopback {
        reader.warn(
            "REGISTRATION",
            "`open` on an address that is not loopback lets anybody register",
        );
    }
    let most = u64::from(u32::MAX) * 1_000;
    let limit = reader.number("DEFAULT_TOKEN_LIMIT", 1_000_000, 1, most);
    let shown = |value: &u64| value.to_string();
    reader.parsed("MAX_SELF_TOKEN_LIMIT", limit, shown, |text| {
        in_range(text, 1, most)
    });
    let names = [
        "JWT_SECRET_KEY",
        "JWT_EXPIRATION_HOURS",
        "REGISTRATION",
        "DEFAULT_TOKEN_LIMIT",
        "MAX_SELF_TOKEN_LIMIT",
    ];
    reader.no_effect(&names, NO_USERS);
}
