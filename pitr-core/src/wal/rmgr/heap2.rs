//! Rows of tables, many at once.

use std::fmt;

use nom::bytes::complete::take;
use nom::number::complete::{le_u8, le_u16};
use nom::{IResult, Parser};

use crate::postgres_major::PostgresMajor;
use crate::wal::record::body::RecordBody;
use crate::wal::record::contents::Parsed;
use crate::wal::record::relation_file::RelationFile;
use crate::wal::rmgr::heap::{HeapTuple, block_of};

const OPERATION: u8 = 0x70;
const INIT_PAGE: u8 = 0x80;

/// A record about many rows of a table.
///
/// Source: src/include/access/heapam_xlog.h.
#[derive(Debug, Clone)]
pub enum Heap2Record<'a> {
    /// Rows are inserted into one page, as `COPY` does.
    MultiInsert(MultiInsert<'a>),
    /// Upkeep of pages and of what transactions see; no row is made, changed or removed that anyone could see.
    Upkeep {
        /// What `pg_waldump` calls it in this version.
        name: &'static str,
    },
}

/// Rows that are inserted into one page.
///
/// Source: `xl_heap_multi_insert`.
#[derive(Debug, Clone, Copy)]
pub struct MultiInsert<'a> {
    /// Files of the table.
    pub relation: RelationFile,
    /// Block in its main fork.
    pub block: u32,
    /// Source: `XLH_INSERT_…`.
    pub flags: u8,
    /// Number of rows.
    pub rows: u16,
    /// Whether the page is new with them.
    pub init_page: bool,
    /// The rows, packed; empty where the record has an image of the page instead.
    data: &'a [u8],
}

impl<'a> MultiInsert<'a> {
    /// The rows; none where the record has an image of the page instead.
    pub fn tuples(&self) -> impl Iterator<Item = HeapTuple<'a>> + use<'a> {
        let whole = self.data;
        let mut at = 0usize;
        (0..self.rows).map_while(move |_| {
            // each begins at an even offset: SHORTALIGN
            at += at & 1;
            let (input, len) = le_u16::<_, nom::error::Error<&[u8]>>(whole.get(at..)?).ok()?;
            let len = usize::from(len);
            let tuple = HeapTuple::fields(input.get(..5 + len)?).ok()?.1;
            at += 2 + 5 + len;
            Some(tuple)
        })
    }
}

impl<'a> Heap2Record<'a> {
    pub(crate) fn fields(
        body: &RecordBody<'a>,
        info: u8,
        major: PostgresMajor,
    ) -> Parsed<'a, Self> {
        if info & OPERATION != 0x50 {
            let upkeep = upkeep_name(info & OPERATION, major);
            let upkeep = upkeep.map(|name| Heap2Record::Upkeep { name });
            return Ok((body.main_data(), upkeep));
        }
        let (data, block) = block_of(body)?;
        let (data, (flags, rows)) = multi_insert_fields(data)?;
        let insert = MultiInsert {
            relation: block.relation,
            block: block.block,
            flags,
            rows,
            init_page: info & INIT_PAGE != 0,
            data: block.data,
        };
        Ok((data, Some(Heap2Record::MultiInsert(insert))))
    }
}

fn multi_insert_fields(data: &[u8]) -> IResult<&[u8], (u8, u16)> {
    let (data, (flags, _pad, rows)) = (le_u8, take(1usize), le_u16).parse(data)?;
    Ok((data, (flags, rows)))
}

/// How many rows such a record inserts.
pub(crate) fn multi_insert_rows(data: &[u8]) -> Option<u16> {
    let (_, (_flags, rows)) = multi_insert_fields(data).ok()?;
    Some(rows)
}

/// 14 and 17 gave the same numbers to other operations.
///
/// Source: `heap2_identify`, src/backend/access/rmgrdesc/heapdesc.c.
fn upkeep_name(operation: u8, major: PostgresMajor) -> Option<&'static str> {
    let names = match major.get() {
        ..=13 => ["CLEAN", "FREEZE_PAGE", "CLEANUP_INFO"],
        14..=16 => ["PRUNE", "VACUUM", "FREEZE_PAGE"],
        17.. => [
            "PRUNE_ON_ACCESS",
            "PRUNE_VACUUM_SCAN",
            "PRUNE_VACUUM_CLEANUP",
        ],
    };
    match operation {
        0x00 => Some("REWRITE"),
        0x10 => names.first().copied(),
        0x20 => names.get(1).copied(),
        0x30 => names.get(2).copied(),
        0x40 => Some("VISIBLE"),
        0x60 => Some("LOCK_UPDATED"),
        0x70 => Some("NEW_CID"),
        _ => None,
    }
}

impl fmt::Display for Heap2Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Heap2Record::MultiInsert(insert) => write!(
                f,
                "MULTI_INSERT{} {} tuples flags {:#04X}",
                if insert.init_page { "+INIT" } else { "" },
                insert.rows,
                insert.flags
            ),
            Heap2Record::Upkeep { name } => f.write_str(name),
        }
    }
}
