//! One call on its way: a target is chosen, the request prepared for it and sent, and the answer's
//! head judged. Waits for a target that is starting; sends nothing twice that may have begun.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{HeaderMap, Method, StatusCode};
use tokio::time::{Instant, sleep, timeout};

use super::failure::{self, Refusal, TooLong};
use super::fit::{self, Fit};
use super::models::{Knowledge, Silence};
use super::request::Request;
use super::target::{Busy, Target, lock};
use super::{Upstream, read_bounded};
use crate::error::{Code, Error};

/// A plain call has its head only with its last token.
const PLAIN_HEAD_LIMIT: Duration = Duration::from_hours(1);
/// Error answers are read up to this size and time.
const REFUSAL_BYTES: usize = 256 * 1024;
const REFUSAL_LIMIT: Duration = Duration::from_secs(10);
/// Pause between attempts at a target that refuses connections.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MOST: Duration = Duration::from_secs(1);

/// What a call has been through, readable when the call itself is gone.
#[derive(Default)]
pub struct Progress {
    /// Requests sent that carried the call.
    pub attempts: AtomicU32,
    /// Time spent waiting for a target to come up, in milliseconds.
    pub wait_ms: AtomicU64,
    served_model: Mutex<Option<String>>,
    target: Mutex<Option<Arc<Target>>>,
}

impl Progress {
    /// The model id sent upstream, if it is known.
    pub fn served_model(&self) -> Option<String> {
        lock(&self.served_model).clone()
    }

    /// The target that was tried last.
    pub fn target(&self) -> Option<Arc<Target>> {
        lock(&self.target).clone()
    }
}

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
        let mut pause = RETRY_FIRST;
        let waiting_since = Instant::now();
        loop {
            let mut may_wait = false;
            let mut cause = None;
            for target in self.in_turn() {
                *lock(&progress.target) = Some(target.clone());
                let refused = match self.attempt(&mut request, &target, progress).await {
                    Ok(answer) => return answer,
                    Err(refused) => refused,
                };
                if refused.may_be_starting {
                    may_wait |= target.note_refusal(self.limits.cold_start_wait);
                } else {
                    target.note_unreachable();
                }
                cause = refused.cause.or(cause);
            }
            if !may_wait {
                return Err(self.gave_up(waiting_since.elapsed(), cause));
            }
            sleep(pause).await;
            pause = (pause * 2).min(RETRY_MOST);
            let waited = u64::try_from(waiting_since.elapsed().as_millis()).unwrap_or(u64::MAX);
            progress.wait_ms.store(waited, Ordering::Relaxed);
        }
    }

    /// Every target, in the order in which a call tries them: the least busy first, equals in turn.
    fn in_turn(&self) -> Vec<Arc<Target>> {
        let mut targets = self.targets.clone();
        let first = self.turn.fetch_add(1, Ordering::Relaxed) % targets.len().max(1);
        targets.rotate_left(first);
        targets.sort_by_cached_key(|target| (target.turn(), target.in_flight()));
        targets
    }

    async fn attempt(
        &self,
        request: &mut Request,
        target: &Arc<Target>,
        progress: &Progress,
    ) -> Result<Result<Answer, Error>, Refused> {
        let knowledge = match target.learn(&self.client).await {
            Ok(knowledge) => knowledge,
            Err(Silence::Refused) => {
                return Err(Refused {
                    cause: None,
                    may_be_starting: true,
                });
            }
            Err(Silence::Other) => target.knowledge(),
        };
        let knowledge = self.with_model(request, target, knowledge).await;
        let served = match self.resolve(request.model.as_deref(), &knowledge) {
            Ok(served) => served,
            Err(error) => return Ok(Err(error)),
        };
        if let Err(error) = request.check_allowed(served.as_deref()) {
            return Ok(Err(error));
        }
        request.prepare(served.as_deref(), &knowledge);
        *lock(&progress.served_model) = served;
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
        resolved.map(Some).ok_or_else(unknown_model)
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
    ) -> Result<Result<Answer, Error>, Refused> {
        if fit::may_exceed(request, known) {
            fit::lower(&self.client, target.url(), request, known).await;
        }
        let api = request.endpoint.api();
        let too_long = |body: &[u8]| failure::context_refusal(body, api);
        for is_second in [false, true] {
            let (status, headers, body) = match self.send(request, target, progress).await? {
                Ok(Answer::Refusal(Refusal {
                    status,
                    headers,
                    body,
                    ..
                })) => (status, headers, body),
                other => return Ok(other),
            };
            match failure::too_long(status, &body) {
                Some(TooLong::Together) if !is_second => {
                    match fit::lower(&self.client, target.url(), request, known).await {
                        Fit::Lowered => {}
                        Fit::Fits | Fit::Unknown if fit::drop_limit(request) => {}
                        // Not the prompt is too long: the upstream's own words say what is.
                        Fit::Fits | Fit::Unknown if fit::asked_output(request).is_some() => {
                            return Ok(failure::refuse(status, &headers, body).map(Answer::Refusal));
                        }
                        Fit::Fits | Fit::Unknown | Fit::PromptTooLong => {
                            return Ok(Ok(Answer::Refusal(too_long(&body))));
                        }
                    }
                }
                Some(_) => return Ok(Ok(Answer::Refusal(too_long(&body)))),
                None => return Ok(failure::refuse(status, &headers, body).map(Answer::Refusal)),
            }
        }
        Ok(Err(Error::new(
            Code::ContextLengthExceeded,
            "prompt and output together do not fit into the model's context; shorten the prompt or ask for less output",
        )))
    }

    /// One request on the wire. Any answer that is no success comes back as a refusal, unjudged.
    async fn send(
        &self,
        request: &Request,
        target: &Arc<Target>,
        progress: &Progress,
    ) -> Result<Result<Answer, Error>, Refused> {
        let url = format!("{}{}", target.url(), request.endpoint.path());
        let outgoing = self
            .client
            .http
            .request(Method::POST, url)
            .headers(request.headers.clone())
            .body(request.payload.to_bytes());
        let busy = target.busy();
        let head_limit = if request.stream {
            self.limits.upstream_idle
        } else {
            PLAIN_HEAD_LIMIT
        };
        progress.attempts.fetch_add(1, Ordering::Relaxed);
        let answer = match timeout(head_limit, outgoing.send()).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) if error.is_connect() => {
                progress.attempts.fetch_sub(1, Ordering::Relaxed);
                let may_be_starting = failure::is_refused(&error);
                return Err(Refused {
                    cause: Some(error),
                    may_be_starting,
                });
            }
            Ok(Err(error)) => return Ok(Err(failure::describe(error))),
            Err(_) => {
                let error = Error::new(
                    Code::UpstreamTimeout,
                    "the model server did not begin to answer in time",
                );
                return Ok(Err(error));
            }
        };
        target.note_answer();
        let status = answer.status();
        if status.is_success() {
            let (parts, body) = http::Response::<reqwest::Body>::from(answer).into_parts();
            let exchange = Exchange {
                status,
                headers: parts.headers,
                body,
                target: target.clone(),
                busy,
            };
            return Ok(Ok(Answer::Exchange(exchange)));
        }
        let headers = answer.headers().clone();
        let body = timeout(REFUSAL_LIMIT, read_bounded(answer, REFUSAL_BYTES)).await;
        let body = body.ok().and_then(Result::ok).unwrap_or_default();
        Ok(Ok(Answer::Refusal(Refusal {
            status,
            headers,
            body,
            code: String::new(),
        })))
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

/// The target could not be reached: nothing was sent.
struct Refused {
    cause: Option<reqwest::Error>,
    /// A server that starts refuses connections; one without a name does not start.
    may_be_starting: bool,
}

fn unknown_model() -> Error {
    Error::new(
        Code::ModelNotFound,
        "there is no such model here; the list of models tells which there are",
    )
    .param("model")
}
