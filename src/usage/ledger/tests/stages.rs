//! The ledger's times and counts, with a sink on a stage and the clock stopped.

use std::collections::BTreeSet;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::staged::{Act, Seen, Stage};
use super::*;
use crate::google::Prepared;

struct Play {
    ledger: Arc<Ledger>,
    stage: Stage,
}

impl Play {
    fn of(acts: impl IntoIterator<Item = Act>) -> Self {
        let stage = Stage::new(acts);
        let sink = Sink::Staged(stage.clone());
        let ledger = Arc::new(Ledger::with_sink(sink, origin()));
        Self { ledger, stage }
    }

    fn on_a_new_table() -> Self {
        let play = Self::of([]);
        play.stage.prepares([Ok(Prepared {
            new_for: Some(Duration::from_mins(5)),
            note: None,
        })]);
        play
    }

    fn start(&self) -> JoinHandle<()> {
        let ledger = Arc::clone(&self.ledger);
        tokio::spawn(async move { ledger.run().await })
    }

    fn settle(&self, ids: std::ops::Range<usize>) {
        for id in ids {
            self.ledger.settle(&record(&id.to_string()));
        }
    }

    /// How often the sink was asked, in milliseconds since the beginning.
    fn times(&self) -> Vec<u128> {
        self.stage.seen().iter().map(|seen| seen.at_ms).collect()
    }

    fn taken(&self) -> BTreeSet<usize> {
        let taken = self.stage.taken();
        taken.iter().map(|id| id.parse().unwrap()).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn rows_gather_for_a_fifth_of_a_second_or_until_a_batch_is_full() {
    let play = Play::of([]);
    let running = play.start();
    play.settle(0..1);
    sleep(Duration::from_millis(100)).await;
    play.settle(1..3);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(
        play.stage.seen(),
        [Seen {
            at_ms: 200,
            rows: 3
        }]
    );
    play.settle(3..3 + BATCH_ROWS);
    sleep(Duration::from_millis(2)).await;
    assert_eq!(play.stage.seen()[1].rows, BATCH_ROWS);
    play.ledger.drain(Duration::from_secs(1)).await;
    running.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_slow_sink_gets_four_writes_at_once() {
    let play = Play::of([]);
    play.stage
        .always(Act::TakeAfter(Duration::from_millis(2_500)));
    let running = play.start();
    play.settle(0..8 * BATCH_ROWS);
    sleep(Duration::from_millis(5_100)).await;
    let early = play.times().iter().filter(|&&at| at < 300).count();
    assert_eq!((early, play.times().len()), (4, 8), "{:?}", play.times());
    assert_eq!(play.taken().len(), 8 * BATCH_ROWS);
    assert_eq!(play.ledger.stats().written, 8 * BATCH_ROWS as u64);
    play.ledger.drain(Duration::from_secs(1)).await;
    running.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn pauses_double_up_to_five_seconds_and_to_a_minute_where_a_right_is_missing() {
    for (act, longest_ms) in [(Act::Fail, 5_000), (Act::Deny, 60_000)] {
        let play = Play::of([]);
        play.stage.always(act);
        let running = play.start();
        play.settle(0..1);
        sleep(Duration::from_secs(400)).await;
        let times = play.times();
        let pauses: Vec<u128> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(
            pauses
                .windows(2)
                .all(|pair| pair[1] == longest_ms.min(pair[0] * 2).max(pair[0])),
            "{pauses:?}"
        );
        assert_eq!((pauses[0], pauses.last()), (100, Some(&longest_ms)));
        assert!(play.ledger.stats().failing.is_some());
        // It is there again: nothing was lost, and the next failure starts anew.
        play.stage.always(Act::Take);
        sleep(Duration::from_secs(61)).await;
        let stats = play.ledger.stats();
        assert_eq!((stats.waiting, stats.written, stats.failing), (0, 1, None));
        play.ledger.drain(Duration::from_secs(1)).await;
        running.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_row_is_final_and_the_others_go_at_once() {
    let play = Play::of([Act::Refuse("7")]);
    let running = play.start();
    play.settle(0..10);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(
        play.stage.seen(),
        [
            Seen {
                at_ms: 200,
                rows: 10
            },
            Seen {
                at_ms: 200,
                rows: 9
            }
        ]
    );
    let stats = play.ledger.stats();
    assert_eq!((stats.written, stats.invalid, stats.waiting), (9, 1, 0));
    assert_eq!((stats.attempts.whole, stats.attempts.partial), (1, 1));
    assert!(!play.taken().contains(&7));
    play.ledger.drain(Duration::from_secs(1)).await;
    running.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn rows_of_which_none_is_at_fault_are_sent_again_after_a_pause() {
    let play = Play::of([Act::Stop, Act::Stop]);
    let running = play.start();
    play.settle(0..3);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(play.times(), [200, 300, 500]);
    assert_eq!(play.ledger.stats().written, 3);
    play.ledger.drain(Duration::from_secs(1)).await;
    running.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_new_table_gets_its_rows_at_once_and_once_more_when_it_is_safe() {
    let play = Play::on_a_new_table();
    let running = play.start();
    play.settle(0..3);
    sleep(Duration::from_secs(1)).await;
    assert_eq!((play.times(), play.ledger.waiting()), (vec![200], 0));
    sleep(Duration::from_secs(297)).await;
    play.settle(3..5);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(play.times(), [200, 298_200]);
    // Once more: not at the first try, and beside rows that come by then.
    play.stage.always(Act::Fail);
    sleep(Duration::from_millis(1_500)).await;
    play.stage.always(Act::Take);
    play.settle(5..6);
    sleep(Duration::from_secs(5)).await;
    let mut taken = play.stage.taken();
    taken.sort();
    assert_eq!(
        taken,
        ["0", "0", "1", "1", "2", "2", "3", "3", "4", "4", "5"]
    );
    let stats = play.ledger.stats();
    assert_eq!((stats.written, stats.waiting, stats.failing), (6, 0, None));
    // And no third time.
    sleep(Duration::from_mins(10)).await;
    assert_eq!(play.stage.taken().len(), 11);
    assert_eq!(play.ledger.drain(Duration::from_secs(1)).await, 0);
    running.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_process_ends_without_waiting_for_a_table_to_grow_old() {
    let play = Play::on_a_new_table();
    let running = play.start();
    play.settle(0..3);
    sleep(Duration::from_secs(1)).await;
    play.settle(3..4);
    let began = Instant::now();
    assert_eq!(play.ledger.drain(Duration::from_secs(8)).await, 0);
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(play.taken().len(), 4);
    running.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_cannot_be_made_ready_is_told_of_before_there_are_rows() {
    let play = Play::of([]);
    let denied = || Err(Fault::permanent("no dataset"));
    play.stage.prepares([denied(), denied(), denied()]);
    let running = play.start();
    sleep(Duration::from_millis(250)).await;
    assert_eq!(play.ledger.stats().failing.as_deref(), Some("no dataset"));
    sleep(Duration::from_secs(1)).await;
    let stats = play.ledger.stats();
    assert_eq!((stats.failing, stats.attempts.refused), (None, 3));
    play.ledger.drain(Duration::from_secs(1)).await;
    running.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn at_the_end_a_write_without_an_answer_is_made_again() {
    let play = Play::of([Act::TakeMutely]);
    let running = play.start();
    play.settle(0..3);
    sleep(Duration::from_secs(1)).await;
    play.stage
        .always(Act::TakeAfter(Duration::from_millis(2_500)));
    let began = Instant::now();
    assert_eq!(play.ledger.drain(Duration::from_secs(3)).await, 0);
    assert_eq!(began.elapsed().as_millis(), 2_500);
    // Twice in the sink, by the same id.
    assert_eq!((play.stage.taken().len(), play.taken().len()), (6, 3));
    assert_eq!(play.ledger.stats().written, 3);
    running.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_never_answers_costs_no_more_than_the_time_given() {
    let play = Play::of([]);
    play.stage.always(Act::TakeMutely);
    let running = play.start();
    play.settle(0..1_200);
    sleep(Duration::from_secs(1)).await;
    let began = Instant::now();
    assert_eq!(play.ledger.drain(Duration::from_secs(3)).await, 1_200);
    assert_eq!(began.elapsed(), Duration::from_secs(3));
    running.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn at_the_end_pauses_are_short() {
    let play = Play::of([]);
    play.stage.always(Act::Fail);
    let running = play.start();
    play.settle(0..1);
    sleep(Duration::from_secs(200)).await;
    let before = play.times().len();
    let ledger = Arc::clone(&play.ledger);
    let ending = tokio::spawn(async move { ledger.drain(Duration::from_secs(8)).await });
    sleep(Duration::from_secs(4)).await;
    assert!(play.times().len() > before + 5);
    play.stage.always(Act::Take);
    assert_eq!(ending.await.unwrap(), 0);
    running.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_refuses_everything_is_not_asked_for_long() {
    let play = Play::of([]);
    play.stage.always(Act::Deny);
    let running = play.start();
    play.settle(0..3_000);
    sleep(Duration::from_secs(1)).await;
    let before = play.times().len();
    let began = Instant::now();
    assert_eq!(play.ledger.drain(Duration::from_secs(8)).await, 3_000);
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(play.times().len(), before + 4, "each lane once");
    running.await.unwrap();
}
