//! The rest of a project, as far as setting it up and taking it down needs it: accounts, secrets,
//! buckets, datasets, repositories, and who may do what with them. Things that are there cannot be
//! made again, things that are not cannot be granted to anybody, as with Google.
//!
//! Knows nothing of what the scripts should do.

use std::collections::{BTreeMap, BTreeSet};

use http::Method;
use serde_json::{Value, json};

use super::{Call, PROJECT, REGION, refusal};

/// Whom Google lets a log sink write as.
pub const LOG_WRITER: &str = "serviceAccount:service-1@gcp-sa-logging.iam.gserviceaccount.com";

/// What is in the project.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Project {
    /// By `host/path`, such as `secretmanager/v1/projects/P/secrets/S`.
    pub resources: BTreeMap<String, Value>,
    /// IAM policies by what they are on.
    policies: BTreeMap<String, Value>,
    pub apis: BTreeSet<String>,
    /// Statements that were given to BigQuery.
    pub statements: BTreeSet<String>,
}

impl Project {
    /// Something of this name is there.
    pub fn has(&self, name: &str) -> bool {
        self.resources
            .keys()
            .any(|path| path.ends_with(&format!("/{name}")))
    }

    /// Every right of an account: what on, and the role.
    pub fn rights(&self, account: &str) -> BTreeSet<(String, String)> {
        let member = format!("serviceAccount:{account}@{PROJECT}.iam.gserviceaccount.com");
        let mut rights = BTreeSet::new();
        for (on, policy) in &self.policies {
            for binding in policy["bindings"].as_array().into_iter().flatten() {
                let members = binding["members"].as_array();
                if members.is_some_and(|members| members.contains(&json!(member))) {
                    let name = on.rsplit('/').next().unwrap_or_default();
                    let role = binding["role"].as_str().unwrap_or_default();
                    rights.insert((name.to_owned(), role.to_owned()));
                }
            }
        }
        rights
    }

    pub(super) fn answer(&mut self, call: &Call<'_>) -> (u16, Value) {
        let host = call.host.trim_end_matches(".test");
        let path = call.path.trim_end_matches('/');
        let full = format!("{host}{path}");
        let (on, verb) = match full.rsplit_once('/') {
            Some((bucket, "iam")) if host == "storage" => (bucket.to_owned(), "iam"),
            _ => match full.rsplit_once(':') {
                Some((on, verb)) => (on.to_owned(), verb),
                None => (full.clone(), ""),
            },
        };
        match (call.method, verb) {
            (&Method::GET, _) if path.ends_with("/rest") => discovery(),
            (_, "batchEnable") => self.enable(&call.body),
            (_, "getIamPolicy" | "setIamPolicy" | "iam") => self.policy(&on, verb, call),
            (_, "addVersion") => self.add_version(&on, &call.body),
            (&Method::GET, _) => self.get(&full),
            (&Method::POST, _) if host == "bigquery" => self.big_query(&full, call),
            (&Method::POST, _) => self.create(host, &full, call),
            (&Method::DELETE, _) => self.delete(&full),
            _ => unknown(call),
        }
    }

    fn enable(&mut self, body: &Value) -> (u16, Value) {
        let ids = body["serviceIds"].as_array().into_iter().flatten();
        let names = ids.filter_map(|id| id.as_str().map(str::to_owned));
        self.apis.extend(names);
        (
            200,
            json!({"name": "operations/acat.1", "done": true, "response": {}}),
        )
    }

    fn policy(&mut self, on: &str, verb: &str, call: &Call<'_>) -> (u16, Value) {
        let of_project = on == format!("cloudresourcemanager/v1/projects/{PROJECT}");
        if !of_project && !self.resources.contains_key(&in_full(on)) {
            return refusal(404, "NOT_FOUND", &format!("there is no {on}"));
        }
        let sent = match verb {
            "setIamPolicy" => Some(&call.body["policy"]),
            "iam" if *call.method == Method::PUT => Some(&call.body),
            _ => None,
        };
        if let Some(policy) = sent {
            if let Some(stranger) = self.stranger(policy) {
                let message = format!("Service account {stranger} does not exist.");
                return refusal(400, "INVALID_ARGUMENT", &message);
            }
            self.policies.insert(in_full(on), policy.clone());
        }
        let none = || json!({"version": 1, "etag": "BwY="});
        let policy = self
            .policies
            .get(&in_full(on))
            .map_or_else(none, Value::clone);
        (200, policy)
    }

    /// A service account of a policy that is not there.
    fn stranger(&self, policy: &Value) -> Option<String> {
        let bindings = policy["bindings"].as_array().into_iter().flatten();
        let mut members = bindings.flat_map(|it| it["members"].as_array().into_iter().flatten());
        members.find_map(|member| {
            let email = member.as_str()?.strip_prefix("serviceAccount:")?;
            let known = self.resources.contains_key(&in_full(&account(email)));
            (!known).then(|| email.to_owned())
        })
    }

    fn add_version(&mut self, secret: &str, body: &Value) -> (u16, Value) {
        if !self.resources.contains_key(secret) {
            return refusal(404, "NOT_FOUND", &format!("there is no {secret}"));
        }
        let versions = format!("{secret}/versions/");
        let number = 1 + self.below(&versions).len();
        let (_, name) = secret.split_once("/v1/").unwrap_or_default();
        // gcloud wants to hear that its checksum was looked at.
        let version = json!({
            "name": format!("{name}/versions/{number}"),
            "state": "ENABLED",
            "clientSpecifiedPayloadChecksum": !body["payload"]["dataCrc32c"].is_null(),
        });
        self.resources
            .insert(format!("{versions}{number}"), version.clone());
        (200, version)
    }

    fn get(&self, full: &str) -> (u16, Value) {
        if let Some(found) = self.resources.get(&in_full(full)) {
            return (200, found.clone());
        }
        if full.ends_with("/storageLayout") {
            return (200, json!({"hierarchicalNamespace": {"enabled": false}}));
        }
        if full.ends_with("/operations/1") {
            return (200, operation());
        }
        if full.ends_with("/job_1") {
            return (200, job());
        }
        if full.ends_with("/versions") {
            return (200, json!({"versions": self.below(&format!("{full}/"))}));
        }
        // What is in a bucket: nothing.
        if ["/o", "/folders", "/managedFolders"]
            .iter()
            .any(|end| full.ends_with(end))
        {
            return (200, json!({"items": []}));
        }
        refusal(404, "NOT_FOUND", &format!("there is no {full}"))
    }

    fn below(&self, prefix: &str) -> Vec<Value> {
        let all = self.resources.iter();
        all.filter(|(path, _)| path.starts_with(prefix))
            .map(|(_, value)| value.clone())
            .collect()
    }

    fn create(&mut self, host: &str, collection: &str, call: &Call<'_>) -> (u16, Value) {
        let from_query = |name: &str| {
            let mut pairs = call
                .query
                .split('&')
                .filter_map(|pair| pair.split_once('='));
            Some(pairs.find(|(key, _)| *key == name)?.1.to_owned())
        };
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let id = match host {
            "iam" => text(&call.body["accountId"])
                .map(|id| format!("{id}@{PROJECT}.iam.gserviceaccount.com")),
            "secretmanager" => from_query("secretId"),
            "artifactregistry" => from_query("repositoryId"),
            "storage" | "logging" => text(&call.body["name"]),
            _ => None,
        };
        let Some(id) = id else { return unknown(call) };
        let path = format!("{collection}/{id}");
        if self.resources.contains_key(&path) {
            return refusal(409, "ALREADY_EXISTS", &format!("{path} is there"));
        }
        let mut made = call.body.clone();
        let (_, name) = path.split_once("/v1/").unwrap_or_default();
        let short = host == "storage" || host == "logging";
        made["name"] = json!(if short { &id } else { name });
        if host == "logging" {
            made["writerIdentity"] = json!(LOG_WRITER);
        }
        if host == "iam" {
            made = json!({"name": name, "email": id, "displayName": call.body["serviceAccount"]["displayName"]});
        }
        self.resources.insert(path, made.clone());
        if host == "artifactregistry" {
            made = operation();
        }
        (200, made)
    }

    fn big_query(&mut self, collection: &str, call: &Call<'_>) -> (u16, Value) {
        if collection.ends_with("/datasets") {
            let id = call.body["datasetReference"]["datasetId"]
                .as_str()
                .unwrap_or_default();
            let made = call.body.clone();
            self.resources
                .insert(format!("{collection}/{id}"), made.clone());
            return (200, made);
        }
        let statement = &call.body["configuration"]["query"]["query"];
        let Some(statement) = statement.as_str().or(call.body["query"].as_str()) else {
            return unknown(call);
        };
        self.statements.insert(statement.to_owned());
        (200, job())
    }

    fn delete(&mut self, full: &str) -> (u16, Value) {
        let full = in_full(full);
        if self.resources.remove(&full).is_none() {
            return refusal(404, "NOT_FOUND", &format!("there is no {full}"));
        }
        self.resources
            .retain(|path, _| !path.starts_with(&format!("{full}/")));
        self.policies.remove(&full);
        (200, operation())
    }
}

fn account(email: &str) -> String {
    format!("iam/v1/projects/{PROJECT}/serviceAccounts/{email}")
}

/// `projects/-` stands for whichever project an account is of.
fn in_full(path: &str) -> String {
    path.replace("/projects/-/", &format!("/projects/{PROJECT}/"))
}

/// Work that is done already.
fn operation() -> Value {
    let name = format!("projects/{PROJECT}/locations/{REGION}/operations/1");
    json!({"name": name, "done": true, "response": {}})
}

/// A statement that BigQuery has carried out; it is asked for as a job and as a query.
fn job() -> Value {
    let reference = json!({"projectId": PROJECT, "jobId": "job_1", "location": "US"});
    json!({
        "kind": "bigquery#job",
        "id": format!("{PROJECT}:US.job_1"),
        "jobReference": reference,
        "configuration": {"jobType": "QUERY", "query": {"useLegacySql": false}},
        "status": {"state": "DONE"},
        "jobComplete": true,
        "statistics": {"query": {"statementType": "GRANT"}},
    })
}

/// The description of BigQuery's API, without which bq does nothing: its own copy of it.
fn discovery() -> (u16, Value) {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let programs = std::env::split_paths(&path).map(|folder| folder.join("bq"));
    let document = programs
        .filter_map(|bq| bq.canonicalize().ok())
        .find_map(|bq| {
            let sdk = bq.parent()?.parent()?;
            std::fs::read(sdk.join("platform/bq/discovery_next/bigquery.json")).ok()
        });
    match document.and_then(|text| serde_json::from_slice(&text).ok()) {
        Some(document) => (200, document),
        None => refusal(404, "NOT_FOUND", "bq has no description of the API"),
    }
}

fn unknown(call: &Call<'_>) -> (u16, Value) {
    let message = format!(
        "the fake does not know {} {}{}",
        call.method, call.host, call.path
    );
    refusal(501, "UNIMPLEMENTED", &message)
}
