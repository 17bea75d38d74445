//! Secret Manager: the payload of a secret's version, its checksum verified. Does not know what a
//! payload means or when to ask again, and puts no part of one into an error.

mod calls;
mod edit;

pub use edit::{EDIT_WAIT, MAX_SECRET_BYTES};

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use google_cloud_gax::error::rpc::Code;
use google_cloud_gax::retry_policy::NeverRetry;
use google_cloud_secretmanager_v1::Error;
use google_cloud_secretmanager_v1::client::SecretManagerService;
use google_cloud_secretmanager_v1::model::AccessSecretVersionResponse;
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

use super::{Fault, Google, first_cause, no_credentials, shortened};
use crate::config::SecretRef;
use crate::secret::Secret;

/// What reading a payload needs.
const ACCESSOR: &str = "roles/secretmanager.secretAccessor";
/// The first attempt is a short one: after a pause of the process its connection may be dead, and
/// nobody says so. A Secret Manager that is merely slow answers the second one.
const ATTEMPTS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3)];
const PAUSE: Duration = Duration::from_millis(100);

/// A client of Secret Manager.
pub struct Secrets {
    google: Arc<Google>,
    /// Built at the first use, for that takes milliseconds; dropped after a call that brought no
    /// answer, because its connections may be dead and its credentials may have given up for good.
    client: Mutex<Option<SecretManagerService>>,
}

/// A version of a secret, with what it holds.
pub struct SecretVersion {
    pub number: u64,
    pub payload: Secret<Bytes>,
}

/// Why a request brought nothing.
enum Unmet {
    /// Told by Secret Manager, by something on the way, or by the client.
    Error(Error),
    /// It could not be sent, or there was no answer in time.
    Fault(Fault),
}

impl Secrets {
    #[must_use]
    pub fn new(google: Arc<Google>) -> Self {
        Self {
            google,
            client: Mutex::default(),
        }
    }

    /// Reads the named version, else the latest, in one call; what may pass is tried once more.
    ///
    /// Google sends a checksum with each payload. One without is taken: only emulators leave it out.
    ///
    /// # Errors
    /// In words, with what to do. Permanent: no right, no such secret or version, a version that is
    /// disabled or destroyed, credentials that are not taken.
    pub async fn access(&self, secret: &SecretRef) -> Result<SecretVersion, Fault> {
        let path = self.path(secret).await?;
        let version = secret
            .version
            .map_or_else(|| "latest".to_owned(), |number| number.to_string());
        let name = format!("{path}/versions/{version}");
        match self.access_within(ATTEMPTS[0], &name).await {
            Err(fault) if !fault.permanent => {
                sleep(PAUSE).await;
                self.access_within(ATTEMPTS[1], &name).await
            }
            outcome => outcome,
        }
    }

    /// `projects/P/secrets/S`.
    async fn path(&self, secret: &SecretRef) -> Result<String, Fault> {
        let project = match &secret.project {
            Some(project) => project,
            None => self.google.project().await?,
        };
        Ok(format!("projects/{project}/secrets/{}", secret.name))
    }

    async fn access_within(&self, limit: Duration, name: &str) -> Result<SecretVersion, Fault> {
        let request = |client: SecretManagerService| {
            let request = client.access_secret_version().set_name(name);
            request.send()
        };
        match self.send(limit, name, request).await {
            Ok(answer) => read(answer, name),
            Err(Unmet::Error(error)) => Err(fault_of(&error, name, ACCESSOR)),
            Err(Unmet::Fault(fault)) => Err(fault),
        }
    }

    /// Sends a request once, on the client that is there now, and waits no longer than `limit`.
    async fn send<T, F: Future<Output = Result<T, Error>>>(
        &self,
        limit: Duration,
        name: &str,
        request: impl FnOnce(SecretManagerService) -> F,
    ) -> Result<T, Unmet> {
        let sent = async { Ok(request(self.client().await?).await) };
        match timeout(limit, sent).await {
            Ok(Ok(Ok(answer))) => Ok(answer),
            Ok(Ok(Err(error))) => {
                if !is_answer(&error) {
                    self.forget().await;
                }
                Err(Unmet::Error(error))
            }
            Ok(Err(fault)) => Err(Unmet::Fault(fault)),
            Err(_) => {
                self.forget().await;
                let text = format!("Secret Manager did not answer for {name} in time");
                Err(Unmet::Fault(Fault::transient(text)))
            }
        }
    }

    /// The client, built if there is none.
    async fn client(&self) -> Result<SecretManagerService, Fault> {
        let mut held = self.client.lock().await;
        if let Some(client) = &*held {
            return Ok(client.clone());
        }
        let endpoint = self.google.config().secret_manager_endpoint.as_deref();
        let mut builder = SecretManagerService::builder()
            .with_credentials(self.google.credentials(endpoint)?)
            // Who calls knows when to ask again.
            .with_retry_policy(NeverRetry);
        if let Some(endpoint) = endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        let client = builder.build().await.map_err(|cause| {
            Fault::permanent(format!("no client of Secret Manager can be made: {cause}"))
        })?;
        Ok(held.insert(client).clone())
    }

    /// The next call begins with new connections and new credentials.
    async fn forget(&self) {
        self.client.lock().await.take();
    }
}

fn read(response: AccessSecretVersionResponse, name: &str) -> Result<SecretVersion, Fault> {
    let number = response
        .name
        .rsplit_once("/versions/")
        .and_then(|(_, number)| number.parse().ok());
    let (Some(number), Some(payload)) = (number, response.payload) else {
        return Err(Fault::transient(format!(
            "Secret Manager's answer for {name} has no version number or no payload"
        )));
    };
    let checksum = i64::from(crc32c::crc32c(&payload.data));
    if payload.data_crc32c.is_some_and(|sent| sent != checksum) {
        return Err(Fault::transient(format!(
            "the payload of {name} came damaged: it does not fit its checksum"
        )));
    }
    Ok(SecretVersion {
        number,
        payload: Secret::new(payload.data),
    })
}

/// Whether Secret Manager itself answered, and took the credentials.
fn is_answer(error: &Error) -> bool {
    error
        .http_status_code()
        .is_some_and(|status| status != http::StatusCode::UNAUTHORIZED.as_u16())
}

/// A failed call for the resource `name` in words, where `role` would allow the call.
fn fault_of(error: &Error, name: &str, role: &str) -> Fault {
    if error.is_authentication() {
        return Fault {
            permanent: !error.is_transient_and_before_rpc(),
            text: no_credentials(name, error),
        };
    }
    // A version that is added does not help where another is named.
    let version = name.rsplit_once("/versions/");
    let is_pinned = version.is_some_and(|(_, version)| version != "latest");
    let said = said(error.status().map_or("", |status| &status.message));
    let text = match code_of(error) {
        Code::PermissionDenied => format!(
            "no permission to use {name}: grant {role} on the secret to the account that this runs as{said}"
        ),
        Code::Unauthenticated => {
            format!(
                "Secret Manager does not take this process's credentials for {name}: check its account{said}"
            )
        }
        Code::NotFound if is_pinned => format!(
            "there is no {name}: check GCP_PROJECT and API_KEYS_SECRET_NAME, which names the version{said}"
        ),
        Code::NotFound => format!(
            "there is no {name}: check GCP_PROJECT and API_KEYS_SECRET_NAME, or make it with `tollgate keys add NAME --create`{said}"
        ),
        Code::FailedPrecondition if is_pinned => format!(
            "{name} is disabled or destroyed: enable it, or name another version in API_KEYS_SECRET_NAME{said}"
        ),
        Code::FailedPrecondition => format!(
            "{name} is disabled or destroyed, and no older version takes its place: enable it, or add a version{said}"
        ),
        Code::InvalidArgument => format!(
            "Secret Manager does not understand {name}: check GCP_PROJECT and API_KEYS_SECRET_NAME{said}"
        ),
        code => return Fault::transient(outage(error, code, name)),
    };
    Fault::permanent(text)
}

/// What the answer says, else its status: a proxy on the way does not speak Google's language.
fn code_of(error: &Error) -> Code {
    if let Some(status) = error.status() {
        return status.code;
    }
    match error.http_status_code() {
        Some(401) => Code::Unauthenticated,
        Some(403) => Code::PermissionDenied,
        Some(404) => Code::NotFound,
        _ => Code::Unavailable,
    }
}

/// The text is the same for as long as the outage is, so that it is told of once.
fn outage(error: &Error, code: Code, name: &str) -> String {
    match error.http_status_code() {
        Some(status) => format!("Secret Manager answers {status} ({code}) for {name}"),
        None if error.is_deserialization() => {
            format!("Secret Manager's answer for {name} cannot be read")
        }
        None => format!(
            "Secret Manager cannot be reached for {name}{}",
            first_cause(error)
        ),
    }
}

/// Another's words, as a part of a line.
fn said(text: &str) -> String {
    if text.is_empty() {
        return String::new();
    }
    format!(" (Google says: {})", shortened(text))
}

#[cfg(test)]
mod tests {
    use google_cloud_gax::error::rpc::Status;
    use google_cloud_secretmanager_v1::model::SecretPayload;

    use super::*;

    const NAME: &str = "projects/p/secrets/s/versions/latest";

    fn answer(name: &str, checksum: Option<i64>) -> AccessSecretVersionResponse {
        let payload = SecretPayload::new()
            .set_data("{}")
            .set_or_clear_data_crc32c(checksum);
        AccessSecretVersionResponse::new()
            .set_name(name)
            .set_payload(payload)
    }

    #[test]
    fn a_payload_counts_only_with_its_number_and_its_checksum() {
        let good = i64::from(crc32c::crc32c(b"{}"));
        for checksum in [Some(good), None] {
            let version = read(answer("projects/1/secrets/s/versions/7", checksum), NAME).unwrap();
            assert_eq!(version.number, 7);
            assert_eq!(&version.payload.expose()[..], b"{}");
        }
        for wrong in [
            answer("projects/1/secrets/s/versions/7", Some(good + 1)),
            answer("projects/1/secrets/s/versions/7", Some(good - (1 << 32))),
            answer("projects/1/secrets/s/versions/latest", Some(good)),
            answer("", Some(good)),
            AccessSecretVersionResponse::new().set_name("projects/1/secrets/s/versions/7"),
        ] {
            let fault = read(wrong, NAME).err().unwrap();
            assert!(!fault.permanent && fault.text.contains(NAME), "{fault}");
        }
    }

    #[test]
    fn only_what_somebody_must_mend_is_permanent() {
        let service = |code| Error::service(Status::default().set_code(code).set_message("why\n"));
        let http = |status| Error::http(status, http::HeaderMap::new(), Bytes::new());
        for (error, permanent) in [
            (service(Code::PermissionDenied), true),
            (service(Code::NotFound), true),
            (service(Code::FailedPrecondition), true),
            (service(Code::InvalidArgument), true),
            (service(Code::Unauthenticated), true),
            (service(Code::Unavailable), false),
            (service(Code::ResourceExhausted), false),
            (service(Code::Internal), false),
            (service(Code::Unknown), false),
            (http(401), true),
            (http(403), true),
            (http(404), true),
            (http(429), false),
            (http(500), false),
            (http(503), false),
            (Error::timeout("late"), false),
            (Error::io("cut"), false),
            (Error::connect("refused"), false),
        ] {
            let fault = fault_of(&error, NAME, ACCESSOR);
            assert_eq!(fault.permanent, permanent, "{error}: {fault}");
            assert!(fault.text.contains(NAME), "{fault}");
            assert!(!fault.text.contains('\n'), "{fault}");
        }
    }

    #[test]
    fn an_answer_that_cannot_be_read_is_not_repeated() {
        let fault = fault_of(&Error::deser("at sk-secret"), NAME, ACCESSOR);
        assert!(
            !fault.permanent && !fault.text.contains("sk-secret"),
            "{fault}"
        );
    }
}
