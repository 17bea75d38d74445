//! Routes of users, and of administrators for users: thin, they parse, call and answer. No password,
//! key or token leaves here but in the answer that it is for.

mod admin;
mod client;
mod fields;
mod session;
mod standing;
mod user;

use std::net::IpAddr;
use std::time::SystemTime;

use http::StatusCode;
use http::header::HeaderMap;
use http::request::Parts;
use hyper::body::Incoming;
use serde_json::Value;

use super::body::{self, Answer};
use super::route::Account;
use super::{Gateway, reply};
use crate::auth::{Caller, Users, presented_key};
use crate::error::{Code, Error};
use client::Client;
use fields::Fields;

/// Bodies of these routes are a few words.
const BODY_BYTES: usize = 2 << 20;

/// A request to one of these routes. The body is there until it was read.
struct Ask<'a> {
    gateway: &'a Gateway,
    users: &'a Users,
    head: Parts,
    body: Option<Incoming>,
    client: Client,
}

/// Answers a request to one of these routes.
///
/// # Errors
/// What the client gets instead.
pub async fn answer(
    gateway: &Gateway,
    account: &Account,
    request: http::Request<Incoming>,
    peer: IpAddr,
) -> Result<Answer, Error> {
    let (head, body) = request.into_parts();
    let Some(users) = &gateway.users else {
        body::drain(&head.headers, body).await;
        return Err(Error::new(
            Code::AccountsDisabled,
            "this gateway has no user accounts; call it with a service key",
        ));
    };
    let mut ask = Ask {
        gateway,
        users,
        client: Client::of(&head, peer, gateway.instance.on_cloud_run),
        head,
        body: Some(body),
    };
    let outcome = route(&mut ask, account).await;
    if outcome.is_err()
        && let Some(body) = ask.body.take()
    {
        body::drain(&ask.head.headers, body).await;
    }
    outcome
}

async fn route(ask: &mut Ask<'_>, account: &Account) -> Result<Answer, Error> {
    match account {
        Account::Register => session::register(ask).await,
        Account::Token => session::log_in(ask).await,
        Account::Refresh => session::refresh(ask).await,
        Account::Me => user::me(ask).await,
        Account::Password => user::change_password(ask).await,
        Account::ApiKey => user::replace_key(ask).await,
        Account::TokenLimit => user::set_limit(ask).await,
        Account::Usage => user::usage(ask).await,
        Account::Users => admin::list(ask).await,
        Account::LimitOf(name) => admin::set_limit(ask, name).await,
        Account::Disable(name) => admin::set_disabled(ask, name, true).await,
        Account::Enable(name) => admin::set_disabled(ask, name, false).await,
    }
}

impl Ask<'_> {
    fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    /// What the body says.
    async fn fields(&mut self) -> Result<Fields, Error> {
        let Some(body) = self.body.take() else {
            return Ok(Fields::none());
        };
        let bodies = self.gateway.bodies.of_at_most(BODY_BYTES);
        let (text, _held) = bodies.read(&self.head.headers, body).await?;
        Fields::of_body(&self.head.headers, text)
    }

    /// What the query says.
    fn query(&self) -> Result<Fields, Error> {
        Fields::of_form(self.head.uri.query().unwrap_or_default())
    }

    /// The user whose access token this is.
    async fn caller(&self) -> Result<Caller, Error> {
        self.users.caller(presented_key(self.headers())?).await
    }

    /// The limit that the query or the body names.
    async fn token_limit(&mut self) -> Result<u64, Error> {
        let in_query = self.query()?.whole("token_limit")?;
        let in_body = self.fields().await?.whole("token_limit")?;
        match (in_query, in_body) {
            (Some(limit), None) | (None, Some(limit)) => Ok(limit),
            (Some(_), Some(_)) => Err(fields::twice("token_limit")),
            (None, None) => Err(fields::missing("token_limit")),
        }
    }
}

fn ok(value: &Value) -> Answer {
    reply::json(StatusCode::OK, value)
}

/// A moment as answers show it.
fn rfc3339(time: SystemTime) -> Option<String> {
    time::OffsetDateTime::from(time)
        .format(&time::format_description::well_known::Rfc3339)
        .ok()
}
