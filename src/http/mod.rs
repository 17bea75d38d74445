//! HTTP: the tower service, its layers, and the dispatch by route. Everything a request needs is
//! reachable from [`Gateway`]; nothing is passed through request extensions.

mod account;
mod admin;
mod admission;
mod body;
mod call;
mod cors;
mod form;
mod hold;
mod models;
mod openai;
mod ops;
mod pulse;
mod rates;
mod relay;
mod reply;
mod reserve;
mod route;
mod upstreams;
mod view;

pub use body::{Answer, Bodies, Body};
pub use cors::Cors;

use std::convert::Infallible;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt as _;
use http::header::ALLOW;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use hyper::body::Incoming;
use tokio_util::sync::CancellationToken;
use tower::{Service, service_fn};

use crate::auth::{KeyRing, Principal, Recognised, Users, Who, presented_key};
use crate::budget::Budgets;
use crate::config::{Instance, Limits};
use crate::error::{Code, Error};
use crate::store::Store;
use crate::telemetry::log::{Refusal, RefusalLog};
use crate::telemetry::metrics::Metrics;
use crate::upstream::{Api, Upstreams};
use crate::usage::{Ledger, UsageRecord};
use route::{Found, Route};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const CLIENT_REQUEST_ID: HeaderName = HeaderName::from_static("x-client-request-id");

/// What all requests share.
pub struct Gateway {
    pub keys: KeyRing,
    /// `None` without a database, as are budgets.
    pub users: Option<Users>,
    pub budgets: Option<Budgets>,
    pub upstreams: Upstreams,
    pub ledger: Arc<Ledger>,
    pub metrics: Arc<Metrics>,
    pub refusals: RefusalLog,
    pub bodies: Bodies,
    pub cors: Cors,
    pub limits: Limits,
    pub instance: Instance,
    pub public_models: bool,
    /// Asked for its state alone.
    pub store: Option<Arc<Store>>,
    /// Cancelled when what still runs must end because the process does.
    pub cut: CancellationToken,
}

/// Which routes a listener answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surface {
    All,
    /// For a scraper on this machine: metrics and health, without a key.
    Metrics,
}

/// How a request came.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    surface: Surface,
    /// The other end of the connection.
    peer: IpAddr,
}

/// The service of one connection, from `peer`. A panic becomes an answer; nothing else fails.
pub fn service(
    gateway: Arc<Gateway>,
    surface: Surface,
    peer: IpAddr,
) -> impl Service<Request<Incoming>, Response = Answer, Error = Infallible, Future: Send> + Clone + Send
{
    let arrival = Arrival { surface, peer };
    service_fn(move |request| {
        let gateway = gateway.clone();
        async move { Ok::<_, Infallible>(handle(gateway, arrival, request).await) }
    })
}

/// The rim: request id, dispatch, errors, CORS, metrics.
async fn handle(gateway: Arc<Gateway>, arrival: Arrival, request: Request<Incoming>) -> Answer {
    let request_id = new_request_id();
    let client_id =
        call::client_request_id(request.headers()).and_then(|id| HeaderValue::try_from(id).ok());
    let origin = request.headers().get(http::header::ORIGIN).cloned();
    let is_head = request.method() == Method::HEAD;
    let found = find(arrival.surface, &request);
    let name = match &found {
        Found::Route(route) => route.name(),
        Found::WrongMethod(_) | Found::Nothing => "other",
    };
    let mut marks = HeaderMap::new();
    let answer = async {
        match &found {
            Found::Route(Route::Call(endpoint)) if request.method() != Method::OPTIONS => {
                openai::answer(&gateway, *endpoint, request, &request_id, &mut marks).await
            }
            _ => dispatch(&gateway, arrival, &found, request).await,
        }
    };
    let outcome = caught(answer).await;
    let mut answer = outcome.unwrap_or_else(|error| {
        gateway.metrics.refused(error.code());
        gateway.refusals.write(&Refusal {
            code: error.code(),
            status: reply::status_of(&error).as_u16(),
            route: name,
            request_id: request_id.to_str().unwrap_or_default(),
            cause: &error.cause_chain(),
        });
        reply::error(&error, dialect(&found))
    });
    if is_head {
        reply::keep_head(&mut answer);
    }
    let headers = answer.headers_mut();
    if let Found::WrongMethod(route) = &found {
        headers.insert(ALLOW, HeaderValue::from_static(route.allow()));
    }
    if let Some(origin) = origin {
        gateway.cors.mark(&origin, headers);
    }
    headers.extend(marks);
    headers.insert(REQUEST_ID, request_id);
    if let Some(id) = client_id {
        headers.insert(CLIENT_REQUEST_ID, id);
    }
    gateway.metrics.answered(name, answer.status().as_u16());
    answer
}

/// The route of a request, as far as this listener has it.
fn find(surface: Surface, request: &Request<Incoming>) -> Found {
    match route::find(request.method(), request.uri().path()) {
        Found::Route(route) | Found::WrongMethod(route)
            if surface == Surface::Metrics && !ops::is_for_scrapers(&route) =>
        {
            Found::Nothing
        }
        found => found,
    }
}

/// The shape of errors on a route.
fn dialect(found: &Found) -> Api {
    match found {
        Found::Route(Route::Call(endpoint)) | Found::WrongMethod(Route::Call(endpoint)) => {
            endpoint.api()
        }
        _ => Api::Opaque,
    }
}

/// Every route but the model calls.
async fn dispatch(
    gateway: &Arc<Gateway>,
    arrival: Arrival,
    found: &Found,
    request: Request<Incoming>,
) -> Result<Answer, Error> {
    if let Found::Route(Route::Account(account)) = found
        && request.method() != Method::OPTIONS
    {
        return account::answer(gateway, account, request, arrival.peer).await;
    }
    let (head, body) = request.into_parts();
    let outcome = match found {
        Found::Route(route) if head.method == Method::OPTIONS => {
            Ok(gateway.cors.preflight(&head.headers, route.allow()))
        }
        Found::Route(route) => to_route(gateway, arrival.surface, route, &head).await,
        Found::WrongMethod(_) => Err(Error::new(
            Code::MethodNotAllowed,
            "this route does not take this method",
        )),
        Found::Nothing => Err(nothing_here()),
    };
    if outcome.is_err() {
        body::drain(&head.headers, body).await;
    }
    outcome
}

async fn to_route(
    gateway: &Arc<Gateway>,
    surface: Surface,
    route: &Route,
    head: &Parts,
) -> Result<Answer, Error> {
    let headers = &head.headers;
    match route {
        Route::Root => Ok(ops::root()),
        Route::Health => Ok(ops::health()),
        Route::Ready => Ok(ops::ready(gateway)),
        Route::Metrics => {
            if surface == Surface::All {
                admin_of(gateway, headers).await?;
            }
            Ok(ops::metrics(gateway))
        }
        Route::Models => {
            may_list(gateway, headers).await?;
            Ok(models::list(gateway).await)
        }
        Route::Model(id) => {
            may_list(gateway, headers).await?;
            models::one(gateway, id).await
        }
        // Taken before, with their bodies.
        Route::Call(_) | Route::Account(_) => Err(nothing_here()),
        Route::ReloadKeys => {
            service_of(gateway, headers).await?;
            admin::reload_keys(gateway, &head.method).await
        }
        Route::AdminKeys => {
            admin_of(gateway, headers).await?;
            Ok(admin::keys(gateway))
        }
        Route::AdminStatus => {
            admin_of(gateway, headers).await?;
            Ok(admin::status(gateway))
        }
    }
}

/// A wrong key is refused even where none is needed.
async fn may_list(gateway: &Gateway, headers: &http::HeaderMap) -> Result<(), Error> {
    match gateway.identify(headers).await {
        Err(error) if error.code() == Code::MissingApiKey && gateway.public_models => Ok(()),
        other => other.map(drop),
    }
}

/// Any service key will do, but no user's.
async fn service_of(gateway: &Gateway, headers: &HeaderMap) -> Result<Principal, Error> {
    let principal = gateway.identify(headers).await?;
    match principal.who {
        Who::Service(_) => Ok(principal),
        Who::User(_) => Err(Error::new(
            Code::AdminRequired,
            "this route needs a service key; users cannot call it",
        )),
    }
}

async fn admin_of(gateway: &Gateway, headers: &http::HeaderMap) -> Result<Principal, Error> {
    let principal = gateway.identify(headers).await?;
    if principal.is_admin() {
        return Ok(principal);
    }
    Err(Error::new(
        Code::AdminRequired,
        "this route needs an admin key",
    ))
}

impl Gateway {
    /// Who sends these headers: a service key, or a user's key or token.
    ///
    /// # Errors
    /// `missing_api_key`, `invalid_api_key`, `invalid_token`, `user_disabled`, `not_ready`,
    /// `store_unavailable`.
    pub async fn identify(&self, headers: &http::HeaderMap) -> Result<Principal, Error> {
        let credential = presented_key(headers)?;
        let Some(users) = &self.users else {
            return self.keys.identify(credential).await;
        };
        if self.keys.holds(credential) {
            return self.keys.identify(credential).await;
        }
        match users.recognise(credential).await {
            Recognised::Users => users.identify(credential).await,
            Recognised::No => self.keys.identify(credential).await,
            // Who may be a user is not told that the key is wrong.
            Recognised::Unclear(unclear) => match self.keys.identify(credential).await {
                Err(error) if error.code() == Code::InvalidApiKey => Err(unclear),
                told => told,
            },
        }
    }

    /// The model label of a metric: a model that an upstream told of, else `other`, so that callers
    /// cannot make labels up.
    pub fn model_label(&self, record: &UsageRecord) -> String {
        let served = record.served_model.as_deref().unwrap_or_default();
        let is_known = self
            .upstreams
            .targets()
            .iter()
            .any(|target| target.knowledge().card(served).is_some());
        if is_known {
            served.to_owned()
        } else {
            "other".to_owned()
        }
    }
}

fn nothing_here() -> Error {
    Error::new(Code::NotFound, "there is nothing at this path")
}

fn new_request_id() -> HeaderValue {
    let id = uuid::Uuid::now_v7();
    let mut text = uuid::Uuid::encode_buffer();
    let text: &str = id.hyphenated().encode_lower(&mut text);
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static("none"))
}

/// The outcome of an answer in the making; a panic becomes an error like any other.
async fn caught(answer: impl Future<Output = Result<Answer, Error>>) -> Result<Answer, Error> {
    // What requests share is in order after a panic: locks are taken even if poisoned, and an
    // admitted call is settled when it is dropped.
    AssertUnwindSafe(answer)
        .catch_unwind()
        .await
        .unwrap_or_else(|panic| {
            let text = panic
                .downcast_ref::<&str>()
                .copied()
                .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
                .unwrap_or("of another type");
            tracing::error!(panic = text, "a request panicked");
            Err(
                Error::new(Code::Internal, "the gateway failed with an internal error")
                    .because(format!("panic: {text}")),
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error_of_the_gateway() {
        let formatted = "words".to_owned();
        let error = caught(async move { panic!("{formatted}") }).await.err();
        let error = error.expect("an error");
        assert_eq!(error.code(), Code::Internal);
        assert_eq!(reply::status_of(&error).as_u16(), 500);
        assert_eq!(error.cause_chain(), "panic: words");
        assert!(!error.message().contains("words"));
        let answer = caught(async { Ok(ops::root()) }).await;
        assert_eq!(answer.expect("an answer").status().as_u16(), 200);
    }
}
