//! What the gateway costs: the same loads against the model server itself, the gateway, and nginx as
//! a plain proxy, on this machine in turns. Measures and tells; judges nothing.
//!
//! `cargo bench --bench gateway -- [--json] [--repeats N] [--seconds N] [--only WORD] [--target NAME]
//! [--workers N] [--gateway PATH]`
//!
//! Cargo builds the gateway that it brings along with the features of the tests: figures that count
//! are those of an executable built without, named by `--gateway`.

mod budgets;
mod load;
#[path = "../../tests/it/fakes/postgres.rs"]
#[expect(
    dead_code,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "written for tests, which use all of it and want to fail loudly"
)]
mod postgres;
mod process;
mod report;
mod targets;
mod upstream;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::time::{Instant, sleep};

use load::{Kind, Load};
use report::{Fact, Run};
use targets::Target;

/// How often the start of the gateway is timed.
const STARTS: usize = 10;
/// So that rows which are written after the answers count as well.
const SETTLE: Duration = Duration::from_millis(1200);
const IDLE_STREAMS: u64 = 10_000;
/// Files that a proxy keeps for other things than streams, of which each needs two.
const SPARE_FILES: u64 = 200;

struct Options {
    json: bool,
    repeats: usize,
    time: Duration,
    /// Loads whose name holds this word.
    only: String,
    /// All, if empty.
    target: String,
    /// Of the gateway and of nginx.
    workers: usize,
    gateway: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let limit = rlimit::increase_nofile_limit(u64::from(u16::MAX)).unwrap_or(1024);
    if arguments.first().is_some_and(|first| first == "upstream") {
        return runtime.block_on(upstream::serve());
    }
    // Only `cargo bench` says so; a run of all tests has no time for this.
    if !arguments.iter().any(|argument| argument == "--bench") {
        return Ok(());
    }
    arguments.retain(|argument| argument != "--bench");
    let options = Options::read(&arguments)?;
    runtime.block_on(measure(&options, limit))
}

impl Options {
    fn read(arguments: &[String]) -> anyhow::Result<Self> {
        let mut options = Self {
            json: false,
            repeats: 5,
            time: Duration::from_secs(3),
            only: String::new(),
            target: String::new(),
            workers: 2,
            gateway: env!("CARGO_BIN_EXE_tollgate").into(),
        };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let mut value = || rest.next().context("a value is missing");
            match argument.as_str() {
                "--json" => options.json = true,
                "--repeats" => options.repeats = value()?.parse::<usize>()?.clamp(1, 100),
                "--seconds" => {
                    options.time = Duration::from_secs(value()?.parse::<u64>()?.clamp(1, 60));
                }
                "--only" => value()?.clone_into(&mut options.only),
                "--target" => value()?.clone_into(&mut options.target),
                "--workers" => options.workers = value()?.parse::<usize>()?.clamp(1, 64),
                "--gateway" => options.gateway = std::fs::canonicalize(value()?)?,
                other => bail!("unknown argument {other}"),
            }
        }
        Ok(options)
    }

    fn wants(&self, load: &str) -> bool {
        load.contains(&self.only)
    }

    fn program(&self) -> (&Path, usize) {
        (&self.gateway, self.workers)
    }

    fn takes(&self, target: &Target) -> bool {
        self.target.is_empty() || self.target == target.name
    }
}

/// The loads: one connection tells the latency, many tell the cost.
fn loads(time: Duration) -> [(&'static str, Load); 8] {
    let plain = |body_bytes, connections| Load {
        kind: Kind::Plain { body_bytes },
        connections,
        time,
        requests_each: 1_000_000 / connections,
    };
    let streams = |events, pace_ms, requests_each| Load {
        kind: Kind::Stream {
            events,
            pace: Duration::from_millis(pace_ms),
        },
        connections: 200,
        time,
        requests_each,
    };
    [
        ("512 B, 1 at once", plain(512, 1)),
        ("512 B, 16 at once", plain(512, 16)),
        ("32 KiB, 1 at once", plain(32 * 1024, 1)),
        ("32 KiB, 16 at once", plain(32 * 1024, 16)),
        ("1 MiB, 1 at once", plain(1024 * 1024, 1)),
        ("1 MiB, 4 at once", plain(1024 * 1024, 4)),
        ("200 streams, event each 20 ms", streams(200, 20, 1)),
        ("200 streams, no pause", streams(200, 0, 5)),
    ]
}

async fn measure(options: &Options, file_limit: u64) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut facts = Vec::new();
    let upstream = targets::start_upstream()?;
    if options.wants("start") {
        facts.push(time_starts(options, folder.path(), upstream.port).await?);
    }
    let port = upstream.port;
    let mut all = vec![upstream];
    all.push(targets::start_gateway(options.program(), folder.path(), port).await?);
    if let Some(nginx) = targets::start_nginx(options.workers, folder.path(), port).await? {
        all.push(nginx);
    } else {
        say("nginx is not installed: it is left out\n")?;
    }
    for target in &all[1..] {
        sleep(SETTLE).await;
        facts.push(rss("memory at rest", target)?);
    }
    let rows = report::summarize(&run_loads(options, &all).await?);
    let budgets = if options.wants("budgets") {
        Some(budgets::measure(options, folder.path(), port).await?)
    } else {
        None
    };
    for target in &all[1..] {
        facts.push(rss("memory after the loads", target)?);
    }
    if options.wants("idle") {
        let count = IDLE_STREAMS.min(file_limit.saturating_sub(SPARE_FILES) / 2);
        for target in all.iter().skip(1).filter(|t| options.takes(t)) {
            hold_streams(target, count, &mut facts).await?;
        }
    }
    facts.push(binary_size(&options.gateway)?);
    // In the order of the requests: first those in front.
    for target in all.into_iter().rev() {
        target.process.stop().await?;
    }
    let text = if options.json {
        let mut all = report::to_json(&rows, &facts);
        all["budgets"] = budgets.iter().flat_map(budgets::Figures::to_json).collect();
        format!("{all:#}\n")
    } else {
        let budgets = budgets.as_ref().map(budgets::Figures::table);
        report::table(&rows, &facts) + &budgets.unwrap_or_default()
    };
    say_out(&text)
}

async fn run_loads(options: &Options, all: &[Target]) -> anyhow::Result<Vec<Run>> {
    let mut runs = Vec::new();
    for repeat in 0..options.repeats {
        for (scenario, load) in loads(options.time) {
            for turn in 0..all.len() {
                let target = &all[(turn + repeat) % all.len()];
                if !options.takes(target) || !options.wants(scenario) {
                    continue;
                }
                say(&format!("{}: {scenario}, {}\n", repeat + 1, target.name))?;
                runs.push(run_one(scenario, load, target).await?);
            }
        }
    }
    Ok(runs)
}

async fn run_one(scenario: &'static str, load: Load, target: &Target) -> anyhow::Result<Run> {
    if let Kind::Plain { .. } = load.kind {
        let warm_up = Load {
            time: Duration::from_millis(100),
            ..load
        };
        load::run(target.port, warm_up).await?;
        sleep(SETTLE).await;
    }
    let before = target.process.cpu_ms()?;
    let sample = load::run(target.port, load).await?;
    sleep(SETTLE).await;
    let run = Run {
        scenario,
        target: target.name,
        sample,
        cpu_ms: target.process.cpu_ms()? - before,
    };
    Ok(run)
}

async fn time_starts(options: &Options, folder: &Path, upstream: u16) -> anyhow::Result<Fact> {
    let mut times = Vec::new();
    for _ in 0..STARTS {
        let gateway = targets::start_gateway(options.program(), folder, upstream).await?;
        times.push(gateway.listens_after.as_secs_f64() * 1e3);
        gateway.process.stop().await?;
    }
    times.sort_by(f64::total_cmp);
    Ok(Fact {
        name: "from exec to listening, median",
        target: "gateway",
        value: report::median(&times),
        unit: "ms",
    })
}

/// Opens many streams that then are silent, and looks at the memory.
async fn hold_streams(target: &Target, count: u64, facts: &mut Vec<Fact>) -> anyhow::Result<()> {
    let began = Instant::now();
    let open = load::open_idle(target.port, usize::try_from(count)?).await?;
    let took = began.elapsed();
    sleep(SETTLE).await;
    facts.push(Fact {
        name: "idle streams open",
        target: target.name,
        value: f64::from(u32::try_from(open.len())?),
        unit: "",
    });
    facts.push(Fact {
        name: "opened within",
        target: target.name,
        value: took.as_secs_f64(),
        unit: "s",
    });
    facts.push(rss("memory with idle streams", target)?);
    drop(open);
    sleep(SETTLE * 3).await;
    facts.push(rss("memory after idle streams", target)?);
    Ok(())
}

fn rss(name: &'static str, target: &Target) -> anyhow::Result<Fact> {
    Ok(Fact {
        name,
        target: target.name,
        value: f64::from(u32::try_from(target.process.rss_kib()?)?) / 1024.0,
        unit: "MiB",
    })
}

fn binary_size(gateway: &Path) -> anyhow::Result<Fact> {
    let bytes = std::fs::metadata(gateway)?.len();
    Ok(Fact {
        name: "size of the executable",
        target: "gateway",
        value: f64::from(u32::try_from(bytes / 1024)?) / 1024.0,
        unit: "MiB",
    })
}

/// How far it is, beside the results.
fn say(text: &str) -> std::io::Result<()> {
    std::io::stderr().write_all(text.as_bytes())
}

fn say_out(text: &str) -> anyhow::Result<()> {
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}
