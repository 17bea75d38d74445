//! Reports are sums of the table.

use super::*;

#[tokio::test]
async fn sums_are_grouped_ordered_and_cut_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let store = UsageTable::open(&directory.path().join(FILE_NAME))
        .await
        .unwrap();
    let team = |name: &str| json!([{"key": "env", "value": "x"}, {"key": "team", "value": name}]);
    let batch = [
        row(
            "1",
            &json!({"started_at": "2026-11-01T23:59:59.999999Z", "key_name": "b", "labels": team("ml")}),
        ),
        row(
            "2",
            &json!({"started_at": "2026-11-02T00:00:00.000000Z", "key_name": "a", "labels": team("ml")}),
        ),
        row(
            "3",
            &json!({"key_name": null, "username": "ann", "model": null, "total_tokens": 500}),
        ),
        row(
            "4",
            &json!({"key_name": "a", "model": "", "outcome": "client_abort", "status": 499}),
        ),
        row(
            "5",
            &json!({"key_name": "a", "outcome": "timeout", "error_code": "upstream_timeout"}),
        ),
        row("6", &json!({"key_name": "a", "status": 400, "woke": true})),
        row(
            "7",
            &json!({"key_name": "a", "outcome": "drained", "woke": null}),
        ),
    ];
    store.insert_usage(&batch).await.unwrap();

    let some = |name: &str, requests| (Some(name.to_owned()), requests);
    assert_eq!(
        names(&store, Grouping::Key).await,
        [(None, 1), some("a", 5), some("b", 1)]
    );
    assert_eq!(
        names(&store, Grouping::User).await,
        [some("ann", 1), (None, 6)]
    );
    assert_eq!(
        names(&store, Grouping::Model).await,
        [some("vendor/small", 2), some("small", 5)]
    );
    assert_eq!(
        names(&store, Grouping::Day).await,
        [some("2026-11-01", 1), some("2026-11-02", 6)]
    );
    assert_eq!(
        names(&store, Grouping::Label("team".into())).await,
        [(None, 5), some("ml", 2)]
    );

    let second_day = 1_793_577_600_000_000;
    let since = store.sum_usage(&Grouping::Key, second_day).await.unwrap();
    let wanted = Totals {
        name: Some("a".into()),
        requests: 5,
        prompt_tokens: 50,
        cached_tokens: 20,
        completion_tokens: 10,
        total_tokens: 60,
        errors: 3,
        wakes: 1,
    };
    assert_eq!(since[1], wanted);
    assert_eq!(since.len(), 2);
    assert_eq!(
        store
            .sum_usage(&Grouping::Key, second_day + 1)
            .await
            .unwrap()[1]
            .requests,
        4
    );
}

#[tokio::test]
async fn a_file_of_a_release_that_knew_no_wakes_is_summed_and_brought_up_to_date() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(FILE_NAME);
    let store = UsageTable::open(&path).await.unwrap();
    store.insert_usage(&[row("1", &json!({}))]).await.unwrap();
    for old in [
        "ALTER TABLE usage DROP COLUMN woke",
        "DELETE FROM _sqlx_migrations WHERE version = 3",
    ] {
        sqlx::query(old).execute(&store.pool).await.unwrap();
    }
    store.close().await;
    let store = UsageTable::open_read_only(&path).await.unwrap();
    for by in [Grouping::Key, Grouping::Label("team".into())] {
        let sums = store.sum_usage(&by, 0).await.unwrap();
        assert_eq!((sums[0].requests, sums[0].wakes), (1, 0));
    }
    store.close().await;
    let store = UsageTable::open(&path).await.unwrap();
    let woke = row("2", &json!({"woke": true}));
    store.insert_usage(&[woke]).await.unwrap();
    let sums = store.sum_usage(&Grouping::Key, 0).await.unwrap();
    assert_eq!((sums[0].requests, sums[0].wakes), (2, 1));
}
