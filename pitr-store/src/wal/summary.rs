//! Asking what happened in a segment.

use std::io;

use pitr_core::{SegmentSummary, WalFileName};

use super::compare::to_u64;
use super::fetch::FetchError;
use super::scan;
use super::summary_frame::{self, FOOTER_BYTES, MAX_SUMMARY_BYTES, SummaryFrameError};
use super::{StoredObject, WalArchive};
use crate::codec::Encoding;
use crate::store::StoreError;

/// First read of an object's end: nearly every summary is shorter.
const TAIL_BYTES: u64 = 8 << 10;

/// Why a stored summary cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SummaryError {
    /// The repository does not have the segment, and that is certain.
    #[error("\"{name}\" is not in the repository")]
    Absent {
        /// The name.
        name: WalFileName,
    },
    /// The summary in the object cannot be used. The segment itself may be whole.
    #[error("\"{location}\": {source}")]
    Frame {
        /// The stored object.
        location: String,
        /// What is wrong.
        source: SummaryFrameError,
    },
    /// The summary is of another segment.
    #[error("\"{location}\" has the summary of {found}")]
    OtherSegment {
        /// The stored object.
        location: String,
        /// The segment that the summary is of.
        found: WalFileName,
    },
    /// The segment itself cannot be read.
    #[error(transparent)]
    Fetch(FetchError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl WalArchive {
    /// The summary that lies at the end of the stored object, read without the
    /// segment; `Ok(None)` where there is none: under another codec than zstd,
    /// or stored by a version that wrote none. [`WalArchive::scan`] gives it
    /// then.
    ///
    /// # Errors
    /// `Absent` only if that is proven; `Frame` and `OtherSegment` if what
    /// lies there cannot be used.
    pub fn summary(&self, name: &WalFileName) -> Result<Option<SegmentSummary>, SummaryError> {
        let object = self
            .locate(name)?
            .ok_or(SummaryError::Absent { name: *name })?;
        self.summary_of(&object)
    }

    /// The summary at the end of a stored object.
    pub(super) fn summary_of(
        &self,
        object: &StoredObject,
    ) -> Result<Option<SegmentSummary>, SummaryError> {
        if object.encoding != Encoding::Zstd {
            return Ok(None);
        }
        let read = self.read_summary(object)?;
        if let Some(summary) = &read
            && summary.segment != object.name
        {
            return Err(SummaryError::OtherSegment {
                location: object.location.clone(),
                found: summary.segment,
            });
        }
        Ok(read)
    }

    fn read_summary(&self, object: &StoredObject) -> Result<Option<SegmentSummary>, SummaryError> {
        let in_frame = |source| SummaryError::Frame {
            location: object.location.clone(),
            source,
        };
        let end = object.stored_bytes;
        let mut tail = self.tail(object, TAIL_BYTES.min(end))?;
        let footer = tail
            .get(tail.len().saturating_sub(FOOTER_BYTES)..)
            .unwrap_or_default();
        let Some(length) = summary_frame::length(footer).map_err(in_frame)? else {
            // the longest frame there can be, where the short tail has none
            let found = summary_frame::ends_with_frame(&tail) || {
                let longest = to_u64(summary_frame::tail_bytes(MAX_SUMMARY_BYTES));
                end > TAIL_BYTES
                    && summary_frame::ends_with_frame(&self.tail(object, longest.min(end))?)
            };
            return if found {
                Err(in_frame(SummaryFrameError::Damaged {
                    what: "its mark is wrong",
                }))
            } else {
                Ok(None)
            };
        };
        let whole = to_u64(summary_frame::tail_bytes(length));
        if whole > to_u64(tail.len()) && whole <= end {
            tail = self.tail(object, whole)?;
        }
        summary_at_end(&tail).map_err(in_frame)
    }

    fn tail(&self, object: &StoredObject, bytes: u64) -> Result<Vec<u8>, StoreError> {
        let end = object.stored_bytes;
        self.store
            .read_range(&object.key, end.saturating_sub(bytes)..end)
    }

    /// The summary of a stored segment, from its end or else from its records.
    ///
    /// # Errors
    /// As [`WalArchive::summary`] and [`WalArchive::scan`]; a stored summary
    /// that cannot be used is passed over.
    pub fn summary_or_scan(&self, name: &WalFileName) -> Result<SegmentSummary, SummaryError> {
        match self.summary(name) {
            Ok(Some(summary)) => Ok(summary),
            Ok(None) | Err(SummaryError::Frame { .. } | SummaryError::OtherSegment { .. }) => {
                self.scan(name)
            }
            Err(error) => Err(error),
        }
    }

    /// Reads a stored segment and sums it up.
    ///
    /// # Errors
    /// `Absent` only if that is proven; `Fetch` if the object is damaged or no
    /// segment.
    pub fn scan(&self, name: &WalFileName) -> Result<SegmentSummary, SummaryError> {
        let mut builder = scan::builder(name, self.cluster.segment_size)
            .ok_or(SummaryError::Absent { name: *name })?;
        struct Feed<'b>(&'b mut pitr_core::SegmentSummaryBuilder);
        impl io::Write for Feed<'_> {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.feed(bytes);
                Ok(bytes.len())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        match self.fetch_to(name, &mut Feed(&mut builder)) {
            Ok(_) => Ok(builder.finish()),
            Err(FetchError::Absent { name }) => Err(SummaryError::Absent { name }),
            Err(error) => Err(SummaryError::Fetch(error)),
        }
    }
}

/// The frame that is written behind the data of a zstd object; `None` if it
/// would not be read back.
pub fn summary_to_frame(summary: &SegmentSummary) -> Option<Vec<u8>> {
    summary_frame::frame(&serde_json::to_vec(summary).ok()?)
}

/// The summary in the frame that `tail`, the last bytes of a stored object,
/// ends with; `Ok(None)` where no such frame ends there.
///
/// # Errors
/// What ends like such a frame is damaged, longer than `tail`, or of a later
/// version.
pub fn summary_at_end(tail: &[u8]) -> Result<Option<SegmentSummary>, SummaryFrameError> {
    let footer = tail
        .get(tail.len().saturating_sub(FOOTER_BYTES)..)
        .unwrap_or_default();
    match summary_frame::length(footer)? {
        Some(length) => parse(summary_frame::content(tail, length)?).map(Some),
        None => Ok(None),
    }
}

fn parse(json: &[u8]) -> Result<SegmentSummary, SummaryFrameError> {
    let unreadable = |error: serde_json::Error| SummaryFrameError::Document {
        reason: error.to_string(),
    };
    #[derive(serde::Deserialize)]
    struct Format {
        format: u32,
    }
    let Format { format } = serde_json::from_slice(json).map_err(unreadable)?;
    if format > SegmentSummary::FORMAT {
        return Err(SummaryFrameError::Format {
            found: format,
            known: SegmentSummary::FORMAT,
        });
    }
    serde_json::from_slice(json).map_err(unreadable)
}
