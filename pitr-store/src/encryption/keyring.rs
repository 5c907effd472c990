//! The wrapped copies of a repository's private key: made, opened, added to.

use std::sync::Arc;

use super::document::{ENCRYPTION_FORMAT, EncryptionDocument, PublicKey};
use super::error::EncryptionError;
use super::key_file::{self, SymmetricKey};
use super::keys::{KeySource, NewKeys, RepositoryKeyName, keys_folder, list_keys};
use super::secret::RepositorySecret;
use super::store::EncryptedStore;
use crate::key::ObjectKey;
use crate::store::{Store, StoreError};

/// No wrapped key is larger. age puts a stanza of random length into some.
const MAX_WRAPPED_BYTES: u64 = 16 * 1024;

/// The store as the layers above shall see it.
#[expect(
    clippy::unnecessary_wraps,
    reason = "a build without encryption fails here"
)]
pub(crate) fn encrypted_store(
    store: &Arc<dyn Store>,
    document: &EncryptionDocument,
    keys: KeySource,
) -> Result<Arc<dyn Store>, EncryptionError> {
    let encrypted = EncryptedStore::new(Arc::clone(store), document.clone(), keys);
    Ok(Arc::new(encrypted))
}

/// Makes a key pair for a new repository, and leaves its private half in the
/// store, wrapped for each of `keys`. It is nobody's until `pitr.json` has its
/// public half.
pub(crate) fn make_repository_key(
    store: &Arc<dyn Store>,
    keys: &NewKeys,
) -> Result<EncryptionDocument, EncryptionError> {
    let locks = locks(keys)?;
    let secret = RepositorySecret::generate()?;
    put_wrapped(store, &secret, &locks)?;
    Ok(EncryptionDocument {
        format: ENCRYPTION_FORMAT,
        public_key: secret.public_key(),
    })
}

/// Wraps the private key for more readers; gives back those who are new.
pub(crate) fn add_keys(
    store: &Arc<dyn Store>,
    document: &EncryptionDocument,
    source: &KeySource,
    keys: &NewKeys,
) -> Result<Vec<RepositoryKeyName>, EncryptionError> {
    let locks = locks(keys)?;
    let secret = unlock(store, document, source)?;
    put_wrapped(store, &secret, &locks)
}

/// The names that `keys` have in the repository with this public key.
pub(crate) fn names_of(
    _store: &Arc<dyn Store>,
    keys: &NewKeys,
    public_key: &PublicKey,
) -> Result<Vec<RepositoryKeyName>, EncryptionError> {
    locks(keys)?
        .iter()
        .map(|lock| lock.name(public_key))
        .collect()
}

/// What the private key is wrapped with.
enum Lock {
    Recipient(age::x25519::Recipient),
    KeyFile(SymmetricKey),
}

impl Lock {
    fn name(&self, repository: &PublicKey) -> Result<RepositoryKeyName, EncryptionError> {
        Ok(match self {
            Self::Recipient(recipient) => RepositoryKeyName::Recipient(recipient.to_string()),
            Self::KeyFile(key) => {
                RepositoryKeyName::KeyFile(key.id(repository).ok_or(EncryptionError::NoRandom)?)
            }
        })
    }

    fn wrap(&self, secret: &RepositorySecret) -> Result<Vec<u8>, EncryptionError> {
        let text = secret.to_text();
        match self {
            Self::Recipient(recipient) => {
                age::encrypt(recipient, text.as_bytes()).map_err(|_| EncryptionError::NoRandom)
            }
            Self::KeyFile(key) => key.wrap(&secret.public_key(), text.as_bytes()),
        }
    }

    /// Makes sure that this lock opens the copy that stands there already. What
    /// was wrapped for a recipient, only its identity can tell.
    fn check_opens(
        &self,
        store: &Arc<dyn Store>,
        secret: &RepositorySecret,
        key: &ObjectKey,
    ) -> Result<(), EncryptionError> {
        let Self::KeyFile(symmetric) = self else {
            return Ok(());
        };
        let wrapped = store.read_whole(key, MAX_WRAPPED_BYTES)?;
        let public_key = secret.public_key();
        let text = symmetric.unwrap(&public_key, &wrapped);
        opened(&public_key, store.object_location(key), text).map(|_| ())
    }
}

fn locks(keys: &NewKeys) -> Result<Vec<Lock>, EncryptionError> {
    let mut locks = Vec::new();
    for (index, text) in keys.recipients.iter().enumerate() {
        let unusable = |what| EncryptionError::NotARecipient {
            number: index + 1,
            what,
        };
        let recipient = key_file::recipient(text.trim()).map_err(unusable)?;
        locks.push(Lock::Recipient(recipient));
    }
    for path in &keys.recipient_files {
        let recipients = key_file::read_recipients(path)?;
        locks.extend(recipients.into_iter().map(Lock::Recipient));
    }
    for path in &keys.key_files {
        locks.push(Lock::KeyFile(SymmetricKey::read(path)?));
    }
    if locks.is_empty() {
        return Err(EncryptionError::Nobody);
    }
    Ok(locks)
}

fn put_wrapped(
    store: &Arc<dyn Store>,
    secret: &RepositorySecret,
    locks: &[Lock],
) -> Result<Vec<RepositoryKeyName>, EncryptionError> {
    let public_key = secret.public_key();
    let mut added = Vec::new();
    for lock in locks {
        let name = lock.name(&public_key)?;
        let key = object_key(&public_key, &name);
        match store.put(&key, &[], &lock.wrap(secret)?) {
            Ok(()) => added.push(name),
            Err(StoreError::AlreadyExists { .. }) => {
                lock.check_opens(store, secret, &key)?;
                // its writer may have been killed before the last sync
                store.make_durable(&key)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(added)
}

fn object_key(public_key: &PublicKey, name: &RepositoryKeyName) -> ObjectKey {
    let folder = keys_folder(public_key);
    ObjectKey::of_layout(match name {
        RepositoryKeyName::Recipient(recipient) => format!("{folder}/{recipient}.age"),
        RepositoryKeyName::KeyFile(id) => format!("{folder}/{id}.key"),
    })
}

/// The private key of the repository, by whatever of `source` opens it.
///
/// # Errors
/// Of the first source that was named, if none opens it.
pub(super) fn unlock(
    store: &Arc<dyn Store>,
    document: &EncryptionDocument,
    source: &KeySource,
) -> Result<RepositorySecret, EncryptionError> {
    let mut first_error = None;
    if let Some(path) = &source.identity {
        match unlock_with_identity(store, document, path) {
            Ok(secret) => return Ok(secret),
            Err(error) => first_error = Some(error),
        }
    }
    if let Some(path) = &source.key_file {
        match unlock_with_key_file(store, document, path) {
            Ok(secret) => return Ok(secret),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    Err(match first_error {
        Some(error) => error,
        None => EncryptionError::NoKey {
            location: store.location(),
            keys: list_keys(store.as_ref(), &document.public_key)?,
        },
    })
}

fn unlock_with_identity(
    store: &Arc<dyn Store>,
    document: &EncryptionDocument,
    path: &std::path::Path,
) -> Result<RepositorySecret, EncryptionError> {
    let (file, identities) = key_file::read_identities(path)?;
    let mut found = Vec::new();
    let mut damaged = None;
    for identity in &identities {
        let name = RepositoryKeyName::Recipient(identity.to_public().to_string());
        let Some((location, wrapped)) = wrapped(store, document, &name)? else {
            found.push(name);
            continue;
        };
        let text = age::decrypt(identity, &wrapped).map(zeroize::Zeroizing::new);
        match opened(&document.public_key, location, text.ok()) {
            Ok(secret) => return Ok(secret),
            // the next one may open its own copy
            Err(error) => damaged = damaged.or(Some(error)),
        }
    }
    match damaged {
        Some(error) => Err(error),
        None => Err(wrong_key(store, document, file, found)?),
    }
}

fn unlock_with_key_file(
    store: &Arc<dyn Store>,
    document: &EncryptionDocument,
    path: &std::path::Path,
) -> Result<RepositorySecret, EncryptionError> {
    let key = SymmetricKey::read(path)?;
    let id = key.id(&document.public_key);
    let name = RepositoryKeyName::KeyFile(id.ok_or(EncryptionError::NoRandom)?);
    if let Some((location, wrapped)) = wrapped(store, document, &name)? {
        let text = key.unwrap(&document.public_key, &wrapped);
        return opened(&document.public_key, location, text);
    }
    let file = format!("key file \"{}\"", path.display());
    Err(wrong_key(store, document, file, vec![name])?)
}

/// Location and bytes of a wrapped key; `None` if its absence is proven.
fn wrapped(
    store: &Arc<dyn Store>,
    document: &EncryptionDocument,
    name: &RepositoryKeyName,
) -> Result<Option<(String, Vec<u8>)>, EncryptionError> {
    let key = object_key(&document.public_key, name);
    match store.read_whole(&key, MAX_WRAPPED_BYTES) {
        Ok(bytes) => Ok(Some((store.object_location(&key), bytes))),
        Err(error) if error.is_absence() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn opened(
    public_key: &PublicKey,
    location: String,
    text: Option<zeroize::Zeroizing<Vec<u8>>>,
) -> Result<RepositorySecret, EncryptionError> {
    let damaged = |what| EncryptionError::DamagedKey { location, what };
    let Some(text) = text else {
        return Err(damaged(
            "it does not open with the key that it is named after",
        ));
    };
    match RepositorySecret::from_text(&text) {
        Some(secret) if secret.public_key() == *public_key => Ok(secret),
        Some(_) => Err(damaged("it holds the key of another repository")),
        None => Err(damaged("it holds no key")),
    }
}

fn wrong_key(
    store: &Arc<dyn Store>,
    document: &EncryptionDocument,
    file: String,
    found: Vec<RepositoryKeyName>,
) -> Result<EncryptionError, EncryptionError> {
    Ok(EncryptionError::WrongKey {
        location: store.location(),
        file,
        found,
        keys: list_keys(store.as_ref(), &document.public_key)?,
    })
}
