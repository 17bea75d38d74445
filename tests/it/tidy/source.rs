//! The files of the repository as text.

use std::fs;
use std::path::Path;

/// Folders that hold what people wrote, beside the files at the top.
const FOLDERS: [&str; 12] = [
    ".ci",
    "benches",
    "docs",
    "examples",
    "fuzz",
    "migrations",
    "schema",
    "scripts",
    "sql",
    "src",
    "tests",
    ".github",
];
/// Made by tools, never committed, or both.
const SKIPPED: [&str; 7] = [
    ".git",
    "target",
    "node_modules",
    ".venv",
    "__pycache__",
    "Cargo.lock",
    ".env",
];

/// One file.
pub struct Source {
    /// From the top of the repository, with slashes.
    pub path: String,
    pub text: String,
}

impl Source {
    /// The file belongs to this top-level module of the crate.
    pub fn is_in(&self, module: &str) -> bool {
        self.module() == Some(module)
    }

    /// The top-level module of the crate, `None` outside `src`.
    pub fn module(&self) -> Option<&str> {
        let path = self.path.strip_prefix("src/")?;
        Some(
            path.split_once('/')
                .map_or_else(|| path.trim_end_matches(".rs"), |(module, _)| module),
        )
    }

    /// Code lines with their numbers: no comments, no test modules.
    pub fn production_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let of_tests = self
            .path
            .split('/')
            .any(|part| part == "tests" || part == "tests.rs");
        let lines = if of_tests { "" } else { self.text.as_str() };
        // By house rule tests are the last item of a file.
        let numbered = lines
            .lines()
            .enumerate()
            .take_while(|(_, line)| !line.starts_with("mod tests {"));
        numbered
            .filter(|(_, line)| !line.trim_start().starts_with("//"))
            .map(|(index, line)| (index + 1, line))
    }
}

/// All `.rs` files below these folders, as far as those exist.
pub fn rust_sources(folders: &[&str]) -> Vec<Source> {
    let mut sources = texts(folders);
    sources.retain(|source| {
        Path::new(&source.path)
            .extension()
            .is_some_and(|end| end == "rs")
    });
    assert!(sources.len() > 10, "the tests look at the wrong place");
    sources
}

/// All texts that are committed, as far as folders can tell.
pub fn repository_texts() -> Vec<Source> {
    let mut sources = texts(&FOLDERS);
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    for entry in fs::read_dir(top).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            add(top, &path, &mut sources);
        }
    }
    sources
}

fn texts(folders: &[&str]) -> Vec<Source> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = Vec::new();
    let mut waiting: Vec<_> = folders
        .iter()
        .map(|folder| top.join(folder))
        .filter(|folder| folder.is_dir())
        .collect();
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if is_skipped(&path) {
                continue;
            }
            if path.is_dir() {
                waiting.push(path);
            } else {
                add(top, &path, &mut sources);
            }
        }
    }
    sources.sort_by(|one, other| one.path.cmp(&other.path));
    sources
}

fn is_skipped(path: &Path) -> bool {
    path.file_name()
        .and_then(|name| name.to_str())
        .is_none_or(|name| SKIPPED.contains(&name))
}

/// What is no text cannot break a rule about text.
fn add(top: &Path, path: &Path, sources: &mut Vec<Source>) {
    if is_skipped(path) {
        return;
    }
    if let Ok(text) = fs::read_to_string(path) {
        let path = path
            .strip_prefix(top)
            .unwrap()
            .to_str()
            .unwrap()
            .replace('\\', "/");
        sources.push(Source { path, text });
    }
}
