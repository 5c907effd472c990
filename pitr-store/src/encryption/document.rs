//! What `pitr.json` says of encryption.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The only format of encrypted objects and wrapped keys that this build reads
/// and writes.
pub const ENCRYPTION_FORMAT: u32 = 1;

/// `encryption` in `pitr.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EncryptionDocument {
    /// [`ENCRYPTION_FORMAT`].
    pub format: u32,
    /// What everything is encrypted to.
    pub public_key: PublicKey,
}

/// The public half of a repository's key pair: a point of Curve25519 (X25519,
/// RFC 7748).
///
/// As text 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey([u8; 32]);

/// Not the 64 hexadecimal digits of a repository's public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a repository's public key, which has 64 hexadecimal digits")]
pub struct ParsePublicKeyError;

impl PublicKey {
    #[cfg(feature = "encryption")]
    pub(crate) const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The folder of the repository's wrapped private key: the first 16 digits.
    pub(crate) fn folder_name(&self) -> String {
        self.to_string().chars().take(16).collect()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = ParsePublicKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        hex_32(text).map(Self).ok_or(ParsePublicKeyError)
    }
}

/// 32 bytes out of 64 lower-case hexadecimal digits.
pub(super) fn hex_32(text: &str) -> Option<[u8; 32]> {
    let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if text.len() != 64 || !text.bytes().all(is_hex) {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

impl Serialize for PublicKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_key_has_one_spelling() {
        let text = "00ff".repeat(16);
        let key: PublicKey = text.parse().unwrap();
        assert_eq!(key.to_string(), text);
        assert_eq!(key.as_bytes()[1], 255);
        assert_eq!(key.folder_name(), "00ff00ff00ff00ff");
        for wrong in ["", &text[1..], &text.to_uppercase(), &format!("{text}0")] {
            assert!(wrong.parse::<PublicKey>().is_err(), "{wrong}");
        }
    }
}
