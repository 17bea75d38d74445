//! Bodies over every field that moves a bound, right and wrong ones.

use std::fmt::Write as _;

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};
use tollgate::upstream::Endpoint;

/// A call: where to, and the JSON text of its body.
#[derive(Clone, Debug)]
pub struct Body {
    pub endpoint: Endpoint,
    pub text: String,
}

/// Any call that generates.
pub fn generating() -> impl Strategy<Value = Body> {
    let endpoints = select(vec![
        Endpoint::ChatCompletions,
        Endpoint::ChatCompletions,
        Endpoint::Completions,
        Endpoint::Responses,
        Endpoint::Messages,
    ]);
    endpoints.prop_flat_map(|endpoint| {
        let prompts = match endpoint {
            Endpoint::Completions => completion().boxed(),
            Endpoint::Responses => response().boxed(),
            Endpoint::Messages => message_api().boxed(),
            _ => chat().boxed(),
        };
        body(endpoint, (prompts, figures(endpoint)).prop_map(merge))
    })
}

/// Any call that only reads.
pub fn reading() -> impl Strategy<Value = Body> {
    let texts = || prop_oneof![text().prop_map(Value::from), texts().prop_map(Value::from)];
    let ids = prop::collection::vec(0_u32..500, 1..40);
    prop_oneof![
        body(
            Endpoint::Embeddings,
            prop_oneof![texts(), ids.prop_map(Value::from)]
                .prop_map(|input| json!({"input": input}))
        ),
        body(
            Endpoint::Rerank,
            (text(), texts())
                .prop_map(|(query, documents)| json!({"query": query, "documents": documents}))
        ),
        body(
            Endpoint::Score,
            (texts(), texts()).prop_map(|(one, two)| json!({"text_1": one, "text_2": two}))
        ),
    ]
}

/// Written as JSON, with or without escapes for what is outside ASCII.
fn body(endpoint: Endpoint, value: impl Strategy<Value = Value>) -> impl Strategy<Value = Body> {
    (value, any::<bool>()).prop_map(move |(value, escapes)| {
        let plain = value.to_string();
        let text = if escapes { in_ascii(&plain) } else { plain };
        Body { endpoint, text }
    })
}

fn in_ascii(json: &str) -> String {
    let mut text = String::new();
    for letter in json.chars() {
        if letter.is_ascii() {
            text.push(letter);
        } else {
            let mut units = [0; 2];
            for unit in letter.encode_utf16(&mut units) {
                write!(text, "\\u{unit:04x}").expect("memory");
            }
        }
    }
    text
}

fn merge((one, two): (Value, Value)) -> Value {
    let mut all = Map::new();
    for part in [one, two] {
        all.extend(part.as_object().cloned().unwrap_or_default());
    }
    Value::Object(all)
}

/// The figures, most of them right.
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn figures(endpoint: Endpoint) -> impl Strategy<Value = Value> {
    let limits: &'static [&'static str] = match endpoint {
        Endpoint::ChatCompletions => &["max_tokens", "max_completion_tokens"],
        Endpoint::Responses => &["max_output_tokens"],
        _ => &["max_tokens"],
    };
    let output = prop_oneof![
        12 => (1_u32..40).prop_map(Value::from),
        2 => select(vec![json!(null), json!(5.0), json!(1e1), json!(0), json!(100_000)]),
        1 => select(vec![json!(-1), json!(2.5), json!("7"), json!(true), json!([1]), json!(1e300)]),
    ];
    let limit = (select(limits), output.clone()).prop_map(|(name, value)| json!({name: value}));
    let both = (output.clone(), output).prop_map(move |(one, two)| match limits {
        [first, second] => json!({*first: one, *second: two}),
        _ => json!({limits[0]: one}),
    });
    let limit = prop_oneof![6 => limit, 2 => both, 1 => Just(json!({}))];
    let choices = prop_oneof![
        8 => Just(json!({})),
        4 => (1_u32..4).prop_map(|n| json!({"n": n, "temperature": 1})),
        1 => select(vec![json!({"n": null}), json!({"n": 2.0}), json!({"n": "2"}), json!({"n": 0}),
            json!({"best_of": 3}), json!({"n": 2, "best_of": 2}), json!({"best_of": -1})]),
        1 => (1_u32..4).prop_map(|n| json!({"n": n, "use_beam_search": true})),
        1 => select(vec![json!({"use_beam_search": "yes", "n": 2}), json!({"use_beam_search": false}), json!({"use_beam_search": 1})]),
    ];
    let more = select(vec![
        json!({}),
        json!({}),
        json!({"stop": "e"}),
        json!({"stop": ["zzz", "\n"]}),
        json!({"stop_sequences": ["e"]}),
        json!({"ignore_eos": true}),
        json!({"min_tokens": 3}),
        json!({"min_tokens": 3, "ignore_eos": true, "stop": ["a"]}),
        json!({"min_tokens": 30}),
        json!({"echo": true}),
        json!({"echo": true, "max_tokens": 0}),
        json!({"logprobs": true, "top_logprobs": 2}),
        json!({"logprobs": 2}),
        json!({"prompt_logprobs": 1}),
        json!({"truncate_prompt_tokens": 5}),
        json!({"stream": true}),
        json!({"stream": true, "stream_interval": 7}),
        json!({"stream_interval": 5}),
        json!({"temperature": 2}),
        json!({"add_generation_prompt": false}),
        json!({"add_special_tokens": true}),
        json!({"seed": 1, "user": "somebody"}),
        json!({"response_format": {"type": "json_object"}}),
        json!({"response_format": {"type": "nonsense"}}),
        json!({"chat_template_kwargs": {"enable_thinking": false}}),
        json!({"chat_template": "{% for m in messages %}{{ m['content'] * 20 }}{% endfor %}"}),
        json!({"chat_template_kwargs": {"chat_template": "{{ messages }}"}}),
        json!({"reasoning_effort": "high"}),
        json!({"documents": [{"title": "t", "text": "something"}]}),
        json!({"thinking": {"type": "enabled", "budget_tokens": 1024}}),
        json!({"tool_choice": "required"}),
        json!({"tool_choice": "none"}),
        json!({"structured_outputs": {"regex": "a+"}}),
        json!({"vllm_xargs": {"a": "b"}, "unknown": {"b": [1, 2]}}),
    ]);
    (limit, choices, more.clone(), more).prop_map(|(limit, choices, one, two)| {
        // What says something of the output comes last, but for what belongs together.
        merge((merge((merge((one, choices)), limit)), two))
    })
}

fn chat() -> impl Strategy<Value = Value> {
    let message = prop_oneof![
        6 => (select(vec!["user", "system", "assistant", "developer"]), content()).prop_map(
            |(role, content)| json!({"role": role, "content": content})),
        1 => (text(), text()).prop_map(|(name, content)| json!({"role": "user", "name": name, "content": content})),
        1 => (text(), arguments()).prop_map(|(name, arguments)| json!({"role": "assistant", "content": null, "tool_calls":
            [{"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}]})),
        1 => content().prop_map(|content| json!({"role": "tool", "tool_call_id": "call_1", "content": content})),
        1 => (text(), text()).prop_map(|(thought, said)| json!({"role": "assistant", "reasoning_content": thought, "content": said})),
    ]
    .boxed();
    let messages = prop_oneof![
        6 => prop::collection::vec(message.clone(), 1..5),
        1 => prop::collection::vec(message, 5..20),
        1 => (1_usize..60).prop_map(|count| vec![json!({"role": "user", "content": ""}); count]),
    ];
    (
        messages,
        tools(|tool| json!({"type": "function", "function": tool})),
    )
        .prop_map(|(messages, tools)| merge((json!({"messages": messages}), tools)))
}

fn response() -> impl Strategy<Value = Value> {
    let item = prop_oneof![
        4 => (select(vec!["user", "assistant", "system"]), text()).prop_map(|(role, text)| json!({"role": role, "content": text})),
        2 => text().prop_map(|text| json!({"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]})),
        1 => (text(), arguments()).prop_map(|(name, arguments)| json!({"type": "function_call", "call_id": "call_1", "name": name, "arguments": arguments})),
        1 => text().prop_map(|output| json!({"type": "function_call_output", "call_id": "call_1", "output": output})),
        1 => Just(json!({"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,AAAA"}]})),
    ];
    let input = prop_oneof![
        text().prop_map(Value::from),
        prop::collection::vec(item, 1..4).prop_map(Value::from)
    ];
    let instructions = prop_oneof![
        Just(json!({})),
        text().prop_map(|text| json!({"instructions": text}))
    ];
    let flat = |mut tool: Value| {
        tool["type"] = json!("function");
        tool
    };
    (input, instructions, tools(flat)).prop_map(|(input, instructions, tools)| {
        merge((merge((json!({"input": input}), instructions)), tools))
    })
}

fn message_api() -> impl Strategy<Value = Value> {
    let blocks = prop_oneof![
        4 => text().prop_map(Value::from),
        2 => text().prop_map(|text| json!([{"type": "text", "text": text}, {"type": "text", "text": "and"}])),
        1 => (text(), parameters()).prop_map(|(name, input)| json!([{"type": "tool_use", "id": "call_1", "name": name, "input": input}])),
        1 => texts().prop_map(|texts| texts.into_iter().map(|text| json!({"type": "tool_result", "tool_use_id": "call_1", "content": text})).collect()),
        1 => text().prop_map(|thought| json!([{"type": "thinking", "thinking": thought, "signature": "s"}])),
        1 => Just(json!([{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}])),
    ];
    let message = (select(vec!["user", "assistant"]), blocks)
        .prop_map(|(role, content)| json!({"role": role, "content": content}));
    let system = prop_oneof![
        Just(json!({})),
        text().prop_map(|text| json!({"system": text})),
        text().prop_map(|text| json!({"system": [{"type": "text", "text": text}]})),
    ];
    let own = |mut tool: Value| {
        let schema = tool["parameters"].take();
        let schema = if schema.is_object() {
            schema
        } else {
            json!({})
        };
        json!({"name": tool["name"], "input_schema": schema})
    };
    (prop::collection::vec(message, 1..4), system, tools(own)).prop_map(
        |(messages, system, tools)| merge((merge((json!({"messages": messages}), system)), tools)),
    )
}

fn completion() -> impl Strategy<Value = Value> {
    let ids = || prop::collection::vec(3_u32..500, 1..30);
    let prompt = prop_oneof![
        4 => text().prop_map(Value::from),
        3 => texts().prop_map(Value::from),
        2 => ids().prop_map(Value::from),
        2 => prop::collection::vec(ids(), 1..4).prop_map(Value::from),
        1 => select(vec![json!([]), json!(["", "a"]), json!([1, "a"]), json!([[1], "a"]), json!({"a": 1}), json!([1.0, 2.0])]),
    ];
    let more = select(vec![
        json!({}),
        json!({}),
        json!({}),
        json!({"suffix": "the end of it"}),
        json!({"prompt_embeds": "AAAA"}),
    ]);
    (prompt, more).prop_map(|(prompt, more)| merge((json!({"prompt": prompt}), more)))
}

fn content() -> impl Strategy<Value = Value> {
    let part = prop_oneof![
        12 => text().prop_map(|text| json!({"type": "text", "text": text})),
        1 => select(vec![
            json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}),
            json!({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}),
            json!({"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}}),
            json!({"type": "file", "file": {"file_data": "AAAA"}}),
            json!({"image_url": "data:image/png;base64,AAAA"}),
            json!({"type": "made_up"}),
        ]),
    ];
    prop_oneof![
        8 => text().prop_map(Value::from),
        3 => prop::collection::vec(part, 1..4).prop_map(Value::from),
        1 => Just(Value::Null),
    ]
}

fn tools(shape: fn(Value) -> Value) -> impl Strategy<Value = Value> {
    let described = (text(), text(), parameters()).prop_map(
        |(name, description, parameters)| json!({"name": name, "description": description, "parameters": parameters}),
    );
    let tool = prop_oneof![
        3 => described,
        1 => Just(json!({"name": "f"})),
        1 => parameters().prop_map(|parameters| json!({"name": "f", "parameters": parameters, "strict": true})),
    ];
    prop_oneof![
        3 => Just(json!({})),
        2 => prop::collection::vec(tool.prop_map(shape), 1..4).prop_map(|tools| json!({"tools": tools})),
    ]
}

/// A schema, or what stands in the place of one: deep, wide, and with all kinds of figures.
fn parameters() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        text().prop_map(Value::from),
        select(vec![
            json!(null),
            json!(true),
            json!(0),
            json!(-12),
            json!(1e15),
            json!(1e-7),
            json!(123_456.75),
            json!(1e22),
            json!({}),
            json!([]),
            json!({"type": "string"}),
            json!({"type": "integer", "minimum": 1e5}),
        ]),
    ];
    let deep = (1_usize..12).prop_map(|depth| {
        (0..depth).fold(
            json!({"type": "string"}),
            |inner, _| json!({"type": "object", "properties": {"a": inner}}),
        )
    });
    let wide = (1_usize..12).prop_map(|width| {
        let names = (0..width).map(|at| (format!("p{at}"), json!({"type": "string"})));
        json!({"type": "object", "properties": names.collect::<Map<_, _>>()})
    });
    let any = prop::collection::btree_map("[a-z\"\\\\ ]{0,6}", leaf, 0..5)
        .prop_map(|members| json!(members));
    prop_oneof![deep, wide, any]
}

/// Arguments as clients write them: JSON in a string, packed or not, or none.
fn arguments() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => parameters().prop_map(|value| value.to_string()),
        2 => prop::collection::vec(parameters(), 1..30).prop_map(|values| Value::from(values).to_string()),
        1 => parameters().prop_map(|value| format!("\n {value:#}")),
        1 => select(vec!["{}".to_owned(), String::new(), "[1,[2,[3]]]".to_owned(), "{\"a\":1e15,\"b\":1e5}".to_owned()]),
    ]
}

fn texts() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(text(), 1..5)
}

/// Text of every plane, and what tokenizers and templates might take for something else.
fn text() -> impl Strategy<Value = String> {
    let special = select(vec![
        "Hello there",
        "What is the weather like in Paris?",
        "<|im_start|>user\n",
        "<|im_end|>",
        "<tool_call>{\"name\": \"f\"}</tool_call>",
        "{\"a\":[1,2,{\"b\":1e15}]}",
        "\u{fdfa}\u{fdfa}",
        "\u{3300}\u{337f}\u{321d}",
        "\u{1d160}\u{1d15e}",
        "\u{fb2c}\u{1f82}\u{390}",
        "e\u{301}\u{327}\u{323}",
        "\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467}\u{1f3fd}",
        "\u{0}\u{1}\u{8}\u{c}\u{1f}\u{7f}",
        "'\"\\/\n\t\r",
        "\u{2028}\u{feff}\u{e000}\u{10ffff}",
        "日本語の文章",
        "नमस्ते",
        "     \n\n\n    ",
    ]);
    prop_oneof![
        3 => prop::collection::vec(special.clone(), 1..4).prop_map(|parts| parts.concat()),
        1 => (special, 1_usize..60).prop_map(|(part, times)| part.repeat(times)),
        2 => "[ -~]{0,60}",
        1 => prop::collection::vec(any::<char>(), 0..20).prop_map(|letters| letters.into_iter().collect::<String>()),
        1 => ("[a-z ]{1,8}", 1_usize..40).prop_map(|(word, times)| word.repeat(times)),
    ]
}
