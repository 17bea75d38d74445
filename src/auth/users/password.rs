//! Passwords: their rules, and their hashing within bounds. A password goes nowhere from here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::error::{Code, Error};

const LEAST_BYTES: usize = 8;
const MOST_BYTES: usize = 1024;
/// Hashes at once, each with a core and 19 MiB, and those that wait for their turn.
const AT_ONCE: usize = 2;
const WAITING: usize = 32;
const RETRY: Duration = Duration::from_secs(2);
/// What a password of nobody is held against: it takes as long as any other and matches nothing
/// that is known.
const NOBODYS: &str = "$argon2id$v=19$m=19456,t=2,p=1$dG9sbGdhdGUgbm9ib2R5IQ$\
    AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Hashes passwords.
pub struct Passwords {
    /// For those that run and those that wait.
    places: Arc<Semaphore>,
    turns: Arc<Semaphore>,
    tasks: TaskTracker,
    hashed: AtomicU64,
}

impl Passwords {
    #[must_use]
    pub fn new() -> Self {
        Self {
            places: Arc::new(Semaphore::new(AT_ONCE + WAITING)),
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            tasks: TaskTracker::new(),
            hashed: AtomicU64::new(0),
        }
    }

    /// Hashes a new password to a PHC string.
    ///
    /// # Errors
    /// `rate_limit_exceeded` when too many wait.
    pub async fn hash(&self, password: &str) -> Result<String, Error> {
        let password = password.to_owned();
        self.run(move || hash_now(&password)).await?
    }

    /// Whether a password is the one of this PHC string. Without one it takes as long and is not.
    ///
    /// # Errors
    /// As [`Passwords::hash`].
    pub async fn matches(&self, password: &str, phc: Option<&str>) -> Result<bool, Error> {
        // What cannot be a password is not worth a hash, whosever it would be.
        if check(password, "password").is_err() {
            return Ok(false);
        }
        let password = password.to_owned();
        let is_somebodys = phc.is_some();
        let phc = phc.unwrap_or(NOBODYS).to_owned();
        let matches = self.run(move || verify(&password, &phc)).await?;
        Ok(matches && is_somebodys)
    }

    /// How many passwords were hashed.
    #[must_use]
    pub fn hashed(&self) -> u64 {
        self.hashed.load(Ordering::Relaxed)
    }

    /// Waits for the hashes that run.
    pub async fn close(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Runs beside the requests, in its turn. Work that was begun keeps its turn to its end, also
    /// if nobody waits for it any more.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let place = self
            .places
            .clone()
            .try_acquire_owned()
            .map_err(|_| busy())?;
        let turn = self.turns.clone().acquire_owned().await.map_err(failed)?;
        self.hashed.fetch_add(1, Ordering::Relaxed);
        let work = self.tasks.spawn_blocking(move || {
            let done = work();
            drop((turn, place));
            done
        });
        work.await.map_err(failed)
    }
}

/// Whether a text may be a password. `param` names the field it came in.
///
/// # Errors
/// `invalid_request`, without the text.
pub fn check(password: &str, param: &'static str) -> Result<(), Error> {
    if (LEAST_BYTES..=MOST_BYTES).contains(&password.len()) {
        return Ok(());
    }
    let text =
        "a password must be at least eight and at most a thousand and twenty-four bytes long";
    Err(Error::new(Code::InvalidRequest, text).param(param))
}

/// Hashes on the spot, which takes tens of milliseconds.
///
/// # Errors
/// When the operating system gives no random bytes.
pub fn hash_now(password: &str) -> Result<String, Error> {
    let hash = Argon2::default().hash_password(password.as_bytes());
    hash.map(|hash| hash.to_string()).map_err(failed)
}

fn verify(password: &str, phc: &str) -> bool {
    let Ok(phc) = PasswordHash::new(phc) else {
        return false;
    };
    Argon2::default()
        .verify_password(password.as_bytes(), &phc)
        .is_ok()
}

fn busy() -> Error {
    Error::new(
        Code::RateLimitExceeded,
        "too many passwords are being checked; try again in a moment",
    )
    .retry_after(RETRY)
}

fn failed(cause: impl std::fmt::Display) -> Error {
    Error::new(Code::Internal, "the password could not be processed").because(cause.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_is_known_again_and_no_other() {
        let passwords = Passwords::new();
        let phc = passwords.hash("correct horse").await.unwrap();
        assert!(phc.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{phc}");
        assert_ne!(phc, passwords.hash("correct horse").await.unwrap());
        let matches = async |text: &str| passwords.matches(text, Some(&phc)).await.unwrap();
        assert!(matches("correct horse").await);
        assert!(!matches("Correct horse").await);
        assert!(!matches("correct horse ").await);
    }

    #[tokio::test]
    async fn nobodys_password_costs_the_same_hash_and_matches_nothing() {
        let (nobodys, real) = (NOBODYS, hash_now("password of somebody").unwrap());
        let nobodys = PasswordHash::new(nobodys).unwrap();
        let real = PasswordHash::new(&real).unwrap();
        assert_eq!(nobodys.algorithm, real.algorithm);
        assert_eq!(nobodys.version, real.version);
        assert_eq!(nobodys.params.to_string(), real.params.to_string());
        let length = |phc: &PasswordHash| phc.hash.as_ref().map(|hash| hash.len());
        assert_eq!(length(&nobodys), length(&real));
        assert_eq!(
            nobodys.salt.as_ref().map(|salt| salt.len()),
            real.salt.as_ref().map(|salt| salt.len())
        );
        let passwords = Passwords::new();
        assert!(!passwords.matches("any password", None).await.unwrap());
        assert_eq!(passwords.hashed(), 1);
        assert!(
            !passwords
                .matches("any password", Some(NOBODYS))
                .await
                .unwrap()
        );
        assert_eq!(passwords.hashed(), 2);
    }

    #[tokio::test]
    async fn what_cannot_be_a_password_is_not_hashed() {
        let passwords = Passwords::new();
        for text in ["", "1234567", &"x".repeat(1025), &"é".repeat(513)] {
            assert!(check(text, "password").is_err(), "{}", text.len());
            assert!(!passwords.matches(text, None).await.unwrap());
        }
        assert_eq!(passwords.hashed(), 0);
        for text in ["12345678", "ééééé", &"x".repeat(1024)] {
            assert!(check(text, "password").is_ok(), "{}", text.len());
        }
    }

    #[tokio::test]
    async fn two_run_thirty_two_wait_and_the_next_is_told_to_come_again() {
        let passwords = Passwords::new();
        let (release, held) = std::sync::mpsc::channel::<()>();
        let held = Arc::new(std::sync::Mutex::new(held));
        let work = || {
            let held = held.clone();
            move || {
                let _released = held.lock().unwrap().recv();
            }
        };
        let mut running = futures_util::future::join_all((0..34).map(|_| passwords.run(work())));
        assert!(futures_util::poll!(&mut running).is_pending());
        assert_eq!(passwords.hashed(), 2);
        let error = passwords.run(work()).await.unwrap_err();
        assert_eq!(error.code(), Code::RateLimitExceeded);
        assert!(error.wait().is_some());
        drop(release);
        assert!(running.await.iter().all(Result::is_ok));
        assert_eq!(passwords.hashed(), 34);
        assert!(passwords.hash("there is room again").await.is_ok());
    }
}
