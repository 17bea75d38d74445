//! A call at one target: its request is prepared for it and sent, and the answer's head judged.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::header::CONNECTION;
use http::{HeaderMap, HeaderValue, StatusCode};
use tokio::time::{Instant, timeout, timeout_at};

use super::Upstreams;
use super::access;
use super::alive::{ASK_LIMIT, until_alive};
use super::client::read_bounded;
use super::failure::{self, Refusal, Rejected};
use super::fit::{self, Fit};
use super::length::TooLong;
use super::models::Knowledge;
use super::options;
use super::progress::Progress;
use super::request::Request;
use super::routing::Candidate;
use super::state::State;
use super::target::{Busy, Entry, Target};
use super::trip::Failure;
use super::unserved;

/// A call that is answered takes no longer than this, whatever it does.
const CALL_LIMIT: Duration = Duration::from_hours(1);
/// How often it is asked, while a call has no head, whether the server is still there.
const HEALTH_PAUSE: Duration = Duration::from_secs(10);
/// Error answers are read up to this size and time.
const REFUSAL_BYTES: usize = 256 * 1024;
const REFUSAL_LIMIT: Duration = Duration::from_secs(10);
/// A connection that nobody used for a second may be closed by the server just then; that shows at
/// once. It is another thing when a server closes one that it answered on a moment ago.
const STALE_AFTER: Duration = Duration::from_secs(1);
const STALE_LIMIT: Duration = Duration::from_millis(250);
/// vLLM sends a stream's head before its engine begins, at once. Its front end in Rust reads nothing
/// new while it drains, though its port takes connections until the process ends.
const EARLY_HEAD: Duration = Duration::from_secs(2);

/// What a call came back with.
pub enum Answer {
    /// A success, its body still to come.
    Exchange(Exchange),
    /// The upstream's own words, for the client to read.
    Refusal(Refusal),
}

/// An answer whose head is here.
pub struct Exchange {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: reqwest::Body,
    pub target: Arc<Target>,
    pub busy: Busy,
    /// When the call must have ended.
    pub deadline: Instant,
}

/// What came back for a request.
enum Sent {
    Head(reqwest::Response),
    Rejected(Rejected),
}

impl Upstreams {
    /// Sends the call to one target, of which so much is known and which `busy` stands for.
    pub(super) async fn attempt(
        &self,
        request: &mut Request,
        candidate: &Candidate,
        (known, busy): (Arc<Knowledge>, Busy),
        progress: &Progress,
    ) -> Result<Answer, Failure> {
        let target = &candidate.target;
        let name = candidate.name.as_deref();
        let served = match self.resolve(candidate.group, name, &known) {
            Ok(served) => served,
            Err(error) => {
                // A server may have come up anew with another model.
                let age = Duration::from_secs(2);
                let known = target.learn_older(ASK_LIMIT, age).await.unwrap_or(known);
                let again = self.resolve(candidate.group, name, &known);
                again.map_err(|_| Failure::NotHere(error))?
            }
        };
        let known = target.knowledge();
        let call = Call {
            target,
            known: &known,
            progress,
            busy,
        };
        let answer = call.send_as(request, name, served.clone()).await?;
        let is_unknown =
            matches!(&answer, Answer::Refusal(refusal) if refusal.status == StatusCode::NOT_FOUND);
        if !is_unknown || served.as_deref() == name {
            return Ok(answer);
        }
        // The id is ours, by a list that may be out of date.
        let Ok(known) = target.learn_older(ASK_LIMIT, Duration::from_secs(2)).await else {
            return Ok(answer);
        };
        if request.cap.is_some() {
            // What is held was reckoned for the other model; the next call is for this one.
            return Ok(answer);
        }
        let again = self.resolve(candidate.group, name, &known);
        match (again, target.enter(None, request.may_wake)) {
            (Ok(again), Entry::Go(busy, None)) if again != served => {
                let call = Call {
                    target,
                    known: &known,
                    progress,
                    busy,
                };
                call.send_as(request, name, again).await
            }
            _ => Ok(answer),
        }
    }
}

/// A call at a target, of which this is known.
struct Call<'a> {
    target: &'a Arc<Target>,
    known: &'a Knowledge,
    progress: &'a Progress,
    busy: Busy,
}

impl Call<'_> {
    /// Sends the call for a model that is asked for by this name and served under this id.
    async fn send_as(
        self,
        request: &mut Request,
        name: Option<&str>,
        served: Option<String>,
    ) -> Result<Answer, Failure> {
        request.check_allowed(name.into_iter().chain(served.as_deref()))?;
        request.prepare(served.as_deref(), self.known);
        request.write_cap(fit::context(request, self.known));
        self.progress.note(|passage| passage.served_model = served);
        self.send_fitting(request).await
    }

    /// Sends the call with an output bound that fits the context, once more lowered if the
    /// upstream refuses for that reason.
    async fn send_fitting(mut self, request: &mut Request) -> Result<Answer, Failure> {
        let (target, known) = (self.target, self.known);
        let mut fit = Fit::Unknown;
        if fit::may_exceed(request, known) {
            fit = fit::lower(target, request, known).await;
        }
        let first = match self.send_plainer(request).await? {
            Sent::Rejected(rejected) if rejected.too_long() == Some(TooLong::Together) => rejected,
            sent => return self.judge(sent, request),
        };
        if fit != Fit::PromptTooLong {
            fit = fit::lower(target, request, known).await;
        }
        match fit {
            Fit::Lowered => {}
            Fit::Fits | Fit::Unknown if fit::drop_limit(request, known) => {}
            // Not the prompt is too long: the upstream's own words say what is.
            Fit::Fits | Fit::Unknown if fit::asked_output(request).is_some() => {
                return Ok(Answer::Refusal(first.refuse(request.endpoint.api())?));
            }
            Fit::Fits | Fit::Unknown | Fit::PromptTooLong => {
                return self.judge(Sent::Rejected(first), request);
            }
        }
        let sent = self.send(request).await?;
        self.judge(sent, request)
    }

    /// What the client gets of it.
    fn judge(self, sent: Sent, request: &Request) -> Result<Answer, Failure> {
        Ok(match sent {
            Sent::Head(answer) => {
                let (parts, body) = http::Response::<reqwest::Body>::from(answer).into_parts();
                Answer::Exchange(Exchange {
                    status: parts.status,
                    headers: parts.headers,
                    body,
                    target: self.target.clone(),
                    busy: self.busy,
                    deadline: Instant::now() + CALL_LIMIT,
                })
            }
            Sent::Rejected(rejected) if rejected.too_long().is_some() => {
                Answer::Refusal(rejected.into_context_refusal(request.endpoint.api()))
            }
            Sent::Rejected(rejected) => Answer::Refusal(rejected.refuse(request.endpoint.api())?),
        })
    }

    /// Sends the call, again without what the server refuses of it, which is remembered.
    async fn send_plainer(&mut self, request: &mut Request) -> Result<Sent, Failure> {
        let target = self.target;
        target.refused().leave_out(request, self.known);
        let mut left_out = Vec::new();
        loop {
            let sent = self.send(request).await?;
            let Sent::Rejected(rejected) = &sent else {
                for extra in left_out {
                    target.refused().note(extra);
                }
                return Ok(sent);
            };
            let Some(extra) = options::take_out_refused(request, rejected, self.known) else {
                return Ok(sent);
            };
            left_out.push(extra);
        }
    }

    /// One request on the wire, and what its head says.
    async fn send(&mut self, request: &Request) -> Result<Sent, Failure> {
        let target = self.target;
        let credentials = target.credentials().await;
        let credentials = credentials.map_err(|fault| Failure::NoToken(access::no_token(fault)))?;
        let mut headers = request.headers.clone();
        credentials.write(&mut headers);
        let answer = self.head(request, headers).await?;
        if answer.status().is_success() {
            self.busy.answered();
            target.note_answer();
            target.note_served(true);
            return Ok(Sent::Head(answer));
        }
        let advice = match (target.access(), answer.status().as_u16()) {
            (Some(access), status @ (401 | 403)) => {
                Some(access.note_denial(status, credentials.token.as_ref()))
            }
            _ => None,
        };
        let rejected = reject(answer, advice).await;
        let is_late = rejected.may_be_late(request, self.known.is_vllm.unwrap_or(true));
        self.progress.note(|passage| passage.begun = is_late);
        if target.is_held_off_by(&rejected) {
            self.progress.note(|passage| passage.begun = false);
            return Err(Failure::HeldOff);
        }
        self.busy.answered();
        target.note_answer();
        if rejected.is_draining() {
            self.progress.note(|passage| passage.begun = false);
            return Err(Failure::Draining);
        }
        target.note_served(!rejected.status.is_server_error());
        if rejected.status == StatusCode::SERVICE_UNAVAILABLE
            && let Err(error) = rejected.clone().refuse(request.endpoint.api())
        {
            return Err(Failure::Overloaded(error));
        }
        Ok(Sent::Rejected(rejected))
    }

    /// Sends the request until there is a head. A connection that was kept alive and turns out to
    /// be closed has carried nothing: the request goes again. So it does, once, if a stream has no
    /// head for long and is closed, for vLLM has not read it, and one that a server closes at once
    /// that drains may go elsewhere; but not calls whose tokens are held, for of these two a trace
    /// of doubt remains.
    async fn head(
        &self,
        request: &Request,
        mut headers: HeaderMap,
    ) -> Result<reqwest::Response, Failure> {
        let is_ending = self.target.is_ending();
        if is_ending {
            // A server that drains closes the connection after each refusal, but not at once: who
            // comes next must not meet it.
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let is_quiet = self.target.is_quiet_for(STALE_AFTER);
        let may_go_again = request.cap.is_none();
        let has_early_head = request.stream && self.known.is_vllm == Some(true);
        let mut is_first = true;
        loop {
            let began = Instant::now();
            let connections = self.target.client().connections();
            let error = match self.answer(request, headers.clone()).await? {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if error.is_connect() {
                self.progress.note(|passage| {
                    passage.attempts -= 1;
                    passage.begun = false;
                });
                return Err(if failure::is_refused(&error) {
                    Failure::Refused(Some(error))
                } else {
                    Failure::Unreachable(Some(error))
                });
            }
            let was_closed = failure::is_closed(&error);
            let is_quick = began.elapsed() < STALE_LIMIT;
            // It may have been told of the drain while this call was on its way.
            let was_ending = is_ending || self.target.is_ending();
            if may_go_again && was_closed && is_quick && was_ending {
                self.progress.note(|passage| passage.begun = false);
                return Err(Failure::Draining);
            }
            // Each time one of the connections that were kept is used up.
            let is_stale =
                is_quiet && is_quick && self.target.client().connections() == connections;
            let is_unread = may_go_again && has_early_head && began.elapsed() >= EARLY_HEAD;
            if !(was_closed && (is_stale || (is_first && is_unread))) {
                self.target.note_served(false);
                return Err(Failure::Final(unserved::describe(error)));
            }
            is_first = false;
        }
    }

    /// Sends the request and waits for its head: of a server that is up as long as it may take and
    /// the server is there, of any other as long as calls wait for it.
    async fn answer(
        &self,
        request: &Request,
        headers: HeaderMap,
    ) -> Result<Result<reqwest::Response, reqwest::Error>, Failure> {
        let target = self.target;
        let is_up = target.state() == State::Ready;
        let url = target.route(request.endpoint.path());
        let body = request.payload.to_bytes();
        let mut sending = pin!(target.client().post(url, headers, body).send());
        self.progress.note(|passage| {
            passage.attempts += 1;
            passage.begun = true;
        });
        let began = Instant::now();
        if !is_up {
            if let Some(answer) = until_alive(target, self.busy.until(), sending.as_mut()).await {
                return Ok(answer);
            }
            if target.state() != State::Ready {
                // It was sent, so it may have begun, and goes nowhere else.
                target.note_served(false);
                let wait = target.learnt_start();
                return Err(Failure::Final(unserved::starting(wait)));
            }
        }
        // A plain call has its head only with its last token.
        let limit = if request.stream {
            target.idle_limit()
        } else {
            CALL_LIMIT
        };
        loop {
            let next = (began + limit).min(Instant::now() + HEALTH_PAUSE);
            if let Ok(answer) = timeout_at(next, &mut sending).await {
                return Ok(answer);
            }
            if Instant::now() >= began + limit {
                target.note_served(false);
                return Err(Failure::Final(unserved::no_head()));
            }
            if target.is_gone().await {
                target.note_served(false);
                return Err(Failure::Final(unserved::gone()));
            }
        }
    }
}

async fn reject(answer: reqwest::Response, advice: Option<String>) -> Rejected {
    let status = answer.status();
    let headers = answer.headers().clone();
    let body = timeout(REFUSAL_LIMIT, read_bounded(answer, REFUSAL_BYTES)).await;
    Rejected {
        status,
        headers,
        body: body.ok().and_then(Result::ok).unwrap_or_default(),
        advice,
    }
}
