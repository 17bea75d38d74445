//! HTTP: the tower service, its layers, and the dispatch by route. Everything a request needs is
//! reachable from [`Gateway`]; nothing is passed through request extensions.

mod admin;
mod admission;
mod body;
mod call;
mod cors;
mod form;
mod models;
mod openai;
mod ops;
mod relay;
mod reply;
mod route;
mod view;

pub use body::{Answer, Bodies, Body};
pub use cors::Cors;

use std::any::Any;
use std::convert::Infallible;
use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method, Request};
use hyper::body::Incoming;
use tokio_util::sync::CancellationToken;
use tower::{Service, ServiceBuilder, service_fn};
use tower_http::catch_panic::CatchPanicLayer;

use crate::auth::{KeyRing, Principal};
use crate::config::{Instance, Limits};
use crate::error::{Code, Error};
use crate::telemetry::log::{Refusal, RefusalLog};
use crate::telemetry::metrics::Metrics;
use crate::upstream::{Api, Upstream};
use crate::usage::{Ledger, UsageRecord};
use route::{Found, Route};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const CLIENT_REQUEST_ID: HeaderName = HeaderName::from_static("x-client-request-id");

/// What all requests share.
pub struct Gateway {
    pub keys: KeyRing,
    pub upstream: Upstream,
    pub ledger: Arc<Ledger>,
    pub metrics: Arc<Metrics>,
    pub refusals: RefusalLog,
    pub bodies: Bodies,
    pub cors: Cors,
    pub limits: Limits,
    pub instance: Instance,
    pub public_models: bool,
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

/// The service of one listener. A panic becomes an answer; nothing else fails.
pub fn service(
    gateway: Arc<Gateway>,
    surface: Surface,
) -> impl Service<Request<Incoming>, Response = Answer, Error = Infallible, Future: Send> + Clone + Send
{
    let inner = service_fn(move |request| {
        let gateway = gateway.clone();
        async move { Ok::<_, Infallible>(handle(gateway, surface, request).await) }
    });
    // The panic layer has a body type of its own, which has no place in `Answer`.
    ServiceBuilder::new()
        .map_response(body::unify)
        .layer(CatchPanicLayer::custom(panicked))
        .service(inner)
}

/// The rim: request id, dispatch, errors, CORS, metrics.
async fn handle(gateway: Arc<Gateway>, surface: Surface, request: Request<Incoming>) -> Answer {
    let request_id = new_request_id();
    let client_id =
        call::client_request_id(request.headers()).and_then(|id| HeaderValue::try_from(id).ok());
    let origin = request.headers().get(http::header::ORIGIN).cloned();
    let is_head = request.method() == Method::HEAD;
    let found = match *request.method() {
        Method::OPTIONS => Found::Nothing,
        _ => route::find(request.method(), request.uri().path()),
    };
    let name = if let Found::Route(route) = &found {
        route.name()
    } else {
        "other"
    };
    let mut answer = dispatch(&gateway, surface, found, request, &request_id).await;
    let headers = answer.headers_mut();
    if let Some(origin) = origin {
        gateway.cors.mark(&origin, headers);
    }
    headers.insert(REQUEST_ID, request_id);
    if let Some(id) = client_id {
        headers.insert(CLIENT_REQUEST_ID, id);
    }
    gateway.metrics.answered(name, answer.status().as_u16());
    if is_head {
        *answer.body_mut() = body::full("");
    }
    answer
}

async fn dispatch(
    gateway: &Arc<Gateway>,
    surface: Surface,
    found: Found,
    request: Request<Incoming>,
    request_id: &HeaderValue,
) -> Answer {
    let api = if let Found::Route(Route::Call(endpoint)) = &found {
        endpoint.api()
    } else {
        Api::Opaque
    };
    let name = if let Found::Route(route) = &found {
        route.name()
    } else {
        "other"
    };
    let outcome = match found {
        Found::Route(route) if surface == Surface::All || ops::is_for_scrapers(&route) => {
            to_route(gateway, surface, route, request, request_id).await
        }
        Found::WrongMethod(allow) => return reply::wrong_method(allow),
        _ if request.method() == Method::OPTIONS => match route::allowed(request.uri().path()) {
            Some(allow) => return gateway.cors.preflight(request.headers(), allow),
            None => Err(nothing_here()),
        },
        _ => Err(nothing_here()),
    };
    outcome.unwrap_or_else(|error| {
        gateway.metrics.refused(error.code());
        gateway.refusals.write(&Refusal {
            code: error.code(),
            status: reply::status_of(&error).as_u16(),
            route: name,
            request_id: request_id.to_str().unwrap_or_default(),
            cause: &error.cause_chain(),
        });
        reply::error(&error, api)
    })
}

async fn to_route(
    gateway: &Arc<Gateway>,
    surface: Surface,
    route: Route,
    request: Request<Incoming>,
    request_id: &HeaderValue,
) -> Result<Answer, Error> {
    let headers = request.headers();
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
            models::one(gateway, &id).await
        }
        Route::Call(endpoint) => openai::answer(gateway, endpoint, request, request_id).await,
        Route::ReloadKeys => {
            gateway.keys.identify(headers).await?;
            admin::reload_keys(gateway, request.method()).await
        }
        Route::AdminKeys => {
            admin_of(gateway, headers).await?;
            Ok(admin::keys(gateway))
        }
        Route::AdminStatus => {
            admin_of(gateway, headers).await?;
            Ok(admin::status(gateway))
        }
        Route::Accounts => Err(Error::new(
            Code::AccountsDisabled,
            "this gateway has no user accounts; call it with a service key",
        )),
    }
}

/// A wrong key is refused even where none is needed.
async fn may_list(gateway: &Gateway, headers: &http::HeaderMap) -> Result<(), Error> {
    match gateway.keys.identify(headers).await {
        Err(error) if error.code() == Code::MissingApiKey && gateway.public_models => Ok(()),
        other => other.map(drop),
    }
}

async fn admin_of(gateway: &Gateway, headers: &http::HeaderMap) -> Result<Principal, Error> {
    let principal = gateway.keys.identify(headers).await?;
    if principal.entry.admin {
        return Ok(principal);
    }
    Err(Error::new(
        Code::AdminRequired,
        "this route needs an admin key",
    ))
}

impl Gateway {
    /// The model label of a metric: a model that an upstream told of, else `other`, so that callers
    /// cannot make labels up.
    pub fn model_label(&self, record: &UsageRecord) -> String {
        let served = record.served_model.as_deref().unwrap_or_default();
        let is_known = self
            .upstream
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

#[expect(
    clippy::needless_pass_by_value,
    reason = "the layer hands the box over"
)]
fn panicked(panic: Box<dyn Any + Send + 'static>) -> Answer {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(
        panic = text.unwrap_or("of another type"),
        "a request panicked"
    );
    let error = Error::new(
        Code::UpstreamError,
        "the gateway failed with an internal error",
    )
    .status(500);
    reply::error(&error, Api::Opaque)
}
