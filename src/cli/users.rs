//! `tollgate users`: the users of the gateway's database. A new user's API key is printed once, alone,
//! on standard output. Knows no SQL; names, passwords and keys are made and checked by `auth`.

mod ask;
mod list;

#[cfg(test)]
mod tests;

use std::io::{self, IsTerminal as _, Write};

use anyhow::{Context as _, anyhow, bail};
use clap::{Args, Subcommand};

use super::refuse;
use crate::auth::KeyHash;
use crate::auth::users::{key, name, password};
use crate::config::{Database, MOST_TOKENS, Paths};
use crate::store::{NewKey, NewUser, Store, UserRow};
use ask::Asked;

const NOTES: &str = "\
The users are those of DATABASE_URL, which must be the gateway's. Changes count in every instance
within KEY_REFRESH_SECONDS.

Examples:
  tollgate users add ada                       asks for a password, prints the API key once
  pass show ada | tollgate users add ada --token-limit 2000000 --password-stdin
  tollgate users set-limit ada 3000000         the user can only lower it from now on
  tollgate users list --json | jq '.[].username'";

/// When a change counts.
const SOON: &str = "every instance knows within KEY_REFRESH_SECONDS";
/// Users that one statement gives.
const PAGE: u32 = 500;

/// Arguments of `users`.
#[derive(Debug, Args)]
#[command(after_help = NOTES)]
pub struct UsersArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a user; its API key is printed once, only its hash is kept
    Add {
        #[arg(value_parser = parse_name)]
        name: String,
        /// Tokens, prompt and completion together, that the user can only lower; by default
        /// `DEFAULT_TOKEN_LIMIT`, which it may change itself
        #[arg(long, value_name = "N", value_parser = parse_limit())]
        token_limit: Option<u64>,
        #[command(flatten)]
        password: PasswordArgs,
    },
    /// List the users: names, limits, use; never a key or password
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Set a user's token limit; the user can only lower it
    SetLimit {
        #[arg(value_parser = parse_name)]
        name: String,
        /// Tokens, prompt and completion together
        #[arg(value_parser = parse_limit())]
        tokens: u64,
    },
    /// Give a user a new password; all its tokens are void, its API key stays
    SetPassword {
        #[arg(value_parser = parse_name)]
        name: String,
        #[command(flatten)]
        password: PasswordArgs,
    },
    /// Shut a user out; its tokens are void for good
    Disable {
        #[arg(value_parser = parse_name)]
        name: String,
    },
    /// Let a user in again
    Enable {
        #[arg(value_parser = parse_name)]
        name: String,
    },
}

#[derive(Debug, Args)]
struct PasswordArgs {
    /// Read the password from standard input, to the end; a last line break is no part of it
    #[arg(long)]
    password_stdin: bool,
}

/// Runs the verb on the database of the configuration.
///
/// # Errors
/// What keeps it from doing so, in words; a `clap::Error` where there is no database to use.
pub async fn run(args: UsersArgs, paths: Paths) -> anyhow::Result<()> {
    let mut terminal = Terminal {
        out: io::stdout(),
        notes: io::stderr(),
        ask: |is_piped| {
            if is_piped {
                ask::read(io::stdin())
            } else if io::stdin().is_terminal() {
                ask::prompt()
            } else {
                Ok(Asked::Nobody)
            }
        },
    };
    execute(args.verb, &paths, &mut terminal).await
}

/// Where a verb prints and asks.
struct Terminal<O, N, A> {
    out: O,
    notes: N,
    /// Asks for a password; told whether it stands on standard input.
    ask: A,
}

async fn execute<O: Write, N: Write, A: FnMut(bool) -> anyhow::Result<Asked>>(
    verb: Verb,
    paths: &Paths,
    terminal: &mut Terminal<O, N, A>,
) -> anyhow::Result<()> {
    let may_make = matches!(verb, Verb::Add { .. });
    let store = open(&paths.database, may_make).await?;
    let done = on_store(&store, verb, paths, terminal).await;
    store.close().await;
    done
}

/// # Errors
/// Also when a file that only `add` or the gateway makes is not there: it may well be another's path.
async fn open(database: &Database, may_make: bool) -> anyhow::Result<Store> {
    const WHERE: &str = "set it to what the gateway has";
    match database {
        Database::None => Err(refuse(&format!(
            "there are no users without a database, and DATABASE_URL is none; {WHERE}"
        ))),
        Database::Sqlite(path) if !may_make && !path.exists() => bail!(
            "there is no database {} (it is made by `tollgate serve` and by `tollgate users add`); DATABASE_URL says which it is, {WHERE}",
            path.display()
        ),
        Database::Sqlite(_) | Database::Postgres(_) => {
            let store = Store::open(database).await;
            let store = store.context("cannot use the database of DATABASE_URL")?;
            store.context("there is no database")
        }
    }
}

async fn on_store<O: Write, N: Write, A: FnMut(bool) -> anyhow::Result<Asked>>(
    store: &Store,
    verb: Verb,
    paths: &Paths,
    terminal: &mut Terminal<O, N, A>,
) -> anyhow::Result<()> {
    let said = match verb {
        Verb::Add {
            name,
            token_limit,
            password,
        } => {
            let limit = (token_limit, paths.default_token_limit);
            return add(store, &name, limit, &password, terminal).await;
        }
        Verb::List { json } => {
            let users = list::read(store).await?;
            let text = if json {
                list::json(&users)?
            } else {
                list::table(&users)
            };
            terminal.out.write_all(text.as_bytes())?;
            return Ok(());
        }
        Verb::SetLimit { name, tokens } => {
            let id = named(store, &name).await?.id;
            let changed = store.set_token_limit(id, tokens, true).await?;
            changed.ok_or_else(|| unknown(&name))?;
            format!("user {name} has a limit of {tokens} tokens, and can only lower it; {SOON}")
        }
        Verb::SetPassword { name, password } => {
            named(store, &name).await?;
            let password_hash = new_password(&password, &mut terminal.ask)?;
            set_password(store, &name, &password_hash).await?;
            format!(
                "user {name} has a new password; its tokens are void, its API key stays; {SOON}"
            )
        }
        Verb::Disable { name } => {
            set_disabled(store, &name, true).await?;
            format!("user {name} is disabled; {SOON}")
        }
        Verb::Enable { name } => {
            set_disabled(store, &name, false).await?;
            format!("user {name} is enabled; it has to log in again, its API key works; {SOON}")
        }
    };
    writeln!(terminal.notes, "{said}")?;
    Ok(())
}

/// Makes a user with the limit that was given, which is then an admin's, or else the default.
async fn add<O: Write, N: Write, A: FnMut(bool) -> anyhow::Result<Asked>>(
    store: &Store,
    name: &str,
    (given, default): (Option<u64>, u64),
    password: &PasswordArgs,
    terminal: &mut Terminal<O, N, A>,
) -> anyhow::Result<()> {
    // Before the password is asked for.
    if store.user_named(name).await?.is_some() {
        return Err(taken(name));
    }
    let password_hash = new_password(password, &mut terminal.ask)?;
    let made = key::Maker::new(&store.mac_key().await?).make(key::Kind::Key);
    let hash = KeyHash::of(&made);
    let user = NewUser {
        name,
        password_hash: &password_hash,
        token_limit: given.unwrap_or(default),
        limit_is_admins: given.is_some(),
        key: NewKey {
            hash: hash.as_bytes(),
            prefix: key::shown_part(&made),
        },
    };
    let user = store.add_user(user).await?.ok_or_else(|| taken(name))?;
    show(&made, name, &mut terminal.out)?;
    writeln!(
        terminal.notes,
        "user {name} made, with {} tokens; the API key is shown this once, only its hash is kept",
        user.token_limit
    )?;
    Ok(())
}

/// Asks for a password that is fit for one, and hashes it.
fn new_password(
    args: &PasswordArgs,
    ask: &mut impl FnMut(bool) -> anyhow::Result<Asked>,
) -> anyhow::Result<String> {
    match ask(args.password_stdin)? {
        Asked::Given(given) => {
            let text = given.expose();
            let hash = password::check(text, "password").and_then(|()| password::hash_now(text));
            hash.map_err(|error| anyhow!(error.message().to_owned()))
        }
        Asked::Nobody => Err(refuse(
            "there is no terminal to ask for the password; give it on standard input, with --password-stdin",
        )),
    }
}

async fn set_disabled(store: &Store, name: &str, is_disabled: bool) -> anyhow::Result<()> {
    let id = named(store, name).await?.id;
    let changed = store.set_disabled(id, is_disabled).await?;
    changed.map(|_| ()).ok_or_else(|| unknown(name))
}

/// The user is read anew: the password may have taken a while to type.
async fn set_password(store: &Store, name: &str, hash: &str) -> anyhow::Result<()> {
    let user = named(store, name).await?;
    let changed = store.set_password(user.id, user.generation, hash).await?;
    changed.map(|_| ()).with_context(|| {
        format!("nothing was changed: somebody else changed user {name} at the same moment")
    })
}

async fn named(store: &Store, name: &str) -> anyhow::Result<UserRow> {
    let user = store.user_named(name).await?;
    user.ok_or_else(|| unknown(name))
}

/// Prints the key: the one moment it is seen.
fn show(key: &str, name: &str, out: &mut impl Write) -> anyhow::Result<()> {
    writeln!(out, "{key}")
        .and_then(|()| out.flush())
        .with_context(|| {
            format!("user {name} was made, but the API key could not be printed; the user can make another, by POST /users/me/api-key")
        })
}

fn unknown(name: &str) -> anyhow::Error {
    anyhow!("there is no user named {name}; `tollgate users list` shows all")
}

fn taken(name: &str) -> anyhow::Error {
    anyhow!("there is a user named {name} already")
}

fn parse_name(text: &str) -> Result<String, String> {
    name::fold(text).ok_or_else(|| {
        "a name has 1 to 64 of the letters a to z, digits and the signs . _ @ -".to_owned()
    })
}

fn parse_limit() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..=MOST_TOKENS)
}
