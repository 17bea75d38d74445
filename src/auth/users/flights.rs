//! Questions that are under way: who asks the same shares the answer. Knows no questions.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared, WeakShared};

/// Above this many, those that nobody waits for are swept out.
const SWEEP_AT: usize = 1_024;

/// Questions under way, by what they are about. There are no more than those who wait for them.
pub struct Flights<K, T>
where
    T: Clone,
{
    under_way: Mutex<HashMap<K, WeakShared<BoxFuture<'static, T>>>>,
}

impl<K: Clone + Eq + Hash, T: Clone> Flights<K, T> {
    #[must_use]
    pub fn new() -> Self {
        Self {
            under_way: Mutex::default(),
        }
    }

    /// The answer about `key`: that to a question under way, else to this one. It is asked as long
    /// as somebody waits.
    pub async fn share(&self, key: &K, ask: impl Future<Output = T> + Send + 'static) -> T {
        self.join(key, ask).await
    }

    /// From now on questions are asked anew: something has changed.
    pub fn renew(&self) {
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    fn join(
        &self,
        key: &K,
        ask: impl Future<Output = T> + Send + 'static,
    ) -> Shared<BoxFuture<'static, T>> {
        let mut under_way = self
            .under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // One that has been answered is over: its answer is older than this question.
        let running = under_way
            .get(key)
            .and_then(WeakShared::upgrade)
            .filter(|flight| flight.peek().is_none());
        if let Some(flight) = running {
            return flight;
        }
        if under_way.len() >= SWEEP_AT {
            under_way.retain(|_, flight| flight.upgrade().is_some());
        }
        let flight = ask.boxed().shared();
        if let Some(weak) = flight.downgrade() {
            under_way.insert(key.clone(), weak);
        }
        flight
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use futures_util::future::join_all;
    use tokio::time::{sleep, timeout};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    struct Asked(Arc<AtomicU32>);

    impl Asked {
        fn ask(&self) -> impl Future<Output = u32> + Send + 'static {
            let count = self.0.clone();
            async move {
                let number = count.fetch_add(1, Ordering::Relaxed) + 1;
                sleep(SECOND).await;
                number
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_ask_once_and_another_key_asks_for_itself() {
        let (flights, asked) = (Flights::new(), Asked(Arc::default()));
        let waiting = (0..1_000).map(|_| flights.share(&"a", asked.ask()));
        let (answers, other) = tokio::join!(join_all(waiting), flights.share(&"b", asked.ask()));
        assert!(answers.iter().all(|answer| *answer == 1));
        assert_eq!(other, 2);
        assert_eq!(flights.share(&"a", asked.ask()).await, 3, "a later one");
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_takes_no_answer_from_others() {
        let (flights, asked) = (Flights::new(), Asked(Arc::default()));
        let leaving = timeout(SECOND / 2, flights.share(&"a", asked.ask()));
        let (left, stayed) = tokio::join!(leaving, flights.share(&"a", asked.ask()));
        assert!(left.is_err());
        assert_eq!(stayed, 1);
        let alone = timeout(SECOND / 2, flights.share(&"a", asked.ask())).await;
        assert!(alone.is_err());
        assert_eq!(flights.share(&"a", asked.ask()).await, 3, "nobody waited");
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_change_the_question_is_asked_anew() {
        let (flights, asked) = (Flights::new(), Asked(Arc::default()));
        let later = async {
            sleep(SECOND / 2).await;
            flights.renew();
            flights.share(&"a", asked.ask()).await
        };
        assert_eq!(
            tokio::join!(flights.share(&"a", asked.ask()), later),
            (1, 2)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_over_is_swept_out() {
        let flights = Flights::new();
        for n in 0..10 * SWEEP_AT {
            flights.share(&n, async {}).await;
        }
        assert!(flights.under_way.lock().unwrap().len() <= SWEEP_AT);
    }
}
