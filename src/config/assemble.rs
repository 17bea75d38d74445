//! Puts the configuration together: defaults that depend on where the process runs, and the checks
//! that look at several variables.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use super::reader::{Reader, in_range, unset};
use super::{
    Config, ConfigError, Database, Instance, KeysConfig, KeysSource, Limits, LogConfig, Paths,
    SinkKind, Sources, UsageConfig, accounts, google, upstream, values,
};

/// Longest wait that a setting may ask for, in seconds: Cloud Run ends a request after an hour.
const HOUR: u64 = 3_600;
const DAY: u64 = 24 * HOUR;
/// Cloud Run kills ten seconds after SIGTERM; the rest is for the process to end.
const CLOUD_RUN_DRAIN_SECONDS: u64 = 9;
const GIB: u64 = 1 << 30;
const EPHEMERAL: &str = "needs ALLOW_EPHEMERAL=true on Cloud Run, where files are lost with the instance and every instance has its own";

/// Reads every variable once and judges the whole.
pub(super) fn config(sources: &Sources) -> Result<Config, ConfigError> {
    let on_cloud_run = sources.on_cloud_run();
    let mut reader = Reader::new(sources);
    let host = read_host(&mut reader, on_cloud_run);
    let (port, metrics_port) = read_ports(&mut reader);
    let upstreams = upstream::read(&mut reader, port);
    let loopback = upstream::all_loopback(&upstreams.upstreams);
    let google = google::read(&mut reader);
    let data_dir = read_data_dir(&mut reader);
    let ephemeral = read_ephemeral(&mut reader, on_cloud_run);
    let keys = read_keys(&mut reader, &data_dir, on_cloud_run);
    let usage = read_usage(&mut reader, on_cloud_run, &ephemeral);
    let database = accounts::read_database(&mut reader, &data_dir, on_cloud_run, &ephemeral);
    let accounts = accounts::read(&mut reader, host.is_loopback(), &database);
    let usage_file = usage_file(&database, &data_dir);
    let h2c = reader.boolean("H2C", false);
    let public_models = reader.boolean("PUBLIC_MODELS", true);
    let cors_origins = reader.parsed(
        "CORS_ORIGINS",
        Vec::new(),
        |list| join(list),
        values::origins,
    );
    let limits = read_limits(&mut reader, on_cloud_run, loopback);
    let log = read_log(&mut reader, sources.terminal);
    let instance = read_instance(google.project.clone(), sources);
    let reading = reader.finish();
    let (warnings, settings) = (reading.warnings.clone(), reading.settings.clone());
    reading.judge(Config {
        host,
        port,
        h2c,
        metrics_port,
        upstreams,
        google,
        keys,
        usage,
        data_dir,
        database,
        usage_file,
        accounts,
        public_models,
        cors_origins,
        limits,
        log,
        instance,
        warnings,
        settings,
    })
}

/// Reads what verbs beside `serve` need. A keys file need not exist: `keys add` makes it.
pub(super) fn paths(sources: &Sources) -> Result<Paths, ConfigError> {
    let mut reader = Reader::new(sources);
    let data_dir = read_data_dir(&mut reader);
    let google = google::read(&mut reader);
    let on_cloud_run = sources.on_cloud_run();
    let keys = google::read_keys_source(&mut reader, &data_dir, on_cloud_run);
    // The verbs only read what a gateway wrote, wherever they run.
    let sink = read_usage(&mut reader, on_cloud_run, &Ok(())).sink;
    let database = accounts::read_database(&mut reader, &data_dir, on_cloud_run, &Ok(()));
    let default_token_limit = accounts::read_default_token_limit(&mut reader);
    let usage_file = usage_file(&database, &data_dir);
    reader.finish().judge(Paths {
        google,
        keys,
        sink,
        usage_file,
        database,
        default_token_limit,
    })
}

/// Where a gateway listens.
pub(super) fn listener(reader: &mut Reader<'_>, sources: &Sources) -> (IpAddr, u16) {
    let host = read_host(reader, sources.on_cloud_run());
    (host, read_ports(reader).0)
}

fn read_host(reader: &mut Reader<'_>, on_cloud_run: bool) -> IpAddr {
    let default = if on_cloud_run {
        Ipv4Addr::UNSPECIFIED
    } else {
        Ipv4Addr::LOCALHOST
    };
    reader.parsed("HOST", IpAddr::V4(default), IpAddr::to_string, values::host)
}

fn read_ports(reader: &mut Reader<'_>) -> (u16, Option<u16>) {
    let port = reader.parsed("PORT", 8000, u16::to_string, |text| port(text, 0));
    let shown = |port: &Option<u16>| port.map_or_else(unset, |port| port.to_string());
    let metrics_port = reader.parsed("METRICS_PORT", None, shown, |text| {
        port_from_one(text).map(Some)
    });
    if metrics_port == Some(port) {
        reader.fault(
            "METRICS_PORT",
            "is the same as PORT; it is a second listener and needs its own",
        );
    }
    (port, metrics_port)
}

fn port(text: &str, least: u64) -> Result<u16, String> {
    let number = in_range(text, least, u64::from(u16::MAX))?;
    u16::try_from(number).map_err(|e| e.to_string())
}

fn port_from_one(text: &str) -> Result<u16, String> {
    port(text, 1)
}

fn read_data_dir(reader: &mut Reader<'_>) -> PathBuf {
    let default = "./tollgate-data".to_owned();
    let path = reader.parsed("DATA_DIR", default, String::clone, |text| {
        Ok(text.to_owned())
    });
    PathBuf::from(path)
}

fn read_keys(reader: &mut Reader<'_>, data_dir: &Path, on_cloud_run: bool) -> KeysConfig {
    let refresh = reader.seconds("KEY_REFRESH_SECONDS", 30, DAY);
    let max_stale = reader.seconds("KEY_MAX_STALE_SECONDS", DAY, 366 * DAY);
    if max_stale < refresh {
        reader.warn(
            "KEY_MAX_STALE_SECONDS",
            "is less than KEY_REFRESH_SECONDS: every idle pause ends in a wait for the keys",
        );
    }
    let source = google::read_keys_source(reader, data_dir, on_cloud_run);
    if let KeysSource::File {
        path,
        explicit: true,
    } = &source
        && !path.is_file()
    {
        reader.fault(
            "API_KEYS_FILE",
            format_args!("there is no file at `{}`", path.display()),
        );
    }
    KeysConfig {
        source,
        refresh,
        max_stale,
    }
}

/// Whether embedded files may be used, or why not.
fn read_ephemeral(reader: &mut Reader<'_>, on_cloud_run: bool) -> Result<(), &'static str> {
    let is_allowed = reader.boolean("ALLOW_EPHEMERAL", false) || !on_cloud_run;
    if is_allowed { Ok(()) } else { Err(EPHEMERAL) }
}

fn read_usage(
    reader: &mut Reader<'_>,
    on_cloud_run: bool,
    ephemeral: &Result<(), &'static str>,
) -> UsageConfig {
    let table = google::read_table(reader);
    let words = ["bigquery", "local", "stdout", "none"];
    let default = match (&table, on_cloud_run) {
        (Some(_), _) => "bigquery",
        (None, true) => "stdout",
        (None, false) => "local",
    };
    let word = reader.parsed(
        "USAGE_SINK",
        default,
        |word| (*word).to_owned(),
        |text| values::word(text, &words),
    );
    let sink = match (word, table) {
        ("bigquery", Some(table)) => SinkKind::BigQuery(table),
        ("local", _) => SinkKind::Local,
        ("stdout", _) => SinkKind::Stdout,
        _ => SinkKind::None,
    };
    // A dataset with a fault is unset here, and has been told of.
    if word == "bigquery" && reader.find("BIGQUERY_DATASET").is_none() {
        reader.fault(
            "USAGE_SINK",
            "`bigquery` needs BIGQUERY_DATASET, the dataset that holds the table",
        );
    }
    if let (SinkKind::Local, Err(why)) = (&sink, ephemeral) {
        reader.fault("USAGE_SINK", format_args!("`local` {why}"));
    }
    let shown = |labels: &Vec<(String, String)>| {
        join(
            &labels
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect::<Vec<_>>(),
        )
    };
    let labels = reader.parsed("LABELS", Vec::new(), shown, values::labels);
    UsageConfig { sink, labels }
}

/// The usage table is in the database of users, if that is a file, else in a file of its own.
fn usage_file(database: &Database, data_dir: &Path) -> PathBuf {
    match database {
        Database::Sqlite(path) => path.clone(),
        Database::Postgres(_) | Database::None => data_dir.join("tollgate.db"),
    }
}

fn read_limits(reader: &mut Reader<'_>, on_cloud_run: bool, loopback: bool) -> Limits {
    let cold_start = if loopback && !on_cloud_run { 15 } else { 240 };
    let limits = Limits {
        body_bytes: reader.bytes("MAX_BODY_BYTES", 32 << 20, GIB),
        buffered_bytes: reader.bytes("MAX_BUFFERED_BYTES", 128 << 20, 64 * GIB),
        cold_start_wait: reader.seconds_or_none("COLD_START_WAIT_SECONDS", cold_start, HOUR),
        keepalive: reader.seconds("KEEPALIVE_SECONDS", 15, HOUR),
        upstream_idle: reader.seconds("UPSTREAM_IDLE_SECONDS", 300, HOUR),
        client_stall: reader.seconds("CLIENT_STALL_SECONDS", 60, HOUR),
        drain: reader.seconds_or_none("DRAIN_SECONDS", 8, HOUR),
    };
    if limits.buffered_bytes < limits.body_bytes {
        reader.warn(
            "MAX_BUFFERED_BYTES",
            "is less than MAX_BODY_BYTES: no body larger than this is taken",
        );
    }
    if on_cloud_run && limits.drain.as_secs() > CLOUD_RUN_DRAIN_SECONDS {
        reader.warn(
            "DRAIN_SECONDS",
            "Cloud Run kills the process 10 seconds after SIGTERM, before this time is over",
        );
    }
    limits
}

fn read_log(reader: &mut Reader<'_>, terminal: bool) -> LogConfig {
    let level = reader.parsed(
        "LOG_LEVEL",
        "info".to_owned(),
        String::clone,
        values::log_level,
    );
    let words = ["auto", "json", "text"];
    let format = reader.parsed(
        "LOG_FORMAT",
        "auto",
        |word| (*word).to_owned(),
        |text| values::word(text, &words),
    );
    let json = match format {
        "json" => true,
        "text" => false,
        _ => !terminal,
    };
    LogConfig {
        level,
        json,
        colour: terminal && !json,
    }
}

fn read_instance(project: Option<String>, sources: &Sources) -> Instance {
    let platform = |name: &str| sources.platform(name).unwrap_or_default().to_owned();
    Instance {
        service: platform("K_SERVICE"),
        revision: platform("K_REVISION"),
        instance_id: format!("{:08x}", rand::random::<u32>()),
        region: String::new(),
        project,
        on_cloud_run: sources.on_cloud_run(),
    }
}

fn join(list: &[String]) -> String {
    if list.is_empty() {
        unset()
    } else {
        list.join(",")
    }
}
