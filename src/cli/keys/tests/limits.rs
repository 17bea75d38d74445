//! Limits of keys: flags in, the key set and the list out.

use super::*;

#[tokio::test]
async fn limits_are_written_listed_and_kept_by_a_rotation() {
    let place = Folder::new();
    let line = "add ci --token-limit 5000000 --period month --requests-per-minute 600 --tokens-per-minute 200000 --max-concurrent 8 --no-wake --dry-run";
    place.run(line).await.unwrap();
    place.run("add total --token-limit 7").await.unwrap();
    place.run("rotate ci").await.unwrap();
    let table = place.run("list").await.unwrap().out;
    let words =
        "5000000 tokens month, 600 requests/min, 200000 tokens/min, 8 at once, dry run, no wake";
    assert!(
        table.contains(words) && table.contains("7 tokens total\n"),
        "{table}"
    );
    let list = place.run("list --json").await.unwrap().out;
    let list: Value = serde_json::from_str(&list).unwrap();
    let said = [
        ("token_limit", json!(5_000_000)),
        ("period", json!("month")),
        ("requests_per_minute", json!(600)),
        ("tokens_per_minute", json!(200_000)),
        ("max_concurrent", json!(8)),
        ("dry_run", json!(true)),
        ("wake", json!(false)),
    ];
    let written: Value = serde_json::from_str(&place.text()).unwrap();
    for (field, value) in said {
        assert_eq!(
            (&list[0][field], &written["ci"][field]),
            (&value, &value),
            "{field}"
        );
    }
    assert_eq!(list[1]["period"], "total");
    assert_eq!(written["total"].as_object().unwrap().len(), 2);
}

#[tokio::test]
async fn a_token_limit_that_the_configuration_at_hand_cannot_hold_is_told_of() {
    let place = Folder::new();
    let note = async |line: &str, database: Database| {
        let line = format!("add {line}");
        let args = Cli::try_parse_from(std::iter::once("keys").chain(line.split_whitespace()));
        let (mut out, mut notes) = (Vec::new(), Vec::new());
        let paths = Paths {
            database,
            ..paths(&place.path)
        };
        execute(args.unwrap().keys, &paths, &mut out, &mut notes)
            .await
            .unwrap();
        String::from_utf8(notes)
            .unwrap()
            .contains("DATABASE_URL is none here")
    };
    assert!(note("a --token-limit 5", Database::None).await);
    assert!(!note("b --requests-per-minute 5", Database::None).await);
    assert!(!note("c --token-limit 5", Database::Sqlite(PathBuf::new())).await);
    // Whose file this is, nobody knows.
    let other = format!("d --token-limit 5 --file {}", place.path.display());
    assert!(!note(&other, Database::None).await);
}
