//! The verb as its user sees it: flags in, both outputs and the file out.

mod limits;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration as StdDuration;

use clap::Parser;
use tokio_util::task::TaskTracker;

use super::*;
use crate::auth::KeySet;
use crate::config::{Database, GoogleConfig, KeysSource, SinkKind};

const FLAT_KEY: &str = "sk-flat-0123456789abcdef";

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    keys: KeysArgs,
}

/// A directory of its own with a keys file in it, which need not exist.
struct Folder {
    directory: tempfile::TempDir,
    path: PathBuf,
}

struct Shown {
    out: String,
    notes: String,
}

impl Folder {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data/keys.json");
        Self { directory, path }
    }

    fn with(content: &str) -> Self {
        let place = Self::new();
        fs::create_dir(place.path.parent().unwrap()).unwrap();
        fs::write(&place.path, content).unwrap();
        place
    }

    async fn run(&self, line: &str) -> anyhow::Result<Shown> {
        run_on(&self.path, line).await
    }

    async fn fails(&self, line: &str) -> String {
        let before = fs::read(&self.path).ok();
        let error = self
            .run(line)
            .await
            .err()
            .unwrap_or_else(|| anyhow!("{line} went well"));
        assert_eq!(fs::read(&self.path).ok(), before, "{line} changed the file");
        format!("{error:#}")
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.path).unwrap()
    }

    /// Whether the gateway would take this key now.
    fn takes(&self, key: &str) -> bool {
        let set = KeySet::parse(self.text().as_bytes(), None, true).unwrap();
        assert_eq!(set.rejected, []);
        let id = KeyHash::of(key).key_id();
        set.entries().iter().any(|entry| {
            *entry.key_id == *id || entry.previous.iter().any(|old| *old.key_id == *id)
        })
    }
}

/// What leads to this file and nowhere else.
fn paths(path: &Path) -> Paths {
    Paths {
        google: GoogleConfig::default(),
        keys: KeysSource::File {
            path: path.to_owned(),
            explicit: false,
        },
        sink: SinkKind::None,
        usage_file: PathBuf::new(),
        database: Database::Sqlite(PathBuf::new()),
        default_token_limit: 1,
    }
}

async fn run_on(path: &Path, line: &str) -> anyhow::Result<Shown> {
    let args = Cli::try_parse_from(std::iter::once("keys").chain(line.split_whitespace()))?.keys;
    let (mut out, mut notes) = (Vec::new(), Vec::new());
    execute(args, &paths(path), &mut out, &mut notes).await?;
    Ok(Shown {
        out: String::from_utf8(out)?,
        notes: String::from_utf8(notes)?,
    })
}

#[tokio::test]
async fn a_new_key_is_printed_alone_and_only_its_hash_is_written() {
    let place = Folder::new();
    let shown = place.run("add ci --admin --models a,b/c --label team=ml --label x= --expires 2099-01-01T00:00:00Z --max-concurrent 4").await.unwrap();
    let key = shown.out.strip_suffix('\n').unwrap();
    assert!(key.starts_with("sk-") && key.len() == 46, "{key}");
    assert!(place.takes(key));
    assert!(!place.text().contains(key) && !shown.notes.contains(key));
    let expected = format!(
        "{{\n  \"ci\": {{\"sha256\":\"{}\",\"admin\":true,\"models\":[\"a\",\"b/c\"],\"labels\":{{\"team\":\"ml\",\"x\":\"\"}},\"expires_at\":\"2099-01-01T00:00:00Z\",\"max_concurrent\":4}}\n}}\n",
        KeyHash::of(key).to_hex()
    );
    assert_eq!(place.text(), expected);
    assert_eq!(
        fs::metadata(&place.path).unwrap().permissions().mode() & 0o777,
        0o600
    );
}

#[tokio::test]
async fn the_file_of_the_flag_beats_the_default_one() {
    let (place, other) = (Folder::new(), Folder::new());
    let line = format!("add ci --file {}", other.path.display());
    let key = place.run(&line).await.unwrap().out;
    assert!(other.takes(key.trim()) && !place.path.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_writers_lose_nothing() {
    const WRITERS: usize = 20;
    let place = Folder::with(&format!("{{\"flat\": \"{FLAT_KEY}\"}}"));
    let tasks = TaskTracker::new();
    let writers: Vec<_> = (0..WRITERS)
        .map(|n| {
            let path = place.path.clone();
            tasks.spawn(async move { run_on(&path, &format!("add writer-{n}")).await.unwrap().out })
        })
        .collect();
    for writer in writers {
        assert!(place.takes(writer.await.unwrap().trim()));
    }
    assert!(place.takes(FLAT_KEY));
    assert_eq!(
        KeySet::parse(place.text().as_bytes(), None, true)
            .unwrap()
            .len(),
        WRITERS + 1
    );
}

#[tokio::test(start_paused = true)]
async fn a_writer_waits_for_the_lock_only_so_long() {
    let place = Folder::with("{}");
    let lock = fs::File::create(place.path.with_file_name(".keys.json.lock")).unwrap();
    lock.lock().unwrap();
    let begin = tokio::time::Instant::now();
    assert!(
        place
            .fails("add ci")
            .await
            .contains("nothing was changed: another program has kept the lock")
    );
    assert!(begin.elapsed() >= StdDuration::from_secs(10));
    drop(lock);
    place.run("add ci").await.unwrap();
}

#[tokio::test]
async fn what_others_wrote_stays_as_it_is() {
    let odd = r#""z": "sk-z-0123456789abcdef","#;
    let own = r#""a":   {"key" : "sk-a-0123456789abcdef",  "labels": {"b":"1", "a":"2"}}"#;
    let place = Folder::with(&format!("{{{odd} {own}}}"));
    place.run("add ci").await.unwrap();
    place.run("rotate ci").await.unwrap();
    place.run("revoke ci").await.unwrap();
    assert_eq!(
        place.text(),
        "{\n  \"z\": \"sk-z-0123456789abcdef\",\n  \"a\": {\"key\" : \"sk-a-0123456789abcdef\",  \"labels\": {\"b\":\"1\", \"a\":\"2\"}}\n}\n"
    );
}

#[tokio::test]
async fn a_rotated_key_works_on_for_its_grace() {
    let other = r#"{"key":"sk-obj-0123456789abcdef","admin":true,"previous":[{"sha256":"SHA","expires_at":"2020-01-01T00:00:00Z"}]}"#;
    let other = other.replace("SHA", &"a".repeat(64));
    let place = Folder::with(&format!("{{\"flat\": \"{FLAT_KEY}\", \"obj\": {other}}}"));
    let flat = place.run("rotate flat --grace 7d").await.unwrap().out;
    let obj = place.run("rotate obj").await.unwrap().out;
    for key in [FLAT_KEY, "sk-obj-0123456789abcdef", flat.trim(), obj.trim()] {
        assert!(place.takes(key), "{key}");
    }
    assert!(
        !place.text().contains("sk-"),
        "rotated entries hold hashes only"
    );
    assert!(!place.text().contains("2020"), "keys that are over go");
    let set = KeySet::parse(place.text().as_bytes(), None, true).unwrap();
    assert!(set.entries()[1].admin && set.entries()[1].previous.len() == 1);
    let end = set.entries()[0].previous[0].expires_at.unwrap();
    let left = end.duration_since(std::time::SystemTime::now()).unwrap();
    assert!(left > StdDuration::from_hours(7 * 24 - 1) && left <= StdDuration::from_hours(7 * 24));
}

#[tokio::test]
async fn with_no_grace_only_the_new_key_works() {
    let place = Folder::with(&format!("{{\"flat\": \"{FLAT_KEY}\"}}"));
    let second = place.run("rotate flat").await.unwrap().out;
    let third = place.run("rotate flat --grace 0").await.unwrap().out;
    assert!(place.takes(third.trim()));
    assert!(!place.takes(second.trim()) && !place.takes(FLAT_KEY));
}

#[tokio::test]
async fn a_revoked_name_is_gone() {
    let place = Folder::with(&format!("{{\"flat\": \"{FLAT_KEY}\"}}"));
    assert!(place.run("revoke flat").await.unwrap().out.is_empty());
    assert_eq!(place.text(), "{}\n");
}

#[tokio::test]
async fn lists_show_ids_and_never_keys() {
    let place = Folder::with(&format!("{{\"flat\": \"{FLAT_KEY}\", \"bad\": null}}"));
    let key = place.run("add ci --admin --expires 30d").await.unwrap().out;
    place.run("rotate ci").await.unwrap();
    let (table, json) = (
        place.run("list").await.unwrap(),
        place.run("list --json").await.unwrap(),
    );
    for shown in [&table, &json] {
        assert!(shown.out.contains(&KeyHash::of(FLAT_KEY).key_id()));
        for secret in [FLAT_KEY, key.trim(), &KeyHash::of(FLAT_KEY).to_hex()] {
            assert!(!shown.out.contains(secret));
        }
        assert!(shown.notes.contains("bad: is null"));
    }
    let first = format!(
        "flat  {}  no     never                 0         none",
        KeyHash::of(FLAT_KEY).key_id()
    );
    assert_eq!(table.out.lines().nth(1), Some(first.as_str()));
    let list: Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(
        (&list[1]["name"], &list[1]["admin"]),
        (&json!("ci"), &json!(true))
    );
    assert_eq!(
        list[1]["previous"][0]["key_id"],
        json!(KeyHash::of(key.trim()).key_id())
    );
    assert!(
        Folder::new()
            .run("list")
            .await
            .unwrap()
            .out
            .contains("no keys")
    );
}

#[tokio::test]
async fn what_cannot_be_done_is_said_and_changes_nothing() {
    let place = Folder::with(&format!("{{\"flat\": \"{FLAT_KEY}\", \"bad\": null}}"));
    let long = format!("add {}", "n".repeat(129));
    let cases = [
        ("add flat", "rotate flat"),
        ("rotate nobody", "no key named nobody"),
        ("revoke nobody", "no key named nobody"),
        ("rotate bad", "is null"),
        (&long, "would not take the new key set whole"),
        ("add ci --max-concurrent 0", "`max_concurrent`"),
        ("add ci --label =x", "`labels`"),
        ("add ci --label x", "NAME=VALUE"),
        ("add ci --label a=1 --label a=2", "given twice"),
        ("add ci --expires soon", "neither a time"),
        ("rotate flat --grace 5y", "a span is"),
        ("rotate flat --grace 5hh", "a span is"),
        ("add ci --token-limit 0", "`token_limit` is zero"),
        ("add ci --token-limit 9000000000000001", "`token_limit`"),
        ("add ci --requests-per-minute 0", "`requests_per_minute`"),
        ("add ci --tokens-per-minute 0", "`tokens_per_minute`"),
        ("add ci --token-limit -5", "'-5'"),
        (
            "add ci --token-limit 5 --period week",
            "total, day or month",
        ),
        ("add ci --period month", "--token-limit"),
        ("add ci --file f --secret s", "give only one"),
        ("list --project p", "--project needs --secret"),
        ("list --secret a/b", "is not the name of a secret"),
        ("add ci --secret a/versions/2", "without a version"),
        ("add ci --create", "--create makes a secret"),
    ];
    for (line, words) in cases {
        let text = place.fails(line).await;
        assert!(text.contains(words), "{line}: {text}");
        assert!(!text.contains(FLAT_KEY), "{line}: {text}");
    }
}

#[tokio::test]
async fn flags_that_do_not_fit_end_as_wrong_usage() {
    let place = Folder::new();
    for line in [
        "add ci --token-limit five",
        "add ci --token-limit 5 --period week",
        "add ci --period day",
        "list --project p",
        "list --file f --secret s",
        "list --file f --project p",
        "list --secret s/versions/1",
        "list --project a/b --secret s",
        "add ci --create",
    ] {
        let error = place.run(line).await.err().unwrap();
        assert!(error.downcast_ref::<clap::Error>().is_some(), "{line}");
    }
}

#[tokio::test]
async fn a_payload_that_is_no_key_set_is_left_alone() {
    for content in ["", "[]", "{\"a\": sk-secret-0123456789"] {
        let place = Folder::with(content);
        for line in ["add ci", "list", "revoke a"] {
            let text = place.fails(line).await;
            assert!(
                text.contains("keys.json is ") && !text.contains("sk-secret"),
                "{line}: {text}"
            );
        }
    }
    let name = "n".repeat(120);
    let entries: Vec<String> = (0..7_500).map(|n| format!("\"{name}{n}\": null")).collect();
    let nearly_full = format!("{{{}}}", entries.join(",\n"));
    let room = crate::auth::MAX_PAYLOAD_BYTES - nearly_full.len();
    let full = format!(
        "{{\"fill\": \"{}\", {}",
        "x".repeat(room - 40),
        &nearly_full[1..]
    );
    assert!(
        Folder::with(&full)
            .fails("add ci")
            .await
            .contains("is larger than")
    );
}

#[tokio::test]
async fn entries_that_were_left_out_before_are_named_and_hinder_nothing() {
    let place = Folder::with(
        "{\"bad\": null, \"later\": {\"key\": \"sk-later-0123456789\", \"token_limits\": 5}}",
    );
    let notes = place.run("add ci").await.unwrap().notes;
    assert!(
        notes.contains("bad: is null")
            && notes.contains("later: has an unknown field: `token_limits`"),
        "{notes}"
    );
    place.run("revoke bad").await.unwrap();
    assert!(!place.text().contains("\"bad\""));
}

#[tokio::test]
async fn a_link_stays_a_link_and_leftovers_do_not_hinder() {
    let place = Folder::with("{}");
    let link = place.directory.path().join("link.json");
    std::os::unix::fs::symlink(&place.path, &link).unwrap();
    fs::write(place.path.with_file_name(".keys.json.tmp"), "half of a wr").unwrap();
    let key = run_on(&link, "add ci").await.unwrap().out;
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(place.takes(key.trim()));
}
