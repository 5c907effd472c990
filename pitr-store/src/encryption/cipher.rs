//! The key of one object, and what it seals.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce};
use ring::hkdf::{HKDF_SHA256, Salt};

use super::document::PublicKey;
use super::error::{Damage, EncryptionError};
use super::format::{Header, TAG_BYTES, Trailer};
use super::secret::{NewPair, RepositorySecret};
use crate::key::ObjectKey;

/// What the derivation of an object's key is bound to, before the object's name.
const OBJECT_KEY_CONTEXT: &[u8] = b"pitr object 1\0";

/// The key of one object. No other object has it, so that nonces may count.
pub(super) struct ObjectCipher(LessSafeKey);

impl ObjectCipher {
    /// For a new object named `name`: its header, and its key.
    pub(super) fn for_new_object(
        public: &PublicKey,
        name: &ObjectKey,
        location: impl Fn() -> String,
    ) -> Result<(Header, Self), EncryptionError> {
        let weak = || EncryptionError::WeakPublicKey {
            location: location(),
        };
        let pair = NewPair::agreeing_with(public)?.ok_or_else(weak)?;
        let ephemeral = pair.public;
        let cipher = Self::derive(&pair.agreed, &ephemeral, public, name).ok_or_else(weak)?;
        Ok((Header { ephemeral }, cipher))
    }

    /// For the object named `name` that begins with `header`.
    pub(super) fn of_object(
        secret: &RepositorySecret,
        header: &Header,
        name: &ObjectKey,
    ) -> Result<Self, Damage> {
        let agreed = secret.agree(&header.ephemeral).ok_or(Damage::Header)?;
        let public = secret.public_key();
        Self::derive(&agreed, &header.ephemeral, &public, name).ok_or(Damage::Header)
    }

    /// HKDF-SHA-256 of what both pairs agree on, bound to both public halves
    /// and to the object's name.
    fn derive(
        agreed: &[u8; 32],
        ephemeral: &[u8; 32],
        public: &PublicKey,
        name: &ObjectKey,
    ) -> Option<Self> {
        let mut salt = [0; 64];
        salt[..32].copy_from_slice(ephemeral);
        salt[32..].copy_from_slice(public.as_bytes());
        let info = [OBJECT_KEY_CONTEXT, name.as_str().as_bytes()];
        let derived = Salt::new(HKDF_SHA256, &salt).extract(agreed);
        let key = derived.expand(&info, &AES_256_GCM).ok()?;
        Some(Self(LessSafeKey::new(key.into())))
    }

    /// Encrypts `chunk` in place and puts its tag behind it. The last chunk's
    /// seal covers the trailer.
    pub(super) fn seal(
        &self,
        number: u64,
        last: Option<&Trailer>,
        chunk: &mut Vec<u8>,
    ) -> Option<()> {
        let aad = last.map(|trailer| trailer.to_bytes());
        let aad = Aad::from(aad.as_ref().map_or(&[][..], |bytes| bytes));
        let nonce = nonce(number, last.is_some());
        self.0.seal_in_place_append_tag(nonce, aad, chunk).ok()
    }

    /// Decrypts `sealed` in place, tag included, and gives back the content.
    pub(super) fn open<'c>(
        &self,
        number: u64,
        last: Option<&Trailer>,
        sealed: &'c mut [u8],
    ) -> Result<&'c [u8], Damage> {
        let damaged = Damage::Chunk { number };
        if sealed.len() < TAG_BYTES {
            return Err(damaged);
        }
        let aad = last.map(|trailer| trailer.to_bytes());
        let aad = Aad::from(aad.as_ref().map_or(&[][..], |bytes| bytes));
        let opened = self
            .0
            .open_in_place(nonce(number, last.is_some()), aad, sealed);
        opened.map(|content| &*content).map_err(|_| damaged)
    }
}

/// Eleven bytes with the chunk's number, highest first, and one that marks the
/// last chunk: chunks can be neither moved nor left out, nor the end cut off.
fn nonce(number: u64, is_last: bool) -> Nonce {
    let mut bytes = [0; 12];
    bytes[3..11].copy_from_slice(&number.to_be_bytes());
    bytes[11] = u8::from(is_last);
    Nonce::assume_unique_for_key(bytes)
}
