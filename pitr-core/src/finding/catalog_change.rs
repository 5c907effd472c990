//! What a transaction did to the objects that the catalogs list.

use std::collections::{BTreeMap, HashSet};

use crate::catalog::databases::{Databases, Own, Which};
use crate::catalog::row::{self, ClassRow, PG_NAMESPACE};
use crate::catalog::table::Touched;
use crate::finding::object::{FoundObject, ObjectKind, Sureness};
use crate::lsn::Lsn;
use crate::wal::record::relation_file::RelationFile;

/// Lowest OID that users' objects have.
///
/// Source: `FirstNormalObjectId`, src/include/access/transam.h.
pub(crate) const FIRST_NORMAL_OID: u32 = 16_384;
/// Schemas of the server's own: `pg_catalog`, `pg_toast`.
pub(crate) const SYSTEM_SCHEMAS: [u32; 2] = [11, 99];

/// What a transaction did to the objects that the catalogs list.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct CatalogChange {
    pub(crate) dropped: Vec<FoundObject>,
    pub(crate) truncated: Vec<FoundObject>,
    pub(crate) rewritten: Vec<FoundObject>,
    pub(crate) dropped_databases: Vec<DroppedDatabase>,
    /// Files whose fate is known by the above, or of no interest.
    pub(crate) explained: Vec<RelationFile>,
    /// `pg_namespace` of a database lies in another file.
    pub(crate) moved_namespaces: Vec<(u32, u32)>,
}

/// A database that is dropped.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DroppedDatabase {
    pub(crate) object: FoundObject,
    /// Its row in `pg_database`.
    pub(crate) place: (u32, u16),
}

/// A relation before and after.
#[derive(Debug, Default)]
struct Fate {
    before: Option<ClassRow>,
    after: Option<ClassRow>,
}

/// What `own` did, by the row versions that it made and deleted. To be asked
/// before its commit is noted.
pub(crate) fn catalog_change(
    databases: &mut Databases<'_>,
    touched: &[(u32, Which, Touched)],
    own: &Own,
) -> CatalogChange {
    let major = databases.major();
    let mut change = CatalogChange::default();
    let mut fates: BTreeMap<(u32, u32), Fate> = BTreeMap::new();
    let mut transient: Vec<(u32, String)> = Vec::new();
    for (database, which, touch) in touched {
        match (which, touch) {
            (Which::Class, Touched::Deleted(place)) => {
                let before = databases.version_before(*database, *which, *place, own);
                if let Some(row) = before.and_then(|row| ClassRow::parse(row.columns(), major)) {
                    let fate = fates.entry((*database, row.oid)).or_default();
                    fate.before.get_or_insert(row);
                }
            }
            (Which::Class, Touched::Made(place)) => {
                if let Some(made) = databases.version(*database, *which, *place)
                    && let Some(row) = ClassRow::parse(made.columns(), major)
                    && row.name.starts_with("pg_temp_")
                {
                    transient.push((*database, row.name));
                }
                let after = databases.version_after(*database, *which, *place, own);
                if let Some(row) = after.and_then(|row| ClassRow::parse(row.columns(), major)) {
                    let fate = fates.entry((*database, row.oid)).or_default();
                    fate.after = Some(row);
                }
            }
            (Which::Namespace, Touched::Deleted(place)) => {
                let before = databases.version_before(*database, *which, *place, own);
                let schema = before.and_then(|row| {
                    Some((row::oid_of(row.columns())?, row::name_of(row.columns())?))
                });
                if let Some((oid, name)) = schema
                    && !is_temporary(&name)
                    && !is_replaced(databases, touched, (*database, *which), oid, own)
                {
                    let object = FoundObject {
                        kind: ObjectKind::Schema,
                        database: *database,
                        database_name: databases.database_name(*database, own),
                        schema: None,
                        name: Some(name),
                        oid: Some(oid),
                        file: None,
                        estimated_rows: None,
                        sureness: sureness(databases, *database),
                    };
                    change.dropped.push(object);
                }
            }
            (Which::Database, Touched::Deleted(place)) => {
                let before = databases.version_before(0, *which, *place, own);
                let known = before.and_then(|row| {
                    Some((row::oid_of(row.columns())?, row::name_of(row.columns())?))
                });
                if let Some((oid, name)) = known
                    && !is_replaced(databases, touched, (0, *which), oid, own)
                {
                    let sure = sureness(databases, 0);
                    change.dropped_databases.push(DroppedDatabase {
                        object: FoundObject {
                            name: None,
                            ..database_object(oid, Some(name), sure)
                        },
                        place: *place,
                    });
                }
            }
            _ => {}
        }
    }
    let made: HashSet<(u32, u32, String)> = fates
        .iter()
        .filter_map(|((database, _), fate)| {
            let row = fate.after.as_ref()?;
            Some((*database, row.namespace, row.name.clone()))
        })
        .collect();
    for ((database, oid), fate) in fates {
        let Some(before) = fate.before else { continue };
        if oid == PG_NAMESPACE
            && let Some(after) = &fate.after
            && after.file != before.file
        {
            change.moved_namespaces.push((database, after.file));
        }
        let kind = ObjectKind::of(before.kind);
        let is_rewritten = transient
            .iter()
            .any(|(of, name)| *of == database && *name == format!("pg_temp_{oid}"));
        let list = match &fate.after {
            None => &mut change.dropped,
            Some(after) if after.file == before.file || before.file == 0 => continue,
            // into another tablespace, or with its rows into another file
            Some(after)
                if is_rewritten
                    || after.tablespace != before.tablespace
                    || kind == ObjectKind::Index =>
            {
                &mut change.rewritten
            }
            // a sequence that begins anew
            Some(_) if kind == ObjectKind::Sequence => {
                change.explained.push(file_of(database, &before));
                continue;
            }
            Some(_) => &mut change.truncated,
        };
        change.explained.push(file_of(database, &before));
        let is_of_the_server = oid < FIRST_NORMAL_OID
            || SYSTEM_SCHEMAS.contains(&before.namespace)
            || kind == ObjectKind::Toast;
        // an index that is built anew with a column's type has another OID
        let is_built_anew = kind == ObjectKind::Index
            && fate.after.is_none()
            && made.contains(&(database, before.namespace, before.name.clone()));
        if before.persistence != b't' && !is_of_the_server && !is_built_anew {
            list.push(relation_object(databases, database, before, own));
        }
    }
    // indexes come and go with their tables
    let has_table =
        |list: &[FoundObject]| list.iter().any(|object| object.kind != ObjectKind::Index);
    if has_table(&change.rewritten) || !change.truncated.is_empty() {
        change
            .rewritten
            .retain(|object| object.kind != ObjectKind::Index);
    }
    change
        .dropped
        .sort_by_key(|object| (object.kind, object.oid));
    change
}

/// Whether another version of the same row takes its place: it was changed, not deleted.
fn is_replaced(
    databases: &Databases<'_>,
    touched: &[(u32, Which, Touched)],
    (database, which): (u32, Which),
    oid: u32,
    own: &Own,
) -> bool {
    touched.iter().any(|(of, kind, touch)| {
        let Touched::Made(place) = touch else {
            return false;
        };
        *of == database
            && *kind == which
            && databases
                .version_after(database, which, *place, own)
                .is_some_and(|row| row::oid_of(row.columns()) == Some(oid))
    })
}

/// A relation by its row of `pg_class`.
pub(crate) fn relation_object(
    databases: &mut Databases<'_>,
    database: u32,
    row: ClassRow,
    own: &Own,
) -> FoundObject {
    let file = file_of(database, &row);
    FoundObject {
        kind: ObjectKind::of(row.kind),
        database,
        database_name: databases.database_name(database, own),
        schema: databases.schema_name(database, row.namespace, own),
        oid: Some(row.oid),
        file: (file.relation != 0).then_some(file),
        estimated_rows: estimated(row.rows),
        sureness: sureness(databases, database),
        name: Some(row.name),
    }
}

/// A database by its number.
pub(crate) fn database_object(oid: u32, name: Option<String>, sureness: Sureness) -> FoundObject {
    FoundObject {
        kind: ObjectKind::Database,
        database: oid,
        sureness: if name.is_some() {
            sureness
        } else {
            Sureness::Numbers
        },
        database_name: name,
        schema: None,
        name: None,
        oid: Some(oid),
        file: None,
        estimated_rows: None,
    }
}

/// Files without a name.
pub(crate) fn file_object(
    databases: &mut Databases<'_>,
    file: RelationFile,
    own: &Own,
) -> FoundObject {
    FoundObject {
        kind: ObjectKind::Unknown,
        database: file.database,
        database_name: databases.database_name(file.database, own),
        schema: None,
        name: None,
        oid: None,
        file: Some(file),
        estimated_rows: None,
        sureness: Sureness::Numbers,
    }
}

fn sureness(databases: &mut Databases<'_>, database: u32) -> Sureness {
    if databases.is_whole(database) {
        Sureness::Backup
    } else {
        Sureness::Log
    }
}

/// The file of a row, as far as the row tells: 0 stands for the database's own tablespace.
fn file_of(database: u32, row: &ClassRow) -> RelationFile {
    RelationFile {
        tablespace: row.tablespace,
        database,
        relation: row.file,
    }
}

fn is_temporary(schema: &str) -> bool {
    schema.starts_with("pg_temp_") || schema.starts_with("pg_toast_temp_")
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an estimate, and never below 0 here"
)]
fn estimated(rows: f32) -> Option<u64> {
    (rows >= 0.0).then_some(rows as u64)
}

/// Where a row of `pg_database` was marked as being dropped.
pub(crate) type Marks = BTreeMap<(u32, u16), Lsn>;
