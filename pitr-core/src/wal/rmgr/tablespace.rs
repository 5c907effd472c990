//! Tablespaces made and dropped.

use std::fmt;

use nom::Parser;
use nom::bytes::complete::take_while;
use nom::number::complete::le_u32;

use crate::wal::record::contents::Parsed;

/// A record about a tablespace. Replay acts at once, whatever becomes of the transaction.
///
/// Source: src/include/commands/tablespace.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TablespaceRecord<'a> {
    /// A tablespace is made.
    ///
    /// Source: `xl_tblspc_create_rec`.
    Create {
        /// Its OID.
        tablespace: u32,
        /// Its folder, in whatever encoding the server's file system has.
        path: &'a [u8],
    },
    /// A tablespace is dropped.
    ///
    /// Source: `xl_tblspc_drop_rec`.
    Drop {
        /// Its OID.
        tablespace: u32,
    },
}

impl<'a> TablespaceRecord<'a> {
    pub(crate) fn fields(data: &'a [u8], operation: u8) -> Parsed<'a, Self> {
        match operation {
            0x00 => {
                let (data, (tablespace, path)) =
                    (le_u32, take_while(|byte| byte != 0)).parse(data)?;
                Ok((data, Some(TablespaceRecord::Create { tablespace, path })))
            }
            0x10 => {
                let (data, tablespace) = le_u32(data)?;
                Ok((data, Some(TablespaceRecord::Drop { tablespace })))
            }
            _ => Ok((data, None)),
        }
    }
}

impl fmt::Display for TablespaceRecord<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TablespaceRecord::Create { tablespace, path } => {
                write!(f, "CREATE {tablespace} \"{}\"", path.escape_ascii())
            }
            TablespaceRecord::Drop { tablespace } => write!(f, "DROP {tablespace}"),
        }
    }
}
