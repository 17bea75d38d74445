//! A sink that does as the test says.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use crate::google::{Fault, Prepared, Verdict};

/// What the sink does to one write.
#[derive(Clone, Debug)]
pub enum Act {
    /// Takes all rows.
    Take,
    /// The same, after a while.
    TakeAfter(Duration),
    /// Takes all rows, and nobody is told.
    TakeMutely,
    Fail,
    Deny,
    /// Refuses the row with this id for good, and stops for the others.
    Refuse(&'static str),
    /// No row is at fault, and none is taken.
    Stop,
}

/// One write: when, how many rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub at_ms: u128,
    pub rows: usize,
}

#[derive(Clone)]
pub struct Stage {
    began: Instant,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    acts: VecDeque<Act>,
    /// When there are no acts left.
    lasting: Option<Act>,
    prepared: VecDeque<Result<Prepared, Fault>>,
    seen: Vec<Seen>,
    taken: Vec<String>,
}

impl Stage {
    pub fn new(acts: impl IntoIterator<Item = Act>) -> Self {
        let inner = Inner {
            acts: acts.into_iter().collect(),
            ..Inner::default()
        };
        Self {
            began: Instant::now(),
            inner: Arc::new(Mutex::new(inner)),
        }
    }

    pub fn always(&self, act: Act) {
        self.inner.lock().unwrap().lasting = Some(act);
    }

    pub fn prepares(&self, prepared: impl IntoIterator<Item = Result<Prepared, Fault>>) {
        self.inner.lock().unwrap().prepared.extend(prepared);
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.inner.lock().unwrap().seen.clone()
    }

    /// Request ids of the rows taken, in their order, with repetitions.
    pub fn taken(&self) -> Vec<String> {
        self.inner.lock().unwrap().taken.clone()
    }

    pub fn prepare(&self) -> Result<Prepared, Fault> {
        let next = self.inner.lock().unwrap().prepared.pop_front();
        next.unwrap_or_else(|| Ok(Prepared::default()))
    }

    pub async fn write(&self, rows: &[String]) -> Result<Vec<Verdict>, Fault> {
        let act = {
            let mut inner = self.inner.lock().unwrap();
            inner.seen.push(Seen {
                at_ms: self.began.elapsed().as_millis(),
                rows: rows.len(),
            });
            let lasting = inner.lasting.clone().unwrap_or(Act::Take);
            inner.acts.pop_front().unwrap_or(lasting)
        };
        match act {
            Act::Take => {}
            Act::TakeAfter(time) => tokio::time::sleep(time).await,
            Act::TakeMutely => {
                self.take(rows);
                std::future::pending::<()>().await;
            }
            Act::Fail => return Err(Fault::transient("down")),
            Act::Deny => return Err(Fault::permanent("denied")),
            Act::Refuse(id) => {
                let refused = |row: &String| {
                    if id_of(row) == id {
                        Verdict::Invalid("invalid".to_owned())
                    } else {
                        Verdict::Again("stopped".to_owned())
                    }
                };
                return Ok(rows.iter().map(refused).collect());
            }
            Act::Stop => return Ok(vec![Verdict::Again("backendError".to_owned()); rows.len()]),
        }
        self.take(rows);
        Ok(vec![Verdict::Accepted; rows.len()])
    }

    fn take(&self, rows: &[String]) {
        let ids = rows.iter().map(|row| id_of(row));
        self.inner.lock().unwrap().taken.extend(ids);
    }
}

fn id_of(row: &str) -> String {
    let row: serde_json::Value = serde_json::from_str(row).unwrap();
    row["request_id"].as_str().unwrap().to_owned()
}
