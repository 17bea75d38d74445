//! BigQuery down, slow, mute or in error, for a while or while the process ends.

use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::bench::{Bench, DATASET, Figures, PROJECT, TABLE, resource_without, text};
use crate::fakes::google::bigquery::{BigQuery, Fault, Lags, Operation, Refusal, RowRefusal};
use crate::fakes::model_server::Behaviour;
use crate::harness::KEY;

/// What BigQuery does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Down,
    Late,
    Mute,
    Html,
    Unreadable,
    /// Rows are taken and the answer is lost.
    Lost,
    TooMany,
    RateLimit,
    Quota,
    Unavailable,
    TimedOut,
    NoSuchToken,
    /// As while inserts have not heard of the table.
    NotFound,
    /// Each row is refused for a reason that passes.
    RowsBusy,
    Denied,
    NoSuchField,
}

const ALL: [Trouble; 16] = [
    Trouble::Down,
    Trouble::Late,
    Trouble::Mute,
    Trouble::Html,
    Trouble::Unreadable,
    Trouble::Lost,
    Trouble::TooMany,
    Trouble::RateLimit,
    Trouble::Quota,
    Trouble::Unavailable,
    Trouble::TimedOut,
    Trouble::NoSuchToken,
    Trouble::NotFound,
    Trouble::RowsBusy,
    Trouble::Denied,
    Trouble::NoSuchField,
];

/// Slower than the pauses between streams and their cut.
const LATE: Duration = Duration::from_millis(2_500);

impl Trouble {
    async fn begin(self, bigquery: &mut BigQuery) {
        let refuse = |status, reason: &str| Fault::Refuse(Refusal::new(status, reason, "no"));
        let fault = match self {
            Self::Down => return bigquery.stop().await,
            Self::RowsBusy | Self::NoSuchField => {
                let (reason, message) = match self {
                    Self::RowsBusy => ("backendError", ""),
                    _ => ("invalid", "no such field: labels."),
                };
                return bigquery.refuse_rows(move |_| {
                    Some(RowRefusal {
                        reason: reason.to_owned(),
                        message: message.to_owned(),
                    })
                });
            }
            Self::Late => Fault::Late(LATE),
            Self::Mute => Fault::Never,
            Self::Html => Fault::Html,
            Self::Unreadable => Fault::Unreadable,
            Self::Lost => {
                // BigQuery promises to know an insert id again, as well as it can.
                bigquery.remember_insert_ids(Duration::ZERO);
                Fault::Lost
            }
            Self::TooMany => Fault::Refuse(Refusal::too_many()),
            Self::RateLimit => Fault::Refuse(Refusal::rate_limit()),
            Self::Quota => refuse(403, "quotaExceeded"),
            Self::Unavailable => Fault::Refuse(Refusal::unavailable()),
            Self::TimedOut => refuse(408, "timeout"),
            Self::NoSuchToken => Fault::Refuse(Refusal::unauthenticated()),
            Self::NotFound => Fault::Refuse(Refusal::not_found("Not found: Table usage")),
            Self::Denied => Fault::Refuse(Refusal::denied("Access Denied: Table usage")),
        };
        bigquery.always(Operation::InsertAll, fault);
    }

    async fn end(self, bigquery: &mut BigQuery) {
        bigquery.recover();
        if self == Self::Down {
            bigquery.resume().await;
        }
    }

    /// Whether rows can get through at all.
    fn lets_rows_in(self) -> bool {
        matches!(
            self,
            Self::Late | Self::Mute | Self::Unreadable | Self::Lost
        )
    }
}

/// BigQuery is well, then it is not, then it is well again.
async fn while_serving(trouble: Trouble) -> Figures {
    let mut bench = Bench::new(&[]).await;
    bench.call(5).await;
    bench.until_in_table(5).await;
    let before = bench.bigquery.calls_of(Operation::InsertAll).len();
    trouble.begin(&mut bench.bigquery).await;
    bench.call(5).await;
    match trouble {
        // One that is never answered is sent again only after twenty seconds.
        Trouble::Down | Trouble::Mute => drop(bench.status().await),
        _ => bench.until_sent(before + 1).await,
    }
    bench.call(5).await;
    if trouble != Trouble::Late && trouble != Trouble::Mute {
        bench.until_failing("").await;
    }
    trouble.end(&mut bench.bigquery).await;
    bench.call(5).await;
    if trouble == Trouble::Mute {
        assert_eq!(bench.gate.stop().await.code(), Some(0));
    }
    bench.until_in_table(20).await;
    bench.figures().await
}

/// BigQuery is not well when the process is told to end.
async fn while_ending(trouble: Trouble) -> Figures {
    let mut bench = Bench::new(&[("DRAIN_SECONDS", "4")]).await;
    bench.call(5).await;
    bench.until_in_table(5).await;
    let before = bench.bigquery.calls_of(Operation::InsertAll).len();
    trouble.begin(&mut bench.bigquery).await;
    bench.call(5).await;
    if trouble != Trouble::Down {
        bench
            .until_sent(before + usize::from(trouble != Trouble::Mute))
            .await;
    }
    bench.call(5).await;
    let began = Instant::now();
    assert_eq!(bench.gate.stop().await.code(), Some(0));
    let took = began.elapsed();
    assert!(took < Duration::from_secs(5), "{trouble:?} {took:?}");
    let figures = bench.figures().await;
    let left: u64 = bench
        .told("not acknowledged in time")
        .iter()
        .filter_map(|line| line["left"].as_u64())
        .sum();
    assert_eq!(bench.alarms().is_empty(), left == 0, "{trouble:?}");
    // What the gateway does not know to be written it says it does not know.
    let unknown = usize::try_from(left).expect("a count");
    assert!(
        unknown >= figures.in_log_only,
        "{trouble:?} {left} {figures:?}"
    );
    if trouble == Trouble::Late {
        assert_eq!(figures.in_log_only, 0, "{figures:?}");
    } else if !trouble.lets_rows_in() {
        assert_eq!(figures.in_log_only, 10, "{trouble:?} {figures:?}");
    }
    figures
}

fn print(when: &str, figures: &[(Trouble, Figures)]) {
    println!("{when}: trouble, calls admitted, in the table, twice there, in the log only");
    for (trouble, figures) in figures {
        let Figures {
            admitted,
            in_table,
            duplicates,
            in_log_only,
        } = figures;
        println!("  {trouble:?}: {admitted} {in_table} {duplicates} {in_log_only}");
    }
}

#[tokio::test]
async fn bigquery_comes_back_and_every_call_is_in_the_table() {
    let mut all = Vec::new();
    for some in ALL.chunks(4) {
        let runs = some
            .iter()
            .map(|&trouble| async move { (trouble, while_serving(trouble).await) });
        all.extend(join_all(runs).await);
    }
    print("for a while", &all);
    for (trouble, figures) in &all {
        assert_eq!(figures.in_log_only, 0, "{trouble:?}");
    }
}

#[tokio::test]
async fn the_end_comes_first_and_every_call_is_in_the_table_or_in_the_log() {
    let mut all = Vec::new();
    for some in ALL.chunks(4) {
        let runs = some
            .iter()
            .map(|&trouble| async move { (trouble, while_ending(trouble).await) });
        all.extend(join_all(runs).await);
    }
    print("at the end", &all);
}

#[tokio::test]
async fn one_trouble_after_another_and_then_the_end_loses_no_call() {
    let mut bench = Bench::new(&[("DRAIN_SECONDS", "4")]).await;
    for trouble in ALL {
        trouble.begin(&mut bench.bigquery).await;
        bench.call(40).await;
        trouble.end(&mut bench.bigquery).await;
        bench.call(10).await;
    }
    // In the middle of it the answers get lost, and the process is told to end.
    Trouble::Lost.begin(&mut bench.bigquery).await;
    bench.call(100).await;
    assert_eq!(bench.gate.stop().await.code(), Some(0));
    let figures = bench.figures().await;
    println!("one after another: {figures:?}");
    assert_eq!((figures.admitted, figures.in_log_only), (900, 0));
}

#[tokio::test]
async fn a_stream_that_is_cut_at_the_end_still_reaches_a_slow_table() {
    let mut bench = Bench::new(&[("DRAIN_SECONDS", "5")]).await;
    bench
        .bigquery
        .always(Operation::InsertAll, Fault::Late(LATE));
    let long = Behaviour::tokens(400).paced(Duration::from_millis(100));
    bench.model_server.next(long);
    let mut wire = bench.gate.wire().await;
    let headers = [("x-api-key", KEY), ("content-type", "application/json")];
    let body = br#"{"stream":true,"max_tokens":400,"messages":[{"role":"user","content":"x"}]}"#;
    wire.send("POST /v1/chat/completions", &headers, body)
        .await
        .expect("sent");
    let head = wire.head().await.expect("a head");
    let id = head.headers["x-request-id"].to_str().expect("an id");
    bench.admitted.insert(id.to_owned());
    assert_eq!(bench.gate.stop().await.code(), Some(0));
    assert_eq!(bench.gate.rows(1).await[0]["outcome"], "drained");
    let figures = bench.figures().await;
    assert_eq!((figures.in_table, figures.in_log_only), (1, 0));
}

#[tokio::test]
async fn a_bad_row_is_told_whole_and_the_others_are_written() {
    let mut bench = Bench::new(&[]).await;
    bench.bigquery.refuse_rows(|row| {
        let is_bad = text(&row["client"]) == "bad";
        is_bad.then(|| RowRefusal {
            reason: "invalid".to_owned(),
            message: "this row is bad".to_owned(),
        })
    });
    bench
        .bigquery
        .next(Operation::InsertAll, Fault::Refuse(Refusal::unavailable()));
    bench.call(6).await;
    let body = br#"{"max_tokens":5,"messages":[{"role":"user","content":"x"}]}"#;
    let headers = [
        ("content-type", "application/json"),
        ("user-agent", "bad/1"),
    ];
    let reply = bench
        .gate
        .ask("POST /v1/chat/completions", &headers, body)
        .await;
    let id = reply.header("x-request-id").to_owned();
    bench.call(6).await;
    bench.until_in_table(12).await;
    let told = bench.told_once("refused for good").await;
    assert_eq!(text(&told["severity"]), "ERROR");
    assert_eq!(text(&told["usage"]["request_id"]), id);
    assert!(text(&told["reason"]).contains("this row is bad"));
    assert_eq!(bench.alarms().len(), 1);
    let logged = bench.gate.rows(13).await;
    let logged = logged.iter().find(|row| text(&row["request_id"]) == id);
    assert_eq!(logged, Some(&told["usage"]), "all columns");
    let status = bench.status().await;
    assert_eq!(
        (&status["written"], &status["invalid"]),
        (&12.into(), &1.into())
    );
    assert_eq!(
        (&status["waiting"], &status["lost"]),
        (&0.into(), &0.into())
    );
    assert!(bench.metric("tollgate_rows_invalid_total").await > 0.5);
    assert!(
        bench
            .metric("tollgate_row_writes_total{outcome=\"failed\"}")
            .await
            > 0.5
    );
}

#[tokio::test]
async fn a_row_is_in_the_table_within_a_second_with_every_column_of_its_line() {
    let mut bench = Bench::new(&[("LABELS", "team=ml-platform,cost-center=e1")]).await;
    for calls in 1..=3 {
        bench.call(1).await;
        let began = Instant::now();
        bench.until_in_table(calls).await;
        let took = began.elapsed();
        assert!(took < Duration::from_secs(1), "{took:?}");
    }
    let logged = bench.gate.rows(3).await;
    let stored = bench.bigquery.rows(PROJECT, DATASET, TABLE);
    assert_eq!(stored, logged);
    // By an id that BigQuery knows again.
    for call in bench.bigquery.calls_of(Operation::InsertAll) {
        let rows = call.body["rows"].as_array().expect("rows");
        assert!(
            rows.iter()
                .all(|row| row["insertId"] == row["json"]["request_id"])
        );
    }
    assert!(
        bench
            .metric("tollgate_rows_last_written_timestamp_seconds")
            .await
            > 1.7e9
    );
}

#[tokio::test]
async fn rows_that_inserts_do_not_know_the_columns_of_wait_for_them() {
    let bigquery = BigQuery::with_dataset(PROJECT, DATASET).await;
    bigquery.make_table(
        PROJECT,
        DATASET,
        &resource_without(&["labels", "client", "region"]),
    );
    bigquery.lag(Lags {
        column_missing: Duration::from_secs(3),
        ..Lags::default()
    });
    let mut bench = Bench::before(bigquery, &[]).await;
    bench.call(5).await;
    bench.until_failing("no such field").await;
    bench.until_in_table(5).await;
    let figures = bench.figures().await;
    assert_eq!((figures.in_log_only, figures.duplicates), (0, 0));
    let fields = bench
        .bigquery
        .table(PROJECT, DATASET, TABLE)
        .expect("a table");
    let fields = fields["schema"]["fields"]
        .as_array()
        .expect("columns")
        .clone();
    let mode = |name: &str| {
        let field = fields.iter().find(|field| text(&field["name"]) == name);
        text(&field.expect("the column")["mode"])
    };
    assert_eq!(
        [mode("region"), mode("client"), mode("labels")],
        ["NULLABLE", "NULLABLE", "REPEATED"]
    );
}
