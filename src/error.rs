//! The one error of the request path: a code from a closed set, a text written for the client, and
//! a cause for the log. It knows nothing of HTTP; `http::reply` gives it a status and a shape.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

/// What went wrong, as the client and the metrics see it. The names are the contract's `code`s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    InvalidRequest,
    ContextLengthExceeded,
    MissingApiKey,
    InvalidApiKey,
    /// A user's token that is expired, revoked or none of ours.
    InvalidToken,
    InvalidCredentials,
    UsernameTaken,
    RegistrationClosed,
    UserDisabled,
    ModelNotAllowed,
    AdminRequired,
    NotFound,
    ModelNotFound,
    AccountsDisabled,
    MethodNotAllowed,
    RequestTimeout,
    BodyTooLarge,
    UnsupportedMediaType,
    /// Settled use leaves no room.
    TokenLimitExceeded,
    RateLimitExceeded,
    /// A fault of the gateway itself.
    Internal,
    UpstreamUnreachable,
    UpstreamError,
    ReloadFailed,
    UpstreamStarting,
    /// The model server sleeps, and this key may not start it.
    WakeNotAllowed,
    Overloaded,
    NotReady,
    StoreUnavailable,
    UpstreamTimeout,
}

impl Code {
    /// The `code` of the error object, the `error_code` of a row, and a metric label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::ContextLengthExceeded => "context_length_exceeded",
            Self::MissingApiKey => "missing_api_key",
            Self::InvalidApiKey => "invalid_api_key",
            Self::InvalidToken => "invalid_token",
            Self::InvalidCredentials => "invalid_credentials",
            Self::UsernameTaken => "username_taken",
            Self::RegistrationClosed => "registration_closed",
            Self::UserDisabled => "user_disabled",
            Self::ModelNotAllowed => "model_not_allowed",
            Self::AdminRequired => "admin_required",
            Self::NotFound => "not_found",
            Self::ModelNotFound => "model_not_found",
            Self::AccountsDisabled => "accounts_disabled",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::RequestTimeout => "request_timeout",
            Self::BodyTooLarge => "body_too_large",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::TokenLimitExceeded => "token_limit_exceeded",
            Self::RateLimitExceeded => "rate_limit_exceeded",
            Self::Internal => "internal_error",
            Self::UpstreamUnreachable => "upstream_unreachable",
            Self::UpstreamError => "upstream_error",
            Self::ReloadFailed => "reload_failed",
            Self::UpstreamStarting => "upstream_starting",
            Self::WakeNotAllowed => "wake_not_allowed",
            Self::Overloaded => "overloaded",
            Self::NotReady => "not_ready",
            Self::StoreUnavailable => "store_unavailable",
            Self::UpstreamTimeout => "upstream_timeout",
        }
    }
}

/// A failure on its way to the client.
///
/// `message` reaches the client, so it holds no ids, no digits and no secret (OpenCode retries any
/// error whose text contains certain digits). `cause` reaches the log alone.
#[derive(Debug)]
pub struct Error {
    code: Code,
    message: Cow<'static, str>,
    param: Option<&'static str>,
    status: Option<u16>,
    retry_after: Option<Duration>,
    cause: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error with a text for the client.
    #[must_use]
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            message: message.into(),
            param: None,
            status: None,
            retry_after: None,
            cause: None,
        }
    }

    /// Names the request field that is at fault.
    #[must_use]
    pub fn param(mut self, param: &'static str) -> Self {
        self.param = Some(param);
        self
    }

    /// Keeps another status than the code's own: an upstream's, where it means more to the client.
    #[must_use]
    pub fn status(mut self, status: u16) -> Self {
        self.status = Some(status);
        self
    }

    /// Tells the client when to come again.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// Keeps what lies beneath, for the log.
    #[must_use]
    pub fn because(mut self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    #[must_use]
    pub fn code(&self) -> Code {
        self.code
    }

    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    #[must_use]
    pub fn field(&self) -> Option<&'static str> {
        self.param
    }

    #[must_use]
    pub fn kept_status(&self) -> Option<u16> {
        self.status
    }

    #[must_use]
    pub fn wait(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The cause and its causes in one line, for the log; empty if there is none.
    #[must_use]
    pub fn cause_chain(&self) -> String {
        let mut chain = String::new();
        let mut next: Option<&dyn std::error::Error> =
            self.cause.as_deref().map(|cause| cause as _);
        while let Some(cause) = next {
            if !chain.is_empty() {
                chain.push_str(": ");
            }
            chain.push_str(&cause.to_string());
            next = cause.source();
        }
        chain
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.message)
    }
}

impl std::error::Error for Error {}
