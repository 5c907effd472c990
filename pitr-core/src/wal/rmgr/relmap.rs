//! Catalogs that move from file to file.

use std::fmt;

use nom::Parser;
use nom::bytes::complete::tag;
use nom::number::complete::le_u32;

use crate::wal::record::contents::Parsed;
use crate::wal::record::packed_list::{PackedList, count, number};

/// First bytes of a map, in little-endian order.
///
/// Source: `RELMAPPER_FILEMAGIC`, src/backend/utils/cache/relmapper.c.
const MAGIC: u32 = 0x0059_2717;

/// A new map from catalogs to files, for one database or for the catalogs that all share.
///
/// Source: `xl_relmap_update`, src/include/utils/relmapper.h.
#[derive(Debug, Clone)]
pub struct RelmapUpdate<'a> {
    /// OID of the database; 0 for the shared catalogs.
    pub database: u32,
    /// OID of its default tablespace.
    pub tablespace: u32,
    /// Where each mapped catalog lies from now on.
    pub mappings: PackedList<'a, RelationMapping>,
}

/// Where one catalog lies.
///
/// Source: `RelMapping`, src/backend/utils/cache/relmapper.c.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelationMapping {
    /// OID of the catalog.
    pub oid: u32,
    /// Number of its file.
    pub file: u32,
}

impl<'a> RelmapUpdate<'a> {
    pub(crate) fn fields(data: &'a [u8], operation: u8) -> Parsed<'a, Self> {
        if operation != 0x00 {
            return Ok((data, None));
        }
        let (data, (database, tablespace, _len, _magic)) =
            (le_u32, le_u32, le_u32, tag(&MAGIC.to_le_bytes()[..])).parse(data)?;
        let (data, count) = count(data)?;
        let (data, mappings) = PackedList::take(data, count, 8, |bytes| {
            Some(RelationMapping {
                oid: number(bytes)?,
                file: number(bytes.get(4..)?)?,
            })
        })?;
        let update = RelmapUpdate {
            database,
            tablespace,
            mappings,
        };
        Ok((data, Some(update)))
    }
}

impl fmt::Display for RelmapUpdate<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "UPDATE database {} tablespace {} mappings {}",
            self.database,
            self.tablespace,
            self.mappings.len()
        )
    }
}
