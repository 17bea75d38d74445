//! Keys and their hashes. Pure: no I/O, no log, and nothing here knows of entries or headers.

use std::fmt;
use std::hash::{Hash, Hasher};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// The fewest characters a key may have; shorter strings are guesses or mistakes.
pub const MIN_KEY_CHARS: usize = 16;

const HASH_BYTES: usize = 32;
const KEY_ID_HEX: usize = 12;

/// SHA-256 of a key: the only form in which a key is kept.
#[derive(Clone, Copy)]
pub struct KeyHash([u8; HASH_BYTES]);

impl KeyHash {
    /// The hash of a key in clear.
    #[must_use]
    pub fn of(key: &str) -> Self {
        Self(Sha256::digest(key.as_bytes()).into())
    }

    /// Reads 64 hex digits of either case.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 2 * HASH_BYTES {
            return None;
        }
        let mut bytes = [0; HASH_BYTES];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = hex_digit(pair[0])? << 4 | hex_digit(pair[1])?;
        }
        Some(Self(bytes))
    }

    /// All 64 hex digits, as a key set holds them. Not for logs: see [`KeyHash::key_id`].
    #[must_use]
    pub fn to_hex(&self) -> String {
        hex(&self.0)
    }

    /// The hash itself, as the store has it.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; HASH_BYTES] {
        &self.0
    }

    /// The first 12 hex digits: names a key in rows and lists without giving it away.
    #[must_use]
    pub fn key_id(&self) -> String {
        let mut id = self.to_hex();
        id.truncate(KEY_ID_HEX);
        id
    }
}

impl PartialEq for KeyHash {
    /// Takes the same time wherever two hashes differ.
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for KeyHash {}

impl Hash for KeyHash {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.0);
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyHash({})", self.key_id())
    }
}

/// A key in clear; exists between generation and the one print of it. It has no `Debug`,
/// `Display` or `Serialize`, so it leaves only through [`ApiKey::expose`].
pub struct ApiKey(String);

impl ApiKey {
    /// A new key: `sk-` and 43 URL-safe base64 characters, which are 32 random bytes.
    #[must_use]
    pub fn generate() -> Self {
        let mut bytes = [0_u8; 32];
        // The thread's generator is a cryptographic one, seeded by the operating system.
        rand::fill(&mut bytes);
        Self(format!("sk-{}", URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// The key itself, for the one print of it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What a key set keeps of it.
    #[must_use]
    pub fn hash(&self) -> KeyHash {
        KeyHash::of(&self.0)
    }
}

/// The first 12 hex digits of the SHA-256 of a content: its version, where the source counts none.
pub(super) fn content_version(content: &[u8]) -> String {
    let mut version = hex(&Sha256::digest(content));
    version.truncate(KEY_ID_HEX);
    version
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 0xf)])
        .collect()
}

fn hex_digit(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn a_generated_key_has_the_promised_shape_and_never_comes_twice() {
        let mut seen = HashSet::new();
        for _ in 0..200 {
            let key = ApiKey::generate();
            let text = key.expose();
            let body = text.strip_prefix("sk-").unwrap();
            assert_eq!(body.len(), 43);
            assert!(
                body.bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            );
            assert!(key.hash() == KeyHash::of(text));
            assert!(seen.insert(text.to_owned()));
        }
    }

    #[test]
    fn a_hash_is_sha256_and_round_trips_in_either_case() {
        let hash = KeyHash::of("abc");
        assert_eq!(hash.to_hex(), ABC);
        assert_eq!(hash.key_id(), &ABC[..12]);
        assert_eq!(KeyHash::from_hex(ABC), Some(hash));
        assert_eq!(KeyHash::from_hex(&ABC.to_uppercase()), Some(hash));
    }

    #[test]
    fn what_is_no_hash_is_refused() {
        for text in [
            "",
            "abc",
            &ABC[1..],
            &format!("{ABC}0"),
            &ABC.replace('b', "g"),
            &ABC.replace('b', "é"),
        ] {
            assert!(KeyHash::from_hex(text).is_none(), "{text}");
        }
    }

    #[test]
    fn debug_shows_no_more_than_the_key_id() {
        assert_eq!(
            format!("{:?}", KeyHash::of("abc")),
            format!("KeyHash({})", &ABC[..12])
        );
    }
}
