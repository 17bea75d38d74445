//! What the tests of users share.

use super::*;

/// A user with a name of its own.
pub(super) fn user(id: i64, name: &str) -> Arc<User> {
    Arc::new(User::from(UserRow {
        id,
        name: name.to_owned(),
        password_hash: String::new(),
        token_limit: 1_000,
        limit_is_admins: false,
        is_disabled: false,
        generation: 1,
        created_at_ms: 0,
        key_prefix: "sk-abcdef".to_owned(),
    }))
}
