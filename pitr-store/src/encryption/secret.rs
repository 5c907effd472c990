//! The private half of a repository's key pair.

use std::fmt;

use ring::rand::SecureRandom as _;
use x25519_dalek::StaticSecret;
use zeroize::Zeroizing;

use super::document::{PublicKey, hex_32};
use super::error::EncryptionError;

/// What reads everything in a repository. Cleared from memory when dropped,
/// and never printed.
pub struct RepositorySecret {
    secret: StaticSecret,
    public: PublicKey,
}

impl RepositorySecret {
    /// A new one, out of the system's random numbers.
    pub(super) fn generate() -> Result<Self, EncryptionError> {
        Ok(Self::from_bytes(&*random_32()?))
    }

    /// The secret of these 32 bytes.
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        let secret = StaticSecret::from(*bytes);
        let public = PublicKey::new(x25519_dalek::PublicKey::from(&secret).to_bytes());
        Self { secret, public }
    }

    /// The secret as it is wrapped: 64 hexadecimal digits and a newline.
    pub(super) fn to_text(&self) -> Zeroizing<String> {
        use std::fmt::Write as _;
        let bytes = Zeroizing::new(self.secret.to_bytes());
        // its whole length at once: growing would leave copies behind
        let mut text = Zeroizing::new(String::with_capacity(65));
        for byte in bytes.iter() {
            // writing to a String cannot fail
            let _ = write!(text, "{byte:02x}");
        }
        text.push('\n');
        text
    }

    /// Reads it back; `None` if it is something else.
    pub(super) fn from_text(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let bytes = Zeroizing::new(hex_32(text.strip_suffix('\n').unwrap_or(text))?);
        Some(Self::from_bytes(&bytes))
    }

    /// The public half.
    pub fn public_key(&self) -> PublicKey {
        self.public
    }

    /// What both halves of two pairs agree on; `None` where that is no secret.
    pub(super) fn agree(&self, other: &[u8; 32]) -> Option<Zeroizing<[u8; 32]>> {
        agree(&self.secret, other)
    }
}

impl fmt::Debug for RepositorySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RepositorySecret")
            .field("public", &self.public)
            .finish_non_exhaustive()
    }
}

/// A key pair made for one object.
pub(super) struct NewPair {
    /// Its public half.
    pub(super) public: [u8; 32],
    /// What it agrees on with the public key that it was made for.
    pub(super) agreed: Zeroizing<[u8; 32]>,
}

impl NewPair {
    /// A pair that agrees with `public`. `Ok(None)`: nothing can be kept secret
    /// with that key.
    pub(super) fn agreeing_with(public: &PublicKey) -> Result<Option<Self>, EncryptionError> {
        let secret = StaticSecret::from(*random_32()?);
        let own = x25519_dalek::PublicKey::from(&secret).to_bytes();
        let agreed = agree(&secret, public.as_bytes());
        Ok(agreed.map(|agreed| Self {
            public: own,
            agreed,
        }))
    }
}

fn agree(secret: &StaticSecret, other: &[u8; 32]) -> Option<Zeroizing<[u8; 32]>> {
    let agreed = secret.diffie_hellman(&x25519_dalek::PublicKey::from(*other));
    agreed
        .was_contributory()
        .then(|| Zeroizing::new(agreed.to_bytes()))
}

fn random_32() -> Result<Zeroizing<[u8; 32]>, EncryptionError> {
    let mut bytes = Zeroizing::new([0; 32]);
    ring::rand::SystemRandom::new()
        .fill(bytes.as_mut_slice())
        .map_err(|_| EncryptionError::NoRandom)?;
    Ok(bytes)
}
