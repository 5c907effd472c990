//! Rows in a page of a table.

use crate::wal::record::page_image::PAGE_BYTES;

/// Bytes of a page's header.
///
/// Source: `SizeOfPageHeaderData`, src/include/storage/bufpage.h.
const PAGE_HEADER: usize = 24;
/// Bytes of a row's header that come before its null bitmap.
///
/// Source: `SizeofHeapTupleHeader`, src/include/access/htup_details.h.
pub(crate) const ROW_HEADER: usize = 23;

/// A row version as it lies in a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PageRow<'a> {
    /// Its line pointer, from 1.
    pub(crate) offset: u16,
    pub(crate) xmin: u32,
    pub(crate) xmax: u32,
    pub(crate) infomask: u16,
    /// Bytes from the beginning of the row to its first column.
    pub(crate) header_len: u8,
    /// From byte 23 on: null bitmap, padding, columns.
    pub(crate) bytes: &'a [u8],
}

/// The rows of a page; none where it is no page of a table.
///
/// Pages of indexes have special space at their end, which tables have not.
///
/// Source: `PageHeaderData`, src/include/storage/bufpage.h; `ItemIdData`,
/// src/include/storage/itemid.h; `HeapTupleHeaderData`,
/// src/include/access/htup_details.h.
pub(crate) fn rows(page: &[u8]) -> impl Iterator<Item = PageRow<'_>> {
    let lower = u16_at(page, 12).map_or(0, usize::from);
    let special = u16_at(page, 16).map_or(0, usize::from);
    let is_table = page.len() == PAGE_BYTES && special == PAGE_BYTES && lower <= PAGE_BYTES;
    let pointers = if is_table {
        page.get(PAGE_HEADER..lower).unwrap_or(&[])
    } else {
        &[]
    };
    pointers
        .chunks_exact(4)
        .zip(1u16..)
        .filter_map(|(pointer, offset)| row(page, u32_at(pointer, 0)?, offset))
}

fn row(page: &[u8], pointer: u32, offset: u16) -> Option<PageRow<'_>> {
    let at = (pointer & 0x7FFF) as usize;
    let flags = (pointer >> 15) & 0x3;
    let len = (pointer >> 17) as usize;
    if flags != 1 {
        return None; // unused, redirected or dead
    }
    let tuple = page.get(at..at.checked_add(len)?)?;
    Some(PageRow {
        offset,
        xmin: u32_at(tuple, 0)?,
        xmax: u32_at(tuple, 4)?,
        infomask: u16_at(tuple, 20)?,
        header_len: *tuple.get(22)?,
        bytes: tuple.get(ROW_HEADER..)?,
    })
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
pub(crate) fn page_of(rows: &[(u32, u32, u16, &[u8])]) -> Vec<u8> {
    let mut page = vec![0u8; PAGE_BYTES];
    let mut upper = PAGE_BYTES;
    for (index, (xmin, xmax, infomask, columns)) in rows.iter().enumerate() {
        let mut tuple = vec![0u8; 24];
        tuple[..4].copy_from_slice(&xmin.to_le_bytes());
        tuple[4..8].copy_from_slice(&xmax.to_le_bytes());
        tuple[20..22].copy_from_slice(&infomask.to_le_bytes());
        tuple[22] = 24;
        tuple.extend_from_slice(columns);
        upper -= tuple.len().next_multiple_of(8);
        page[upper..upper + tuple.len()].copy_from_slice(&tuple);
        let pointer = u32::try_from(upper | (1 << 15) | (tuple.len() << 17)).unwrap();
        let at = PAGE_HEADER + 4 * index;
        page[at..at + 4].copy_from_slice(&pointer.to_le_bytes());
    }
    let lower = u16::try_from(PAGE_HEADER + 4 * rows.len()).unwrap();
    page[12..14].copy_from_slice(&lower.to_le_bytes());
    page[14..16].copy_from_slice(&u16::try_from(upper).unwrap().to_le_bytes());
    page[16..18].copy_from_slice(&8192u16.to_le_bytes());
    page
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rows_are_found_by_their_line_pointers() {
        let mut page = page_of(&[(3, 0, 0x0900, b"one"), (700, 701, 0, b"two")]);
        let found: Vec<_> = rows(&page).collect();
        assert_eq!((found[0].offset, found[0].xmin), (1, 3));
        assert_eq!((found[1].offset, found[1].xmax), (2, 701));
        assert_eq!(&found[1].bytes[1..], b"two");
        // an index has special space
        page[16..18].copy_from_slice(&8176u16.to_le_bytes());
        assert_eq!(rows(&page).count(), 0);
        assert_eq!(rows(&vec![0; PAGE_BYTES]).count(), 0);
    }

    proptest! {
        #[test]
        fn no_page_panics(head in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut page = vec![0u8; PAGE_BYTES];
            page[..head.len()].copy_from_slice(&head);
            page[16..18].copy_from_slice(&8192u16.to_le_bytes());
            prop_assert!(rows(&page).count() <= PAGE_BYTES / 4);
        }
    }
}
