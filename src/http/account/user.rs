//! What users see of themselves, and change.

use std::time::Duration;

use serde_json::{Value, json};

use super::standing::{self, DAYS};
use super::{Answer, Ask, ok, rfc3339};
use crate::auth::Who;
use crate::error::{Code, Error};

const LONGEST_GRACE: Duration = Duration::from_hours(30 * 24);

/// `GET /users/me`; a service key sees its name.
pub async fn me(ask: &mut Ask<'_>) -> Result<Answer, Error> {
    let principal = ask.gateway.identify(ask.headers()).await?;
    let standing = standing::of(ask, principal.allowance(), 0).await?;
    let mut body = json!({
        "id": Value::Null,
        "username": principal.key_name().as_deref(),
        "token_limit": principal.allowance().limit,
        "tokens_used": standing.used,
        "api_key_prefix": Value::Null,
        "created_at": Value::Null,
    });
    if let Who::User(user) = &principal.who {
        body["id"] = user.id.into();
        body["username"] = (*user.name).into();
        body["api_key_prefix"] = user.key_prefix.as_str().into();
        body["created_at"] = rfc3339(user.created_at).into();
    }
    Ok(ok(&body))
}

/// `PUT /users/me/password`.
pub async fn change_password(ask: &mut Ask<'_>) -> Result<Answer, Error> {
    let caller = ask.caller().await?;
    let fields = ask.fields().await?;
    let current = fields.text("current_password")?;
    let new = fields.needed("new_password")?;
    let client = ask.client.address;
    ask.users
        .change_password(&caller, current.as_deref(), &new, client)
        .await?;
    Ok(ok(&json!({"message": "Password changed; log in again"})))
}

/// `POST /users/me/api-key`.
pub async fn replace_key(ask: &mut Ask<'_>) -> Result<Answer, Error> {
    let caller = ask.caller().await?;
    let grace_seconds = ask.fields().await?.whole("grace_seconds")?.unwrap_or(0);
    if grace_seconds > LONGEST_GRACE.as_secs() {
        let text = "the old key can go on working for thirty days at the most";
        return Err(Error::new(Code::InvalidRequest, text).param("grace_seconds"));
    }
    let grace = Duration::from_secs(grace_seconds);
    let (user, api_key) = ask.users.replace_key(&caller.user, grace).await?;
    let body = json!({
        "api_key": api_key,
        "api_key_prefix": user.key_prefix,
        "grace_seconds": grace_seconds,
    });
    Ok(ok(&body))
}

/// `PUT /users/me/token-limit`.
pub async fn set_limit(ask: &mut Ask<'_>) -> Result<Answer, Error> {
    let caller = ask.caller().await?;
    let limit = ask.token_limit().await?;
    let standing = standing::of(ask, &caller.user.allowance, 0).await?;
    let user = ask
        .users
        .set_own_limit(&caller.user, limit, standing.used)
        .await?;
    let body = json!({"message": "Token limit updated", "token_limit": user.token_limit});
    Ok(ok(&body))
}

/// `GET /users/usage?days=30`.
pub async fn usage(ask: &mut Ask<'_>) -> Result<Answer, Error> {
    let principal = ask.gateway.identify(ask.headers()).await?;
    let days = ask.query()?.whole("days")?.unwrap_or(30);
    if !DAYS.contains(&days) {
        let text = "the field days must be a whole number of days, from one to a year";
        return Err(Error::new(Code::InvalidRequest, text).param("days"));
    }
    let allowance = principal.allowance();
    let standing = standing::of(ask, allowance, days).await?;
    let remaining = allowance
        .limit
        .map(|limit| limit.saturating_sub(standing.used));
    let requests: u64 = standing.days.iter().map(|day| day.requests).sum();
    let body = json!({
        "tokens_used": standing.used,
        "token_limit": allowance.limit,
        "remaining": remaining,
        "period": allowance.period.as_str(),
        "requests": requests,
        "daily": standing::daily(&standing.days),
    });
    Ok(ok(&body))
}
