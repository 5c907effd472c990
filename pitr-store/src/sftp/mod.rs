//! A store on a server that is reached with SSH.
//!
//! What the promises of a store rest on here:
//!
//! - **Once**: rename of version 3 of the protocol, which is refused where the
//!   new name exists (OpenSSH makes a hard link and removes the old name).
//!   `init` tries that out; for a server that overwrites instead, a writer looks
//!   before and reads back after.
//! - **Whole**: an object is written under a temporary name in its own folder.
//! - **Durable**: `fsync@openssh.com`, on the file and on its folder; where a
//!   server does not offer it, its answer to the close of the file.
//! - **Absence**: the server says that there is no such file, while the folder
//!   of the store is there, and nothing but folders lies on the way.

mod absence;
mod algorithms;
mod connect;
mod folder;
mod hold;
mod known_hosts;
mod login;
mod probe;
mod publish;
mod read;
mod remove;
mod session;

use std::fmt;
use std::io::Read;
use std::ops::Range;
use std::sync::Arc;

use russh_sftp::protocol::FileAttributes;

use crate::key::ObjectKey;
use crate::store::server_address::ServerAddress;
use crate::store::{
    Entry, Hold, Medium, NodeKind, ObjectMeta, ObjectWriter, Promises, SftpOptions, Store,
    StoreError,
};
use session::Session;

/// Permission bits of every file that a store makes; the server's umask may
/// take some away.
const FILE_MODE: u32 = 0o600;

/// Permission bits of every folder that a store makes.
const FOLDER_MODE: u32 = 0o700;

/// A store in a folder of an SFTP server.
pub(crate) struct SftpStore {
    session: Arc<Session>,
}

impl SftpStore {
    /// The store at `address`. Touches nothing.
    pub(crate) fn new(address: ServerAddress, options: SftpOptions) -> Self {
        Self {
            session: Arc::new(Session::new(address, options)),
        }
    }

    fn text(&self, key: Option<&ObjectKey>) -> String {
        self.session.text(key)
    }
}

impl Session {
    /// Where `key` lies, for messages.
    fn text(&self, key: Option<&ObjectKey>) -> String {
        match key {
            Some(key) => format!("{}/{key}", self.address.location()),
            None => self.address.location(),
        }
    }
}

impl fmt::Debug for SftpStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SftpStore").field(&self.text(None)).finish()
    }
}

impl Store for SftpStore {
    fn location(&self) -> String {
        self.text(None)
    }

    fn promises(&self) -> Promises {
        Promises {
            create_only: self.session.is_create_only(),
            exclusive_rivals: false,
        }
    }

    fn probe(&self) -> Result<Option<Medium>, StoreError> {
        let medium = probe::try_out(&self.session)?;
        self.adopt(&medium);
        Ok(Some(medium))
    }

    fn adopt(&self, medium: &Medium) {
        self.session.adopt(medium);
    }

    fn which_of(&self, keys: &[ObjectKey]) -> Result<Vec<(usize, ObjectMeta)>, StoreError> {
        self.session.which_objects(keys)
    }

    fn establish(&self) -> Result<(), StoreError> {
        self.session.make_root()
    }

    fn create(
        &self,
        key: &ObjectKey,
        rivals: &[ObjectKey],
    ) -> Result<Box<dyn ObjectWriter>, StoreError> {
        Ok(Box::new(publish::SftpWriter::begin(
            &self.session,
            key,
            rivals,
        )?))
    }

    fn open(&self, key: &ObjectKey) -> Result<Box<dyn Read + Send>, StoreError> {
        Ok(Box::new(read::SftpReader::open(&self.session, key)?))
    }

    fn read_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        read::SftpReader::open(&self.session, key)?.range(range)
    }

    fn stat(&self, key: &ObjectKey) -> Result<Option<ObjectMeta>, StoreError> {
        self.session.stat_object(key)
    }

    fn list(&self, folder: Option<&ObjectKey>) -> Result<Vec<Entry>, StoreError> {
        self.session.list_folder(folder)
    }

    fn make_durable(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.session.sync_object(key)
    }

    fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.session.remove_object(key)
    }

    fn delete_folder(&self, folder: &ObjectKey) -> Result<(), StoreError> {
        self.session.remove_folder(folder)
    }

    fn hold(&self, key: &ObjectKey) -> Result<Option<Hold>, StoreError> {
        hold::take(&self.session, key)
    }
}

/// What carries a name, as `lstat` tells it. `None` where the server does not
/// tell the kind.
fn kind_of(attributes: &FileAttributes) -> Option<NodeKind> {
    Some(match attributes.permissions? & 0o170_000 {
        0o100_000 => NodeKind::Object,
        0o040_000 => NodeKind::Folder,
        0o120_000 => NodeKind::Link,
        0 => return None,
        _ => NodeKind::Special,
    })
}

fn wrong_kind(location: String, expected: NodeKind, found: NodeKind) -> StoreError {
    StoreError::WrongKind {
        location,
        expected,
        found,
    }
}

#[cfg(test)]
mod other_servers;
#[cfg(test)]
mod tests;
