//! Registration, login and refresh.

use http::StatusCode;
use serde_json::json;

use super::{Answer, Ask, fields, ok};
use crate::auth::{NewAccount, Principal, Tokens, presented_key};
use crate::config::Registration;
use crate::error::{Code, Error};
use crate::http::{admin_of, reply};

/// `POST /auth/register`.
pub async fn register(ask: &mut Ask<'_>) -> Result<Answer, Error> {
    let admin = may_register(ask).await?;
    let fields = ask.fields().await?;
    // A page can send forms without asking first.
    if fields.is_form() {
        return Err(Error::new(
            Code::UnsupportedMediaType,
            "this route takes JSON; send content-type: application/json",
        ));
    }
    let admin = admin.and_then(|admin| admin.key_name());
    let is_counted = admin.is_none() && !ask.client.is_local;
    let new = NewAccount {
        name: &fields.needed("username")?,
        password: &fields.needed("password")?,
        token_limit: fields.whole("token_limit")?,
        admin: admin.as_deref(),
        client: is_counted.then_some(ask.client.address),
    };
    let (user, api_key) = ask.users.register(new).await?;
    let body = json!({
        "id": user.id,
        "username": &*user.name,
        "token_limit": user.token_limit,
        "tokens_used": 0,
        "api_key": api_key,
    });
    Ok(reply::json(StatusCode::CREATED, &body))
}

/// The admin who registers somebody; `None` if it is anybody else who may.
async fn may_register(ask: &Ask<'_>) -> Result<Option<Principal>, Error> {
    let closed = |text: &'static str| Error::new(Code::RegistrationClosed, text);
    let shown = match presented_key(ask.headers()) {
        Err(error) if error.code() == Code::MissingApiKey => None,
        shown => Some(shown),
    };
    match ask.users.registration() {
        Registration::Closed => Err(closed(
            "nobody can register here; ask whoever runs this gateway for an account",
        )),
        Registration::Local if !ask.client.is_local => Err(closed(
            "registration is open only to requests from the machine that the gateway runs on; whoever runs it can set REGISTRATION to `admin` or `open`",
        )),
        Registration::Admin if shown.is_none() => Err(closed(
            "registration needs an admin key; ask whoever runs this gateway for an account",
        )),
        Registration::Admin => admin_of(ask.gateway, ask.headers()).await.map(Some),
        Registration::Open | Registration::Local if shown.is_none() => Ok(None),
        Registration::Open | Registration::Local => {
            let principal = ask.gateway.identify(ask.headers()).await?;
            Ok(principal.is_admin().then_some(principal))
        }
    }
}

/// `POST /auth/token`.
pub async fn log_in(ask: &mut Ask<'_>) -> Result<Answer, Error> {
    let fields = ask.fields().await?;
    if fields
        .text("grant_type")?
        .is_some_and(|grant| grant != "password")
    {
        let text = "this route takes only the grant type `password`";
        return Err(Error::new(Code::InvalidRequest, text).param("grant_type"));
    }
    let (name, password) = (fields.needed("username")?, fields.needed("password")?);
    let client = ask.client.address;
    let tokens = ask.users.log_in(&name, &password, client).await?;
    Ok(answer(&tokens))
}

/// `POST /auth/refresh`: by the refresh token in the body, else by the access token in the headers.
pub async fn refresh(ask: &mut Ask<'_>) -> Result<Answer, Error> {
    let refresh_token = ask.fields().await?.text("refresh_token")?;
    let tokens = match refresh_token {
        Some(token) => ask.users.refresh(&token).await?,
        None => match presented_key(ask.headers()) {
            Ok(token) => ask.users.renew(token).await?,
            Err(error) if error.code() == Code::MissingApiKey => {
                return Err(fields::missing("refresh_token"));
            }
            Err(error) => return Err(error),
        },
    };
    Ok(answer(&tokens))
}

fn answer(tokens: &Tokens) -> Answer {
    let mut body = json!({
        "access_token": tokens.access_token,
        "token_type": "bearer",
        "expires_in": tokens.expires_in.as_secs(),
    });
    if let Some(token) = &tokens.refresh_token {
        body["refresh_token"] = token.as_str().into();
    }
    ok(&body)
}
