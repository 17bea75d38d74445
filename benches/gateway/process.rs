//! Processes under measurement: started, asked of the system, ended. Linux only.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

/// Linux counts CPU time for programs in hundredths of a second, whatever its own clock does.
const TICK_MS: u64 = 10;
const START_LIMIT: Duration = Duration::from_secs(20);
const STOP_LIMIT: Duration = Duration::from_secs(15);

/// A process of ours and those that it starts. Ended when dropped.
pub struct Process {
    child: Child,
}

impl Process {
    /// # Errors
    /// When the program cannot be started.
    pub fn start(command: &mut Command) -> anyhow::Result<Self> {
        command.stdin(Stdio::null());
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        Ok(Self { child })
    }

    /// Where its standard output was piped to.
    pub fn take_stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.child.stdout.take()
    }

    /// Waits until the port takes connections; tells how long that took since `began`.
    ///
    /// # Errors
    /// When the process ends instead, or takes too long.
    pub async fn listens(&mut self, port: u16, began: Instant) -> anyhow::Result<Duration> {
        loop {
            if TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                return Ok(began.elapsed());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended at once: {status}");
            }
            anyhow::ensure!(began.elapsed() < START_LIMIT, "it does not listen");
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// Ends it in order.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.terminate()?;
        let began = Instant::now();
        while self.child.try_wait()?.is_none() {
            anyhow::ensure!(began.elapsed() < STOP_LIMIT, "it does not stop");
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    fn terminate(&self) -> std::io::Result<()> {
        Command::new("kill")
            .args(["-TERM", &self.child.id().to_string()])
            .stderr(Stdio::null())
            .status()
            .map(drop)
    }

    /// CPU time so far, in milliseconds, with its children.
    ///
    /// # Errors
    /// When it is gone.
    pub fn cpu_ms(&self) -> anyhow::Result<u64> {
        let mut ticks = 0;
        for id in self.family()? {
            let fields = stat(id)?;
            // utime and stime are the fields 14 and 15; the list begins with the third.
            ticks += fields.get(11).unwrap_or(&0) + fields.get(12).unwrap_or(&0);
        }
        Ok(ticks * TICK_MS)
    }

    /// Resident memory in KiB, with its children.
    ///
    /// # Errors
    /// When it is gone.
    pub fn rss_kib(&self) -> anyhow::Result<u64> {
        let mut sum = 0;
        for id in self.family()? {
            let status = fs::read_to_string(format!("/proc/{id}/status"))?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            let words = line.context("no VmRSS")?;
            let kib: u64 = words.trim().trim_end_matches("kB").trim().parse()?;
            sum += kib;
        }
        Ok(sum)
    }

    /// Itself and its children.
    fn family(&self) -> anyhow::Result<Vec<u32>> {
        let own = self.child.id();
        let mut ids = vec![own];
        for entry in fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let Some(id) = name.to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            // What ends while we look is no child worth counting.
            if stat(id).is_ok_and(|fields| fields.get(1) == Some(&u64::from(own))) {
                ids.push(id);
            }
        }
        Ok(ids)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        // First in order, so that it takes its children with it.
        let _ = self.terminate();
        for _ in 0..40 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The fields of a process from the third on; the state, which is a letter, counts as 0.
fn stat(id: u32) -> anyhow::Result<Vec<u64>> {
    let text = fs::read_to_string(format!("/proc/{id}/stat"))?;
    // The name stands in brackets and may hold anything.
    let (_, fields) = text.rsplit_once(')').context("no process")?;
    Ok(fields
        .split_whitespace()
        .map(|field| field.parse().unwrap_or(0))
        .collect())
}

/// A port that was free a moment ago.
///
/// # Errors
/// When there is none.
pub fn free_port() -> std::io::Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?
        .local_addr()?
        .port())
}

/// Where a program is, as a shell would find it; servers often stand where only root looks.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| is_file(file))
}

fn is_file(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|data| data.is_file())
}
