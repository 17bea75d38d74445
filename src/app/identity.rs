//! Which instance this is, where only the platform knows: columns of rows and links to traces. Not
//! knowing keeps nothing from starting.

use std::time::Duration;

use tokio::time::timeout;

use crate::config::Instance;
use crate::google::{Fault, Google};

/// The start may wait so long for it.
const LIMIT: Duration = Duration::from_secs(1);
/// Longest text that a column takes, in bytes.
const COLUMN_BYTES: usize = 256;

/// Completes what the configuration knows with what the metadata server of Cloud Run tells. Warns
/// once of what stays unknown.
pub(super) async fn complete(mut instance: Instance, google: &Google) -> Instance {
    if !instance.on_cloud_run {
        return instance;
    }
    let metadata = google.metadata();
    let (region, id, project) = tokio::join!(
        timeout(LIMIT, metadata.region()),
        timeout(LIMIT, metadata.instance_id()),
        timeout(LIMIT, google.project()),
    );
    let mut faults = Vec::new();
    let mut known = |what: &str, answer: Result<Result<String, Fault>, _>| match answer {
        Ok(Ok(text)) if fits(&text) => Some(text),
        Ok(Ok(_)) => {
            faults.push(format!("{what} (the answer is none)"));
            None
        }
        Ok(Err(fault)) => {
            faults.push(format!("{what} ({fault})"));
            None
        }
        Err(_elapsed) => {
            faults.push(format!("{what} (no answer in time)"));
            None
        }
    };
    let project = project.map(|asked| asked.map(str::to_owned));
    instance.region = known("region", region).unwrap_or(instance.region);
    instance.instance_id = known("instance id", id).unwrap_or(instance.instance_id);
    instance.project = known("project", project).or(instance.project);
    if !faults.is_empty() {
        tracing::warn!(
            "the metadata server did not tell: {}; rows and log lines go without",
            faults.join(", ")
        );
    }
    instance
}

fn fits(text: &str) -> bool {
    !text.is_empty() && text.len() <= COLUMN_BYTES && text.bytes().all(|b| b.is_ascii_graphic())
}
