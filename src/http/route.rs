//! Method and path become a route. Pure; the only place that knows paths.

use std::borrow::Cow;

use http::Method;

use crate::upstream::Endpoint;

/// Everything the gateway answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    Root,
    Health,
    Ready,
    Metrics,
    Models,
    /// One model, by its decoded id.
    Model(String),
    Call(Endpoint),
    ReloadKeys,
    AdminKeys,
    AdminStatus,
    Account(Account),
}

/// The routes of users, and of administrators for users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Account {
    Register,
    Token,
    Refresh,
    Me,
    Password,
    ApiKey,
    TokenLimit,
    Usage,
    Users,
    /// As the others by the decoded name of a user.
    LimitOf(String),
    Disable(String),
    Enable(String),
}

/// What a method and a path come to.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    Route(Route),
    /// The path exists for other methods.
    WrongMethod(Route),
    Nothing,
}

impl Route {
    /// The route's name in metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Root => "/",
            Self::Health => "/health",
            Self::Ready => "/ready",
            Self::Metrics => "/metrics",
            Self::Models => "/v1/models",
            Self::Model(_) => "/v1/models/{id}",
            Self::Call(endpoint) => endpoint.path(),
            Self::ReloadKeys => "/admin/reload-keys",
            Self::AdminKeys => "/admin/keys",
            Self::AdminStatus => "/admin/status",
            Self::Account(account) => account.name(),
        }
    }

    /// The methods the route takes: the value of `Allow`.
    #[must_use]
    pub const fn allow(&self) -> &'static str {
        match self {
            Self::Call(_) => "POST, OPTIONS",
            Self::ReloadKeys => "GET, HEAD, POST, OPTIONS",
            Self::Account(account) => account.allow(),
            _ => "GET, HEAD, OPTIONS",
        }
    }

    fn takes(&self, method: &Method) -> bool {
        self.allow()
            .split(", ")
            .any(|allowed| allowed == method.as_str())
    }
}

impl Account {
    const fn name(&self) -> &'static str {
        match self {
            Self::Register => "/auth/register",
            Self::Token => "/auth/token",
            Self::Refresh => "/auth/refresh",
            Self::Me => "/users/me",
            Self::Password => "/users/me/password",
            Self::ApiKey => "/users/me/api-key",
            Self::TokenLimit => "/users/me/token-limit",
            Self::Usage => "/users/usage",
            Self::Users => "/admin/users",
            Self::LimitOf(_) => "/admin/users/{name}/token-limit",
            Self::Disable(_) => "/admin/users/{name}/disable",
            Self::Enable(_) => "/admin/users/{name}/enable",
        }
    }

    const fn allow(&self) -> &'static str {
        match self {
            Self::Me | Self::Usage | Self::Users => "GET, HEAD, OPTIONS",
            Self::Password | Self::TokenLimit | Self::LimitOf(_) => "PUT, OPTIONS",
            Self::Register
            | Self::Token
            | Self::Refresh
            | Self::ApiKey
            | Self::Disable(_)
            | Self::Enable(_) => "POST, OPTIONS",
        }
    }

    fn find(path: &str) -> Option<Self> {
        if let Some(rest) = path.strip_prefix("/admin/users/") {
            let (name, verb) = rest.split_once('/')?;
            let name = decode(name)?;
            return match verb {
                "token-limit" => Some(Self::LimitOf(name)),
                "disable" => Some(Self::Disable(name)),
                "enable" => Some(Self::Enable(name)),
                _ => None,
            };
        }
        match path {
            "/auth/register" => Some(Self::Register),
            "/auth/token" => Some(Self::Token),
            "/auth/refresh" => Some(Self::Refresh),
            "/users/me" => Some(Self::Me),
            "/users/me/password" => Some(Self::Password),
            "/users/me/api-key" => Some(Self::ApiKey),
            "/users/me/token-limit" => Some(Self::TokenLimit),
            "/users/usage" => Some(Self::Usage),
            "/admin/users" => Some(Self::Users),
            _ => None,
        }
    }
}

/// Finds the route of a request.
#[must_use]
pub fn find(method: &Method, path: &str) -> Found {
    match route(path) {
        None => Found::Nothing,
        Some(route) if route.takes(method) => Found::Route(route),
        Some(route) => Found::WrongMethod(route),
    }
}

fn route(path: &str) -> Option<Route> {
    let path = normalise(path);
    if let Some(endpoint) = endpoint(&path) {
        return Some(Route::Call(endpoint));
    }
    if let Some(id) = path
        .strip_prefix("/models/")
        .or_else(|| path.strip_prefix("/v1/models/"))
    {
        return decode(id).map(Route::Model);
    }
    match &*path {
        "/" => Some(Route::Root),
        "/health" => Some(Route::Health),
        "/ready" => Some(Route::Ready),
        "/metrics" => Some(Route::Metrics),
        "/models" | "/v1/models" => Some(Route::Models),
        "/admin/reload-keys" => Some(Route::ReloadKeys),
        "/admin/keys" => Some(Route::AdminKeys),
        "/admin/status" => Some(Route::AdminStatus),
        other => Account::find(other).map(Route::Account),
    }
}

/// A model route, with or without `/v1`.
fn endpoint(path: &str) -> Option<Endpoint> {
    let bare = path
        .strip_prefix("/v1")
        .filter(|rest| rest.starts_with('/'))
        .unwrap_or(path);
    Endpoint::ALL
        .into_iter()
        .find(|endpoint| endpoint.path().trim_start_matches("/v1") == bare)
}

/// Collapses repeated slashes and repeated `/v1`, and drops a trailing slash.
fn normalise(path: &str) -> Cow<'_, str> {
    if !path.contains("//")
        && !path.starts_with("/v1/v1")
        && (path.len() == 1 || !path.ends_with('/'))
    {
        return Cow::Borrowed(path);
    }
    let mut clean = String::with_capacity(path.len());
    let mut is_first_v1 = true;
    for segment in path.split('/').filter(|segment| !segment.is_empty()) {
        if segment == "v1" && clean == "/v1" && is_first_v1 {
            continue;
        }
        is_first_v1 &= clean.is_empty() || clean == "/v1";
        clean.push('/');
        clean.push_str(segment);
    }
    Cow::Owned(if clean.is_empty() {
        "/".to_owned()
    } else {
        clean
    })
}

/// Percent-decodes a part of a path or of a form; `None` if it is no text.
pub fn decode(id: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(id.len());
    let mut rest = id.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        if byte == b'%' {
            let (&[high, low], after) = after.split_first_chunk()?;
            bytes.push(hex_digit(high)? << 4 | hex_digit(low)?);
            rest = after;
        } else {
            bytes.push(byte);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}

fn hex_digit(byte: u8) -> Option<u8> {
    u8::try_from(char::from(byte).to_digit(16)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(path: &str) -> Found {
        find(&Method::GET, path)
    }

    fn post(path: &str) -> Found {
        find(&Method::POST, path)
    }

    #[test]
    fn paths_are_normalised() {
        let chat = || Found::Route(Route::Call(Endpoint::ChatCompletions));
        for path in [
            "/v1/chat/completions",
            "/chat/completions",
            "//v1//chat/completions/",
            "/v1/v1/chat/completions",
            "/v1//v1/chat//completions",
            "/v1/v1/v1/chat/completions/",
        ] {
            assert_eq!(post(path), chat(), "{path}");
        }
        for path in ["/v1/tokenize", "/tokenize", "/tokenize/"] {
            assert_eq!(
                post(path),
                Found::Route(Route::Call(Endpoint::Tokenize)),
                "{path}"
            );
        }
        assert_eq!(get("//"), Found::Route(Route::Root));
        assert_eq!(get("/health/"), Found::Route(Route::Health));
    }

    #[test]
    fn nothing_else_exists() {
        for path in [
            "/v2/chat/completions",
            "/v1",
            "/v1/chat",
            "/v1/chat/completions/x",
            "/v1/./models",
            "/v1/../health",
            "/v1/%63hat/completions",
            "/invocations",
            "/admin",
            "/v1/health",
            "/.env",
            "",
            "*",
            "/v1/chat/v1/completions",
        ] {
            assert_eq!(post(path), Found::Nothing, "{path}");
        }
    }

    #[test]
    fn model_ids_may_hold_slashes() {
        for path in [
            "/v1/models/org/name-7B",
            "/v1/models/org%2Fname-7B",
            "/models/org%2fname-7B/",
        ] {
            assert_eq!(
                get(path),
                Found::Route(Route::Model("org/name-7B".to_owned())),
                "{path}"
            );
        }
        for wrong in ["%", "%2", "%+f", "%f+", "%-1", "% f"] {
            assert_eq!(get(&format!("/v1/models/{wrong}")), Found::Nothing);
        }
        assert_eq!(get("/v1/models/%ff"), Found::Nothing);
        assert_eq!(get("/v1/models/"), Found::Route(Route::Models));
    }

    #[test]
    fn users_are_named_in_paths() {
        let account = |account| Found::Route(Route::Account(account));
        let disable = |name: &str| account(Account::Disable(name.to_owned()));
        assert_eq!(post("/admin/users/ann/disable/"), disable("ann"));
        assert_eq!(post("//admin/users//a%40b.c/disable"), disable("a@b.c"));
        assert_eq!(post("/admin/users/a%2Fb/disable"), disable("a/b"));
        assert_eq!(get("/users/me/"), account(Account::Me));
        for path in [
            "/admin/users/ann",
            "/admin/users/ann/delete",
            "/admin/users/ann/b/disable",
            "/admin/users/%ff/disable",
            "/v1/users/me",
            "/users",
            "/auth",
        ] {
            assert_eq!(post(path), Found::Nothing, "{path}");
        }
        let limit = Account::LimitOf("ann".to_owned());
        assert_eq!(limit.allow(), "PUT, OPTIONS");
        assert_eq!(
            post("/admin/users/ann/token-limit"),
            Found::WrongMethod(Route::Account(limit))
        );
    }

    #[test]
    fn wrong_methods_name_the_right_ones() {
        let chat = Route::Call(Endpoint::ChatCompletions);
        assert_eq!(chat.allow(), "POST, OPTIONS");
        assert_eq!(get("/v1/chat/completions"), Found::WrongMethod(chat));
        assert_eq!(Route::Health.allow(), "GET, HEAD, OPTIONS");
        assert_eq!(post("/health"), Found::WrongMethod(Route::Health));
        assert_eq!(find(&Method::HEAD, "/health"), Found::Route(Route::Health));
        assert_eq!(
            find(&Method::OPTIONS, "/health"),
            Found::Route(Route::Health)
        );
        assert_eq!(post("/admin/reload-keys"), Found::Route(Route::ReloadKeys));
    }
}
