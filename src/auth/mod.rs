//! Who calls: headers become a [`Principal`]. No plain key leaves this module.

mod key;
mod keyset;
mod ring;

pub use key::{ApiKey, KeyHash};
pub use keyset::{KeyEntry, KeySet, Rejected};
pub use ring::{KeyRing, Reload, RingStatus};

use std::sync::Arc;

/// Who makes a request: a service key of the key set.
#[derive(Clone)]
pub struct Principal {
    /// The entry of the key set.
    pub entry: Arc<KeyEntry>,
    /// First 12 hex digits of the hash of the key that was shown.
    pub key_id: Arc<str>,
}
