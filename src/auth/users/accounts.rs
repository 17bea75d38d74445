//! Changes of users, by themselves and by administrators. Each is one line for the audit.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::key::{Kind, shown_part};
use super::session::too_many_failures;
use super::{
    Caller, User, Users, answered, audit, audit_limit, name, password, token, unavailable,
};
use crate::auth::KeyHash;
use crate::config::{MOST_TOKENS, Registration};
use crate::error::{Code, Error};
use crate::store::{BudgetUse, NewKey, NewUser};

/// A user to be made.
pub struct NewAccount<'a> {
    pub name: &'a str,
    pub password: &'a str,
    /// Tokens; `None` for the default.
    pub token_limit: Option<u64>,
    /// The admin who makes the user.
    pub admin: Option<&'a str>,
    /// Counts among this address's registrations; `None` if it need not.
    pub client: Option<IpAddr>,
}

impl Users {
    /// Who may register.
    #[must_use]
    pub fn registration(&self) -> Registration {
        self.accounts.registration
    }

    /// Makes a user; the key is told this once.
    ///
    /// # Errors
    /// `invalid_request`, `username_taken`, `rate_limit_exceeded`, `store_unavailable`.
    pub async fn register(&self, new: NewAccount<'_>) -> Result<(Arc<User>, String), Error> {
        let name = name::check(new.name)?;
        password::check(new.password, "password")?;
        let most = match new.admin {
            Some(_) => MOST_TOKENS,
            None => self.accounts.max_self_token_limit,
        };
        if let Some(limit) = new.token_limit {
            check_limit(limit, 1, most)?;
        }
        if let Some(client) = new.client {
            self.throttle.register(client).map_err(too_many_failures)?;
        }
        let maker = self.maker.get(&self.store).await.map_err(unavailable)?;
        let key = maker.make(Kind::Key);
        let key_hash = KeyHash::of(&key);
        let password_hash = self.passwords.hash(new.password).await?;
        let user = NewUser {
            name: &name,
            password_hash: &password_hash,
            token_limit: new.token_limit.unwrap_or(self.accounts.default_token_limit),
            limit_is_admins: new.admin.is_some() && new.token_limit.is_some(),
            key: NewKey {
                hash: key_hash.as_bytes(),
                prefix: shown_part(&key),
            },
        };
        let row = answered(self.store.add_user(user)).await?.ok_or_else(|| {
            let text = "this username is taken; choose another";
            Error::new(Code::UsernameTaken, text).param("username")
        })?;
        audit(new.admin.unwrap_or(&name), "user_registered", &name);
        Ok((self.directory.change(row, false), key))
    }

    /// Changes the caller's password: all tokens are void. Without the current password the login
    /// must be recent.
    ///
    /// # Errors
    /// `invalid_request`, `invalid_credentials`, `invalid_token`, `rate_limit_exceeded`,
    /// `store_unavailable`.
    pub async fn change_password(
        &self,
        caller: &Caller,
        current: Option<&str>,
        new: &str,
        client: IpAddr,
    ) -> Result<(), Error> {
        let user = &caller.user;
        password::check(new, "new_password")?;
        match current {
            Some(current) => {
                self.check_password(&user.name, current, client).await?;
            }
            None if caller.is_recent => {}
            None => {
                let text = "send the current password as current_password, or log in anew";
                return Err(Error::new(Code::InvalidRequest, text).param("current_password"));
            }
        }
        let hash = self.passwords.hash(new).await?;
        let row = answered(self.store.set_password(user.id, user.generation, &hash)).await?;
        self.directory
            .change(row.ok_or_else(token::invalid)?, false);
        audit(&user.name, "password_changed", &user.name);
        Ok(())
    }

    /// Gives the user a new key, told this once: all tokens are void, and the keys before it end
    /// after `grace`.
    ///
    /// # Errors
    /// `invalid_token`, `store_unavailable`.
    pub async fn replace_key(
        &self,
        user: &User,
        grace: Duration,
    ) -> Result<(Arc<User>, String), Error> {
        let maker = self.maker.get(&self.store).await.map_err(unavailable)?;
        let key = maker.make(Kind::Key);
        let key_hash = KeyHash::of(&key);
        let stored = NewKey {
            hash: key_hash.as_bytes(),
            prefix: shown_part(&key),
        };
        let grace_ms = i64::try_from(grace.as_millis()).unwrap_or(i64::MAX);
        let asked_in = (user.id, user.generation);
        let row = answered(self.store.replace_key(asked_in, stored, grace_ms)).await?;
        let user = self.directory.change(row.ok_or_else(token::invalid)?, true);
        audit(&user.name, "key_replaced", &user.name);
        Ok((user, key))
    }

    /// Sets the user's own limit: not below the tokens `spent`, and not above an admin's.
    ///
    /// # Errors
    /// `invalid_request`, `invalid_token`, `store_unavailable`.
    pub async fn set_own_limit(
        &self,
        user: &User,
        limit: u64,
        spent: u64,
    ) -> Result<Arc<User>, Error> {
        let row = answered(self.store.user(user.id)).await?;
        let row = row.ok_or_else(gone)?;
        if row.generation != user.generation {
            return Err(token::invalid());
        }
        if row.limit_is_admins && limit > row.token_limit {
            return Err(wrong_limit(
                "the token limit was set by an admin and can only be lowered",
            ));
        }
        let most = if row.limit_is_admins {
            row.token_limit
        } else {
            self.accounts.max_self_token_limit
        };
        if limit < spent {
            return Err(wrong_limit(
                "the token limit is below what has been used already",
            ));
        }
        check_limit(limit, 1, most)?;
        let changed = self
            .store
            .set_token_limit(user.id, limit, row.limit_is_admins);
        let row = answered(changed).await?.ok_or_else(gone)?;
        audit_limit(&user.name, &user.name, limit);
        Ok(self.directory.change(row, false))
    }

    /// Sets a user's limit for an admin.
    ///
    /// # Errors
    /// `not_found`, `invalid_request`, `store_unavailable`.
    pub async fn set_limit(&self, admin: &str, name: &str, limit: u64) -> Result<Arc<User>, Error> {
        check_limit(limit, 1, MOST_TOKENS)?;
        let id = self.id_of(name).await?;
        let row = answered(self.store.set_token_limit(id, limit, true)).await?;
        let user = self.directory.change(row.ok_or_else(no_such_user)?, false);
        audit_limit(admin, &user.name, limit);
        Ok(user)
    }

    /// Disables or enables a user for an admin.
    ///
    /// # Errors
    /// `not_found`, `store_unavailable`.
    pub async fn set_disabled(
        &self,
        admin: &str,
        name: &str,
        is_disabled: bool,
    ) -> Result<Arc<User>, Error> {
        let id = self.id_of(name).await?;
        let row = answered(self.store.set_disabled(id, is_disabled)).await?;
        let user = self.directory.change(row.ok_or_else(no_such_user)?, false);
        let action = if is_disabled {
            "user_disabled"
        } else {
            "user_enabled"
        };
        audit(admin, action, &user.name);
        Ok(user)
    }

    /// How a budget stands, by its name and the start of its period, and its days since `since_ms`,
    /// both in milliseconds since 1970.
    ///
    /// # Errors
    /// `store_unavailable`.
    pub async fn budget_use(
        &self,
        (owner, period_start_ms): (&str, i64),
        since_ms: i64,
    ) -> Result<BudgetUse, Error> {
        answered(self.store.budget_use(owner, period_start_ms, since_ms)).await
    }

    /// Users by name, `limit` of them after `after`, a name or nothing.
    ///
    /// # Errors
    /// `invalid_request`, `store_unavailable`.
    pub async fn list(&self, after: &str, limit: u32) -> Result<Vec<User>, Error> {
        let after = match after {
            "" => String::new(),
            name => name::fold(name).ok_or_else(|| {
                let text = "the field after must be the name of a user";
                Error::new(Code::InvalidRequest, text).param("after")
            })?,
        };
        let rows = answered(self.store.users(&after, limit)).await?;
        Ok(rows.into_iter().map(User::from).collect())
    }

    async fn id_of(&self, name: &str) -> Result<i64, Error> {
        let name = name::fold(name).ok_or_else(no_such_user)?;
        let row = answered(self.store.user_named(&name)).await?;
        Ok(row.ok_or_else(no_such_user)?.id)
    }
}

fn check_limit(limit: u64, least: u64, most: u64) -> Result<(), Error> {
    if limit < least {
        return Err(wrong_limit("the token limit must be at least one token"));
    }
    if limit > most {
        return Err(wrong_limit(
            "the token limit is higher than users may have; ask whoever runs this gateway",
        ));
    }
    Ok(())
}

fn wrong_limit(text: &'static str) -> Error {
    Error::new(Code::InvalidRequest, text).param("token_limit")
}

fn no_such_user() -> Error {
    Error::new(Code::NotFound, "there is no user of this name")
}

/// Users are never removed; somebody else did.
fn gone() -> Error {
    Error::new(Code::InvalidToken, "this user does not exist any more")
}
