//! Which module may use which. The table is the map in ARCHITECTURE.md.

use super::assert_none;
use super::source::{Source, rust_sources};

/// Every module of the crate and what it may name as `crate::...`.
const MAY_USE: [(&str, &[&str]); 12] = [
    (
        "app",
        &[
            "auth",
            "config",
            "error",
            "http",
            "secret",
            "server",
            "store",
            "telemetry",
            "upstream",
            "usage",
        ],
    ),
    ("auth", &["config", "error", "secret"]),
    (
        "cli",
        &[
            "app",
            "auth",
            "config",
            "error",
            "secret",
            "store",
            "telemetry",
            "usage",
        ],
    ),
    ("config", &["secret"]),
    ("error", &[]),
    (
        "http",
        &[
            "auth",
            "config",
            "error",
            "secret",
            "telemetry",
            "upstream",
            "usage",
        ],
    ),
    ("secret", &[]),
    ("server", &["telemetry"]),
    ("store", &["error"]),
    ("telemetry", &["config", "error", "usage"]),
    ("upstream", &["config", "error", "secret", "telemetry"]),
    (
        "usage",
        &["config", "error", "store", "telemetry", "upstream"],
    ),
];

/// The first names after each `crate::` of a text, groups in braces included.
fn named(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(group) => names.extend(group_names(group)),
            None => names.push(leading_name(rest)),
        }
    }
    names
}

/// The names at the top level of `a::b, c::{d, e}}`, up to the brace that ends the group.
fn group_names(group: &str) -> Vec<String> {
    let mut depth = 0_usize;
    let mut names = Vec::new();
    let mut starts = true;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => starts = true,
            c if starts && !c.is_whitespace() => {
                names.push(leading_name(&group[at..]));
                starts = false;
            }
            _ => {}
        }
    }
    names
}

fn leading_name(text: &str) -> String {
    text.chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

fn wrong_arrows(source: &Source) -> Vec<String> {
    let Some(module) = source
        .module()
        .filter(|module| !["main", "lib"].contains(module))
    else {
        return Vec::new();
    };
    let Some((_, may_use)) = MAY_USE.iter().find(|(name, _)| *name == module) else {
        return vec![format!(
            "{}: the module `{module}` is not in the table",
            source.path
        )];
    };
    let code: String = source
        .production_lines()
        .flat_map(|(_, line)| [line, "\n"])
        .collect();
    let used = named(&code)
        .into_iter()
        .filter(|used| used != module && !may_use.contains(&used.as_str()));
    used.map(|used| format!("{}: `{module}` must not use `{used}`", source.path))
        .collect()
}

#[test]
fn modules_use_only_what_the_table_allows() {
    let findings: Vec<_> = rust_sources(&["src"])
        .iter()
        .flat_map(wrong_arrows)
        .collect();
    assert_none("dependencies between modules", &findings);
}

#[test]
fn main_knows_only_the_command_line() {
    let main = include_str!("../../../src/main.rs");
    let used: Vec<_> = main
        .match_indices("tollgate::")
        .map(|(at, word)| leading_name(&main[at + word.len()..]))
        .collect();
    assert!(
        !used.is_empty() && used.iter().all(|used| used == "cli"),
        "{used:?}"
    );
}

#[test]
fn the_check_sees_what_it_should() {
    let text = "use crate::a::b;\nuse crate::{c::{x, y}, d, e::f};\nfn g() { crate::h::i(); }";
    assert_eq!(named(text), ["a", "c", "d", "e", "h"]);
    let source = Source {
        path: "src/error.rs".to_owned(),
        text: "use crate::config::Config;\n".to_owned(),
    };
    assert_eq!(
        wrong_arrows(&source),
        ["src/error.rs: `error` must not use `config`"]
    );
    let tests = Source {
        path: "src/error.rs".to_owned(),
        text: "mod tests {\n    use crate::config::Config;\n}\n".to_owned(),
    };
    assert_eq!(wrong_arrows(&tests), [""; 0]);
}
