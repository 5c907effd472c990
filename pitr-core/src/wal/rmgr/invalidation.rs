//! What must be dropped from the caches of all sessions.

use std::fmt;

use crate::wal::record::packed_list::{PackedList, number};
use crate::wal::record::relation_file::RelationFile;

/// Something that the caches of all sessions must forget.
///
/// Source: `SharedInvalidationMessage`, src/include/storage/sinval.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invalidation {
    /// A row of a catalog.
    CatalogRow {
        /// Number of the cache; which catalog that is depends on the version.
        cache: u8,
        /// OID of the database; 0 for shared catalogs.
        database: u32,
        /// Hash of the row's key.
        hash: u32,
    },
    /// All rows of a catalog.
    Catalog {
        /// OID of the database; 0 for shared catalogs.
        database: u32,
        /// OID of the catalog.
        catalog: u32,
    },
    /// A relation.
    Relation {
        /// OID of the database; 0 for shared relations.
        database: u32,
        /// OID of the relation; 0 for all of them.
        relation: u32,
    },
    /// Open files of a relation.
    Files {
        /// The files.
        relation: RelationFile,
    },
    /// The map of the catalogs without fixed files.
    Relmap {
        /// OID of the database; 0 for the shared catalogs.
        database: u32,
    },
    /// Snapshots of a catalog.
    Snapshot {
        /// OID of the database; 0 for shared relations.
        database: u32,
        /// OID of the catalog.
        relation: u32,
    },
    /// What is published of a relation (18 and later).
    RelationSync {
        /// OID of the database.
        database: u32,
        /// OID of the relation; 0 for all of them.
        relation: u32,
    },
    /// A kind that is not known.
    Unknown {
        /// `id`.
        id: i8,
    },
}

impl Invalidation {
    /// Bytes in a record.
    const LEN: usize = 16;

    /// A count, then so many.
    pub(crate) fn counted(input: &[u8]) -> nom::IResult<&[u8], PackedList<'_, Invalidation>> {
        PackedList::counted(input, Self::LEN, Invalidation::read)
    }

    pub(crate) fn list(input: &[u8], count: usize) -> nom::IResult<&[u8], PackedList<'_, Self>> {
        PackedList::take(input, count, Self::LEN, Invalidation::read)
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let id = i8::from_le_bytes([*bytes.first()?]);
        let first = number(bytes.get(4..)?)?;
        let second = number(bytes.get(8..)?)?;
        Some(match id {
            0.. => Invalidation::CatalogRow {
                cache: id.unsigned_abs(),
                database: first,
                hash: second,
            },
            -1 => Invalidation::Catalog {
                database: first,
                catalog: second,
            },
            -2 => Invalidation::Relation {
                database: first,
                relation: second,
            },
            -3 => Invalidation::Files {
                relation: RelationFile {
                    tablespace: first,
                    database: second,
                    relation: number(bytes.get(12..)?)?,
                },
            },
            -4 => Invalidation::Relmap { database: first },
            -5 => Invalidation::Snapshot {
                database: first,
                relation: second,
            },
            -6 => Invalidation::RelationSync {
                database: first,
                relation: second,
            },
            id => Invalidation::Unknown { id },
        })
    }
}

impl fmt::Display for Invalidation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Invalidation::CatalogRow { cache, .. } => write!(f, "catcache {cache}"),
            Invalidation::Catalog { catalog, .. } => write!(f, "catalog {catalog}"),
            Invalidation::Relation { relation, .. } => write!(f, "relcache {relation}"),
            Invalidation::Files { .. } => f.write_str("smgr"),
            Invalidation::Relmap { database } => write!(f, "relmap db {database}"),
            Invalidation::Snapshot { relation, .. } => write!(f, "snapshot {relation}"),
            Invalidation::RelationSync { relation, .. } => write!(f, "relsync {relation}"),
            Invalidation::Unknown { id } => write!(f, "unrecognized id {id}"),
        }
    }
}
