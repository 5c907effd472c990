//! Which file a block or a relation lies in.

use std::fmt;

use nom::number::complete::le_u32;
use nom::{IResult, Parser};
use serde::{Deserialize, Serialize};

use crate::wal::record::packed_list::PackedList;

/// The files of one relation: tablespace, database and file number.
///
/// Prints `tablespace/database/relation`, as `pg_waldump` does. The file
/// number is the relation's OID only until the relation is rewritten.
///
/// Source: `RelFileLocator`, src/include/storage/relfilelocator.h (up to 15 `RelFileNode`, relfilenode.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RelationFile {
    /// OID of the tablespace: 1663 is `pg_default`, 1664 `pg_global`.
    pub tablespace: u32,
    /// OID of the database; 0 for relations that all databases share.
    pub database: u32,
    /// Number of the file, `pg_class.relfilenode`.
    pub relation: u32,
}

impl RelationFile {
    /// Bytes in a record.
    pub(crate) const LEN: usize = 12;

    /// A count, then so many.
    pub(crate) fn counted(input: &[u8]) -> IResult<&[u8], PackedList<'_, RelationFile>> {
        PackedList::counted(input, Self::LEN, Self::read)
    }

    pub(crate) fn list(input: &[u8], count: usize) -> IResult<&[u8], PackedList<'_, Self>> {
        PackedList::take(input, count, Self::LEN, Self::read)
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        Some(Self::fields(bytes).ok()?.1)
    }

    pub(crate) fn fields(input: &[u8]) -> IResult<&[u8], RelationFile> {
        let (input, (tablespace, database, relation)) = (le_u32, le_u32, le_u32).parse(input)?;
        Ok((
            input,
            RelationFile {
                tablespace,
                database,
                relation,
            },
        ))
    }
}

impl fmt::Display for RelationFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.tablespace, self.database, self.relation)
    }
}

/// One of the files that a relation is made of.
///
/// Prints its suffix: `main`, `fsm`, `vm`, `init`.
///
/// Source: `ForkNumber`, src/include/common/relpath.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fork {
    /// The data.
    Main,
    /// Free space.
    FreeSpaceMap,
    /// Which pages all transactions see.
    VisibilityMap,
    /// What an unlogged relation begins with after a crash.
    Init,
}

impl Fork {
    /// The fork of this number; `None` beyond 3.
    pub const fn new(number: u8) -> Option<Self> {
        match number {
            0 => Some(Fork::Main),
            1 => Some(Fork::FreeSpaceMap),
            2 => Some(Fork::VisibilityMap),
            3 => Some(Fork::Init),
            _ => None,
        }
    }
}

impl fmt::Display for Fork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Fork::Main => "main",
            Fork::FreeSpaceMap => "fsm",
            Fork::VisibilityMap => "vm",
            Fork::Init => "init",
        })
    }
}
