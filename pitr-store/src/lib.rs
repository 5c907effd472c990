//! The pitr repository: layout, codecs, durable publishing, WAL archive and base backups.

#![forbid(unsafe_code)]

pub mod backup;

mod key;
mod local;
mod store;

#[doc(hidden)]
pub mod conformance;

pub use key::{MAX_COMPONENT_BYTES, MAX_KEY_BYTES, ObjectKey, ObjectKeyError};
pub use local::LocalStore;
pub use store::{
    AddressError, Entry, EntryKind, ErrorClass, Hold, NodeKind, ObjectMeta, ObjectWriter,
    Operation, SpaceLimit, Store, StoreError, open_store,
};
