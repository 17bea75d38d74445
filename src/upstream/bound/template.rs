//! What a model's chat template writes of its own accord, learnt by having a minimal chat counted.
//! Knows no call but for whether it has tools.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use crate::upstream::Object;
use crate::upstream::target::lock;

/// What is assumed of a template that nobody has counted.
const UNKNOWN: u64 = 4096;
/// For what templates write only now and then: dates, marks of roles.
const SLACK: u64 = 64;
/// A template that could not be learnt is tried again after this time.
const TRY_AGAIN: Duration = Duration::from_mins(1);
/// Models whose lessons are remembered.
const MODELS: usize = 64;
/// Members that make a template write what a minimal chat does not show.
const CHANGES: [&str; 6] = [
    "chat_template_kwargs",
    "documents",
    "reasoning_effort",
    "reasoning",
    "thinking",
    "output_config",
];

/// The chats that are counted, but for the model.
pub const MINIMAL: &str = r#""messages":[{"role":"user","content":"x"}]"#;
pub const MINIMAL_TOOL: &str = r#""tools":[{"type":"function","function":{"name":"x","parameters":{"type":"object","properties":{}}}}]"#;

/// The tokens of a template alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Template {
    pub bare: u64,
    pub with_tools: u64,
}

impl Template {
    pub const UNKNOWN: Self = Self {
        bare: UNKNOWN,
        with_tools: UNKNOWN,
    };

    /// What it adds to a call.
    pub fn tokens(self, object: &Object) -> u64 {
        let is_there = |name: &&str| object.present(name).is_some();
        let shown = if ["tools", "functions"].iter().any(is_there) {
            self.with_tools
        } else {
            self.bare
        };
        let tokens = if CHANGES.iter().any(is_there) {
            shown.max(UNKNOWN)
        } else {
            shown
        };
        tokens.saturating_add(SLACK)
    }

    /// The larger of two: either may be the one.
    pub fn or_larger(self, other: Self) -> Self {
        Self {
            bare: self.bare.max(other.bare),
            with_tools: self.with_tools.max(other.with_tools),
        }
    }
}

/// What came of learning.
#[derive(Clone, Copy, Debug)]
pub enum Lesson {
    Learnt(Template),
    /// It could not be counted then.
    Failed(Instant),
}

impl Lesson {
    pub fn template(self) -> Option<Template> {
        match self {
            Self::Learnt(template) => Some(template),
            Self::Failed(_) => None,
        }
    }

    pub fn is_due_again(self) -> bool {
        matches!(self, Self::Failed(at) if at.elapsed() >= TRY_AGAIN)
    }
}

/// What was learnt of a target's models since it came up.
#[derive(Default)]
pub struct Lessons(Mutex<BTreeMap<String, Lesson>>);

impl Lessons {
    pub fn of(&self, model: &str) -> Option<Lesson> {
        lock(&self.0).get(model).copied()
    }

    pub fn note(&self, model: &str, lesson: Lesson) {
        let mut lessons = lock(&self.0);
        if lessons.len() >= MODELS && !lessons.contains_key(model) {
            lessons.clear();
        }
        lessons.insert(model.to_owned(), lesson);
    }

    /// Another program may have come up.
    pub fn forget(&self) {
        lock(&self.0).clear();
    }
}
