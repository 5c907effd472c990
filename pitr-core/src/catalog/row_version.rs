//! A version of a row, and who made and deleted it.

use crate::catalog::heap_page::{PageRow, ROW_HEADER, u16_at};
use crate::wal::rmgr::heap::HeapTuple;

/// Source: `HEAP_XMIN_…` and `HEAP_XMAX_…`, src/include/access/htup_details.h.
mod infomask {
    pub(super) const XMAX_LOCK_ONLY: u16 = 0x0080;
    pub(super) const XMIN_COMMITTED: u16 = 0x0100;
    pub(super) const XMIN_INVALID: u16 = 0x0200;
    pub(super) const XMAX_COMMITTED: u16 = 0x0400;
    pub(super) const XMAX_INVALID: u16 = 0x0800;
    pub(super) const XMAX_IS_MULTI: u16 = 0x1000;
}

/// The new version repeats the beginning of the old one.
///
/// Source: `XLH_UPDATE_PREFIX_FROM_OLD`, src/include/access/heapam_xlog.h.
const PREFIX_FROM_OLD: u8 = 0x20;
/// The new version repeats the end of the old one.
///
/// Source: `XLH_UPDATE_SUFFIX_FROM_OLD`.
const SUFFIX_FROM_OLD: u8 = 0x40;

/// A version of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RowVersion {
    /// Transaction that made it; `None` where it is known to have been committed.
    pub(crate) made_by: Option<u32>,
    /// Transaction that deleted or replaced it, which may have been rolled back.
    pub(crate) deleted_by: Option<u32>,
    header_len: u8,
    /// From byte 23 of the row on.
    bytes: Vec<u8>,
}

impl RowVersion {
    /// A version as a page has it; `None` if nobody will ever see it again.
    /// `before` is what was known of the same place.
    pub(crate) fn of_page(row: &PageRow<'_>, before: Option<&RowVersion>) -> Option<Self> {
        let has = |mask: u16| row.infomask & mask != 0;
        let made_by = match (has(infomask::XMIN_COMMITTED), has(infomask::XMIN_INVALID)) {
            (true, _) => None,
            (false, true) => return None,
            (false, false) => Some(row.xmin),
        };
        let deleted_by =
            if has(infomask::XMAX_INVALID) || has(infomask::XMAX_LOCK_ONLY) || row.xmax == 0 {
                None
            } else if has(infomask::XMAX_IS_MULTI) {
                // who of them deleted it stands in pg_multixact
                before.and_then(|before| before.deleted_by)
            } else if has(infomask::XMAX_COMMITTED) {
                return None;
            } else {
                Some(row.xmax)
            };
        Some(Self {
            made_by,
            deleted_by,
            header_len: row.header_len,
            bytes: row.bytes.to_vec(),
        })
    }

    /// A version as a record inserts it.
    pub(crate) fn inserted(tuple: &HeapTuple<'_>, xid: u32) -> Self {
        Self {
            made_by: Some(xid),
            deleted_by: None,
            header_len: tuple.header_len,
            bytes: tuple.bytes.to_vec(),
        }
    }

    /// The version that replaces `self`, from a record's data for its block;
    /// `None` if the data does not fit.
    ///
    /// Source: `heap_xlog_update`, src/backend/access/heap/heapam_xlog.c (up to 16 heapam.c).
    pub(crate) fn updated(old: Option<&Self>, data: &[u8], flags: u8, xid: u32) -> Option<Self> {
        let mut data = data;
        let mut len_if = |flag: u8| -> Option<usize> {
            if flags & flag == 0 {
                return Some(0);
            }
            let len = u16_at(data, 0)?;
            data = data.get(2..)?;
            Some(usize::from(len))
        };
        let prefix_len = len_if(PREFIX_FROM_OLD)?;
        let suffix_len = len_if(SUFFIX_FROM_OLD)?;
        let (_, tuple) = HeapTuple::fields(data).ok()?;
        let mut bytes = Vec::with_capacity(prefix_len + tuple.bytes.len() + suffix_len);
        if prefix_len == 0 && suffix_len == 0 {
            bytes.extend_from_slice(tuple.bytes);
        } else {
            let old = old?;
            // null bitmap and padding are never shared
            let bitmap_len = usize::from(tuple.header_len).checked_sub(ROW_HEADER)?;
            let (bitmap, columns) = tuple.bytes.split_at_checked(bitmap_len)?;
            let suffix_at = old.bytes.len().checked_sub(suffix_len)?;
            bytes.extend_from_slice(bitmap);
            bytes.extend_from_slice(old.columns().get(..prefix_len)?);
            bytes.extend_from_slice(columns);
            bytes.extend_from_slice(old.bytes.get(suffix_at..)?);
        }
        Some(Self {
            made_by: Some(xid),
            deleted_by: None,
            header_len: tuple.header_len,
            bytes,
        })
    }

    /// Puts other columns of the same length in place.
    pub(crate) fn overwrite(&mut self, columns: &[u8]) {
        let at = usize::from(self.header_len).saturating_sub(ROW_HEADER);
        if let Some(own) = self.bytes.get_mut(at..)
            && own.len() == columns.len()
        {
            own.copy_from_slice(columns);
        }
    }

    /// The columns as they lie in the row.
    pub(crate) fn columns(&self) -> &[u8] {
        let at = usize::from(self.header_len).saturating_sub(ROW_HEADER);
        self.bytes.get(at..).unwrap_or(&[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row<'a>(infomask: u16, xmax: u32, bytes: &'a [u8]) -> PageRow<'a> {
        PageRow {
            offset: 1,
            xmin: 700,
            xmax,
            infomask,
            header_len: 24,
            bytes,
        }
    }

    #[test]
    fn what_nobody_sees_is_left_out() {
        let version = |infomask, xmax| RowVersion::of_page(&row(infomask, xmax, b"\0x"), None);
        assert_eq!(version(0x0200, 0), None); // its maker was rolled back
        assert_eq!(version(0x0500, 701), None); // deleted for good
        let frozen = version(0x0B00, 0).unwrap();
        assert_eq!((frozen.made_by, frozen.deleted_by), (None, None));
        let locked = version(0x0080, 701).unwrap();
        assert_eq!((locked.made_by, locked.deleted_by), (Some(700), None));
        assert_eq!(version(0, 701).unwrap().deleted_by, Some(701));
    }

    #[test]
    fn an_update_is_put_together_from_old_and_new() {
        let old = RowVersion::of_page(&row(0x0900, 0, b"\0abcdefgh"), None).unwrap();
        // two bytes of the beginning and three of the end are the old ones
        let data = [&[2, 0, 3, 0][..], &[1, 0, 0, 0, 24], &[0], b"XY"].concat();
        let flags = PREFIX_FROM_OLD | SUFFIX_FROM_OLD;
        let new = RowVersion::updated(Some(&old), &data, flags, 702).unwrap();
        assert_eq!(new.columns(), b"abXYfgh");
        assert_eq!(new.made_by, Some(702));
        // without the old one there is no new one
        assert_eq!(RowVersion::updated(None, &data, flags, 702), None);
        // a prefix longer than the old one
        let long = [&[200, 0][..], &[1, 0, 0, 0, 24], &[0]].concat();
        assert_eq!(
            RowVersion::updated(Some(&old), &long, PREFIX_FROM_OLD, 702),
            None
        );
    }
}
