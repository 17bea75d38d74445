//! The metadata server: what Google says of the machine that this process runs on. Asks nobody else.

use std::time::Duration;

use reqwest::redirect::Policy;

use super::Fault;

const GOOGLE_HOST: &str = "metadata.google.internal";
/// It is on the same machine; where there is none, nobody should wait for it.
const ASK_LIMIT: Duration = Duration::from_secs(2);
/// Longest answer that is read, in bytes.
const ANSWER_BYTES: usize = 4096;

/// The metadata server of this machine, if it has one.
pub struct Metadata {
    base: String,
    client: reqwest::Client,
}

impl Metadata {
    /// # Errors
    /// When no HTTP client can be made.
    pub(super) fn new(host: Option<&str>) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(Policy::none())
            .timeout(ASK_LIMIT)
            .build()?;
        let host = host.unwrap_or(GOOGLE_HOST);
        Ok(Self {
            base: format!("http://{host}/computeMetadata/v1"),
            client,
        })
    }

    /// The project's id.
    ///
    /// # Errors
    /// Permanent if there is no metadata server.
    pub async fn project(&self) -> Result<String, Fault> {
        self.ask("project/project-id").await
    }

    async fn ask(&self, path: &str) -> Result<String, Fault> {
        let request = self
            .client
            .get(format!("{}/{path}", self.base))
            .header("Metadata-Flavor", "Google");
        let response = request.send().await.map_err(|cause| Fault {
            // No such name or nobody there: this is no machine of Google's.
            permanent: cause.is_connect() && !cause.is_timeout(),
            text: "the metadata server does not answer".to_owned(),
        })?;
        let status = response.status();
        if !status.is_success() {
            let text = format!("the metadata server answers {status} to {path}");
            return Err(match status.is_client_error() {
                true => Fault::permanent(text),
                false => Fault::transient(text),
            });
        }
        let unreadable = || Fault::transient("the metadata server's answer cannot be read");
        if response
            .content_length()
            .is_some_and(|length| length > ANSWER_BYTES as u64)
        {
            return Err(unreadable());
        }
        let answer = response.text().await.map_err(|_| unreadable())?;
        Ok(answer.trim().to_owned())
    }
}
