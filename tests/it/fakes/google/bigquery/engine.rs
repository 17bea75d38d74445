//! The process that runs queries: `tests/sql/engine.py`, one line of JSON for each, started when the
//! first query comes.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

#[derive(Default)]
pub struct Engine(Option<Running>);

struct Running {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

/// The interpreter that has what the engine needs.
pub fn python() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/sql-venv/bin/python")
}

impl Engine {
    /// The answer to one request, an object with `error` where it has none. Blocks.
    pub fn run(&mut self, request: &Value) -> Value {
        self.ask(request).unwrap_or_else(|error| {
            self.0 = None;
            json!({"error": format!("the engine fails: {error}")})
        })
    }

    fn ask(&mut self, request: &Value) -> std::io::Result<Value> {
        let running = match &mut self.0 {
            Some(running) => running,
            none => none.insert(Running::start()?),
        };
        writeln!(running.stdin, "{request}")?;
        running.stdin.flush()?;
        let mut line = String::new();
        running.stdout.read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    }
}

impl Running {
    fn start() -> std::io::Result<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sql/engine.py");
        let mut child = Command::new(python())
            .arg("-B")
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = child.stdin.take().expect("its input");
        let stdout = BufReader::new(child.stdout.take().expect("its output"));
        Ok(Self {
            child,
            stdin,
            stdout,
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
