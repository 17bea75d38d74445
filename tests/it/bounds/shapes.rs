//! What single calls are bounded by: figures of every kind, shapes of prompts, and what nobody can
//! bound.

use serde_json::{Value, json};
use tollgate::error::Code;
use tollgate::upstream::{Bound, Endpoint, Payload, Request, Tokens, Upstreams};

use super::super::fakes::model_server::{ModelServer, Settings};
use super::bodies::Body;
use super::{request, upstream};

const CONTEXT: u64 = 2048;

/// Before a server whose models and template are known.
async fn known() -> (ModelServer, Upstreams) {
    let server = ModelServer::start(Settings::default()).await;
    let upstream = upstream(&server.url());
    upstream
        .learn_template(&call(Endpoint::ChatCompletions, &json!({})))
        .await;
    (server, upstream)
}

/// Before one that was never asked.
fn unknown() -> Upstreams {
    upstream("http://127.0.0.1:9")
}

fn call(endpoint: Endpoint, more: &Value) -> Request {
    let mut body = match endpoint {
        Endpoint::Completions | Endpoint::Tokenize => json!({"prompt": "Hello there"}),
        Endpoint::Responses | Endpoint::Embeddings => json!({"input": "Hello there"}),
        _ => json!({"messages": [{"role": "user", "content": "Hello there"}]}),
    };
    for (name, value) in more.as_object().expect("members") {
        body[name] = value.clone();
    }
    let text = body.to_string();
    request(&Body { endpoint, text }).expect("a request")
}

fn bound(upstream: &Upstreams, endpoint: Endpoint, more: &Value) -> Result<Bound, Code> {
    let bound = upstream.bound(&call(endpoint, more));
    bound.map_err(|error| {
        assert!(!error.message().contains(|c: char| c.is_ascii_digit()));
        error.code()
    })
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
async fn the_output_is_what_is_asked_for_else_the_context() {
    use Endpoint::{ChatCompletions, Completions, Embeddings, Messages, Responses, Tokenize};
    let (_server, known) = known().await;
    let cases = [
        (ChatCompletions, json!({"max_tokens": 9}), Some(9), 1, 9),
        (
            ChatCompletions,
            json!({"max_completion_tokens": 7, "max_tokens": 9}),
            Some(7),
            1,
            7,
        ),
        (
            ChatCompletions,
            json!({"max_completion_tokens": null, "max_tokens": 9}),
            Some(9),
            1,
            9,
        ),
        (ChatCompletions, json!({}), Some(CONTEXT), 1, 1024),
        (
            ChatCompletions,
            json!({"max_tokens": 32_000}),
            Some(CONTEXT),
            1,
            1024,
        ),
        (
            ChatCompletions,
            json!({"max_tokens": 1_500, "min_tokens": 1_200}),
            Some(1_500),
            1,
            1_200,
        ),
        (
            ChatCompletions,
            json!({"max_tokens": 8.0, "n": 2.0}),
            Some(8),
            2,
            8,
        ),
        (
            ChatCompletions,
            json!({"max_tokens": 1e300}),
            Some(CONTEXT),
            1,
            1024,
        ),
        (Completions, json!({}), Some(16), 1, 16),
        (
            Completions,
            json!({"max_tokens": 0, "echo": true}),
            Some(1),
            1,
            1,
        ),
        (
            Completions,
            json!({"prompt": ["a", "b"], "n": 3}),
            Some(16),
            6,
            16,
        ),
        (Completions, json!({"n": 2, "best_of": 5}), Some(16), 5, 16),
        (
            Responses,
            json!({"max_output_tokens": 9, "n": 4}),
            Some(9),
            1,
            9,
        ),
        (
            Messages,
            json!({"max_tokens": 1_800, "thinking": {"type": "enabled", "budget_tokens": 1_500}}),
            Some(1_800),
            1,
            1_501,
        ),
        (Embeddings, json!({"input": ["a", "b"]}), Some(0), 0, 0),
        (Tokenize, json!({}), Some(0), 0, 0),
    ];
    for (endpoint, more, output, sequences, least) in cases {
        let bound = bound(&known, endpoint, &more).expect("a bound");
        let found = (bound.output, bound.sequences, bound.least_output);
        assert_eq!(found, (output, sequences, least), "{endpoint:?} {more}");
    }
    let unknown = bound(&unknown(), ChatCompletions, &json!({})).expect("a bound");
    assert_eq!(unknown.output, None);
}

#[tokio::test]
async fn figures_that_are_none_are_refused() {
    let (_server, known) = known().await;
    for name in [
        "max_tokens",
        "max_completion_tokens",
        "n",
        "best_of",
        "min_tokens",
    ] {
        for value in [
            json!("5"),
            json!(5.5),
            json!(-1),
            json!(-1e300),
            json!(true),
            json!([5]),
            json!({}),
        ] {
            let refused = bound(&known, Endpoint::ChatCompletions, &json!({name: value}));
            assert_eq!(refused, Err(Code::InvalidRequest), "{name} {value}");
        }
    }
    for name in ["n", "best_of"] {
        let refused = bound(&known, Endpoint::Completions, &json!({name: 0}));
        assert_eq!(refused, Err(Code::InvalidRequest), "{name}");
    }
    // The largest figures neither panic nor wrap.
    let huge = json!({"n": u64::MAX, "best_of": 1e30, "max_tokens": u64::MAX});
    for upstream in [&known, &unknown()] {
        let bound = bound(upstream, Endpoint::ChatCompletions, &huge).expect("a bound");
        assert_eq!(bound.total(bound.output.expect("a maximum")), u64::MAX);
    }
}

#[tokio::test]
async fn prompts_are_bounded_by_their_bytes_and_the_context() {
    let (_server, known) = known().await;
    let prompt = |endpoint, more: Value| bound(&known, endpoint, &more).expect("a bound").prompt;
    let one = prompt(Endpoint::ChatCompletions, json!({}));
    // The learnt template adds some tens of tokens, the assumed one would add thousands.
    assert!((30..400).contains(&one), "{one}");
    let ascii = prompt(Endpoint::ChatCompletions, json!({"user": "aaaa"}));
    let other = prompt(Endpoint::ChatCompletions, json!({"user": "ääää"}));
    assert_eq!(other - ascii, 4 * (2 * 3 - 1));
    let long = json!({"messages": [{"role": "user", "content": "a".repeat(5_000)}]});
    assert_eq!(prompt(Endpoint::ChatCompletions, long.clone()), CONTEXT);
    let other = prompt(Endpoint::ChatCompletions, json!({"k": 3}));
    let thrice = prompt(Endpoint::ChatCompletions, json!({"n": 3}));
    assert_eq!(thrice, 3 * other, "the engine counts it for each choice");
    let ids = prompt(Endpoint::Completions, json!({"prompt": [1, 2, 3]}));
    let lists = prompt(
        Endpoint::Completions,
        json!({"prompt": [[1, 2, 3], [4, 5]]}),
    );
    assert_eq!(lists, 2 * ids - 1, "one token for each id");
    let prompts = json!({"prompt": ["a".repeat(5_000), "b".repeat(5_000)]});
    assert_eq!(prompt(Endpoint::Completions, prompts), 2 * CONTEXT);
    assert_eq!(prompt(Endpoint::Tokenize, json!({})), 0);
    let uncapped = bound(&unknown(), Endpoint::ChatCompletions, &long).expect("a bound");
    assert!(uncapped.prompt > 9_000, "{uncapped:?}");
}

#[tokio::test]
async fn what_is_not_text_counts_as_the_context_and_is_refused_while_that_is_unknown() {
    use Endpoint::{ChatCompletions, Completions, Messages, Responses};
    let (_server, known) = known().await;
    let part = |part: Value| json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "see"}, part]}]});
    let image = json!({"type": "image", "source": {"type": "base64", "data": "AA"}});
    let cases = [
        (
            ChatCompletions,
            part(json!({"type": "image_url", "image_url": {"url": "data:"}})),
        ),
        (
            ChatCompletions,
            part(json!({"type": "input_audio", "input_audio": {}})),
        ),
        (
            ChatCompletions,
            part(json!({"type": "video_url", "video_url": {}})),
        ),
        (ChatCompletions, part(json!({"type": "file", "file": {}}))),
        (
            ChatCompletions,
            part(json!({"type": "text", "type ": 1, "text": "x", "content": [image]})),
        ),
        (ChatCompletions, part(json!({"image_url": "data:"}))),
        (
            ChatCompletions,
            json!({"chat_template": "{{ 'x' * 1000 }}"}),
        ),
        (
            ChatCompletions,
            json!({"chat_template_kwargs": {"chat_template": "x"}}),
        ),
        (Completions, json!({"prompt_embeds": "AA", "prompt": null})),
        (Messages, part(image.clone())),
        (
            Messages,
            part(json!({"type": "tool_result", "content": [image]})),
        ),
        (Messages, part(json!({"type": "document", "source": {}}))),
        (
            Responses,
            json!({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}),
        ),
        (
            Responses,
            json!({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}),
        ),
        (
            Responses,
            json!({"input": [{"type": "computer_call_output"}]}),
        ),
    ];
    for (endpoint, more) in cases {
        let whole = bound(&known, endpoint, &more).expect("a bound");
        assert_eq!(whole.prompt, CONTEXT, "{endpoint:?} {more}");
        let refused = bound(&unknown(), endpoint, &more);
        assert_eq!(refused, Err(Code::InvalidRequest), "{endpoint:?} {more}");
    }
}

#[tokio::test]
async fn audio_and_tools_of_the_servers_own_are_not_open() {
    let (_server, known) = known().await;
    let mut audio = call(Endpoint::Transcriptions, &json!({}));
    audio.payload = Payload::Form(bytes::Bytes::new());
    let refused = known.bound(&audio).expect_err("refused");
    assert_eq!(refused.code(), Code::ModelNotAllowed);
    for kind in [
        "web_search",
        "code_interpreter",
        "mcp",
        "web_search_preview",
    ] {
        let tools = json!({"tools": [{"type": "function", "name": "f"}, {"type": kind}]});
        let refused = bound(&known, Endpoint::Responses, &tools);
        assert_eq!(refused, Err(Code::InvalidRequest), "{kind}");
    }
}

#[tokio::test]
async fn usage_tells_what_the_engine_counted_but_for_beams() {
    let (_server, known) = known().await;
    let used = Tokens {
        prompt: 10,
        cached: 0,
        completion: 6,
    };
    let counted = |more: Value| {
        let bound = bound(&known, Endpoint::ChatCompletions, &more).expect("a bound");
        bound.counted(used)
    };
    assert_eq!(counted(json!({})), Some(16));
    assert_eq!(counted(json!({"n": 3})), Some(36));
    assert_eq!(counted(json!({"n": 3, "use_beam_search": true})), None);
}

#[tokio::test]
async fn a_warm_upstream_counts_the_prompt_that_is_sent_and_no_other() {
    let (server, known) = known().await;
    let long = "Hello there, long ".repeat(60);
    let chat = |more: Value| {
        let mut all = json!({"model": "opencode-llm", "messages": [{"role": "user", "content": long}], "max_tokens": 5});
        for (name, value) in more.as_object().expect("members") {
            all[name] = value.clone();
        }
        call(Endpoint::ChatCompletions, &all)
    };
    let request = chat(json!({"n": 2}));
    let bound = known.bound(&request).expect("a bound");
    let counted = known
        .counted_bound(&request, &bound)
        .await
        .expect("a count");
    let asked = server
        .calls()
        .into_iter()
        .rfind(|call| call.path == "/tokenize");
    assert_eq!(asked.expect("a question").json()["model"], "tiny-chat");
    assert!(
        counted.prompt < bound.prompt / 2,
        "{counted:?} of {bound:?}"
    );
    assert_eq!(
        (counted.output, counted.sequences),
        (bound.output, bound.sequences)
    );
    // As OpenCode asks: the choice is the one that tools come with anyway.
    let tools = json!([{"type": "function", "function": {"name": "f", "description": long}}]);
    let request = chat(json!({"tools": tools, "tool_choice": "auto"}));
    let bound = known.bound(&request).expect("a bound");
    let counted = known.counted_bound(&request, &bound).await;
    assert!(counted.expect("a count").prompt < bound.prompt / 2);
    for more in [
        json!({"documents": []}),
        json!({"reasoning_effort": "low"}),
        json!({"tools": tools, "tool_choice": "required"}),
        json!({"use_beam_search": true}),
        json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
    ] {
        let request = chat(more.clone());
        let bound = known.bound(&request).expect("a bound");
        assert_eq!(known.counted_bound(&request, &bound).await, None, "{more}");
    }
}
