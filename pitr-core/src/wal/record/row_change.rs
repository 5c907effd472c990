//! Rows that a record changes.

use crate::wal::record::body::RecordBody;
use crate::wal::record::header::RecordHeader;
use crate::wal::record::relation_file::RelationFile;
use crate::wal::record::resource_manager::ResourceManager;
use crate::wal::rmgr::heap2;

/// Rows of one relation that a record changes.
///
/// The transaction that does it is the record's, and may yet be rolled back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowChange {
    /// Files of the relation.
    pub relation: RelationFile,
    /// What happens to the rows.
    pub kind: RowChangeKind,
    /// How many they are.
    pub rows: u32,
}

/// What happens to rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RowChangeKind {
    /// They are new.
    Insert,
    /// They are replaced by other versions of themselves.
    Update,
    /// They are gone.
    Delete,
}

impl RowChange {
    /// The rows that a record changes; `None` if it is about something else.
    ///
    /// Cheaper than all the record's contents, for those who count.
    ///
    /// Source: `XLOG_HEAP_INSERT` and the following, src/include/access/heapam_xlog.h.
    pub fn of(header: &RecordHeader, body: &RecordBody<'_>) -> Option<RowChange> {
        let relation = body.first_relation()?;
        Self::in_relation(header, relation, || Some(body.main_data()))
    }

    /// The same where the relation is known; the record's data is asked for
    /// only where rows come many at once.
    #[inline]
    pub(crate) fn in_relation<'a>(
        header: &RecordHeader,
        relation: RelationFile,
        main_data: impl FnOnce() -> Option<&'a [u8]>,
    ) -> Option<RowChange> {
        // the highest bit says that the page is new
        let operation = header.operation() & 0x70;
        let (kind, rows) = match (header.resource_manager, operation) {
            (ResourceManager::HEAP, 0x00) => (RowChangeKind::Insert, 1),
            (ResourceManager::HEAP, 0x10) => (RowChangeKind::Delete, 1),
            (ResourceManager::HEAP, 0x20 | 0x40) => (RowChangeKind::Update, 1),
            (ResourceManager::HEAP2, 0x50) => (
                RowChangeKind::Insert,
                u32::from(heap2::multi_insert_rows(main_data()?)?),
            ),
            _ => return None,
        };
        Some(RowChange {
            relation,
            kind,
            rows,
        })
    }
}
