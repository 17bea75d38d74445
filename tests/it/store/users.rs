//! Users: made, found, changed; their keys and logins.

use std::sync::Arc;

use futures_util::future::join_all;
use tollgate::store::{NewKey, NewRefresh, NewUser, Refreshed, Store, UserRow};

use super::bench::{Place, on_both};

const GOOD_MS: i64 = 4_000_000_000_000;

on_both! {
    a_user_lives;
    a_name_is_given_once_also_in_a_race;
    ids_are_never_given_twice;
    keys_are_found_by_hash_and_end_as_told;
    a_user_has_five_keys_at_most;
    a_refresh_token_is_good_once;
    a_token_shown_again_ends_its_login_alone;
    of_two_who_show_one_token_one_wins;
    new_credentials_void_refresh_tokens;
    a_login_on_old_credentials_is_void;
    a_user_has_twenty_logins_at_most;
    used_tokens_are_forgotten_in_the_end_and_stay_void;
    text_is_data;
    all_instances_share_one_mac_key;
}

fn hash(of: u32) -> [u8; 32] {
    let mut hash = [0xa5; 32];
    hash[..4].copy_from_slice(&of.to_be_bytes());
    hash
}

async fn add(store: &Store, name: &str, key: u32) -> Option<UserRow> {
    let user = NewUser {
        name,
        password_hash: "$argon2id$",
        token_limit: 1_000,
        limit_is_admins: false,
        key: NewKey {
            hash: &hash(key),
            prefix: "sk-AbCd",
        },
    };
    store.add_user(user).await.expect("an answer")
}

async fn replace_key(store: &Store, id: i64, key: u32, grace_ms: i64) -> Option<UserRow> {
    let key = NewKey {
        hash: &hash(key),
        prefix: &format!("sk-{key}"),
    };
    let row = store.user(id).await.expect("an answer");
    let generation = row.map_or(0, |row| row.generation);
    let replaced = store.replace_key((id, generation), key, grace_ms);
    replaced.await.expect("done")
}

async fn log_in(store: &Store, user: &UserRow, token: u32, family: &str) -> bool {
    let token = NewRefresh {
        hash: &hash(token),
        user_id: user.id,
        generation: user.generation,
        family,
        expires_at_ms: GOOD_MS,
    };
    store.add_refresh(token).await.expect("an answer")
}

/// One word for what became of a token.
async fn refresh(store: &Store, token: u32, next: u32) -> &'static str {
    let outcome = store.refresh(&hash(token), &hash(next)).await;
    match outcome.expect("an answer") {
        Refreshed::Renewed { expires_at_ms, .. } => {
            assert_eq!(expires_at_ms, GOOD_MS);
            "renewed"
        }
        Refreshed::Reused { .. } => "reused",
        Refreshed::Unknown => "unknown",
    }
}

async fn a_user_lives(place: Place) {
    let store = place.store().await;
    let made = add(&store, "ann", 1).await.expect("made");
    assert_eq!((made.name.as_str(), made.generation), ("ann", 0));
    assert_eq!((made.token_limit, made.limit_is_admins), (1_000, false));
    assert_eq!(made.key_prefix, "sk-AbCd");
    assert!(!made.is_disabled && made.created_at_ms > 1_700_000_000_000);
    // Another instance, and this one begun anew, see the same.
    for store in [place.store().await, store.clone()] {
        assert_eq!(store.user(made.id).await.unwrap().unwrap(), made);
        assert_eq!(store.user_named("ann").await.unwrap().unwrap(), made);
    }
    for nobody in [store.user(made.id + 1).await, store.user_named("bob").await] {
        assert!(nobody.unwrap().is_none());
    }

    let limited = store.set_token_limit(made.id, u64::MAX, true).await;
    let limited = limited.unwrap().unwrap();
    assert_eq!(limited.token_limit, u64::MAX / 2);
    assert!(limited.limit_is_admins && limited.generation == 0);
    let changed = store
        .set_password(made.id, 0, "$new$")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (changed.password_hash.as_str(), changed.generation),
        ("$new$", 1)
    );
    let disabled = store.set_disabled(made.id, true).await.unwrap().unwrap();
    assert!(disabled.is_disabled && disabled.generation == 2);
    let enabled = store.set_disabled(made.id, false).await.unwrap().unwrap();
    assert!(!enabled.is_disabled && enabled.generation == 2);
    assert_eq!(store.user(made.id).await.unwrap().unwrap(), enabled);

    let none = made.id + 1;
    assert!(store.set_password(none, 0, "x").await.unwrap().is_none());
    assert!(store.set_disabled(none, true).await.unwrap().is_none());
    assert!(
        store
            .set_token_limit(none, 1, false)
            .await
            .unwrap()
            .is_none()
    );
    assert!(replace_key(&store, none, 9, 0).await.is_none());

    for (name, key) in [("Zoe", 2), ("carl", 3), ("b-2", 4), ("b.1", 5)] {
        add(&store, name, key).await.expect("made");
    }
    let names = |users: Vec<UserRow>| users.into_iter().map(|user| user.name).collect::<Vec<_>>();
    // By bytes, as everywhere.
    assert_eq!(
        names(store.users("", 3).await.unwrap()),
        ["Zoe", "ann", "b-2"]
    );
    assert_eq!(names(store.users("b-2", 9).await.unwrap()), ["b.1", "carl"]);
    assert!(store.statements() > 20);
}

async fn a_name_is_given_once_also_in_a_race(place: Place) {
    let stores = [place.store().await, place.store().await];
    let tries = (0..8).map(|at| add(&stores[at % 2], "ann", u32::try_from(at).unwrap()));
    let made: Vec<UserRow> = join_all(tries).await.into_iter().flatten().collect();
    assert_eq!(made.len(), 1);
    // The keys of those who lost are nobody's.
    let mut found = 0;
    for key in 0..8 {
        if let Some(row) = stores[0].user_by_key(&hash(key)).await.unwrap() {
            assert_eq!(row.user, made[0]);
            found += 1;
        }
    }
    assert_eq!(found, 1);
}

async fn ids_are_never_given_twice(place: Place) {
    let store = place.store().await;
    let first = add(&store, "ann", 1).await.unwrap();
    place.run("DELETE FROM user_keys; DELETE FROM users").await;
    assert!(add(&store, "ann", 1).await.unwrap().id > first.id);
}

async fn keys_are_found_by_hash_and_end_as_told(place: Place) {
    let store = place.store().await;
    let user = add(&store, "ann", 1).await.unwrap();
    let found = store.user_by_key(&hash(1)).await.unwrap().unwrap();
    assert_eq!((found.user, found.expires_at_ms), (user.clone(), None));
    assert!(store.user_by_key(&hash(2)).await.unwrap().is_none());

    // Both work for a while; a shorter grace shortens what was given before.
    let changed = replace_key(&store, user.id, 2, 60_000).await.unwrap();
    assert_eq!(
        (changed.key_prefix.as_str(), changed.generation),
        ("sk-2", 1)
    );
    let old = store.user_by_key(&hash(1)).await.unwrap().unwrap();
    let ends = old.expires_at_ms.expect("an end");
    assert_eq!(old.user, changed);
    let new = store.user_by_key(&hash(2)).await.unwrap().unwrap();
    assert_eq!(new.expires_at_ms, None);
    replace_key(&store, user.id, 3, 3_600_000).await.unwrap();
    let old = store.user_by_key(&hash(1)).await.unwrap().unwrap();
    assert_eq!(old.expires_at_ms, Some(ends));
    replace_key(&store, user.id, 4, -1).await.unwrap();
    for ended in [1, 2, 3] {
        if let Some(row) = store.user_by_key(&hash(ended)).await.unwrap() {
            assert!(row.expires_at_ms.unwrap() <= store_now(&store).await);
        }
    }
    // And are removed with the next one.
    replace_key(&store, user.id, 5, 60_000).await.unwrap();
    for gone in [1, 2, 3] {
        assert!(store.user_by_key(&hash(gone)).await.unwrap().is_none());
    }
    assert!(store.user_by_key(&hash(4)).await.unwrap().is_some());
}

async fn store_now(store: &Store) -> i64 {
    store.budget_use("nobody", 0, 0).await.unwrap().now_ms
}

async fn a_user_has_five_keys_at_most(place: Place) {
    let store = place.store().await;
    let user = add(&store, "ann", 1).await.unwrap();
    for key in 2..=9 {
        replace_key(&store, user.id, key, 3_600_000).await.unwrap();
    }
    let mut found = Vec::new();
    for key in 1..=9 {
        if store.user_by_key(&hash(key)).await.unwrap().is_some() {
            found.push(key);
        }
    }
    assert_eq!(found.len(), 5, "{found:?}");
    assert_eq!(found.last(), Some(&9));
}

async fn a_refresh_token_is_good_once(place: Place) {
    let store = place.store().await;
    let user = add(&store, "ann", 1).await.unwrap();
    assert!(log_in(&store, &user, 10, "f1").await);
    let Refreshed::Renewed {
        user: seen, family, ..
    } = store.refresh(&hash(10), &hash(11)).await.unwrap()
    else {
        panic!("not renewed");
    };
    assert_eq!((seen, family.as_str()), (user.clone(), "f1"));
    // The same two again: an answer got lost.
    assert_eq!(refresh(&store, 10, 11).await, "renewed");
    assert_eq!(refresh(&store, 11, 12).await, "renewed");
    assert_eq!(refresh(&store, 99, 13).await, "unknown");
    place
        .run("UPDATE refresh_tokens SET expires_at_ms = 1000")
        .await;
    assert_eq!(refresh(&store, 12, 14).await, "unknown");
}

async fn a_token_shown_again_ends_its_login_alone(place: Place) {
    let store = place.store().await;
    let user = add(&store, "ann", 1).await.unwrap();
    assert!(log_in(&store, &user, 10, "f1").await && log_in(&store, &user, 20, "f2").await);
    assert_eq!(refresh(&store, 10, 11).await, "renewed");
    assert_eq!(refresh(&store, 10, 12).await, "reused");
    for gone in [10, 11, 12] {
        assert_eq!(refresh(&store, gone, 13).await, "unknown");
    }
    assert_eq!(refresh(&store, 20, 21).await, "renewed");
}

async fn of_two_who_show_one_token_one_wins(place: Place) {
    let stores = [place.store().await, place.store().await];
    let user = add(&stores[0], "ann", 1).await.unwrap();
    for round in 0..10 {
        let token = 100 * (round + 1);
        assert!(log_in(&stores[0], &user, token, &format!("f{round}")).await);
        let tries = (1..=4).map(|at| refresh(&stores[at as usize % 2], token, token + at));
        let mut outcomes = join_all(tries).await;
        outcomes.sort_unstable();
        // The second is caught, and whoever comes after finds nothing.
        assert_eq!(outcomes, ["renewed", "reused", "unknown", "unknown"]);
    }
}

async fn new_credentials_void_refresh_tokens(place: Place) {
    let store = place.store().await;
    let mut user = add(&store, "ann", 1).await.unwrap();
    for change in ["password", "key", "disabled"] {
        assert!(log_in(&store, &user, 10, "f1").await);
        user = match change {
            "password" => store
                .set_password(user.id, 0, "$new$")
                .await
                .unwrap()
                .unwrap(),
            "key" => replace_key(&store, user.id, 2, 0).await.unwrap(),
            _ => {
                store.set_disabled(user.id, true).await.unwrap();
                assert_eq!(refresh(&store, 10, 11).await, "unknown");
                store.set_disabled(user.id, false).await.unwrap().unwrap()
            }
        };
        assert_eq!(refresh(&store, 10, 11).await, "unknown", "{change}");
    }
    assert_eq!(user.generation, 3);
}

async fn a_login_on_old_credentials_is_void(place: Place) {
    let store = place.store().await;
    let before = add(&store, "ann", 1).await.unwrap();
    let after = store.set_password(before.id, 0, "$new$").await.unwrap();
    assert!(!log_in(&store, &before, 10, "f1").await);
    assert_eq!(refresh(&store, 10, 11).await, "unknown");
    assert!(log_in(&store, &after.unwrap(), 12, "f2").await);
    let disabled = store.set_disabled(before.id, true).await.unwrap().unwrap();
    assert!(!log_in(&store, &disabled, 13, "f3").await);
}

async fn a_user_has_twenty_logins_at_most(place: Place) {
    let store = place.store().await;
    let user = add(&store, "ann", 1).await.unwrap();
    for login in 0..25_u32 {
        let token = NewRefresh {
            hash: &hash(100 + login),
            user_id: user.id,
            generation: user.generation,
            family: &format!("f{login}"),
            expires_at_ms: GOOD_MS + i64::from(login),
        };
        assert!(store.add_refresh(token).await.unwrap());
    }
    let mut live = Vec::new();
    for login in 0..25_u32 {
        let outcome = store.refresh(&hash(100 + login), &hash(200 + login)).await;
        if matches!(outcome.unwrap(), Refreshed::Renewed { .. }) {
            live.push(login);
        }
    }
    assert_eq!(live, (5..25).collect::<Vec<_>>());
}

async fn used_tokens_are_forgotten_in_the_end_and_stay_void(place: Place) {
    let store = place.store().await;
    let user = add(&store, "ann", 1).await.unwrap();
    assert!(log_in(&store, &user, 1_000, "f1").await);
    for token in 1_000..1_110 {
        assert_eq!(refresh(&store, token, token + 1).await, "renewed");
    }
    assert_eq!(refresh(&store, 1_000, 5_000).await, "unknown");
    assert_eq!(refresh(&store, 1_110, 1_111).await, "renewed");
    assert_eq!(refresh(&store, 1_100, 5_000).await, "reused");
    assert_eq!(refresh(&store, 1_111, 5_000).await, "unknown");
}

async fn text_is_data(place: Place) {
    let store = place.store().await;
    let hostile = "x'\"); DROP TABLE users; --$1?1\\ é ,]}}%_";
    let user = NewUser {
        name: hostile,
        password_hash: hostile,
        token_limit: 1,
        limit_is_admins: true,
        key: NewKey {
            hash: &hash(1),
            prefix: hostile,
        },
    };
    let made = store.add_user(user).await.unwrap().unwrap();
    assert_eq!(
        (made.name.as_str(), made.key_prefix.as_str()),
        (hostile, hostile)
    );
    let found = store.user_named(hostile).await.unwrap().unwrap();
    assert_eq!((&found, found.password_hash.as_str()), (&made, hostile));
    let changed = store
        .set_password(made.id, 0, hostile)
        .await
        .unwrap()
        .unwrap();
    assert!(log_in(&store, &changed, 10, hostile).await);
    assert_eq!(refresh(&store, 10, 11).await, "renewed");
    assert_eq!(store.users(hostile, 9).await.unwrap(), []);
    assert_eq!(store.users("", 9).await.unwrap(), [changed]);
}

async fn all_instances_share_one_mac_key(place: Place) {
    let stores: Vec<Arc<Store>> = join_all((0..6).map(|_| place.store())).await;
    let first = stores[0].mac_key().await.unwrap();
    for store in &stores {
        assert_eq!(store.known_mac_key(), Some(first));
        assert!(store.has_answered());
    }
    assert_ne!(first, [0; 32]);
}
