//! The most that a call can cost, in tokens: an upper bound of its prompts and of its output. What
//! is bounded here is what the engine counts. Knows nothing of budgets.

mod conversation;
mod count;
mod output;
mod prompt;
mod template;
mod weight;

pub(super) use template::Lessons;

pub use prompt::DECISIVE;

use output::Output;
use prompt::{Model, Prompts};
use template::{Lesson, Template};

use super::request::Payload;
use super::{Endpoint, Request, Tokens, Upstreams};
use crate::error::{Code, Error};

/// The most that a call can cost, in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// All prompts together, as often as the engine counts them: once for each choice.
    pub prompt: u64,
    /// Sequences that are generated: prompts times choices; 0 where a route generates none. For
    /// beams, what each token of output costs at most.
    pub sequences: u64,
    /// Output of each sequence as the call stands; `None`: the call sets no maximum and the
    /// context is unknown.
    pub output: Option<u64>,
    /// The output may be lowered to this, and not below.
    pub least_output: u64,
    /// How often the engine counts each prompt, which `usage` counts once.
    pub copies: u64,
    /// The engine counts more than `usage` tells, and nobody tells how much: beams.
    pub is_untold: bool,
}

impl Bound {
    /// Everything together, with this much output for each sequence.
    #[must_use]
    pub fn total(&self, output: u64) -> u64 {
        self.prompt
            .saturating_add(self.sequences.saturating_mul(output))
    }

    /// What the engine counted for a call that ended with this usage; `None` if its usage does not
    /// tell, so that all that was reserved counts.
    #[must_use]
    pub fn counted(&self, used: Tokens) -> Option<u64> {
        let prompts = used.prompt.saturating_mul(self.copies.max(1));
        (!self.is_untold).then(|| prompts.saturating_add(used.completion))
    }

    fn new(prompts: Prompts, output: Output, context: Option<u64>) -> Result<Self, Error> {
        if output.beams {
            return Self::of_beams(prompts, output, context);
        }
        Ok(Self {
            prompt: prompts.tokens.saturating_mul(output.choices.max(1)),
            sequences: prompts.count.saturating_mul(output.choices),
            output: output.most,
            least_output: output.least,
            copies: output.choices.max(1),
            is_untold: false,
        })
    }

    /// Beams are searched for by one call a beam and step, with all that went before as its prompt.
    fn of_beams(prompts: Prompts, output: Output, context: Option<u64>) -> Result<Self, Error> {
        let most = output.most.ok_or_else(|| {
            Error::new(
                Code::InvalidRequest,
                "a beam search without a maximum of tokens is not open to keys with a token limit until the context of the model is known",
            )
            .param("use_beam_search")
        })?;
        let all = prompts
            .tokens
            .saturating_add(prompts.count.saturating_mul(most));
        let contexts = context.map_or(u64::MAX, |context| context.saturating_mul(prompts.count));
        Ok(Self {
            prompt: 0,
            sequences: all.min(contexts).saturating_mul(output.choices),
            output: Some(most),
            least_output: output.least,
            copies: output.choices,
            is_untold: true,
        })
    }
}

/// Bounding a limited call goes in this order: [`Upstreams::learn_template`], [`Upstreams::bound`],
/// and where that does not fit into what is left, [`Upstreams::counted_bound`]. What was granted is
/// then set by [`Request::cap_output`], always: also if it is all that was asked.
impl Upstreams {
    /// The bound by what is known. Asks nobody.
    ///
    /// # Errors
    /// `invalid_request` for what cannot be bounded; `model_not_allowed` for routes whose use is
    /// not counted in tokens.
    pub fn bound(&self, request: &Request) -> Result<Bound, Error> {
        let Payload::Json(object) = &request.payload else {
            return Err(Error::new(
                Code::ModelNotAllowed,
                "audio routes are not open to keys with a token limit: their use is not counted in tokens",
            ));
        };
        let model = self.known_model(request.model.as_deref());
        let output = output::read(request.endpoint, object, model.context)?;
        let prompts = prompt::measure(request.endpoint, object, model)?;
        Bound::new(prompts, output, model.context)
    }

    /// What is known of a model, at worst: of the targets that may take its calls, the largest.
    fn known_model(&self, name: Option<&str>) -> Model {
        let mut model: Option<Model> = None;
        for one in self.ranks(name).iter().flatten() {
            let target = &one.target;
            let known = target.knowledge();
            let Ok(served) = self.resolve(one.group, one.name.as_deref(), &known) else {
                continue;
            };
            let lesson = served.as_deref().and_then(|id| target.lessons().of(id));
            let here = Model {
                context: match &served {
                    Some(id) => known.context(id),
                    None => known.longest_context(),
                },
                template: lesson
                    .and_then(Lesson::template)
                    .unwrap_or(Template::UNKNOWN),
            };
            model = Some(match model {
                None => here,
                Some(other) => Model {
                    context: other.context.zip(here.context).map(|(a, b)| a.max(b)),
                    template: other.template.or_larger(here.template),
                },
            });
        }
        model.unwrap_or(Model {
            context: None,
            template: Template::UNKNOWN,
        })
    }
}

impl Request {
    /// How often the engine counts each prompt, which `usage` counts once: for each choice.
    #[must_use]
    pub fn copies(&self) -> u64 {
        match &self.payload {
            Payload::Json(object) => output::choices(self.endpoint, object),
            Payload::Form(_) => 1,
        }
    }

    /// Sets the most output of each sequence; it may be lowered later, and never be raised or left
    /// out. Events are sent with each token then: the last count of a stream that breaks off is all
    /// that is known of it.
    pub fn cap_output(&mut self, tokens: u64) {
        self.cap = Some(self.cap.map_or(tokens, |cap| cap.min(tokens)));
        self.lower_own_limits(tokens);
        if let Payload::Json(object) = &mut self.payload {
            object.remove("stream_interval");
        }
    }

    /// Writes the cap where the client wrote no maximum of its own, unless the model's context is
    /// no larger than that.
    pub(super) fn write_cap(&mut self, context: Option<u64>) {
        let Some(cap) = self.cap else {
            return;
        };
        let Some(name) = default_limit(self.endpoint) else {
            return;
        };
        let is_needless = context.is_some_and(|context| context <= cap);
        let limits = self.endpoint.output_limits();
        let Payload::Json(object) = &mut self.payload else {
            return;
        };
        if !is_needless && limits.iter().all(|name| object.present(name).is_none()) {
            object.set(name, cap.to_string());
        }
    }

    fn lower_own_limits(&mut self, tokens: u64) {
        let Payload::Json(object) = &mut self.payload else {
            return;
        };
        for name in self.endpoint.output_limits() {
            if object.present(name).is_none() {
                continue;
            }
            let asked = output::figure(object, name, 0).ok().flatten();
            if asked.is_none_or(|asked| asked > tokens) {
                object.set(name, tokens.to_string());
            }
        }
    }
}

/// The member that sets the maximum where the client used none. Older servers know the older name.
fn default_limit(endpoint: Endpoint) -> Option<&'static str> {
    endpoint.output_limits().last().copied()
}
