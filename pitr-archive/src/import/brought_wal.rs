//! The segments that a backup brings along (`pg_basebackup -X`).

use std::collections::BTreeSet;
use std::io::{self, Read};

use pitr_console::Failure;
use pitr_core::{SegmentName, WalFileName};
use pitr_store::ClusterIdentity;
use pitr_store::backup::MemberPath;
use pitr_store::wal::identify;

/// What is kept of a file: more than a segment's long page header.
const HEAD_BYTES: usize = 1024;

/// Segments that were stored with the backup.
///
/// A manifest lists nothing of `pg_wal`, so that each has to say for itself
/// that it is what its name promises: recovery is planned by these names.
pub(super) struct BroughtWal {
    cluster: ClusterIdentity,
    segments: BTreeSet<SegmentName>,
}

impl BroughtWal {
    pub(super) fn new(cluster: ClusterIdentity) -> Self {
        Self {
            cluster,
            segments: BTreeSet::new(),
        }
    }

    /// The segment that the file with this manifest path claims to be.
    pub(super) fn segment_of(path: &MemberPath) -> Option<SegmentName> {
        path.as_str()?.strip_prefix("pg_wal/")?.parse().ok()
    }

    /// Takes in a segment by its first bytes and its length.
    pub(super) fn take(
        &mut self,
        segment: SegmentName,
        head: &[u8],
        length: u64,
    ) -> Result<(), Failure> {
        let name = WalFileName::Segment(segment);
        identify(&name, head, length)
            .and_then(|identity| identity.check_cluster(&name, &self.cluster))
            .map_err(|error| {
                Failure::new(format!(
                    "\"pg_wal/{segment}\" of the backup is not that segment"
                ))
                .with_detail(error.to_string())
                .with_hint(
                    "Recovery would end there. Take the file out of the backup if the repository \
                     has this segment; else take another backup.",
                )
            })?;
        self.segments.insert(segment);
        Ok(())
    }

    pub(super) fn holds(&self, segment: &SegmentName) -> bool {
        self.segments.contains(segment)
    }
}

/// Passes bytes on and keeps the first of them.
pub(super) struct Head<R> {
    inner: R,
    bytes: Vec<u8>,
}

impl<R: Read> Head<R> {
    pub(super) fn new(inner: R) -> Self {
        Self {
            inner,
            bytes: Vec::new(),
        }
    }

    pub(super) fn kept(&self) -> &[u8] {
        &self.bytes
    }
}

impl<R: Read> Read for Head<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let wanted = HEAD_BYTES.saturating_sub(self.bytes.len()).min(count);
        self.bytes.extend_from_slice(&buffer[..wanted]);
        Ok(count)
    }
}
