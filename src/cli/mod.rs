//! The command line: verbs, their help, exit codes. Prints and never logs.

mod check;
mod doctor;
mod flags;
mod keys;
mod opencode_config;
mod remote;
mod serve;
mod usage;
mod users;

use std::io::{self, Write};

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

use crate::config::{ConfigError, Paths};

/// What `main` ends with when the process could not do its work.
const EXIT_FAILURE: u8 = 1;
/// `EX_USAGE`: bad flags or a bad configuration.
const EXIT_USAGE: u8 = 64;

const EXAMPLES: &str = "\
Examples:
  tollgate keys add laptop --admin             make a key; it is printed once
  tollgate                                     serve; the model server is on port 8001
  tollgate serve --port 8080 --vllm-endpoint http://10.0.0.5:8000
  tollgate check                               print the effective configuration, secrets as stars
  tollgate doctor http://127.0.0.1:8000        what is broken on the way to the model
  tollgate opencode-config > opencode.json     with the models that there are
  tollgate users add ada                       make a user; its API key is printed once
  tollgate usage --by key --since 7d           what was used
  tollgate keys rotate ci --project my-project --secret vllm-api-keys
                                               a new key in Secret Manager; the old one works on for a day

Exit codes:
  0   fine
  1   failed while running (a port in use, a file that cannot be written)
  64  wrong flags or configuration; every fault is named and nothing was started";

/// A gateway in front of vLLM: API keys, streaming, exact token metering.
#[derive(Debug, Parser)]
#[command(name = "tollgate", version, after_help = EXAMPLES, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the gateway; the same as no verb at all
    Serve(serve::ServeArgs),
    /// Validate the configuration without serving, and print the effective values
    Check(check::CheckArgs),
    /// Add, list, rotate and revoke API keys
    Keys(keys::KeysArgs),
    /// Make, list, limit and disable users
    Users(users::UsersArgs),
    /// Report what was used
    Usage(usage::Args),
    /// Walk to a gateway and through it as a client does; says which hop is broken and what to do
    Doctor(doctor::DoctorArgs),
    /// Print an opencode.json for a gateway, with its models and their limits; or Openwork's fields
    OpencodeConfig(opencode_config::OpencodeConfigArgs),
}

/// Parses the command line of this process and does what it says.
///
/// # Errors
/// Whatever ends the process with another code than zero; [`report`] says which.
pub fn run() -> anyhow::Result<()> {
    match Cli::try_parse()?
        .verb
        .unwrap_or_else(|| Verb::Serve(serve::ServeArgs::default()))
    {
        Verb::Serve(args) => block_on(serve::run(args)),
        Verb::Check(args) => block_on(check::run(args)),
        Verb::Keys(args) => block_on(keys::run(args, Paths::load()?)),
        Verb::Users(args) => block_on(users::run(args, Paths::load()?)),
        Verb::Usage(args) => block_on(usage::run(args, Paths::load()?)),
        Verb::Doctor(args) => block_on(doctor::run(args)),
        Verb::OpencodeConfig(args) => block_on(opencode_config::run(args)),
    }
}

/// Prints a failure to standard error and returns the exit code for it. Help and the version come
/// this way too; they go to standard output and are no failure, as is a reader that had enough.
#[must_use]
pub fn report(failure: &anyhow::Error) -> u8 {
    if let Some(usage) = failure.downcast_ref::<clap::Error>() {
        // A closed terminal leaves nobody to tell.
        let _unread = usage.print();
        return if usage.use_stderr() { EXIT_USAGE } else { 0 };
    }
    if is_broken_pipe(failure) {
        return 0;
    }
    let _unread = writeln!(io::stderr(), "tollgate: {failure:#}");
    if failure.downcast_ref::<ConfigError>().is_some() {
        EXIT_USAGE
    } else {
        EXIT_FAILURE
    }
}

/// Writes a verb's output to standard output.
///
/// # Errors
/// When it cannot be written; a broken pipe becomes success in [`report`].
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    Ok(())
}

/// An error that ends the program as wrong flags do.
fn refuse(words: &str) -> anyhow::Error {
    clap::Error::raw(ErrorKind::InvalidValue, format!("{words}\n")).into()
}

fn is_broken_pipe(failure: &anyhow::Error) -> bool {
    let mut causes = failure
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>());
    // Sockets break too: only a failed write of our own output, which carries no context, counts.
    causes
        .next()
        .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
        && failure.chain().count() == 1
}

/// Runs a verb on a runtime with one worker per available core.
fn block_on(verb: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(verb);
    // What the drain did not wait for must not hold the process either.
    runtime.shutdown_background();
    result
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn wrong_usage_and_wrong_configuration_end_with_their_code() {
        let usage = Cli::try_parse_from(["tollgate", "fly"]).unwrap_err();
        assert_eq!(report(&usage.into()), EXIT_USAGE);
        let fault = ConfigError {
            faults: vec!["PORT: x".into()],
            warnings: Vec::new(),
            settings: Vec::new(),
        };
        assert_eq!(
            report(&anyhow::Error::new(fault).context("somewhere")),
            EXIT_USAGE
        );
        assert_eq!(report(&anyhow::anyhow!("port in use")), EXIT_FAILURE);
        assert_eq!(
            report(&io::Error::from(io::ErrorKind::BrokenPipe).into()),
            0
        );
        let upstream =
            anyhow::Error::new(io::Error::from(io::ErrorKind::BrokenPipe)).context("upstream");
        assert_eq!(report(&upstream), EXIT_FAILURE);
    }
}
