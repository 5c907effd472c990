//! Tables and the like that something happened to.

use std::fmt;

use crate::wal::record::relation_file::RelationFile;

/// Something in a database, named as far as its name is known.
///
/// Prints `database.schema.name`, or the numbers of what has no name.
#[derive(Debug, Clone, PartialEq)]
pub struct FoundObject {
    /// What it is.
    pub kind: ObjectKind,
    /// OID of its database.
    pub database: u32,
    /// Name of its database.
    pub database_name: Option<String>,
    /// Its schema.
    pub schema: Option<String>,
    /// Its name.
    pub name: Option<String>,
    /// Its OID.
    pub oid: Option<u32>,
    /// Where it lay.
    pub file: Option<RelationFile>,
    /// Rows in it as the server last estimated them.
    pub estimated_rows: Option<u64>,
    /// How sure the name is.
    pub sureness: Sureness,
}

/// How sure a name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sureness {
    /// It is not known: only numbers are.
    Numbers,
    /// The log shows it, but not what went before: it may have changed since.
    Log,
    /// Followed through the log from the catalogs of a base backup.
    Backup,
}

impl Sureness {
    /// A word for programs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Sureness::Numbers => "unknown",
            Sureness::Log => "likely",
            Sureness::Backup => "certain",
        }
    }
}

/// What an object is.
///
/// Source: `RELKIND_…`, src/include/catalog/pg_class.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// A database.
    Database,
    /// A schema.
    Schema,
    /// A table.
    Table,
    /// A table of partitions, which has no rows of its own.
    PartitionedTable,
    /// A materialized view.
    MaterializedView,
    /// A foreign table.
    ForeignTable,
    /// A view.
    View,
    /// A composite type.
    Type,
    /// A sequence.
    Sequence,
    /// An index.
    Index,
    /// Where long values of a table lie.
    Toast,
    /// Files of which nothing else is known.
    Unknown,
}

impl ObjectKind {
    pub(crate) const fn of(kind: u8) -> Self {
        match kind {
            b'r' => ObjectKind::Table,
            b'p' => ObjectKind::PartitionedTable,
            b'm' => ObjectKind::MaterializedView,
            b'f' => ObjectKind::ForeignTable,
            b'v' => ObjectKind::View,
            b'c' => ObjectKind::Type,
            b'S' => ObjectKind::Sequence,
            b'i' | b'I' => ObjectKind::Index,
            b't' => ObjectKind::Toast,
            _ => ObjectKind::Unknown,
        }
    }

    /// What SQL calls it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            ObjectKind::Database => "database",
            ObjectKind::Schema => "schema",
            ObjectKind::Table => "table",
            ObjectKind::PartitionedTable => "partitioned table",
            ObjectKind::MaterializedView => "materialized view",
            ObjectKind::ForeignTable => "foreign table",
            ObjectKind::View => "view",
            ObjectKind::Type => "type",
            ObjectKind::Sequence => "sequence",
            ObjectKind::Index => "index",
            ObjectKind::Toast => "toast table",
            ObjectKind::Unknown => "relation",
        }
    }
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for FoundObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.database_name, self.kind) {
            (Some(name), ObjectKind::Database) => return f.write_str(name),
            (None, ObjectKind::Database) => return write!(f, "with OID {}", self.database),
            (Some(name), _) => write!(f, "{name}.")?,
            (None, _) => write!(f, "(database {}).", self.database)?,
        }
        match (&self.schema, self.kind) {
            (_, ObjectKind::Schema) => {}
            (Some(schema), _) => write!(f, "{schema}.")?,
            (None, _) if self.name.is_some() => f.write_str("(unknown schema).")?,
            (None, _) => {}
        }
        match (&self.name, self.oid, &self.file) {
            (Some(name), ..) => f.write_str(name),
            (None, Some(oid), _) => write!(f, "(OID {oid})"),
            (None, None, Some(file)) => write!(f, "(file {})", file.relation),
            (None, None, None) => f.write_str("(unknown)"),
        }
    }
}

impl FoundObject {
    /// Whether `wanted` names it: `name`, `schema.name` or `database.schema.name`.
    #[must_use]
    pub fn is_called(&self, wanted: &str) -> bool {
        let Some(name) = &self.name else { return false };
        let mut parts = vec![name.as_str()];
        let matches = |parts: &[&str]| {
            let mut text = String::new();
            for part in parts.iter().rev() {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(part);
            }
            text == wanted
        };
        if matches(&parts) {
            return true;
        }
        for outer in [&self.schema, &self.database_name] {
            let Some(outer) = outer else { return false };
            parts.push(outer);
            if matches(&parts) {
                return true;
            }
        }
        false
    }
}
