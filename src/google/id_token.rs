//! ID tokens: this process shows a private Cloud Run service who it is. One [`IdToken`] is for one
//! audience. What is overdue is done beside the next call or, once the token has expired, before it;
//! no timer is needed. Knows nothing of what the token is sent with.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use google_cloud_auth::credentials::idtoken;
use http::HeaderValue;
use serde::Deserialize;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Fault, Google};

/// The metadata server of Cloud Run hands out the old token until about now.
const RENEW_BEFORE: Duration = Duration::from_mins(4);
/// A token that has less than this left may expire on its way.
const EXPIRES_BEFORE: Duration = Duration::from_secs(10);
/// All attempts of one fetch together.
const FETCH_LIMIT: Duration = Duration::from_secs(4);
/// Pauses between the attempts of one fetch.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(400)];
/// A call waits no longer, its turn among the others that wait included.
const WAIT_LIMIT: Duration = Duration::from_secs(5);
/// After a fetch has failed, this long nobody waits for another.
const FAULT_AGE: Duration = Duration::from_secs(2);
/// A token that is in use is renewed, or given up, at most this often.
const RENEW_PAUSE: Duration = Duration::from_secs(10);

/// Who mints the tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenSource {
    /// The metadata server of this machine.
    Metadata,
    /// Application default credentials: a service account's file, or its impersonation.
    Default,
}

/// The ID token for one audience.
pub struct IdToken {
    core: Arc<Core>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// What renewing shares with the calls.
struct Core {
    google: Arc<Google>,
    source: TokenSource,
    audience: String,
    state: Mutex<State>,
    /// Held while a token is fetched for those who wait.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    held: Option<Held>,
    /// Why the last fetch failed, and when.
    fault: Option<(Fault, Instant)>,
    renewed_at: Option<Instant>,
}

struct Held {
    header: HeaderValue,
    expires_at: SystemTime,
    obtained_at: Instant,
    account: Option<String>,
}

/// What matters of a token's second part.
#[derive(Deserialize)]
struct Claims {
    /// Seconds since 1970.
    exp: u64,
    email: Option<String>,
}

impl IdToken {
    /// Asks nobody yet.
    #[must_use]
    pub fn new(google: Arc<Google>, source: TokenSource, audience: String) -> Self {
        let core = Core {
            google,
            source,
            audience,
            state: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        };
        Self {
            core: Arc::new(core),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }
    }

    #[must_use]
    pub fn audience(&self) -> &str {
        &self.core.audience
    }

    /// `Bearer TOKEN`, good for at least a few seconds more. With a token at hand: one short lock.
    ///
    /// # Errors
    /// Why there is none, in words.
    pub async fn header(&self) -> Result<HeaderValue, Fault> {
        match self.core.look() {
            Some((header, false)) => Ok(header),
            Some((header, true)) => {
                self.renew_beside();
                Ok(header)
            }
            None => timeout(WAIT_LIMIT, self.core.await_token())
                .await
                .unwrap_or_else(|_| Err(self.core.fault(&Fault::transient("it takes too long")))),
        }
    }

    /// The service did not take this token: the next call gets another, unless this one is new.
    pub fn give_up(&self, refused: &HeaderValue) {
        let mut state = self.core.state();
        state
            .held
            .take_if(|held| held.header == *refused && held.obtained_at.elapsed() >= RENEW_PAUSE);
    }

    /// The service account that the last token was for, where the token names it.
    #[must_use]
    pub fn account(&self) -> Option<String> {
        self.core.state().held.as_ref()?.account.clone()
    }

    /// Ends the fetch that may be under way beside the calls, and waits for its task.
    pub async fn close(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn renew_beside(&self) {
        {
            let mut state = self.core.state();
            if state
                .renewed_at
                .is_some_and(|at| at.elapsed() < RENEW_PAUSE)
            {
                return;
            }
            state.renewed_at = Some(Instant::now());
        }
        let core = Arc::clone(&self.core);
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            if let Some(Err(fault)) = stop.run_until_cancelled(core.fetch()).await {
                tracing::warn!("{fault}; the old one is used until it expires");
            }
        });
    }
}

impl Core {
    /// The token at hand, and whether it should be renewed.
    fn look(&self) -> Option<(HeaderValue, bool)> {
        let state = self.state();
        let held = state.held.as_ref()?;
        let left = held.expires_at.duration_since(SystemTime::now()).ok()?;
        (left > EXPIRES_BEFORE).then(|| (held.header.clone(), left < RENEW_BEFORE))
    }

    /// One fetches, the others wait for it and share what comes of it.
    async fn await_token(&self) -> Result<HeaderValue, Fault> {
        let _turn = self.turn.lock().await;
        if let Some((header, _)) = self.look() {
            return Ok(header);
        }
        if let Some((fault, at)) = &self.state().fault
            && at.elapsed() < FAULT_AGE
        {
            return Err(fault.clone());
        }
        self.fetch().await
    }

    async fn fetch(&self) -> Result<HeaderValue, Fault> {
        let fetched = timeout(FETCH_LIMIT, self.fetch_patiently()).await;
        let fetched = fetched.unwrap_or_else(|_| Err(Fault::transient("it takes too long")));
        let held = fetched
            .and_then(|token| read(&token, Instant::now()))
            .map_err(|fault| self.fault(&fault));
        let mut state = self.state();
        match held {
            Ok(held) => {
                let header = held.header.clone();
                state.fault = None;
                state.held = Some(held);
                Ok(header)
            }
            Err(fault) => {
                state.fault = Some((fault.clone(), Instant::now()));
                Err(fault)
            }
        }
    }

    /// The metadata server fails now and then for a moment, right after a start above all.
    async fn fetch_patiently(&self) -> Result<String, Fault> {
        for pause in PAUSES {
            match self.fetch_once().await {
                Err(fault) if !fault.permanent => sleep(pause).await,
                fetched => return fetched,
            }
        }
        self.fetch_once().await
    }

    async fn fetch_once(&self) -> Result<String, Fault> {
        match self.source {
            TokenSource::Metadata => self.google.metadata().id_token(&self.audience).await,
            TokenSource::Default => ask_default(&self.audience).await,
        }
    }

    fn fault(&self, fault: &Fault) -> Fault {
        Fault {
            permanent: fault.permanent,
            text: format!("no ID token for {}: {fault}", self.audience),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Whole after every statement, so a panic elsewhere spoils nothing.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Built anew for each token: the library's own cache renews by a timer and stays broken after some
/// faults.
async fn ask_default(audience: &str) -> Result<String, Fault> {
    let built = idtoken::Builder::new(audience).with_include_email().build();
    let credentials = built.map_err(|cause| {
        Fault::permanent(if cause.is_not_supported() {
            "the Google credentials here are of a kind that has none, such as a person's own; log in \
             with `gcloud auth application-default login --impersonate-service-account=ACCOUNT`, or \
             name a service account's file in GOOGLE_APPLICATION_CREDENTIALS"
                .to_owned()
        } else {
            format!("there are no Google credentials to use: {cause}")
        })
    })?;
    credentials.id_token().await.map_err(|cause| Fault {
        permanent: !cause.is_transient(),
        text: format!(
            "the Google credentials of this machine give none; see that there are any ({})",
            anyhow::Error::new(cause).root_cause()
        ),
    })
}

/// Takes a token apart as far as its end and its owner. The signature is for its reader.
fn read(token: &str, obtained_at: Instant) -> Result<Held, Fault> {
    let no_token = || Fault::transient("what was answered in its place is no ID token");
    let [_, claims, _] = token.split('.').collect::<Vec<_>>()[..] else {
        return Err(no_token());
    };
    let claims = URL_SAFE_NO_PAD.decode(claims).map_err(|_| no_token())?;
    let claims: Claims = serde_json::from_slice(&claims).map_err(|_| no_token())?;
    let mut header = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| no_token())?;
    header.set_sensitive(true);
    let expires_at = UNIX_EPOCH.checked_add(Duration::from_secs(claims.exp));
    Ok(Held {
        header,
        expires_at: expires_at.ok_or_else(no_token)?,
        obtained_at,
        account: claims.email,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::GoogleConfig;

    fn part(text: &str) -> String {
        URL_SAFE_NO_PAD.encode(text)
    }

    fn token(claims: &str) -> String {
        format!("{}.{}.{}", part("{}"), part(claims), part("s"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_token_is_given_up_unless_it_is_new() {
        let google = Google::new(&GoogleConfig::default());
        let tokens = IdToken::new(google.into(), TokenSource::Metadata, "a".to_owned());
        let held = read(&token(r#"{"exp":4102444800}"#), Instant::now()).unwrap();
        let (good, other) = (held.header.clone(), HeaderValue::from_static("Bearer b"));
        tokens.core.state().held = Some(held);
        tokens.give_up(&good);
        assert_eq!(tokens.header().await, Ok(good.clone()), "it is new");
        tokio::time::advance(RENEW_PAUSE).await;
        tokens.give_up(&other);
        assert_eq!(
            tokens.header().await,
            Ok(good.clone()),
            "another was refused"
        );
        tokens.give_up(&good);
        assert_eq!(tokens.core.look(), None);
    }

    #[tokio::test]
    async fn only_a_token_with_an_end_is_one() {
        let good = token(r#"{"aud":"a","exp":4102444800,"email":"a@b"}"#);
        let held = read(&good, Instant::now()).unwrap();
        assert_eq!(held.header, format!("Bearer {good}"));
        assert!(held.header.is_sensitive());
        assert_eq!(held.account.as_deref(), Some("a@b"));
        for wrong in [
            String::new(),
            "a.b".to_owned(),
            "<html>..</html>".to_owned(),
            token("{}"),
            token(r#"{"exp":"soon"}"#),
            token("null"),
            format!("{}\n.{}.c", part("{}"), part(r#"{"exp":1}"#)),
            token(r#"{"exp":18446744073709551615}"#),
            format!("{good}.e"),
        ] {
            let fault = read(&wrong, Instant::now()).err();
            assert!(fault.is_some_and(|fault| !fault.permanent), "{wrong}");
        }
    }
}
