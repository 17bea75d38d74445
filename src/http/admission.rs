//! What an admitted call holds, as one value. Dropping it settles the call: whatever happens, one
//! row, once.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::Gateway;
use super::hold::{Count, Hold};
use crate::auth::Principal;
use crate::budget::Ending;
use crate::error::{Code, Error};
use crate::upstream::{Passage, Progress, Request};
use crate::usage::{CountedBy, Outcome, UsageRecord};

/// An admitted call. Until something else is said it is one that the client left before the head.
pub struct Admission {
    gateway: Arc<Gateway>,
    record: Option<UsageRecord>,
    started: Instant,
    progress: Arc<Progress>,
    hold: Hold,
    count: Option<Count>,
    /// How often the engine counts the prompt.
    copies: u64,
    /// What stands in the row where nobody counted the prompt.
    prompt_estimate: u64,
}

/// What the request says of itself, for the row.
pub struct Caller {
    pub request_id: String,
    pub client_request_id: Option<String>,
    pub client: Option<String>,
    pub trace: Option<String>,
    pub started: Instant,
    pub started_at: SystemTime,
}

impl Admission {
    /// Admits a call: takes what its principal's limits ask for, waiting a little where that may
    /// help. The request's output is lowered to the tokens that there are.
    ///
    /// # Errors
    /// `rate_limit_exceeded`, `token_limit_exceeded`, `store_unavailable`; `invalid_request` and
    /// `model_not_allowed` for what a limited key cannot have; `not_ready` when the process ends
    /// meanwhile.
    pub async fn grant(
        gateway: &Arc<Gateway>,
        principal: &Principal,
        caller: Caller,
        request: &mut Request,
        request_bytes: usize,
    ) -> Result<Self, Error> {
        let hold = tokio::select! {
            biased;
            hold = Hold::take(gateway, principal, request) => hold?,
            () = gateway.cut.cancelled() => return Err(shutting_down()),
        };
        hold.tell(&caller.request_id);
        gateway.metrics.admitted();
        let record = UsageRecord {
            request_id: caller.request_id,
            client_request_id: caller.client_request_id,
            started_at: caller.started_at,
            finished_at: caller.started_at,
            principal: principal.kind(),
            key_name: principal.key_name(),
            key_id: principal.key_id.clone(),
            username: principal.username(),
            model: request.model.clone(),
            served_model: None,
            upstream: String::new(),
            endpoint: request.endpoint.path(),
            stream: request.stream,
            status: 499,
            outcome: Outcome::ClientAbort,
            error_code: None,
            prompt_tokens: 0,
            cached_tokens: 0,
            completion_tokens: 0,
            counted_by: CountedBy::None,
            attempts: 0,
            wait_ms: 0,
            woke: false,
            first_byte_ms: None,
            duration_ms: 0,
            request_bytes: wide(request_bytes),
            response_bytes: 0,
            client: caller.client,
            trace: caller.trace,
            budget: None,
            labels: principal.labels(),
        };
        Ok(Self {
            gateway: gateway.clone(),
            record: Some(record),
            started: caller.started,
            progress: Arc::default(),
            hold,
            count: None,
            copies: request.copies(),
            prompt_estimate: request.estimate_prompt(),
        })
    }

    /// Whether it may matter how fast the answer comes.
    pub fn is_bounded(&self) -> bool {
        self.hold.is_bounded()
    }

    /// What the output of each sequence was lowered to, if it was.
    pub fn lowered(&self) -> Option<u64> {
        self.hold.lowered()
    }

    /// Where the call stands upstream; shared with the call itself.
    pub fn progress(&self) -> Arc<Progress> {
        self.progress.clone()
    }

    /// The head goes to the client with this status.
    pub fn head(&mut self, status: u16) {
        self.change(|record| record.status = status);
    }

    /// The call has ended, and how.
    pub fn end(&mut self, outcome: Outcome, error_code: Option<String>) {
        self.change(|record| {
            record.outcome = outcome;
            record.error_code = error_code;
        });
    }

    /// The call failed with an error of the gateway's.
    pub fn fail(&mut self, error: &Error) {
        let outcome = match error.code() {
            Code::UpstreamTimeout => Outcome::Timeout,
            Code::NotReady => Outcome::Drained,
            Code::UpstreamError
            | Code::UpstreamUnreachable
            | Code::UpstreamStarting
            | Code::Overloaded => Outcome::UpstreamError,
            _ => Outcome::Complete,
        };
        self.end(outcome, Some(error.code().as_str().to_owned()));
    }

    /// What the call used, as far as it is known.
    pub fn count(&mut self, mut count: Count) {
        if count.counted_by == CountedBy::Estimate && count.tokens.prompt == 0 {
            count.tokens.prompt = self.prompt_estimate;
        }
        self.count = Some(count);
        self.change(|record| {
            record.prompt_tokens = count.tokens.prompt;
            record.cached_tokens = count.tokens.cached;
            record.completion_tokens = count.tokens.completion;
            record.counted_by = count.counted_by;
        });
    }

    /// Bytes go to the client; `is_data` unless they are a comment.
    pub fn sent(&mut self, bytes: usize, is_data: bool) {
        let elapsed = self.started.elapsed();
        self.change(|record| {
            record.response_bytes = record.response_bytes.saturating_add(wide(bytes));
            if is_data {
                record.first_byte_ms.get_or_insert_with(|| millis(elapsed));
            }
        });
    }

    /// The call turns out to be one that is refused: it leaves no row.
    pub fn withdraw(mut self) {
        if let Some(record) = self.record.take() {
            std::mem::take(&mut self.hold).release(&record.request_id);
        }
        self.gateway.metrics.withdrawn();
    }

    fn change(&mut self, change: impl FnOnce(&mut UsageRecord)) {
        if let Some(record) = &mut self.record {
            change(record);
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let Some(mut record) = self.record.take() else {
            return;
        };
        if record.outcome == Outcome::ClientAbort && self.gateway.cut.is_cancelled() {
            // It was let go in the end, for its client did not take the answer.
            record.outcome = Outcome::Drained;
        }
        if record.status == 499 && std::thread::panicking() {
            record.status = 500;
            record.outcome = Outcome::Complete;
            record.error_code = Some(Code::Internal.as_str().to_owned());
        }
        let elapsed = self.started.elapsed();
        record.duration_ms = millis(elapsed);
        record.finished_at = record.started_at + elapsed;
        let passage = self.progress.so_far();
        let hold = std::mem::take(&mut self.hold);
        record.budget = hold.settle(ending(&passage), self.count);
        record.attempts = passage.attempts;
        record.wait_ms = passage.wait_ms;
        record.woke = passage.woke;
        record.served_model = passage.served_model;
        if let Some(target) = passage.target {
            target.url().clone_into(&mut record.upstream);
            target
                .meter()
                .note_settled(engine_tokens(&record, self.copies));
        }
        self.gateway
            .metrics
            .settled(&record, &self.gateway.model_label(&record));
        self.gateway.ledger.settle(&record);
    }
}

/// What is known of a call's tokens, as the engine counts them.
fn engine_tokens(record: &UsageRecord, copies: u64) -> u64 {
    let prompts = record.prompt_tokens.saturating_mul(copies);
    prompts.saturating_add(record.completion_tokens)
}

/// Whether the engine may have worked on a call with this passage.
fn ending(passage: &Passage) -> Ending {
    if passage.begun {
        Ending::Begun
    } else {
        Ending::NotBegun
    }
}

/// The process ends before the call is answered.
pub fn shutting_down() -> Error {
    Error::new(
        Code::NotReady,
        "this instance of the gateway is shutting down; try again",
    )
}

fn wide(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

fn millis(elapsed: Duration) -> u64 {
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}
