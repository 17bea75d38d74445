//! What is asked of a warm upstream for the sake of a bound: its template's own tokens, and a
//! prompt's. Never wakes one.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::template::{self, Lesson, Template};
use super::{Bound, output, prompt::Prompts};
use crate::upstream::fit;
use crate::upstream::request::Payload;
use crate::upstream::routing::Candidate;
use crate::upstream::{Endpoint, Object, Request, Upstreams};

const LEARN_LIMIT: Duration = Duration::from_secs(1);
const COUNT_LIMIT: Duration = Duration::from_secs(2);
/// A bound hangs on the list, which may have changed: it is asked again when it is older.
const LIST_AGE: Duration = Duration::from_mins(1);

/// Members beside the prompt that do not change it. With any other, the count may be of another
/// prompt than the one that is sent.
const HARMLESS: [&str; 22] = [
    "max_tokens",
    "max_completion_tokens",
    "n",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "min_tokens",
    "stream",
    "stream_options",
    "stop",
    "seed",
    "user",
    "metadata",
    "logprobs",
    "top_logprobs",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "ignore_eos",
    "parallel_tool_calls",
    "store",
];

impl Upstreams {
    /// Whether [`Upstreams::learn_template`] would ask nobody.
    #[must_use]
    pub fn knows_template(&self, request: &Request) -> bool {
        let mut warm = self.warm(request);
        warm.all(|one| {
            let known = one.target.knowledge();
            let is_fresh = known.asked_at.is_some_and(|at| at.elapsed() < LIST_AGE);
            is_fresh && self.lesson(&one, request).is_none()
        })
    }

    /// Those that may take the call and can be asked.
    fn warm(&self, request: &Request) -> impl Iterator<Item = Candidate> {
        let ranks = self.ranks(request.model.as_deref());
        let all = ranks.into_iter().flatten();
        all.filter(|one| one.target.is_warm())
    }

    /// The model whose template is to be learnt, if it is.
    fn lesson(&self, one: &Candidate, request: &Request) -> Option<String> {
        let needs_template = matches!(
            request.endpoint,
            Endpoint::ChatCompletions
                | Endpoint::Responses
                | Endpoint::Messages
                | Endpoint::Embeddings
        );
        let known = one.target.knowledge();
        if !needs_template || known.is_vllm == Some(false) {
            return None;
        }
        let model = self
            .resolve(one.group, one.name.as_deref(), &known)
            .ok()??;
        let lesson = one.target.lessons().of(&model);
        let is_due = lesson.is_none_or(Lesson::is_due_again);
        (is_due && !is_rendered_apart(&model)).then_some(model)
    }

    /// Finds out what [`Upstreams::bound`] needs to know, where a warm upstream can tell: its models
    /// and its template. Takes a second at most; what was learnt is remembered, also that nothing
    /// was.
    pub async fn learn_template(&self, request: &Request) {
        let warm: Vec<Candidate> = self.warm(request).collect();
        let lessons = warm.iter().map(|one| self.learn_of(one, request));
        futures_util::future::join_all(lessons).await;
    }

    async fn learn_of(&self, one: &Candidate, request: &Request) {
        let began = Instant::now();
        let target = &one.target;
        // What it does not tell is as it was.
        let _unanswered = target.learn_older(LEARN_LIMIT, LIST_AGE).await;
        let Some(model) = self.lesson(one, request) else {
            return;
        };
        // Calls that come meanwhile do not ask too: they go by what is assumed.
        target.lessons().note(&model, Lesson::Failed(began));
        let name = serde_json::Value::from(model.as_str());
        let (messages, tool) = (template::MINIMAL, template::MINIMAL_TOOL);
        let ask = |members: String| {
            let question = format!("{{\"model\":{name},{members}}}");
            fit::ask_count(target, Endpoint::Tokenize, question.into())
        };
        let asked =
            futures_util::future::join(ask(messages.to_owned()), ask(format!("{messages},{tool}")));
        let left = LEARN_LIMIT.saturating_sub(began.elapsed());
        if let Ok((Some(bare), Some(with_tools))) = timeout(left, asked).await {
            let learnt = Template {
                bare: bare.count,
                with_tools: with_tools.count,
            };
            target.lessons().note(&model, Lesson::Learnt(learnt));
        }
    }

    /// The bound with the prompt as a warm upstream counts it; `None` if none can or may be asked,
    /// or if it might count another prompt than the one that is sent. Takes two seconds at most.
    pub async fn counted_bound(&self, request: &Request, bound: &Bound) -> Option<Bound> {
        let Payload::Json(object) = &request.payload else {
            return None;
        };
        let (route, members) = fit::question(request.endpoint, object)?;
        let is_exact = object.members().all(|(key, json)| {
            let is_default = json == "null" || (key == "tool_choice" && json == "\"auto\"");
            is_default || members.contains(&key) || HARMLESS.contains(&key)
        });
        if bound.is_untold || !is_exact || !super::prompt::is_text(request.endpoint, object) {
            return None;
        }
        if !self.is_one_model(request) {
            return None;
        }
        let (target, model) = self.warm(request).find_map(|one| {
            let known = one.target.knowledge();
            let served = self
                .resolve(one.group, one.name.as_deref(), &known)
                .ok()??;
            (!is_rendered_apart(&served)).then_some((one.target, served))
        })?;
        let mut question = Object::parse(object.only(members)).ok()?;
        question.set("model", serde_json::Value::from(model).to_string());
        let asked = fit::ask_count(&target, route, question.to_bytes());
        let counted = timeout(COUNT_LIMIT, asked).await.ok()??;
        let context = self.known_model(request.model.as_deref()).context;
        let output = output::read(request.endpoint, object, context).ok()?;
        let prompts = Prompts {
            count: 1,
            tokens: counted.count,
        };
        let exact = Bound::new(prompts, output, context).ok()?;
        (exact.prompt < bound.prompt).then_some(exact)
    }

    /// Whoever takes the call, it is the same model: one server's count is good for all.
    fn is_one_model(&self, request: &Request) -> bool {
        let ranks = self.ranks(request.model.as_deref());
        let mut ids = ranks.iter().flatten().map(|one| {
            let known = one.target.knowledge();
            self.resolve(one.group, one.name.as_deref(), &known).ok()?
        });
        let Some(Some(first)) = ids.next() else {
            return false;
        };
        ids.all(|id| id.as_ref() == Some(&first))
    }
}

/// Models for which vLLM writes the prompt itself: its counting route goes by the template, which
/// then is not what counts.
fn is_rendered_apart(model: &str) -> bool {
    let name = model.to_ascii_lowercase();
    name.contains("gpt-oss") || name.contains("gpt_oss")
}
