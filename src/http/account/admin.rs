//! Users as administrators see them, and change them. Never a key or a password's hash.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Answer, Ask, ok, rfc3339, standing};
use crate::auth::User;
use crate::error::{Code, Error};
use crate::http::admin_of;

const MOST_USERS: u64 = 200;
const USERS: u64 = 100;

/// `GET /admin/users?after=&limit=`.
pub async fn list(ask: &mut Ask<'_>) -> Result<Answer, Error> {
    admin(ask).await?;
    let query = ask.query()?;
    let after = query.text("after")?.unwrap_or_default();
    let limit = query.whole("limit")?.unwrap_or(USERS);
    let limit = u32::try_from(limit).unwrap_or(0);
    if !(1..=MOST_USERS).contains(&u64::from(limit)) {
        let text = "the field limit must be a whole number of users, from one to two hundred";
        return Err(Error::new(Code::InvalidRequest, text).param("limit"));
    }
    let listed = ask.users.list(&after, limit + 1).await?;
    let shown = usize::try_from(limit).unwrap_or(usize::MAX);
    let next = (listed.len() > shown).then(|| listed[shown - 1].name.clone());
    let mut users = Vec::with_capacity(shown);
    for user in listed.iter().take(shown) {
        users.push(describe(ask, user).await?);
    }
    Ok(ok(&json!({"users": users, "next": next.as_deref()})))
}

/// `PUT /admin/users/{name}/token-limit`.
pub async fn set_limit(ask: &mut Ask<'_>, name: &str) -> Result<Answer, Error> {
    let admin = admin(ask).await?;
    let limit = ask.token_limit().await?;
    let user = ask.users.set_limit(&admin, name, limit).await?;
    Ok(ok(&describe(ask, &user).await?))
}

/// `POST /admin/users/{name}/disable` and `/enable`.
pub async fn set_disabled(
    ask: &mut Ask<'_>,
    name: &str,
    is_disabled: bool,
) -> Result<Answer, Error> {
    let admin = admin(ask).await?;
    let user = ask.users.set_disabled(&admin, name, is_disabled).await?;
    Ok(ok(&describe(ask, &user).await?))
}

/// The name of the admin who asks.
async fn admin(ask: &Ask<'_>) -> Result<Arc<str>, Error> {
    let admin = admin_of(ask.gateway, ask.headers()).await?;
    Ok(admin.key_name().unwrap_or_default())
}

async fn describe(ask: &Ask<'_>, user: &User) -> Result<Value, Error> {
    let standing = standing::of(ask, &user.allowance, 0).await?;
    Ok(json!({
        "id": user.id,
        "username": &*user.name,
        "token_limit": user.token_limit,
        "limit_set_by": if user.limit_is_admins { "admin" } else { "user" },
        "tokens_used": standing.used,
        "disabled": user.is_disabled,
        "created_at": rfc3339(user.created_at),
        "api_key_prefix": user.key_prefix,
    }))
}
