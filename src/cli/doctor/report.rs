//! What the walk has found so far, as lines for people or as JSON. Knows the names of the hops and
//! nothing of what they do.

use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::anyhow;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Outcome;
use crate::cli::remote::Remote;
pub use crate::cli::remote::remedy::Broken;

/// In the order of the walk.
const HOPS: [&str; 6] = ["address", "key", "models", "chat", "stream", "tool_call"];

/// A hop that is as it should be.
pub struct Passed<T = ()> {
    pub saw: String,
    /// What works and had better be otherwise, with what to do.
    pub warnings: Vec<String>,
    pub found: T,
}

impl Passed {
    pub fn new(saw: impl Into<String>) -> Self {
        Self {
            saw: saw.into(),
            warnings: Vec::new(),
            found: (),
        }
    }
}

impl<T> Passed<T> {
    pub fn with<U>(self, found: U) -> Passed<U> {
        Passed {
            saw: self.saw,
            warnings: self.warnings,
            found,
        }
    }

    #[must_use]
    pub fn warn(mut self, warning: impl Into<String>) -> Self {
        self.warnings.push(warning.into());
        self
    }
}

/// A hop that was walked.
struct Hop {
    name: &'static str,
    saw: String,
    /// For a broken one.
    todo: Option<String>,
    warnings: Vec<String>,
    took: Duration,
}

/// All hops so far. Lines are printed as they come, JSON at the end.
pub struct Report {
    hops: Vec<Hop>,
    model: Option<String>,
    began: Instant,
    is_json: bool,
    colour: bool,
}

impl Report {
    pub fn new(is_json: bool) -> Self {
        Self {
            hops: Vec::new(),
            model: None,
            began: Instant::now(),
            is_json,
            colour: std::io::stdout().is_terminal(),
        }
    }

    pub fn name_model(&mut self, model: &str) {
        self.model = Some(model.to_owned());
    }

    /// Takes down the next hop; `None` where it is broken.
    ///
    /// # Errors
    /// The line cannot be printed.
    pub fn note<T>(&mut self, remote: &Remote, outcome: Outcome<T>) -> anyhow::Result<Option<T>> {
        let name = HOPS.get(self.hops.len()).copied().unwrap_or_default();
        let took = self.began.elapsed();
        self.began = Instant::now();
        let (saw, todo, warnings, found) = match outcome {
            Ok(Passed {
                saw,
                warnings,
                found,
            }) => (saw, None, warnings, Some(found)),
            Err(Broken { saw, todo }) => (saw, Some(todo), Vec::new(), None),
        };
        let hop = Hop {
            name,
            saw: remote.clean(&saw),
            todo,
            warnings: warnings.iter().map(|text| remote.clean(text)).collect(),
            took,
        };
        if !self.is_json {
            super::super::print(&self.lines(&hop))?;
        }
        self.hops.push(hop);
        Ok(found)
    }

    /// Prints what is left.
    ///
    /// # Errors
    /// A hop is broken.
    pub fn finish(self, remote: &Remote) -> anyhow::Result<()> {
        let failed = self.hops.iter().find(|hop| hop.todo.is_some());
        let failed = failed.map(|hop| hop.name);
        let skipped = HOPS.iter().skip(self.hops.len());
        if self.is_json {
            let hops = self.hops.iter().map(as_json);
            let skipped = skipped.map(|name| json!({"hop": name, "result": "skipped"}));
            let all: Vec<Value> = hops.chain(skipped).collect();
            let report = json!({
                "ok": failed.is_none(),
                "url": remote.shown_base(),
                "model": self.model,
                "failed": failed,
                "hops": all,
            });
            super::super::print(&(serde_json::to_string_pretty(&report)? + "\n"))?;
        } else {
            for name in skipped {
                let mark = self.paint("2", "skipped");
                let why = failed.unwrap_or_default();
                super::super::print(&format!("{mark}  {name:9}  {why} failed\n"))?;
            }
        }
        match failed {
            None => Ok(()),
            Some(name) => Err(anyhow!("broken at the hop {name}")),
        }
    }

    fn lines(&self, hop: &Hop) -> String {
        const INDENT: &str = "         ";
        let mark = match hop.todo {
            None => self.paint("32", "ok     "),
            Some(_) => self.paint("31", "failed "),
        };
        let mut lines = format!("{mark}  {:9}  {}\n", hop.name, hop.saw);
        let todo = hop.todo.iter().map(|todo| ("1", "do:", todo));
        let warnings = hop.warnings.iter().map(|text| ("33", "warning:", text));
        for (colour, word, text) in todo.chain(warnings) {
            let word = self.paint(colour, word);
            lines.extend([INDENT, &word, " ", text, "\n"]);
        }
        lines
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{colour}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

fn as_json(hop: &Hop) -> Value {
    let result = if hop.todo.is_some() { "failed" } else { "ok" };
    json!({
        "hop": hop.name,
        "result": result,
        "saw": hop.saw,
        "todo": hop.todo,
        "warnings": hop.warnings,
        "ms": u64::try_from(hop.took.as_millis()).unwrap_or(u64::MAX),
    })
}
