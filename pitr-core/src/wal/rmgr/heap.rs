//! Rows of tables, one at a time.

use std::fmt;

use nom::bytes::complete::take;
use nom::combinator::rest;
use nom::number::complete::{le_u8, le_u16, le_u32};
use nom::{IResult, Parser};

use crate::wal::record::block_reference::BlockReference;
use crate::wal::record::body::RecordBody;
use crate::wal::record::contents::Parsed;
use crate::wal::record::packed_list::{PackedList, number};
use crate::wal::record::relation_file::RelationFile;

const OPERATION: u8 = 0x70;
const INIT_PAGE: u8 = 0x80;

/// A record about one row of a table, or about tables that are emptied.
///
/// Source: src/include/access/heapam_xlog.h.
#[derive(Debug, Clone)]
pub enum HeapRecord<'a> {
    /// A row is inserted.
    ///
    /// Source: `xl_heap_insert`.
    Insert {
        /// Where it is put.
        row: RowPlace,
        /// Source: `XLH_INSERT_…`.
        flags: u8,
        /// Whether the page is new with it.
        init_page: bool,
        /// The row; `None` where the record has an image of the page instead.
        tuple: Option<HeapTuple<'a>>,
    },
    /// A row is deleted.
    ///
    /// Source: `xl_heap_delete`.
    Delete {
        /// Where it is.
        row: RowPlace,
        /// Transaction that deletes it, or a multixact.
        xmax: u32,
        /// Source: `XLH_DELETE_…`.
        flags: u8,
    },
    /// A row is replaced by a new version of it.
    ///
    /// Source: `xl_heap_update`.
    Update {
        /// Where the new version is put.
        row: RowPlace,
        /// Block of the old version, if it is another one.
        old_block: Option<u32>,
        /// Line pointer of the old version.
        old_offset: u16,
        /// Transaction that replaces it, or a multixact.
        old_xmax: u32,
        /// Source: `XLH_UPDATE_…`.
        flags: u8,
        /// Whether no index had to be touched.
        hot: bool,
        /// Whether the page of the new version is new with it.
        init_page: bool,
    },
    /// Tables are emptied by `TRUNCATE`; for logical decoding alone (`wal_level = logical`).
    ///
    /// Source: `xl_heap_truncate`.
    Truncate {
        /// OID of the database.
        database: u32,
        /// OIDs of the tables, in `pg_class`.
        relations: PackedList<'a, u32>,
        /// Whether tables that refer to them are emptied as well.
        cascade: bool,
        /// Whether sequences that they own begin anew.
        restart_sequences: bool,
    },
    /// A row that was inserted speculatively stays.
    ///
    /// Source: `xl_heap_confirm`.
    Confirm {
        /// Where it is.
        row: RowPlace,
    },
    /// A row is locked.
    ///
    /// Source: `xl_heap_lock`.
    Lock {
        /// Where it is.
        row: RowPlace,
        /// Transaction that locks it, or a multixact.
        xmax: u32,
    },
    /// A row of a catalog is changed where it is, whatever becomes of the transaction.
    ///
    /// Source: `xl_heap_inplace`.
    Inplace {
        /// Where it is.
        row: RowPlace,
    },
}

/// Where a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowPlace {
    /// Files of the table.
    pub relation: RelationFile,
    /// Block in its main fork.
    pub block: u32,
    /// Line pointer in the block, from 1.
    pub offset: u16,
}

/// A row as a record carries it.
///
/// Source: `xl_heap_header`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeapTuple<'a> {
    /// Number of columns, and flags.
    pub infomask2: u16,
    /// Flags.
    pub infomask: u16,
    /// Bytes from the beginning of a row to its first column, as it will lie in its page.
    pub header_len: u8,
    /// From byte 23 of the row on: null bitmap, padding, columns.
    pub bytes: &'a [u8],
}

/// Bytes of a row's header that records leave out.
///
/// Source: `SizeofHeapTupleHeader`, src/include/access/htup_details.h.
const TUPLE_HEADER: usize = 23;

impl<'a> HeapTuple<'a> {
    pub(crate) fn fields(input: &'a [u8]) -> IResult<&'a [u8], Self> {
        let (input, (infomask2, infomask, header_len)) = (le_u16, le_u16, le_u8).parse(input)?;
        let (input, bytes) = rest(input)?;
        let tuple = HeapTuple {
            infomask2,
            infomask,
            header_len,
            bytes,
        };
        Ok((input, tuple))
    }

    /// The columns, one behind the other, as the table's definition has them.
    pub fn columns(&self) -> Option<&'a [u8]> {
        let skipped = usize::from(self.header_len).checked_sub(TUPLE_HEADER)?;
        self.bytes.get(skipped..)
    }
}

/// The block that a record about rows must have.
pub(crate) fn block_of<'a>(body: &RecordBody<'a>) -> IResult<&'a [u8], BlockReference<'a>> {
    match body.first_block() {
        Some(block) => Ok((body.main_data(), block)),
        None => fail(body.main_data()),
    }
}

fn fail<T>(input: &[u8]) -> IResult<&[u8], T> {
    Err(nom::Err::Error(nom::error::Error::new(
        input,
        nom::error::ErrorKind::Verify,
    )))
}

impl<'a> HeapRecord<'a> {
    pub(crate) fn fields(body: &RecordBody<'a>, info: u8) -> Parsed<'a, Self> {
        if info & OPERATION == 0x30 {
            return truncate(body.main_data());
        }
        let (data, block) = block_of(body)?;
        let place = |offset| RowPlace {
            relation: block.relation,
            block: block.block,
            offset,
        };
        let init_page = info & INIT_PAGE != 0;
        let (data, record) = match info & OPERATION {
            0x00 => {
                let (data, (offset, flags)) = (le_u16, le_u8).parse(data)?;
                let tuple = match block.data {
                    [] => None,
                    bytes => Some(HeapTuple::fields(bytes)?.1),
                };
                let insert = HeapRecord::Insert {
                    row: place(offset),
                    flags,
                    init_page,
                    tuple,
                };
                (data, insert)
            }
            0x10 => {
                let (data, (xmax, offset, _infobits, flags)) =
                    (le_u32, le_u16, le_u8, le_u8).parse(data)?;
                let row = place(offset);
                (data, HeapRecord::Delete { row, xmax, flags })
            }
            operation @ (0x20 | 0x40) => {
                let (data, (old_xmax, old_offset, _infobits, flags, _new_xmax, offset)) =
                    (le_u32, le_u16, le_u8, le_u8, le_u32, le_u16).parse(data)?;
                let update = HeapRecord::Update {
                    row: place(offset),
                    old_block: body.blocks().find(|old| old.id == 1).map(|old| old.block),
                    old_offset,
                    old_xmax,
                    flags,
                    hot: operation == 0x40,
                    init_page,
                };
                (data, update)
            }
            0x50 => {
                let (data, offset) = le_u16(data)?;
                (data, HeapRecord::Confirm { row: place(offset) })
            }
            0x60 => {
                let (data, (xmax, offset)) = (le_u32, le_u16).parse(data)?;
                let row = place(offset);
                (data, HeapRecord::Lock { row, xmax })
            }
            _ => {
                let (data, offset) = le_u16(data)?;
                (data, HeapRecord::Inplace { row: place(offset) })
            }
        };
        Ok((data, Some(record)))
    }
}

fn truncate(data: &[u8]) -> Parsed<'_, HeapRecord<'_>> {
    let (data, (database, count, flags, _pad)) =
        (le_u32, le_u32, le_u8, take(3usize)).parse(data)?;
    let (data, relations) = PackedList::take(data, count as usize, 4, number)?;
    let truncate = HeapRecord::Truncate {
        database,
        relations,
        cascade: flags & 0x01 != 0,
        restart_sequences: flags & 0x02 != 0,
    };
    Ok((data, Some(truncate)))
}

impl fmt::Display for HeapRecord<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let init = |init_page: &bool| if *init_page { "+INIT" } else { "" };
        match self {
            HeapRecord::Insert {
                row,
                flags,
                init_page,
                ..
            } => write!(
                f,
                "INSERT{} off {} flags {flags:#04X}",
                init(init_page),
                row.offset
            ),
            HeapRecord::Delete { row, flags, .. } => {
                write!(f, "DELETE off {} flags {flags:#04X}", row.offset)
            }
            HeapRecord::Update {
                row,
                old_offset,
                old_xmax,
                flags,
                hot,
                init_page,
                ..
            } => write!(
                f,
                "{}UPDATE{} off {old_offset} xmax {old_xmax} flags {flags:#04X} ; new off {}",
                if *hot { "HOT_" } else { "" },
                init(init_page),
                row.offset
            ),
            HeapRecord::Truncate {
                relations,
                cascade,
                restart_sequences,
                ..
            } => {
                f.write_str("TRUNCATE ")?;
                if *cascade {
                    f.write_str("cascade ")?;
                }
                if *restart_sequences {
                    f.write_str("restart_seqs ")?;
                }
                write!(f, "nrelids {} relids", relations.len())?;
                relations.write(f, |f, oid| write!(f, "{oid}"))
            }
            HeapRecord::Confirm { row } => write!(f, "HEAP_CONFIRM off {}", row.offset),
            HeapRecord::Lock { row, xmax } => write!(f, "LOCK off {}: xid {xmax}", row.offset),
            HeapRecord::Inplace { row } => write!(f, "INPLACE off {}", row.offset),
        }
    }
}
