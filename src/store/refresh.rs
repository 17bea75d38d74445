//! Refresh tokens: each is good for once, and who shows a used one ends the login that it goes back
//! to.

use super::session::Session;
use super::value::{Row, Value};
use super::{Store, StoreError, UserRow};

/// Logins of one user at the same time; with another one the oldest ends.
const FAMILIES: i64 = 20;
/// Used tokens of a login that are remembered, so as to know them again.
const USED_TOKENS: i64 = 100;

/// Locks the user's row.
const USER_OF_GENERATION: &str = "\
UPDATE users SET generation = generation \
WHERE id = $1 AND generation = $2 AND NOT is_disabled RETURNING (SELECT now_ms FROM clock) AS now_ms";
const DROP_FAMILIES: &str = "\
DELETE FROM refresh_tokens WHERE user_id = $1 AND (expires_at_ms <= $2 OR family NOT IN \
(SELECT family FROM refresh_tokens WHERE user_id = $1 GROUP BY family \
ORDER BY MAX(expires_at_ms) DESC, family LIMIT $3))";
const ADD: &str = "\
INSERT INTO refresh_tokens (hash, user_id, family, expires_at_ms, used_at_ms) \
VALUES ($1, $2, $3, $4, NULL) ON CONFLICT (hash) DO NOTHING";
/// Locks the user's row, whatever becomes of the token.
const USER_OF_TOKEN: &str = "\
UPDATE users SET generation = generation \
WHERE id = (SELECT user_id FROM refresh_tokens WHERE hash = $1) AND NOT is_disabled \
RETURNING id, name, password_hash, token_limit, limit_is_admins, is_disabled, generation, \
created_at_ms, key_prefix, (SELECT now_ms FROM clock) AS now_ms";
const TOKEN: &str = "\
SELECT family, expires_at_ms, used_at_ms, \
(SELECT COUNT(*) FROM refresh_tokens AS next WHERE next.hash = $2 AND next.family = shown.family) \
AS has_next FROM refresh_tokens AS shown WHERE hash = $1";
const USE: &str = "UPDATE refresh_tokens SET used_at_ms = $2 WHERE hash = $1";
const FORGET_USED: &str = "\
DELETE FROM refresh_tokens WHERE family = $1 AND user_id = $2 AND used_at_ms IS NOT NULL \
AND hash NOT IN (SELECT hash FROM refresh_tokens WHERE family = $1 AND user_id = $2 \
AND used_at_ms IS NOT NULL ORDER BY used_at_ms DESC, hash LIMIT $3)";
const OF_FAMILY: &str = "\
SELECT COUNT(*) AS tokens FROM refresh_tokens WHERE family = $1 AND user_id = $2";
const DROP_FAMILY: &str = "DELETE FROM refresh_tokens WHERE family = $1 AND user_id = $2";

/// A refresh token to be stored.
pub struct NewRefresh<'a> {
    /// SHA-256 of the token.
    pub hash: &'a [u8; 32],
    pub user_id: i64,
    /// That of the user whose password was checked.
    pub generation: i64,
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
    /// Unknown, expired or revoked, or its user is disabled.
    Unknown,
}

#[expect(
    clippy::missing_errors_doc,
    reason = "all have the same: the database does not answer"
)]
impl Store {
    /// Keeps the first refresh token of a login. False, and nothing is kept, if the user has been
    /// disabled or given new credentials since they were checked.
    pub async fn add_refresh(&self, token: NewRefresh<'_>) -> Result<bool, StoreError> {
        self.operate(|| async {
            let mut session = self.begin().await?;
            let id = Value::Int(token.user_id);
            let values = [id, Value::Int(token.generation)];
            let user = session.fetch_one(USER_OF_GENERATION, &values).await?;
            if let Some(user) = &user {
                let now = Value::Int(user.int("now_ms")?);
                let values = [id, now, Value::Int(FAMILIES - 1)];
                session.fetch(DROP_FAMILIES, &values).await?;
                let end = Value::Int(token.expires_at_ms);
                let values = [Value::Bytes(token.hash), id, Value::Text(token.family), end];
                session.fetch(ADD, &values).await?;
            }
            session.end().await?;
            Ok(user.is_some())
        })
        .await
    }

    /// Whether a login can still be refreshed: false once its family was revoked or dropped.
    pub async fn has_family(&self, user_id: i64, family: &str) -> Result<bool, StoreError> {
        let values = [Value::Text(family), Value::Int(user_id)];
        let row = self.read_one(OF_FAMILY, &values).await?;
        Ok(match row {
            Some(row) => row.int("tokens")? > 0,
            None => false,
        })
    }

    /// Uses a refresh token up and puts the next of its family in its place, in one step.
    pub async fn refresh(&self, hash: &[u8; 32], next: &[u8; 32]) -> Result<Refreshed, StoreError> {
        self.operate(|| async {
            let mut session = self.begin().await?;
            let user = session
                .fetch_one(USER_OF_TOKEN, &[Value::Bytes(hash)])
                .await?;
            let outcome = match user {
                Some(user) => use_up(&mut session, &user, hash, next).await?,
                None => Refreshed::Unknown,
            };
            session.end().await?;
            Ok(outcome)
        })
        .await
    }
}

/// `user` is locked, so nobody else uses a token of theirs.
async fn use_up(
    session: &mut Session<'_>,
    user: &Row,
    hash: &[u8; 32],
    next: &[u8; 32],
) -> Result<Refreshed, StoreError> {
    let (now_ms, user) = (user.int("now_ms")?, UserRow::read(user)?);
    let (hash, next, id) = (Value::Bytes(hash), Value::Bytes(next), Value::Int(user.id));
    let Some(token) = session.fetch_one(TOKEN, &[hash, next]).await? else {
        return Ok(Refreshed::Unknown);
    };
    let (family, expires_at_ms) = (token.text("family")?, token.int("expires_at_ms")?);
    if expires_at_ms <= now_ms {
        return Ok(Refreshed::Unknown);
    }
    let family_value = Value::Text(&family);
    // With the very same next one it was this call that used it, and the answer got lost.
    let is_ours = token.int("has_next")? > 0;
    if token.int_or_null("used_at_ms")?.is_some() && !is_ours {
        session.fetch(DROP_FAMILY, &[family_value, id]).await?;
        return Ok(Refreshed::Reused { user_id: user.id });
    }
    session.fetch(USE, &[hash, Value::Int(now_ms)]).await?;
    let values = [family_value, id, Value::Int(USED_TOKENS)];
    session.fetch(FORGET_USED, &values).await?;
    let values = [next, id, family_value, Value::Int(expires_at_ms)];
    session.fetch(ADD, &values).await?;
    Ok(Refreshed::Renewed {
        user,
        family,
        expires_at_ms,
    })
}
