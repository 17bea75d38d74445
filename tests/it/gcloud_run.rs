//! What is checked in for Google Cloud, held against Google's own client: gcloud reads the files by its
//! own schema and sends them to a strict stand-in for Cloud Run. Runs where gcloud is installed.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::fakes::google::cloud_run::{CloudRun, PROJECT, REGION};

pub const TOP: &str = env!("CARGO_MANIFEST_DIR");
const IMAGE: &str = "us-central1-docker.pkg.dev/p/tollgate/tollgate@sha256:0123";
/// Each service: how the script calls it, its file, its name.
const SERVICES: [(&str, &str, &str); 3] = [
    ("gateway", "service.yaml", "tollgate"),
    ("vllm", "service-vllm.yaml", "tollgate-vllm"),
    ("colocated", "service-colocated.yaml", "tollgate-colocated"),
];

/// A stand-in for Cloud Run, and a folder for gcloud; `None` where there is no gcloud.
pub async fn cloud() -> Option<(CloudRun, TempDir)> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&path).any(|folder| folder.join("gcloud").is_file()) {
        println!("skipped: gcloud is not installed");
        return None;
    }
    let folder = tempfile::tempdir().expect("a folder");
    Some((CloudRun::start().await, folder))
}

/// Runs a command beside the stand-in, which needs this thread's runtime.
pub async fn output(mut command: Command) -> Output {
    let run = tokio::task::spawn_blocking(move || command.output());
    run.await.expect("it runs").expect("it starts")
}

pub fn words(output: &Output) -> String {
    let out = String::from_utf8_lossy(&output.stdout);
    format!("{out}{}", String::from_utf8_lossy(&output.stderr))
}

/// `scripts/deploy.sh PART` against the stand-in.
fn deploy(cloud: &CloudRun, folder: &TempDir, part: &str, settings: &[(&str, &str)]) -> Command {
    let mut command = cloud.command("scripts/deploy.sh", folder.path());
    command
        .arg(part)
        .current_dir(TOP)
        .env("PROJECT", PROJECT)
        .env("REGION", REGION)
        .envs(settings.iter().copied());
    command
}

/// `gcloud run services replace FILE --dry-run`.
fn check(cloud: &CloudRun, folder: &TempDir, file: &Path) -> Command {
    let mut command = cloud.command("gcloud", folder.path());
    command.args([
        "run",
        "services",
        "replace",
        "--dry-run",
        "--region",
        REGION,
    ]);
    command.arg(file);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn every_service_file_passes_gcloud_and_cloud_run() {
    let Some((cloud, folder)) = cloud().await else {
        return;
    };
    let settings = [
        ("CHECK_ONLY", "1"),
        ("IMAGE", IMAGE),
        ("VLLM_URL", "https://tollgate-vllm-1.us-central1.run.app"),
    ];
    for (part, file, _) in SERVICES {
        let output = output(deploy(&cloud, &folder, part, &settings)).await;
        assert!(output.status.success(), "{file}: {}", words(&output));
    }
    let checked = cloud.checked();
    let names: Vec<_> = checked.iter().map(|it| &it["metadata"]["name"]).collect();
    assert_eq!(names, SERVICES.map(|(_, _, name)| name));
    for service in &checked {
        // One filter finds the whole bill; the fake has compared service, template and LABELS.
        let labels = &service["metadata"]["labels"];
        assert_eq!(*labels, checked[0]["metadata"]["labels"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_is_passed_by_its_socket_and_secrets_where_one_is_named() {
    let Some((cloud, folder)) = cloud().await else {
        return;
    };
    let name = format!("{PROJECT}:{REGION}:db");
    for database in ["", &name] {
        let settings = [
            ("CHECK_ONLY", "1"),
            ("IMAGE", IMAGE),
            ("VLLM_URL", "https://vllm.example"),
            ("CLOUD_SQL", database),
        ];
        let output = output(deploy(&cloud, &folder, "gateway", &settings)).await;
        assert!(output.status.success(), "{}", words(&output));
    }
    let [without, with] = &cloud.checked()[..] else {
        panic!("two checks");
    };
    let parts = |service: &Value| {
        let template = &service["spec"]["template"];
        let socket = &template["metadata"]["annotations"]["run.googleapis.com/cloudsql-instances"];
        let variables = template["spec"]["containers"][0]["env"].as_array();
        let secrets: Vec<Value> = variables
            .expect("variables")
            .iter()
            .filter(|variable| variable["valueFrom"].is_object())
            .cloned()
            .collect();
        (socket.clone(), secrets)
    };
    assert_eq!(parts(without), (Value::Null, Vec::new()));
    let secret = |name: &str, secret: &str| json!({"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": "latest"}}});
    let secrets = vec![
        secret("DATABASE_URL", "tollgate-database-url"),
        secret("JWT_SECRET_KEY", "tollgate-jwt-secret-key"),
    ];
    assert_eq!(parts(with), (json!(name), secrets));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gpu_is_never_open_to_the_internet() {
    let Some((cloud, folder)) = cloud().await else {
        return;
    };
    let settings = [("CHECK_ONLY", "1"), ("IMAGE", IMAGE)];
    for part in ["vllm", "colocated"] {
        let output = output(deploy(&cloud, &folder, part, &settings)).await;
        assert!(output.status.success(), "{}", words(&output));
    }
    for service in cloud.checked() {
        let open = &service["metadata"]["annotations"]["run.googleapis.com/invoker-iam-disabled"];
        assert_eq!(*open, Value::Null, "{}", service["metadata"]["name"]);
        let template = &service["spec"]["template"];
        let most = &template["metadata"]["annotations"]["autoscaling.knative.dev/maxScale"];
        assert_eq!(most, "1");
    }
}

/// What is changed in `service-colocated.yaml`, and what must then be said.
const FAULTS: [(&str, &str, &str); 12] = [
    // gcloud's own schema.
    ("minScale: '0'", "minScale: 0", "Expected type"),
    (
        "cpu-throttling: 'false'",
        "cpu-throttling: false",
        "Expected type",
    ),
    ("cpu: '6'", "cpu: 6", "Expected type"),
    ("timeoutSeconds: 3600", "timeoutSecs: 3600", "timeoutSecs"),
    ("serving.knative.dev/v1", "v1", "apiVersion"),
    // The service's.
    ("memory: 24Gi", "memory: 28Gi", "memory than its CPUs"),
    (
        "timeoutSeconds: 3600",
        "timeoutSeconds: 7200",
        "timeoutSeconds",
    ),
    (
        "cpu-throttling: 'false'",
        "cpu-throttling: 'true'",
        "billed by instance",
    ),
    (
        "maxScale: '1'",
        "maxScal: '1'",
        "takes no autoscaling.knative.dev/maxScal",
    ),
    (
        "startup-cpu-boost: 'true'",
        "container-dependencies: '{\"tollgate\":[\"vllm\"]}'",
        "must have startup probe",
    ),
    // Ours.
    ("team=ml-platform", "team=another", "LABELS differ"),
    (
        "\n        team: ml-platform",
        "",
        "labels of service and template differ",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_in_a_service_file_is_refused() {
    let Some((cloud, folder)) = cloud().await else {
        return;
    };
    let good = render("service-colocated.yaml").await;
    let file = folder.path().join("service.yaml");
    for (right, wrong, message) in FAULTS {
        assert!(good.contains(right), "{right} is not in the file any more");
        std::fs::write(&file, good.replacen(right, wrong, 1)).expect("a file");
        let output = output(check(&cloud, &folder, &file)).await;
        let words = words(&output);
        assert!(!output.status.success(), "{wrong}: {words}");
        assert!(words.contains(message), "{wrong}: {words}");
    }
    assert_eq!(cloud.checked().len(), 0);
    // The file without a fault is the one that passes.
    std::fs::write(&file, good).expect("a file");
    let output = output(check(&cloud, &folder, &file)).await;
    assert!(output.status.success(), "{}", words(&output));
}

/// A file as `deploy.sh` would send it.
async fn render(file: &str) -> String {
    let mut command = Command::new("scripts/render.sh");
    command.arg(file).current_dir(TOP).envs([
        ("PROJECT", PROJECT),
        ("IMAGE", IMAGE),
        ("VLLM_URL", "https://vllm.example"),
        ("VLLM_IMAGE", "vllm/vllm-openai:v0"),
        ("MODEL", "some/model"),
        ("MODEL_BUCKET", "a-bucket"),
        ("MAX_MODEL_LEN", "32768"),
        ("TOOL_CALL_PARSER", "hermes"),
    ]);
    let output = output(command).await;
    assert!(output.status.success(), "{}", words(&output));
    String::from_utf8(output.stdout).expect("text")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_placeholder_without_a_value_is_named() {
    let mut command = Command::new("scripts/render.sh");
    command
        .arg("service.yaml")
        .current_dir(TOP)
        .env("PROJECT", PROJECT)
        .env_remove("IMAGE")
        .env("VLLM_URL", "");
    let output = output(command).await;
    assert_eq!(output.status.code(), Some(64));
    assert_eq!(
        words(&output).trim(),
        "render.sh: service.yaml needs IMAGE VLLM_URL"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_joins_the_two_services_and_may_be_repeated() {
    let Some((cloud, folder)) = cloud().await else {
        return;
    };
    let early = output(deploy(&cloud, &folder, "gateway", &[("IMAGE", IMAGE)])).await;
    assert!(!early.status.success());
    assert!(
        words(&early).contains("deploy it first"),
        "{}",
        words(&early)
    );
    for _ in 0..2 {
        for part in ["vllm", "gateway"] {
            let output = output(deploy(&cloud, &folder, part, &[("IMAGE", IMAGE)])).await;
            assert!(output.status.success(), "{part}: {}", words(&output));
        }
    }
    let vllm = cloud.service("tollgate-vllm").expect("the model server");
    let gateway = cloud.service("tollgate").expect("the gateway");
    let container = &gateway["spec"]["template"]["spec"]["containers"][0];
    let endpoint = json!({"name": "VLLM_ENDPOINT", "value": vllm["status"]["url"]});
    let variables = container["env"].as_array().expect("variables");
    assert!(variables.contains(&endpoint), "{variables:#?}");
    let member = format!("serviceAccount:tollgate-gateway@{PROJECT}.iam.gserviceaccount.com");
    let policy = cloud.policy("tollgate-vllm").expect("a policy");
    let binding = json!([{"members": [member], "role": "roles/run.invoker"}]);
    assert_eq!(policy["bindings"], binding);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_build_file_passes_gcloud_and_cloud_build() {
    let Some((cloud, folder)) = cloud().await else {
        return;
    };
    let submit = |file: &Path| {
        let mut command = cloud.command("gcloud", folder.path());
        command.args([
            "builds",
            "submit",
            "--no-source",
            "--async",
            "--region",
            REGION,
        ]);
        command.arg("--config").arg(file).current_dir(TOP);
        command
    };
    let good = Path::new(TOP).join("cloudbuild.yaml");
    let accepted = output(submit(&good)).await;
    assert!(accepted.status.success(), "{}", words(&accepted));
    assert_eq!(cloud.builds().len(), 1);

    let text = std::fs::read_to_string(&good).expect("the file");
    let file = folder.path().join("cloudbuild.yaml");
    for (right, wrong, message) in [
        ("waitFor: [push]", "waitfor: [push]", "waitfor"),
        (
            "logging: CLOUD_LOGGING_ONLY",
            "diskSizeGb: '100'",
            "CLOUD_LOGGING_ONLY",
        ),
        ("waitFor: [push]", "waitFor: [pusch]", "not before it"),
        (
            "_VLLM_URL: ''",
            "_VLLM: ''",
            "_VLLM_URL is not a substitution",
        ),
    ] {
        assert!(text.contains(right), "{right} is not in the file any more");
        std::fs::write(&file, text.replacen(right, wrong, 1)).expect("a file");
        let refused = output(submit(&file)).await;
        assert!(!refused.status.success(), "{wrong}");
        assert!(
            words(&refused).contains(message),
            "{wrong}: {}",
            words(&refused)
        );
    }
    assert_eq!(cloud.builds().len(), 1);
}
