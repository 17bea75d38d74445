//! All secrets, and which of them a call is for.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::listing::page;
use super::routes::{Kind, Target, field};
use super::secret::{
    OUTPUT_ONLY, Secret, State, Version, check_annotations, check_etag, is_default,
};
use super::{PROJECT_NUMBER, Refusal};

/// All secrets, by project and name.
#[derive(Default)]
pub struct Vault {
    secrets: BTreeMap<(String, String), Secret>,
    etags: u64,
    /// The version that `latest` is, if not the newest.
    pub stale: Option<u64>,
    pub spoils_checksums: bool,
}

impl Vault {
    pub fn put(&mut self, project: &str, secret: &str, payload: &[u8]) -> u64 {
        let key = (project.to_owned(), secret.to_owned());
        let etag = self.etag();
        let fields = [("replication".to_owned(), json!({"automatic": {}}))];
        let secret = self
            .secrets
            .entry(key)
            .or_insert_with(|| Secret::new(secret, fields.into_iter().collect(), etag.clone()));
        secret.push(payload.to_vec(), etag).number
    }

    pub fn find(&self, project: &str, secret: &str) -> Option<&Secret> {
        self.secrets.get(&(project.to_owned(), secret.to_owned()))
    }

    pub fn newest(&self, project: &str, secret: &str) -> Option<&Version> {
        self.find(project, secret)?.versions.last()
    }

    pub fn set_state(&mut self, project: &str, secret: &str, number: u64, state: State) {
        let key = (project.to_owned(), secret.to_owned());
        let secret = self.secrets.get_mut(&key).expect("a secret");
        let version = secret.versions.iter_mut().find(|v| v.number == number);
        version.expect("a version").state = state;
    }

    /// A new tag; it has its quotes.
    fn etag(&mut self) -> String {
        self.etags += 1;
        format!("\"{:x}\"", 0x0016_1234_5678 + self.etags)
    }

    pub fn answer(&mut self, target: &Target, query: &str, body: &Value) -> Result<Value, Refusal> {
        let etag = self.etag();
        let key = (target.project.clone(), target.secret.clone());
        match target.kind {
            Kind::Create => return self.create(target, query, body, etag),
            Kind::List => return self.list(target, query),
            _ => {}
        }
        let (stale, spoils) = (self.stale, self.spoils_checksums);
        let secret = self.secrets.get_mut(&key).ok_or_else(|| {
            let Target { secret, .. } = target;
            Refusal::not_found(format!(
                "Secret [projects/{PROJECT_NUMBER}/secrets/{secret}] not found."
            ))
        })?;
        match target.kind {
            Kind::Get => Ok(secret.to_json()),
            Kind::Patch => secret.patch(query, body, etag),
            Kind::Delete => {
                check_etag(&field(query, "etag"), &secret.etag)?;
                self.secrets.remove(&key);
                Ok(json!({}))
            }
            Kind::AddVersion => secret.add(body, etag),
            Kind::ListVersions => secret.list(query),
            Kind::Access => secret.access(&target.version, stale, spoils),
            Kind::GetVersion => {
                let at = secret.at(&target.version, None)?;
                Ok(secret.version_json(&secret.versions[at]))
            }
            Kind::Enable => secret.turn(&target.version, body, State::Enabled, etag),
            Kind::Disable => secret.turn(&target.version, body, State::Disabled, etag),
            Kind::Destroy => secret.turn(&target.version, body, State::Destroyed, etag),
            Kind::GetPolicy => Ok(secret.policy.clone()),
            Kind::SetPolicy => {
                secret.policy = body["policy"].clone();
                secret.policy["etag"] = json!(STANDARD.encode(etag));
                Ok(secret.policy.clone())
            }
            Kind::TestPermissions => Ok(json!({"permissions": body["permissions"]})),
            Kind::Create | Kind::List => unreachable!("answered above"),
        }
    }

    fn create(
        &mut self,
        target: &Target,
        query: &str,
        body: &Value,
        etag: String,
    ) -> Result<Value, Refusal> {
        let id = field(query, "secretId");
        let allowed = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
        if id.is_empty() || id.len() > 255 || !id.chars().all(allowed) {
            return Err(Refusal::invalid(format!(
                "The provided Secret ID [{id}] does not match the expected format [[a-zA-Z_0-9]+]."
            )));
        }
        let replication = &body["replication"];
        if replication["automatic"].is_null() && replication["userManaged"].is_null() {
            let message = "The field 'secret.replication' must be provided and set to one of \
                           ['automatic', 'user_managed'].";
            return Err(Refusal::invalid(message));
        }
        let key = (target.project.clone(), id.clone());
        if self.secrets.contains_key(&key) {
            return Err(Refusal::new(
                409,
                "ALREADY_EXISTS",
                format!("Secret [projects/{PROJECT_NUMBER}/secrets/{id}] already exists."),
            ));
        }
        let mut fields = body.as_object().cloned().unwrap_or_default();
        fields.retain(|name, value| !OUTPUT_ONLY.contains(&name.as_str()) && !is_default(value));
        check_annotations(&fields)?;
        let secret = Secret::new(&id, fields, etag);
        let answer = secret.to_json();
        self.secrets.insert(key, secret);
        Ok(answer)
    }

    fn list(&self, target: &Target, query: &str) -> Result<Value, Refusal> {
        let filter = field(query, "filter");
        let in_project = self
            .secrets
            .iter()
            .filter(|((project, _), _)| *project == target.project);
        let all: Vec<Value> = in_project.map(|(_, secret)| secret.to_json()).collect();
        page("secrets", &all, &filter, query)
    }
}
