//! Several parts on their way to a store that takes its time.

use std::io::{Cursor, Write};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use super::*;
use crate::{Entry, Hold, ObjectMeta, ObjectWriter, Operation, StoreError};

/// Longer than any step takes on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A local store whose parts are held up.
#[derive(Debug)]
struct SlowStore {
    inner: LocalStore,
    gate: Arc<Gate>,
}

#[derive(Debug, Default)]
struct Gate {
    plan: Plan,
    seen: Mutex<Seen>,
    changed: Condvar,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Plan {
    /// No part is acknowledged before so many ask for it at once.
    Together(usize),
    /// No byte of a part is taken before the gate opens.
    Shut,
    /// The first part cannot be published.
    FirstFails,
    #[default]
    Nothing,
}

#[derive(Debug, Default)]
struct Seen {
    /// Parts that were begun and have not ended.
    open: usize,
    most_open: usize,
    begun: usize,
    publishing: usize,
    is_open: bool,
}

impl Gate {
    fn update(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.seen.lock().unwrap());
        self.changed.notify_all();
    }

    /// Waits for `ready`; false where it does not come.
    fn wait(&self, ready: impl Fn(&Seen) -> bool) -> bool {
        let seen = self.seen.lock().unwrap();
        let wait = self
            .changed
            .wait_timeout_while(seen, PATIENCE, |seen| !ready(seen));
        !wait.unwrap().1.timed_out()
    }
}

struct SlowWriter {
    inner: Option<Box<dyn ObjectWriter>>,
    gate: Arc<Gate>,
    number: usize,
}

fn broken(what: &str) -> StoreError {
    StoreError::Io {
        operation: Operation::Write,
        location: "here".to_owned(),
        source: std::io::Error::other(what.to_owned()),
    }
}

impl Write for SlowWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.gate.plan == Plan::Shut && !self.gate.wait(|seen| seen.is_open) {
            return Err(std::io::Error::other("the gate never opened"));
        }
        self.inner.as_mut().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl ObjectWriter for SlowWriter {
    fn publish(mut self: Box<Self>) -> Result<(), StoreError> {
        self.gate.update(|seen| seen.publishing += 1);
        match self.gate.plan {
            Plan::FirstFails if self.number == 1 => return Err(broken("injected")),
            Plan::Together(parts) => {
                if !self
                    .gate
                    .wait(|seen| seen.is_open || seen.publishing >= parts)
                {
                    return Err(broken("the others never came"));
                }
                self.gate.update(|seen| seen.is_open = true);
            }
            _ => {}
        }
        self.inner.take().unwrap().publish()
    }
}

impl Drop for SlowWriter {
    fn drop(&mut self) {
        self.gate.update(|seen| seen.open -= 1);
    }
}

impl Store for SlowStore {
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
        let inner = self.inner.create(key, rivals)?;
        if !key.to_string().contains(".tar.") {
            return Ok(inner);
        }
        let mut number = 0;
        self.gate.update(|seen| {
            seen.begun += 1;
            seen.open += 1;
            seen.most_open = seen.most_open.max(seen.open);
            number = seen.begun;
        });
        Ok(Box::new(SlowWriter {
            inner: Some(inner),
            gate: Arc::clone(&self.gate),
            number,
        }))
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

fn slow(plan: Plan) -> (TempDir, BackupCatalog, Arc<Gate>) {
    let folder = TempDir::new().unwrap();
    let gate = Arc::new(Gate {
        plan,
        ..Gate::default()
    });
    let store = Arc::new(SlowStore {
        inner: LocalStore::new(folder.path()),
        gate: Arc::clone(&gate),
    });
    let key = ObjectKey::parse("7000000000000000001/backups").unwrap();
    (folder, BackupCatalog::new(store, key), gate)
}

/// An archive of so many files of 8000 bytes, each too large to share a part
/// of 9000, then what every backup needs. Counts what is taken of it.
fn archive(files: u64, taken: &Arc<AtomicU64>) -> impl Read + use<> {
    struct Counted<R>(R, Arc<AtomicU64>);
    impl<R: Read> Read for Counted<R> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let read = self.0.read(buffer)?;
            self.1.fetch_add(read as u64, Ordering::SeqCst);
            Ok(read)
        }
    }
    let mut tar = tar::Builder::new(Vec::new());
    let mut append = |name: &str, data: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_path(name).unwrap();
        header.set_mode(0o600);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(data.len() as u64);
        header.set_cksum();
        tar.append(&header, data).unwrap();
    };
    for number in 0..files {
        append(&format!("base/5/{number}"), &noise(8000, number + 1));
    }
    append("backup_label", b"label");
    append("global/pg_control", b"control");
    Counted(Cursor::new(tar.into_inner().unwrap()), Arc::clone(taken))
}

fn parts_in_flight(parts: usize) -> BackupOptions {
    BackupOptions {
        parts_in_flight: NonZeroUsize::new(parts).unwrap(),
        ..small(9000, 4000)
    }
}

#[test]
fn several_parts_are_on_their_way_at_once_and_no_more_than_asked_for() {
    for parts in [1, 4] {
        let (_folder, catalog, gate) = slow(Plan::Together(parts));
        let begun = at("2026-11-20T07:45:02Z");
        let mut writer = catalog.begin(begun, parts_in_flight(parts)).unwrap();
        let taken = Arc::default();
        writer.add_tar(Archive::Base, archive(12, &taken)).unwrap();
        let info = writer.commit(details()).unwrap();
        assert!(info.parts.len() >= 12);
        assert!(info.parts.is_sorted_by_key(|part| part.name.number()));
        assert_eq!(gate.seen.lock().unwrap().most_open, parts);
        let reader = catalog.open(info.label).unwrap().unwrap();
        for part in &info.parts {
            reader.verify_part(&part.name).unwrap();
        }
    }
}

#[test]
fn a_store_that_takes_nothing_holds_up_the_stream() {
    let (_folder, catalog, gate) = slow(Plan::Shut);
    let waiting_bytes = 30_000;
    let options = BackupOptions {
        waiting_bytes,
        ..parts_in_flight(100)
    };
    let files = 200;
    let taken: Arc<AtomicU64> = Arc::default();
    let tar = archive(files, &taken);
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            let mut writer = catalog.begin(at("2026-11-20T07:45:02Z"), options).unwrap();
            writer.add_tar(Archive::Base, tar).unwrap();
            writer.commit(details()).unwrap()
        });
        // until it stands still
        let began = Instant::now();
        let mut last = (0, Instant::now());
        while last.1.elapsed() < Duration::from_millis(700) && began.elapsed() < PATIENCE {
            let now = taken.load(Ordering::SeqCst);
            if now != last.0 || now == 0 {
                last = (now, Instant::now());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        // the noise compresses to no less than half; five frames are with the compressors
        let most = 2 * waiting_bytes + 8 * 8512;
        assert!(
            last.0 < most,
            "{} bytes were taken, {most} expected",
            last.0
        );
        assert!(last.0 < files * 8000 / 4);
        gate.update(|seen| seen.is_open = true);
        writing.join().unwrap();
    });
    assert!(taken.load(Ordering::SeqCst) > files * 8000);
}

#[test]
fn the_first_failure_ends_every_transfer() {
    let (folder, catalog, gate) = slow(Plan::FirstFails);
    let begun = at("2026-11-20T07:45:02Z");
    let mut writer = catalog.begin(begun, parts_in_flight(4)).unwrap();
    let taken = Arc::default();
    let error = writer
        .add_tar(Archive::Base, archive(200, &taken))
        .unwrap_err();
    let chain = format!("{error} {error:?}");
    assert!(chain.contains("injected"), "{chain}");
    drop(writer);
    let seen = gate.seen.lock().unwrap();
    assert!(seen.begun <= 5, "{} parts were begun", seen.begun);
    assert_eq!(seen.open, 0);
    let backups = folder.path().join("7000000000000000001/backups");
    assert_eq!(names(&backups), Vec::<String>::new());
}
