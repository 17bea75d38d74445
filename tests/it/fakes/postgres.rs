//! A real Postgres server, from Debian's packages, in a folder that goes with it. It listens on a
//! socket in that folder alone, so that no ports are needed.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};
use tempfile::TempDir;

/// URL of a server that the whole test run shares; `scripts/test.sh` sets it.
const SHARED: &str = "TOLLGATE_TEST_POSTGRES";
const PATIENCE: Duration = Duration::from_secs(30);
/// Who may enter how: one role needs a password, which is [`PASSWORD`].
const ENTRANCE: &str = "local all locked scram-sha-256\nlocal all all trust\n";
const SUPERUSER: &str = "postgres";
pub const PASSWORD: &str = "a-Pass-word-of-10";

/// A running server; killed on drop.
pub struct Postgres {
    programs: PathBuf,
    folder: TempDir,
    server: Option<Child>,
}

/// A fresh database.
pub struct Database {
    pub url: String,
    /// That of this database alone, if there is no shared one.
    _server: Option<Postgres>,
}

impl Postgres {
    /// Starts a server of its own; `None`, and a line that says so, where none is installed.
    pub async fn start() -> Option<Self> {
        let Some(programs) = programs() else {
            println!("skipped: Postgres is not installed (Debian: apt-get install postgresql)");
            return None;
        };
        let folder = tempfile::Builder::new()
            .prefix("tollgate-pg-")
            .permissions(Permissions::from_mode(0o755))
            .tempdir()
            .expect("a folder");
        if is_root() {
            let (user, group) = owner_of_server();
            chown(folder.path(), Some(user), Some(group)).expect("the folder's owner");
        }
        let mut postgres = Self {
            programs,
            folder,
            server: None,
        };
        let data = postgres.data();
        let status = postgres
            .command("initdb")
            .args(["--no-sync", "--no-instructions", "--auth=trust"])
            .args(["--encoding=UTF8", "--locale=C", "--wal-segsize=1"])
            .args([&format!("--username={SUPERUSER}"), "-D"])
            .arg(&data)
            .stdout(Stdio::null())
            .status();
        assert!(status.expect("initdb runs").success());
        fs::write(data.join("pg_hba.conf"), ENTRANCE).expect("who may enter");
        postgres.go_on().await;
        Some(postgres)
    }

    /// Starts it again after [`Postgres::stop`].
    pub async fn go_on(&mut self) {
        let server = self
            .command("postgres")
            .arg("-D")
            .arg(self.data())
            .args(["-c", "fsync=off", "-c", "listen_addresses="])
            .args(["-c", "max_connections=60", "-c", "shared_buffers=16MB"])
            .arg("-c")
            .arg(format!("unix_socket_directories={}", self.socket_folder()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.server = Some(server.expect("postgres runs"));
        let ready = async {
            while self.connect().await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let in_time = tokio::time::timeout(PATIENCE, ready).await;
        in_time.expect("the server answers");
    }

    /// Ends it at once, as a failure would: connections break, what was committed stays.
    pub fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let id = server.id().to_string();
            // It may have ended already.
            let _ = Command::new("kill").args(["-QUIT", &id]).status();
            let _ = server.wait();
        }
    }

    /// Id of its first process.
    pub fn process_id(&self) -> Option<u32> {
        self.server.as_ref().map(Child::id)
    }

    /// A fresh database.
    pub async fn database(&self) -> String {
        make_database(&self.url("postgres", SUPERUSER)).await
    }

    /// A URL of this server.
    pub fn url(&self, database: &str, user: &str) -> String {
        let folder = self.socket_folder();
        format!("postgres://{user}@localhost/{database}?host={folder}")
    }

    /// The socket, for a proxy.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join(".s.PGSQL.5432")
    }

    async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        PgConnection::connect(&self.url("postgres", SUPERUSER)).await
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn socket_folder(&self) -> String {
        self.folder.path().display().to_string()
    }

    /// Of the server's programs; it refuses to be run by root.
    fn command(&self, name: &str) -> Command {
        let program = self.programs.join(name);
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
            command.arg(program);
            command
        } else {
            Command::new(program)
        };
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A fresh database on the shared server, or on one of its own; `None` where none is installed.
pub async fn database() -> Option<Database> {
    if let Ok(shared) = std::env::var(SHARED) {
        return Some(Database {
            url: make_database(&shared).await,
            _server: None,
        });
    }
    let server = Postgres::start().await?;
    Some(Database {
        url: server.database().await,
        _server: Some(server),
    })
}

/// Runs statements as the superuser, on a connection of its own.
pub async fn run(url: &str, sql: &str) {
    let mut connection = PgConnection::connect(url).await.expect("a connection");
    let done = connection.execute(AssertSqlSafe(sql)).await;
    done.expect("the statements are taken");
}

async fn make_database(url: &str) -> String {
    let name = format!("t{:016x}", rand::random::<u64>());
    run(url, &format!("CREATE DATABASE {name}")).await;
    url.replacen("/postgres?", &format!("/{name}?"), 1)
}

/// The newest one's.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?;
    let folders = versions.filter_map(|version| Some(version.ok()?.path().join("bin")));
    let mut folders: Vec<PathBuf> = folders
        .filter(|folder| folder.join("initdb").is_file())
        .collect();
    folders.sort();
    folders.pop()
}

fn is_root() -> bool {
    Path::new("/proc/self")
        .metadata()
        .is_ok_and(|process| process.uid() == 0)
}

/// Ids of the user that the package made.
fn owner_of_server() -> (u32, u32) {
    let users = fs::read_to_string("/etc/passwd").expect("the users");
    let line = users.lines().find(|line| line.starts_with("postgres:"));
    let mut fields = line.expect("the user postgres").split(':').skip(2);
    let mut id = || fields.next().and_then(|id| id.parse().ok()).expect("an id");
    (id(), id())
}
