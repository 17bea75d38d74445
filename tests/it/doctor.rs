//! `tollgate doctor`, run as its user runs it: against gateways that are as they should be, and against
//! set-ups that are broken in one place, which it has to name.

mod address;
mod answers;
mod between;
mod fine;

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use super::harness::KEY;

const HOPS: [&str; 6] = ["address", "key", "models", "chat", "stream", "tool_call"];

/// What a run said.
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

/// A run that is still to be started.
struct Run {
    command: Command,
    input: Option<String>,
}

/// `tollgate doctor` with these arguments and nothing in its environment.
fn doctor(arguments: &[&str]) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command
        .arg("doctor")
        .args(arguments)
        .current_dir(Path::new(env!("CARGO_TARGET_TMPDIR")))
        .env_clear();
    Run {
        command,
        input: None,
    }
}

/// With the plain key in the environment.
async fn with_key(arguments: &[&str]) -> Said {
    doctor(arguments).env("TOLLGATE_API_KEY", KEY).said().await
}

impl Run {
    fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    fn input(mut self, text: &str) -> Self {
        self.input = Some(text.to_owned());
        self
    }

    /// Runs to the end, beside the servers of this test.
    async fn said(mut self) -> Said {
        let run = move || {
            let mut child = self
                .command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("it starts");
            let mut stdin = child.stdin.take().expect("its input");
            // It may not read it.
            let _ = stdin.write_all(self.input.unwrap_or_default().as_bytes());
            drop(stdin);
            child.wait_with_output().expect("it ends")
        };
        let output = tokio::task::spawn_blocking(run).await.expect("it runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        let said = Said {
            code: output.status.code(),
            out: text(output.stdout),
            err: text(output.stderr),
        };
        for key in [KEY, "sk-wrong-0123456789abcdef"] {
            assert!(!said.both().contains(key), "the key is shown: {said:?}");
        }
        assert!(
            !said.out.contains('\x1b'),
            "colours are for terminals: {said:?}"
        );
        said
    }
}

impl std::fmt::Debug for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}\n{}\n{}", self.code, self.out, self.err)
    }
}

impl Said {
    fn both(&self) -> String {
        format!("{}{}", self.out, self.err)
    }

    /// How a hop ended, and what was seen there.
    fn hop(&self, hop: &str) -> (&str, &str) {
        let found = self.out.lines().find_map(|line| {
            let (result, rest) = line.split_once("  ")?;
            let (name, saw) = rest.trim_start().split_once(' ')?;
            (name == hop).then_some((result.trim(), saw.trim()))
        });
        found.unwrap_or_else(|| panic!("no hop {hop}: {self:?}"))
    }

    /// This hop is the broken one; each of the words stands in what was seen or is to be done.
    fn breaks_at(&self, hop: &str, words: &[&str]) {
        assert_eq!(self.code, Some(1), "{self:?}");
        let at = HOPS.iter().position(|name| *name == hop).expect("a hop");
        for (index, name) in HOPS.iter().enumerate() {
            let expected = match index.cmp(&at) {
                std::cmp::Ordering::Less => "ok",
                std::cmp::Ordering::Equal => "failed",
                std::cmp::Ordering::Greater => "skipped",
            };
            assert_eq!(self.hop(name).0, expected, "{name}: {self:?}");
        }
        let mut lines = self.out.lines().skip_while(|l| !l.starts_with("failed"));
        let failed = lines.next().unwrap_or_default();
        let todo = lines.next().unwrap_or_default();
        assert!(todo.trim_start().starts_with("do: "), "{self:?}");
        for word in words {
            let told = failed.contains(word) || todo.contains(word);
            assert!(told, "`{word}` is not in:\n{failed}\n{todo}");
        }
        let end = format!("tollgate: broken at the hop {hop}\n");
        assert!(self.err.ends_with(&end), "{self:?}");
    }

    fn is_fine(&self) {
        assert_eq!(self.code, Some(0), "{self:?}");
        for name in HOPS {
            assert_eq!(self.hop(name).0, "ok", "{name}: {self:?}");
        }
    }
}
