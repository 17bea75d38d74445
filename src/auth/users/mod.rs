//! Users: who shows a key or token of theirs, and all that changes them. Knows no routes. What it
//! reads from the store is kept for a while, so that a call does not wait for it.

mod accounts;
mod cache;
mod directory;
mod flights;
pub(crate) mod key;
pub(crate) mod name;
pub(crate) mod password;
mod secret_file;
mod session;
#[cfg(test)]
mod tests;
mod throttle;
mod token;

pub use accounts::NewAccount;
pub use session::{Caller, Tokens};

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{KeyHash, Principal, Who};
use crate::budget::{Allowance, Period};
use crate::config::{AccountsConfig, Config};
use crate::error::{Code, Error};
use crate::store::{Store, StoreError, UserRow};
use directory::Directory;
use key::{Kind, LazyMaker};
use password::Passwords;
use throttle::Throttle;
use token::{AccessTokens, Claims};

const RETRY: Duration = Duration::from_secs(2);

/// A user as the request path knows it.
#[derive(Debug)]
pub struct User {
    pub id: i64,
    pub name: Arc<str>,
    pub is_disabled: bool,
    pub limit_is_admins: bool,
    /// Tokens.
    pub token_limit: u64,
    /// The budget, with the limit.
    pub allowance: Allowance,
    /// First characters of the newest key.
    pub key_prefix: String,
    pub created_at: SystemTime,
    pub(super) generation: i64,
}

impl From<UserRow> for User {
    fn from(row: UserRow) -> Self {
        Self {
            id: row.id,
            name: row.name.into(),
            is_disabled: row.is_disabled,
            limit_is_admins: row.limit_is_admins,
            token_limit: row.token_limit,
            allowance: Allowance {
                owner: format!("user:{}", row.id).into(),
                limit: Some(row.token_limit),
                period: Period::Total,
                dry_run: false,
            },
            key_prefix: row.key_prefix,
            created_at: directory::time_of(row.created_at_ms),
            generation: row.generation,
        }
    }
}

/// All users, as far as they are known to this instance.
pub struct Users {
    store: Arc<Store>,
    accounts: AccountsConfig,
    directory: Arc<Directory>,
    maker: LazyMaker,
    tokens: AccessTokens,
    passwords: Passwords,
    throttle: Throttle,
}

/// What a credential looks like.
#[derive(Debug)]
pub enum Recognised {
    /// A user's token or key, going by its shape or its MAC.
    Users,
    /// No key of a user's.
    No,
    /// A user's key or another: the store that could tell does not answer.
    Unclear(Error),
}

impl Users {
    /// Reads or makes the secrets that tokens and keys are signed with. The store need not answer
    /// yet.
    ///
    /// # Errors
    /// When the secret cannot be kept.
    pub async fn open(config: &Config, store: Arc<Store>) -> anyhow::Result<Self> {
        let secret = match &config.accounts.jwt_secret {
            Some(secret) => secret.clone(),
            None => secret_file::read_or_make(&config.data_dir)?,
        };
        let accounts = config.accounts.clone();
        let users = Self {
            directory: Arc::new(Directory::new(store.clone(), config.keys.refresh)),
            tokens: AccessTokens::new(secret.expose().as_bytes(), accounts.access_token_life),
            maker: LazyMaker::default(),
            passwords: Passwords::new(),
            throttle: Throttle::new(),
            store,
            accounts,
        };
        if let Err(cause) = users.maker.get(&users.store).await {
            tracing::warn!(
                cause,
                "keys of users are not known until the database answers"
            );
        }
        Ok(users)
    }

    /// Whether a text has the shape of a user's token, or is a key that was made here: guesses
    /// are not. Waits for nothing but, once, for the store to tell how keys are known.
    pub async fn recognise(&self, credential: &str) -> Recognised {
        if token::has_shape(credential) {
            return Recognised::Users;
        }
        let maker = match self.maker.known() {
            Some(maker) => maker,
            None if !Kind::Key.has_shape(credential) => return Recognised::No,
            None => match self.maker.get(&self.store).await {
                Ok(maker) => maker,
                Err(cause) => return Recognised::Unclear(unavailable(cause)),
            },
        };
        if maker.made(Kind::Key, credential) {
            Recognised::Users
        } else {
            Recognised::No
        }
    }

    /// Whose key or token this is. One look-up in the store if it is not known.
    ///
    /// # Errors
    /// `invalid_token`, `invalid_api_key`, `user_disabled`, `store_unavailable`.
    pub async fn identify(&self, credential: &str) -> Result<Principal, Error> {
        if token::has_shape(credential) {
            let (user, _) = self.by_token(credential).await?;
            return Ok(Principal {
                who: Who::User(user),
                key_id: None,
            });
        }
        let (user, key_id) = self.by_key(credential).await?;
        Ok(Principal {
            who: Who::User(user),
            key_id: Some(key_id),
        })
    }

    /// Passwords hashed so far, for the metrics.
    #[must_use]
    pub fn passwords_hashed(&self) -> u64 {
        self.passwords.hashed()
    }

    /// Waits for the password hashes that run.
    pub async fn close(&self) {
        self.passwords.close().await;
    }

    async fn by_token(&self, token: &str) -> Result<(Arc<User>, Claims), Error> {
        let claims = self.tokens.check(token)?;
        let id = claims.user().ok_or_else(token::invalid)?;
        let mut user = self.directory.user(id).await?.ok_or_else(token::invalid)?;
        if claims.generation() > user.generation {
            // Made by another instance after a change that is not known here.
            user = self
                .directory
                .user_anew(id)
                .await?
                .ok_or_else(token::invalid)?;
        }
        check_enabled(&user)?;
        if claims.generation() != user.generation {
            return Err(token::invalid());
        }
        Ok((user, claims))
    }

    async fn by_key(&self, key: &str) -> Result<(Arc<User>, Arc<str>), Error> {
        let invalid = || {
            Error::new(
                Code::InvalidApiKey,
                "this API key is not valid or no longer so; make a new one",
            )
        };
        let owner = self.directory.owner(KeyHash::of(key)).await?;
        let now = SystemTime::now();
        let owner = owner
            .filter(|owner| owner.expires_at.is_none_or(|end| now < end))
            .ok_or_else(invalid)?;
        let user = self.directory.user(owner.user).await?;
        let user = user.ok_or_else(invalid)?;
        check_enabled(&user)?;
        Ok((user, owner.key_id))
    }
}

fn check_enabled(user: &User) -> Result<(), Error> {
    if user.is_disabled {
        return Err(Error::new(
            Code::UserDisabled,
            "this user is disabled; ask whoever runs this gateway",
        ));
    }
    Ok(())
}

/// The store does not answer, or not with sense.
fn unavailable(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(
        Code::StoreUnavailable,
        "the database of users does not answer; try again in a moment",
    )
    .retry_after(RETRY)
    .because(cause)
}

/// What the store said; it bounds how long that takes.
///
/// # Errors
/// `store_unavailable`.
async fn answered<T>(asked: impl Future<Output = Result<T, StoreError>>) -> Result<T, Error> {
    asked.await.map_err(unavailable)
}

/// A fault and what lies beneath it, in one line.
fn in_words(fault: &StoreError) -> String {
    let mut words = fault.to_string();
    let mut next = std::error::Error::source(fault);
    while let Some(cause) = next {
        words = format!("{words}: {cause}");
        next = cause.source();
    }
    words
}

/// A line for whoever asks later who did what to whom.
fn audit(actor: &str, action: &'static str, subject: &str) {
    tracing::info!(actor, action, subject, "audit");
}

/// The same of a new limit, in tokens.
fn audit_limit(actor: &str, subject: &str, token_limit: u64) {
    let action = "token_limit_set";
    tracing::info!(actor, action, subject, token_limit, "audit");
}
