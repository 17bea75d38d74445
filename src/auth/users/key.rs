//! Keys and refresh tokens of users: random bytes and a short MAC, so that a guess is known for one
//! without a look into the store. Knows no users.

use std::sync::OnceLock;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use crate::store::Store;

const MAC_BYTES: usize = 8;
const MOST_BYTES: usize = 40;
/// Characters of a key that people see to tell it from others.
const SHOWN_CHARS: usize = 9;
/// How long the store may take to tell the MAC's key, and how long it is not asked after a failure.
const FETCH_LIMIT: Duration = Duration::from_secs(2);

/// What is made here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `sk-` and 43 characters: 24 random bytes and the MAC.
    Key,
    /// `rt-` and 54 characters: 32 random bytes and the MAC.
    Refresh,
}

impl Kind {
    const fn prefix(self) -> &'static str {
        match self {
            Self::Key => "sk-",
            Self::Refresh => "rt-",
        }
    }

    const fn random_bytes(self) -> usize {
        match self {
            Self::Key => 24,
            Self::Refresh => 32,
        }
    }

    const fn bytes(self) -> usize {
        self.random_bytes() + MAC_BYTES
    }

    /// Whether a text looks like one, whoever made it.
    pub fn has_shape(self, text: &str) -> bool {
        self.decode(text).is_some()
    }

    fn decode(self, text: &str) -> Option<[u8; MOST_BYTES]> {
        let coded = text.strip_prefix(self.prefix())?;
        let mut bytes = [0; MOST_BYTES];
        let length = URL_SAFE_NO_PAD.decode_slice(coded, &mut bytes).ok()?;
        (length == self.bytes()).then_some(bytes)
    }
}

/// The first characters of a key.
pub fn shown_part(key: &str) -> &str {
    key.get(..SHOWN_CHARS).unwrap_or_default()
}

/// Makes keys and knows them again.
pub struct Maker(Hmac<Sha256>);

impl Maker {
    /// With the key that all who share a store have in common.
    #[must_use]
    pub fn new(mac_key: &[u8; 32]) -> Self {
        // HMAC fills a shorter key up with zeros.
        let mut block = [0; 64];
        block[..mac_key.len()].copy_from_slice(mac_key);
        Self(Hmac::new(&block.into()))
    }

    /// A new key or token.
    #[must_use]
    pub fn make(&self, kind: Kind) -> String {
        let mut bytes = [0_u8; MOST_BYTES];
        let (random, rest) = bytes.split_at_mut(kind.random_bytes());
        // The thread's generator is a cryptographic one, seeded by the operating system.
        rand::fill(random);
        rest[..MAC_BYTES].copy_from_slice(&self.mac(kind, random));
        let coded = URL_SAFE_NO_PAD.encode(&bytes[..kind.bytes()]);
        format!("{}{coded}", kind.prefix())
    }

    /// Whether a text was made here.
    #[must_use]
    pub fn made(&self, kind: Kind, text: &str) -> bool {
        let Some(bytes) = kind.decode(text) else {
            return false;
        };
        let (random, rest) = bytes.split_at(kind.random_bytes());
        self.mac(kind, random)[..].ct_eq(&rest[..MAC_BYTES]).into()
    }

    fn mac(&self, kind: Kind, random: &[u8]) -> [u8; MAC_BYTES] {
        let whole = self
            .0
            .clone()
            .chain_update(kind.prefix())
            .chain_update(random)
            .finalize()
            .into_bytes();
        let mut short = [0; MAC_BYTES];
        short.copy_from_slice(&whole[..MAC_BYTES]);
        short
    }
}

/// The maker, once the store has told its key: it may not answer when the gateway starts.
#[derive(Default)]
pub struct LazyMaker {
    known: OnceLock<Maker>,
    /// Held by who asks the store; when it last failed to answer.
    asking: Mutex<Option<Instant>>,
}

impl LazyMaker {
    /// The maker, if its key is known.
    pub fn known(&self) -> Option<&Maker> {
        self.known.get()
    }

    /// The maker; asks the store if need be, within bounds.
    ///
    /// # Errors
    /// Why the key is not known.
    pub async fn get(&self, store: &Store) -> Result<&Maker, String> {
        if let Some(maker) = self.known.get() {
            return Ok(maker);
        }
        let mut failed_at = self.asking.lock().await;
        if let Some(maker) = self.known.get() {
            return Ok(maker);
        }
        if failed_at.is_some_and(|at| at.elapsed() < FETCH_LIMIT) {
            return Err("the store did not answer a moment ago".to_owned());
        }
        let cause = match timeout(FETCH_LIMIT, store.mac_key()).await {
            Ok(Ok(key)) => return Ok(self.known.get_or_init(|| Maker::new(&key))),
            Ok(Err(cause)) => cause.to_string(),
            Err(_) => "the store did not answer in time".to_owned(),
        };
        *failed_at = Some(Instant::now());
        Err(cause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::ApiKey;

    #[test]
    fn what_is_made_is_known_again_and_nothing_else() {
        let maker = Maker::new(&[7; 32]);
        for (kind, chars) in [(Kind::Key, 43), (Kind::Refresh, 54)] {
            let made = maker.make(kind);
            assert_eq!(made.len(), 3 + chars);
            assert!(maker.made(kind, &made) && kind.has_shape(&made));
            assert_ne!(made, maker.make(kind));
            assert!(!Maker::new(&[8; 32]).made(kind, &made), "another store's");
            for at in 0..made.len() {
                let mut bytes = made.clone().into_bytes();
                bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
                let changed = String::from_utf8(bytes).unwrap();
                assert!(!maker.made(kind, &changed), "{at}");
            }
            for wrong in [&made[1..], &made[..made.len() - 1], "", "sk-", "rt-é"] {
                assert!(!maker.made(kind, wrong), "{wrong}");
            }
            assert!(!maker.made(kind, &format!("{made}A")));
            assert!(!maker.made(kind, &format!("{made}=")));
        }
    }

    #[test]
    fn a_refresh_token_is_no_key_whatever_its_prefix() {
        let maker = Maker::new(&[7; 32]);
        let token = maker.make(Kind::Refresh).replacen("rt-", "sk-", 1);
        assert!(!maker.made(Kind::Key, &token));
        let key = maker.make(Kind::Key).replacen("sk-", "rt-", 1);
        assert!(!maker.made(Kind::Refresh, &key));
    }

    #[test]
    fn a_service_key_has_the_shape_and_not_the_mac() {
        let maker = Maker::new(&[7; 32]);
        for _ in 0..100 {
            let key = ApiKey::generate();
            assert!(Kind::Key.has_shape(key.expose()));
            assert!(!maker.made(Kind::Key, key.expose()));
        }
    }
}
