//! The command lines of docs/users.md, run in the order of the page.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

use super::super::harness::ADMIN;
use super::start;

const PAGE: &str = include_str!("../../../docs/users.md");
/// Answers that go wrong, go wrong.
const CURL: &str = "set -e; curl() { command curl -sS --fail-with-body \"$@\"; }\n";

fn blocks() -> Vec<&'static str> {
    let after = PAGE.split("```sh\n").skip(1);
    let blocks = after.map(|rest| rest.split("```").next().unwrap_or_default());
    blocks.filter(|block| block.contains("curl")).collect()
}

/// Runs a block; what it answers fills the variables that the page speaks of.
fn run(block: &str, variables: &mut BTreeMap<&str, String>) {
    let output = Command::new("sh")
        .args(["-c", &format!("{CURL}{block}")])
        .envs(&*variables)
        .output()
        .expect("a shell");
    assert!(output.status.success(), "{block}: {output:?}");
    let answers = serde_json::Deserializer::from_slice(&output.stdout).into_iter::<Value>();
    for answer in answers {
        let answer = answer.unwrap_or_else(|_| panic!("{block}: {output:?}"));
        for (member, variable) in [
            ("api_key", "API_KEY"),
            ("access_token", "ACCESS_TOKEN"),
            ("refresh_token", "REFRESH_TOKEN"),
        ] {
            if let Some(value) = answer[member].as_str() {
                variables.insert(variable, value.to_owned());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn command_lines_of_the_page_on_users_work() {
    if Command::new("curl").arg("--version").output().is_err() {
        println!("skipped: curl is not installed");
        return;
    }
    let (_server, gate) = start(&[]).await;
    let url = format!("http://localhost:{}", gate.addr.port());
    let mut variables = BTreeMap::from([("TOLLGATE_URL", url), ("ADMIN_KEY", ADMIN.to_owned())]);
    let blocks = blocks();
    let login = blocks.iter().find(|block| block.contains("/auth/token"));
    let login = login.expect("a login");
    for block in &blocks {
        run(block, &mut variables);
        if block.contains("/users/me/api-key") {
            // As the page says.
            run(login, &mut variables);
        }
    }
    assert!(blocks.len() > 10, "{}", blocks.len());
}
