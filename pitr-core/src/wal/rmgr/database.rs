//! Databases made and dropped.

use std::fmt;

use nom::Parser;
use nom::number::complete::le_u32;

use crate::postgres_major::PostgresMajor;
use crate::wal::record::contents::Parsed;
use crate::wal::record::packed_list::{PackedList, number};

/// A record about the folder of a database. Replay acts at once, whatever becomes of the transaction.
///
/// Source: src/include/commands/dbcommands_xlog.h.
#[derive(Debug, Clone)]
pub enum DatabaseRecord<'a> {
    /// A database is made by copying the files of another.
    ///
    /// Source: `xl_dbase_create_file_copy_rec` (up to 14 `xl_dbase_create_rec`).
    CreateFileCopy {
        /// OID of the new database.
        database: u32,
        /// OID of the tablespace that its folder is in.
        tablespace: u32,
        /// OID of the database that is copied.
        source_database: u32,
        /// OID of the tablespace that is copied.
        source_tablespace: u32,
    },
    /// A database is made empty; the records that fill it follow (15 and later).
    ///
    /// Source: `xl_dbase_create_wal_log_rec`.
    CreateWalLog {
        /// OID of the new database.
        database: u32,
        /// OID of the tablespace that its folder is in.
        tablespace: u32,
    },
    /// The folders of a database are removed.
    ///
    /// Source: `xl_dbase_drop_rec`.
    Drop {
        /// OID of the database.
        database: u32,
        /// OIDs of the tablespaces that it has a folder in.
        tablespaces: PackedList<'a, u32>,
    },
}

impl<'a> DatabaseRecord<'a> {
    /// 15 put a new operation before that for dropping: 0x10 drops up to 14 and creates from 15 on.
    pub(crate) fn fields(data: &'a [u8], operation: u8, major: PostgresMajor) -> Parsed<'a, Self> {
        let drop = if major.get() < 15 { 0x10 } else { 0x20 };
        match operation {
            0x00 => {
                let (data, (database, tablespace, source_database, source_tablespace)) =
                    (le_u32, le_u32, le_u32, le_u32).parse(data)?;
                let create = DatabaseRecord::CreateFileCopy {
                    database,
                    tablespace,
                    source_database,
                    source_tablespace,
                };
                Ok((data, Some(create)))
            }
            operation if operation == drop => {
                let (data, database) = le_u32(data)?;
                let (data, tablespaces) = PackedList::counted(data, 4, number)?;
                let drop = DatabaseRecord::Drop {
                    database,
                    tablespaces,
                };
                Ok((data, Some(drop)))
            }
            0x10 => {
                let (data, (database, tablespace)) = (le_u32, le_u32).parse(data)?;
                let create = DatabaseRecord::CreateWalLog {
                    database,
                    tablespace,
                };
                Ok((data, Some(create)))
            }
            _ => Ok((data, None)),
        }
    }
}

impl fmt::Display for DatabaseRecord<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DatabaseRecord::CreateFileCopy {
                database,
                tablespace,
                source_database,
                source_tablespace,
            } => write!(
                f,
                "CREATE_FILE_COPY copy dir {source_tablespace}/{source_database} to {tablespace}/{database}"
            ),
            DatabaseRecord::CreateWalLog {
                database,
                tablespace,
            } => write!(f, "CREATE_WAL_LOG create dir {tablespace}/{database}"),
            DatabaseRecord::Drop {
                database,
                tablespaces,
            } => {
                f.write_str("DROP dir")?;
                tablespaces.write(f, |f, tablespace| write!(f, "{tablespace}/{database}"))
            }
        }
    }
}
