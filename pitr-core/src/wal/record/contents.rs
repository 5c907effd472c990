//! What a record says, by resource manager.

use std::fmt;

use nom::IResult;

use crate::postgres_major::PostgresMajor;
use crate::wal::record::body::{RecordBody, RecordBodyError};
use crate::wal::record::header::RecordHeader;
use crate::wal::record::resource_manager::ResourceManager;
use crate::wal::rmgr::database::DatabaseRecord;
use crate::wal::rmgr::heap::HeapRecord;
use crate::wal::rmgr::heap2::Heap2Record;
use crate::wal::rmgr::logical_message::LogicalMessage;
use crate::wal::rmgr::relmap::RelmapUpdate;
use crate::wal::rmgr::standby::StandbyRecord;
use crate::wal::rmgr::storage::StorageRecord;
use crate::wal::rmgr::tablespace::TablespaceRecord;
use crate::wal::rmgr::xact::XactRecord;
use crate::wal::rmgr::xlog::XlogRecord;

/// What a record says, where its resource manager is one of those that are understood.
///
/// Prints much like the description of `pg_waldump`.
#[derive(Debug, Clone)]
pub enum RecordContents<'a> {
    /// The log itself.
    Xlog(XlogRecord<'a>),
    /// The end of a transaction, or a step towards it.
    Transaction(XactRecord<'a>),
    /// Files of relations made or cut.
    Storage(StorageRecord),
    /// A database made or dropped.
    Database(DatabaseRecord<'a>),
    /// A tablespace made or dropped.
    Tablespace(TablespaceRecord<'a>),
    /// Catalogs moved to other files.
    Relmap(RelmapUpdate<'a>),
    /// What a hot standby must know.
    Standby(StandbyRecord<'a>),
    /// Rows of a table.
    Heap(HeapRecord<'a>),
    /// Rows of a table, many at once.
    Heap2(Heap2Record<'a>),
    /// A message of `pg_logical_emit_message`.
    LogicalMessage(LogicalMessage<'a>),
    /// Another resource manager, or an operation that is not known in this version.
    Other {
        /// Whose record it is.
        resource_manager: ResourceManager,
        /// The upper four bits of `info`.
        operation: u8,
    },
}

/// What each resource manager's parser gives: `None` for operations that its version does not have.
pub(crate) type Parsed<'a, T> = IResult<&'a [u8], Option<T>>;

impl<'a> RecordContents<'a> {
    /// Reads what `body` says according to `header`, as a server of `major` wrote it.
    ///
    /// # Errors
    /// [`RecordContentsError::Malformed`] if the data is shorter than the
    /// operation has it, or a field has a value that no server writes.
    pub fn parse(
        header: &RecordHeader,
        body: &RecordBody<'a>,
        major: PostgresMajor,
    ) -> Result<Self, RecordContentsError> {
        let data = body.main_data();
        let info = header.operation();
        let parsed =
            match header.resource_manager {
                ResourceManager::XLOG => {
                    XlogRecord::fields(data, info, major).map(contents(RecordContents::Xlog))
                }
                ResourceManager::TRANSACTION => XactRecord::fields(data, header, major)
                    .map(contents(RecordContents::Transaction)),
                ResourceManager::STORAGE => {
                    StorageRecord::fields(data, info).map(contents(RecordContents::Storage))
                }
                ResourceManager::DATABASE => DatabaseRecord::fields(data, info, major)
                    .map(contents(RecordContents::Database)),
                ResourceManager::TABLESPACE => {
                    TablespaceRecord::fields(data, info).map(contents(RecordContents::Tablespace))
                }
                ResourceManager::RELMAP => {
                    RelmapUpdate::fields(data, info).map(contents(RecordContents::Relmap))
                }
                ResourceManager::STANDBY => {
                    StandbyRecord::fields(data, info).map(contents(RecordContents::Standby))
                }
                ResourceManager::HEAP => {
                    HeapRecord::fields(body, info).map(contents(RecordContents::Heap))
                }
                ResourceManager::HEAP2 => {
                    Heap2Record::fields(body, info, major).map(contents(RecordContents::Heap2))
                }
                ResourceManager::LOGICAL_MESSAGE => {
                    LogicalMessage::fields(data, info).map(contents(RecordContents::LogicalMessage))
                }
                _ => Ok(None),
            };
        let malformed = |_| RecordContentsError::Malformed {
            resource_manager: header.resource_manager,
            info: header.info,
            data_len: data.len(),
        };
        Ok(parsed.map_err(malformed)?.unwrap_or(RecordContents::Other {
            resource_manager: header.resource_manager,
            operation: info,
        }))
    }
}

fn contents<'a, T>(
    wrap: impl Fn(T) -> RecordContents<'a>,
) -> impl Fn((&'a [u8], Option<T>)) -> Option<RecordContents<'a>> {
    move |(_, parsed)| parsed.map(&wrap)
}

impl fmt::Display for RecordContents<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecordContents::Xlog(record) => record.fmt(f),
            RecordContents::Transaction(record) => record.fmt(f),
            RecordContents::Storage(record) => record.fmt(f),
            RecordContents::Database(record) => record.fmt(f),
            RecordContents::Tablespace(record) => record.fmt(f),
            RecordContents::Relmap(record) => record.fmt(f),
            RecordContents::Standby(record) => record.fmt(f),
            RecordContents::Heap(record) => record.fmt(f),
            RecordContents::Heap2(record) => record.fmt(f),
            RecordContents::LogicalMessage(record) => record.fmt(f),
            RecordContents::Other { operation, .. } => write!(f, "operation {operation:02X}"),
        }
    }
}

/// Why it cannot be told what a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordContentsError {
    /// Its parts could not be told apart, or are not held.
    #[error(transparent)]
    Body(#[from] RecordBodyError),
    /// Its data does not have the layout, or the values, that its operation has.
    #[error("{data_len} bytes of data are no {resource_manager} record of info {info:02X}")]
    Malformed {
        /// Whose record it is.
        resource_manager: ResourceManager,
        /// `xl_info`.
        info: u8,
        /// Bytes of main data.
        data_len: usize,
    },
}
