//! Client-side encryption of what lies in a repository, on any store.
//!
//! A repository that is encrypted has a key pair of its own, made by `init`.
//! Its public half stands in `pitr.json`: whoever writes needs nothing else,
//! and cannot read what it wrote. Its private half lies in the repository too,
//! wrapped once for each age recipient and each key file that may read. Each
//! object has a key of its own, made for it from the public half.
//!
//! [`EncryptedStore`] stands between the repository and its store: all above
//! it sees objects with their own content and size. `docs/store-format.md`
//! specifies every byte.

mod document;
mod error;
mod keys;

pub use document::{ENCRYPTION_FORMAT, EncryptionDocument, PublicKey};
pub use error::{Damage, EncryptionError};
pub(crate) use keys::{KEYS_FOLDER, list_keys};
pub use keys::{KeySource, NewKeys, RepositoryKeyName, RepositoryKeyNameError};

#[cfg(feature = "encryption")]
mod cipher;
#[cfg(feature = "encryption")]
mod format;
#[cfg(feature = "encryption")]
mod key_file;
#[cfg(feature = "encryption")]
mod keyring;
#[cfg(feature = "encryption")]
mod reader;
#[cfg(feature = "encryption")]
mod secret;
#[cfg(feature = "encryption")]
mod store;
#[cfg(test)]
#[cfg(feature = "encryption")]
mod tests;
#[cfg(feature = "encryption")]
mod writer;

#[cfg(feature = "encryption")]
pub(crate) use keyring::{add_keys, encrypted_store, make_repository_key, names_of};
#[cfg(feature = "encryption")]
#[doc(hidden)]
pub use reader::DecryptingReader;
#[cfg(feature = "encryption")]
#[doc(hidden)]
pub use secret::RepositorySecret;
#[cfg(feature = "encryption")]
pub use store::EncryptedStore;
#[cfg(feature = "encryption")]
#[doc(hidden)]
pub use writer::SealingWriter;

#[cfg(not(feature = "encryption"))]
mod absent;
#[cfg(not(feature = "encryption"))]
pub(crate) use absent::{add_keys, encrypted_store, make_repository_key, names_of};
