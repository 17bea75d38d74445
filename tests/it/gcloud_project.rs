//! A Google project set up and taken down by the scripts, with the real gcloud and bq, against a
//! stand-in that keeps accounts, secrets, buckets and rights. Runs where gcloud is installed.

use std::collections::BTreeSet;
use std::process::Command;

use tempfile::TempDir;

use super::fakes::google::cloud_run::{CloudRun, LOG_WRITER, PROJECT, REGION};
use super::gcloud_run::{TOP, cloud, output, words};

/// `scripts/NAME` with the project's settings.
fn script(cloud: &CloudRun, folder: &TempDir, name: &str, arguments: &[&str]) -> Command {
    let mut command = cloud.command(&format!("scripts/{name}"), folder.path());
    command
        .args(arguments)
        .current_dir(TOP)
        .env("PROJECT", PROJECT)
        .env("REGION", REGION);
    command
}

fn rights(rights: &[(&str, &str)]) -> BTreeSet<(String, String)> {
    let owned = |(on, role): &(&str, &str)| ((*on).to_owned(), format!("roles/{role}"));
    rights.iter().map(owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_is_set_up_from_nothing_again_without_change_and_taken_down() {
    let Some((cloud, folder)) = cloud().await else {
        return;
    };
    let first = output(script(&cloud, &folder, "setup-project.sh", &[])).await;
    assert!(first.status.success(), "{}", words(&first));
    let made = cloud.project();
    assert!(made.apis.contains("run.googleapis.com"), "{:?}", made.apis);

    // The least rights: nothing on the project for what serves.
    let models = &format!("{PROJECT}-tollgate-models");
    let gateway = [
        ("vllm-api-keys", "secretmanager.secretAccessor"),
        (models, "storage.objectViewer"),
    ];
    assert_eq!(made.rights("tollgate-gateway"), rights(&gateway));
    let vllm = [(models.as_str(), "storage.objectViewer")];
    assert_eq!(made.rights("tollgate-vllm"), rights(&vllm));
    let account = &format!("tollgate-gateway@{PROJECT}.iam.gserviceaccount.com");
    let build = [
        (
            &*format!("{PROJECT}-tollgate-build"),
            "storage.objectViewer",
        ),
        ("tollgate", "artifactregistry.writer"),
        (account, "iam.serviceAccountUser"),
        ("tollgate-smoke-key", "secretmanager.secretAccessor"),
        (PROJECT, "logging.logWriter"),
        (PROJECT, "run.admin"),
    ];
    assert_eq!(made.rights("tollgate-build"), rights(&build));
    let grant = |to: &str| {
        format!("GRANT `roles/bigquery.dataEditor` ON SCHEMA `{PROJECT}`.tollgate TO '{to}'")
    };
    let grants = [
        grant(&format!("serviceAccount:{account}")),
        grant(LOG_WRITER),
    ];
    assert_eq!(made.statements, BTreeSet::from(grants));

    let second = output(script(&cloud, &folder, "setup-project.sh", &[])).await;
    assert!(second.status.success(), "{}", words(&second));
    assert!(cloud.project() == made, "the second run changed something");

    let gone = output(script(&cloud, &folder, "teardown.sh", &["--yes"])).await;
    assert!(gone.status.success(), "{}", words(&gone));
    let left = cloud.project();
    // What nobody can make again stays.
    for kept in ["vllm-api-keys", "datasets/tollgate", models] {
        assert!(left.has(kept), "{kept} is gone: {:#?}", left.resources);
    }
    for gone in [
        "repositories/tollgate",
        "tollgate-smoke-key",
        "tollgate-usage",
        account,
    ] {
        assert!(!left.has(gone), "{gone} is there: {:#?}", left.resources);
    }
    assert_eq!(left.rights("tollgate-build"), rights(&[]));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_taken_down_without_the_projects_name() {
    let Some((cloud, folder)) = cloud().await else {
        return;
    };
    let refused = output(script(&cloud, &folder, "teardown.sh", &["--data"])).await;
    assert_eq!(refused.status.code(), Some(1), "{}", words(&refused));
    assert!(words(&refused).contains("for good"), "{}", words(&refused));
}
