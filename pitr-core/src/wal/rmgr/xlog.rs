//! Records about the log itself.

use crate::timeline::id::TimelineId;
use crate::wal::record::header::RecordHeader;
use crate::wal::record::resource_manager::ResourceManager;

const CHECKPOINT_SHUTDOWN: u8 = 0x00;
const SWITCH: u8 = 0x40;
const FPW_CHANGE: u8 = 0x80;
const END_OF_RECOVERY: u8 = 0x90;
const OVERWRITE_CONTRECORD: u8 = 0xD0;

fn is(header: &RecordHeader, operation: u8) -> bool {
    header.resource_manager == ResourceManager::XLOG && header.operation() == operation
}

/// Source: `XLOG_SWITCH`, src/include/catalog/pg_control.h.
pub(crate) fn is_switch(header: &RecordHeader) -> bool {
    is(header, SWITCH)
}

/// Source: `XLOG_FPW_CHANGE`.
pub(crate) fn is_full_page_writes_change(header: &RecordHeader) -> bool {
    is(header, FPW_CHANGE)
}

/// Source: `XLOG_OVERWRITE_CONTRECORD`.
pub(crate) fn is_overwrite_contrecord(header: &RecordHeader) -> bool {
    is(header, OVERWRITE_CONTRECORD)
}

/// Whether the record is one of those that a new timeline begins with.
///
/// Source: `PerformRecoveryXLogAction`, src/backend/access/transam/xlog.c.
pub(crate) fn may_begin_timeline(header: &RecordHeader) -> bool {
    is(header, END_OF_RECOVERY) || is(header, CHECKPOINT_SHUTDOWN)
}

/// The timeline that such a record names as its own.
///
/// In both it stands after eight bytes: of time, or of the redo position.
pub(crate) fn timeline_begun(main_data: &[u8]) -> Option<TimelineId> {
    let bytes = main_data.get(8..)?.first_chunk::<4>()?;
    TimelineId::new(u32::from_le_bytes(*bytes))
}
