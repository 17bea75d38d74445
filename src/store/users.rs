//! Users, their keys and their refresh tokens.

use super::{Store, StoreError};

/// A user as it is stored.
#[derive(Clone, Debug)]
pub struct UserRow {
    pub id: i64,
    /// Case-folded.
    pub name: String,
    /// A PHC string.
    pub password_hash: String,
    /// Tokens.
    pub token_limit: u64,
    /// An admin set the limit: the user can only lower it.
    pub limit_is_admins: bool,
    pub is_disabled: bool,
    /// Counts up when all tokens given out so far become void.
    pub generation: i64,
    /// Milliseconds since 1970.
    pub created_at_ms: i64,
    /// First characters of the newest key.
    pub key_prefix: String,
}

/// A user to be made.
pub struct NewUser<'a> {
    pub name: &'a str,
    pub password_hash: &'a str,
    pub token_limit: u64,
    pub limit_is_admins: bool,
    pub key: NewKey<'a>,
}

/// A key to be stored: never the key itself.
pub struct NewKey<'a> {
    /// SHA-256 of the key.
    pub hash: &'a [u8; 32],
    /// First characters of it, for people to tell keys apart.
    pub prefix: &'a str,
}

/// A key that was found.
pub struct KeyRow {
    pub user: UserRow,
    /// When it stops working, in milliseconds since 1970; `None` for never.
    pub expires_at_ms: Option<i64>,
}

/// A refresh token to be stored.
pub struct NewRefresh<'a> {
    /// SHA-256 of the token.
    pub hash: &'a [u8; 32],
    pub user_id: i64,
    /// The login that it goes back to: 16 random bytes in hex.
    pub family: &'a str,
    /// End of the session, in milliseconds since 1970.
    pub expires_at_ms: i64,
}

/// What became of a refresh token that was shown.
pub enum Refreshed {
    /// It was good and is now used up; the new one, of the same family and end, is stored.
    Renewed {
        user: UserRow,
        family: String,
        expires_at_ms: i64,
    },
    /// It had been used before: its family is revoked.
    Reused { user_id: i64 },
    /// Unknown, expired or revoked.
    Unknown,
}

impl Store {
    /// Makes a user with a key, both or neither; `None` if the name is taken.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn add_user(&self, user: NewUser<'_>) -> Result<Option<UserRow>, StoreError> {
        let _ = user;
        Err(StoreError::absent())
    }

    pub async fn user(&self, id: i64) -> Result<Option<UserRow>, StoreError> {
        let _ = id;
        Err(StoreError::absent())
    }

    pub async fn user_named(&self, name: &str) -> Result<Option<UserRow>, StoreError> {
        let _ = name;
        Err(StoreError::absent())
    }

    /// One indexed look-up; also finds keys that have expired.
    pub async fn user_by_key(&self, hash: &[u8; 32]) -> Result<Option<KeyRow>, StoreError> {
        let _ = hash;
        Err(StoreError::absent())
    }

    /// Users by name, `limit` of them after `after`.
    pub async fn users(&self, after: &str, limit: u32) -> Result<Vec<UserRow>, StoreError> {
        let _ = (after, limit);
        Err(StoreError::absent())
    }

    /// `None` if there is no such user.
    pub async fn set_token_limit(
        &self,
        id: i64,
        token_limit: u64,
        is_admins: bool,
    ) -> Result<Option<UserRow>, StoreError> {
        let _ = (id, token_limit, is_admins);
        Err(StoreError::absent())
    }

    /// A new password: all tokens given out so far are void, refresh tokens too.
    pub async fn set_password(
        &self,
        id: i64,
        password_hash: &str,
    ) -> Result<Option<UserRow>, StoreError> {
        let _ = (id, password_hash);
        Err(StoreError::absent())
    }

    /// Disables or enables; disabling makes all tokens given out so far void.
    pub async fn set_disabled(
        &self,
        id: i64,
        is_disabled: bool,
    ) -> Result<Option<UserRow>, StoreError> {
        let _ = (id, is_disabled);
        Err(StoreError::absent())
    }

    /// A new key; those before it end after `grace_ms` at the latest, and all tokens given out so
    /// far are void.
    pub async fn replace_key(
        &self,
        id: i64,
        key: NewKey<'_>,
        grace_ms: i64,
    ) -> Result<Option<UserRow>, StoreError> {
        let _ = (id, key, grace_ms);
        Err(StoreError::absent())
    }

    /// Keeps the first refresh token of a login.
    pub async fn add_refresh(&self, token: NewRefresh<'_>) -> Result<(), StoreError> {
        let _ = token;
        Err(StoreError::absent())
    }

    /// Uses a refresh token up and puts the next of its family in its place, in one step.
    pub async fn refresh(&self, hash: &[u8; 32], next: &[u8; 32]) -> Result<Refreshed, StoreError> {
        let _ = (hash, next);
        Err(StoreError::absent())
    }

    /// 32 random bytes, the same for everybody who uses this database: keys of users carry a MAC
    /// made with it.
    pub async fn mac_key(&self) -> Result<[u8; 32], StoreError> {
        Err(StoreError::absent())
    }
}
