//! The spool's folder: made, private, and held against a second receiver.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use pitr_console::Failure;
use pitr_core::{SystemIdentifier, WalFileName};
use pitr_store::spool::{Spool, SpoolError};

use super::segment::{failed, sync_folder};

/// A spool that nobody else receives into as long as this lives.
#[derive(Debug)]
pub(super) struct HeldSpool {
    spool: Spool,
    _lock: File,
}

impl HeldSpool {
    /// Makes the folder of the cluster where it is not there, and takes it.
    pub(super) fn take(
        directory: &Path,
        system_identifier: SystemIdentifier,
    ) -> Result<Self, Failure> {
        let spool = Spool::new(directory, system_identifier);
        let folder = spool.folder();
        make_folder(directory)?;
        make_folder(folder)?;
        // what was made survives, with everything that will be confirmed in it
        sync_folder(directory)?;
        if let Some(parent) = directory.parent() {
            // a folder that only root may read was not made by us either
            let _ = sync_folder(parent);
        }
        let path = folder.join("lock");
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed("open", &path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { spool, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(Failure::new(format!(
                "another receiver of cluster {system_identifier} works in \"{}\"",
                directory.display()
            ))
            .with_hint("Give every receiver a spool of its own: --spool DIR.")),
            Err(TryLockError::Error(error)) => Err(failed("lock", &path)(error).into()),
        }
    }

    pub(super) fn spool(&self) -> &Spool {
        &self.spool
    }

    /// Stores a small file of the log, durably, to be published.
    pub(super) fn keep(&self, name: &WalFileName, content: &[u8]) -> Result<(), SpoolError> {
        let path = self.spool.path(name);
        let temporary = self.spool.folder().join(".history.tmp");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(failed("create", &temporary))?;
        file.write_all(content)
            .map_err(failed("write", &temporary))?;
        file.sync_all().map_err(failed("sync", &temporary))?;
        std::fs::rename(&temporary, &path).map_err(failed("rename to", &path))?;
        sync_folder(self.spool.folder())
    }
}

fn make_folder(path: &Path) -> Result<(), SpoolError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(failed("make folder", path)(error)),
    }
}
