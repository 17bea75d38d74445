//! Google's services: which project, which secret, which table, and where an emulator stands in for
//! them. Asks nobody: what only the metadata server knows stays open here.

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use super::reader::{Reader, unset};
use super::{GoogleConfig, KeysSource, Origin, SecretRef, TableRef};

/// The secret that is read on Cloud Run unless another source is named.
const DEFAULT_SECRET: &str = "vllm-api-keys";
const DEFAULT_TABLE: &str = "usage";
/// Longest name of a secret, dataset or table that Google allows.
const NAME_BYTES: usize = 1024;
const SECRET_BYTES: usize = 255;

pub(super) fn read(reader: &mut Reader<'_>) -> GoogleConfig {
    let project = reader.parsed("GCP_PROJECT", None, shown, project);
    let fallback = reader.parsed("GOOGLE_CLOUD_PROJECT", None, shown, self::project);
    GoogleConfig {
        project: project.or(fallback),
        secret_manager_endpoint: emulator(reader, "SECRET_MANAGER_ENDPOINT"),
        bigquery_endpoint: emulator(reader, "BIGQUERY_ENDPOINT"),
        metadata_host: reader.parsed("GCE_METADATA_HOST", None, shown, |text| {
            loopback(text)
                .map(Some)
                .ok_or_else(|| "is not host:port on loopback".to_owned())
        }),
    }
}

/// Where keys come from. A named file beats the default secret; two named sources are a fault.
pub(super) fn read_keys_source(
    reader: &mut Reader<'_>,
    data_dir: &Path,
    on_cloud_run: bool,
) -> KeysSource {
    let file = reader.find("API_KEYS_FILE");
    let named = reader.find("API_KEYS_SECRET_NAME").is_some();
    if named && file.is_some() {
        reader.fault(
            "API_KEYS_FILE",
            "is set beside API_KEYS_SECRET_NAME; keys come from one of them, so unset the other",
        );
    }
    let default = (on_cloud_run && file.is_none())
        .then(|| secret_ref(DEFAULT_SECRET).ok())
        .flatten();
    let shown_secret =
        |secret: &Option<SecretRef>| secret.as_ref().map_or_else(unset, SecretRef::to_string);
    let secret = reader.parsed("API_KEYS_SECRET_NAME", default, shown_secret, |text| {
        secret_ref(text).map(Some)
    });
    match (secret, file) {
        (Some(secret), None) => {
            reader.show("API_KEYS_FILE", unset(), Origin::Default);
            KeysSource::Secret(secret)
        }
        (_, Some((path, origin))) => {
            reader.show("API_KEYS_FILE", &path, origin);
            KeysSource::File {
                path: PathBuf::from(path),
                explicit: true,
            }
        }
        (None, None) => {
            let path = data_dir.join("keys.json");
            reader.show("API_KEYS_FILE", path.display(), Origin::Default);
            KeysSource::File {
                path,
                explicit: false,
            }
        }
    }
}

/// The table of usage rows, if a dataset is named.
pub(super) fn read_table(reader: &mut Reader<'_>) -> Option<TableRef> {
    let shown_dataset = |dataset: &Option<(Option<String>, String)>| match dataset {
        None => unset(),
        Some((None, dataset)) => dataset.clone(),
        Some((Some(project), dataset)) => format!("{project}.{dataset}"),
    };
    let dataset = reader.parsed("BIGQUERY_DATASET", None, shown_dataset, |text| {
        dataset(text).map(Some)
    });
    let table = reader.parsed(
        "BIGQUERY_TABLE",
        DEFAULT_TABLE.to_owned(),
        String::clone,
        |text| {
            let wrong = "is not the name of a table: letters, digits, _ and -";
            name(text, "_-").ok_or_else(|| wrong.to_owned())
        },
    );
    dataset.map(|(project, dataset)| TableRef {
        project,
        dataset,
        table,
    })
}

#[expect(clippy::ref_option, reason = "a setting is shown as it is kept")]
fn shown(value: &Option<String>) -> String {
    value.clone().unwrap_or_else(unset)
}

/// A project id, with a domain before a colon for old ones.
fn project(text: &str) -> Result<Option<String>, String> {
    let wrong = "is not a project id such as my-project-123456";
    let fits = text.len() <= 255
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.:".contains(&b));
    if fits {
        Ok(Some(text.to_owned()))
    } else {
        Err(wrong.to_owned())
    }
}

/// `name`, `name/versions/N`, or either behind `projects/P/secrets/`.
pub(super) fn secret_ref(text: &str) -> Result<SecretRef, String> {
    const WRONG: &str =
        "is not the name of a secret: NAME, NAME/versions/N or projects/P/secrets/NAME";
    let (project, rest) = match text.strip_prefix("projects/") {
        Some(tail) => {
            let (id, rest) = tail.split_once("/secrets/").ok_or(WRONG)?;
            // A number is as good as an id here.
            let fits = !id.is_empty() && !id.contains('/');
            (Some(fits.then_some(id).ok_or(WRONG)?.to_owned()), rest)
        }
        None => (None, text),
    };
    let (bare, version) = match rest.split_once("/versions/") {
        Some((bare, "latest")) => (bare, None),
        Some((bare, number)) => {
            let number: NonZeroU64 = number.parse().map_err(|_| WRONG)?;
            (bare, Some(number.get()))
        }
        None => (rest, None),
    };
    let name = name(bare, "_-").filter(|name| name.len() <= SECRET_BYTES);
    Ok(SecretRef {
        project,
        name: name.ok_or(WRONG)?,
        version,
    })
}

/// `dataset`, `project.dataset` or `project:dataset`.
fn dataset(text: &str) -> Result<(Option<String>, String), String> {
    const WRONG: &str = "is not the name of a dataset: letters, digits and _";
    let (project, bare) = match text.rsplit_once(['.', ':']) {
        Some((id, bare)) => (self::project(id)?, bare),
        None => (None, text),
    };
    Ok((project, name(bare, "_").ok_or(WRONG)?))
}

fn name(text: &str, marks: &str) -> Option<String> {
    let fits = !text.is_empty()
        && text.len() <= NAME_BYTES
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || marks.contains(c));
    fits.then(|| text.to_owned())
}

/// An emulator's address: credentials must never go to a host that a setting names.
fn emulator(reader: &mut Reader<'_>, name: &'static str) -> Option<String> {
    reader.parsed(name, None, shown, |text| {
        text.trim_end_matches('/')
            .strip_prefix("http://")
            .and_then(loopback)
            .map(|authority| Some(format!("http://{authority}")))
            .ok_or_else(|| "is not http://127.0.0.1:PORT".to_owned())
    })
}

fn loopback(authority: &str) -> Option<String> {
    let address = authority.replace("localhost:", "127.0.0.1:");
    let address: SocketAddr = address.parse().ok()?;
    address.ip().is_loopback().then(|| address.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_named_in_four_ways() {
        let of = |project: Option<&str>, version| SecretRef {
            project: project.map(str::to_owned),
            name: "keys-1".to_owned(),
            version,
        };
        for (text, expected) in [
            ("keys-1", of(None, None)),
            ("keys-1/versions/7", of(None, Some(7))),
            ("keys-1/versions/latest", of(None, None)),
            ("projects/p/secrets/keys-1", of(Some("p"), None)),
            (
                "projects/1/secrets/keys-1/versions/2",
                of(Some("1"), Some(2)),
            ),
        ] {
            assert_eq!(secret_ref(text), Ok(expected), "{text}");
        }
        for wrong in [
            "",
            "a b",
            "a/versions/x",
            "a/versions/0",
            "a/b",
            "projects/p/a",
            "projects//secrets/a",
        ] {
            assert!(secret_ref(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_dataset_may_name_its_project() {
        assert_eq!(dataset("llm"), Ok((None, "llm".to_owned())));
        for text in ["p-1.llm", "p-1:llm"] {
            assert_eq!(
                dataset(text),
                Ok((Some("p-1".to_owned()), "llm".to_owned()))
            );
        }
        for wrong in ["l-m", "P.llm", "a b", ""] {
            assert!(dataset(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn emulators_are_on_this_machine() {
        assert_eq!(loopback("localhost:1").as_deref(), Some("127.0.0.1:1"));
        assert_eq!(loopback("10.0.0.1:1"), None);
        assert_eq!(loopback("evil.example:1"), None);
    }
}
