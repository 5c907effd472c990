//! Rows of the catalogs that give names.

use crate::catalog::heap_page::u32_at;
use crate::postgres_major::PostgresMajor;

/// Bytes of a name.
///
/// Source: `NAMEDATALEN`, src/include/pg_config_manual.h.
const NAME_BYTES: usize = 64;

/// OID of `pg_class`.
pub(crate) const PG_CLASS: u32 = 1259;
/// OID of `pg_database`.
pub(crate) const PG_DATABASE: u32 = 1262;
/// OID of `pg_namespace`.
pub(crate) const PG_NAMESPACE: u32 = 2615;

/// The catalogs that give names, which are also the numbers of their files
/// until they are rewritten (`VACUUM FULL`).
pub const NAMING_CATALOGS: [u32; 3] = [PG_CLASS, PG_DATABASE, PG_NAMESPACE];

/// A row of `pg_class`.
///
/// Source: `FormData_pg_class`, src/include/catalog/pg_class.h.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ClassRow {
    pub(crate) oid: u32,
    pub(crate) name: String,
    pub(crate) namespace: u32,
    /// Number of its file; 0 without storage, and for mapped catalogs.
    pub(crate) file: u32,
    /// 0 for the database's own.
    pub(crate) tablespace: u32,
    /// Rows as the last `ANALYZE` estimated them; negative where none did.
    pub(crate) rows: f32,
    /// `p` permanent, `u` unlogged, `t` temporary.
    pub(crate) persistence: u8,
    /// `r` table, `i` index and so on.
    pub(crate) kind: u8,
}

impl ClassRow {
    /// Reads the columns of a row, as a server of `major` lays them out.
    pub(crate) fn parse(columns: &[u8], major: PostgresMajor) -> Option<Self> {
        // 18 put relallfrozen before what follows
        let shifted = if major.get() < 18 { 0 } else { 4 };
        Some(Self {
            oid: u32_at(columns, 0)?,
            name: name_at(columns, 4)?,
            namespace: u32_at(columns, 68)?,
            file: u32_at(columns, 88)?,
            tablespace: u32_at(columns, 92)?,
            rows: f32::from_bits(u32_at(columns, 100)?),
            persistence: *columns.get(114 + shifted)?,
            kind: *columns.get(115 + shifted)?,
        })
    }

    /// The columns by which a row is looked for, without the rest.
    pub(crate) fn file_of(columns: &[u8]) -> Option<u32> {
        u32_at(columns, 88)
    }
}

/// OID and name: how rows of `pg_class`, `pg_namespace` and `pg_database` begin.
pub(crate) fn oid_of(columns: &[u8]) -> Option<u32> {
    u32_at(columns, 0)
}

/// The name in a row of `pg_namespace` or `pg_database`.
pub(crate) fn name_of(columns: &[u8]) -> Option<String> {
    name_at(columns, 4)
}

/// Whether a row of `pg_database` says that the database is being dropped:
/// `datconnlimit` is -2.
///
/// Source: `DATCONNLIMIT_INVALID_DB`, src/include/catalog/pg_database.h.
pub(crate) fn is_being_dropped(columns: &[u8], major: PostgresMajor) -> bool {
    // 15 moved the locale's names behind the columns of fixed length
    let at = if major.get() < 15 { 208 } else { 80 };
    u32_at(columns, at) == Some((-2i32).cast_unsigned())
}

fn name_at(columns: &[u8], at: usize) -> Option<String> {
    let bytes = columns.get(at..at.checked_add(NAME_BYTES)?)?;
    let end = bytes.iter().position(|byte| *byte == 0)?;
    let name = bytes.get(..end)?;
    Some(String::from_utf8_lossy(name).into_owned())
}
