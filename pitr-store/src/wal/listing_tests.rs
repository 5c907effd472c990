//! What questions about a long archive cost, in requests to the store.

use std::io::Read;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pitr_core::TimelineId;
use tempfile::TempDir;

use super::*;
use crate::local::LocalStore;
use crate::made_wal::made_cluster;
use crate::store::{Entry, Hold, ObjectMeta, ObjectWriter};

/// Folders of log in the archive: a year of 4 GiB and more a day.
const FOLDERS: u32 = 400;

#[derive(Debug)]
struct Counting {
    inner: LocalStore,
    listings: Arc<AtomicU64>,
}

impl Store for Counting {
    fn location(&self) -> String {
        self.inner.location()
    }
    fn establish(&self) -> Result<(), StoreError> {
        self.inner.establish()
    }
    fn create(
        &self,
        key: &ObjectKey,
        rivals: &[ObjectKey],
    ) -> Result<Box<dyn ObjectWriter>, StoreError> {
        self.inner.create(key, rivals)
    }
    fn open(&self, key: &ObjectKey) -> Result<Box<dyn Read + Send>, StoreError> {
        self.inner.open(key)
    }
    fn read_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        self.inner.read_range(key, range)
    }
    fn stat(&self, key: &ObjectKey) -> Result<Option<ObjectMeta>, StoreError> {
        self.inner.stat(key)
    }
    fn list(&self, folder: Option<&ObjectKey>) -> Result<Vec<Entry>, StoreError> {
        self.listings.fetch_add(1, Ordering::Relaxed);
        self.inner.list(folder)
    }
    fn make_durable(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.inner.make_durable(key)
    }
    fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.inner.delete(key)
    }
    fn delete_folder(&self, folder: &ObjectKey) -> Result<(), StoreError> {
        self.inner.delete_folder(folder)
    }
    fn hold(&self, key: &ObjectKey) -> Result<Option<Hold>, StoreError> {
        self.inner.hold(key)
    }
}

/// An archive of two segments in each of many folders; the last two folders
/// hold a `.partial` and what is no segment at all.
fn long_archive() -> (TempDir, WalArchive, Arc<AtomicU64>) {
    let dir = TempDir::new().unwrap();
    let cluster = made_cluster();
    let folder = ObjectKey::parse(&cluster.system_identifier.to_string()).unwrap();
    for log in 0..FOLDERS + 2 {
        let path = dir.path().join(
            layout::log_folder_of(&layout::wal_folder(&folder), TimelineId::FIRST, log).to_string(),
        );
        std::fs::create_dir_all(&path).unwrap();
        let names = match log.checked_sub(FOLDERS) {
            None => vec![
                format!("00000001{log:08X}00000000.zst"),
                format!("00000001{log:08X}00000FFF.zst"),
            ],
            Some(0) => vec![format!("00000001{log:08X}00000000.partial.zst")],
            Some(_) => vec!["README".to_owned()],
        };
        for name in names {
            std::fs::write(path.join(name), "").unwrap();
        }
    }
    let listings = Arc::new(AtomicU64::new(0));
    let store = Counting {
        inner: LocalStore::new(dir.path()),
        listings: Arc::clone(&listings),
    };
    let wal = WalArchive::new(Arc::new(store), &folder, cluster, Arc::from(""));
    (dir, wal, listings)
}

#[test]
fn the_end_of_a_long_archive_is_found_by_a_few_listings() {
    let (_dir, wal, listings) = long_archive();
    let last = wal.last_segment(TimelineId::FIRST).unwrap().unwrap();
    assert_eq!(last.to_string(), "000000010000018F00000FFF");
    // the timeline's folder, two that hold none, and the one that it lies in
    assert_eq!(listings.load(Ordering::Relaxed), 4);
    assert_eq!(wal.last_segment(TimelineId::new(2).unwrap()).unwrap(), None);
}

#[test]
fn all_of_a_long_archive_is_listed_once() {
    let (_dir, wal, listings) = long_archive();
    let content = wal.content(TimelineId::FIRST).unwrap();
    assert_eq!(listings.load(Ordering::Relaxed), u64::from(FOLDERS) + 3);
    assert_eq!(content.files.len(), 2 * FOLDERS as usize + 1);
    // in the order of the log, whichever folder was answered first
    let names: Vec<_> = content
        .files
        .iter()
        .map(|file| file.name.segment())
        .collect();
    assert!(names.is_sorted());
}

#[test]
fn a_folder_that_cannot_be_listed_is_no_empty_one() {
    let (dir, wal, _) = long_archive();
    let folder = layout::log_folder_of(&wal.folder, TimelineId::FIRST, 77);
    let path = dir.path().join(folder.to_string());
    std::fs::remove_dir_all(&path).unwrap();
    std::fs::write(&path, "no folder").unwrap();
    // gone from the timeline's listing, and so not asked for
    assert!(wal.content(TimelineId::FIRST).is_ok());
    assert!(wal.content_of(TimelineId::FIRST, 0..FOLDERS).is_err());
}
