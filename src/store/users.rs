//! Users and their keys. Whoever changes what a user's tokens hang on locks the user's row first.

use super::value::{Row, Value, stored};
use super::{Store, StoreError};

/// Keys of one user that work at the same time; with another one the oldest goes.
const KEYS: i64 = 5;

/// Columns of a user, in every statement that gives one.
macro_rules! user {
    ($before:literal, $after:literal) => {
        concat!(
            $before,
            " id, name, password_hash, token_limit, limit_is_admins, is_disabled, generation, \
             created_at_ms, key_prefix ",
            $after
        )
    };
}

const ADD_USER: &str = user!(
    "INSERT INTO users (name, password_hash, token_limit, limit_is_admins, is_disabled, generation, \
     created_at_ms, key_prefix) \
     VALUES ($1, $2, $3, $4, FALSE, 0, (SELECT now_ms FROM clock), $5) \
     ON CONFLICT (name) DO NOTHING RETURNING",
    ""
);
const ADD_KEY: &str = "\
INSERT INTO user_keys (hash, user_id, added_at_ms, expires_at_ms) \
VALUES ($1, $2, (SELECT now_ms FROM clock), NULL) ON CONFLICT (hash) DO NOTHING";
const USER: &str = user!("SELECT", "FROM users WHERE id = $1");
const USER_NAMED: &str = user!("SELECT", "FROM users WHERE name = $1");
const USER_BY_KEY: &str = user!(
    "SELECT expires_at_ms,",
    "FROM user_keys JOIN users ON id = user_id WHERE hash = $1"
);
const USERS: &str = user!(
    "SELECT",
    "FROM users WHERE name > $1 ORDER BY name LIMIT $2"
);
const SET_LIMIT: &str = user!(
    "UPDATE users SET token_limit = $2, limit_is_admins = $3 WHERE id = $1 RETURNING",
    ""
);
// With the very same hash as is there it was this call, and the answer got lost; so with keys.
const SET_PASSWORD: &str = user!(
    "UPDATE users SET password_hash = $2, generation = generation + 1 \
     WHERE id = $1 AND (generation = $3 OR password_hash = $2) RETURNING",
    ""
);
const ENABLE: &str = user!(
    "UPDATE users SET is_disabled = FALSE WHERE id = $1 RETURNING",
    ""
);
const DISABLE: &str = user!(
    "UPDATE users SET is_disabled = TRUE, generation = generation + 1 WHERE id = $1 RETURNING",
    ""
);
const SET_KEY_PREFIX: &str = user!(
    "UPDATE users SET key_prefix = $2, generation = generation + 1 \
     WHERE id = $1 AND (generation = $3 \
     OR EXISTS (SELECT 1 FROM user_keys WHERE hash = $4 AND user_id = $1)) RETURNING \
     (SELECT now_ms FROM clock) AS now_ms,",
    ""
);
const END_KEYS: &str = "\
UPDATE user_keys SET expires_at_ms = $2 WHERE user_id = $1 AND hash <> $3 \
AND (expires_at_ms IS NULL OR expires_at_ms > $2)";
/// Those that have ended, and the oldest if there would be too many.
const DROP_KEYS: &str = "\
DELETE FROM user_keys WHERE user_id = $1 AND (expires_at_ms <= $2 OR hash NOT IN \
(SELECT hash FROM user_keys WHERE user_id = $1 ORDER BY added_at_ms DESC, hash LIMIT $3))";
const DROP_REFRESH_TOKENS: &str = "DELETE FROM refresh_tokens WHERE user_id = $1";

/// A user as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserRow {
    /// Never given twice.
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

#[expect(
    clippy::missing_errors_doc,
    reason = "all have the same: the database does not answer"
)]
impl Store {
    /// Makes a user with a key, both or neither; `None` if the name is taken.
    pub async fn add_user(&self, user: NewUser<'_>) -> Result<Option<UserRow>, StoreError> {
        self.operate(|| async {
            let mut session = self.begin().await?;
            let values = [
                Value::Text(user.name),
                Value::Text(user.password_hash),
                Value::Int(stored(user.token_limit)),
                Value::Bool(user.limit_is_admins),
                Value::Text(user.key.prefix),
            ];
            let hash = Value::Bytes(user.key.hash);
            let added = match session.fetch_one(ADD_USER, &values).await? {
                Some(row) => {
                    let added = UserRow::read(&row)?;
                    session
                        .fetch(ADD_KEY, &[hash, Value::Int(added.id)])
                        .await?;
                    Some(added)
                }
                // Nobody else has this key: it was this call, and the answer got lost.
                None => match session.fetch_one(USER_BY_KEY, &[hash]).await? {
                    Some(row) => Some(UserRow::read(&row)?).filter(|row| row.name == user.name),
                    None => None,
                },
            };
            session.end().await?;
            Ok(added)
        })
        .await
    }

    pub async fn user(&self, id: i64) -> Result<Option<UserRow>, StoreError> {
        self.one_user(USER, &[Value::Int(id)]).await
    }

    pub async fn user_named(&self, name: &str) -> Result<Option<UserRow>, StoreError> {
        self.one_user(USER_NAMED, &[Value::Text(name)]).await
    }

    /// One indexed look-up; also finds keys that have expired.
    pub async fn user_by_key(&self, hash: &[u8; 32]) -> Result<Option<KeyRow>, StoreError> {
        let row = self.read_one(USER_BY_KEY, &[Value::Bytes(hash)]).await?;
        row.map(|row| {
            Ok(KeyRow {
                user: UserRow::read(&row)?,
                expires_at_ms: row.int_or_null("expires_at_ms")?,
            })
        })
        .transpose()
    }

    /// Users by name, `limit` of them after `after`.
    pub async fn users(&self, after: &str, limit: u32) -> Result<Vec<UserRow>, StoreError> {
        let values = [Value::Text(after), Value::Int(limit.into())];
        let rows = self.read(USERS, &values).await?;
        rows.iter().map(UserRow::read).collect()
    }

    /// `None` if there is no such user.
    pub async fn set_token_limit(
        &self,
        id: i64,
        token_limit: u64,
        is_admins: bool,
    ) -> Result<Option<UserRow>, StoreError> {
        let limit = Value::Int(stored(token_limit));
        let values = [Value::Int(id), limit, Value::Bool(is_admins)];
        self.one_user(SET_LIMIT, &values).await
    }

    /// A new password: all tokens given out so far are void, refresh tokens too. `None`, and nothing
    /// is changed, if they had been voided since the `generation` that the change was asked for in.
    pub async fn set_password(
        &self,
        id: i64,
        generation: i64,
        password_hash: &str,
    ) -> Result<Option<UserRow>, StoreError> {
        let (id, hash) = (Value::Int(id), Value::Text(password_hash));
        let values = [id, hash, Value::Int(generation)];
        self.void_tokens(SET_PASSWORD, &values).await
    }

    /// Disables or enables; disabling makes all tokens given out so far void.
    pub async fn set_disabled(
        &self,
        id: i64,
        is_disabled: bool,
    ) -> Result<Option<UserRow>, StoreError> {
        if is_disabled {
            self.void_tokens(DISABLE, &[Value::Int(id)]).await
        } else {
            self.one_user(ENABLE, &[Value::Int(id)]).await
        }
    }

    /// A new key; those before it end after `grace_ms` at the latest, and all tokens given out so
    /// far are void. `None` as for [`Store::set_password`].
    pub async fn replace_key(
        &self,
        (id, generation): (i64, i64),
        key: NewKey<'_>,
        grace_ms: i64,
    ) -> Result<Option<UserRow>, StoreError> {
        self.operate(|| async {
            let mut session = self.begin().await?;
            let hash = Value::Bytes(key.hash);
            let (asked_in, prefix) = (Value::Int(generation), Value::Text(key.prefix));
            let values = [Value::Int(id), prefix, asked_in, hash];
            let Some(row) = session.fetch_one(SET_KEY_PREFIX, &values).await? else {
                session.end().await?;
                return Ok(None);
            };
            let now_ms = row.int("now_ms")?;
            let end_ms = now_ms.saturating_add(grace_ms.max(0));
            let (id, now) = (Value::Int(id), Value::Int(now_ms));
            let values = [id, Value::Int(end_ms), hash];
            session.fetch(END_KEYS, &values).await?;
            let values = [id, now, Value::Int(KEYS - 1)];
            session.fetch(DROP_KEYS, &values).await?;
            session.fetch(ADD_KEY, &[hash, id]).await?;
            session.fetch(DROP_REFRESH_TOKENS, &[id]).await?;
            session.end().await?;
            UserRow::read(&row).map(Some)
        })
        .await
    }

    async fn one_user(
        &self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<Option<UserRow>, StoreError> {
        let row = self.read_one(sql, values).await?;
        row.as_ref().map(UserRow::read).transpose()
    }

    /// Changes a user, whose id comes first, and takes back the refresh tokens.
    async fn void_tokens(
        &self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<Option<UserRow>, StoreError> {
        self.operate(|| async {
            let mut session = self.begin().await?;
            let row = session.fetch_one(sql, values).await?;
            if row.is_some() {
                session.fetch(DROP_REFRESH_TOKENS, &values[..1]).await?;
            }
            session.end().await?;
            row.as_ref().map(UserRow::read).transpose()
        })
        .await
    }
}

impl UserRow {
    pub(super) fn read(row: &Row) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.int("id")?,
            name: row.text("name")?,
            password_hash: row.text("password_hash")?,
            token_limit: row.count("token_limit")?,
            limit_is_admins: row.flag("limit_is_admins")?,
            is_disabled: row.flag("is_disabled")?,
            generation: row.int("generation")?,
            created_at_ms: row.int("created_at_ms")?,
            key_prefix: row.text("key_prefix")?,
        })
    }
}
