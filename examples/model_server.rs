//! The tests' model server as a program: a scripted stand-in for vLLM, for trying the gateway and its
//! clients without a model. Directives in the prompt order delays and faults.
#![expect(
    clippy::print_stdout,
    reason = "a program for people says where it listens"
)]

#[path = "../tests/it/fakes/model_server/mod.rs"]
#[expect(
    dead_code,
    unused_imports,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::panic,
    reason = "written for tests, which use all of it and want to fail loudly"
)]
mod model_server;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use model_server::{Behaviour, Dialect, ModelServer, Settings};

const DIRECTIVES: &str = "\
A directive anywhere in the last user message orders how the call is answered, such as
[[tokens=100 delay_ms=50]] or [[status=503 body=\"queue full\"]]. Known: tokens, text,
head_delay_ms, delay_ms, ahead_ms, finish, cached, no_usage, crlf, comments, split, call, agent, status, body,
content_type, retry_after, hang_up, mute, cut_after, end_after, mute_after, error_after,
garbage_after, huge, no_done.";

/// A scripted stand-in for a model server. It speaks vLLM's HTTP dialect and runs no model.
#[derive(Parser)]
#[command(name = "model_server", after_help = DIRECTIVES)]
struct Flags {
    /// Port on 127.0.0.1; 0 takes a free one.
    #[arg(long, default_value_t = 8001)]
    port: u16,
    /// Address to listen on.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    host: IpAddr,
    /// Name of the one model that is served.
    #[arg(long, default_value = "tiny-chat")]
    model: String,
    /// Its context, in tokens.
    #[arg(long, default_value_t = 32_768)]
    max_model_len: u64,
    /// Milliseconds that each token takes.
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
    /// Answer from the recordings in this folder where one fits.
    #[arg(long, value_name = "DIR")]
    replay: Option<PathBuf>,
    /// Whose dialect to speak.
    #[arg(long, value_enum, default_value_t = Speech::Python)]
    dialect: Speech,
    /// Ask for this key under /v1.
    #[arg(long)]
    api_key: Option<String>,
    /// Serve embeddings, rerank, score and audio too.
    #[arg(long)]
    pooling: bool,
    /// Refuse prompt and output that exceed the context together, as older vLLMs do.
    #[arg(long)]
    refuse_overflow: bool,
    /// Play the coding agent's turn whenever tools are offered.
    #[arg(long)]
    agent: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Speech {
    /// vLLM's Python server.
    Python,
    /// vLLM's Rust front end.
    Rust,
    /// A server that is not vLLM.
    Foreign,
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let flags = Flags::parse();
    let delay = Duration::from_millis(flags.delay_ms);
    let behaviour = Behaviour {
        agent: flags.agent,
        ..Behaviour::default().paced(delay)
    };
    let settings = Settings {
        addr: SocketAddr::new(flags.host, flags.port),
        model: flags.model,
        max_model_len: flags.max_model_len,
        dialect: match flags.dialect {
            Speech::Python => Dialect::Python,
            Speech::Rust => Dialect::Rust,
            Speech::Foreign => Dialect::Foreign,
        },
        replay: flags.replay,
        api_key: flags.api_key,
        pooling: flags.pooling,
        refuses_overflow: flags.refuse_overflow,
        behaviour,
        ..Settings::default()
    };
    let mut server = ModelServer::start(settings).await;
    println!(
        "{} (a scripted stand-in for a model server, not a model)",
        server.url()
    );
    tokio::signal::ctrl_c().await?;
    server.stop().await;
    Ok(())
}
