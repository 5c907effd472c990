//! The segment that is being received: `NAME.partial` in the spool.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use pitr_core::{Lsn, SegmentName, WalFileName, WalSegmentSize};
use pitr_store::spool::{Spool, SpoolError};

/// A file of zeros, whole and synced, that the next segment is received into.
const PREPARED: &str = ".prepared";

/// The same while it is being written.
const UNPREPARED: &str = ".prepared.tmp";

/// Zeros written at once.
const BLOCK_BYTES: usize = 1 << 20;

/// The unfinished segment, of full length from the beginning: writing into it
/// changes no metadata, so that syncing it is one write to the disk.
#[derive(Debug)]
pub(super) struct UnfinishedSegment {
    file: File,
    name: SegmentName,
    start: Lsn,
    size: WalSegmentSize,
    /// End of what has been written, from the segment's start.
    written: u64,
}

impl UnfinishedSegment {
    /// Opens the segment that begins at `start`; what was received of it
    /// earlier stays until the same comes again.
    pub(super) fn open(
        spool: &Spool,
        name: SegmentName,
        start: Lsn,
        size: WalSegmentSize,
    ) -> Result<Self, SpoolError> {
        let path = spool.path(&WalFileName::Partial(name));
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                create(spool.folder(), &path, size)?
            }
            Err(error) => return Err(failed("open", &path)(error)),
        };
        let length = file.metadata().map_err(failed("examine", &path))?.len();
        if length != size.bytes() {
            return Err(failed("use", &path)(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("it has {length} bytes, expected {}", size.bytes()),
            )));
        }
        Ok(Self {
            file,
            name,
            start,
            size,
            written: 0,
        })
    }

    /// Where the next byte belongs.
    pub(super) fn end(&self) -> Lsn {
        Lsn::new(self.start.get().saturating_add(self.written))
    }

    /// Bytes that are still to come.
    pub(super) fn missing(&self) -> u64 {
        self.size.bytes().saturating_sub(self.written)
    }

    /// Writes the next bytes; never more than are missing.
    pub(super) fn write(&mut self, spool: &Spool, bytes: &[u8]) -> Result<(), SpoolError> {
        self.file
            .write_all_at(bytes, self.written)
            .map_err(|source| {
                failed("write", &spool.path(&WalFileName::Partial(self.name)))(source)
            })?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Makes what was written survive power loss.
    pub(super) fn sync(&self, spool: &Spool) -> Result<(), SpoolError> {
        self.file
            .sync_data()
            .map_err(|source| failed("sync", &spool.path(&WalFileName::Partial(self.name)))(source))
    }

    /// Gives the segment its final name, durably, once nothing is missing.
    pub(super) fn finish(self, spool: &Spool) -> Result<(), SpoolError> {
        self.sync(spool)?;
        let path = spool.path(&WalFileName::Segment(self.name));
        std::fs::rename(spool.path(&WalFileName::Partial(self.name)), &path)
            .map_err(failed("rename to", &path))?;
        sync_folder(spool.folder())
    }
}

/// A full file of zeros under `path`, durable: made ahead where it was.
fn create(folder: &Path, path: &Path, size: WalSegmentSize) -> Result<File, SpoolError> {
    let prepared = folder.join(PREPARED);
    if std::fs::metadata(&prepared).is_ok_and(|found| found.len() == size.bytes()) {
        // whoever prepares the next one writes another file, and never this one
        std::fs::rename(&prepared, path).map_err(failed("create", path))?;
    } else {
        zeros(&folder.join(".new.tmp"), path, size)?;
    }
    sync_folder(folder)?;
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(failed("open", path))
}

/// Makes the file that the next segment will be received into, unless it is
/// there: the commits that wait for the first bytes of a segment need not wait
/// for its zeros as well.
pub(super) fn prepare(folder: &Path, size: WalSegmentSize) -> Result<(), SpoolError> {
    let prepared = folder.join(PREPARED);
    if std::fs::metadata(&prepared).is_ok_and(|found| found.len() == size.bytes()) {
        return Ok(());
    }
    zeros(&folder.join(UNPREPARED), &prepared, size)
}

fn zeros(temporary: &Path, path: &Path, size: WalSegmentSize) -> Result<(), SpoolError> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(temporary)
        .map_err(failed("create", temporary))?;
    let block = vec![0; BLOCK_BYTES];
    let mut offset = 0;
    while offset < size.bytes() {
        if let Err(source) = file.write_all_at(&block, offset) {
            // the room is worth more than the attempt
            let _ = std::fs::remove_file(temporary);
            return Err(failed("write", temporary)(source));
        }
        offset += BLOCK_BYTES as u64;
    }
    file.sync_all().map_err(failed("sync", temporary))?;
    std::fs::rename(temporary, path).map_err(failed("rename to", path))
}

/// Makes the names in `folder` survive power loss.
pub(super) fn sync_folder(folder: &Path) -> Result<(), SpoolError> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(failed("sync folder", folder))
}

pub(super) fn failed<'a>(
    operation: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> SpoolError + 'a {
    move |source| SpoolError::Io {
        operation,
        path: PathBuf::from(path),
        source,
    }
}
