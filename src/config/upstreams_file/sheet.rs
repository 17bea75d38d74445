//! The text of the file and what is wrong in it, by lines. Knows nothing of upstreams.

use std::fmt::Display;

use toml::de::Error;

use super::super::reader::Reader;

/// A text without any TOML in it is one fault per word.
const MOST_SYNTAX_FAULTS: usize = 20;

/// A string of the file, and where it stands.
pub(super) struct Told {
    /// Byte offset.
    pub at: usize,
    pub text: String,
}

/// The file's text and what was found in it.
pub(super) struct Sheet<'a> {
    pub text: &'a str,
    /// Byte offset and text of each.
    faults: Vec<(usize, String)>,
    warnings: Vec<(usize, String)>,
}

impl<'a> Sheet<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            text,
            faults: Vec::new(),
            warnings: Vec::new(),
        }
    }

    pub(super) fn fault(&mut self, at: usize, text: impl Display) {
        self.faults.push((at, text.to_string()));
    }

    pub(super) fn warn(&mut self, at: usize, text: impl Display) {
        self.warnings.push((at, text.to_string()));
    }

    /// What is no TOML. The lines themselves are not repeated: they may hold a secret.
    pub(super) fn syntax(&mut self, wrong: &[Error]) {
        for error in wrong.iter().take(MOST_SYNTAX_FAULTS) {
            let at = error.span().map_or(0, |span| span.start);
            self.fault(at, format_args!("is no TOML: {}", error.message()));
        }
        if wrong.len() > MOST_SYNTAX_FAULTS {
            let more = wrong.len() - MOST_SYNTAX_FAULTS;
            self.fault(self.text.len(), format_args!("and {more} more faults"));
        }
    }

    /// Hands all over in the order of the lines, in the name of the file.
    pub(super) fn tell(mut self, reader: &mut Reader<'_>, path: &str) {
        self.faults.sort_by_key(|(at, _)| *at);
        self.warnings.sort_by_key(|(at, _)| *at);
        for (at, text) in &self.faults {
            let line = self.line(*at);
            reader.fault("UPSTREAMS_FILE", format_args!("{path} line {line}: {text}"));
        }
        for (at, text) in &self.warnings {
            let line = self.line(*at);
            reader.warn("UPSTREAMS_FILE", format_args!("{path} line {line}: {text}"));
        }
    }

    /// Counts from 1.
    fn line(&self, at: usize) -> usize {
        let before = &self.text.as_bytes()[..at.min(self.text.len())];
        1 + memchr::memchr_iter(b'\n', before).count()
    }
}
