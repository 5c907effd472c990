//! What encryption promises, on a local store.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::*;
use crate::key::ObjectKey;
use crate::local::LocalStore;
use crate::repository::{Initialized, Repository, RepositoryError};
use crate::store::{Store, StoreError};

mod keys;
mod objects;
mod wal;

/// A folder with a repository and what opens it.
struct Scene {
    dir: tempfile::TempDir,
    identity: PathBuf,
    recipient: String,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (identity, recipient) = identity_in(dir.path(), "identity.txt");
        let scene = Self {
            dir,
            identity,
            recipient,
        };
        let made = Repository::init_encrypted(scene.store(), &scene.for_recipient()).unwrap();
        assert!(matches!(made, Initialized::Created(_)));
        scene
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("repo")
    }

    fn store(&self) -> Arc<dyn Store> {
        Arc::new(LocalStore::new(self.root()))
    }

    fn for_recipient(&self) -> NewKeys {
        NewKeys {
            recipients: vec![self.recipient.clone()],
            ..NewKeys::default()
        }
    }

    /// As on the archiving host: public keys alone.
    fn locked(&self) -> Repository {
        Repository::open(self.store()).unwrap()
    }

    fn with_identity(&self, identity: &Path) -> Repository {
        let keys = KeySource {
            identity: Some(identity.to_owned()),
            ..KeySource::default()
        };
        Repository::open_with(self.store(), &keys).unwrap()
    }

    fn unlocked(&self) -> Repository {
        self.with_identity(&self.identity)
    }

    fn with_key_file(&self, path: &Path) -> Repository {
        let keys = KeySource {
            key_file: Some(path.to_owned()),
            ..KeySource::default()
        };
        Repository::open_with(self.store(), &keys).unwrap()
    }
}

/// Writes a new identity; gives back its path and its recipient.
fn identity_in(dir: &Path, name: &str) -> (PathBuf, String) {
    use age::secrecy::ExposeSecret as _;
    let identity = age::x25519::Identity::generate();
    let text = format!(
        "# public key: {}\n{}\n",
        identity.to_public(),
        identity.to_string().expose_secret()
    );
    let path = private_file(dir, name, text.as_bytes());
    (path, identity.to_public().to_string())
}

fn private_file(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, bytes).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

fn key(text: &str) -> ObjectKey {
    ObjectKey::parse(text).unwrap()
}

/// The error of encryption in an error of the store.
fn of_store(error: StoreError) -> EncryptionError {
    match error {
        StoreError::Encryption(error) => *error,
        other => panic!("{other}"),
    }
}

fn of_repository(error: RepositoryError) -> EncryptionError {
    match error {
        RepositoryError::Encryption(error) => *error,
        other => panic!("{other}"),
    }
}
