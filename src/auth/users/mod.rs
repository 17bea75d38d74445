//! Users: who shows a key or token of theirs, and all that changes them. Knows no routes. What it
//! reads from the store is kept for a while, so that a call does not wait for it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::Principal;
use crate::budget::Allowance;
use crate::config::{AccountsConfig, Config};
use crate::error::{Code, Error};
use crate::store::Store;

/// A user as the request path knows it.
#[derive(Debug)]
pub struct User {
    pub id: i64,
    pub name: Arc<str>,
    pub is_disabled: bool,
    pub limit_is_admins: bool,
    /// The budget, with the limit.
    pub allowance: Allowance,
    /// First characters of the newest key.
    pub key_prefix: String,
    pub created_at: SystemTime,
    pub(super) generation: i64,
}

/// All users, as far as they are known to this instance.
pub struct Users {
    store: Arc<Store>,
    accounts: AccountsConfig,
}

/// What a login or a refresh gives.
pub struct Tokens {
    pub access_token: String,
    pub expires_in: Duration,
    pub refresh_token: String,
}

impl Users {
    /// Reads or makes the secrets that tokens and keys are signed with.
    ///
    /// # Errors
    /// When the secret cannot be kept.
    pub async fn open(config: &Config, store: Arc<Store>) -> anyhow::Result<Self> {
        Ok(Self {
            store,
            accounts: config.accounts.clone(),
        })
    }

    /// Whether a text has the shape of a user's token, or is a key that was made here: guesses
    /// are not.
    #[must_use]
    pub fn recognise(&self, credential: &str) -> bool {
        let _ = credential;
        false
    }

    /// Whose key or token this is. One look-up in the store if it is not known.
    ///
    /// # Errors
    /// `invalid_token`, `invalid_api_key`, `user_disabled`, `store_unavailable`.
    pub async fn identify(&self, credential: &str) -> Result<Principal, Error> {
        let _ = (credential, &self.store, &self.accounts);
        Err(Error::new(Code::InvalidToken, "this token is not valid"))
    }

    /// A login.
    ///
    /// # Errors
    /// `invalid_credentials`, `rate_limit_exceeded`, `user_disabled`, `store_unavailable`.
    pub async fn log_in(
        &self,
        name: &str,
        password: &str,
        client: IpAddr,
    ) -> Result<Tokens, Error> {
        let _ = (name, password, client);
        Err(Error::new(Code::InvalidCredentials, "wrong"))
    }
}
