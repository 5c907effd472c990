//! The catalogs of a base backup, read as single files.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::rc::Rc;

use pitr_core::{CatalogFiles, NAMING_CATALOGS, RelationMap};
use pitr_store::backup::{BackupReader, MemberPath};

/// More than any of these files has: one segment of a relation.
const MAX_FILE_BYTES: u64 = 1 << 30;
/// Where catalogs lie before anybody moved them is no news.
const MAP: &str = "pg_filenode.map";

/// The catalogs of a base backup.
#[derive(Debug, Clone)]
pub(crate) struct BackupCatalogs {
    reader: BackupReader,
    /// Folder of each database; of the shared catalogs under 0.
    folders: Rc<BTreeMap<u32, String>>,
    /// What could not be read, once each.
    troubles: Rc<RefCell<Vec<String>>>,
}

impl BackupCatalogs {
    pub(crate) fn new(reader: BackupReader) -> Self {
        let mut folders = BTreeMap::new();
        for (_, file) in reader.index().files() {
            let Some((folder, MAP)) = file.path.as_str().and_then(|path| path.rsplit_once('/'))
            else {
                continue;
            };
            let name = folder.rsplit_once('/').map_or(folder, |(_, name)| name);
            let database = if folder == "global" {
                Some(0)
            } else {
                name.parse().ok()
            };
            folders.extend(database.map(|database| (database, folder.to_owned())));
        }
        Self {
            reader,
            folders: Rc::new(folders),
            troubles: Rc::default(),
        }
    }

    /// Files that catalogs lie in which have been moved.
    pub(crate) fn moved_files(&mut self) -> HashSet<u32> {
        let databases: Vec<u32> = self.folders.keys().copied().collect();
        let mut moved = HashSet::new();
        for database in databases {
            let map = self.map(database);
            let map = map.and_then(|map| RelationMap::parse(&map).ok());
            for catalog in NAMING_CATALOGS {
                let file = map.as_ref().and_then(|map| map.file_of(catalog));
                moved.extend(file.filter(|file| *file != catalog));
            }
        }
        moved
    }

    /// What could not be read since this was last asked for.
    pub(crate) fn troubles(&self) -> Vec<String> {
        self.troubles.take()
    }

    fn read(&self, path: &str) -> Option<Vec<u8>> {
        let path: MemberPath = path.parse().ok()?;
        self.reader.index().find(&path)?;
        match self.reader.read_member(&path, MAX_FILE_BYTES) {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                self.troubles.borrow_mut().push(error.to_string());
                None
            }
        }
    }
}

impl CatalogFiles for BackupCatalogs {
    fn map(&mut self, database: u32) -> Option<Vec<u8>> {
        let folder = self.folders.get(&database)?;
        self.read(&format!("{folder}/{MAP}"))
    }

    fn table(&mut self, database: u32, file: u32) -> Option<Vec<u8>> {
        let folder = self.folders.get(&database)?;
        let mut bytes = self.read(&format!("{folder}/{file}"))?;
        // a catalog of more than 1 GiB goes on in further files
        for number in 1u32.. {
            let Some(more) = self.read(&format!("{folder}/{file}.{number}")) else {
                break;
            };
            bytes.extend_from_slice(&more);
        }
        Some(bytes)
    }

    fn commit_log(&mut self, number: u32) -> Option<Vec<u8>> {
        self.read(&format!("pg_xact/{number:04X}"))
    }
}
