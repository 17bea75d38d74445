//! The makes, in their own words: from their code and documents, those of llama.cpp and
//! llama-cpp-python from recordings.

/// A make of model server, and what it says on each occasion.
pub struct Make {
    pub name: &'static str,
    /// Its answer to `GET /version`, if it has one.
    pub version: Option<&'static str>,
    /// Its answer to `POST /tokenize` with vLLM's question.
    pub tokenize: &'static str,
    pub list: &'static str,
    /// The model's id in the list, and as clients name it.
    pub listed: &'static str,
    pub model: &'static str,
    pub context: Option<u64>,
    pub plain: &'static str,
    pub plain_usage: Usage,
    pub stream: &'static str,
    pub stream_usage: Usage,
    /// A refusal: status, body, and its text.
    pub refusal: (u16, &'static str, &'static str),
    /// The same for a prompt over the context; `None` where the server cuts it without a word.
    pub too_long: Option<(u16, &'static str, &'static str)>,
}

/// Whether the server counts.
#[derive(Clone, Copy)]
pub enum Usage {
    /// Prompt and completion tokens.
    Told(u64, u64),
    Never,
}

pub fn makes() -> [Make; 8] {
    [
        tgi(),
        local_ai(),
        ollama(),
        llama_cpp(),
        llama_cpp_python(),
        lm_studio(),
        fast_chat(),
        jan(),
    ]
}

fn tgi() -> Make {
    Make {
        name: "TGI",
        version: None,
        tokenize: r#"[{"id":1,"text":"a","start":0,"stop":1}]"#,
        list: r#"{"object":"list","data":[{"id":"org/model","object":"model","created":0,"owned_by":"org/model"}]}"#,
        listed: "org/model",
        model: "org/model",
        context: None,
        plain: r#"{"object":"chat.completion","id":"","created":1,"model":"org/model","system_fingerprint":"3.0.1-native","choices":[{"index":0,"message":{"role":"assistant","content":"high tide"},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":20,"completion_tokens":3,"total_tokens":23}}"#,
        plain_usage: Usage::Told(20, 3),
        // A line without a space, its own reason of a stop, no `[DONE]`.
        stream: concat!(
            "data:{\"object\":\"chat.completion.chunk\",\"id\":\"\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"high\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n",
            "data:{\"object\":\"chat.completion.chunk\",\"id\":\"\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\" tide\"},\"logprobs\":null,\"finish_reason\":\"eos_token\"}]}\n\n",
            "data:{\"object\":\"chat.completion.chunk\",\"id\":\"\",\"choices\":[],\"usage\":{\"prompt_tokens\":20,\"completion_tokens\":3,\"total_tokens\":23}}\n\n",
        ),
        stream_usage: Usage::Told(20, 3),
        refusal: (
            422,
            r#"{"error":"Input validation error: `temperature` must be strictly positive","error_type":"validation"}"#,
            "Input validation error: `temperature` must be strictly positive",
        ),
        too_long: Some((
            422,
            r#"{"error":"Input validation error: `inputs` must have less than 4095 tokens. Given: 5000","error_type":"validation"}"#,
            "Input validation error: `inputs` must have less than 4095 tokens. Given: 5000",
        )),
    }
}

fn local_ai() -> Make {
    Make {
        name: "LocalAI",
        version: Some(r#"{"version":"v3.8.0 (c0d1d02)"}"#),
        tokenize: r#"{"tokens":[1,2,3]}"#,
        list: r#"{"object":"list","data":[{"id":"gpt-4","object":"model"}]}"#,
        listed: "gpt-4",
        model: "gpt-4",
        context: None,
        plain: r#"{"created":1,"object":"chat.completion","id":"i","model":"gpt-4","choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":"high tide"}}],"usage":{"prompt_tokens":20,"completion_tokens":3,"total_tokens":23}}"#,
        plain_usage: Usage::Told(20, 3),
        // The count runs along from zero, and the last one stands on the chunk that ends.
        stream: concat!(
            "data: {\"created\":1,\"object\":\"chat.completion.chunk\",\"id\":\"i\",\"choices\":[{\"index\":0,\"finish_reason\":\"\",\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}],\"usage\":{\"prompt_tokens\":0,\"completion_tokens\":0,\"total_tokens\":0}}\n\n",
            "data: {\"created\":1,\"object\":\"chat.completion.chunk\",\"id\":\"i\",\"choices\":[{\"index\":0,\"finish_reason\":\"\",\"delta\":{\"content\":\"high tide\"}}],\"usage\":{\"prompt_tokens\":20,\"completion_tokens\":2,\"total_tokens\":22}}\n\n",
            "data: {\"created\":1,\"object\":\"chat.completion.chunk\",\"id\":\"i\",\"choices\":[{\"index\":0,\"finish_reason\":\"stop\",\"delta\":{}}],\"usage\":{\"prompt_tokens\":20,\"completion_tokens\":3,\"total_tokens\":23}}\n\n",
            "data: [DONE]\n\n",
        ),
        stream_usage: Usage::Told(20, 3),
        refusal: (
            400,
            r#"{"error":{"code":400,"message":"unsupported file","type":""}}"#,
            "unsupported file",
        ),
        too_long: None,
    }
}

fn ollama() -> Make {
    Make {
        name: "Ollama",
        version: None,
        tokenize: "404 page not found",
        list: r#"{"object":"list","data":[{"id":"llama3.2:latest","object":"model","created":1,"owned_by":"library"},{"id":"other:7b","object":"model","created":1,"owned_by":"library"}]}"#,
        listed: "llama3.2:latest",
        // As people name it.
        model: "llama3.2",
        context: None,
        plain: r#"{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"llama3.2","system_fingerprint":"fp_ollama","choices":[{"index":0,"message":{"role":"assistant","content":"high tide"},"finish_reason":"stop"}],"usage":{"prompt_tokens":20,"completion_tokens":3,"total_tokens":23}}"#,
        plain_usage: Usage::Told(20, 3),
        stream: concat!(
            "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"llama3.2\",\"system_fingerprint\":\"fp_ollama\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"high tide\"},\"finish_reason\":null}]}\n\n",
            "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"llama3.2\",\"system_fingerprint\":\"fp_ollama\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":\"stop\"}]}\n\n",
            "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"llama3.2\",\"system_fingerprint\":\"fp_ollama\",\"choices\":[],\"usage\":{\"prompt_tokens\":20,\"completion_tokens\":3,\"total_tokens\":23}}\n\n",
            "data: [DONE]\n\n",
        ),
        stream_usage: Usage::Told(20, 3),
        refusal: (
            404,
            r#"{"error":{"message":"model \"llama3.2\" not found, try pulling it first","type":"not_found_error","param":null,"code":null}}"#,
            "model \"llama3.2\" not found, try pulling it first",
        ),
        too_long: Some((
            400,
            r#"{"error":{"message":"the input length exceeds the context length","type":"invalid_request_error","param":null,"code":null}}"#,
            "the input length exceeds the context length",
        )),
    }
}

fn llama_cpp() -> Make {
    Make {
        name: "llama.cpp",
        version: None,
        tokenize: r#"{"tokens":[]}"#,
        list: r#"{"models":[{"name":"by-heart/tide","model":"by-heart/tide","type":"model","capabilities":["completion"]}],"object":"list","data":[{"id":"by-heart/tide","object":"model","created":1,"owned_by":"llamacpp","meta":{"vocab_type":2,"n_vocab":64204,"n_ctx":32768,"n_ctx_train":131072,"n_embd":256}}]}"#,
        listed: "by-heart/tide",
        model: "by-heart/tide",
        context: Some(32768),
        plain: r#"{"choices":[{"finish_reason":"stop","index":0,"message":{"role":"assistant","content":"high tide"}}],"created":1,"model":"by-heart/tide","system_fingerprint":"b0-unknown","object":"chat.completion","usage":{"completion_tokens":3,"prompt_tokens":20,"total_tokens":23,"prompt_tokens_details":{"cached_tokens":0}},"id":"chatcmpl-1","timings":{"cache_n":0,"prompt_n":20}}"#,
        plain_usage: Usage::Told(20, 3),
        stream: concat!(
            "data: {\"choices\":[{\"finish_reason\":null,\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":null}}],\"created\":1,\"id\":\"c\",\"model\":\"by-heart/tide\",\"system_fingerprint\":\"b0-unknown\",\"object\":\"chat.completion.chunk\"}\n\n",
            "data: {\"choices\":[{\"finish_reason\":null,\"index\":0,\"delta\":{\"content\":\"high tide\"}}],\"created\":1,\"id\":\"c\",\"model\":\"by-heart/tide\",\"system_fingerprint\":\"b0-unknown\",\"object\":\"chat.completion.chunk\"}\n\n",
            "data: {\"choices\":[{\"finish_reason\":\"stop\",\"index\":0,\"delta\":{}}],\"created\":1,\"id\":\"c\",\"model\":\"by-heart/tide\",\"system_fingerprint\":\"b0-unknown\",\"object\":\"chat.completion.chunk\"}\n\n",
            "data: {\"choices\":[],\"created\":1,\"id\":\"c\",\"model\":\"by-heart/tide\",\"system_fingerprint\":\"b0-unknown\",\"object\":\"chat.completion.chunk\",\"usage\":{\"completion_tokens\":3,\"prompt_tokens\":20,\"total_tokens\":23},\"timings\":{\"cache_n\":16}}\n\n",
            "data: [DONE]\n\n",
        ),
        stream_usage: Usage::Told(20, 3),
        refusal: (
            400,
            r#"{"error":{"code":400,"message":"Expected 'messages' to be an array","type":"invalid_request_error"}}"#,
            "Expected 'messages' to be an array",
        ),
        too_long: Some((
            400,
            r#"{"error":{"code":400,"message":"request (100014 tokens) exceeds the available context size (32768 tokens), try increasing it","type":"exceed_context_size_error","n_prompt_tokens":100014,"n_ctx":32768}}"#,
            "request (100014 tokens) exceeds the available context size (32768 tokens), try increasing it",
        )),
    }
}

fn llama_cpp_python() -> Make {
    Make {
        name: "llama-cpp-python",
        version: None,
        tokenize: r#"{"detail":"Not Found"}"#,
        list: r#"{"object":"list","data":[{"id":"by-heart/tide","object":"model","owned_by":"me","permissions":[]}]}"#,
        listed: "by-heart/tide",
        model: "by-heart/tide",
        context: None,
        plain: r#"{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"by-heart/tide","choices":[{"index":0,"message":{"content":"high tide","role":"assistant"},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":20,"completion_tokens":3,"total_tokens":23}}"#,
        plain_usage: Usage::Told(20, 3),
        // It knows `stream_options` and counts no stream.
        stream: concat!(
            "data: {\"id\": \"c\", \"object\": \"chat.completion.chunk\", \"choices\": [{\"index\": 0, \"delta\": {\"role\": \"assistant\"}, \"logprobs\": null, \"finish_reason\": null}]}\n\n",
            "data: {\"id\": \"c\", \"object\": \"chat.completion.chunk\", \"choices\": [{\"index\": 0, \"delta\": {\"content\": \"high tide\"}, \"logprobs\": null, \"finish_reason\": null}]}\n\n",
            "data: {\"id\": \"c\", \"object\": \"chat.completion.chunk\", \"choices\": [{\"index\": 0, \"delta\": {}, \"logprobs\": null, \"finish_reason\":\"stop\"}]}\n\n",
            "data: [DONE]\n\n",
        ),
        stream_usage: Usage::Never,
        refusal: (
            422,
            r#"{"detail":[{"type":"less_than_equal","loc":["body","temperature"],"msg":"Input should be less than or equal to 2","input":9}]}"#,
            "body.temperature: Input should be less than or equal to 2",
        ),
        too_long: Some((
            400,
            r#"{"error":{"message":"This model's maximum context length is 32768 tokens. However, you requested 100046 tokens (100014 in the messages, 32 in the completion). Please reduce the length of the messages or completion.","type":"invalid_request_error","param":"messages","code":"context_length_exceeded"}}"#,
            "This model's maximum context length is 32768 tokens. However, you requested 100046 tokens (100014 in the messages, 32 in the completion). Please reduce the length of the messages or completion.",
        )),
    }
}

fn lm_studio() -> Make {
    Make {
        name: "LM Studio",
        version: Some(r#"{"error":"Unexpected endpoint or method. (GET /version)"}"#),
        tokenize: r#"{"error":"Unexpected endpoint or method. (POST /tokenize)"}"#,
        list: r#"{"data":[{"id":"qwen2.5-coder-7b","object":"model","owned_by":"organization_owner"}],"object":"list"}"#,
        listed: "qwen2.5-coder-7b",
        model: "qwen2.5-coder-7b",
        context: None,
        // A usage of zeros is none.
        plain: r#"{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"qwen2.5-coder-7b","choices":[{"index":0,"logprobs":null,"finish_reason":"stop","message":{"role":"assistant","content":"high tide"}}],"usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0},"system_fingerprint":"qwen2.5-coder-7b"}"#,
        plain_usage: Usage::Never,
        stream: concat!(
            "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"q\",\"system_fingerprint\":\"q\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"high tide\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n",
            "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"q\",\"system_fingerprint\":\"q\",\"choices\":[{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\"}]}\n\n",
            "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"q\",\"system_fingerprint\":\"q\",\"choices\":[],\"usage\":{\"prompt_tokens\":20,\"completion_tokens\":3,\"total_tokens\":23}}\n\n",
            "data: [DONE]\n\n",
        ),
        stream_usage: Usage::Told(20, 3),
        refusal: (
            400,
            r#"{"error":"'messages' array must only contain objects with a 'role' field"}"#,
            "'messages' array must only contain objects with a 'role' field",
        ),
        too_long: Some((
            400,
            r#"{"error":"The number of tokens to keep from the initial prompt is greater than the context length (n_keep: 13055>= n_ctx: 4096). Try to load the model with a larger context length, or provide a shorter input."}"#,
            "The number of tokens to keep from the initial prompt is greater than the context length (n_keep: 13055>= n_ctx: 4096). Try to load the model with a larger context length, or provide a shorter input.",
        )),
    }
}

fn fast_chat() -> Make {
    Make {
        name: "FastChat",
        version: None,
        tokenize: r#"{"detail":"Not Found"}"#,
        list: r#"{"object":"list","data":[{"id":"vicuna-7b","object":"model","created":1,"owned_by":"fastchat","root":"vicuna-7b","parent":null,"permission":[]}]}"#,
        listed: "vicuna-7b",
        model: "vicuna-7b",
        context: None,
        plain: r#"{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"vicuna-7b","choices":[{"index":0,"message":{"role":"assistant","content":"high tide"},"finish_reason":"stop"}],"usage":{"prompt_tokens":20,"total_tokens":23,"completion_tokens":3}}"#,
        plain_usage: Usage::Told(20, 3),
        // It knows nothing of usage in streams.
        stream: concat!(
            "data: {\"id\":\"c\",\"model\":\"vicuna-7b\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\"},\"finish_reason\":null}]}\n\n",
            "data: {\"id\":\"c\",\"model\":\"vicuna-7b\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"high tide\"},\"finish_reason\":null}]}\n\n",
            "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"vicuna-7b\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
            "data: [DONE]\n\n",
        ),
        stream_usage: Usage::Never,
        refusal: (
            400,
            r#"{"object":"error","message":"9.0 is greater than the maximum of 2 - 'temperature'","code":40302}"#,
            "9.0 is greater than the maximum of 2 - 'temperature'",
        ),
        too_long: Some((
            400,
            r#"{"object":"error","message":"This model's maximum context length is 2048 tokens. However, you requested 5512 tokens (5000 in the messages, 512 in the completion). Please reduce the length of the messages or completion.","code":40303}"#,
            "This model's maximum context length is 2048 tokens. However, you requested 5512 tokens (5000 in the messages, 512 in the completion). Please reduce the length of the messages or completion.",
        )),
    }
}

/// It hands calls on to llama.cpp, and speaks for itself in plain words.
fn jan() -> Make {
    Make {
        name: "Jan",
        list: r#"{"object":"list","data":[{"id":"jan-v1-4b","object":"model","created":1,"owned_by":"user","ctx_len":8192}]}"#,
        tokenize: "Not Found",
        listed: "jan-v1-4b",
        model: "jan-v1-4b",
        context: Some(8192),
        refusal: (
            404,
            r#"{"error":"No running session found for model 'jan-v1-4b'"}"#,
            "No running session found for model 'jan-v1-4b'",
        ),
        ..llama_cpp()
    }
}
