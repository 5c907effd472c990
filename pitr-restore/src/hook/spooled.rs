//! What a receiver on this machine has not brought into the repository yet.

use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use pitr_console::Console;
use pitr_core::{SegmentName, TimelineId, WalFileName};
use pitr_store::ClusterIdentity;
use pitr_store::spool::{Spool, SpooledSegment};

use super::delivery::Delivery;
use super::failure::HookFailure;

/// Copied at once.
const BLOCK_BYTES: u64 = 256 << 10;

/// The receiver's spool, for one cluster.
pub(super) struct Spooled {
    spool: Spool,
    cluster: ClusterIdentity,
}

impl Spooled {
    /// That of `cluster` below `directory`, which need not exist: not every
    /// machine that restores receives.
    pub(super) fn new(directory: &Path, cluster: ClusterIdentity) -> Self {
        Self {
            spool: Spool::new(directory, cluster.system_identifier),
            cluster,
        }
    }

    /// The segment, whole or unfinished.
    pub(super) fn segment(
        &self,
        segment: SegmentName,
    ) -> Result<Option<SpooledSegment>, HookFailure> {
        Ok(self.spool.segment(segment, &self.cluster)?)
    }

    /// The last segment of `timeline` that something was received of.
    pub(super) fn last_of_timeline(
        &self,
        timeline: TimelineId,
    ) -> Result<Option<SegmentName>, HookFailure> {
        let mut last = self.spool.last_of_timeline(timeline)?;
        for name in self.spool.files()? {
            if let WalFileName::Partial(segment) = name
                && segment.timeline() == timeline
                && last.is_none_or(|last| last < segment)
                && self.segment(segment)?.is_some()
            {
                last = Some(segment);
            }
        }
        Ok(last)
    }

    /// Puts a history to its destination.
    pub(super) fn deliver_history(
        &self,
        timeline: TimelineId,
        destination: &Path,
    ) -> Result<bool, HookFailure> {
        let path = self.spool.path(&WalFileName::History(timeline));
        let content = match std::fs::read(&path) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(source) => {
                return Err(pitr_store::spool::SpoolError::Io {
                    operation: "read",
                    path,
                    source,
                }
                .into());
            }
        };
        let mut delivery = Delivery::begin(destination)?;
        match delivery.write_all(&content) {
            Ok(()) => delivery.finish()?,
            Err(source) => return Err(delivery.write_error(source, 0).into()),
        }
        Ok(true)
    }

    /// Puts a segment to its destination, in full length; what of an unfinished
    /// one was not received is zeros, as in a file that the server has made.
    pub(super) fn deliver(
        &self,
        found: &SpooledSegment,
        segment: SegmentName,
        destination: &Path,
        console: Console,
    ) -> Result<(), HookFailure> {
        let size = self.cluster.segment_size.bytes();
        let mut delivery = Delivery::begin(destination)?;
        let mut block = Vec::new();
        let mut offset = 0;
        while offset < size {
            let bytes = BLOCK_BYTES.min(size - offset);
            block.resize(usize::try_from(bytes).unwrap_or(0), 0);
            if let Err(source) = found.file.read_exact_at(&mut block, offset) {
                return Err(pitr_store::spool::SpoolError::Io {
                    operation: "read",
                    path: found.path.clone(),
                    source,
                }
                .into());
            }
            if let Err(source) = delivery.write_all(&block) {
                return Err(delivery.write_error(source, size).into());
            }
            offset += bytes;
        }
        delivery.finish()?;
        let what = match found.is_partial {
            true => format!(
                "it is the unfinished last segment of timeline {}, and nothing follows it",
                segment.timeline()
            ),
            false => "it is not in the repository yet".to_owned(),
        };
        console.log(format!(
            "\"{}\" is served as {segment}: {what}",
            found.path.display()
        ));
        Ok(())
    }
}
