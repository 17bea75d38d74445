//! Errors as Google's front end and BigQuery answer them.

use serde_json::{Value, json};

/// An error answer in Google's JSON.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub status: u16,
    /// The `reason` of its one error, such as `notFound`.
    pub reason: String,
    pub message: String,
}

impl Refusal {
    pub fn new(status: u16, reason: &str, message: impl Into<String>) -> Self {
        Self {
            status,
            reason: reason.to_owned(),
            message: message.into(),
        }
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(400, "invalid", message)
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(404, "notFound", message)
    }

    pub fn duplicate(message: impl Into<String>) -> Self {
        Self::new(409, "duplicate", message)
    }

    /// The caller lacks a role.
    pub fn denied(message: impl Into<String>) -> Self {
        Self::new(403, "accessDenied", message)
    }

    /// Too many calls, as BigQuery itself says it.
    pub fn rate_limit() -> Self {
        let message = "Exceeded rate limits: too many api requests per user per method for this user_method. \
            For more information, see https://cloud.google.com/bigquery/docs/troubleshoot-quotas";
        Self::new(403, "rateLimitExceeded", message)
    }

    /// Too many calls, as the front end says it.
    pub fn too_many() -> Self {
        Self::new(
            429,
            "rateLimitExceeded",
            "Resource has been exhausted (e.g. check quota).",
        )
    }

    pub fn unavailable() -> Self {
        let message = "Error encountered during execution. Retrying may solve the problem.";
        Self::new(503, "backendError", message)
    }

    pub fn unauthenticated() -> Self {
        let message = "Request had invalid authentication credentials. Expected OAuth 2 access token, \
            login cookie or other valid authentication credential.";
        Self::new(401, "authError", message)
    }

    /// The body of the answer.
    pub fn body(&self) -> Value {
        let canonical = match self.status {
            400 | 413 => "INVALID_ARGUMENT",
            401 => "UNAUTHENTICATED",
            403 => "PERMISSION_DENIED",
            404 => "NOT_FOUND",
            409 => "ALREADY_EXISTS",
            412 => "FAILED_PRECONDITION",
            429 => "RESOURCE_EXHAUSTED",
            503 => "UNAVAILABLE",
            _ => "INTERNAL",
        };
        let error = json!({"message": self.message, "domain": "global", "reason": self.reason});
        json!({"error": {
            "code": self.status,
            "message": self.message,
            "errors": [error],
            "status": canonical,
        }})
    }
}
