//! What a transaction has written so far.

use std::hash::{BuildHasherDefault, Hasher};

use crate::lsn::Lsn;
use crate::wal::record::relation_file::RelationFile;
use crate::wal::record::row_change::{RowChange, RowChangeKind};

/// Rows of one table, changed by one transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RowCount {
    pub(crate) relation: RelationFile,
    pub(crate) kind: RowChangeKind,
    pub(crate) rows: u64,
}

/// What a transaction has written in a stretch of the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Activity {
    /// Its first record there.
    pub(crate) first_lsn: Lsn,
    /// Bytes of its records.
    pub(crate) bytes: u64,
    pub(crate) rows: Vec<RowCount>,
}

impl Activity {
    pub(crate) fn begin(first_lsn: Lsn) -> Self {
        Self {
            first_lsn,
            ..Self::default()
        }
    }

    #[inline]
    pub(crate) fn count(&mut self, change: RowChange) {
        self.add(RowCount {
            relation: change.relation,
            kind: change.kind,
            rows: u64::from(change.rows),
        });
    }

    #[inline]
    fn add(&mut self, more: RowCount) {
        // most records are about the table of the one before
        let same =
            |count: &&mut RowCount| count.relation == more.relation && count.kind == more.kind;
        match self.rows.iter_mut().rev().find(same) {
            Some(count) => count.rows += more.rows,
            None => self.rows.push(more),
        }
    }

    /// Takes over what a subtransaction has written, or the same one in another stretch.
    pub(crate) fn absorb(&mut self, other: &Activity) {
        self.bytes += other.bytes;
        if !self.first_lsn.is_valid() || other.first_lsn < self.first_lsn {
            self.first_lsn = other.first_lsn;
        }
        for count in &other.rows {
            self.add(*count);
        }
    }
}

/// Spreads transaction numbers: they are no secret, and there are millions.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct XidHasher(u64);

impl Hasher for XidHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.0 = (self.0.rotate_left(5) ^ u64::from(number)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

pub(crate) type ByXid<T> = std::collections::HashMap<u32, T, BuildHasherDefault<XidHasher>>;

#[cfg(test)]
mod tests {
    use super::*;

    fn change(relation: u32, kind: RowChangeKind, rows: u32) -> RowChange {
        RowChange {
            relation: RelationFile {
                tablespace: 1663,
                database: 5,
                relation,
            },
            kind,
            rows,
        }
    }

    #[test]
    fn rows_are_counted_by_table_and_kind_and_parts_are_folded() {
        let mut one = Activity::begin(Lsn::new(200));
        one.count(change(1, RowChangeKind::Delete, 1));
        one.count(change(2, RowChangeKind::Insert, 7));
        one.count(change(1, RowChangeKind::Delete, 1));
        let mut earlier = Activity::begin(Lsn::new(100));
        earlier.count(change(1, RowChangeKind::Delete, 3));
        earlier.bytes = 50;
        one.absorb(&earlier);
        assert_eq!(
            one.rows.iter().map(|count| count.rows).collect::<Vec<_>>(),
            [5, 7]
        );
        assert_eq!((one.first_lsn, one.bytes), (Lsn::new(100), 50));
    }
}
