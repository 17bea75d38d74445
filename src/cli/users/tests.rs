//! The verb as its user sees it, on a database in a file: words in, both outputs and the store out.

use std::path::PathBuf;

use clap::Parser;
use serde_json::{Value, json};

use super::*;
use crate::config::{GoogleConfig, KeysSource, MOST_TOKENS, SinkKind};
use crate::secret::Secret;
use crate::store::UserRow;

const PASSWORD: &str = "correct horse battery";

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    users: UsersArgs,
}

struct Folder(tempfile::TempDir);

struct Shown {
    out: String,
    notes: String,
}

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn database(&self) -> Database {
        Database::Sqlite(self.0.path().join("data/tollgate.db"))
    }

    /// With this password at the terminal; none for nobody there.
    async fn run_with(&self, line: &str, password: Option<&str>) -> anyhow::Result<Shown> {
        run_on(self.database(), line, password).await
    }

    async fn run(&self, line: &str) -> anyhow::Result<Shown> {
        self.run_with(line, Some(PASSWORD)).await
    }

    async fn fails(&self, line: &str) -> String {
        let error = self.run(line).await.err();
        let error = error.unwrap_or_else(|| anyhow!("{line} went well"));
        format!("{error:#}")
    }

    async fn user(&self, name: &str) -> UserRow {
        let store = Store::open(&self.database()).await.unwrap().unwrap();
        let user = store.user_named(name).await.unwrap().unwrap();
        store.close().await;
        user
    }

    async fn list(&self) -> Value {
        serde_json::from_str(&self.run("list --json").await.unwrap().out).unwrap()
    }
}

async fn run_on(database: Database, line: &str, password: Option<&str>) -> anyhow::Result<Shown> {
    let words = std::iter::once("users").chain(line.split_whitespace());
    let args = Cli::try_parse_from(words)?.users;
    let paths = Paths {
        google: GoogleConfig::default(),
        keys: KeysSource::File {
            path: PathBuf::new(),
            explicit: false,
        },
        sink: SinkKind::None,
        usage_file: PathBuf::new(),
        database,
        default_token_limit: 1_234,
    };
    let mut terminal = Terminal {
        out: Vec::new(),
        notes: Vec::new(),
        ask: |_| {
            Ok(password.map_or(Asked::Nobody, |text| {
                Asked::Given(Secret::new(text.to_owned()))
            }))
        },
    };
    execute(args.verb, &paths, &mut terminal).await?;
    Ok(Shown {
        out: String::from_utf8(terminal.out)?,
        notes: String::from_utf8(terminal.notes)?,
    })
}

#[tokio::test]
async fn a_new_users_key_is_printed_alone_and_only_its_hash_is_kept() {
    let folder = Folder::new();
    let shown = folder.run("add Ada").await.unwrap();
    let key = shown.out.strip_suffix('\n').unwrap();
    assert!(key.starts_with("sk-") && key.len() == 46, "{key}");
    assert!(
        shown.notes.contains("user ada made, with 1234 tokens"),
        "{}",
        shown.notes
    );
    assert!(!shown.notes.contains(key) && !shown.notes.contains(PASSWORD));

    let store = Store::open(&folder.database()).await.unwrap().unwrap();
    let held = store
        .user_by_key(KeyHash::of(key).as_bytes())
        .await
        .unwrap()
        .unwrap();
    // The gateway takes it for one of its own.
    assert!(key::Maker::new(&store.mac_key().await.unwrap()).made(key::Kind::Key, key));
    store.close().await;
    assert_eq!((&*held.user.name, held.expires_at_ms), ("ada", None));
    assert!(held.user.password_hash.starts_with("$argon2id$"));
    assert!(!held.user.password_hash.contains(PASSWORD));
    assert!(key.starts_with(&held.user.key_prefix) && held.user.key_prefix.len() < 12);
    assert!(!held.user.limit_is_admins, "the default is no admin's");
    let set = folder.run("add bob --token-limit 7").await.unwrap();
    assert!(!set.out.contains(key));
    let bob = folder.user("bob").await;
    assert!(bob.limit_is_admins && bob.token_limit == 7);
}

#[tokio::test]
async fn lists_show_limits_and_use_and_no_secret() {
    let folder = Folder::new();
    let key = folder.run("add ada --token-limit 7").await.unwrap().out;
    for name in ["bob", "cy"] {
        folder.run(&format!("add {name}")).await.unwrap();
    }
    folder.run("disable cy").await.unwrap();
    let hash = folder.user("ada").await.password_hash;
    let table = folder.run("list").await.unwrap().out;
    let json = folder.run("list --json").await.unwrap().out;
    for shown in [&table, &json] {
        assert!(!shown.contains(key.trim()) && !shown.contains(&hash) && !shown.contains(PASSWORD));
    }
    assert!(table.starts_with("NAME  ID  USED  LIMIT"), "{table}");
    assert!(
        table.contains("7 (set)") && table.lines().count() == 4,
        "{table}"
    );
    let list = folder.list().await;
    let names: Vec<&Value> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|user| &user["username"])
        .collect();
    assert_eq!(names, ["ada", "bob", "cy"]);
    assert_eq!(
        (&list[0]["token_limit"], &list[0]["tokens_used"]),
        (&json!(7), &json!(0))
    );
    assert_eq!(
        (&list[0]["disabled"], &list[2]["disabled"]),
        (&json!(false), &json!(true))
    );
    assert!(list[0]["id"].is_i64() && list[0]["created_at"].is_string());
}

#[tokio::test]
async fn limits_passwords_and_states_change() {
    let folder = Folder::new();
    folder.run("add ada").await.unwrap();
    let before = folder.user("ada").await;
    assert!(folder.run("set-limit ADA 99").await.unwrap().out.is_empty());
    let after = folder.user("ada").await;
    assert_eq!((after.token_limit, after.limit_is_admins), (99, true));

    folder
        .run_with("set-password ada", Some("another password"))
        .await
        .unwrap();
    let changed = folder.user("ada").await;
    assert_ne!(changed.password_hash, before.password_hash);
    assert!(changed.generation > before.generation, "tokens are void");

    folder.run("disable ada").await.unwrap();
    assert!(folder.user("ada").await.is_disabled);
    folder.run("enable ada").await.unwrap();
    assert!(!folder.user("ada").await.is_disabled);
    assert_eq!(folder.list().await[0]["token_limit"], 99);
}

#[tokio::test]
async fn what_cannot_be_done_is_said() {
    let folder = Folder::new();
    folder.run("add ada").await.unwrap();
    let long = format!("add {}", "n".repeat(65));
    for (line, words) in [
        ("add ada", "a user named ada already"),
        ("add ADA", "a user named ada already"),
        ("set-limit bob 5", "no user named bob"),
        ("set-password bob", "no user named bob"),
        ("disable bob", "no user named bob"),
        ("enable bob", "no user named bob"),
        ("add a/b", "1 to 64"),
        (&long, "1 to 64"),
        ("set-limit ada 0", "is not in 1"),
        ("set-limit ada -1", "-1"),
        ("set-limit ada 99999999999999999999", "number too large"),
    ] {
        let text = folder.fails(line).await;
        assert!(text.contains(words), "{line}: {text}");
    }
    for password in ["", "1234567", &"x".repeat(1025)] {
        let error = folder
            .run_with("add bob", Some(password))
            .await
            .err()
            .unwrap();
        let text = format!("{error:#}");
        assert!(text.contains("at least eight"), "{text}");
        assert!(password.is_empty() || !text.contains(password), "{text}");
    }
    assert_eq!(folder.list().await.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn wrong_flags_and_no_database_end_as_wrong_usage() {
    let folder = Folder::new();
    for line in [
        "add ada --token-limit x",
        "add",
        "set-limit ada",
        "add a/b",
        "set-limit ada 0",
    ] {
        let error = folder.run(line).await.err().unwrap();
        assert!(error.downcast_ref::<clap::Error>().is_some(), "{line}");
    }
    let none = run_on(Database::None, "list", None).await.err().unwrap();
    assert!(none.downcast_ref::<clap::Error>().is_some());
    assert!(format!("{none:#}").contains("DATABASE_URL is none"));
    let nobody = folder.run_with("add ada", None).await.err().unwrap();
    assert!(nobody.downcast_ref::<clap::Error>().is_some());
    assert!(format!("{nobody:#}").contains("--password-stdin"));
}

#[tokio::test]
async fn only_add_makes_a_database() {
    let folder = Folder::new();
    for line in ["list", "disable ada", "set-limit ada 5", "set-password ada"] {
        let text = folder.fails(line).await;
        assert!(
            text.contains("there is no database") && text.contains("DATABASE_URL"),
            "{text}"
        );
    }
    assert!(!folder.0.path().join("data").exists());
    folder.run("add ada").await.unwrap();
    let most = format!("set-limit ada {MOST_TOKENS}");
    folder.run(&most).await.unwrap();
}
