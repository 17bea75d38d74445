//! Who calls: headers become a [`Principal`]. No plain key leaves this module, but for the one
//! that [`ApiKey::generate`] makes.

mod credentials;
mod current;
mod entry;
mod fetch;
mod key;
mod keyset;
mod own_key;
mod payload;
mod refused;
mod ring;
mod schedule;
mod source;

pub use key::{ApiKey, KeyHash};
pub use keyset::{KeyEntry, KeySet, PreviousKey, Rejected};
pub use own_key::OwnKey;
pub use payload::{MAX_PAYLOAD_BYTES, Payload, PayloadFault};
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
