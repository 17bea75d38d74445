//! What Cloud Run and Cloud Build refuse, as far as it is documented and a file can break it, and
//! two rules of this project: labels that reach the bill, and a sidecar that only the gateway reaches.
//!
//! Knows nothing of requests.

use std::collections::BTreeMap;

use serde_json::Value;

/// Where an annotation of the platform belongs; elsewhere it is ignored or refused.
const OF_SERVICE: [&str; 4] = [
    "run.googleapis.com/ingress",
    "run.googleapis.com/invoker-iam-disabled",
    "run.googleapis.com/launch-stage",
    "run.googleapis.com/description",
];
const OF_REVISION: [&str; 10] = [
    "autoscaling.knative.dev/minScale",
    "autoscaling.knative.dev/maxScale",
    "run.googleapis.com/cpu-throttling",
    "run.googleapis.com/startup-cpu-boost",
    "run.googleapis.com/execution-environment",
    "run.googleapis.com/container-dependencies",
    "run.googleapis.com/gpu-zonal-redundancy-disabled",
    "run.googleapis.com/network-interfaces",
    "run.googleapis.com/vpc-access-egress",
    "run.googleapis.com/cloudsql-instances",
];
const GPU: &str = "nvidia.com/gpu";
const ACCELERATOR: &str = "run.googleapis.com/accelerator";

/// Faults as they are found.
#[derive(Default)]
struct Faults(Vec<String>);

impl Faults {
    fn unless(&mut self, right: bool, fault: impl Into<String>) {
        if !right {
            self.0.push(fault.into());
        }
    }
}

/// Everything that is wrong with a service.
pub fn faults(service: &Value) -> Vec<String> {
    let mut faults = Faults::default();
    let metadata = &service["metadata"];
    let template = &service["spec"]["template"];
    faults.unless(
        service["apiVersion"] == "serving.knative.dev/v1" && service["kind"] == "Service",
        "apiVersion and kind are not those of a service",
    );
    faults.unless(
        metadata["namespace"] == super::PROJECT,
        "the namespace is not the project",
    );
    faults.unless(is_name(&metadata["name"]), "the service has no proper name");
    annotations(&mut faults, metadata, &OF_SERVICE, "the service");
    annotations(
        &mut faults,
        &template["metadata"],
        &OF_REVISION,
        "the template",
    );
    labels(&mut faults, metadata, template);
    revision(&mut faults, &template["spec"]);
    gpu(&mut faults, template);
    dependencies(&mut faults, template);
    let left = service.to_string().contains("${");
    faults.unless(!left, "a placeholder was not filled in");
    faults.0
}

fn annotations(faults: &mut Faults, metadata: &Value, known: &[&str], whose: &str) {
    for (name, value) in members(&metadata["annotations"]) {
        faults.unless(value.is_string(), format!("{name} is not a string"));
        faults.unless(known.contains(&name), format!("{whose} takes no {name}"));
    }
}

/// Cost labels: the same on both levels, and on the rows of the gateway.
fn labels(faults: &mut Faults, metadata: &Value, template: &Value) {
    let of_template = &template["metadata"]["labels"];
    faults.unless(
        !members(of_template).is_empty(),
        "the template has no labels, so the bill has none",
    );
    faults.unless(
        metadata["labels"] == *of_template,
        "labels of service and template differ",
    );
    for (key, value) in members(of_template) {
        let value = value.as_str().unwrap_or_default();
        let proper = |text: &str| {
            let allowed = |byte: u8| {
                byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte)
            };
            text.len() <= 63 && text.bytes().all(allowed)
        };
        faults.unless(
            proper(key) && proper(value),
            format!("{key}={value} is no label"),
        );
    }
    let set: BTreeMap<_, _> = members(of_template)
        .into_iter()
        .map(|(key, value)| (key, value.as_str().unwrap_or_default()))
        .collect();
    for container in containers(&template["spec"]) {
        if let Some(text) = variable(container, "LABELS") {
            let rows: BTreeMap<_, _> = text
                .split(',')
                .filter_map(|pair| pair.split_once('='))
                .collect();
            faults.unless(rows == set, "LABELS differ from the labels of the template");
        }
    }
}

fn revision(faults: &mut Faults, spec: &Value) {
    let within = |value: &Value, most: u64| {
        value.is_null() || value.as_u64().is_some_and(|it| it >= 1 && it <= most)
    };
    faults.unless(
        within(&spec["timeoutSeconds"], 3600),
        "timeoutSeconds is over an hour",
    );
    faults.unless(
        within(&spec["containerConcurrency"], 1000),
        "containerConcurrency is out of range",
    );
    let account = spec["serviceAccountName"].as_str().unwrap_or_default();
    faults.unless(
        account.ends_with(&format!("@{}.iam.gserviceaccount.com", super::PROJECT)),
        "no account of its own",
    );
    let all = containers(spec);
    let with_port = all.iter().filter(|it| it["ports"].is_array()).count();
    faults.unless(with_port == 1, "not exactly one container has a port");
    faults.unless(
        all.iter().map(|it| cpu(it)).sum::<f64>() <= 8.0,
        "more than eight CPUs in one instance",
    );
    faults.unless(
        all.iter().map(|it| memory_mib(it)).sum::<f64>() <= 32.0 * 1024.0,
        "more than 32 GiB in one instance",
    );
    let volumes: Vec<_> = list(&spec["volumes"])
        .iter()
        .map(|it| &it["name"])
        .collect();
    let gpu = !spec["nodeSelector"][ACCELERATOR].is_null();
    for one in all {
        container(faults, one, gpu);
        for mount in list(&one["volumeMounts"]) {
            faults.unless(volumes.contains(&&mount["name"]), "a mount of no volume");
        }
    }
}

fn container(faults: &mut Faults, container: &Value, gpu: bool) {
    let name = container["name"].as_str().unwrap_or_default();
    faults.unless(is_name(&container["name"]), "a container without a name");
    faults.unless(
        container["image"].is_string(),
        format!("{name} has no image"),
    );
    limits(faults, name, container);
    let mut port = None;
    if let Some(only) = list(&container["ports"]).first() {
        port = only["containerPort"].as_u64();
        faults.unless(
            only["name"] == "http1" || only["name"] == "h2c",
            format!("{name} speaks neither http1 nor h2c"),
        );
    }
    for entry in list(&container["env"]) {
        let variable = entry["name"].as_str().unwrap_or_default();
        faults.unless(
            variable != "PORT" && !variable.starts_with("K_"),
            format!("{variable} is set by the platform"),
        );
    }
    let loopback = list(&container["args"])
        .iter()
        .any(|it| *it == "--host=127.0.0.1");
    for (kind, most_seconds) in [
        ("startupProbe", if gpu { 1800 } else { 600 }),
        ("livenessProbe", u64::MAX),
    ] {
        let probe = &container[kind];
        if probe.is_null() {
            continue;
        }
        let period = probe["periodSeconds"].as_u64().unwrap_or(10);
        let patience = period.saturating_mul(probe["failureThreshold"].as_u64().unwrap_or(3));
        faults.unless(
            patience <= most_seconds,
            format!("{kind} of {name} is too patient"),
        );
        faults.unless(
            probe["timeoutSeconds"].as_u64().unwrap_or(1) <= period,
            format!("{kind} of {name} overlaps itself"),
        );
        faults.unless(
            port.is_some() || probe["httpGet"]["port"].is_u64(),
            format!("{kind} of {name} names no port"),
        );
        faults.unless(
            !loopback,
            format!("{kind} of {name} cannot reach its loopback"),
        );
    }
}

fn limits(faults: &mut Faults, name: &str, container: &Value) {
    faults.unless(
        cpu(container) > 0.0 && memory_mib(container) > 0.0,
        format!("{name} has no limits"),
    );
    let cpus = cpu(container);
    faults.unless(
        cpus <= 1.0 || cpus.fract() == 0.0,
        format!("{name} has a broken number of CPUs"),
    );
    faults.unless(
        memory_fits(cpus, memory_mib(container)),
        format!("{name} has more or less memory than its CPUs may have"),
    );
}

/// Cloud Run's table of memory by CPUs.
fn memory_fits(cpus: f64, mib: f64) -> bool {
    let gib = mib / 1024.0;
    let most = match cpus {
        c if c <= 1.0 => 4.0,
        c if c <= 2.0 => 8.0,
        c if c <= 4.0 => 16.0,
        c if c <= 6.0 => 24.0,
        _ => 32.0,
    };
    let least = match cpus {
        c if c <= 2.0 => 0.125,
        c if c <= 4.0 => 2.0,
        _ => 4.0,
    };
    (least..=most).contains(&gib)
}

fn gpu(faults: &mut Faults, template: &Value) {
    let spec = &template["spec"];
    let with: Vec<_> = containers(spec)
        .into_iter()
        .filter(|it| !it["resources"]["limits"][GPU].is_null())
        .collect();
    let accelerator = spec["nodeSelector"][ACCELERATOR].as_str();
    faults.unless(
        with.len() <= 1 && with.is_empty() == accelerator.is_none(),
        "a GPU belongs to one container and to the node selector",
    );
    let Some(holder) = with.first() else { return };
    faults.unless(
        cpu(holder) >= 4.0 && memory_mib(holder) >= 16.0 * 1024.0,
        "an L4 wants four CPUs and 16 GiB",
    );
    let annotations = &template["metadata"]["annotations"];
    faults.unless(
        annotations["run.googleapis.com/cpu-throttling"] == "false",
        "a GPU is billed by instance",
    );
    faults.unless(
        annotations["autoscaling.knative.dev/maxScale"].is_string(),
        "nothing bounds the bill",
    );
}

fn dependencies(faults: &mut Faults, template: &Value) {
    let text = &template["metadata"]["annotations"]["run.googleapis.com/container-dependencies"];
    let Some(text) = text.as_str() else { return };
    let wanted: BTreeMap<String, Vec<String>> = serde_json::from_str(text).unwrap_or_default();
    faults.unless(
        !wanted.is_empty(),
        "container-dependencies is not a map of lists",
    );
    for awaited in wanted.values().flatten() {
        let found = containers(&template["spec"])
            .into_iter()
            .find(|it| it["name"] == awaited.as_str());
        faults.unless(
            found.is_some_and(|it| !it["startupProbe"].is_null()),
            format!("dependent container '{awaited}' must have startup probe specified"),
        );
    }
}

/// Everything that is wrong with a build.
pub fn build_faults(build: &Value) -> Vec<String> {
    let mut faults = Faults::default();
    let text = build.to_string();
    let known = build["substitutions"].as_object();
    for (at, _) in text.match_indices("${_") {
        let name: String = text[at + 2..].chars().take_while(|it| *it != '}').collect();
        let set = known.is_some_and(|known| known.contains_key(&name));
        faults.unless(set, format!("{name} is not a substitution"));
    }
    for (name, _) in members(&build["substitutions"]) {
        let used = text.contains(&format!("${{{name}}}"));
        faults.unless(used, format!("{name} is not used"));
    }
    faults.unless(
        !build["serviceAccount"].is_string() || build["options"]["logging"] == "CLOUD_LOGGING_ONLY",
        "an account of its own needs logging: CLOUD_LOGGING_ONLY",
    );
    let ids: Vec<_> = list(&build["steps"])
        .iter()
        .map(|step| &step["id"])
        .collect();
    for (index, step) in list(&build["steps"]).iter().enumerate() {
        for awaited in list(&step["waitFor"]) {
            let earlier = *awaited == "-" || ids[..index].contains(&awaited);
            faults.unless(
                earlier,
                format!("{} waits for {awaited}, which is not before it", step["id"]),
            );
        }
        let both = !step["script"].is_null() && !step["args"].is_null();
        faults.unless(!both, format!("{} has a script and arguments", step["id"]));
    }
    faults.0
}

fn containers(spec: &Value) -> Vec<&Value> {
    list(&spec["containers"]).iter().collect()
}

fn variable<'a>(container: &'a Value, name: &str) -> Option<&'a str> {
    list(&container["env"])
        .iter()
        .find(|it| it["name"] == name)?["value"]
        .as_str()
}

fn members(object: &Value) -> Vec<(&str, &Value)> {
    let members = object.as_object().into_iter().flatten();
    members
        .map(|(name, value)| (name.as_str(), value))
        .collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Lower-case letters, digits and hyphens, a letter first.
fn is_name(value: &Value) -> bool {
    let name = value.as_str().unwrap_or_default();
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.len() <= 49
        && name.bytes().all(allowed)
}

fn cpu(container: &Value) -> f64 {
    let text = container["resources"]["limits"]["cpu"]
        .as_str()
        .unwrap_or_default();
    match text.strip_suffix('m') {
        Some(thousandths) => thousandths.parse().unwrap_or(0.0) / 1000.0,
        None => text.parse().unwrap_or(0.0),
    }
}

fn memory_mib(container: &Value) -> f64 {
    let text = container["resources"]["limits"]["memory"]
        .as_str()
        .unwrap_or_default();
    let number = |end: &str| text.strip_suffix(end)?.parse::<f64>().ok();
    number("Mi")
        .or_else(|| number("Gi").map(|gib| gib * 1024.0))
        .unwrap_or(0.0)
}
