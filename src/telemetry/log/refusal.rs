//! Refused requests in the log, at most ten lines a second: a flood of bad keys must not become a
//! flood of lines. What was left out is counted in the next line (and, one by one, in the metrics).

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::error::Code;

const LINES_PER_WINDOW: u32 = 10;
const WINDOW: Duration = Duration::from_secs(1);

/// What is said of one refused request; never a credential.
#[derive(Clone, Copy, Debug)]
pub struct Refusal<'a> {
    pub code: Code,
    pub status: u16,
    /// The route's name, or the class of what was refused before a route was known.
    pub route: &'a str,
    pub request_id: &'a str,
    /// Causes for the log, empty if there are none.
    pub cause: &'a str,
}

/// Bounds the lines of refusals.
#[derive(Debug, Default)]
pub struct RefusalLog {
    window: Mutex<Option<Window>>,
}

#[derive(Debug)]
struct Window {
    began: Instant,
    written: u32,
    suppressed: u64,
}

impl RefusalLog {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes the refusal, or counts it when this second has had its lines. What the gateway or the
    /// upstream is to blame for is a warning, the rest is information.
    pub fn write(&self, refusal: &Refusal<'_>) {
        let Some(suppressed) = self.admit(Instant::now()) else {
            return;
        };
        let Refusal {
            code,
            status,
            route,
            request_id,
            cause,
        } = *refusal;
        let code = code.as_str();
        let cause = (!cause.is_empty()).then_some(cause);
        let suppressed = (suppressed > 0).then_some(suppressed);
        if status >= 500 {
            tracing::warn!(
                code, status, route, request_id, cause, suppressed, "refused"
            );
        } else {
            tracing::info!(
                code, status, route, request_id, cause, suppressed, "refused"
            );
        }
    }

    /// As [`RefusalLog::write`], of a call that a limit would have refused that is only watched.
    pub fn write_pardon(&self, code: Code, owner: &str) {
        if let Some(suppressed) = self.admit(Instant::now()) {
            let code = code.as_str();
            let suppressed = (suppressed > 0).then_some(suppressed);
            tracing::info!(code, owner, suppressed, "would be refused without dry_run");
        }
    }

    /// `None` if the line is left out, else how many were left out since the last one.
    fn admit(&self, now: Instant) -> Option<u64> {
        let mut slot = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let window = slot.get_or_insert(Window {
            began: now,
            written: 0,
            suppressed: 0,
        });
        if now.duration_since(window.began) >= WINDOW {
            window.began = now;
            window.written = 0;
        }
        if window.written == LINES_PER_WINDOW {
            window.suppressed += 1;
            return None;
        }
        window.written += 1;
        Some(std::mem::take(&mut window.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_lines_a_second_and_the_rest_is_counted() {
        let log = RefusalLog::new();
        let start = Instant::now();
        let written = (0..25).filter(|_| log.admit(start).is_some()).count();
        assert_eq!(written, 10);
        assert_eq!(log.admit(start + Duration::from_millis(999)), None);
        assert_eq!(log.admit(start + WINDOW), Some(16));
        assert_eq!(log.admit(start + WINDOW), Some(0));
    }
}
