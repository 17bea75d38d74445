//! Many calls at once over several instances.

use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use tokio::task::JoinSet;

use super::*;

/// Calls with random needs over three instances, as a mix of whole ones and aborted ones; returns
/// what the engine used, and the exchanges.
async fn crowd(seed: u64, limit: u64, calls: u64) -> (u64, u64) {
    let model = Arc::new(Model::new(MIDNIGHT_MS));
    let benches: Vec<_> = (0..3).map(|_| Bench::with(model.clone())).collect();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut tasks = JoinSet::new();
    for call in 0..calls {
        let budgets = benches[usize::try_from(call % 3).unwrap()].budgets.clone();
        let mut rng = StdRng::seed_from_u64(rng.next_u64());
        tasks.spawn(async move {
            sleep(Duration::from_millis(rng.random_range(0..20_000))).await;
            let least = rng.random_range(20..200);
            let most = least + rng.random_range(0..2_000);
            let allowance = allowance(limit);
            let reserved = budgets.reserve(&allowance, Need { least, most }, PATIENCE);
            let Ok(call) = reserved.await else {
                return 0;
            };
            sleep(Duration::from_millis(rng.random_range(10..5_000))).await;
            let charge = rng.random_range(0..=call.tokens());
            call.settle(used(charge));
            charge
        });
    }
    let mut engine = 0;
    while let Some(charge) = tasks.join_next().await {
        engine += charge.unwrap();
        assert!(engine <= limit);
    }
    let exchanges = model.exchanges();
    sleep(seconds(10)).await;
    assert_eq!(model.sums("service:x"), (engine, 0));
    for bench in &benches {
        assert_eq!(bench.budgets.status().owners, 0);
    }
    (engine, exchanges)
}

#[tokio::test(start_paused = true)]
async fn a_budget_for_a_third_of_the_calls_is_used_and_not_overrun() {
    for seed in 0..20 {
        let limit = 100_000;
        let (engine, _) = crowd(seed, limit, 500).await;
        assert!(
            engine * 100 >= limit * 95,
            "{engine} of {limit} were usable"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_ample_budget_costs_few_exchanges() {
    let (engine, exchanges) = crowd(1, 100_000_000, 1_000).await;
    assert!(engine > 0);
    // At most a settlement in half a second for each of three instances, over some 25 seconds.
    assert!(exchanges <= 180, "{exchanges} exchanges for 1,000 calls");
}
