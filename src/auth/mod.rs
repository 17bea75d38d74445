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
mod principal;
mod refused;
mod ring;
mod schedule;
mod source;
pub(crate) mod users;

pub use key::{ApiKey, KeyHash};
pub use keyset::{KeyEntry, KeySet, PreviousKey, Rejected};
pub use own_key::OwnKey;
pub use payload::{MAX_PAYLOAD_BYTES, Payload, PayloadFault};
pub use principal::{Principal, Who};
pub use ring::{KeyRing, Reload, RingStatus};
pub use users::{Caller, NewAccount, Recognised, Tokens, User, Users};

pub(crate) use credentials::presented_key;
