//! The connection to the server breaks at each message that an operation sends, before it arrives
//! and after. What is done is done once.

use std::sync::Arc;

use tollgate::store::{DayUse, Exchange, NewKey, NewRefresh, NewUser, Refreshed, Store};

use super::bench::{at, in_words, open};
use super::budgets::{exchange, first, next, sums, wanting};
use super::proxy::{Fate, Plan, Proxy};
use crate::fakes::postgres::Postgres;

/// Two instances, one of them behind a wire that can be cut.
struct Bench {
    proxy: Proxy,
    cut: Arc<Store>,
    direct: Arc<Store>,
    _server: Postgres,
}

impl Bench {
    async fn new() -> Option<Self> {
        let server = Postgres::start().await?;
        let url = server.database().await;
        let proxy = Proxy::start(server.socket()).await;
        Some(Self {
            cut: open(&at(&proxy.url(&url))).await,
            direct: open(&at(&url)).await,
            proxy,
            _server: server,
        })
    }

    /// Runs a case for each message that may be cut, until one is too late for that. Gives the case
    /// its number.
    async fn everywhere<F: Future<Output = ()>>(&self, times: u32, case: impl Fn(u32) -> F) {
        let mut number = 0;
        for fate in [Fate::Lost, Fate::Unanswered] {
            for at in 1.. {
                number += 1;
                // There is a connection that works.
                sums(&self.cut, "nobody").await;
                self.proxy.cut(Plan { at, fate, times });
                case(number).await;
                if self.proxy.heal() == 0 {
                    assert!(at > 3, "the wire was cut");
                    break;
                }
            }
        }
    }
}

/// An exchange that does all that there is; the sums after it.
async fn settle(bench: &Bench, owner: &str, may_fail: bool) {
    let one = wanting(first(owner, owner), 300);
    exchange(&bench.direct, &one).await;
    let day = DayUse {
        day_ms: 0,
        requests: 2,
        prompt_tokens: 60,
        completion_tokens: 47,
    };
    let two = Exchange {
        spent: 100,
        returned: 50,
        unleased: 7,
        days: vec![day],
        ..wanting(next(&one), 20)
    };
    let mut sent = 0;
    let answer = loop {
        sent += 1;
        match bench.cut.exchange(&two).await {
            Ok(answer) => break answer,
            Err(error) => {
                assert!(
                    may_fail && sent < 3 && !error.is_permanent(),
                    "{}",
                    in_words(error)
                );
            }
        }
    };
    assert_eq!((answer.granted, answer.is_charged), (20, false));
    let found = bench.direct.budget_use(owner, 0, 0).await.unwrap();
    assert_eq!((found.used, found.leased), (107, 170));
    assert_eq!(found.days, [day]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchange_that_is_cut_once_succeeds_and_is_applied_once() {
    let Some(bench) = Bench::new().await else {
        return;
    };
    let case = |number| {
        let owner = format!("user:{number}");
        let bench = &bench;
        async move { settle(bench, &owner, false).await }
    };
    bench.everywhere(1, case).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchange_that_is_cut_and_sent_again_is_applied_once() {
    let Some(bench) = Bench::new().await else {
        return;
    };
    let case = |number| {
        let owner = format!("user:{number}");
        let bench = &bench;
        async move { settle(bench, &owner, true).await }
    };
    bench.everywhere(2, case).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registration_and_a_refresh_that_are_cut_succeed_once() {
    let Some(bench) = Bench::new().await else {
        return;
    };
    let hash = |number: u32, of: u8| {
        let mut hash = [of; 32];
        hash[..4].copy_from_slice(&number.to_be_bytes());
        hash
    };
    let case = |number: u32| {
        let (name, bench) = (format!("ann-{number}"), &bench);
        async move {
            let user = NewUser {
                name: &name,
                password_hash: "$",
                token_limit: 5,
                limit_is_admins: false,
                key: NewKey {
                    hash: &hash(number, 1),
                    prefix: "sk-",
                },
            };
            let made = bench.cut.add_user(user).await.expect("made");
            let made = made.expect("the name was free");
            let found = bench.direct.user_by_key(&hash(number, 1)).await.unwrap();
            assert_eq!(found.expect("with its key").user, made);
        }
    };
    bench.everywhere(1, case).await;

    let case = |number: u32| {
        let (name, bench) = (format!("bob-{number}"), &bench);
        async move {
            let user = NewUser {
                name: &name,
                password_hash: "$",
                token_limit: 5,
                limit_is_admins: false,
                key: NewKey {
                    hash: &hash(number, 2),
                    prefix: "sk-",
                },
            };
            let user = bench.direct.add_user(user).await.unwrap().unwrap();
            let login = NewRefresh {
                hash: &hash(number, 3),
                user_id: user.id,
                generation: 0,
                family: &name,
                expires_at_ms: 4_000_000_000_000,
            };
            assert!(bench.direct.add_refresh(login).await.unwrap());
            let renewed = bench.cut.refresh(&hash(number, 3), &hash(number, 4)).await;
            assert!(matches!(renewed.unwrap(), Refreshed::Renewed { .. }));
            let renewed = bench
                .direct
                .refresh(&hash(number, 4), &hash(number, 5))
                .await;
            assert!(matches!(renewed.unwrap(), Refreshed::Renewed { .. }));
        }
    };
    bench.everywhere(1, case).await;
}
