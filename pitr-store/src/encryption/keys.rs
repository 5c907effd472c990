//! Who may read: where keys come from, and what wrapped keys are called.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::document::PublicKey;
use super::error::EncryptionError;
use crate::key::ObjectKey;
use crate::store::{EntryKind, Store, StoreError};

/// Where the keys for reading come from. Paths only: no secret stands in here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeySource {
    /// A file with age identities (`AGE-SECRET-KEY-1...`).
    pub identity: Option<PathBuf>,
    /// A file with a symmetric key of 32 bytes.
    pub key_file: Option<PathBuf>,
    /// The public keys of which the repository must have one; empty: any, or
    /// none. Who can write to the store could put another `pitr.json` there,
    /// with a public key of his own, and have everything encrypted to himself
    /// from then on; who has this is not deceived.
    pub repository_keys: Vec<PublicKey>,
}

impl KeySource {
    /// Checks that the repository at `location` has one of the public keys that
    /// are expected.
    ///
    /// # Errors
    /// `OtherRepository`.
    pub(crate) fn check_expected(
        &self,
        location: impl FnOnce() -> String,
        found: Option<PublicKey>,
    ) -> Result<(), EncryptionError> {
        let is_expected = found.is_some_and(|found| self.repository_keys.contains(&found));
        match self.repository_keys.first() {
            Some(expected) if !is_expected => Err(EncryptionError::OtherRepository {
                location: location(),
                expected: *expected,
                found,
            }),
            _ => Ok(()),
        }
    }

    /// Whether there is anything to read with.
    pub fn can_open(&self) -> bool {
        self.identity.is_some() || self.key_file.is_some()
    }
}

/// Who shall be able to read from now on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewKeys {
    /// age recipients: `age1...`.
    pub recipients: Vec<String>,
    /// Files with lines of age recipients.
    pub recipient_files: Vec<PathBuf>,
    /// Files with a symmetric key of 32 bytes.
    pub key_files: Vec<PathBuf>,
}

impl NewKeys {
    /// Whether nobody was named.
    pub fn is_empty(&self) -> bool {
        self.recipients.is_empty() && self.recipient_files.is_empty() && self.key_files.is_empty()
    }
}

/// Who can open a repository: the name of one wrapped copy of its private key.
///
/// As text the recipient, or `key file ` and the key's number.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RepositoryKeyName {
    /// An age recipient, `age1...`.
    Recipient(String),
    /// A key file: 16 hexadecimal digits that are computed from the key and
    /// do not give it away.
    KeyFile(String),
}

/// Not the name of a wrapped key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the name of a wrapped key")]
pub struct RepositoryKeyNameError;

/// Where the wrapped copies of a private key lie: `keys/<16 digits>`.
pub(crate) fn keys_folder(public_key: &PublicKey) -> ObjectKey {
    ObjectKey::of_layout(format!("{KEYS_FOLDER}/{}", public_key.folder_name()))
}

/// The folder of all wrapped keys. `init` finds it where another `init` died.
pub(crate) const KEYS_FOLDER: &str = "keys";

impl FromStr for RepositoryKeyName {
    type Err = RepositoryKeyNameError;

    /// Reads the name of an object in the folder of the repository's keys.
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let is_plain = |b: u8| b.is_ascii_digit() || b.is_ascii_lowercase();
        match name.rsplit_once('.') {
            Some((stem, "age")) if stem.starts_with("age1") && stem.bytes().all(is_plain) => {
                Ok(Self::Recipient(stem.to_owned()))
            }
            Some((stem, "key")) if stem.len() == 16 && stem.bytes().all(is_plain) => {
                Ok(Self::KeyFile(stem.to_owned()))
            }
            _ => Err(RepositoryKeyNameError),
        }
    }
}

impl fmt::Display for RepositoryKeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Recipient(recipient) => f.write_str(recipient),
            Self::KeyFile(id) => write!(f, "key file {id}"),
        }
    }
}

/// Who can open the repository with this public key, in order.
pub(crate) fn list_keys(
    store: &dyn Store,
    public_key: &PublicKey,
) -> Result<Vec<RepositoryKeyName>, StoreError> {
    let entries = store.list(Some(&keys_folder(public_key)))?;
    let mut names: Vec<RepositoryKeyName> = entries
        .iter()
        .filter(|entry| matches!(entry.kind, EntryKind::Object { .. }))
        .filter_map(|entry| entry.name.parse().ok())
        .collect();
    names.sort_unstable();
    Ok(names)
}
