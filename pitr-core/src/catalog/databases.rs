//! The catalogs of all databases, as of one place in the log.

use std::collections::{HashMap, HashSet};

use crate::catalog::commit_log::{self, Outcome};
use crate::catalog::file_map::RelationMap;
use crate::catalog::row::{self, ClassRow, PG_CLASS, PG_DATABASE, PG_NAMESPACE};
use crate::catalog::row_version::RowVersion;
use crate::catalog::table::{CatalogTable, Place, Touched};
use crate::postgres_major::PostgresMajor;
use crate::wal::record::body::RecordBody;
use crate::wal::record::contents::RecordContents;
use crate::wal::record::relation_file::RelationFile;
use crate::wal::rmgr::database::DatabaseRecord;
use crate::wal::rmgr::relmap::RelmapUpdate;

/// OID of the tablespace of what all databases share.
///
/// Source: `GLOBALTABLESPACE_OID`, src/include/catalog/pg_tablespace.dat.
const SHARED_TABLESPACE: u32 = 1664;

/// Where the catalogs are read from as they were when the log begins: the
/// files of a base backup.
///
/// `None` is what is not there or cannot be read; whatever is asked for is
/// asked for once.
pub trait CatalogFiles {
    /// `pg_filenode.map` of a database, or of the shared catalogs (0).
    fn map(&mut self, database: u32) -> Option<Vec<u8>>;
    /// Main fork of a catalog of a database, or of a shared one (0).
    fn table(&mut self, database: u32, file: u32) -> Option<Vec<u8>>;
    /// A file of `pg_xact`, by its number.
    fn commit_log(&mut self, number: u32) -> Option<Vec<u8>>;
}

/// No backup: only what the log itself shows is known.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoCatalogFiles;

impl CatalogFiles for NoCatalogFiles {
    fn map(&mut self, _database: u32) -> Option<Vec<u8>> {
        None
    }

    fn table(&mut self, _database: u32, _file: u32) -> Option<Vec<u8>> {
        None
    }

    fn commit_log(&mut self, _number: u32) -> Option<Vec<u8>> {
        None
    }
}

/// Which of the catalogs that give names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Which {
    Class,
    Namespace,
    Database,
}

/// A catalog in its file.
#[derive(Debug, Clone, Default)]
struct Catalog {
    file: u32,
    table: CatalogTable,
}

/// The catalogs of one database.
#[derive(Debug, Clone, Default)]
struct Database {
    class: Catalog,
    namespace: Catalog,
    /// Whether they were whole when the log began.
    is_whole: bool,
}

/// A transaction and its subtransactions.
#[derive(Debug, Clone, Default)]
pub(crate) struct Own(HashSet<u32>);

impl Own {
    pub(crate) fn of(xids: impl IntoIterator<Item = u32>) -> Self {
        Self(xids.into_iter().collect())
    }

    pub(crate) fn contains(&self, xid: u32) -> bool {
        self.0.contains(&xid)
    }
}

/// The catalogs of all databases, replayed from a base backup on.
pub(crate) struct Databases<'f> {
    files: Box<dyn CatalogFiles + 'f>,
    major: PostgresMajor,
    databases: HashMap<u32, Database>,
    shared: Option<Database>,
    /// Pages of files that no catalog lies in yet, or any more.
    unmapped: HashMap<RelationFile, CatalogTable>,
    /// Files that mapped catalogs lie in or have lain in, by database.
    mapped: HashSet<(u32, u32)>,
    ended: HashMap<u32, Outcome>,
    commit_log: HashMap<u32, Option<Vec<u8>>>,
}

impl<'f> Databases<'f> {
    pub(crate) fn new(files: Box<dyn CatalogFiles + 'f>, major: PostgresMajor) -> Self {
        Self {
            files,
            major,
            databases: HashMap::new(),
            shared: None,
            unmapped: HashMap::new(),
            mapped: HashSet::new(),
            ended: HashMap::new(),
            commit_log: HashMap::new(),
        }
    }

    pub(crate) fn major(&self) -> PostgresMajor {
        self.major
    }

    /// Notes what became of a transaction that has touched catalogs.
    pub(crate) fn end(&mut self, xid: u32, committed: bool) {
        let outcome = if committed {
            Outcome::Committed
        } else {
            Outcome::Aborted
        };
        self.ended.insert(xid, outcome);
    }

    /// Replays a record about rows or pages; gives what it touched.
    pub(crate) fn replay(
        &mut self,
        contents: &RecordContents<'_>,
        body: &RecordBody<'_>,
        xid: u32,
    ) -> Vec<(u32, Which, Touched)> {
        let mut touched = Vec::new();
        let mut seen: Vec<RelationFile> = Vec::new();
        for block in body.blocks() {
            let file = block.relation;
            if seen.contains(&file) {
                continue;
            }
            seen.push(file);
            let Some((database, which)) = self.which(file) else {
                self.unmapped
                    .entry(file)
                    .or_default()
                    .take_images(body, file);
                continue;
            };
            let Some(catalog) = self.catalog_mut(database, which) else {
                continue;
            };
            let table = &mut catalog.table;
            table.take_images(body, file);
            let changes = match contents {
                RecordContents::Heap(record) => table.replay(record, body, xid),
                RecordContents::Heap2(record) => table.replay_many(record, body, xid),
                _ => Vec::new(),
            };
            touched.extend(changes.into_iter().map(|touch| (database, which, touch)));
        }
        touched
    }

    /// Whether a mapped catalog lies in this file, or has lain in it.
    pub(crate) fn is_mapped(&self, file: RelationFile) -> bool {
        self.mapped.contains(&(file.database, file.relation))
    }

    /// Catalogs move to other files, whose pages came before.
    pub(crate) fn remap(&mut self, update: &RelmapUpdate<'_>) {
        let files = update.mappings.iter().map(|mapping| mapping.file);
        self.mapped
            .extend(files.map(|file| (update.database, file)));
        let file_of = |oid| {
            let mapping = update.mappings.iter().find(|mapping| mapping.oid == oid);
            mapping.map(|mapping| mapping.file)
        };
        if update.database == 0 {
            if let Some(file) = file_of(PG_DATABASE) {
                self.shared();
                self.relocate(0, Which::Database, SHARED_TABLESPACE, file);
            }
        } else if let Some(file) = file_of(PG_CLASS) {
            self.database(update.database);
            self.relocate(update.database, Which::Class, update.tablespace, file);
        }
    }

    /// A catalog lies in another file from now on.
    pub(crate) fn relocate(&mut self, database: u32, which: Which, tablespace: u32, file: u32) {
        let place = RelationFile {
            tablespace,
            database,
            relation: file,
        };
        let pages = self.unmapped.remove(&place);
        if let Some(catalog) = self.catalog_mut(database, which)
            && catalog.file != file
        {
            catalog.file = file;
            // without its pages the rows are those that it had before
            if let Some(pages) = pages {
                catalog.table = pages;
            }
        }
    }

    /// A database is made; one copied file by file has the rows of the other.
    pub(crate) fn create(&mut self, record: &DatabaseRecord<'_>) {
        match record {
            DatabaseRecord::CreateFileCopy {
                database,
                source_database,
                ..
            } => {
                let copy = self.database(*source_database).clone();
                self.databases.insert(*database, copy);
            }
            DatabaseRecord::CreateWalLog { database, .. } => {
                let new = Database {
                    class: Catalog {
                        file: PG_CLASS,
                        ..Catalog::default()
                    },
                    namespace: Catalog {
                        file: PG_NAMESPACE,
                        ..Catalog::default()
                    },
                    is_whole: true,
                };
                self.databases.insert(*database, new);
            }
            DatabaseRecord::Drop { .. } => {}
        }
    }

    /// The catalog that lies in `file`.
    fn which(&mut self, file: RelationFile) -> Option<(u32, Which)> {
        if file.tablespace == SHARED_TABLESPACE {
            let shared = self.shared();
            return (shared.class.file == file.relation).then_some((0, Which::Database));
        }
        let database = self.database(file.database);
        if database.class.file == file.relation {
            return Some((file.database, Which::Class));
        }
        (database.namespace.file == file.relation).then_some((file.database, Which::Namespace))
    }

    fn catalog_mut(&mut self, database: u32, which: Which) -> Option<&mut Catalog> {
        match which {
            Which::Database => self.shared.as_mut().map(|shared| &mut shared.class),
            Which::Class => self.databases.get_mut(&database).map(|own| &mut own.class),
            Which::Namespace => {
                let own = self.databases.get_mut(&database);
                own.map(|own| &mut own.namespace)
            }
        }
    }

    fn catalog(&self, database: u32, which: Which) -> Option<&Catalog> {
        match which {
            Which::Database => self.shared.as_ref().map(|shared| &shared.class),
            Which::Class => self.databases.get(&database).map(|own| &own.class),
            Which::Namespace => self.databases.get(&database).map(|own| &own.namespace),
        }
    }

    /// `pg_database`, read when it is first asked for.
    fn shared(&mut self) -> &Database {
        if self.shared.is_none() {
            self.shared = Some(self.load(0, PG_DATABASE));
        }
        self.shared.get_or_insert_default()
    }

    /// The catalogs of a database, read when they are first asked for.
    fn database(&mut self, oid: u32) -> &Database {
        if !self.databases.contains_key(&oid) {
            let mut loaded = self.load(oid, PG_CLASS);
            let namespace = loaded.class.table.rows().find_map(|(_, version)| {
                let row = ClassRow::parse(version.columns(), self.major)?;
                (row.oid == PG_NAMESPACE && row.file != 0).then_some(row.file)
            });
            let file = namespace.unwrap_or(PG_NAMESPACE);
            let table = self.files.table(oid, file).unwrap_or_default();
            loaded.namespace = Catalog {
                file,
                table: CatalogTable::of_file(&table),
            };
            self.databases.insert(oid, loaded);
        }
        self.databases.entry(oid).or_default()
    }

    fn load(&mut self, database: u32, catalog: u32) -> Database {
        let map = self.files.map(database);
        let map = map.and_then(|map| RelationMap::parse(&map).ok());
        let files = map.iter().flat_map(RelationMap::files);
        self.mapped.extend(files.map(|file| (database, file)));
        let file = map.and_then(|map| map.file_of(catalog)).unwrap_or(catalog);
        let bytes = self.files.table(database, file);
        Database {
            is_whole: bytes.is_some(),
            class: Catalog {
                file,
                table: CatalogTable::of_file(&bytes.unwrap_or_default()),
            },
            namespace: Catalog::default(),
        }
    }

    /// Whether names of a database go back to its catalogs as a whole.
    pub(crate) fn is_whole(&mut self, database: u32) -> bool {
        if database == 0 {
            self.shared().is_whole
        } else {
            self.database(database).is_whole
        }
    }

    /// What became of a transaction, as far as the log was read; `None` where
    /// nothing tells.
    fn outcome(&mut self, xid: u32) -> Option<Outcome> {
        if let Some(outcome) = self.ended.get(&xid) {
            return Some(*outcome);
        }
        let number = commit_log::file_of(xid);
        let file = self
            .commit_log
            .entry(number)
            .or_insert_with(|| self.files.commit_log(number));
        file.as_deref()
            .and_then(|file| commit_log::outcome(file, xid))
    }

    /// Whether everybody saw this version before the end of `own`.
    fn was_seen_before(&mut self, version: &RowVersion, own: &Own) -> bool {
        let made = match version.made_by {
            None => true,
            Some(xid) if own.contains(xid) => false,
            // where nothing tells, it is more likely to count than not
            Some(xid) => matches!(self.outcome(xid), None | Some(Outcome::Committed)),
        };
        let deleted = match version.deleted_by {
            None => false,
            Some(xid) if own.contains(xid) => false,
            Some(xid) => self.outcome(xid) == Some(Outcome::Committed),
        };
        made && !deleted
    }

    /// The version at a place, where it counted before the end of `own`.
    pub(crate) fn version_before(
        &mut self,
        database: u32,
        which: Which,
        place: Place,
        own: &Own,
    ) -> Option<RowVersion> {
        let version = self.catalog(database, which)?.table.get(place)?.clone();
        self.was_seen_before(&version, own).then_some(version)
    }

    /// The version at a place, where `own` made it and did not take it away again.
    pub(crate) fn version_after(
        &self,
        database: u32,
        which: Which,
        place: Place,
        own: &Own,
    ) -> Option<&RowVersion> {
        let version = self.catalog(database, which)?.table.get(place)?;
        let made = version.made_by.is_some_and(|xid| own.contains(xid));
        let deleted = version.deleted_by.is_some_and(|xid| own.contains(xid));
        (made && !deleted).then_some(version)
    }

    /// Whatever lies at a place.
    pub(crate) fn version(&self, database: u32, which: Which, place: Place) -> Option<&RowVersion> {
        self.catalog(database, which)?.table.get(place)
    }

    /// The versions that `wanted` takes, as they were before the end of `own`;
    /// else as `own` made them.
    fn find(
        &mut self,
        database: u32,
        which: Which,
        own: &Own,
        wanted: impl Fn(&[u8]) -> bool,
    ) -> Option<RowVersion> {
        let rows: Vec<RowVersion> = self
            .catalog(database, which)?
            .table
            .rows()
            .filter(|(_, version)| wanted(version.columns()))
            .map(|(_, version)| version.clone())
            .collect();
        let before = rows
            .iter()
            .find(|version| self.was_seen_before(version, own));
        let made = |version: &&RowVersion| version.made_by.is_some_and(|xid| own.contains(xid));
        before.or_else(|| rows.iter().rfind(made)).cloned()
    }

    /// Name of a database.
    pub(crate) fn database_name(&mut self, oid: u32, own: &Own) -> Option<String> {
        self.shared();
        let version = self.find(0, Which::Database, own, |columns| {
            row::oid_of(columns) == Some(oid)
        })?;
        row::name_of(version.columns())
    }

    /// Name of a schema.
    pub(crate) fn schema_name(&mut self, database: u32, oid: u32, own: &Own) -> Option<String> {
        self.database(database);
        let version = self.find(database, Which::Namespace, own, |columns| {
            row::oid_of(columns) == Some(oid)
        })?;
        row::name_of(version.columns())
    }

    /// The relation that lies in a file.
    pub(crate) fn relation_of(&mut self, file: RelationFile, own: &Own) -> Option<ClassRow> {
        if file.database == 0 {
            return None;
        }
        self.database(file.database);
        let version = self.find(file.database, Which::Class, own, |columns| {
            ClassRow::file_of(columns) == Some(file.relation)
        })?;
        ClassRow::parse(version.columns(), self.major)
    }
}

impl std::fmt::Debug for Databases<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Databases")
            .field("databases", &self.databases.keys())
            .finish_non_exhaustive()
    }
}
