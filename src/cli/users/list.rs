//! The users as a table and as JSON; never a key, a password or a hash of one.

use std::fmt::Write as _;

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::PAGE;
use crate::store::{Store, StoreError, UserRow};

const HEADING: [&str; 7] = ["NAME", "ID", "USED", "LIMIT", "STATE", "KEY", "SINCE"];

/// A user and the tokens that it has used.
pub(super) struct Listed {
    user: UserRow,
    used: u64,
}

/// All users, by name.
pub(super) async fn read(store: &Store) -> Result<Vec<Listed>, StoreError> {
    let mut all: Vec<Listed> = Vec::new();
    loop {
        let after = all.last().map_or("", |listed| &listed.user.name);
        let page = store.users(after, PAGE).await?;
        if page.is_empty() {
            return Ok(all);
        }
        for user in page {
            // The budget of a user has no periods; of its days none are asked for.
            let owner = format!("user:{}", user.id);
            let used = store.budget_use(&owner, 0, i64::MAX).await?.used;
            all.push(Listed { user, used });
        }
    }
}

/// One line per user under a heading.
pub(super) fn table(users: &[Listed]) -> String {
    if users.is_empty() {
        return "no users; `tollgate users add NAME` makes one\n".to_owned();
    }
    let mut rows = vec![HEADING.map(str::to_owned)];
    rows.extend(users.iter().map(row));
    let width = |column: usize| {
        let widths = rows.iter().map(|row| row[column].chars().count());
        widths.max().unwrap_or_default()
    };
    let widths: [usize; HEADING.len()] = std::array::from_fn(width);
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            // Writing to a string cannot fail.
            let _written = write!(line, "{cell:<width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn row(listed: &Listed) -> [String; HEADING.len()] {
    let user = &listed.user;
    let whose = if user.limit_is_admins { " (set)" } else { "" };
    [
        user.name.clone(),
        user.id.to_string(),
        listed.used.to_string(),
        format!("{}{whose}", user.token_limit),
        if user.is_disabled {
            "disabled"
        } else {
            "enabled"
        }
        .to_owned(),
        format!("{}...", user.key_prefix),
        since(user).unwrap_or_default(),
    ]
}

/// A JSON array with one object per user.
pub(super) fn json(users: &[Listed]) -> anyhow::Result<String> {
    let object = |listed: &Listed| {
        let user = &listed.user;
        json!({
            "id": user.id,
            "username": user.name,
            "token_limit": user.token_limit,
            "limit_is_admins": user.limit_is_admins,
            "tokens_used": listed.used,
            "disabled": user.is_disabled,
            "api_key_prefix": user.key_prefix,
            "created_at": since(user),
        })
    };
    let list: Vec<Value> = users.iter().map(object).collect();
    Ok(serde_json::to_string_pretty(&list)? + "\n")
}

fn since(user: &UserRow) -> Option<String> {
    let at = OffsetDateTime::from_unix_timestamp(user.created_at_ms.div_euclid(1000)).ok()?;
    at.format(&Rfc3339).ok()
}
