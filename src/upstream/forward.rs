//! One call on its way: a target is chosen, the request prepared for it and sent, and the answer's
//! head judged. Waits for a target that is starting; sends nothing twice that may have begun.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::{HeaderMap, Method, StatusCode};
use tokio::time::{Instant, sleep, timeout};

use super::access;
use super::failure::{self, Refusal, Rejected};
use super::fit::{self, Fit};
use super::length::TooLong;
use super::models::{Knowledge, Silence, unknown_model};
use super::options;
use super::progress::Progress;
use super::request::Request;
use super::target::{Busy, Target};
use super::{Upstream, read_bounded};
use crate::error::{Code, Error};
use crate::google::Fault;

/// A plain call has its head only with its last token.
const PLAIN_HEAD_LIMIT: Duration = Duration::from_hours(1);
/// Error answers are read up to this size and time.
const REFUSAL_BYTES: usize = 256 * 1024;
const REFUSAL_LIMIT: Duration = Duration::from_secs(10);
/// Pause between attempts at a target that refuses connections.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MOST: Duration = Duration::from_secs(1);

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
}

impl Upstream {
    /// Brings a call to a model server.
    ///
    /// # Errors
    /// What the client is told when no server took the call.
    pub async fn forward(
        &self,
        mut request: Request,
        progress: &Progress,
    ) -> Result<Answer, Error> {
        if let Some(served) = self.foreseen(request.model.as_deref()) {
            // No server need be asked, nor woken, for what is refused anyway.
            request.check_allowed(Some(served))?;
        }
        let wakes = request.endpoint.wakes();
        if !wakes && self.targets.iter().all(|target| target.may_sleep()) {
            return Err(failure::asleep());
        }
        let mut pause = RETRY_FIRST;
        let waiting_since = Instant::now();
        loop {
            let mut may_wait = false;
            let mut cause = None;
            let mut not_here = None;
            let mut no_token = None;
            let targets = self.in_turn();
            for target in targets.iter().filter(|one| wakes || !one.may_sleep()) {
                progress.note(|passage| passage.target = Some(target.clone()));
                let (why, may_be_starting) =
                    match self.attempt(&mut request, target, progress).await {
                        Ok(answer) => return Ok(answer),
                        Err(Failure::Final(error)) if is_about_model(&error) => {
                            not_here = Some(error);
                            continue;
                        }
                        Err(Failure::Final(error)) => return Err(error),
                        Err(Failure::NoToken(fault)) => {
                            no_token = Some(access::no_token(fault));
                            continue;
                        }
                        Err(Failure::NotSent {
                            cause,
                            may_be_starting,
                        }) => (cause, may_be_starting),
                    };
                if may_be_starting {
                    may_wait |= target.note_refusal(self.limits.cold_start_wait);
                } else {
                    target.note_unreachable();
                }
                cause = why.or(cause);
            }
            if !may_wait {
                return Err(no_token
                    .or(not_here)
                    .unwrap_or_else(|| self.gave_up(waiting_since.elapsed(), cause)));
            }
            sleep(pause).await;
            pause = (pause * 2).min(RETRY_MOST);
            let waited = u64::try_from(waiting_since.elapsed().as_millis()).unwrap_or(u64::MAX);
            progress.note(|passage| passage.wait_ms = waited);
        }
    }

    /// Every target, in the order in which a call tries them: the least busy first, equals in turn.
    fn in_turn(&self) -> Cow<'_, [Arc<Target>]> {
        if let [_] = self.targets[..] {
            return Cow::Borrowed(&self.targets);
        }
        let mut targets = self.targets.clone();
        let first = self.turn.fetch_add(1, Ordering::Relaxed) % targets.len().max(1);
        targets.rotate_left(first);
        targets.sort_by_cached_key(|target| (target.claim_turn(), target.in_flight()));
        Cow::Owned(targets)
    }

    async fn attempt(
        &self,
        request: &mut Request,
        target: &Arc<Target>,
        progress: &Progress,
    ) -> Result<Answer, Failure> {
        let knowledge = match target.learn(&self.client).await {
            Ok(knowledge) => knowledge,
            Err(Silence::Refused) => {
                return Err(Failure::NotSent {
                    cause: None,
                    may_be_starting: true,
                });
            }
            Err(Silence::Denied | Silence::Other) => target.knowledge(),
        };
        let knowledge = self.with_model(request, target, knowledge).await;
        let served = self.resolve(request.model.as_deref(), &knowledge)?;
        request.check_allowed(served.as_deref())?;
        request.prepare(served.as_deref(), &knowledge);
        request.write_cap(fit::context(request, &knowledge));
        progress.note(|passage| passage.served_model = served);
        self.send_fitting(request, target, &knowledge, progress)
            .await
    }

    /// Asks the list again when it lacks the model: a server may have come up anew with another.
    async fn with_model(
        &self,
        request: &Request,
        target: &Target,
        known: Arc<Knowledge>,
    ) -> Arc<Knowledge> {
        if self.resolve(request.model.as_deref(), &known).is_ok() {
            return known;
        }
        target.learn_again(&self.client).await.unwrap_or(known)
    }

    /// The model id to send; `None` leaves the body as it is.
    ///
    /// # Errors
    /// `model_not_found`, against a known list alone.
    pub fn resolve(&self, model: Option<&str>, known: &Knowledge) -> Result<Option<String>, Error> {
        let only = || known.only_model().map(|card| card.id.clone());
        let Some(model) = model else {
            return Ok(only());
        };
        if known.card(model).is_some() {
            return Ok(Some(model.to_owned()));
        }
        let resolved = match self.aliases.get(model).map(String::as_str) {
            Some("*") if known.models.is_none() => return Ok(Some(model.to_owned())),
            Some("*") => only(),
            Some(id) => (known.models.is_none() || known.card(id).is_some()).then(|| id.to_owned()),
            None => known.models.is_none().then(|| model.to_owned()),
        };
        resolved
            .map(Some)
            .ok_or_else(|| unknown_model().param("model"))
    }

    /// The only model id that a name can lead to, where that depends on no server.
    fn foreseen<'a>(&'a self, model: Option<&'a str>) -> Option<&'a str> {
        let model = model?;
        match self.aliases.get(model).map(String::as_str) {
            Some("*") => None,
            Some(id) => Some(id),
            None => Some(model),
        }
    }

    /// Sends the call with an output bound that fits the context, once more lowered if the
    /// upstream refuses for that reason.
    async fn send_fitting(
        &self,
        request: &mut Request,
        target: &Arc<Target>,
        known: &Knowledge,
        progress: &Progress,
    ) -> Result<Answer, Failure> {
        let mut fit = Fit::Unknown;
        if fit::may_exceed(request, known) {
            fit = fit::lower(&self.client, target, request, known).await;
        }
        let first = match self.send_plainer(request, target, known, progress).await? {
            Sent::Rejected(rejected) if rejected.too_long() == Some(TooLong::Together) => rejected,
            sent => return sent.judge(request),
        };
        if fit != Fit::PromptTooLong {
            fit = fit::lower(&self.client, target, request, known).await;
        }
        match fit {
            Fit::Lowered => {}
            Fit::Fits | Fit::Unknown if fit::drop_limit(request, known) => {}
            // Not the prompt is too long: the upstream's own words say what is.
            Fit::Fits | Fit::Unknown if fit::asked_output(request).is_some() => {
                return Ok(Answer::Refusal(first.refuse(request.endpoint.api())?));
            }
            Fit::Fits | Fit::Unknown | Fit::PromptTooLong => {
                return Sent::Rejected(first).judge(request);
            }
        }
        self.send(request, target, progress).await?.judge(request)
    }

    /// Sends the call, again without what the server refuses of it, which is remembered.
    async fn send_plainer(
        &self,
        request: &mut Request,
        target: &Arc<Target>,
        known: &Knowledge,
        progress: &Progress,
    ) -> Result<Sent, Failure> {
        target.refused().leave_out(request, known);
        let mut left_out = Vec::new();
        loop {
            let sent = self.send(request, target, progress).await?;
            let Sent::Rejected(rejected) = &sent else {
                left_out
                    .iter()
                    .for_each(|extra| target.refused().note(*extra));
                return Ok(sent);
            };
            match options::take_out_refused(request, rejected, known) {
                Some(extra) => left_out.push(extra),
                None => return Ok(sent),
            }
        }
    }

    /// One request on the wire.
    async fn send(
        &self,
        request: &Request,
        target: &Arc<Target>,
        progress: &Progress,
    ) -> Result<Sent, Failure> {
        let token = target.token().await.map_err(Failure::NoToken)?;
        let mut headers = request.headers.clone();
        access::show(&mut headers, token.as_ref());
        let url = target.route(request.endpoint.path());
        let outgoing = self
            .client
            .http
            .request(Method::POST, url)
            .headers(headers)
            .body(request.payload.to_bytes());
        let busy = target.busy();
        let head_limit = if request.stream {
            self.limits.upstream_idle
        } else {
            PLAIN_HEAD_LIMIT
        };
        progress.note(|passage| {
            passage.attempts += 1;
            passage.begun = true;
        });
        let answer = match timeout(head_limit, outgoing.send()).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) if error.is_connect() => {
                progress.note(|passage| {
                    passage.attempts -= 1;
                    passage.begun = false;
                });
                let may_be_starting = failure::is_refused(&error);
                return Err(Failure::NotSent {
                    cause: Some(error),
                    may_be_starting,
                });
            }
            Ok(Err(error)) => return Err(Failure::Final(failure::describe(error))),
            Err(_) => return Err(Failure::Final(failure::no_head())),
        };
        target.note_answer();
        if !answer.status().is_success() {
            let advice = match (target.access(), answer.status().as_u16()) {
                (Some(access), status @ (401 | 403)) => {
                    Some(access.note_denial(status, token.as_ref()))
                }
                _ => None,
            };
            let rejected = reject(answer, advice).await;
            let is_vllm = target.knowledge().is_vllm.unwrap_or(true);
            let is_late = rejected.may_be_late(request, is_vllm);
            progress.note(|passage| passage.begun = is_late);
            return Ok(Sent::Rejected(rejected));
        }
        let (parts, body) = http::Response::<reqwest::Body>::from(answer).into_parts();
        Ok(Sent::Exchange(Exchange {
            status: parts.status,
            headers: parts.headers,
            body,
            target: target.clone(),
            busy,
        }))
    }

    fn gave_up(&self, waited: Duration, cause: Option<reqwest::Error>) -> Error {
        if self.waits_end_unreachable || waited < self.limits.cold_start_wait / 2 {
            let error = Error::new(
                Code::UpstreamUnreachable,
                "the model server cannot be reached; its operator should check that it runs and that VLLM_ENDPOINT is right",
            );
            return match cause {
                Some(cause) => error.because(cause.without_url()),
                None => error,
            };
        }
        Error::new(
            Code::UpstreamStarting,
            "the model server is still starting; try again later",
        )
        .retry_after(Duration::from_secs(30))
    }
}

/// Another target may have the model, or one that the key may call.
fn is_about_model(error: &Error) -> bool {
    matches!(error.code(), Code::ModelNotFound | Code::ModelNotAllowed)
}

/// Why one target brought no answer.
enum Failure {
    /// The client is told; no other target is tried.
    Final(Error),
    /// There is nothing to show to the target, which is private: nothing was sent.
    NoToken(Fault),
    /// The target could not be reached: nothing was sent.
    NotSent {
        cause: Option<reqwest::Error>,
        /// A server that starts refuses connections; one without a name does not start.
        may_be_starting: bool,
    },
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

/// What came back for a request.
enum Sent {
    Exchange(Exchange),
    Rejected(Rejected),
}

impl Sent {
    /// What the client gets of it.
    fn judge(self, request: &Request) -> Result<Answer, Failure> {
        Ok(match self {
            Self::Exchange(exchange) => Answer::Exchange(exchange),
            Self::Rejected(rejected) if rejected.too_long().is_some() => {
                Answer::Refusal(rejected.into_context_refusal(request.endpoint.api()))
            }
            Self::Rejected(rejected) => Answer::Refusal(rejected.refuse(request.endpoint.api())?),
        })
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
