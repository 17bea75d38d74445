//! Logins and what they give: access tokens that expire, refresh tokens that work once.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::key::Kind;
use super::throttle::{Attempt, Burst};
use super::{User, Users, answered, audit, check_enabled, name, token, unavailable};
use crate::auth::KeyHash;
use crate::error::{Code, Error};
use crate::store::{NewRefresh, Refreshed, UserRow};

/// A change of the password is taken without the old one for this long after a login.
const RECENT_LOGIN: Duration = Duration::from_mins(10);

/// What a login or a refresh gives.
pub struct Tokens {
    pub access_token: String,
    pub expires_in: Duration,
    /// `None` where an access token renewed itself.
    pub refresh_token: Option<String>,
}

/// A user who has logged in.
pub struct Caller {
    pub user: Arc<User>,
    /// The password was given a moment ago.
    pub is_recent: bool,
}

impl Users {
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
        let row = self.check_password(name, password, client).await?;
        let user = User::from(row);
        check_enabled(&user)?;
        let login = SystemTime::now();
        let family = format!("{:032x}", rand::random::<u128>());
        let issued = self
            .tokens
            .issue(user.id, user.generation, (login, &family));
        let (access_token, expires_in) = issued?;
        let refresh_token = self.make_refresh().await?;
        let refresh_hash = KeyHash::of(&refresh_token);
        let stored = NewRefresh {
            hash: refresh_hash.as_bytes(),
            user_id: user.id,
            generation: user.generation,
            family: &family,
            expires_at_ms: ms_since_1970(login + token::SESSION),
        };
        // Something may have voided all tokens while the password was checked.
        if !answered(self.store.add_refresh(stored)).await? {
            return Err(wrong_credentials());
        }
        Ok(Tokens {
            access_token,
            expires_in,
            refresh_token: Some(refresh_token),
        })
    }

    /// Whose access token this is. A key is none.
    ///
    /// # Errors
    /// `invalid_token`, `user_disabled`, `store_unavailable`.
    pub async fn caller(&self, credential: &str) -> Result<Caller, Error> {
        if !token::has_shape(credential) {
            return Err(Error::new(
                Code::InvalidToken,
                "this route needs the access token of a user: log in and send that token",
            ));
        }
        let (user, claims) = self.by_token(credential).await?;
        let since = SystemTime::now().duration_since(claims.login());
        Ok(Caller {
            user,
            is_recent: since.unwrap_or_default() < RECENT_LOGIN,
        })
    }

    /// A new access token for one that is still good, within the same session. The store is asked
    /// whether it is.
    ///
    /// # Errors
    /// `invalid_token`, `user_disabled`, `store_unavailable`.
    pub async fn renew(&self, access_token: &str) -> Result<Tokens, Error> {
        let claims = self.tokens.check(access_token)?;
        let id = claims.user().ok_or_else(token::invalid)?;
        let user = self.directory.user_anew(id).await?;
        let user = user.ok_or_else(token::invalid)?;
        check_enabled(&user)?;
        if claims.generation() != user.generation {
            return Err(token::invalid());
        }
        if !answered(self.store.has_family(id, claims.family())).await? {
            return Err(token::invalid());
        }
        let session = (claims.login(), claims.family());
        let (access_token, expires_in) = self.tokens.issue(user.id, user.generation, session)?;
        Ok(Tokens {
            access_token,
            expires_in,
            refresh_token: None,
        })
    }

    /// New tokens for a refresh token, which is used up. One that is shown a second time has been
    /// stolen or lost: then nothing of its login is refreshed any more.
    ///
    /// # Errors
    /// `invalid_token`, `user_disabled`, `store_unavailable`.
    pub async fn refresh(&self, refresh_token: &str) -> Result<Tokens, Error> {
        let maker = self.maker.get(&self.store).await.map_err(unavailable)?;
        if !maker.made(Kind::Refresh, refresh_token) {
            return Err(token::invalid());
        }
        let next = maker.make(Kind::Refresh);
        let (old, new) = (KeyHash::of(refresh_token), KeyHash::of(&next));
        let refreshed = self.store.refresh(old.as_bytes(), new.as_bytes());
        let (row, family, session_ends_ms) = match answered(refreshed).await? {
            Refreshed::Renewed {
                user,
                family,
                expires_at_ms,
            } => (user, family, expires_at_ms),
            Refreshed::Reused { user_id } => {
                let user = self.directory.user(user_id).await?;
                let name = user.as_ref().map_or("", |user| &user.name);
                audit(name, "refresh_token_reused", name);
                return Err(token::invalid());
            }
            Refreshed::Unknown => return Err(token::invalid()),
        };
        let user = User::from(row);
        check_enabled(&user)?;
        let ends = UNIX_EPOCH + Duration::from_millis(u64::try_from(session_ends_ms).unwrap_or(0));
        let login = ends.checked_sub(token::SESSION).unwrap_or(UNIX_EPOCH);
        let session = (login, family.as_str());
        let (access_token, expires_in) = self.tokens.issue(user.id, user.generation, session)?;
        Ok(Tokens {
            access_token,
            expires_in,
            refresh_token: Some(next),
        })
    }

    /// Whose name and password these are. Takes as long for a name that nobody has.
    ///
    /// # Errors
    /// `invalid_credentials`, `rate_limit_exceeded`, `store_unavailable`.
    pub(super) async fn check_password(
        &self,
        name: &str,
        password: &str,
        client: IpAddr,
    ) -> Result<UserRow, Error> {
        let name = name::fold(name);
        // What is no name is counted as one, whatever it is and however long.
        let counted_as = name.as_deref().unwrap_or_default();
        let attempt = self.throttle.begin(counted_as, client);
        let attempt = attempt.map_err(too_many_failures)?;
        let judged = self.judge(name.as_deref(), password).await;
        match judged {
            Ok(Some(row)) => {
                attempt.succeed();
                Ok(row)
            }
            Ok(None) => {
                fail(attempt, counted_as, client);
                Err(wrong_credentials())
            }
            Err(error) => {
                attempt.withdraw();
                Err(error)
            }
        }
    }

    async fn judge(&self, name: Option<&str>, password: &str) -> Result<Option<UserRow>, Error> {
        let row = match name {
            Some(name) => answered(self.store.user_named(name)).await?,
            None => None,
        };
        let phc = row.as_ref().map(|row| row.password_hash.as_str());
        let matches = self.passwords.matches(password, phc).await?;
        Ok(row.filter(|_| matches))
    }

    async fn make_refresh(&self) -> Result<String, Error> {
        let maker = self.maker.get(&self.store).await.map_err(unavailable)?;
        Ok(maker.make(Kind::Refresh))
    }
}

fn wrong_credentials() -> Error {
    Error::new(
        Code::InvalidCredentials,
        "the username or the password is wrong",
    )
}

fn fail(attempt: Attempt<'_>, name: &str, client: IpAddr) {
    let (actor, action) = match attempt.fail() {
        None => return,
        Some(Burst::Pair) => (client.to_string(), "logins_of_user_slowed_down"),
        Some(Burst::Address) => (client.to_string(), "logins_of_address_slowed_down"),
    };
    audit(&actor, action, name);
}

pub(super) fn too_many_failures(wait: Duration) -> Error {
    // In whole seconds, and not a moment too early.
    let wait = Duration::from_secs(wait.as_secs() + u64::from(wait.subsec_nanos() > 0));
    Error::new(
        Code::RateLimitExceeded,
        "too many attempts from here; wait a little and try again",
    )
    .retry_after(wait.min(Duration::from_mins(1)))
}

fn ms_since_1970(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
