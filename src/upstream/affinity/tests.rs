//! All turns of a conversation are told alike, and different ones apart.

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const KEY: [&str; 2] = ["service", "ci"];
// Made by another program.
const CHAT: u64 = 5_494_495_443_099_702_472;
const COMPLETION: u64 = 7_686_377_360_099_483_564;
const NAMED: u64 = 6_877_411_005_599_243_123;

fn of(caller: [&str; 2], session: Option<&str>, endpoint: Endpoint, body: &Value) -> Affinity {
    let body = Object::parse(Bytes::from(body.to_string())).expect("an object");
    Affinity::of(caller, session.map(str::as_bytes), endpoint, &body).expect("a conversation")
}

fn chat(messages: &Value) -> Affinity {
    let body = json!({"model": "m", "messages": messages, "tools": [{"a": 1}]});
    of(KEY, None, Endpoint::ChatCompletions, &body)
}

fn said(role: &str, text: &str) -> Value {
    json!({"role": role, "content": text})
}

#[test]
fn numbers_are_the_same_in_every_process_and_release() {
    let opening = json!([said("system", "You are an agent."), said("user", "Hello!")]);
    assert_eq!(chat(&opening).hash(), CHAT);
    let body = json!({"prompt": "Once upon a time"});
    assert_eq!(
        of(KEY, None, Endpoint::Completions, &body).hash(),
        COMPLETION
    );
    let named = of(KEY, Some("ses_1"), Endpoint::ChatCompletions, &body);
    assert_eq!(named.hash(), NAMED);
}

#[test]
fn a_conversation_is_under_way_from_its_second_turn_on() {
    let opening = json!([said("system", "s"), said("user", "u")]);
    let later = json!([
        said("system", "s"),
        said("user", "u"),
        said("assistant", "a"),
        said("user", "v")
    ]);
    assert!(!chat(&opening).is_under_way() && chat(&later).is_under_way());
    assert_eq!(chat(&opening).hash(), chat(&later).hash());
    let named = of(
        KEY,
        Some("s"),
        Endpoint::ChatCompletions,
        &json!({"messages": opening}),
    );
    assert!(named.is_under_way(), "who names it means to come back");
    let text = |length| json!({"prompt": "x".repeat(length)});
    let short = of(KEY, None, Endpoint::Completions, &text(100));
    let long = of(KEY, None, Endpoint::Completions, &text(3000));
    let longer = of(KEY, None, Endpoint::Completions, &text(4000));
    assert!(!short.is_under_way() && long.is_under_way());
    assert_eq!(long, longer);
}

#[test]
fn callers_sessions_and_openings_are_told_apart() {
    let body = |text| json!({"messages": [said("system", "s"), said("user", text)]});
    let chat =
        |caller, session, text| of(caller, session, Endpoint::ChatCompletions, &body(text)).hash();
    let all = [
        chat(KEY, None, "u"),
        chat(KEY, None, "v"),
        chat(["service", "ops"], None, "u"),
        chat(["user", "ci"], None, "u"),
        chat(KEY, Some("1"), "u"),
        chat(KEY, Some("2"), "u"),
        chat(["service", "ops"], Some("1"), "u"),
    ];
    for (at, one) in all.iter().enumerate() {
        assert!(!all[..at].contains(one), "{at}");
    }
    assert_eq!(chat(KEY, Some("1"), "u"), chat(KEY, Some("1"), "v"));
    let long = "s".repeat(SESSION_BYTES + 1);
    for none in [Some(""), Some(long.as_str())] {
        assert_eq!(chat(KEY, none, "u"), chat(KEY, None, "u"));
    }
}

#[test]
fn marks_for_a_cache_change_nothing() {
    let marked = json!([{"type": "text", "text": "u", "cache_control": {"type": "ephemeral"}}]);
    let first = json!([{"role": "user", "content": marked}]);
    let later = json!([said("user", "u"), said("assistant", "a"), said("user", "v")]);
    let billing = |n| format!("x-anthropic-billing-header: cc_version=2; cch={n};");
    let messages = |system: Value, messages: &Value| {
        let body = json!({"system": system, "messages": messages});
        of(KEY, None, Endpoint::Messages, &body).hash()
    };
    let block = |text: &str| json!({"type": "text", "text": text});
    let one = messages(json!([block(&billing(1)), block("s")]), &first);
    assert_eq!(
        one,
        messages(json!([block(&billing(2)), block("s")]), &later)
    );
    let line = |n| json!(format!("{}\ns", billing(n)));
    assert_eq!(one, messages(line(3), &later));
    assert_ne!(one, messages(json!("t"), &later));
}

#[test]
fn an_input_may_become_a_list() {
    let body = |input: Value| json!({"instructions": "i", "input": input});
    let first = of(KEY, None, Endpoint::Responses, &body(json!("u")));
    let item = json!({"type": "message", "role": "user", "content": [{"type": "input_text", "text": "u"}]});
    let later = json!([item, said("assistant", "a"), said("user", "v")]);
    let later = of(KEY, None, Endpoint::Responses, &body(later));
    assert_eq!(first.hash(), later.hash());
    assert!(!first.is_under_way() && later.is_under_way());
}

#[test]
fn only_what_is_cached_has_a_conversation() {
    for endpoint in Endpoint::ALL {
        let text = r#"{"messages":[{"role":"user","content":"u"}],"input":"u","prompt":"u"}"#;
        let body = Object::parse(Bytes::from_static(text.as_bytes())).expect("an object");
        let is_cached = matches!(
            endpoint,
            Endpoint::ChatCompletions
                | Endpoint::Completions
                | Endpoint::Responses
                | Endpoint::Messages
        );
        assert_eq!(
            Affinity::of(KEY, None, endpoint, &body).is_some(),
            is_cached
        );
    }
    let empty = Object::parse(Bytes::from_static(b"{\"messages\":null}")).expect("an object");
    assert!(Affinity::of(KEY, None, Endpoint::ChatCompletions, &empty).is_none());
}

fn messages() -> impl Strategy<Value = Vec<Value>> {
    let text = "[ -~\\n\"]{0,40}";
    let content = prop_oneof![
        text.prop_map(Value::from),
        proptest::collection::vec(text, 0..3).prop_map(|parts| {
            let part = |text: String| json!({"type": "text", "text": text});
            Value::from(parts.into_iter().map(part).collect::<Vec<_>>())
        }),
        Just(Value::Null),
    ];
    let role = prop_oneof![Just("user"), Just("assistant"), Just("tool")];
    let message =
        (role, content).prop_map(|(role, content)| json!({"role": role, "content": content}));
    proptest::collection::vec(message, 0..6)
}

proptest! {
    #[test]
    fn all_turns_of_a_conversation_are_alike(
        system in "[ -~]{0,60}",
        opening in "[ -~é]{0,60}",
        turns in proptest::collection::vec(messages(), 1..5),
    ) {
        let mut history = vec![said("system", &system), said("user", &opening)];
        let first = chat(&Value::from(history.clone()));
        for turn in turns {
            history.extend(turn);
            let now = chat(&Value::from(history.clone()));
            prop_assert_eq!(now.hash(), first.hash());
            prop_assert_eq!(now.is_under_way(), history.len() > 2);
        }
    }

    #[test]
    fn no_body_makes_it_fail(text in r#"\{"(messages|input|prompt|system)":[\[{"a-z:,\\\]}]{0,30}\}"#) {
        if let Ok(body) = Object::parse(Bytes::from(text)) {
            for endpoint in Endpoint::ALL {
                let _ = Affinity::of(KEY, None, endpoint, &body);
            }
        }
    }
}
