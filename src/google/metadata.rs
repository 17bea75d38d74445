//! The metadata server: what Google says of the machine that this process runs on. Asks nobody else.

use std::time::Duration;

use reqwest::Url;
use reqwest::redirect::Policy;
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout};

use super::Fault;

const GOOGLE_HOST: &str = "metadata.google.internal";
/// It is on the same machine; where there is none, nobody should wait for it.
const ASK_LIMIT: Duration = Duration::from_secs(2);
/// Longest answer that is read, in bytes.
const ANSWER_BYTES: usize = 8192;
/// How long a search for a metadata server may take, and how soon a vain one is repeated.
const SEARCH_LIMIT: Duration = Duration::from_secs(1);
const SEARCH_AGAIN: Duration = Duration::from_mins(1);

/// The metadata server of this machine, if it has one.
pub struct Metadata {
    base: String,
    /// Built at the first question: that loads the system's certificates, and no start waits for it.
    client: OnceCell<reqwest::Client>,
    search: tokio::sync::Mutex<Search>,
}

/// What is known of whether there is a metadata server.
#[derive(Clone, Copy)]
enum Search {
    Open,
    Missed(Instant),
    Found,
}

impl Metadata {
    pub(super) fn new(host: Option<&str>) -> Self {
        let host = host.unwrap_or(GOOGLE_HOST);
        Self {
            base: format!("http://{host}/computeMetadata/v1"),
            client: OnceCell::new(),
            search: tokio::sync::Mutex::new(Search::Open),
        }
    }

    /// The project's id.
    ///
    /// # Errors
    /// Permanent if there is no metadata server.
    pub async fn project(&self) -> Result<String, Fault> {
        self.ask("project/project-id", &[]).await
    }

    /// The region, such as `europe-west4`.
    ///
    /// # Errors
    /// As [`Metadata::project`].
    pub async fn region(&self) -> Result<String, Fault> {
        let path = self.ask("instance/region", &[]).await?;
        Ok(last_part(&path))
    }

    /// The id of this instance, as Cloud Logging has it among the labels of its lines.
    ///
    /// # Errors
    /// As [`Metadata::project`].
    pub async fn instance_id(&self) -> Result<String, Fault> {
        self.ask("instance/id", &[]).await
    }

    /// A new ID token of this machine's service account, as text.
    pub(super) async fn id_token(&self, audience: &str) -> Result<String, Fault> {
        let path = "instance/service-accounts/default/identity";
        // The full format names the account, which errors should tell.
        self.ask(path, &[("audience", audience), ("format", "full")])
            .await
    }

    /// Whether there is one. It is looked for once; where none was found, again after a while.
    pub async fn is_there(&self) -> bool {
        let mut search = self.search.lock().await;
        match *search {
            Search::Found => return true,
            Search::Missed(at) if at.elapsed() < SEARCH_AGAIN => return false,
            Search::Open | Search::Missed(_) => {}
        }
        let found = timeout(SEARCH_LIMIT, self.get("instance/id", &[])).await;
        let found = found.is_ok_and(|answer| answer.is_ok());
        *search = if found {
            Search::Found
        } else {
            Search::Missed(Instant::now())
        };
        found
    }

    async fn ask(&self, path: &str, query: &[(&str, &str)]) -> Result<String, Fault> {
        let mut response = self.get(path, query).await?;
        let status = response.status();
        if !status.is_success() {
            let text = format!("the metadata server answers {status} to {path}");
            return Err(if status.is_client_error() && status.as_u16() != 429 {
                Fault::permanent(text)
            } else {
                Fault::transient(text)
            });
        }
        let unreadable = || Fault::transient("the metadata server's answer cannot be read");
        let mut answer = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|_| unreadable())? {
            answer.extend_from_slice(&chunk);
            if answer.len() > ANSWER_BYTES {
                return Err(unreadable());
            }
        }
        let answer = String::from_utf8(answer).map_err(|_| unreadable())?;
        Ok(answer.trim().to_owned())
    }

    /// An answer of whatever status, from a metadata server and nobody else.
    async fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<reqwest::Response, Fault> {
        let address = format!("{}/{path}", self.base);
        let url = Url::parse_with_params(&address, query)
            .map_err(|_| Fault::permanent("the metadata server has no usable address"))?;
        let client = self.client.get_or_try_init(|| async { build() }).await?;
        let request = client.get(url).header("Metadata-Flavor", "Google");
        let response = request.send().await.map_err(|cause| Fault {
            // No such name or nobody there: this is no machine of Google's.
            permanent: cause.is_connect() && !cause.is_timeout(),
            text: "the metadata server does not answer".to_owned(),
        })?;
        let flavour = response.headers().get("metadata-flavor");
        if flavour.is_none_or(|flavour| flavour != "Google") {
            let text = "what answers in the metadata server's place is none of Google's";
            return Err(Fault::permanent(text));
        }
        Ok(response)
    }
}

fn build() -> Result<reqwest::Client, Fault> {
    reqwest::Client::builder()
        .no_proxy()
        .redirect(Policy::none())
        .timeout(ASK_LIMIT)
        .build()
        .map_err(|cause| Fault::permanent(format!("no HTTP client can be made: {cause}")))
}

/// `europe-west4` of `projects/1/regions/europe-west4`.
fn last_part(path: &str) -> String {
    path.rsplit('/').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_is_the_end_of_its_path() {
        assert_eq!(
            last_part("projects/12/regions/europe-west4"),
            "europe-west4"
        );
        assert_eq!(last_part("europe-west4"), "europe-west4");
    }
}
