//! What stands before a server that is not up: Cloud Run's front end while an instance starts, or a
//! server that listens and still loads. Nobody gets past it, whatever the path: a list, a version or
//! a health check would start the server just as a call does. It knows no API.

use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::behaviour::Answer;

/// What becomes of the requests that come before the server is up.
#[derive(Clone, Debug)]
pub enum Meanwhile {
    /// They stay pending and are served when the start is over, as Cloud Run does while an instance
    /// starts in time.
    Holds,
    /// They are turned away with this.
    Answers(Answer),
}

/// The door of one server.
pub struct Door(watch::Sender<Stand>);

#[derive(Clone, Debug)]
enum Stand {
    Open,
    Shut {
        meanwhile: Meanwhile,
        /// What a start takes; `None`: it stays shut until it is opened.
        takes: Option<Duration>,
        /// Set by the first request.
        opens_at: Option<Instant>,
    },
}

impl Door {
    pub fn open() -> Self {
        Self(watch::Sender::new(Stand::Open))
    }

    /// Opens it.
    pub fn unlock(&self) {
        self.0.send_replace(Stand::Open);
    }

    /// Shuts it: until it is opened, or for so long after the first request.
    pub fn shut(&self, meanwhile: Meanwhile, takes: Option<Duration>) {
        self.0.send_replace(Stand::Shut {
            meanwhile,
            takes,
            opens_at: None,
        });
    }

    /// When the start that was asked for is over, or was.
    pub fn opens_at(&self) -> Option<Instant> {
        match &*self.0.borrow() {
            Stand::Open => None,
            Stand::Shut { opens_at, .. } => *opens_at,
        }
    }

    /// Waits for the door, or tells how it turns the request away.
    pub async fn pass(&self) -> Option<Answer> {
        let mut changes = self.0.subscribe();
        self.knock();
        loop {
            let stand = changes.borrow_and_update().clone();
            let Stand::Shut {
                meanwhile,
                opens_at,
                ..
            } = stand
            else {
                return None;
            };
            if opens_at.is_some_and(|at| at <= Instant::now()) {
                return None;
            }
            if let Meanwhile::Answers(answer) = meanwhile {
                return Some(answer);
            }
            let opens = async {
                match opens_at {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = opens => return None,
                _ = changes.changed() => {}
            }
        }
    }

    /// The first request starts the server.
    fn knock(&self) {
        self.0.send_if_modified(|stand| match stand {
            Stand::Shut {
                takes: Some(takes),
                opens_at: opens_at @ None,
                ..
            } => {
                *opens_at = Some(Instant::now() + *takes);
                true
            }
            _ => false,
        });
    }
}
