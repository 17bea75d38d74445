//! What tests have ordered for the calls to come.

use std::time::Duration;

use super::{Kind, Refusal};

/// What happens to a call.
#[derive(Clone, Debug)]
pub enum Order {
    /// It is refused with this status and Google's name for it.
    Refuse(u16),
    /// It is answered with this status and a page of HTML, as a front end does.
    Html(u16),
    /// The caller has not the right to it.
    Deny,
    /// It is done and answered, after so long.
    Delay(Duration),
    /// It is done, and the connection is closed without an answer.
    Drop,
    /// It is done, and the connection is left open without an answer.
    Mute,
    /// It is not done, and the connection is left open without an answer.
    Swallow,
    /// Somebody else first adds as a version what this makes of the newest payload; then it is done.
    After(fn(&str) -> String),
}

/// Whether a token is taken.
pub type Takes = Box<dyn Fn(&str) -> bool + Send>;

#[derive(Default)]
pub struct Orders {
    /// Each for one call, in their turn.
    pub next: Vec<(Kind, Order)>,
    pub always: Vec<(Kind, Order)>,
    /// The tokens that are taken; `None`: any, or none at all.
    pub takes: Option<Takes>,
}

impl Orders {
    /// Takes what was ordered for this call.
    pub fn take(&mut self, kind: Kind) -> Option<Order> {
        if let Some(at) = self.next.iter().position(|(other, _)| *other == kind) {
            return Some(self.next.remove(at).1);
        }
        let always = self.always.iter().find(|(other, _)| *other == kind);
        always.map(|(_, order)| order.clone())
    }

    /// Whether a caller with this token is let in.
    pub fn admits(&self, token: Option<&str>) -> Result<(), Refusal> {
        let Some(takes) = &self.takes else {
            return Ok(());
        };
        if token.is_some_and(takes) {
            return Ok(());
        }
        Err(Refusal::new(
            401,
            "UNAUTHENTICATED",
            "Request had invalid authentication credentials. Expected OAuth 2 access token.",
        ))
    }
}

/// A refusal that a test ordered, by its status.
pub fn refusal(status: u16) -> Refusal {
    let code = match status {
        400 => "INVALID_ARGUMENT",
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        409 => "ABORTED",
        429 => "RESOURCE_EXHAUSTED",
        500 => "INTERNAL",
        503 => "UNAVAILABLE",
        504 => "DEADLINE_EXCEEDED",
        _ => "UNKNOWN",
    };
    Refusal::new(status, code, "The service was told to refuse this call.")
}
