//! Cloud Run's front end of a private service: who comes without a good ID token never reaches the
//! server behind it.

use std::fmt;
use std::sync::Arc;

use super::journal::Call;
use super::plan::Plan;

type Judge = dyn Fn(&str, &str) -> bool + Send + Sync;

/// Which tokens are good, and for which address.
#[derive(Clone)]
pub struct IdTokens(Arc<Judge>);

impl IdTokens {
    /// `is_good` is asked about a token and an address.
    pub fn judged_by(is_good: impl Fn(&str, &str) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(is_good))
    }
}

impl fmt::Debug for IdTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdTokens")
    }
}

/// The door.
pub struct Front {
    pub tokens: IdTokens,
    pub audience: String,
}

impl Front {
    /// How it turns the call away, if it does.
    pub fn refuse(&self, call: &Call) -> Option<Plan> {
        let names = ["x-serverless-authorization", "authorization"];
        let shown = names.map(|name| call.header(name));
        let Some(shown) = shown.into_iter().find(|shown| !shown.is_empty()) else {
            let page = "<html><title>403 Forbidden</title>Your client does not have permission";
            return Some(Plan::bytes(403, "text/html; charset=UTF-8", page));
        };
        let token = shown.strip_prefix("Bearer ").unwrap_or_default();
        if (self.tokens.0)(token, &self.audience) {
            return None;
        }
        let page = "<html><title>401 Unauthorized</title>Your client does not have permission";
        let mut plan = Plan::bytes(401, "text/html; charset=UTF-8", page);
        let challenge = r#"Bearer error="invalid_token""#.to_owned();
        plan.headers
            .push(("www-authenticate".to_owned(), challenge));
        Some(plan)
    }
}
