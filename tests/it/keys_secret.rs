//! `tollgate keys` on a secret, as its users run it: real processes against a Secret Manager that
//! enforces etags and quotas. Whatever stands in the way, no writer's change is lost.

mod bench;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::Value;
use tokio::task::JoinSet;

use super::fakes::google::secret_manager::{Call, Kind, Order};
use bench::{Bench, end, finish, signal};

const OLD: &str = r#"{"old":   "sk-old-0123456789abcdef"}"#;
/// What somebody does who knows nothing of the lock.
fn add_by_hand(payload: &str) -> String {
    let mut entries: Value = serde_json::from_str(payload).expect("JSON");
    entries["by-hand"] = "sk-by-hand-0123456789abcdef".into();
    entries.to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_writers_a_dead_one_and_a_stranger_lose_nothing() {
    const WRITERS: usize = 20;
    let bench = Bench::new().await;
    let mut doomed = bench.hold().await;
    let began_at = Instant::now();
    doomed.kill().expect("killed");
    doomed.wait().expect("gone");
    let mut writers = JoinSet::new();
    for n in 0..WRITERS {
        let command = bench.command(&format!("add n{n}"));
        writers.spawn(async move { (format!("n{n}"), finish(command).await) });
    }
    let seventh = |calls: &[Call]| additions(calls) >= 7;
    bench.server.wait_for(seventh).await;
    bench
        .server
        .next(Kind::AddVersion, Order::After(add_by_hand));
    let results = writers.join_all().await;
    for (name, shown) in &results {
        assert_eq!(shown.code, Some(0), "{name}: {shown:?}");
        bench.assert_key(name, shown);
    }
    let mut expected: BTreeSet<String> = (0..WRITERS).map(|n| format!("n{n}")).collect();
    expected.extend(["old".to_owned(), "by-hand".to_owned()]);
    assert_eq!(bench.names(), expected);
    assert!(bench.lock().is_null(), "the lock was let go");
    assert!(
        bench
            .server
            .payload("p", "s")
            .contains("sk-old-0123456789abcdef")
    );
    let calls = bench.server.calls();
    let refused = calls.iter().filter(|call| call.status == Some(429)).count();
    println!(
        "{WRITERS} writers, one dead, one stranger: {:.1} s, {} versions, {} calls ({} reads of the lock), {refused} over the quota",
        began_at.elapsed().as_secs_f64(),
        bench.server.versions("p", "s"),
        calls.len(),
        bench.server.count(Kind::Get),
    );
    // What Google allows a project in a minute.
    assert!(bench.server.count(Kind::Get) <= 600);
    assert!(bench.server.count(Kind::Patch) + bench.server.count(Kind::AddVersion) <= 600);
    // The first version, one for each writer, the stranger's, and one more on top of that.
    assert_eq!(bench.server.versions("p", "s"), 1 + 20 + 2);
}

/// The versions that were added by calls.
fn additions(calls: &[Call]) -> usize {
    let added = |call: &&Call| call.kind == Some(Kind::AddVersion) && call.status == Some(200);
    calls.iter().filter(added).count()
}

#[tokio::test]
async fn an_addition_whose_answer_is_lost_is_not_made_twice() {
    let orders = [
        Order::Drop,
        Order::Mute,
        Order::Swallow,
        Order::Html(502),
        Order::Refuse(503),
    ];
    let cases = orders.map(async |order| {
        let bench = Bench::new().await;
        bench.server.next(Kind::AddVersion, order.clone());
        let shown = bench.run("add ci").await;
        assert_eq!(shown.code, Some(0), "{order:?}: {shown:?}");
        bench.assert_key("ci", &shown);
        assert_eq!(bench.server.versions("p", "s"), 2, "{order:?}");
        assert!(bench.lock().is_null());
    });
    join_all(cases).await;
}

#[tokio::test]
async fn a_replica_that_lags_behind_costs_nobody_a_key() {
    let bench = Bench::new().await;
    bench.run("add one").await;
    bench
        .server
        .put("p", "s", &add_by_hand(&bench.server.payload("p", "s")));
    for (stale, name) in [(1, "two"), (2, "three")] {
        bench.server.serve_stale(Some(stale));
        let shown = bench.run(&format!("add {name}")).await;
        assert_eq!(shown.code, Some(0), "{shown:?}");
        bench.assert_key(name, &shown);
    }
    // The second change began from what the first one left, and was made once.
    assert_eq!(bench.server.versions("p", "s"), 6);
    let expected = ["by-hand", "old", "one", "three", "two"].map(str::to_owned);
    assert_eq!(bench.names(), BTreeSet::from(expected));
}

#[tokio::test]
async fn a_change_that_a_stranger_made_impossible_gives_way_to_it() {
    let bench = Bench::new().await;
    let taken = |payload: &str| add_by_hand(payload).replace("by-hand\"", "ci\"");
    bench.server.next(Kind::AddVersion, Order::After(taken));
    let shown = bench.run("add ci").await;
    assert_eq!((shown.code, shown.out.as_str()), (Some(1), ""), "{shown:?}");
    assert!(
        shown.notes.contains("there is a key named ci already"),
        "{shown:?}"
    );
    assert_eq!(bench.payload()["ci"], "sk-by-hand-0123456789abcdef");
}

#[tokio::test]
async fn quotas_outages_and_damage_on_the_way_pass() {
    let bench = Bench::new().await;
    bench.server.fail_next(Kind::AddVersion, 2, 429);
    bench.server.fail_next(Kind::Get, 1, 503);
    bench.server.fail_next(Kind::Patch, 1, 500);
    bench.server.fail_next(Kind::Access, 1, 503);
    bench.server.next(Kind::Patch, Order::Drop);
    let shown = bench.run("add ci").await;
    assert_eq!(shown.code, Some(0), "{shown:?}");
    bench.assert_key("ci", &shown);
    bench.server.spoil_checksums(true);
    let reads = bench.server.count(Kind::Access);
    let waiting = tokio::spawn(finish(bench.command("add later")));
    // What came damaged is asked for again, and nothing is made of it.
    let read_again = |calls: &[Call]| {
        let is_read = |call: &&Call| call.kind == Some(Kind::Access);
        calls.iter().filter(is_read).count() > reads + 1
    };
    bench.server.wait_for(read_again).await;
    assert_eq!(bench.server.versions("p", "s"), 2);
    bench.server.spoil_checksums(false);
    let shown = waiting.await.expect("an end");
    assert_eq!(shown.code, Some(0), "{shown:?}");
    bench.assert_key("later", &shown);
    assert_eq!(bench.server.versions("p", "s"), 3);
}

#[tokio::test]
async fn keys_are_added_listed_rotated_and_revoked() {
    let bench = Bench::new().await;
    let added = bench.run("add ci --admin --label team=ml").await;
    bench.assert_key("ci", &added);
    assert!(
        added.notes.contains("the secret projects/p/secrets/s"),
        "{added:?}"
    );
    assert!(added.notes.contains("within 10 s"), "{added:?}");
    let listed = bench.run("list").await;
    assert!(
        listed.out.contains("old") && listed.out.contains("ci"),
        "{listed:?}"
    );
    let rotated = bench.run("rotate ci --grace 1h").await;
    bench.assert_key("ci", &rotated);
    assert_eq!(
        bench.payload()["ci"]["previous"].as_array().map(Vec::len),
        Some(1)
    );
    assert!(
        bench
            .server
            .payload("p", "s")
            .contains(r#""old": "sk-old-0123456789abcdef""#)
    );
    let revoked = bench.run("revoke ci").await;
    assert_eq!((revoked.code, revoked.out.as_str()), (Some(0), ""));
    assert!(revoked.notes.contains("KEY_REFRESH_SECONDS"), "{revoked:?}");
    assert_eq!(
        bench.server.payload("p", "s"),
        "{\n  \"old\": \"sk-old-0123456789abcdef\"\n}\n"
    );
    let again = bench.run("revoke ci").await;
    assert_eq!(again.code, Some(1));
    assert!(again.notes.contains("no key named ci"), "{again:?}");
    assert_eq!(bench.server.versions("p", "s"), 4);
    assert!(bench.lock().is_null());
}

#[tokio::test]
async fn without_flags_the_secret_of_the_gateway_is_meant() {
    let bench = Bench::new().await;
    let mut command = bench.bare("add ci");
    command.envs([("API_KEYS_SECRET_NAME", "s"), ("GCP_PROJECT", "p")]);
    let shown = finish(command).await;
    bench.assert_key("ci", &shown);
    let mut command = bench.bare("add two --secret s");
    command.env("GOOGLE_CLOUD_PROJECT", "p");
    let shown = finish(command).await;
    bench.assert_key("two", &shown);
    let mut command = bench.bare("add three");
    command.env("API_KEYS_SECRET_NAME", "projects/p/secrets/s/versions/1");
    let shown = finish(command).await;
    assert_eq!(shown.code, Some(1));
    assert!(shown.notes.contains("reads version 1"), "{shown:?}");
    let mut command = bench.bare("list");
    command.env("API_KEYS_SECRET_NAME", "projects/p/secrets/s/versions/1");
    let shown = finish(command).await;
    assert!(
        shown.out.contains("old") && !shown.out.contains("ci"),
        "{shown:?}"
    );
    let shown = finish(bench.bare("add ci --secret s --file keys.json")).await;
    assert_eq!(shown.code, Some(64), "{shown:?}");
}

#[tokio::test]
async fn a_missing_secret_is_made_when_that_is_asked() {
    let bench = Bench::empty().await;
    for line in ["add ci", "list", "rotate ci", "revoke ci"] {
        let shown = bench.run(line).await;
        assert_eq!((shown.code, shown.out.as_str()), (Some(1), ""), "{line}");
        let words = "the secret projects/p/secrets/s does not exist";
        assert!(
            shown.notes.contains(words) && shown.notes.contains("--create"),
            "{shown:?}"
        );
    }
    assert_eq!(bench.server.count(Kind::Create), 0);
    let shown = bench.run("add ci --create").await;
    assert_eq!(shown.code, Some(0), "{shown:?}");
    bench.assert_key("ci", &shown);
    assert!(
        shown.notes.contains("secretmanager.secretAccessor"),
        "{shown:?}"
    );
    let secret = bench.server.secret("p", "s");
    assert_eq!(secret["labels"]["application"], "tollgate");
    assert!(secret["replication"]["automatic"].is_object(), "{secret}");
    let shown = bench.run("add two --create").await;
    bench.assert_key("two", &shown);
    assert_eq!(bench.server.count(Kind::Create), 1);
}

#[tokio::test]
async fn what_cannot_be_done_is_said_and_changes_nothing() {
    let bench = Bench::new().await;
    let cases: [(Kind, Order, &str); 3] = [
        (Kind::Access, Order::Deny, "secretmanager.versions.access"),
        (Kind::Patch, Order::Deny, "roles/secretmanager.admin"),
        (Kind::AddVersion, Order::Deny, "secretmanager.versions.add"),
    ];
    for (kind, order, words) in cases {
        bench.server.next(kind, order);
        let shown = bench.run("add ci").await;
        assert_eq!((shown.code, shown.out.as_str()), (Some(1), ""), "{kind:?}");
        assert!(shown.notes.contains(words), "{shown:?}");
        assert!(shown.notes.contains("nothing was changed"), "{shown:?}");
    }
    bench
        .server
        .put("p", "s", "{\"newest\": \"sk-newest-0123456789\"}");
    bench.server.disable("p", "s", 2);
    let shown = bench.run("add ci").await;
    assert_eq!((shown.code, shown.out.as_str()), (Some(1), ""));
    assert!(shown.notes.contains("disabled"), "{shown:?}");
    assert_eq!(bench.server.versions("p", "s"), 2);
    bench.server.enable("p", "s", 2);
    bench.assert_key("ci", &bench.run("add ci").await);
    bench.server.put("p", "s", "[] sk-not-a-key-set");
    let shown = bench.run("add ci").await;
    assert_eq!((shown.code, shown.out.as_str()), (Some(1), ""));
    assert!(!shown.notes.contains("sk-not"), "{shown:?}");
    assert_eq!(bench.server.versions("p", "s"), 4);
    assert!(bench.lock().is_null(), "the lock was let go");
}

#[tokio::test]
async fn a_secret_that_fills_up_is_told_of_before_it_is_full() {
    let entry = |n: usize| format!("\"k{n}\": \"sk-{n:0>60}\"");
    let entries: Vec<String> = (0..790).map(entry).collect();
    let bench = Bench::with(&format!("{{{}}}", entries.join(","))).await;
    let near = bench.run("add ci").await;
    bench.assert_key("ci", &near);
    let bytes = bench.server.payload("p", "s").len();
    assert!((56 << 10..64 << 10).contains(&bytes), "{bytes}");
    assert!(
        near.notes.contains(&format!("has {bytes} bytes")),
        "{near:?}"
    );
    let entries: Vec<String> = (0..870).map(entry).collect();
    let bench = Bench::with(&format!("{{{}}}", entries.join(","))).await;
    let full = bench.run("add ci").await;
    assert_eq!((full.code, full.out.as_str()), (Some(1), ""), "{full:?}");
    assert!(full.notes.contains("at most 65536"), "{full:?}");
    assert_eq!(bench.server.versions("p", "s"), 1);
}

#[tokio::test]
async fn a_signal_to_end_leaves_no_lock_and_no_change() {
    let bench = Bench::new().await;
    let holder = bench.hold().await;
    let asked = bench.server.count(Kind::Get);
    let waiting = bench.command("add waiting").spawn().expect("a writer");
    let waits = |calls: &[Call]| {
        let is_get = |call: &&Call| call.kind == Some(Kind::Get);
        calls.iter().filter(is_get).count() > asked + 1
    };
    bench.server.wait_for(waits).await;
    signal(&waiting, "INT");
    let shown = end(waiting).await;
    assert_eq!((shown.code, shown.out.as_str()), (Some(1), ""), "{shown:?}");
    assert!(shown.notes.contains("nothing was changed"), "{shown:?}");
    assert!(
        bench.lock().is_string(),
        "the lock of another is left alone"
    );
    let began_at = Instant::now();
    signal(&holder, "TERM");
    let shown = end(holder).await;
    assert_eq!((shown.code, shown.out.as_str()), (Some(1), ""), "{shown:?}");
    assert!(bench.lock().is_null());
    assert_eq!(bench.server.versions("p", "s"), 1);
    assert_eq!(bench.run("add ci").await.code, Some(0));
    assert!(
        began_at.elapsed() < Duration::from_secs(10),
        "nobody waits for a lease to end"
    );
}

#[tokio::test]
async fn a_writer_that_was_frozen_for_longer_than_the_lease_harms_nobody() {
    let bench = Bench::new().await;
    let frozen = bench.hold().await;
    signal(&frozen, "STOP");
    let shown = bench.run("add ci").await;
    assert_eq!(shown.code, Some(0), "{shown:?}");
    assert!(shown.notes.contains("waiting for"), "{shown:?}");
    bench.assert_key("ci", &shown);
    signal(&frozen, "CONT");
    let shown = end(frozen).await;
    assert_eq!((shown.code, shown.out.as_str()), (Some(1), ""), "{shown:?}");
    assert!(shown.notes.contains("nothing was changed"), "{shown:?}");
    assert_eq!(bench.server.versions("p", "s"), 2);
    assert!(bench.lock().is_null());
}
