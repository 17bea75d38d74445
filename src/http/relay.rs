//! The body of an answer *is* the upstream's body in a [`Relay`]: bytes pass as they come while a
//! side view counts. Silence, cuts, the drain and a client that leaves all end here, once.

mod passing;

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt as _, StreamBody};
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::admission::{Admission, shutting_down};
use super::body::Body;
use super::hold::Count;
use super::pulse::Pulse;
use super::reply;
use super::view::{View, is_event_stream};
use crate::config::Limits;
use crate::error::{Code, Error};
use crate::upstream::{Answer, Asked, End, Endpoint, Exchange};
use crate::usage::Outcome;
use passing::Passing;

/// An upstream call that has no head yet.
pub type Pending = Pin<Box<dyn Future<Output = Result<Answer, Error>> + Send>>;

/// How long the upstream may take to end its body after the API's own end: an orderly end keeps
/// the connection for the next call.
const TRAILING_LIMIT: Duration = Duration::from_secs(1);
/// How often it is asked whether the server of a silent answer is still there: one that is told to
/// end may close its port and leave its answers open and mute.
const CHECK_PAUSE: Duration = Duration::from_secs(10);
/// What a silent stream gets; clients ignore it, proxies and timeouts do not.
const COMMENT: Bytes = Bytes::from_static(b": keep-alive\n\n");

/// What the relay needs to know of the call and of the gateway.
#[derive(Clone)]
pub struct Terms {
    pub endpoint: Endpoint,
    pub asked: Asked,
    pub limits: Limits,
    /// Cancelled when streams must end because the process does.
    pub cut: CancellationToken,
}

/// A call's answer on its way to the client. Dropping it is the client leaving, unless its end was
/// seen before.
pub struct Relay {
    // Before the admission: the upstream is let go before the call is written down.
    phase: Phase,
    admission: Admission,
    terms: Terms,
    view: View,
    out: VecDeque<Bytes>,
    last_sent: Instant,
    /// When the relay began to wait for the bytes it waits for.
    waiting_since: Option<Instant>,
    /// When the server was last asked whether it is there, while nothing comes.
    checked_at: Option<Instant>,
    pulse: Pulse,
    /// One timer for all waits: what it is to wake for moves away from it with every event, and it
    /// follows only when it goes off, for setting it costs more than an event.
    alarm: Pin<Box<Sleep>>,
    /// Kept for the same reason.
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

enum Phase {
    /// The client has its head already; the upstream's is awaited.
    Waiting(Pending),
    Passing(Passing),
    /// The answer is complete; the upstream's body is read to its end.
    Trailing(Passing),
    Over,
}

impl Relay {
    /// For an answer whose head is here. `is_stream` is what its content type says.
    pub fn passing(
        admission: Admission,
        terms: Terms,
        exchange: Exchange,
        is_stream: bool,
    ) -> Body {
        let view = if is_stream {
            View::events(terms.endpoint, terms.asked, &exchange.target)
        } else {
            View::plain(terms.endpoint, Some(&exchange.target))
        };
        // A stream without a single event is no answer; a body without a byte may be one.
        let is_complete = !is_stream && exchange.body.is_end_stream();
        let passing = Phase::Passing(exchange.into());
        let mut relay = Self::new(admission, terms, passing, view);
        if is_complete {
            relay.close(End::Proper);
        }
        relay.into_body()
    }

    /// For a stream whose client got its head before the upstream's was there.
    pub fn waiting(admission: Admission, terms: Terms, pending: Pending) -> Body {
        let view = View::plain(terms.endpoint, None);
        let mut relay = Self::new(admission, terms, Phase::Waiting(pending), view);
        relay.out.push_back(COMMENT);
        relay.into_body()
    }

    fn new(admission: Admission, terms: Terms, phase: Phase, view: View) -> Self {
        let now = Instant::now();
        let first_due = terms.limits.keepalive.min(terms.limits.upstream_idle);
        Self {
            alarm: Box::pin(sleep_until(now + first_due)),
            cut: Box::pin(terms.cut.clone().cancelled_owned()),
            admission,
            terms,
            phase,
            view,
            out: VecDeque::new(),
            last_sent: now,
            waiting_since: None,
            checked_at: None,
            pulse: Pulse::new(),
        }
    }

    fn into_body(self) -> Body {
        let frames = stream::unfold(self, |mut relay| async move {
            let frame = relay.next().await?;
            Some((frame.map(Frame::data), relay))
        });
        StreamBody::new(frames).boxed_unsync()
    }

    /// The next bytes for the client; an error breaks the connection.
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            if let Some(bytes) = self.out.pop_front() {
                self.last_sent = Instant::now();
                // A stream's comments say nothing, be they ours or the upstream's.
                self.admission.sent(bytes.len(), !bytes.starts_with(b":"));
                return Some(Ok(bytes));
            }
            let event = self.wait().await?;
            if let Err(broken) = self.take(event) {
                return Some(Err(broken));
            }
        }
    }

    /// What happens next; `None` at the end.
    async fn wait(&mut self) -> Option<Event> {
        let waiting_since = *self.waiting_since.get_or_insert_with(Instant::now);
        let comment_at = self.last_sent.max(waiting_since) + self.terms.limits.keepalive;
        Some(match &mut self.phase {
            Phase::Over => return None,
            Phase::Trailing(passing) => {
                // Whether it ends in time only decides if the connection is used again.
                let _ = timeout(TRAILING_LIMIT, async {
                    while passing.body.frame().await.is_some() {}
                })
                .await;
                self.phase = Phase::Over;
                return None;
            }
            Phase::Waiting(pending) => tokio::select! {
                biased;
                () = &mut self.cut => Event::Cut,
                answer = pending => Event::Answer(answer),
                () = wait_until(self.alarm.as_mut(), comment_at) => Event::Silence,
            },
            Phase::Passing(passing) => {
                let give_up_at = waiting_since + passing.target.idle_limit();
                let check_at = self.checked_at.unwrap_or(waiting_since) + CHECK_PAUSE;
                let mut next_at = give_up_at.min(check_at).min(passing.deadline);
                if self.view.is_stream() {
                    next_at = next_at.min(comment_at);
                }
                tokio::select! {
                    // An upstream that never pauses must not outlive the drain.
                    biased;
                    () = &mut self.cut => Event::Cut,
                    frame = self.pulse.next_frame(&mut passing.body) => Event::Frame(frame),
                    () = wait_until(self.alarm.as_mut(), next_at) => match Instant::now() {
                        now if now >= passing.deadline => Event::Overdue,
                        now if now >= give_up_at => Event::Idle,
                        now if now >= check_at => {
                            self.checked_at = Some(now);
                            tokio::select! {
                                biased;
                                () = &mut self.cut => Event::Cut,
                                event = passing.check() => event,
                            }
                        }
                        _ => Event::Silence,
                    },
                }
            }
        })
    }

    fn take(&mut self, event: Event) -> io::Result<()> {
        if !matches!(event, Event::Silence | Event::Alive) {
            self.waiting_since = None;
            self.checked_at = None;
        }
        match event {
            Event::Silence => self.out.push_back(COMMENT),
            Event::Alive => {}
            Event::Answer(answer) => self.begin(answer),
            Event::Frame(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    self.pass(data);
                }
            }
            Event::Frame(None) => {
                let end = self.view.finish(&mut self.out);
                self.close(end);
                self.phase = Phase::Over;
            }
            Event::Frame(Some(Err(error))) => {
                let error = Error::new(
                    Code::UpstreamError,
                    "the model server broke off in the middle of its answer",
                )
                .because(error);
                return self.fail(&error);
            }
            Event::Idle => {
                return self.fail(&Error::new(
                    Code::UpstreamTimeout,
                    "the model server fell silent in the middle of its answer",
                ));
            }
            Event::Gone => {
                return self.fail(&Error::new(
                    Code::UpstreamError,
                    "the model server went away in the middle of its answer",
                ));
            }
            Event::Overdue => {
                return self.fail(&Error::new(
                    Code::UpstreamTimeout,
                    "the answer took longer than any call may take",
                ));
            }
            Event::Cut => return self.fail(&shutting_down()),
        }
        Ok(())
    }

    /// The upstream's head has come after the client's.
    fn begin(&mut self, answer: Result<Answer, Error>) {
        match answer {
            Ok(Answer::Exchange(exchange)) if is_event_stream(&exchange.headers) => {
                self.view = View::events(self.terms.endpoint, self.terms.asked, &exchange.target);
                self.phase = Phase::Passing(exchange.into());
            }
            Ok(Answer::Exchange(_)) => self.fail_in_stream(&Error::new(
                Code::UpstreamError,
                "the model server did not answer with a stream",
            )),
            Ok(Answer::Refusal(refusal)) => {
                self.admission.end(Outcome::Complete, Some(refusal.code));
                let event = reply::refusal_event(&refusal.body, self.terms.endpoint.api());
                self.out.push_back(event.into());
                self.phase = Phase::Over;
            }
            Err(error) => self.fail_in_stream(&error),
        }
    }

    /// Bytes of the upstream pass.
    fn pass(&mut self, data: Bytes) {
        let end = self.view.feed(data, self.pulse.caught_up(), &mut self.out);
        if self.admission.is_bounded()
            && let Some(completion) = self.view.running_completion()
        {
            self.pulse.note(completion);
        }
        if end != End::Open {
            self.close(end);
        } else if !self.view.is_stream()
            && matches!(&self.phase, Phase::Passing(passing) if passing.body.is_end_stream())
        {
            // A body of known length is not asked for its end.
            self.close(End::Proper);
        }
    }

    /// The answer's own end was seen, or the upstream ended without one.
    fn close(&mut self, end: End) {
        match end {
            End::Proper => self.admission.end(Outcome::Complete, None),
            End::UpstreamError => {
                let code = Code::UpstreamError.as_str().to_owned();
                self.admission.end(Outcome::UpstreamError, Some(code));
            }
            End::Open | End::Improper => {
                return self.fail_in_stream(&Error::new(
                    Code::UpstreamError,
                    "the model server ended its answer before it was complete",
                ));
            }
        }
        if let Phase::Passing(passing) = std::mem::replace(&mut self.phase, Phase::Over) {
            if let Some(fingerprint) = self.view.fingerprint() {
                passing.target.note_fingerprint(fingerprint);
            }
            self.phase = Phase::Trailing(passing);
        }
    }

    /// The answer cannot be completed: a stream says so in its own way, a plain answer breaks off.
    fn fail(&mut self, error: &Error) -> io::Result<()> {
        if self.view.is_stream() || matches!(self.phase, Phase::Waiting(_)) {
            self.fail_in_stream(error);
            return Ok(());
        }
        self.note_failure(error);
        Err(io::Error::other("the answer broke off"))
    }

    fn fail_in_stream(&mut self, error: &Error) {
        self.view.release(&mut self.out);
        self.out
            .push_back(reply::error_event(error, self.terms.endpoint.api()).into());
        self.note_failure(error);
    }

    fn note_failure(&mut self, error: &Error) {
        self.admission.fail(error);
        tracing::warn!(
            endpoint = self.terms.endpoint.path(),
            code = error.code().as_str(),
            told = error.message(),
            cause = error.cause_chain(),
            "answer broke off"
        );
        // Dropping the upstream's body closes its connection.
        self.phase = Phase::Over;
    }

    /// Writes down what is known of the tokens by now.
    fn note_tokens(&mut self) {
        if let Some((tokens, counted_by)) = self.view.tokens() {
            self.admission.count(Count {
                tokens,
                counted_by,
                counts_choices: self.view.counts_choices(),
                sequences: self.view.running_sequences(),
                pace: self.pulse.pace(),
                unseen: self
                    .view
                    .counted_since()
                    .unwrap_or(self.pulse.caught_up())
                    .elapsed(),
            });
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.note_tokens();
    }
}

/// Waits on a timer that may be due before `at`: it is set anew when it goes off, not for every
/// event of a stream.
async fn wait_until(mut alarm: Pin<&mut Sleep>, at: Instant) {
    if alarm.deadline() > at {
        alarm.as_mut().reset(at);
    }
    alarm.as_mut().await;
    if alarm.deadline() < at {
        alarm.as_mut().reset(at);
        alarm.await;
    }
}

enum Event {
    Answer(Result<Answer, Error>),
    Frame(Option<Result<Frame<Bytes>, reqwest::Error>>),
    /// Nothing came for a while: time for a comment.
    Silence,
    /// Nothing came for a while, but the server is there.
    Alive,
    Gone,
    Idle,
    Overdue,
    Cut,
}
