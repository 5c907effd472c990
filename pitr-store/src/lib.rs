//! The pitr repository: layout, codecs, durable publishing, WAL archive and base backups.

#![forbid(unsafe_code)]

pub mod backup;

mod codec;
pub mod encryption;
#[cfg(feature = "ftp")]
mod ftp;
mod key;
mod local;
#[cfg(feature = "object-store")]
mod object;
mod repository;
#[cfg(feature = "sftp")]
mod sftp;
pub mod spool;
mod store;
pub mod sync;
pub mod wal;

#[doc(hidden)]
pub mod conformance;
#[doc(hidden)]
pub mod made_wal;

pub use codec::{Codec, CodecError, DecodeError, Decoder, EncodeError, Encoder, Encoding};
pub use key::{MAX_COMPONENT_BYTES, MAX_KEY_BYTES, ObjectKey, ObjectKeyError};
pub use local::LocalStore;
pub use repository::{
    ClaimDocument, ClaimError, Cluster, ClusterDocument, ClusterIdentity, DocumentError,
    ENCRYPTED_FORMAT, FORMAT, Initialized, Reached, Repository, RepositoryDocument,
    RepositoryError, RepositorySet, Unreached,
};
pub use store::{
    AddressError, AzOptions, ContentDigest, ContentHasher, Entry, EntryKind, ErrorClass,
    FtpOptions, GsOptions, Hold, Medium, NodeKind, ObjectMeta, ObjectTrace, ObjectWriter,
    Operation, Promises, RemoteProblem, S3Options, Secret, ServerError, SftpOptions, Shown,
    SpaceLimit, Store, StoreError, StoreOptions, open_store,
};
pub use wal::{
    FetchError, Fetched, PushError, Pushed, StoredObject, WalArchive, WalBytes, WalFile, WalSource,
};
