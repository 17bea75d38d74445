//! What a client is told whose call no server took, or took and did not answer. Pure.

use std::time::Duration;

use crate::error::{Code, Error};

/// When a client may come again, unless a start was measured.
const USUAL_START: Duration = Duration::from_secs(30);
const LONGEST_RETRY: Duration = Duration::from_mins(1);

/// What the client is told when no head came.
pub fn no_head() -> Error {
    Error::new(
        Code::UpstreamTimeout,
        "the model server did not begin to answer in time",
    )
}

/// What the client is told when a call was sent and got no answer.
pub fn describe(error: reqwest::Error) -> Error {
    Error::new(
        Code::UpstreamError,
        "the model server broke the connection before it answered",
    )
    .because(error.without_url())
}

/// What the client is told when the server went away while it worked.
pub fn gone() -> Error {
    Error::new(
        Code::UpstreamError,
        "the model server went away before it answered",
    )
}

/// What the client is told of a server that did not come up while it waited.
/// `start` is how long a start takes, as measured.
pub fn starting(start: Option<Duration>) -> Error {
    let text = "the model server is still starting; try again later";
    Error::new(Code::UpstreamStarting, text).retry_after(start_wait(start))
}

/// What a client is told that comes while too many wait.
pub fn crowded(start: Option<Duration>) -> Error {
    let text =
        "the model server is not ready and too many calls wait for it already; try again later";
    Error::new(Code::UpstreamStarting, text).retry_after(start_wait(start))
}

fn start_wait(start: Option<Duration>) -> Duration {
    let wait = start.unwrap_or(USUAL_START);
    wait.clamp(Duration::from_secs(1), LONGEST_RETRY)
}

/// What the client is told of a server that nobody can reach.
pub fn unreachable(cause: Option<reqwest::Error>) -> Error {
    let error = Error::new(
        Code::UpstreamUnreachable,
        "the model server cannot be reached; its operator should check that it runs and that its address is right",
    );
    match cause {
        Some(cause) => error.because(cause.without_url()),
        None => error,
    }
}

/// A key that starts no server came before one that sleeps.
pub fn may_not_wake() -> Error {
    Error::new(
        Code::WakeNotAllowed,
        "the model server sleeps and this key may not start it; call it while it runs, or ask an administrator for a key that may",
    )
}

/// Counting routes start no server.
pub fn asleep() -> Error {
    Error::new(
        Code::UpstreamStarting,
        "counting tokens does not start the model server, which is not running; try again later, after a call that starts it",
    )
    .retry_after(Duration::from_secs(30))
}
