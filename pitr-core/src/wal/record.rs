//! Records: what the log is made of.

pub(crate) mod block_image;
pub(crate) mod block_reference;
pub(crate) mod body;
pub(crate) mod contents;
pub(crate) mod header;
pub(crate) mod packed_list;
pub(crate) mod page_image;
pub(crate) mod relation_file;
pub(crate) mod resource_manager;
pub(crate) mod row_change;

use crate::lsn::Lsn;
use crate::postgres_major::PostgresMajor;
use crate::timeline::id::TimelineId;
use crate::wal::record::body::{RecordBody, RecordBodyError};
use crate::wal::record::contents::{RecordContents, RecordContentsError};
use crate::wal::record::header::RecordHeader;

/// A record whose CRC has been proven, as [`WalReader`](crate::WalReader) hands it out.
///
/// Borrows its bytes from what the reader was fed, or from the reader where
/// the record lies on several pages.
///
/// Source: `XLogRecord`, src/include/access/xlogrecord.h.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    pub(crate) lsn: Lsn,
    pub(crate) next: Lsn,
    pub(crate) major: PostgresMajor,
    pub(crate) timeline: TimelineId,
    pub(crate) header: RecordHeader,
    /// From the header on; shorter than the record if that was too long to be held.
    pub(crate) bytes: &'a [u8],
}

impl<'a> Record<'a> {
    /// Where the record begins: the position by which PostgreSQL's messages name it.
    pub const fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// Where the log goes on after the record and its padding; after a segment switch, the next segment.
    ///
    /// What a server reports as the end of a transaction, and what a
    /// recovery must have read to contain the record.
    ///
    /// Source: `XLogReaderState.EndRecPtr`, src/include/access/xlogreader.h.
    pub const fn end_lsn(&self) -> Lsn {
        self.next
    }

    /// Version of the server that wrote it.
    pub const fn major(&self) -> PostgresMajor {
        self.major
    }

    /// Timeline of the page on which the record begins.
    ///
    /// For the records of a new timeline on the page of the branch itself,
    /// that is still the parent.
    pub const fn page_timeline(&self) -> TimelineId {
        self.timeline
    }

    /// What the record begins with.
    pub const fn header(&self) -> &RecordHeader {
        &self.header
    }

    /// The whole record, header included; `None` if it was too long to be held.
    pub fn bytes(&self) -> Option<&'a [u8]> {
        (self.bytes.len() == self.header.total_len as usize).then_some(self.bytes)
    }

    /// What is held of the record, header included: all of it, or its beginning.
    pub const fn held_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Blocks and data of the record.
    ///
    /// # Errors
    /// [`RecordBodyError::NotHeld`] if the record was too long to be held; the
    /// others if its parts contradict one another.
    pub fn body(&self) -> Result<RecordBody<'a>, RecordBodyError> {
        let bytes = self.bytes().ok_or(RecordBodyError::NotHeld {
            total_len: self.header.total_len,
            held: self.bytes.len(),
        })?;
        let body = bytes.get(RecordHeader::LEN..).unwrap_or(&[]);
        RecordBody::parse(body, self.major)
    }

    /// What the record says.
    ///
    /// # Errors
    /// Those of [`Record::body`], and [`RecordContentsError::Malformed`]. In a
    /// record whose CRC is right neither happens but by a defect of the
    /// server, or of this crate.
    pub fn contents(&self) -> Result<RecordContents<'a>, RecordContentsError> {
        RecordContents::parse(&self.header, &self.body()?, self.major)
    }
}
