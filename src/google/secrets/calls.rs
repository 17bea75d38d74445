//! The calls that a change of a secret is made of, each sent once, and what a refusal of one means.
//! Does not know in what order they go.

use std::collections::HashMap;

use bytes::Bytes;
use google_cloud_gax::error::rpc::Code;
use google_cloud_secretmanager_v1::Error;
use google_cloud_secretmanager_v1::client::SecretManagerService;
use google_cloud_secretmanager_v1::model::{self, Replication, SecretPayload, replication};
use google_cloud_wkt::FieldMask;
use tokio::time::Duration;

use super::{Fault, SecretVersion, Secrets, Unmet, code_of, fault_of, read};

/// How long one call may take; afterwards it is not known whether it was done.
pub(super) const CALL_LIMIT: Duration = Duration::from_secs(5);
/// What changing a secret needs: its annotations, its payloads, new versions.
const ADMIN: &str = "roles/secretmanager.admin";

/// Why a call brought nothing.
#[derive(Debug)]
pub(super) struct Refused {
    pub why: Why,
    pub fault: Fault,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    Missing,
    Exists,
    /// The etag or the state is another one.
    Changed,
    /// A quota is used up: it was not done, and later it will be.
    Quota,
    /// It is not known whether it was done.
    Unsure,
    Final,
}

impl Refused {
    fn of(error: &Error, name: &str) -> Self {
        let fault = fault_of(error, name, ADMIN);
        let why = match code_of(error) {
            // Nothing was sent, and a person at a terminal should not wait for credentials to appear.
            _ if error.is_authentication() => Why::Final,
            Code::NotFound => Why::Missing,
            Code::AlreadyExists => Why::Exists,
            Code::FailedPrecondition | Code::Aborted => Why::Changed,
            Code::ResourceExhausted => Why::Quota,
            _ if fault.permanent => Why::Final,
            _ => Why::Unsure,
        };
        Self { why, fault }
    }

    /// Whether another attempt may bring more.
    pub fn is_passing(&self) -> bool {
        matches!(self.why, Why::Quota | Why::Unsure)
    }
}

impl From<Fault> for Refused {
    fn from(fault: Fault) -> Self {
        let why = if fault.permanent {
            Why::Final
        } else {
            Why::Unsure
        };
        Self { why, fault }
    }
}

impl Secrets {
    /// [`Secrets::send`], as part of a change.
    async fn call<T, F: Future<Output = Result<T, Error>>>(
        &self,
        name: &str,
        request: impl FnOnce(SecretManagerService) -> F,
    ) -> Result<T, Refused> {
        let answer = self.send(CALL_LIMIT, name, request).await;
        answer.map_err(|unmet| match unmet {
            Unmet::Error(error) => Refused::of(&error, name),
            Unmet::Fault(fault) => fault.into(),
        })
    }

    /// The secret itself, without payloads.
    pub(super) async fn get(&self, path: &str) -> Result<model::Secret, Refused> {
        self.call(path, |client| client.get_secret().set_name(path).send())
            .await
    }

    /// Replaces all annotations, if the secret still has this etag.
    pub(super) async fn annotate(
        &self,
        path: &str,
        etag: &str,
        annotations: HashMap<String, String>,
    ) -> Result<model::Secret, Refused> {
        let secret = model::Secret::new()
            .set_name(path)
            .set_etag(etag)
            .set_annotations(annotations);
        // Without the mask all else would be cleared.
        let mask = FieldMask::default().set_paths(["annotations"]);
        let request = |client: SecretManagerService| {
            let request = client.update_secret().set_secret(secret);
            request.set_update_mask(mask).send()
        };
        self.call(path, request).await
    }

    /// Reads a version, `latest` if none is named. What was read by number was the last word, while
    /// `latest` may lag behind.
    pub(super) async fn version(
        &self,
        path: &str,
        number: Option<u64>,
    ) -> Result<SecretVersion, Refused> {
        let version = number.map_or_else(|| "latest".to_owned(), |number| number.to_string());
        let name = format!("{path}/versions/{version}");
        let request = |client: SecretManagerService| {
            let request = client.access_secret_version().set_name(&name);
            request.send()
        };
        Ok(read(self.call(&name, request).await?, &name)?)
    }

    /// Adds a version and returns its number.
    pub(super) async fn add(&self, path: &str, payload: Bytes) -> Result<u64, Refused> {
        let checksum = i64::from(crc32c::crc32c(&payload));
        let payload = SecretPayload::new()
            .set_data(payload)
            .set_data_crc32c(checksum);
        let request = |client: SecretManagerService| {
            let request = client.add_secret_version().set_parent(path);
            request.set_payload(payload).send()
        };
        let answer = self.call(path, request).await?;
        let number = answer.name.rsplit_once("/versions/");
        let number = number.and_then(|(_, number)| number.parse().ok());
        number.ok_or_else(|| {
            let text = format!("Secret Manager's answer for {path} has no version number");
            Fault::transient(text).into()
        })
    }

    /// Makes a secret without versions that Google replicates where it likes.
    pub(super) async fn make(&self, path: &str) -> Result<(), Refused> {
        let (project, id) = path
            .split_once("/secrets/")
            .ok_or_else(|| Fault::permanent(format!("{path} is not the name of a secret")))?;
        let replication = Replication::new().set_automatic(replication::Automatic::new());
        let secret = model::Secret::new()
            .set_replication(replication)
            .set_labels([("application", "tollgate")]);
        let request = |client: SecretManagerService| {
            let request = client.create_secret().set_parent(project);
            request.set_secret_id(id).set_secret(secret).send()
        };
        self.call(path, request).await.map(drop)
    }
}
