//! What is rescued: tables, schemas or a database, by name.

use pitr_console::{Explain, Failure};
use pitr_core::Finding;
use pitr_postgres::{Connection, Row};

use super::sql::{identifier, literal};

/// A table as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TableName {
    pub(crate) database: Option<String>,
    pub(crate) schema: Option<String>,
    pub(crate) name: String,
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Selection {
    Tables(Vec<TableName>),
    Schemas(Vec<String>),
    /// Everything in the database.
    Database,
}

/// A table of the scratch copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) schema: String,
    pub(crate) name: String,
    /// Whether its rows lie in partitions, which are listed as well.
    pub(crate) is_partitioned: bool,
    /// Whether it is a materialized view, which is refreshed where it goes.
    pub(crate) is_materialized: bool,
}

/// What is asked for cannot be found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SelectionError {
    /// More dots than a name has.
    #[error("\"{found}\" is no name of a table")]
    Name {
        /// What was given.
        found: String,
    },
    /// Nobody says which database.
    #[error("it is not known in which database to look{}", if databases.is_empty() { String::new() } else { format!(": {}", databases.join(" or ")) })]
    Database {
        /// Those that come into question.
        databases: Vec<String>,
    },
    /// Two databases at once.
    #[error("tables of {} cannot be rescued at once", databases.join(" and "))]
    Databases {
        /// The databases.
        databases: Vec<String>,
    },
    /// No such table.
    #[error("database \"{database}\" had no {what} then")]
    Absent {
        /// What was looked for.
        what: String,
        /// Where.
        database: String,
    },
    /// Several tables have the name.
    #[error("several tables are called \"{name}\": {}", found.join(", "))]
    Ambiguous {
        /// The name.
        name: String,
        /// What it could mean.
        found: Vec<String>,
    },
}

impl Explain for SelectionError {
    fn hint(&self) -> Option<String> {
        Some(
            match self {
                Self::Name { .. } => "Give it as name, schema.name or database.schema.name.",
                Self::Database { .. } => "Name it with --database.",
                Self::Databases { .. } => "Rescue those of one database after the other.",
                Self::Absent { .. } => "\"pitr-restore find\" lists names as they were.",
                Self::Ambiguous { .. } => "Give the schema with the name.",
            }
            .to_owned(),
        )
    }
}

impl TableName {
    /// `name`, `schema.name` or `database.schema.name`.
    pub(crate) fn parse(text: &str) -> Result<Self, SelectionError> {
        let parts: Vec<&str> = text.split('.').collect();
        let owned = |part: &&str| (*part).to_owned();
        let (database, schema, name) = match parts.as_slice() {
            [name] => (None, None, name),
            [schema, name] => (None, Some(schema), name),
            [database, schema, name] => (Some(database), Some(schema), name),
            _ => {
                return Err(SelectionError::Name {
                    found: text.to_owned(),
                });
            }
        };
        if parts.iter().any(|part| part.is_empty()) {
            return Err(SelectionError::Name {
                found: text.to_owned(),
            });
        }
        Ok(Self {
            database: database.map(owned),
            schema: schema.map(owned),
            name: owned(name),
        })
    }

    fn as_written(&self) -> String {
        match &self.schema {
            Some(schema) => format!("{schema}.{}", self.name),
            None => self.name.clone(),
        }
    }
}

/// The database to look in: the one named, else that of the finding.
pub(crate) fn database(
    named: Option<&str>,
    selection: &Selection,
    findings: &[Finding],
) -> Result<String, SelectionError> {
    let mut databases: Vec<String> = named.map(str::to_owned).into_iter().collect();
    let tables: &[TableName] = match selection {
        Selection::Tables(tables) => tables,
        _ => &[],
    };
    databases.extend(tables.iter().filter_map(|table| table.database.clone()));
    let objects = || findings.iter().flat_map(|finding| finding.event.objects());
    if databases.is_empty() {
        let called = |name: &str| {
            objects()
                .filter(|object| object.is_called(name))
                .filter_map(|object| object.database_name.clone())
                .collect::<Vec<_>>()
        };
        databases = tables
            .iter()
            .flat_map(|table| called(&table.as_written()))
            .collect();
    }
    if databases.is_empty() {
        databases = objects()
            .filter_map(|object| object.database_name.clone())
            .collect();
    }
    databases.sort();
    databases.dedup();
    match databases.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(SelectionError::Database { databases }),
        _ if named.is_some() || tables.iter().any(|table| table.database.is_some()) => {
            Err(SelectionError::Databases { databases })
        }
        _ => Err(SelectionError::Database { databases }),
    }
}

impl Selection {
    /// Tables by whose names nothing is called that the findings are about.
    pub(crate) fn not_among(&self, findings: &[Finding]) -> Vec<String> {
        let Self::Tables(names) = self else {
            return Vec::new();
        };
        let written = names.iter().map(TableName::as_written);
        let is_among = |name: &String| {
            let mut objects = findings.iter().flat_map(|finding| finding.event.objects());
            objects.any(|object| object.is_called(name))
        };
        written.filter(|name| !is_among(name)).collect()
    }

    /// The tables that it means in the scratch copy, partitions after their parents.
    pub(crate) fn tables(
        &self,
        connection: &mut Connection,
        database: &str,
    ) -> Result<Vec<Table>, Failure> {
        match self {
            Self::Tables(names) => {
                let mut tables = Vec::new();
                for name in names {
                    tables.extend(named_table(connection, name, database)?);
                }
                Ok(tables)
            }
            Self::Schemas(schemas) => {
                for schema in schemas {
                    let sql = format!(
                        "SELECT 1 FROM pg_namespace WHERE nspname = {}",
                        literal(schema)
                    );
                    if query(connection, &sql)?.is_empty() {
                        return Err(SelectionError::Absent {
                            what: format!("schema \"{schema}\""),
                            database: database.to_owned(),
                        }
                        .into());
                    }
                }
                let list: Vec<String> = schemas.iter().map(|schema| literal(schema)).collect();
                all_tables(connection, &format!("n.nspname IN ({})", list.join(", ")))
            }
            Self::Database => all_tables(connection, "true"),
        }
    }

    /// What pg_dump is told.
    pub(crate) fn dump_arguments(&self, tables: &[Table]) -> Vec<String> {
        match self {
            Self::Tables(_) => tables
                .iter()
                .map(|table| {
                    let (schema, name) = (identifier(&table.schema), identifier(&table.name));
                    format!("--table={schema}.{name}")
                })
                .collect(),
            Self::Schemas(schemas) => schemas
                .iter()
                .map(|schema| format!("--schema={}", identifier(schema)))
                .collect(),
            Self::Database => Vec::new(),
        }
    }
}

fn query(connection: &mut Connection, sql: &str) -> Result<Vec<Row>, Failure> {
    let rows = connection.query(sql);
    rows.map_err(|error| Failure::from_error(&error))
}

/// One table by its name, with its partitions.
fn named_table(
    connection: &mut Connection,
    name: &TableName,
    database: &str,
) -> Result<Vec<Table>, Failure> {
    let in_schema = name.schema.as_ref().map_or_else(
        || "n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'".to_owned(),
        |schema| format!("n.nspname = {}", literal(schema)),
    );
    let found = query(
        connection,
        &format!(
            "SELECT c.oid, n.nspname, c.relname, c.relkind FROM pg_class c \
             JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.relname = {} AND c.relkind IN ('r', 'p', 'm') AND {in_schema} ORDER BY 2",
            literal(&name.name)
        ),
    )?;
    let field = |row: &Row, position: usize| row.get(position).unwrap_or_default().to_owned();
    let row = match found.as_slice() {
        [row] => row,
        [] => {
            return Err(SelectionError::Absent {
                what: format!("table \"{}\"", name.as_written()),
                database: database.to_owned(),
            }
            .into());
        }
        several => {
            let found = several
                .iter()
                .map(|row| format!("{}.{}", field(row, 1), field(row, 2)))
                .collect();
            return Err(SelectionError::Ambiguous {
                name: name.name.clone(),
                found,
            }
            .into());
        }
    };
    // pg_dump takes partitions along by itself from 16 on only
    let family = query(
        connection,
        &format!(
            "WITH RECURSIVE family AS (SELECT {oid}::oid AS oid, 0 AS depth UNION ALL \
             SELECT i.inhrelid, depth + 1 FROM pg_inherits i JOIN family f ON i.inhparent = f.oid \
             JOIN pg_class p ON p.oid = f.oid AND p.relkind = 'p') \
             SELECT n.nspname, c.relname, c.relkind FROM family f JOIN pg_class c ON c.oid = f.oid \
             JOIN pg_namespace n ON n.oid = c.relnamespace ORDER BY depth, 1, 2",
            oid = field(row, 0)
        ),
    )?;
    Ok(family.iter().map(table).collect())
}

fn table(row: &Row) -> Table {
    let field = |position: usize| row.get(position).unwrap_or_default().to_owned();
    Table {
        schema: field(0),
        name: field(1),
        is_partitioned: field(2) == "p",
        is_materialized: field(2) == "m",
    }
}

fn all_tables(connection: &mut Connection, condition: &str) -> Result<Vec<Table>, Failure> {
    let rows = query(
        connection,
        &format!(
            "SELECT n.nspname, c.relname, c.relkind FROM pg_class c \
             JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.relkind IN ('r', 'p', 'm') AND n.nspname !~ '^pg_' \
             AND n.nspname <> 'information_schema' AND {condition} ORDER BY 1, 2"
        ),
    )?;
    Ok(rows.iter().map(table).collect())
}

/// Rows of a table of the scratch copy; those of partitions are theirs.
pub(crate) fn count(connection: &mut Connection, table: &Table) -> Result<u64, Failure> {
    let (schema, name) = (identifier(&table.schema), identifier(&table.name));
    let rows = query(
        connection,
        &format!("SELECT count(*) FROM ONLY {schema}.{name}"),
    )?;
    let count = rows.first().and_then(|row| row.get(0)?.parse().ok());
    count.ok_or_else(|| Failure::new(format!("the rows of {schema}.{name} could not be counted")))
}

/// Other names for what is rescued, given in the scratch copy itself: what is
/// dumped then has them everywhere.
pub(crate) fn rename(
    connection: &mut Connection,
    selection: &Selection,
    tables: &mut [Table],
    name: Option<&str>,
    schema: Option<&str>,
) -> Result<Selection, Failure> {
    let mut renamed = selection.clone();
    if let (Some(new), Some(root)) = (name, tables.first().cloned()) {
        // the partitions follow: their names are taken too where the original still is
        for table in tables.iter_mut() {
            let to = if *table == root {
                new.to_owned()
            } else {
                let to = after(&root.name, new, &table.name);
                free(connection, &table.schema, &to)?
            };
            rename_table(connection, table, &to)?;
        }
    }
    if let Some(new) = schema {
        match &mut renamed {
            Selection::Schemas(schemas) => {
                for old in schemas.iter_mut() {
                    let (from, to) = (identifier(old), identifier(new));
                    query(connection, &format!("ALTER SCHEMA {from} RENAME TO {to}"))?;
                    new.clone_into(old);
                }
            }
            Selection::Tables(_) | Selection::Database => {
                let to = identifier(new);
                query(connection, &format!("CREATE SCHEMA IF NOT EXISTS {to}"))?;
                for table in tables.iter() {
                    let old = format!("{}.{}", identifier(&table.schema), identifier(&table.name));
                    for (schema, name) in statistics_of(connection, &old)? {
                        let old = format!("{}.{}", identifier(&schema), identifier(&name));
                        query(
                            connection,
                            &format!("ALTER STATISTICS {old} SET SCHEMA {to}"),
                        )?;
                    }
                    query(connection, &format!("ALTER TABLE {old} SET SCHEMA {to}"))?;
                }
            }
        }
        for table in tables.iter_mut() {
            new.clone_into(&mut table.schema);
        }
    }
    Ok(renamed)
}

/// Gives a table another name, and everything beside it whose name is taken
/// where the original still is: indexes, sequences, statistics.
fn rename_table(connection: &mut Connection, table: &mut Table, to: &str) -> Result<(), Failure> {
    let old = format!("{}.{}", identifier(&table.schema), identifier(&table.name));
    let others = query(
        connection,
        &format!(
            "SELECT c.relkind, n.nspname, c.relname FROM pg_class c \
             JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid IN \
             (SELECT indexrelid FROM pg_index WHERE indrelid = {old}::regclass UNION ALL \
              SELECT objid FROM pg_depend WHERE classid = 'pg_class'::regclass \
              AND refclassid = 'pg_class'::regclass AND refobjid = {old}::regclass \
              AND deptype IN ('a', 'i')) AND c.relkind IN ('i', 'I', 'S') ORDER BY 2, 3",
            old = literal(&old)
        ),
    )?;
    let statistics = statistics_of(connection, &old)?;
    query(
        connection,
        &format!("ALTER TABLE {old} RENAME TO {}", identifier(to)),
    )?;
    let field = |row: &Row, position: usize| row.get(position).unwrap_or_default().to_owned();
    let others = others.iter().map(|row| {
        let kind = if field(row, 0) == "S" {
            "SEQUENCE"
        } else {
            "INDEX"
        };
        (kind, field(row, 1), field(row, 2))
    });
    let statistics = statistics.into_iter();
    let statistics = statistics.map(|(schema, name)| ("STATISTICS", schema, name));
    for (kind, schema, name) in others.chain(statistics).collect::<Vec<_>>() {
        let other = format!("{}.{}", identifier(&schema), identifier(&name));
        let new = free(connection, &schema, &after(&table.name, to, &name))?;
        query(
            connection,
            &format!("ALTER {kind} {other} RENAME TO {}", identifier(&new)),
        )?;
    }
    to.clone_into(&mut table.name);
    Ok(())
}

/// Statistics over columns of a table, by schema and name.
fn statistics_of(
    connection: &mut Connection,
    table: &str,
) -> Result<Vec<(String, String)>, Failure> {
    let rows = query(
        connection,
        &format!(
            "SELECT n.nspname, s.stxname FROM pg_statistic_ext s \
             JOIN pg_namespace n ON n.oid = s.stxnamespace \
             WHERE s.stxrelid = {}::regclass ORDER BY 1, 2",
            literal(table)
        ),
    )?;
    let field = |row: &Row, position: usize| row.get(position).unwrap_or_default().to_owned();
    Ok(rows
        .iter()
        .map(|row| (field(row, 0), field(row, 1)))
        .collect())
}

/// What something of a table is called when the table is: `orders_pkey` of
/// `orders` becomes `orders_then_pkey`.
fn after(table: &str, new_table: &str, name: &str) -> String {
    match name.strip_prefix(table) {
        Some(rest) => format!("{new_table}{rest}"),
        None => format!("{new_table}_{name}"),
    }
}

/// `name`, or what is like it and not taken in the copy.
fn free(connection: &mut Connection, schema: &str, name: &str) -> Result<String, Failure> {
    let mut number = 1_u32;
    loop {
        let end = if number == 1 {
            String::new()
        } else {
            format!("_{number}")
        };
        let candidate = format!("{}{end}", shortened(name, 63 - end.len()));
        let taken = query(
            connection,
            &format!(
                "SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                 WHERE n.nspname = {schema} AND c.relname = {name} UNION ALL \
                 SELECT 1 FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace \
                 WHERE n.nspname = {schema} AND s.stxname = {name}",
                schema = literal(schema),
                name = literal(&candidate)
            ),
        )?;
        if taken.is_empty() {
            return Ok(candidate);
        }
        number = number.saturating_add(1);
    }
}

/// At most so many bytes: names have 63.
fn shortened(name: &str, most: usize) -> String {
    let mut end = name.len().min(most);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name.get(..end).unwrap_or(name).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_up_to_three_parts() {
        let name = TableName::parse("shop.public.orders").unwrap();
        assert_eq!(name.database.as_deref(), Some("shop"));
        assert_eq!(name.as_written(), "public.orders");
        assert_eq!(TableName::parse("orders").unwrap().schema, None);
        for wrong in ["", "a.b.c.d", "a..b", ".b"] {
            assert!(TableName::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_database_is_the_one_named_and_no_other() {
        let tables = |text: &str| Selection::Tables(vec![TableName::parse(text).unwrap()]);
        assert_eq!(database(Some("shop"), &tables("t"), &[]).unwrap(), "shop");
        assert_eq!(
            database(None, &tables("shop.public.t"), &[]).unwrap(),
            "shop"
        );
        assert!(matches!(
            database(None, &tables("t"), &[]),
            Err(SelectionError::Database { .. })
        ));
        assert!(matches!(
            database(Some("other"), &tables("shop.public.t"), &[]),
            Err(SelectionError::Databases { .. })
        ));
    }

    #[test]
    fn what_belongs_to_a_table_is_called_after_it() {
        assert_eq!(after("orders", "then", "orders_pkey"), "then_pkey");
        assert_eq!(after("orders", "then", "by_v"), "then_by_v");
    }

    #[test]
    fn a_long_name_is_cut_between_characters() {
        assert_eq!(shortened(&"é".repeat(40), 63).len(), 62);
        assert_eq!(shortened("short", 63), "short");
    }
}
