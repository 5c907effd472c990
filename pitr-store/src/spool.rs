//! What a receiver of streamed log holds on its own disk until it is in the
//! repositories: whole segments and histories that wait, and the segment that
//! is being received.
//!
//! A file only moves on: `NAME.partial` becomes `NAME`, and `NAME` is removed
//! once it is in the repositories. Who has not found a segment in a repository
//! looks here for `NAME.partial`, then for `NAME`, and then in the repository
//! again: so it cannot slip past.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use pitr_core::{SegmentName, SystemIdentifier, TimelineId, WalFileName};
use rustix::fs::OFlags;

use crate::repository::ClusterIdentity;
use crate::wal::{IdentifyError, identify};

/// Read at once when the end of the content is looked for.
const BLOCK_BYTES: usize = 64 * 1024;

/// What is read to learn whose segment it is.
const FIRST_BYTES: usize = 1024;

/// The folder of one cluster in a receiver's spool: `DIR/<system identifier>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spool {
    folder: PathBuf,
}

/// Why the spool cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpoolError {
    /// The operating system refused.
    #[error("could not {operation} \"{}\": {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not the segment that its name says.
    #[error("\"{}\" is not what a receiver leaves: {source}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: IdentifyError,
    },
}

impl SpoolError {
    /// What the administrator can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => Some(
                "Free space on the disk of the spool. What waits there is removed as soon as it is \
                 in the repository."
                    .to_owned(),
            ),
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => Some(
                "The spool is private to the user that runs \"pitr-archive receive\".".to_owned(),
            ),
            Self::Io { .. } => None,
            Self::Foreign { .. } => {
                Some("Nothing but \"pitr-archive receive\" may write into the spool.".to_owned())
            }
        }
    }
}

/// A segment in the spool, whole or unfinished, known to be of the cluster.
#[derive(Debug)]
pub struct SpooledSegment {
    /// Its full length, whatever has been received of it.
    pub file: File,
    /// Where it lies.
    pub path: PathBuf,
    /// Bytes up to the last one that is not zero: for an unfinished segment,
    /// what has been received.
    pub received_bytes: u64,
    /// Whether it is `NAME.partial`.
    pub is_partial: bool,
}

impl Spool {
    /// The folder of the cluster below `directory`. Touches nothing.
    pub fn new(directory: &Path, system_identifier: SystemIdentifier) -> Self {
        Self {
            folder: directory.join(system_identifier.to_string()),
        }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the file of this name lies, if it does.
    pub fn path(&self, name: &WalFileName) -> PathBuf {
        self.folder.join(name.to_string())
    }

    /// Every file of the log in it, sorted: histories, whole segments, unfinished
    /// ones. A spool that is not there is empty.
    ///
    /// # Errors
    /// [`SpoolError::Io`].
    pub fn files(&self) -> Result<Vec<WalFileName>, SpoolError> {
        let failed = |source| SpoolError::Io {
            operation: "read folder",
            path: self.folder.clone(),
            source,
        };
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            if let Some(name) = name.to_str().and_then(|name| name.parse().ok()) {
                names.push(name);
            }
        }
        names.sort_unstable_by_key(|name: &WalFileName| {
            let kind = match name {
                WalFileName::History(_) => 0,
                WalFileName::Partial(_) => 2,
                WalFileName::Segment(_) | WalFileName::Backup { .. } => 1,
            };
            (kind, *name)
        });
        Ok(names)
    }

    /// The last whole segment of `timeline` in it.
    ///
    /// # Errors
    /// [`SpoolError::Io`].
    pub fn last_of_timeline(
        &self,
        timeline: TimelineId,
    ) -> Result<Option<SegmentName>, SpoolError> {
        let files = self.files()?.into_iter();
        Ok(files
            .filter_map(|name| match name {
                WalFileName::Segment(segment) => Some(segment),
                _ => None,
            })
            .filter(|segment| segment.timeline() == timeline)
            .max())
    }

    /// The segment, if it is there: `NAME.partial` is looked for before `NAME`,
    /// and `NAME` is preferred. An unfinished one of which nothing has been
    /// received is none.
    ///
    /// # Errors
    /// [`SpoolError`]: doubt, never absence.
    pub fn segment(
        &self,
        segment: SegmentName,
        cluster: &ClusterIdentity,
    ) -> Result<Option<SpooledSegment>, SpoolError> {
        let partial = self.open(WalFileName::Partial(segment), cluster)?;
        match self.open(WalFileName::Segment(segment), cluster)? {
            Some(whole) => Ok(Some(whole)),
            None => Ok(partial),
        }
    }

    fn open(
        &self,
        name: WalFileName,
        cluster: &ClusterIdentity,
    ) -> Result<Option<SpooledSegment>, SpoolError> {
        let path = self.path(&name);
        let failed = |operation| {
            let path = path.clone();
            move |source| SpoolError::Io {
                operation,
                path,
                source,
            }
        };
        let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or(0);
        let file = match OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(&path)
        {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("open")(error)),
        };
        let length = file.metadata().map_err(failed("examine"))?.len();
        let received_bytes = end_of_content(&file, length).map_err(failed("read"))?;
        let is_partial = matches!(name, WalFileName::Partial(_));
        if is_partial && received_bytes == 0 {
            return Ok(None);
        }
        let mut first = vec![0; FIRST_BYTES.min(usize::try_from(length).unwrap_or(FIRST_BYTES))];
        file.read_exact_at(&mut first, 0).map_err(failed("read"))?;
        let foreign = |source| SpoolError::Foreign {
            path: path.clone(),
            source,
        };
        identify(&name, &first, length)
            .map_err(foreign)?
            .check_cluster(&name, cluster)
            .map_err(foreign)?;
        Ok(Some(SpooledSegment {
            file,
            path,
            received_bytes,
            is_partial,
        }))
    }
}

/// Length up to the last byte that is not zero.
fn end_of_content(file: &File, length: u64) -> io::Result<u64> {
    let mut block = vec![0; BLOCK_BYTES];
    let mut end = length;
    while end > 0 {
        let start = end.saturating_sub(BLOCK_BYTES as u64);
        let bytes = usize::try_from(end - start).unwrap_or(BLOCK_BYTES);
        let block = block.get_mut(..bytes).unwrap_or_default();
        file.read_exact_at(block, start)?;
        if let Some(last) = block.iter().rposition(|byte| *byte != 0) {
            return Ok(start + last as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_the_content_is_found_wherever_it_lies() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for (length, end) in [(0, 0), (1, 0), (1, 1), (200_000, 0), (200_000, 65_536)] {
            let mut bytes = vec![0; length];
            if end > 0 {
                bytes[0] = 1;
                bytes[end - 1] = 1;
            }
            std::fs::write(&path, bytes).unwrap();
            let found = end_of_content(&File::open(&path).unwrap(), length as u64).unwrap();
            assert_eq!(found, end as u64);
        }
    }

    #[test]
    fn a_file_that_is_no_segment_is_doubt_and_an_empty_partial_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let identity = crate::made_wal::made_cluster();
        let spool = Spool::new(folder.path(), identity.system_identifier);
        let name: SegmentName = "000000010000000000000003".parse().unwrap();
        assert!(spool.segment(name, &identity).unwrap().is_none());
        assert_eq!(spool.files().unwrap(), []);
        std::fs::create_dir(spool.folder()).unwrap();
        std::fs::write(spool.path(&WalFileName::Partial(name)), vec![0; 1 << 20]).unwrap();
        assert!(spool.segment(name, &identity).unwrap().is_none());
        std::fs::write(spool.path(&WalFileName::Segment(name)), b"something else").unwrap();
        assert!(matches!(
            spool.segment(name, &identity),
            Err(SpoolError::Foreign { .. })
        ));
    }
}
