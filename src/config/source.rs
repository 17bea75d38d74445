//! Where values come from: the process's environment, `./.env`, flags. The only code that reads
//! the environment, and it reads it whole: the upstreams file names variables of its own.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Read};

use super::client::CLIENT_KEY;
use super::vars::{Kind, VARS};

/// Longest `.env` that is read, in bytes.
const DOTENV_BYTES: u64 = 256 * 1024;

/// Variables that the platform sets and nobody configures.
const PLATFORM: [&str; 2] = ["K_SERVICE", "K_REVISION"];

/// Variables of the verbs that call a gateway.
const CLIENT: [&str; 2] = [CLIENT_KEY, "TOLLGATE_API_KEY_FILE"];

/// All that a configuration is made of. No `Debug`: it holds secrets in clear.
#[derive(Clone, Default)]
pub struct Sources {
    /// Variable names with values; these win.
    pub flags: BTreeMap<String, String>,
    pub environment: BTreeMap<String, String>,
    /// The text of `./.env`, empty if there is none.
    pub dotenv: String,
    /// Standard output is a terminal.
    pub terminal: bool,
    /// What went wrong while reading the above.
    pub faults: Vec<String>,
}

impl Sources {
    /// Reads the environment of this process and, unless it runs on Cloud Run, `./.env`.
    pub(super) fn of_process(flags: BTreeMap<String, String>) -> Self {
        let terminal = std::io::stdout().is_terminal();
        let mut sources = Self {
            flags,
            terminal,
            ..Self::default()
        };
        for (name, value) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            let value = match value.into_string() {
                Err(_) if is_read_by_name(&name) => {
                    sources.faults.push(format!("{name}: is not UTF-8"));
                    continue;
                }
                value => value.unwrap_or_else(|raw| raw.to_string_lossy().into_owned()),
            };
            sources.environment.insert(name, value);
        }
        if !sources.on_cloud_run() {
            match read_dotenv() {
                Ok(text) => sources.dotenv = text,
                Err(fault) => sources.faults.push(format!(".env: {fault}")),
            }
        }
        sources
    }

    /// What the platform says under this name; never from `.env` or a flag.
    pub(super) fn platform(&self, name: &str) -> Option<&str> {
        self.environment
            .get(name)
            .map(|value| value.trim())
            .filter(|value| !value.is_empty())
    }

    pub(super) fn on_cloud_run(&self) -> bool {
        self.platform("K_SERVICE").is_some()
    }
}

/// A variable of the table, the file of a secret there, or the platform's.
fn is_read_by_name(name: &str) -> bool {
    let is_known = |name| VARS.iter().any(|var| var.name == name);
    let is_file = |name| {
        let mut secrets = VARS.iter().filter(|var| var.kind == Kind::Secret);
        secrets.any(|var| var.name == name)
    };
    is_known(name)
        || name.strip_suffix("_FILE").is_some_and(is_file)
        || PLATFORM.contains(&name)
        || CLIENT.contains(&name)
}

fn read_dotenv() -> Result<String, String> {
    let file = match std::fs::File::open(".env") {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(String::new()),
        Err(e) => return Err(format!("cannot be read: {e}")),
    };
    let mut text = String::new();
    let read = file
        .take(DOTENV_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(|e| format!("cannot be read: {e}"))?;
    if u64::try_from(read).is_ok_and(|read| read > DOTENV_BYTES) {
        return Err(format!("is longer than {DOTENV_BYTES} bytes"));
    }
    Ok(text)
}
