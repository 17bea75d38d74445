//! The command lines that the product's first documents show to users, run as they stand there but
//! for the port and what they say is to be filled in.

use std::process::Command;

use serde_json::Value;

use super::start;

const REGISTER: &str = r#"curl -X POST http://localhost:8000/auth/register \
  -H "Content-Type: application/json" \
  -d '{
    "username": "opencode_model",
    "password": "secure_password_123",
    "token_limit": 50000
  }'"#;
const MODELS: &str = r#"curl -H "Authorization: Bearer your_api_key" \
  http://localhost:8000/v1/models"#;
const CHAT: &str = r#"curl -X POST http://localhost:8000/v1/chat/completions \
  -H "Authorization: Bearer your_api_key" \
  -H "Content-Type: application/json" \
  -d '{
    "model": "llm-user-managed",
    "messages": [
      {"role": "user", "content": "Hello, how are you?"}
    ],
    "max_tokens": 50
  }'"#;
/// The one that is not shown there: a login in the form of `OAuth2`.
const LOG_IN: &str = r"curl http://localhost:8000/auth/token \
  -d username=opencode_model -d password=secure_password_123";
const ME: &str = r#"curl -H "Authorization: Bearer your_jwt_token" \
  http://localhost:8000/users/me"#;
const USAGE: &str = r#"curl -H "Authorization: Bearer your_jwt_token" \
  http://localhost:8000/users/usage"#;
const LIMIT: &str = r#"curl -X PUT -H "Authorization: Bearer your_jwt_token" \
  "http://localhost:8000/users/me/token-limit?token_limit=60000""#;
const REFRESH: &str = r#"curl -X POST -H "Authorization: Bearer your_jwt_token" \
  http://localhost:8000/auth/refresh"#;
const JWT_CHAT: &str = r#"curl -X POST http://localhost:8000/chat/completions \
  -H "Authorization: Bearer your_jwt_token" \
  -H "Content-Type: application/json" \
  -d '{"model": "opencode-llm", "messages": [{"role": "user", "content": "Hello"}]}'"#;

fn run(line: &str) -> Value {
    let output = Command::new("sh").args(["-c", line]).output();
    let output = output.expect("a shell");
    assert!(output.status.success(), "{line}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{line}: {output:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn command_lines_of_the_first_documents_work() {
    if Command::new("curl").arg("--version").output().is_err() {
        println!("skipped: curl is not installed");
        return;
    }
    let (_server, gate) = start(&[]).await;
    let here = format!("localhost:{}", gate.addr.port());
    let fill = |line: &str, word: &str, value: &str| {
        line.replace("localhost:8000", &here).replace(word, value)
    };
    let user = run(&fill(REGISTER, "-", "-"));
    assert_eq!(user["username"], "opencode_model");
    assert_eq!(user["token_limit"], 50_000);
    assert_eq!(user["tokens_used"], 0);
    let key = user["api_key"].as_str().expect("a key");
    assert_eq!(run(&fill(MODELS, "your_api_key", key))["object"], "list");
    let answer = run(&fill(CHAT, "your_api_key", key));
    assert!(
        answer["choices"][0]["message"]["content"].is_string(),
        "{answer}"
    );
    let tokens = run(&fill(LOG_IN, "-", "-"));
    let token = tokens["access_token"].as_str().expect("a token");
    let me = run(&fill(ME, "your_jwt_token", token));
    assert_eq!(me["username"], "opencode_model");
    let usage = run(&fill(USAGE, "your_jwt_token", token));
    assert_eq!(usage["token_limit"], 50_000);
    let limit = run(&fill(LIMIT, "your_jwt_token", token));
    assert_eq!(limit["message"], "Token limit updated");
    let renewed = run(&fill(REFRESH, "your_jwt_token", token));
    let token = renewed["access_token"].as_str().expect("a token");
    let answer = run(&fill(JWT_CHAT, "your_jwt_token", token));
    assert!(
        answer["choices"][0]["message"]["content"].is_string(),
        "{answer}"
    );
}
