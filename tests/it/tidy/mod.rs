//! The house rules that no lint knows, checked on the text of the sources.

mod modules;
mod source;

use source::{Source, repository_texts, rust_sources};

const MOST_LINES: usize = 400;

/// Fails with every finding, so that one run shows all.
fn assert_none(rule: &str, findings: &[String]) {
    assert!(findings.is_empty(), "{rule}:\n  {}", findings.join("\n  "));
}

fn findings_in(sources: &[Source], find: impl Fn(&Source) -> Vec<String>) -> Vec<String> {
    sources.iter().flat_map(find).collect()
}

/// `path:line` of each code line outside tests that holds one of `words`, unless `allowed` says so.
fn uses_of(words: &[&str], allowed: impl Fn(&Source) -> bool) -> Vec<String> {
    findings_in(&rust_sources(&["src"]), |source| {
        let lines = source
            .production_lines()
            .filter(|(_, line)| words.iter().any(|word| line.contains(word)));
        if allowed(source) {
            Vec::new()
        } else {
            lines
                .map(|(number, _)| format!("{}:{number}", source.path))
                .collect()
        }
    })
}

#[test]
fn files_are_short() {
    let findings = findings_in(
        &rust_sources(&["src", "tests", "benches", "examples"]),
        |source| {
            let lines = source.text.lines().count();
            if lines > MOST_LINES {
                vec![format!("{}: {lines} lines", source.path)]
            } else {
                Vec::new()
            }
        },
    );
    assert_none("a Rust file has at most 400 lines", &findings);
}

#[test]
fn every_module_says_what_it_is_for() {
    let findings = findings_in(
        &rust_sources(&["src", "tests", "benches", "examples"]),
        |source| {
            if source.text.starts_with("//! ") {
                Vec::new()
            } else {
                vec![source.path.clone()]
            }
        },
    );
    assert_none("a module begins with `//!`", &findings);
}

#[test]
fn only_config_reads_the_environment() {
    let findings = uses_of(
        &[
            "std::env::var",
            "env::vars",
            "env::var(",
            "env::var_os(",
            "option_env!",
        ],
        |source| source.is_in("config"),
    );
    assert_none("only config reads the environment", &findings);
}

#[test]
fn only_main_ends_the_process() {
    let findings = uses_of(&["process::exit", "process::abort", "ExitCode"], |source| {
        source.path == "src/main.rs"
    });
    assert_none("only main ends the process", &findings);
}

#[test]
fn only_cli_prints() {
    // The log is the other writer of standard output; it goes through `tracing`, never `print`.
    let findings = uses_of(
        &["println!", "print!(", "io::stderr", "io::stdout"],
        |source| {
            source.is_in("cli")
                || source.path == "src/telemetry/log/mod.rs"
                || source.path == "src/config/source.rs"
        },
    );
    assert_none("only cli prints", &findings);
}

#[test]
fn nothing_names_a_machine_or_a_registry() {
    // Put together here, so that this file passes its own test.
    let words = [
        ["/ro", "ot/"],
        ["/ho", "me/"],
        ["/Us", "ers/"],
        ["/wo", "rk/"],
        ["registry.", "npmjs.org"],
        ["py", "pi.org"],
        ["index.", "crates.io"],
    ]
    .map(|halves| halves.concat());
    let findings = findings_in(&repository_texts(), |source| {
        let named = |line: &str| words.iter().any(|word| line.contains(word.as_str()));
        let lines = source
            .text
            .lines()
            .enumerate()
            .filter(|(_, line)| named(line));
        lines
            .map(|(index, _)| format!("{}:{}", source.path, index + 1))
            .collect()
    });
    assert_none("no paths of one machine, no registry hosts", &findings);
}
