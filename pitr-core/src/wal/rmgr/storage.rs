//! Files of relations made and cut.

use std::fmt;

use nom::Parser;
use nom::combinator::map_opt;
use nom::number::complete::{le_i32, le_u32};

use crate::wal::record::contents::Parsed;
use crate::wal::record::relation_file::{Fork, RelationFile};

/// A record about the files of a relation.
///
/// Source: src/include/catalog/storage_xlog.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StorageRecord {
    /// A file is made.
    ///
    /// Source: `xl_smgr_create`.
    Create {
        /// The relation.
        relation: RelationFile,
        /// Which of its files.
        fork: Fork,
    },
    /// A relation is cut.
    ///
    /// Source: `xl_smgr_truncate`.
    Truncate {
        /// The relation.
        relation: RelationFile,
        /// Blocks that are left of its main fork.
        blocks: u32,
        /// Which forks: 1 main, 2 visibility map, 4 free space map.
        flags: u32,
    },
}

impl StorageRecord {
    pub(crate) fn fields(data: &[u8], operation: u8) -> Parsed<'_, Self> {
        match operation {
            0x10 => {
                let (data, relation) = RelationFile::fields(data)?;
                let (data, fork) =
                    map_opt(le_i32, |fork| Fork::new(u8::try_from(fork).ok()?)).parse(data)?;
                Ok((data, Some(StorageRecord::Create { relation, fork })))
            }
            0x20 => {
                let (data, (blocks, relation, flags)) =
                    (le_u32, RelationFile::fields, le_u32).parse(data)?;
                let truncate = StorageRecord::Truncate {
                    relation,
                    blocks,
                    flags,
                };
                Ok((data, Some(truncate)))
            }
            _ => Ok((data, None)),
        }
    }
}

impl fmt::Display for StorageRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StorageRecord::Create { relation, fork } => write!(f, "CREATE {relation} {fork}"),
            StorageRecord::Truncate {
                relation,
                blocks,
                flags,
            } => write!(f, "TRUNCATE {relation} to {blocks} blocks flags {flags}"),
        }
    }
}
