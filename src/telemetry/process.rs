//! What the kernel says about this process, for `/metrics`. Linux only; elsewhere nothing is shown.

use std::fs;

/// Ticks per second of the times in `/proc/PID/stat`: fixed at 100 for user space on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// A reading of `/proc/self`; what cannot be read is absent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Process {
    pub resident_bytes: Option<i64>,
    pub open_files: Option<i64>,
    pub cpu_seconds: Option<f64>,
}

impl Process {
    /// Reads three small files that live in memory.
    pub(super) fn read() -> Self {
        Self {
            resident_bytes: fs::read_to_string("/proc/self/status")
                .ok()
                .and_then(|text| resident(&text)),
            // The reading itself holds one open file, the directory.
            open_files: fs::read_dir("/proc/self/fd")
                .ok()
                .and_then(|dir| i64::try_from(dir.count().saturating_sub(1)).ok()),
            cpu_seconds: fs::read_to_string("/proc/self/stat")
                .ok()
                .and_then(|text| cpu(&text)),
        }
    }
}

fn resident(status: &str) -> Option<i64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: i64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The 14th and 15th field; the second is a name in brackets that may hold blanks.
fn cpu(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some((f64::from(user) + f64::from(system)) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_texts_are_read() {
        assert_eq!(resident("Name:\tx\nVmRSS:\t    2048 kB\n"), Some(2_097_152));
        assert_eq!(
            cpu("1 (a ) b) S 1 1 1 0 -1 4194560 1 0 0 0 250 50 0 0 20 0"),
            Some(3.0)
        );
        assert_eq!((resident(""), cpu("")), (None, None));
    }
}
