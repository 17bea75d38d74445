//! The walk of a model call: who, what, admitted, sent, relayed.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use hyper::body::Incoming;
use tokio::time::{Instant, sleep};

use super::admission::{Admission, Caller, shutting_down};
use super::body::{self, Answer, full};
use super::relay::{Pending, Relay, Terms};
use super::view::is_event_stream;
use super::{Gateway, call, rates, reply};
use crate::auth::Principal;
use crate::config::Limits;
use crate::error::{Code, Error};
use crate::upstream::{self, Endpoint, Exchange, Request, clean_incoming, outgoing};
use crate::usage::Outcome;

/// The output of each sequence, lowered because the budget has no more.
const MAX_TOKENS: HeaderName = HeaderName::from_static("x-tollgate-max-tokens");

/// Answers one call of a proxied route. `marks` are headers for the answer, be it an error or not.
///
/// # Errors
/// What the client gets instead of an answer.
pub async fn answer(
    gateway: &Arc<Gateway>,
    endpoint: Endpoint,
    request: http::Request<Incoming>,
    request_id: &HeaderValue,
    marks: &mut HeaderMap,
) -> Result<Answer, Error> {
    let (started, started_at) = (Instant::now(), SystemTime::now());
    let (head, body) = request.into_parts();
    let principal = match identify(gateway, endpoint, &head.headers).await {
        Ok(principal) => principal,
        Err(error) => {
            body::drain(&head.headers, body).await;
            return Err(error);
        }
    };
    let read = gateway.bodies.read(&head.headers, body).await?;
    let request_bytes = read.0.len();
    let outgoing = outgoing(&head.headers, request_id);
    let mut request = call::parse(endpoint, &principal, &head.headers, outgoing, read)?;
    if gateway.upstreams.targets().len() > 1 {
        request.affinity = call::affinity(&request, &principal, &head.headers);
    }
    let caller = Caller {
        request_id: request_id.to_str().unwrap_or_default().to_owned(),
        client_request_id: call::client_request_id(&head.headers),
        client: call::product(&head.headers),
        trace: call::trace(&head.headers),
        started,
        started_at,
    };
    let granted = Admission::grant(gateway, &principal, caller, &mut request, request_bytes).await;
    rates::mark(gateway, &principal, marks);
    let admission = granted?;
    if let Some(output) = admission.lowered() {
        marks.insert(MAX_TOKENS, HeaderValue::from(output));
    }
    exchange(gateway, admission, request).await
}

async fn identify(
    gateway: &Gateway,
    endpoint: Endpoint,
    headers: &http::HeaderMap,
) -> Result<Principal, Error> {
    let principal = gateway.identify(headers).await?;
    call::check_type(endpoint, headers)?;
    Ok(principal)
}

/// Sends the call and answers with what comes back. A stream that waits too long for its upstream
/// gets its head early, so that nothing between takes it for dead.
async fn exchange(
    gateway: &Arc<Gateway>,
    mut admission: Admission,
    request: Request,
) -> Result<Answer, Error> {
    let terms = Terms {
        endpoint: request.endpoint,
        asked: request.asked,
        limits: gateway.limits.clone(),
        cut: gateway.cut.clone(),
    };
    let is_stream = request.stream;
    let progress = admission.progress();
    let sender = gateway.clone();
    let mut pending: Pending =
        Box::pin(async move { sender.upstreams.forward(request, &progress).await });
    let answer = tokio::select! {
        biased;
        answer = &mut pending => answer,
        () = gateway.cut.cancelled() => Err(shutting_down()),
        () = sleep(early_head(&terms.limits)), if is_stream => {
            admission.head(200);
            return Ok(stream_head(Relay::waiting(admission, terms, pending)));
        }
    };
    match answer {
        Ok(upstream::Answer::Exchange(exchange)) => Ok(relay(admission, terms, exchange)),
        Ok(upstream::Answer::Refusal(refusal)) => {
            admission.head(refusal.status.as_u16());
            admission.sent(refusal.body.len(), true);
            admission.end(Outcome::Complete, Some(refusal.code));
            let mut answer = Response::new(full(refusal.body));
            *answer.status_mut() = refusal.status;
            *answer.headers_mut() = refusal.headers;
            Ok(answer)
        }
        Err(error) if matches!(error.code(), Code::ModelNotFound | Code::ModelNotAllowed) => {
            admission.withdraw();
            Err(error)
        }
        Err(error) => {
            admission.head(reply::status_of(&error).as_u16());
            admission.fail(&error);
            Err(error)
        }
    }
}

/// When a stream gets its head though the upstream has none: after the silence that it may have. If
/// the wait for a starting upstream ends at that very time, a status then says more than an event.
fn early_head(limits: &Limits) -> Duration {
    if limits.cold_start_wait == limits.keepalive {
        limits.keepalive + Duration::from_secs(1)
    } else {
        limits.keepalive
    }
}

fn relay(mut admission: Admission, terms: Terms, mut exchange: Exchange) -> Answer {
    let is_stream = is_event_stream(&exchange.headers);
    let mut headers = std::mem::take(&mut exchange.headers);
    clean_incoming(&mut headers);
    if is_stream {
        headers.remove(CONTENT_LENGTH);
        reply::mark_stream(&mut headers);
    }
    admission.head(exchange.status.as_u16());
    let status = exchange.status;
    let mut answer = Response::new(Relay::passing(admission, terms, exchange, is_stream));
    *answer.status_mut() = status;
    *answer.headers_mut() = headers;
    answer
}

fn stream_head(body: body::Body) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = StatusCode::OK;
    answer.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream; charset=utf-8"),
    );
    reply::mark_stream(answer.headers_mut());
    answer
}
