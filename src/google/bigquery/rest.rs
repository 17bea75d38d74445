//! Requests about the table as plain JSON, where the crate's types would lose what they do not know.

use reqwest012::{Method, RequestBuilder, Url};
use serde_json::Value;

use super::{Refusal, Session};

/// Longest answer that is read, in bytes.
const ANSWER_BYTES: usize = 8 << 20;

impl Session<'_> {
    /// A request about the table as plain JSON.
    pub(super) async fn ask(
        &self,
        method: Method,
        verb: &str,
        fill: impl FnOnce(RequestBuilder) -> RequestBuilder,
    ) -> Result<Value, Refusal> {
        let mut url = Url::parse(self.base).map_err(|cause| unreadable(0, &cause.to_string()))?;
        let table = format!("{}{verb}", self.table);
        if let Ok(mut path) = url.path_segments_mut() {
            path.extend([
                "projects",
                self.project,
                "datasets",
                self.dataset,
                "tables",
                &table,
            ]);
        }
        let request = self.http.request(method, url).bearer_auth(&self.token);
        let mut response = fill(request).send().await?;
        let status = response.status();
        let mut text = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            text.extend_from_slice(&chunk);
            if text.len() > ANSWER_BYTES {
                return Err(unreadable(0, "the answer is too long"));
            }
        }
        let answer: Option<Value> = serde_json::from_slice(&text).ok();
        match answer {
            Some(answer) if status.is_success() => Ok(answer),
            Some(answer) => Err(refusal(status.as_u16(), &answer["error"])),
            None if status.is_success() => Err(unreadable(0, "the answer is not BigQuery's")),
            None => Err(unreadable(status.as_u16(), "the answer is not BigQuery's")),
        }
    }
}

fn refusal(status: u16, error: &Value) -> Refusal {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Refusal {
        status,
        reason: text(&error["errors"][0]["reason"]),
        text: text(&error["message"]),
    }
}

fn unreadable(status: u16, text: &str) -> Refusal {
    Refusal {
        status,
        reason: String::new(),
        text: text.to_owned(),
    }
}
