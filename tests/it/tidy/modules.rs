//! Which module may use which. The table is the map in ARCHITECTURE.md.

use super::assert_none;
use super::source::{Source, rust_sources};

const MAP: &str = include_str!("../../../ARCHITECTURE.md");

/// A module of the map and what it may name as `crate::...`.
struct Room {
    name: String,
    may_use: Vec<String>,
}

/// The rows of the table of modules. Its last column names modules, or says `all below`, or `all
/// but` some.
fn rooms() -> Vec<Room> {
    let table = MAP
        .split("\n## Modules\n")
        .nth(1)
        .expect("the table of modules");
    let rows: Vec<Vec<&str>> = table
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.trim_matches('|').split('|').collect())
        .collect();
    let names: Vec<Vec<String>> = rows.iter().map(|cells| quoted(cells[0])).collect();
    let mut rooms = Vec::new();
    for (at, cells) in rows.iter().enumerate() {
        let said = quoted(cells[2]);
        let may_use = if cells[2].contains("all below") {
            names[at + 1..].concat()
        } else if cells[2].contains("all but") {
            let mut all = names.concat();
            all.retain(|name| !said.contains(name));
            all
        } else {
            said
        };
        rooms.extend(names[at].iter().map(|name| Room {
            name: name.clone(),
            may_use: may_use.clone(),
        }));
    }
    rooms
}

/// The words between backticks.
fn quoted(cell: &str) -> Vec<String> {
    cell.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

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
    let rooms = rooms();
    let Some(Room { may_use, .. }) = rooms.iter().find(|room| room.name == module) else {
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
        .filter(|used| used != module && !may_use.contains(used));
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
