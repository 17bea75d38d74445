//! Who makes a request, and what may be asked of it whichever kind it is.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::KeyEntry;
use super::users::User;
use crate::budget::{Allowance, MinuteLimits};

/// Who makes a request.
#[derive(Clone)]
pub struct Principal {
    pub who: Who,
    /// First 12 hex digits of the hash of the key that was shown; `None` for a token.
    pub key_id: Option<Arc<str>>,
}

/// The two kinds of principals.
#[derive(Clone)]
pub enum Who {
    /// A service key, by its entry of the key set.
    Service(Arc<KeyEntry>),
    User(Arc<User>),
}

impl Principal {
    #[must_use]
    pub fn is_admin(&self) -> bool {
        matches!(&self.who, Who::Service(entry) if entry.admin)
    }

    /// The word of its kind, as in rows.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self.who {
            Who::Service(_) => "service",
            Who::User(_) => "user",
        }
    }

    /// The name of a service key.
    #[must_use]
    pub fn key_name(&self) -> Option<Arc<str>> {
        match &self.who {
            Who::Service(entry) => Some(entry.name.clone()),
            Who::User(_) => None,
        }
    }

    #[must_use]
    pub fn username(&self) -> Option<Arc<str>> {
        match &self.who {
            Who::Service(_) => None,
            Who::User(user) => Some(user.name.clone()),
        }
    }

    /// Model ids or aliases that it may call; `None` for all.
    #[must_use]
    pub fn models(&self) -> Option<&[String]> {
        match &self.who {
            Who::Service(entry) => entry.models.as_deref(),
            Who::User(_) => None,
        }
    }

    /// The name of the key or user.
    #[must_use]
    pub fn name(&self) -> Arc<str> {
        match &self.who {
            Who::Service(entry) => entry.name.clone(),
            Who::User(user) => user.name.clone(),
        }
    }

    /// Whether its calls may start a model server that sleeps.
    #[must_use]
    pub fn may_wake(&self) -> bool {
        match &self.who {
            Who::Service(entry) => entry.wake,
            Who::User(_) => true,
        }
    }

    /// Labels of its rows.
    #[must_use]
    pub fn labels(&self) -> Arc<[(String, String)]> {
        match &self.who {
            Who::Service(entry) => entry.labels.clone(),
            Who::User(_) => Arc::default(),
        }
    }

    /// Permits for calls in flight in this instance, where there is a maximum.
    #[must_use]
    pub fn concurrency(&self) -> Option<&Arc<Semaphore>> {
        match &self.who {
            Who::Service(entry) => entry.concurrency.as_ref(),
            Who::User(_) => None,
        }
    }

    /// Whose tokens its calls count as, and up to where.
    #[must_use]
    pub fn allowance(&self) -> &Allowance {
        match &self.who {
            Who::Service(entry) => &entry.allowance,
            Who::User(user) => &user.allowance,
        }
    }

    /// Limits per minute in this instance.
    #[must_use]
    pub fn minute(&self) -> Option<&Arc<MinuteLimits>> {
        match &self.who {
            Who::Service(entry) => entry.minute.as_ref(),
            Who::User(_) => None,
        }
    }
}
