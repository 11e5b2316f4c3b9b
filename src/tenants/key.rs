//! API keys: what they look like, and what is kept of them.
//!
//! `sk-sg-`, the id of the key in hexadecimal digits, a hyphen, and 256 random bits with a checksum in base58. The checksum tells
//! a key that was cut or mistyped from one that is not known; it keeps nothing secret.

use std::fmt;

use sha2::{Digest as _, Sha256};
use sluicegate_compat::native::{API_KEY_ID_DIGITS, API_KEY_PREFIX};
use subtle::ConstantTimeEq as _;

use crate::ids::KeyId;

/// Bytes of an id.
const ID: usize = API_KEY_ID_DIGITS / 2;

/// Bytes that nobody can guess.
const SECRET: usize = 32;

/// Bytes of the checksum.
const CHECK: usize = 4;

/// What a key has at most.
const LONGEST: usize = API_KEY_PREFIX.len() + API_KEY_ID_DIGITS + 1 + 2 * (SECRET + CHECK);

/// A key as its owner has it. It is shown once and kept nowhere; its debug form is its id.
#[derive(Clone)]
pub struct Secret {
    id: KeyId,
    text: String,
}

/// What is kept of a key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyDigest([u8; 32]);

/// There was no randomness to be had.
#[derive(Debug, thiserror::Error)]
#[error("the system gives no random numbers: {0}")]
pub struct NotRandom(#[from] getrandom::Error);

impl Secret {
    /// A new key.
    ///
    /// # Errors
    ///
    /// [`NotRandom`].
    pub fn new() -> Result<Self, NotRandom> {
        let mut random = [0; ID + SECRET];
        getrandom::fill(&mut random)?;
        let (id, secret) = random.split_at(ID);
        let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut body = secret.to_vec();
        body.extend(checksum(&id, secret));
        let text = format!("{API_KEY_PREFIX}{id}-{}", bs58::encode(body).into_string());
        Ok(Self { id: KeyId::from(id), text })
    }

    /// Reads a whole key; `None` where it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let (id, body) = split(text)?;
        let body = bs58::decode(body).into_vec().ok().filter(|body| body.len() == SECRET + CHECK)?;
        let (secret, check) = body.split_at(SECRET);
        (check == checksum(id, secret)).then(|| Self { id: KeyId::from(id), text: text.to_owned() })
    }

    pub fn id(&self) -> &KeyId {
        &self.id
    }

    pub fn digest(&self) -> KeyDigest {
        KeyDigest::of(&self.text)
    }

    /// The key itself, for its owner.
    pub fn reveal(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({}, …)", self.id)
    }
}

/// What a caller has sent, which may be a key. Only its digest says whether it is one of those that are known, so nothing more is
/// read of it than that takes.
#[derive(Clone, Copy)]
pub struct Presented<'t> {
    id: &'t str,
    text: &'t str,
}

impl<'t> Presented<'t> {
    /// `None` where it can be no key.
    pub fn parse(text: &'t str) -> Option<Self> {
        split(text).map(|(id, _)| Self { id, text })
    }

    pub fn id(&self) -> &'t str {
        self.id
    }

    pub fn digest(&self) -> KeyDigest {
        KeyDigest::of(self.text)
    }

    /// Whether it is a key, of whomever, and not one that was cut or mistyped.
    pub fn is_whole(&self) -> bool {
        Secret::parse(self.text).is_some()
    }
}

/// The id, and what comes after it.
fn split(text: &str) -> Option<(&str, &str)> {
    let (id, body) = text.strip_prefix(API_KEY_PREFIX).filter(|_| text.len() <= LONGEST)?.split_once('-')?;
    let digits = id.len() == API_KEY_ID_DIGITS && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    digits.then_some((id, body))
}

impl KeyDigest {
    fn of(text: &str) -> Self {
        Self(Sha256::digest(text).into())
    }

    /// As long as it takes for any other.
    pub fn is(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }

    /// As the store has it.
    pub fn parse(text: &str) -> Option<Self> {
        let digit = |at: usize| text.get(2 * at..2 * at + 2).and_then(|two| u8::from_str_radix(two, 16).ok());
        let mut digest = [0; 32];
        for (at, byte) in digest.iter_mut().enumerate() {
            *byte = digit(at)?;
        }
        (text.len() == 64).then_some(Self(digest))
    }
}

impl fmt::Display for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyDigest(…)")
    }
}

fn checksum(id: &str, secret: &[u8]) -> [u8; CHECK] {
    let whole = Sha256::new().chain_update(id).chain_update(secret).finalize();
    let mut check = [0; CHECK];
    check.copy_from_slice(&whole[..CHECK]);
    check
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_is_read_back_and_says_nothing_in_its_debug_form() {
        let key = Secret::new().unwrap();
        let read = Secret::parse(key.reveal()).unwrap();
        assert_eq!((read.id(), read.digest()), (key.id(), key.digest()));
        assert!(key.digest().is(&KeyDigest::parse(&key.digest().to_string()).unwrap()));
        assert!(!key.digest().is(&Secret::new().unwrap().digest()));
        assert_eq!(format!("{key:?} {:?}", key.digest()), format!("Secret({}, …) KeyDigest(…)", key.id()));
    }

    proptest! {
        #[test]
        fn a_key_with_another_character_is_none(at in 0usize..200, other in "[ -~é]") {
            let key = Secret::new().unwrap();
            let mut characters: Vec<String> = key.reveal().chars().map(String::from).collect();
            let at = at % characters.len();
            prop_assume!(characters[at] != other);
            characters[at] = other;
            let text = characters.concat();
            prop_assert!(Secret::parse(&text).is_none() && !Presented::parse(&text).is_some_and(|key| key.is_whole()));
        }

        #[test]
        fn nothing_that_is_sent_panics(text in "(sk-sg-)?([0-9a-f]{16}-)?.{0,80}") {
            prop_assert!(Secret::parse(&text).is_none() && !Presented::parse(&text).is_some_and(|key| key.is_whole()));
        }
    }
}
