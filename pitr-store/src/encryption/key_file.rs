//! Files that hold keys: identities, symmetric keys, recipients.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce};
use ring::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use ring::rand::SecureRandom as _;
use zeroize::Zeroizing;

use super::document::{PublicKey, hex_32};
use super::error::EncryptionError;

/// No file of keys is larger.
const MAX_FILE_BYTES: u64 = 64 * 1024;

const KEY_ID_CONTEXT: &[u8] = b"pitr key id 1";
const WRAP_CONTEXT: &[u8] = b"pitr key wrap 1";

/// A symmetric key out of a file.
pub(super) struct SymmetricKey(Zeroizing<[u8; 32]>);

impl SymmetricKey {
    /// Reads a key file: 32 bytes as they are, in base64, or in hexadecimal.
    pub(super) fn read(path: &Path) -> Result<Self, EncryptionError> {
        let file = format!("key file \"{}\"", path.display());
        let bytes = read_secret(path, &file)?;
        Self::parse(&bytes).map_err(|what| EncryptionError::NotAKey { file, what })
    }

    fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        if let Ok(raw) = <[u8; 32]>::try_from(bytes) {
            if raw.iter().all(|b| b.is_ascii_graphic() || *b == b' ') {
                return Err("its 32 bytes are letters, and no random key");
            }
            return Ok(Self(Zeroizing::new(raw)));
        }
        let wrong = "it does not hold 32 bytes";
        let text = std::str::from_utf8(bytes).map_err(|_| wrong)?.trim();
        if let Some(key) = hex_32(&Zeroizing::new(text.to_ascii_lowercase())) {
            return Ok(Self(Zeroizing::new(key)));
        }
        let decoded = Zeroizing::new(BASE64_STANDARD.decode(text).map_err(|_| wrong)?);
        let key = <[u8; 32]>::try_from(decoded.as_slice()).map_err(|_| wrong)?;
        Ok(Self(Zeroizing::new(key)))
    }

    /// The number by which the key is known in a repository. Another one in
    /// every repository, so that nobody sees where the same key is used.
    pub(super) fn id(&self, repository: &PublicKey) -> Option<String> {
        let mut id = [0; 8];
        let derived = self.derive(repository);
        derived
            .expand(&[KEY_ID_CONTEXT], Bytes(id.len()))
            .and_then(|okm| okm.fill(&mut id))
            .ok()?;
        Some(id.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Nonce, encrypted `text`, tag.
    pub(super) fn wrap(
        &self,
        repository: &PublicKey,
        text: &[u8],
    ) -> Result<Vec<u8>, EncryptionError> {
        let failed = |_| EncryptionError::NoRandom;
        let mut nonce = [0; NONCE_LEN];
        ring::rand::SystemRandom::new()
            .fill(&mut nonce)
            .map_err(failed)?;
        let mut wrapped = nonce.to_vec();
        let mut sealed = Zeroizing::new(text.to_vec());
        let tag = self
            .wrapping_key(repository)
            .and_then(|key| {
                let nonce = Nonce::assume_unique_for_key(nonce);
                key.seal_in_place_separate_tag(nonce, Aad::empty(), &mut sealed)
            })
            .map_err(failed)?;
        wrapped.extend_from_slice(&sealed);
        wrapped.extend_from_slice(tag.as_ref());
        Ok(wrapped)
    }

    /// What was wrapped; `None` if it does not open.
    pub(super) fn unwrap(
        &self,
        repository: &PublicKey,
        wrapped: &[u8],
    ) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, sealed) = wrapped.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut sealed = Zeroizing::new(sealed.to_vec());
        let key = self.wrapping_key(repository).ok()?;
        let length = key
            .open_in_place(nonce, Aad::empty(), &mut sealed)
            .ok()?
            .len();
        sealed.truncate(length);
        Some(sealed)
    }

    fn wrapping_key(
        &self,
        repository: &PublicKey,
    ) -> Result<LessSafeKey, ring::error::Unspecified> {
        let derived = self.derive(repository);
        let key = derived.expand(&[WRAP_CONTEXT], &AES_256_GCM)?;
        Ok(LessSafeKey::new(key.into()))
    }

    fn derive(&self, repository: &PublicKey) -> Prk {
        Salt::new(HKDF_SHA256, repository.as_bytes()).extract(self.0.as_slice())
    }
}

struct Bytes(usize);

impl KeyType for Bytes {
    fn len(&self) -> usize {
        self.0
    }
}

/// Reads the age identities in a file.
pub(super) fn read_identities(
    path: &Path,
) -> Result<(String, Vec<age::x25519::Identity>), EncryptionError> {
    let file = format!("identity \"{}\"", path.display());
    let bytes = read_secret(path, &file)?;
    match parse_identities(&bytes) {
        Ok(identities) => Ok((file, identities)),
        Err(what) => Err(EncryptionError::NotAKey { file, what }),
    }
}

fn parse_identities(bytes: &[u8]) -> Result<Vec<age::x25519::Identity>, &'static str> {
    const PASSPHRASE: &str = "it is protected by a passphrase, which nobody could type for the server: \
                              write out what \"age -d\" makes of it";
    if bytes.starts_with(b"age-encryption.org/") {
        return Err(PASSPHRASE);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not a text")?;
    let mut identities = Vec::new();
    for line in text.lines().map(str::trim) {
        match line {
            "" => {}
            line if line.starts_with('#') => {}
            line if line.starts_with("-----BEGIN AGE ENCRYPTED FILE") => return Err(PASSPHRASE),
            line if line.starts_with("-----BEGIN") => {
                return Err("it holds a key of another kind, and an age identity is needed");
            }
            line if line.starts_with("AGE-PLUGIN-") => {
                return Err("its identity needs a plugin of age, and those are not supported");
            }
            line if line.starts_with("age1") => {
                return Err("it holds a recipient, the public key, and not the identity");
            }
            line => identities.push(
                line.parse()
                    .map_err(|_| "a line of it is no age identity")?,
            ),
        }
    }
    if identities.is_empty() {
        return Err("it holds no age identity");
    }
    Ok(identities)
}

/// Reads the lines of a file of recipients.
pub(super) fn read_recipients(path: &Path) -> Result<Vec<age::x25519::Recipient>, EncryptionError> {
    let file = || format!("recipients file \"{}\"", path.display());
    let unreadable = |source| EncryptionError::KeyUnreadable {
        file: file(),
        source,
    };
    let opened = File::open(path).map_err(unreadable)?;
    let bytes = read_bounded(opened).map_err(unreadable)?;
    let unusable = |what| EncryptionError::NotAKey { file: file(), what };
    let text = std::str::from_utf8(&bytes).map_err(|_| unusable("it is not a text"))?;
    let lines = text.lines().map(str::trim);
    let mut recipients = Vec::new();
    for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
        recipients.push(recipient(line).map_err(unusable)?);
    }
    if recipients.is_empty() {
        return Err(unusable("it holds no recipient"));
    }
    Ok(recipients)
}

/// One age recipient. The error does not quote it: it may be a secret that was
/// mistaken for a recipient.
pub(super) fn recipient(text: &str) -> Result<age::x25519::Recipient, &'static str> {
    if text.starts_with("AGE-SECRET-KEY-") {
        return Err("it is an identity, which is secret, and not a recipient");
    }
    if text.starts_with("ssh-") {
        return Err("it is an SSH key, and an age recipient is needed");
    }
    text.parse().map_err(|_| "it is no age recipient")
}

fn read_secret(path: &Path, file: &str) -> Result<Zeroizing<Vec<u8>>, EncryptionError> {
    let unreadable = |source| EncryptionError::KeyUnreadable {
        file: file.to_owned(),
        source,
    };
    let opened = File::open(path).map_err(unreadable)?;
    let metadata = opened.metadata().map_err(unreadable)?;
    let mode = metadata.mode() & 0o777;
    // as PostgreSQL has it with the key of its certificate: the owner alone, or
    // root's with a group that may read
    let forbidden = if metadata.uid() == 0 { 0o027 } else { 0o077 };
    if metadata.is_file() && mode & forbidden != 0 {
        return Err(EncryptionError::KeyExposed {
            file: file.to_owned(),
            mode,
        });
    }
    read_bounded(opened).map_err(unreadable)
}

fn read_bounded(file: File) -> io::Result<Zeroizing<Vec<u8>>> {
    // its whole length at once: growing would leave copies behind
    let capacity = usize::try_from(MAX_FILE_BYTES).unwrap_or(0) + 1;
    let mut bytes = Zeroizing::new(Vec::with_capacity(capacity));
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_FILE_BYTES) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("it has more than {MAX_FILE_BYTES} bytes"),
        ));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_file_has_three_spellings() {
        let key: Vec<u8> = (100..132).collect();
        let base64 = BASE64_STANDARD.encode(&key) + "\n";
        let hex: String = key.iter().map(|b| format!("{b:02X}")).collect();
        for spelling in [key.as_slice(), base64.as_bytes(), hex.as_bytes()] {
            let parsed = SymmetricKey::parse(spelling).ok().unwrap();
            assert_eq!(parsed.0.as_slice(), key);
        }
        let long = [7; 33];
        for wrong in [
            &b""[..],
            b"secret",
            b"a passphrase of 32 letters, oops",
            &long,
        ] {
            assert!(SymmetricKey::parse(wrong).is_err());
        }
    }

    #[test]
    fn an_identity_of_another_kind_is_told_from_a_broken_one() {
        let what = |text: &str| parse_identities(text.as_bytes()).err().unwrap();
        assert!(what("age-encryption.org/v1\n-> scrypt").contains("passphrase"));
        assert!(what("-----BEGIN AGE ENCRYPTED FILE-----\n").contains("passphrase"));
        assert!(what("-----BEGIN OPENSSH PRIVATE KEY-----\n").contains("another kind"));
        assert!(what("# nothing\n\n").contains("no age identity"));
        assert!(what("AGE-SECRET-KEY-1QQQ").contains("no age identity"));
        assert!(what("AGE-PLUGIN-YUBIKEY-1Q").contains("plugin"));
    }
}
