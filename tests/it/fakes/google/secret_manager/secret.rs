//! One secret and its versions: states, etags, checksums, the quota of additions.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::listing::page;
use super::routes::field;
use super::{PROJECT_NUMBER, Refusal};

/// Largest payload, in bytes.
const PAYLOAD_BYTES: usize = 64 << 10;
/// So many versions of one secret may be added within a second.
const ADDITIONS: usize = 2;
const QUOTA_WINDOW: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Enabled,
    Disabled,
    Destroyed,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Enabled => "ENABLED",
            Self::Disabled => "DISABLED",
            Self::Destroyed => "DESTROYED",
        }
    }
}

pub struct Version {
    pub number: u64,
    pub data: Vec<u8>,
    pub state: State,
    etag: String,
    created: String,
}

pub struct Secret {
    /// With the project's number.
    name: String,
    /// What callers may set.
    pub fields: Map<String, Value>,
    pub policy: Value,
    pub etag: String,
    created: String,
    pub versions: Vec<Version>,
    additions: VecDeque<Instant>,
}

/// What no caller sets.
pub const OUTPUT_ONLY: [&str; 3] = ["name", "createTime", "etag"];
/// What a caller may change later.
const MUTABLE: [&str; 9] = [
    "labels",
    "annotations",
    "versionAliases",
    "topics",
    "rotation",
    "expireTime",
    "ttl",
    "versionDestroyTtl",
    "customerManagedEncryption",
];

impl Secret {
    pub fn new(id: &str, fields: Map<String, Value>, etag: String) -> Self {
        Self {
            name: format!("projects/{PROJECT_NUMBER}/secrets/{id}"),
            fields,
            policy: json!({"etag": "ACAB"}),
            etag,
            created: now(),
            versions: Vec::new(),
            additions: VecDeque::new(),
        }
    }

    pub fn to_json(&self) -> Value {
        let mut all = self.fields.clone();
        all.insert("name".into(), json!(self.name));
        all.insert("createTime".into(), json!(self.created));
        all.insert("etag".into(), json!(self.etag));
        Value::Object(all)
    }

    pub fn version_json(&self, version: &Version) -> Value {
        let mut all = json!({
            "name": format!("{}/versions/{}", self.name, version.number),
            "createTime": version.created,
            "state": version.state.name(),
            "replicationStatus": {"automatic": {}},
            "etag": version.etag,
            "clientSpecifiedPayloadChecksum": true,
        });
        if version.state == State::Destroyed {
            all["destroyTime"] = json!(version.created);
        }
        all
    }

    pub fn push(&mut self, data: Vec<u8>, etag: String) -> &Version {
        let number = self.versions.len() as u64 + 1;
        self.versions.push(Version {
            number,
            data,
            state: State::Enabled,
            etag,
            created: now(),
        });
        self.versions.last().expect("the version")
    }

    pub fn patch(&mut self, query: &str, body: &Value, etag: String) -> Result<Value, Refusal> {
        let mask = field(query, "updateMask");
        if mask.is_empty() {
            return Err(Refusal::invalid(
                "The field 'update_mask' must be provided.",
            ));
        }
        check_etag(body["etag"].as_str().unwrap_or_default(), &self.etag)?;
        let mut fields = self.fields.clone();
        for path in mask.split(',') {
            let name = camel(path);
            if !MUTABLE.contains(&name.as_str()) {
                return Err(Refusal::invalid(format!(
                    "The field '{path}' of the update mask is unknown or cannot be changed."
                )));
            }
            // What is in the mask and not in the body is cleared.
            match body.get(&name).filter(|value| !is_default(value)) {
                Some(value) => fields.insert(name, value.clone()),
                None => fields.remove(&name),
            };
        }
        check_annotations(&fields)?;
        self.fields = fields;
        self.etag = etag;
        Ok(self.to_json())
    }

    pub fn add(&mut self, body: &Value, etag: String) -> Result<Value, Refusal> {
        let now = Instant::now();
        let is_old = |at: &Instant| now.duration_since(*at) >= QUOTA_WINDOW;
        while self.additions.front().is_some_and(is_old) {
            self.additions.pop_front();
        }
        if self.additions.len() >= ADDITIONS {
            return Err(Refusal::new(
                429,
                "RESOURCE_EXHAUSTED",
                "Quota exceeded for additions of versions to one secret: two in a second.",
            ));
        }
        let payload = &body["payload"];
        let text = payload["data"].as_str().unwrap_or_default();
        // Both alphabets are taken, with or without padding.
        let text = text.replace('-', "+").replace('_', "/");
        let data = STANDARD_NO_PAD
            .decode(text.trim_end_matches('='))
            .map_err(|_| Refusal::invalid("Invalid value at 'payload.data' (TYPE_BYTES)."))?;
        if data.is_empty() {
            return Err(Refusal::invalid("Secret Payload cannot be empty."));
        }
        if data.len() > PAYLOAD_BYTES {
            return Err(Refusal::invalid(
                "Secret Payload exceeds the maximum size of 65536 bytes.",
            ));
        }
        let sum = &payload["dataCrc32c"];
        let sum = sum.as_i64().or_else(|| sum.as_str()?.parse().ok());
        if sum.is_some_and(|sum| sum != i64::from(crc32c::crc32c(&data))) {
            return Err(Refusal::invalid(
                "Secret Payload does not match its checksum [payload.data_crc32c].",
            ));
        }
        self.additions.push_back(now);
        let number = self.push(data, etag).number;
        let at = usize::try_from(number - 1).expect("a place");
        Ok(self.version_json(&self.versions[at]))
    }

    pub fn list(&self, query: &str) -> Result<Value, Refusal> {
        let newest_first = self.versions.iter().rev();
        let all: Vec<Value> = newest_first
            .map(|version| self.version_json(version))
            .collect();
        page("versions", &all, &field(query, "filter"), query)
    }

    /// `latest` is the newest one, whatever its state.
    pub fn at(&self, version: &str, stale: Option<u64>) -> Result<usize, Refusal> {
        let alias = &self.fields.get("versionAliases").unwrap_or(&Value::Null)[version];
        let alias = alias.as_u64().or_else(|| alias.as_str()?.parse().ok());
        let newest = self.versions.last().map(|newest| newest.number);
        let number = match version {
            "latest" => stale.or(newest),
            _ => version.parse().ok().or(alias),
        };
        let found = self.versions.iter().position(|v| Some(v.number) == number);
        found.ok_or_else(|| {
            Refusal::not_found(format!(
                "Secret Version [{}/versions/{version}] not found.",
                self.name
            ))
        })
    }

    pub fn access(
        &self,
        version: &str,
        stale: Option<u64>,
        spoils: bool,
    ) -> Result<Value, Refusal> {
        let version = &self.versions[self.at(version, stale)?];
        let name = format!("{}/versions/{}", self.name, version.number);
        if version.state != State::Enabled {
            return Err(Refusal::precondition(format!(
                "Secret Version [{name}] is in {} state.",
                version.state.name()
            )));
        }
        let sum = i64::from(crc32c::crc32c(&version.data)) ^ i64::from(spoils);
        let data = STANDARD.encode(&version.data);
        Ok(json!({"name": name, "payload": {"data": data, "dataCrc32c": sum.to_string()}}))
    }

    pub fn turn(
        &mut self,
        version: &str,
        body: &Value,
        state: State,
        etag: String,
    ) -> Result<Value, Refusal> {
        let at = self.at(version, None)?;
        let name = format!("{}/versions/{}", self.name, self.versions[at].number);
        let version = &mut self.versions[at];
        check_etag(body["etag"].as_str().unwrap_or_default(), &version.etag)?;
        if version.state == State::Destroyed {
            return Err(Refusal::precondition(format!(
                "Secret Version [{name}] is in DESTROYED state."
            )));
        }
        version.state = state;
        version.etag = etag;
        if state == State::Destroyed {
            version.data.clear();
        }
        Ok(self.version_json(&self.versions[at]))
    }
}

pub fn check_etag(sent: &str, current: &str) -> Result<(), Refusal> {
    if sent.is_empty() || sent == current {
        return Ok(());
    }
    Err(Refusal::precondition(
        "The etag that was given does not match the etag of the resource.",
    ))
}

pub fn check_annotations(fields: &Map<String, Value>) -> Result<(), Refusal> {
    let Some(Value::Object(annotations)) = fields.get("annotations") else {
        return Ok(());
    };
    let bytes: usize = annotations
        .iter()
        .map(|(name, value)| name.len() + value.as_str().map_or(0, str::len))
        .sum();
    let is_end = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let fits = |name: &String| {
        name.len() <= 63
            && is_end(name.chars().next())
            && is_end(name.chars().next_back())
            && name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    if bytes < 16 << 10 && annotations.keys().all(fits) {
        Ok(())
    } else {
        Err(Refusal::invalid("The annotations are not valid."))
    }
}

/// Proto JSON leaves such values out.
pub fn is_default(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

fn camel(path: &str) -> String {
    let mut parts = path.trim().split('_');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |name, part| {
        let (head, tail) = part.split_at(part.len().min(1));
        name + &head.to_ascii_uppercase() + tail
    })
}

fn now() -> String {
    let now = OffsetDateTime::now_utc();
    now.format(&Rfc3339).expect("a time")
}
