//! The routes that are passed on, and what is known of each. Pure.

use super::stream::Api;

/// A proxied route. The upstream path is a constant of the route: nothing in a request chooses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    ChatCompletions,
    Completions,
    Embeddings,
    Responses,
    Messages,
    CountTokens,
    Rerank,
    Score,
    Tokenize,
    Detokenize,
    Transcriptions,
    Translations,
}

impl Endpoint {
    /// Every proxied route.
    pub const ALL: [Self; 12] = [
        Self::ChatCompletions,
        Self::Completions,
        Self::Embeddings,
        Self::Responses,
        Self::Messages,
        Self::CountTokens,
        Self::Rerank,
        Self::Score,
        Self::Tokenize,
        Self::Detokenize,
        Self::Transcriptions,
        Self::Translations,
    ];

    /// The path sent upstream, the `endpoint` of a row and a metric label.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::ChatCompletions => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Embeddings => "/v1/embeddings",
            Self::Responses => "/v1/responses",
            Self::Messages => "/v1/messages",
            Self::CountTokens => "/v1/messages/count_tokens",
            Self::Rerank => "/v1/rerank",
            Self::Score => "/v1/score",
            Self::Tokenize => "/tokenize",
            Self::Detokenize => "/detokenize",
            Self::Transcriptions => "/v1/audio/transcriptions",
            Self::Translations => "/v1/audio/translations",
        }
    }

    /// The dialect of its streams.
    #[must_use]
    pub const fn api(self) -> Api {
        match self {
            Self::ChatCompletions | Self::Completions => Api::Choices,
            Self::Responses => Api::Responses,
            Self::Messages | Self::CountTokens => Api::Messages,
            _ => Api::Opaque,
        }
    }

    /// Whether the engine's work on it is counted in tokens.
    #[must_use]
    pub const fn uses_tokens(self) -> bool {
        !matches!(self, Self::CountTokens | Self::Tokenize | Self::Detokenize)
    }

    /// Whether a server is started for it.
    #[must_use]
    pub const fn wakes(self) -> bool {
        !matches!(self, Self::Tokenize | Self::Detokenize)
    }

    /// Whether `stream` means anything to it.
    #[must_use]
    pub const fn streams(self) -> bool {
        matches!(
            self,
            Self::ChatCompletions
                | Self::Completions
                | Self::Responses
                | Self::Messages
                | Self::Transcriptions
                | Self::Translations
        )
    }

    /// The body is a form with a file instead of JSON.
    #[must_use]
    pub const fn takes_form(self) -> bool {
        matches!(self, Self::Transcriptions | Self::Translations)
    }

    /// The members that bound the output, the one that counts first.
    #[must_use]
    pub const fn output_limits(self) -> &'static [&'static str] {
        match self {
            Self::ChatCompletions => &["max_completion_tokens", "max_tokens"],
            Self::Completions | Self::Messages => &["max_tokens"],
            Self::Responses => &["max_output_tokens"],
            _ => &[],
        }
    }
}
