//! A catalog, replayed row by row.

use std::collections::BTreeMap;

use crate::catalog::heap_page;
use crate::catalog::row_version::RowVersion;
use crate::wal::record::body::RecordBody;
use crate::wal::record::page_image::PAGE_BYTES;
use crate::wal::record::relation_file::{Fork, RelationFile};
use crate::wal::rmgr::heap::{HeapRecord, RowPlace};
use crate::wal::rmgr::heap2::Heap2Record;

/// Block and line pointer of a row version.
pub(crate) type Place = (u32, u16);

/// The row versions of one catalog.
///
/// Versions stay where they are until their page is replaced or their place is
/// taken, so that neither pruning nor vacuuming has to be replayed.
#[derive(Debug, Clone, Default)]
pub(crate) struct CatalogTable {
    rows: BTreeMap<Place, RowVersion>,
}

/// What a record has done to a row version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Touched {
    Made(Place),
    Deleted(Place),
    /// Changed where it is, whatever becomes of the transaction.
    Overwritten(Place),
}

impl CatalogTable {
    /// The catalog in the file that it lies in.
    pub(crate) fn of_file(file: &[u8]) -> Self {
        let mut table = Self::default();
        for (page, block) in file.chunks_exact(PAGE_BYTES).zip(0u32..) {
            table.replace_page(block, page);
        }
        table
    }

    pub(crate) fn rows(&self) -> impl Iterator<Item = (Place, &RowVersion)> {
        self.rows.iter().map(|(place, row)| (*place, row))
    }

    pub(crate) fn get(&self, place: Place) -> Option<&RowVersion> {
        self.rows.get(&place)
    }

    fn replace_page(&mut self, block: u32, page: &[u8]) {
        let mut before: BTreeMap<Place, RowVersion> = BTreeMap::new();
        let held: Vec<Place> = self
            .rows
            .range((block, 0)..=(block, u16::MAX))
            .map(|(place, _)| *place)
            .collect();
        for place in held {
            before.extend(self.rows.remove(&place).map(|row| (place, row)));
        }
        for row in heap_page::rows(page) {
            let place = (block, row.offset);
            let version = RowVersion::of_page(&row, before.get(&place));
            self.rows.extend(version.map(|version| (place, version)));
        }
    }

    /// Takes over the pages of `file` that a record carries.
    ///
    /// An image that does not decompress leaves the page as it was.
    pub(crate) fn take_images(&mut self, body: &RecordBody<'_>, file: RelationFile) {
        let blocks = body
            .blocks()
            .filter(|block| block.relation == file && block.fork == Fork::Main);
        for block in blocks {
            if let Some(image) = block.image.filter(|image| image.apply)
                && let Ok(page) = image.page()
            {
                self.replace_page(block.block, &page);
            } else if block.will_init && block.id == 0 {
                self.replace_page(block.block, &[]);
            }
        }
    }

    /// Replays a record about one row of this catalog, whose images were taken over.
    pub(crate) fn replay(
        &mut self,
        record: &HeapRecord<'_>,
        body: &RecordBody<'_>,
        xid: u32,
    ) -> Vec<Touched> {
        match record {
            HeapRecord::Insert { row, tuple, .. } => {
                if let Some(tuple) = tuple {
                    let version = RowVersion::inserted(tuple, xid);
                    self.rows.insert(place(row), version);
                }
                vec![Touched::Made(place(row))]
            }
            HeapRecord::Delete { row, .. } => {
                self.delete(place(row), xid);
                vec![Touched::Deleted(place(row))]
            }
            HeapRecord::Update {
                row,
                old_block,
                old_offset,
                flags,
                ..
            } => {
                let old_place = (old_block.unwrap_or(row.block), *old_offset);
                let new = body.blocks().find(|block| block.id == 0);
                let carried = new.filter(|block| !block.data.is_empty());
                if let Some(block) = carried {
                    let old = self.rows.get(&old_place);
                    let version = RowVersion::updated(old, block.data, *flags, xid);
                    match version {
                        Some(version) => self.rows.insert(place(row), version),
                        // a delta of something that is not known
                        None => self.rows.remove(&place(row)),
                    };
                }
                self.delete(old_place, xid);
                vec![Touched::Deleted(old_place), Touched::Made(place(row))]
            }
            HeapRecord::Inplace { row } => {
                let block = body.first_block();
                if let Some(version) = self.rows.get_mut(&place(row))
                    && let Some(block) = block.filter(|block| !block.data.is_empty())
                {
                    version.overwrite(block.data);
                }
                vec![Touched::Overwritten(place(row))]
            }
            HeapRecord::Truncate { .. } | HeapRecord::Confirm { .. } | HeapRecord::Lock { .. } => {
                Vec::new()
            }
        }
    }

    /// Replays a record about many rows of this catalog.
    pub(crate) fn replay_many(
        &mut self,
        record: &Heap2Record<'_>,
        body: &RecordBody<'_>,
        xid: u32,
    ) -> Vec<Touched> {
        let Heap2Record::MultiInsert(insert) = record else {
            return Vec::new();
        };
        // a page that is new with them is filled from its first line pointer on
        let offsets: Vec<u16> = if insert.init_page {
            (1..=insert.rows).collect()
        } else {
            let listed = body.main_data().get(4..).unwrap_or(&[]);
            listed
                .chunks_exact(2)
                .filter_map(|bytes| heap_page::u16_at(bytes, 0))
                .collect()
        };
        for (offset, tuple) in offsets.iter().zip(insert.tuples()) {
            let version = RowVersion::inserted(&tuple, xid);
            self.rows.insert((insert.block, *offset), version);
        }
        let made = |offset: &u16| Touched::Made((insert.block, *offset));
        offsets.iter().map(made).collect()
    }

    fn delete(&mut self, place: Place, xid: u32) {
        if let Some(version) = self.rows.get_mut(&place) {
            version.deleted_by = Some(xid);
        }
    }
}

fn place(row: &RowPlace) -> Place {
    (row.block, row.offset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::heap_page::page_of;

    #[test]
    fn a_file_is_read_page_by_page() {
        let file = [
            page_of(&[(3, 0, 0x0900, b"one"), (3, 9, 0x0500, b"gone")]),
            page_of(&[(700, 0, 0x0800, b"two")]),
        ]
        .concat();
        let table = CatalogTable::of_file(&file);
        let rows: Vec<_> = table
            .rows()
            .map(|(place, row)| (place, row.columns().to_vec()))
            .collect();
        assert_eq!(rows, [((0, 1), b"one".to_vec()), ((1, 1), b"two".to_vec())]);
    }
}
