//! What the log says of budgets that run low.

use std::fmt::Debug;

use tracing::field::{Field, Visit};
use tracing::subscriber::DefaultGuard;
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

use super::*;

/// Messages of the log with their shares.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<(String, u64)>>>);

impl Heard {
    fn listen(&self) -> DefaultGuard {
        tracing::subscriber::set_default(tracing_subscriber::registry().with(self.clone()))
    }

    fn take(&self) -> Vec<(String, u64)> {
        std::mem::take(&mut lock(&self.0))
    }
}

impl<S: Subscriber> Layer<S> for Heard {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        if line.message.starts_with("token budget ") {
            lock(&self.0).push((line.message, line.percent));
        }
    }
}

#[derive(Default)]
struct Line {
    message: String,
    percent: u64,
}

impl Visit for Line {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "percent" {
            self.percent = value;
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.record_u64(field, u64::try_from(value).unwrap_or(0));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        }
    }
}

fn low() -> (String, u64) {
    ("token budget runs low".to_owned(), 80)
}

fn used_up() -> (String, u64) {
    ("token budget is used up".to_owned(), 100)
}

#[tokio::test(start_paused = true)]
async fn each_share_of_a_limit_is_told_of_once() {
    let heard = Heard::default();
    let _listening = heard.listen();
    let bench = Bench::new();
    for (charge, expected) in [(700, vec![]), (200, vec![low()]), (90, vec![])] {
        bench.get(1_000, charge).await.settle(used(charge));
        sleep(seconds(5)).await;
        assert_eq!(heard.take(), expected, "{charge} more were used");
    }
    // Ten are left, and nobody can use them.
    for expected in [vec![used_up()], vec![]] {
        let refused = bench.reserve(1_000, (50, 50), PATIENCE).await.err();
        assert!(matches!(refused, Some(Refused::UsedUp)), "{refused:?}");
        sleep(seconds(5)).await;
        assert_eq!(heard.take(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_watched_limit_tells_too() {
    let heard = Heard::default();
    let _listening = heard.listen();
    let bench = Bench::new();
    let watched = Allowance {
        dry_run: true,
        ..allowance(1_000)
    };
    for (charge, expected) in [(900, vec![low()]), (900, vec![used_up()]), (900, vec![])] {
        let call = bench
            .budgets
            .reserve(&watched, NINE_HUNDRED, PATIENCE)
            .await;
        call.expect("nobody is refused").settle(used(charge));
        sleep(seconds(5)).await;
        assert_eq!(heard.take(), expected);
    }
}
