//! Refusals as the servers word them: vLLM's Python server, its Rust front end, and a server that is
//! neither. It knows what was wrong with a request, not how that was found out.

use serde_json::{Value, json};

use super::plan::Plan;

/// Whose dialect the server speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// vLLM with its Python server, the default there.
    #[default]
    Python,
    /// vLLM with its Rust front end.
    Rust,
    /// Some other server: no `/version`, no `/tokenize`, and fields it does not know are refused.
    Foreign,
}

/// The shape of errors that a route has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    OpenAi,
    Anthropic,
}

/// What is wrong with a request.
#[derive(Clone, Debug)]
pub enum Refusal {
    NoRoute,
    WrongMethod,
    WrongKey,
    ContentType,
    Malformed {
        at: usize,
    },
    NotAnObject,
    Missing {
        field: &'static str,
        fields: usize,
    },
    WrongType {
        field: String,
        wanted: &'static str,
        got: Value,
    },
    UnknownModel {
        model: String,
        served: String,
    },
    MaxTokens {
        field: &'static str,
        value: i64,
        context: u64,
    },
    Context {
        context: u64,
        tokens: u64,
    },
    /// As older servers do: prompt and output together are too much.
    Together {
        context: u64,
        prompt: u64,
        asked: u64,
    },
    Invalid {
        message: String,
        param: Option<&'static str>,
    },
    NotFound {
        message: String,
        param: &'static str,
    },
    UnknownField {
        field: String,
    },
}

impl Refusal {
    /// The answer of a route with this shape of errors.
    pub fn plan(&self, dialect: Dialect, shape: Shape) -> Plan {
        let status = self.status();
        match (self, dialect) {
            (Self::NoRoute | Self::WrongMethod, Dialect::Rust) => {
                return Plan::bytes(status, "", String::new());
            }
            (Self::NoRoute, _) => return Plan::json(404, &json!({"detail": "Not Found"})),
            (Self::WrongMethod, _) => {
                return Plan::json(405, &json!({"detail": "Method Not Allowed"}));
            }
            (Self::WrongKey, Dialect::Python) => {
                return Plan::json(401, &json!({"error": "Unauthorized"}));
            }
            _ => {}
        }
        let (message, kind) = (self.message(dialect), self.kind(dialect));
        let ours = shape == Shape::Anthropic && !self.of_schema();
        if ours && dialect == Dialect::Python {
            let error = json!({"type": kind, "message": message});
            return Plan::json(status, &json!({"type": "error", "error": error}));
        }
        let (param, code) = (self.param(dialect), self.code(dialect));
        let error = json!({"message": message, "type": kind, "param": param, "code": code});
        Plan::json(status, &json!({"error": error}))
    }

    fn status(&self) -> u16 {
        match self {
            Self::NoRoute | Self::UnknownModel { .. } | Self::NotFound { .. } => 404,
            Self::WrongMethod => 405,
            Self::WrongKey => 401,
            _ => 400,
        }
    }

    fn of_schema(&self) -> bool {
        matches!(
            self,
            Self::ContentType
                | Self::Malformed { .. }
                | Self::NotAnObject
                | Self::Missing { .. }
                | Self::WrongType { .. }
        )
    }

    fn kind(&self, dialect: Dialect) -> &'static str {
        match (dialect, self) {
            (Dialect::Python, Self::UnknownModel { .. }) => "NotFoundError",
            (Dialect::Python, Self::NotFound { .. }) | (Dialect::Rust | Dialect::Foreign, _) => {
                "invalid_request_error"
            }
            (Dialect::Python, _) if self.of_schema() => "Bad Request",
            (Dialect::Python, _) => "BadRequestError",
        }
    }

    fn code(&self, dialect: Dialect) -> Value {
        match (dialect, self) {
            (Dialect::Python, _) => json!(self.status()),
            (_, Self::UnknownModel { .. }) => json!("model_not_found"),
            (_, Self::WrongKey) => json!("invalid_api_key"),
            (Dialect::Rust, _) if self.of_schema() => json!("json_parse_error"),
            (Dialect::Rust, _) => json!("invalid_request_error"),
            (Dialect::Foreign, _) => Value::Null,
        }
    }

    fn param(&self, dialect: Dialect) -> Value {
        match self {
            Self::UnknownModel { .. } => json!("model"),
            Self::MaxTokens { field, .. } | Self::NotFound { param: field, .. } => json!(field),
            Self::Invalid { param, .. } => json!(param),
            Self::UnknownField { field } => json!(field),
            _ if dialect != Dialect::Python => Value::Null,
            Self::Malformed { at } => json!(format!("body.{at}")),
            Self::NotAnObject | Self::Missing { field: "", .. } => json!("body"),
            Self::Missing { field, .. } => json!(format!("body.{field}")),
            Self::WrongType { field, .. } => json!(format!("body.{field}")),
            Self::Context { .. } => json!("input_tokens"),
            _ => Value::Null,
        }
    }

    fn message(&self, dialect: Dialect) -> String {
        if dialect == Dialect::Python {
            return self.python();
        }
        match self {
            Self::ContentType => "Expected request with `Content-Type: application/json`".into(),
            Self::Malformed { at } => {
                format!("Failed to parse the request body as JSON: EOF at line 1 column {at}")
            }
            Self::UnknownModel { model, .. } => format!("The model `{model}` does not exist."),
            Self::Context { context, tokens } => format!(
                "this model's maximum context length is {context} tokens, \
                 but the prompt contains {tokens} input tokens"
            ),
            Self::NotAnObject | Self::Missing { .. } | Self::WrongType { .. } => {
                let what = self.python();
                format!("Failed to deserialize the JSON body into the target type: {what}")
            }
            _ => self.python(),
        }
    }

    fn python(&self) -> String {
        match self {
            Self::NoRoute | Self::WrongMethod => String::new(),
            Self::WrongKey => "Incorrect API key provided.".into(),
            Self::UnknownModel { model, served } => {
                format!("The model `{model}` does not exist. Valid aliases: {served}.")
            }
            Self::MaxTokens {
                field,
                value,
                context,
            } if *value > 0 => format!(
                "{field}={value} cannot be greater than max_model_len={context}. \
                 Please request fewer output tokens. (parameter={field}, value={value})"
            ),
            Self::MaxTokens { field, value, .. } => format!(
                "{field} must be at least 1, got {value}. (parameter={field}, value={value})"
            ),
            // The real one reads a prompt no further than the first token too many.
            Self::Context { context, .. } => format!(
                "This model's maximum context length is {context} tokens. However, your prompt \
                 contains at least {over} input tokens, which exceeds this limit even without any \
                 output tokens. Please reduce the length of the input prompt. \
                 (parameter=input_tokens, value={over})",
                over = context + 1
            ),
            Self::Together {
                context,
                prompt,
                asked,
            } => format!(
                "This model's maximum context length is {context} tokens. However, you requested \
                 {} tokens ({prompt} in the messages, {asked} in the completion). Please reduce \
                 the length of the messages or completion.",
                prompt + asked
            ),
            Self::Invalid { message, .. } | Self::NotFound { message, .. } => message.clone(),
            Self::UnknownField { field } => {
                format!("Unrecognized request argument supplied: {field}")
            }
            _ => self.of_the_schema(),
        }
    }

    /// What the validation of the body says.
    fn of_the_schema(&self) -> String {
        let schema = |kind: &str, place: &str, text: &str, input: &str| {
            format!(
                "1 validation error:\n  {{'type': '{kind}', 'loc': '{place}', \
                 'msg': '{text}', 'input': '{input}'}}"
            )
        };
        match self {
            Self::ContentType => {
                "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed"
                    .into()
            }
            Self::Malformed { at } => format!(
                "1 validation error:\n  {{'type': 'json_invalid', 'loc': 'body.{at}', \
                 'msg': 'JSON decode error', 'input': '<dict of 0 items>', \
                 'ctx': {{'error': 'Expecting value'}}}}"
            ),
            Self::NotAnObject => schema(
                "model_attributes_type",
                "body",
                "Input should be a valid dictionary or object to extract fields from",
                "<list of items>",
            ),
            Self::Missing { field: "", .. } => schema("missing", "body", "Field required", "None"),
            Self::Missing { field, fields } => {
                let place = format!("body.{field}");
                schema(
                    "missing",
                    &place,
                    "Field required",
                    &format!("<dict of {fields} items>"),
                )
            }
            Self::WrongType { field, wanted, got } => {
                let got = got.as_str().map_or_else(|| got.to_string(), str::to_owned);
                let (kind, text) = wrong_type(wanted, &got);
                schema(kind, &format!("body.{field}"), text, &got)
            }
            _ => String::new(),
        }
    }
}

fn wrong_type(wanted: &str, got: &str) -> (&'static str, &'static str) {
    match wanted {
        "integer" if got.parse::<f64>().is_ok() => (
            "int_from_float",
            "Input should be a valid integer, got a number with a fractional part",
        ),
        "integer" => (
            "int_parsing",
            "Input should be a valid integer, unable to parse string as an integer",
        ),
        "boolean" => (
            "bool_parsing",
            "Input should be a valid boolean, unable to interpret input",
        ),
        "list" => ("list_type", "Input should be a valid list"),
        _ => ("string_type", "Input should be a valid string"),
    }
}
