//! A repository: what makes a folder one, and whose it is.

mod cluster;
pub(crate) mod document;
mod set;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use pitr_core::{PostgresMajor, SystemIdentifier, WalFileName, WalSegmentSize};

use crate::encryption::{
    EncryptionDocument, EncryptionError, KEYS_FOLDER, KeySource, NewKeys, RepositoryKeyName,
    add_keys, encrypted_store, list_keys, make_repository_key, names_of,
};
use crate::key::ObjectKey;
use crate::store::{EntryKind, Store, StoreError};
use crate::wal::WalArchive;

pub use cluster::{Cluster, ClusterIdentity};
pub use document::{
    ClaimDocument, ClusterDocument, DocumentError, ENCRYPTED_FORMAT, FORMAT, RepositoryDocument,
};
pub use set::{Reached, RepositorySet, Unreached};

const REPOSITORY_DOCUMENT: &str = "pitr.json";
const CLAIM_DOCUMENT: &str = "claim.json";
const CLUSTER_DOCUMENT: &str = "cluster.json";

/// Names in an error about a folder that is not empty.
const NAMES_SHOWN: usize = 5;

/// An open repository.
#[derive(Clone, Debug)]
pub struct Repository {
    /// As it lies on the medium.
    store: Arc<dyn Store>,
    /// What is in it: decrypted, where it is encrypted.
    content: Arc<dyn Store>,
    document: RepositoryDocument,
    keys: KeySource,
}

/// What `init` has come to.
#[derive(Clone, Debug)]
pub enum Initialized {
    /// A new repository.
    Created(Repository),
    /// There was one already; nothing was changed.
    Existing(Repository),
}

impl Initialized {
    /// The repository, new or not.
    pub fn into_repository(self) -> Repository {
        match self {
            Self::Created(repository) | Self::Existing(repository) => repository,
        }
    }
}

/// Why there is no repository to work with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepositoryError {
    /// No `pitr.json`, or not even the folder for it.
    #[error("\"{location}\" is not a repository: it has no {REPOSITORY_DOCUMENT}")]
    NotARepository {
        /// The place.
        location: String,
    },
    /// `init` into a place that holds something else.
    #[error("\"{location}\" is not empty: it holds {}", .names.join(", "))]
    NotEmpty {
        /// The place.
        location: String,
        /// The first names found there.
        names: Vec<String>,
    },
    /// A document of it is damaged or unknown.
    #[error(transparent)]
    Document(DocumentError),
    /// It is encrypted, and cannot be used so, or not with these keys.
    #[error(transparent)]
    Encryption(Box<EncryptionError>),
    /// The store failed.
    #[error(transparent)]
    Store(StoreError),
}

impl RepositoryError {
    /// What the administrator can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotARepository { .. } => Some(
                "Is the disk mounted? A new repository is made by \"pitr-archive init\", and by nothing else."
                    .to_owned(),
            ),
            Self::NotEmpty { .. } => Some(
                "Give an empty or new directory. If this was a repository, put its pitr.json back: docs/store-format.md shows what belongs in it."
                    .to_owned(),
            ),
            Self::Document(error) => error.hint(),
            Self::Encryption(error) => error.hint(),
            Self::Store(error) => error.hint(),
        }
    }

    /// The store's part in it, if the store failed: whether time can cure it.
    pub fn store_error(&self) -> Option<&StoreError> {
        match self {
            Self::Store(error) | Self::Document(DocumentError::Store(error)) => Some(error),
            _ => None,
        }
    }
}

impl From<DocumentError> for RepositoryError {
    fn from(error: DocumentError) -> Self {
        match error {
            DocumentError::Store(error) => error.into(),
            other => Self::Document(other),
        }
    }
}

impl From<StoreError> for RepositoryError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::RootMissing { location } => Self::NotARepository { location },
            StoreError::Encryption(error) => Self::Encryption(error),
            other => Self::Store(other),
        }
    }
}

impl From<EncryptionError> for RepositoryError {
    fn from(error: EncryptionError) -> Self {
        StoreError::from(error).into()
    }
}

/// Why a cluster may not write into a repository.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClaimError {
    /// The repository belongs to another cluster.
    #[error("repository \"{location}\" belongs to cluster {owner}, not to cluster {offered}")]
    OwnedByOther {
        /// The repository.
        location: String,
        /// Its cluster.
        owner: SystemIdentifier,
        /// The cluster that wanted to write.
        offered: SystemIdentifier,
    },
    /// The same system identifier, but another version or segment size.
    #[error(
        "cluster {system_identifier} is known to \"{location}\" as PostgreSQL {known_major} with segments of {known_size}, \
         what is offered is of PostgreSQL {offered_major} with segments of {offered_size}"
    )]
    Changed {
        /// The repository.
        location: String,
        /// The cluster.
        system_identifier: SystemIdentifier,
        /// Version in `cluster.json`.
        known_major: PostgresMajor,
        /// Segment size in `cluster.json`.
        known_size: WalSegmentSize,
        /// Version offered.
        offered_major: PostgresMajor,
        /// Segment size offered.
        offered_size: WalSegmentSize,
    },
    /// A document of the repository is damaged, or the store failed.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
}

impl ClaimError {
    /// What the administrator can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::OwnedByOther { .. } => Some(
                "Give every cluster a repository of its own, or allow this one with \"pitr-archive init --add\"."
                    .to_owned(),
            ),
            Self::Changed { .. } => Some(
                "After pg_resetwal --wal-segsize a new repository and a new base backup are needed."
                    .to_owned(),
            ),
            Self::Repository(error) => error.hint(),
        }
    }
}

impl From<DocumentError> for ClaimError {
    fn from(error: DocumentError) -> Self {
        Self::Repository(error.into())
    }
}

impl From<StoreError> for ClaimError {
    fn from(error: StoreError) -> Self {
        Self::Repository(error.into())
    }
}

impl Repository {
    /// Makes a repository of a store that is new or empty. One that is there
    /// already is left as it is.
    ///
    /// # Errors
    /// `NotEmpty` if something else lies there: a data directory, a home
    /// directory, a repository that has lost its `pitr.json`.
    pub fn init(store: Arc<dyn Store>) -> Result<Initialized, RepositoryError> {
        Self::make(store, None)
    }

    /// Makes an encrypted repository, which the holders of `keys` can read. One
    /// that is there already is left as it is.
    ///
    /// # Errors
    /// As [`Repository::init`]; `Encryption` if one of `keys` cannot be used, or
    /// if a repository is there already that is not encrypted, or not for all
    /// of them.
    pub fn init_encrypted(
        store: Arc<dyn Store>,
        keys: &NewKeys,
    ) -> Result<Initialized, RepositoryError> {
        let made = Self::make(store, Some(keys))?;
        if let Initialized::Existing(repository) = &made {
            repository.check_opens_for(keys)?;
        }
        Ok(made)
    }

    fn make(store: Arc<dyn Store>, keys: Option<&NewKeys>) -> Result<Initialized, RepositoryError> {
        match Self::open(Arc::clone(&store)) {
            Ok(repository) => {
                // Its maker may have been killed before the last sync.
                store.make_durable(&document_key(REPOSITORY_DOCUMENT))?;
                return Ok(Initialized::Existing(repository));
            }
            Err(RepositoryError::NotARepository { .. }) => {}
            Err(other) => return Err(other),
        }
        store.establish()?;
        let mut names: Vec<_> = store.list(None)?.into_iter().map(|e| e.name).collect();
        // Another `init` may be ahead of this one, and the repository in use.
        if names.iter().any(|name| name == REPOSITORY_DOCUMENT) {
            store.make_durable(&document_key(REPOSITORY_DOCUMENT))?;
            return Self::open(store).map(Initialized::Existing);
        }
        if keys.is_some() {
            // An `init` that died before it wrote pitr.json leaves keys that
            // open nothing. They lie in a folder of their own.
            names.retain(|name| name != KEYS_FOLDER);
        }
        if !names.is_empty() {
            names.truncate(NAMES_SHOWN);
            return Err(RepositoryError::NotEmpty {
                location: store.location(),
                names,
            });
        }
        let medium = store.probe()?;
        if let Some(medium) = &medium {
            store.adopt(medium);
        }
        // before pitr.json: nothing may ever be encrypted to a key that is lost
        let encryption = keys
            .map(|keys| make_repository_key(&store, keys))
            .transpose()?;
        let document = RepositoryDocument {
            format: match encryption {
                Some(_) => ENCRYPTED_FORMAT,
                None => FORMAT,
            },
            created: document::now(),
            tool: format!("pitr {}", env!("CARGO_PKG_VERSION")),
            medium,
            encryption,
        };
        let key = document_key(REPOSITORY_DOCUMENT);
        match document::put(store.as_ref(), &key, &document) {
            Ok(()) => Self::of(store, document, KeySource::default()).map(Initialized::Created),
            Err(DocumentError::Store(StoreError::AlreadyExists { .. })) => {
                store.make_durable(&key)?;
                Self::open(store).map(Initialized::Existing)
            }
            Err(other) => Err(other.into()),
        }
    }

    /// Opens the repository that lies on `store`, without keys: what is
    /// encrypted in it can be written and not read.
    ///
    /// # Errors
    /// `NotARepository` without `pitr.json`; `Document` for an unknown format.
    pub fn open(store: Arc<dyn Store>) -> Result<Self, RepositoryError> {
        Self::open_with(store, &KeySource::default())
    }

    /// Opens the repository that lies on `store`. The keys are fetched when
    /// something is read, or by [`Repository::unlock`].
    ///
    /// # Errors
    /// As [`Repository::open`]; `Encryption` if it does not have the public key
    /// that `keys` expect.
    pub fn open_with(store: Arc<dyn Store>, keys: &KeySource) -> Result<Self, RepositoryError> {
        let key = document_key(REPOSITORY_DOCUMENT);
        match document::read_repository(store.as_ref(), &key) {
            Ok(document) => {
                if let Some(medium) = &document.medium {
                    store.adopt(medium);
                }
                Self::of(store, document, keys.clone())
            }
            Err(RepositoryError::Store(StoreError::NotFound { .. })) => {
                Err(RepositoryError::NotARepository {
                    location: store.location(),
                })
            }
            Err(other) => Err(other),
        }
    }

    fn of(
        store: Arc<dyn Store>,
        document: RepositoryDocument,
        keys: KeySource,
    ) -> Result<Self, RepositoryError> {
        let public_key = document.encryption.as_ref().map(|e| e.public_key);
        keys.check_expected(|| store.location(), public_key)?;
        let content = match &document.encryption {
            Some(encryption) => encrypted_store(&store, encryption, keys.clone())?,
            None => Arc::clone(&store),
        };
        Ok(Self {
            store,
            content,
            document,
            keys,
        })
    }

    /// Makes sure that what is in the repository can be read, now rather than
    /// at the first object.
    ///
    /// # Errors
    /// `Encryption` without the right key; of the store.
    pub fn unlock(&self) -> Result<(), RepositoryError> {
        Ok(self.content.check_readable()?)
    }

    /// How what lies in it is encrypted; `None` where it is not.
    pub fn encryption(&self) -> Option<&EncryptionDocument> {
        self.document.encryption.as_ref()
    }

    /// Whether keys for reading were named, right or wrong ones, or none are
    /// needed.
    pub fn has_keys(&self) -> bool {
        self.document.encryption.is_none() || self.keys.can_open()
    }

    /// Who can read what is encrypted here, in order.
    ///
    /// # Errors
    /// `Encryption` where nothing is encrypted; of the store.
    pub fn keys(&self) -> Result<Vec<RepositoryKeyName>, RepositoryError> {
        let encryption = self.required_encryption()?;
        Ok(list_keys(self.store.as_ref(), &encryption.public_key)?)
    }

    /// Lets more people read, also what lies here already: the repository's
    /// private key is wrapped for them, and no object is touched. Gives back
    /// those who could not read before.
    ///
    /// # Errors
    /// `Encryption` where nothing is encrypted, if one of `keys` cannot be used,
    /// or without a key that opens the repository now; of the store.
    pub fn add_keys(&self, keys: &NewKeys) -> Result<Vec<RepositoryKeyName>, RepositoryError> {
        let encryption = self.required_encryption()?;
        Ok(add_keys(&self.store, encryption, &self.keys, keys)?)
    }

    fn required_encryption(&self) -> Result<&EncryptionDocument, EncryptionError> {
        self.encryption()
            .ok_or_else(|| EncryptionError::NotEncrypted {
                location: self.location(),
            })
    }

    fn check_opens_for(&self, keys: &NewKeys) -> Result<(), RepositoryError> {
        let encryption = self.required_encryption()?;
        let known = self.keys()?;
        let wanted = names_of(&self.store, keys, &encryption.public_key)?;
        match wanted.into_iter().find(|name| !known.contains(name)) {
            Some(missing) => Err(EncryptionError::NotForAll {
                location: self.location(),
                missing,
            }
            .into()),
            None => Ok(()),
        }
    }

    /// Tells the store what pushing `name` for a cluster is going to ask of it,
    /// before the repository is opened: one far away answers all at once. Whether
    /// it has begun with that: then the answers leave time for other work.
    pub fn expect_push(
        store: &dyn Store,
        system_identifier: SystemIdentifier,
        name: &WalFileName,
    ) -> bool {
        let (folder, cluster) = cluster_keys(system_identifier);
        let documents = [document_key(REPOSITORY_DOCUMENT), cluster];
        WalArchive::expect_push(store, &documents, &folder, name)
    }

    /// Where the repository lies, for messages.
    pub fn location(&self) -> String {
        self.store.location()
    }

    /// What `pitr.json` says.
    pub fn document(&self) -> &RepositoryDocument {
        &self.document
    }

    /// The store that the repository lies on, with its objects as they lie
    /// there: encrypted, if the repository is.
    ///
    /// An object can be copied as it is to the same key of a repository with
    /// the same [`Repository::encryption`], and of no other.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The same store with what the objects hold: decrypted where they are
    /// encrypted, and encrypted when they are written. Everything but the
    /// documents of the repository and its clusters goes through it.
    pub fn content(&self) -> &Arc<dyn Store> {
        &self.content
    }

    /// Every cluster that the repository knows, by system identifier.
    ///
    /// # Errors
    /// One of their documents is damaged, or the store failed.
    pub fn clusters(&self) -> Result<Vec<Cluster>, RepositoryError> {
        let mut clusters = Vec::new();
        for entry in self.store.list(None)? {
            let Ok(system_identifier) = entry.name.parse::<SystemIdentifier>() else {
                continue;
            };
            if entry.kind == EntryKind::Folder {
                // A folder without the document: its maker was killed in between.
                clusters.extend(self.cluster(system_identifier)?);
            }
        }
        clusters.sort_by_key(|cluster| cluster.identity().system_identifier);
        Ok(clusters)
    }

    /// The cluster with this system identifier, if the repository knows it.
    ///
    /// # Errors
    /// Its document is damaged, or the store failed.
    pub fn cluster(
        &self,
        system_identifier: SystemIdentifier,
    ) -> Result<Option<Cluster>, RepositoryError> {
        let (folder, key) = cluster_keys(system_identifier);
        let document: ClusterDocument = match document::read(self.store.as_ref(), &key) {
            Ok(document) => document,
            Err(DocumentError::Store(StoreError::NotFound { .. })) => return Ok(None),
            Err(other) => return Err(other.into()),
        };
        if document.system_identifier != system_identifier {
            return Err(RepositoryError::Document(DocumentError::WrongCluster {
                location: self.store.object_location(&key),
                expected: system_identifier,
                found: document.system_identifier,
            }));
        }
        Ok(Some(Cluster::new(
            Arc::clone(&self.content),
            folder,
            document,
            &self.document.created,
        )))
    }

    /// The cluster's part of the repository, for writing.
    ///
    /// A fresh repository becomes the property of the first cluster that asks;
    /// of two that ask at once, `claim.json` decides, because it is created
    /// only once.
    ///
    /// # Errors
    /// `OwnedByOther` unless `init --add` has allowed the cluster; `Changed`
    /// if it is known with another version or segment size.
    pub fn claim(&self, identity: &ClusterIdentity) -> Result<Cluster, ClaimError> {
        if let Some(cluster) = self.cluster(identity.system_identifier)? {
            return self.unchanged(cluster, identity);
        }
        let owned_by = |owner| ClaimError::OwnedByOther {
            location: self.location(),
            owner,
            offered: identity.system_identifier,
        };
        let mut known = self.clusters()?;
        // Another process of the same cluster may have claimed it in between.
        let ours = known
            .iter()
            .position(|cluster| cluster.identity().system_identifier == identity.system_identifier);
        if let Some(ours) = ours {
            return self.unchanged(known.swap_remove(ours), identity);
        }
        if let Some(other) = known.first() {
            return Err(owned_by(other.identity().system_identifier));
        }
        let key = document_key(CLAIM_DOCUMENT);
        let claim = ClaimDocument {
            format: FORMAT,
            system_identifier: identity.system_identifier,
        };
        match document::put(self.store.as_ref(), &key, &claim) {
            Ok(()) => {}
            Err(DocumentError::Store(StoreError::AlreadyExists { .. })) => {
                let standing: ClaimDocument = document::read(self.store.as_ref(), &key)?;
                if standing.system_identifier != identity.system_identifier {
                    return Err(owned_by(standing.system_identifier));
                }
                self.store.make_durable(&key)?;
            }
            Err(other) => return Err(other.into()),
        }
        self.add(identity)
    }

    /// Lets a cluster use the repository beside others: `init --add`.
    ///
    /// # Errors
    /// `Changed` if it is known with another version or segment size.
    pub fn add(&self, identity: &ClusterIdentity) -> Result<Cluster, ClaimError> {
        let (folder, key) = cluster_keys(identity.system_identifier);
        let document = ClusterDocument {
            format: FORMAT,
            system_identifier: identity.system_identifier,
            postgres_major: identity.major,
            wal_segment_size: identity.segment_size,
            first_seen: document::now(),
        };
        match document::put(self.store.as_ref(), &key, &document) {
            Ok(()) => Ok(Cluster::new(
                Arc::clone(&self.content),
                folder,
                document,
                &self.document.created,
            )),
            Err(DocumentError::Store(StoreError::AlreadyExists { location, .. })) => {
                self.store.make_durable(&key)?;
                match self.cluster(identity.system_identifier)? {
                    Some(cluster) => self.unchanged(cluster, identity),
                    None => Err(StoreError::NotFound { location }.into()),
                }
            }
            Err(other) => Err(other.into()),
        }
    }

    fn unchanged(
        &self,
        cluster: Cluster,
        offered: &ClusterIdentity,
    ) -> Result<Cluster, ClaimError> {
        let known = cluster.identity();
        if known == *offered {
            return Ok(cluster);
        }
        Err(ClaimError::Changed {
            location: self.location(),
            system_identifier: known.system_identifier,
            known_major: known.major,
            known_size: known.segment_size,
            offered_major: offered.major,
            offered_size: offered.segment_size,
        })
    }
}

fn document_key(name: &'static str) -> ObjectKey {
    ObjectKey::of_layout(name.to_owned())
}

/// A cluster's folder, and its document in it.
fn cluster_keys(system_identifier: SystemIdentifier) -> (ObjectKey, ObjectKey) {
    (
        ObjectKey::of_layout(system_identifier.to_string()),
        ObjectKey::of_layout(format!("{system_identifier}/{CLUSTER_DOCUMENT}")),
    )
}
