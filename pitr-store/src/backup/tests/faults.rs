//! A store that fails, or kills the writer, at each of its operations.

use std::io::Write;
use std::ops::Range;
use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::{Entry, Hold, ObjectMeta, ObjectWriter, Operation, StoreError};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The operation is not done, and fails.
    Before,
    /// It is done, and seems to fail.
    After,
    /// It fails, and so does every one after it.
    Gone,
    /// It is done, and says that the object was there before.
    LostAnswer,
    /// The same, where publishings alone are counted: the parts are written by
    /// several threads, and no other operation has a number of its own.
    LostPublishing,
    /// The process dies before it.
    KillBefore,
    /// The process dies after it.
    KillAfter,
}

/// A local store with one fault.
#[derive(Debug)]
pub(super) struct FaultyStore {
    inner: LocalStore,
    plan: Plan,
}

impl FaultyStore {
    /// The store in `folder`, and how many operations it was asked for.
    pub(super) fn new(folder: &Path, fault: Fault, at: usize) -> (Arc<Self>, Arc<AtomicUsize>) {
        let done = Arc::new(AtomicUsize::new(0));
        let plan = Plan {
            fault,
            at,
            done: Arc::clone(&done),
        };
        let inner = LocalStore::new(folder);
        (Arc::new(Self { inner, plan }), done)
    }
}

#[derive(Debug, Clone)]
struct Plan {
    fault: Fault,
    at: usize,
    done: Arc<AtomicUsize>,
}

impl Plan {
    fn step<T>(&self, work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        if self.fault == Fault::LostPublishing {
            return work();
        }
        self.counted(work)
    }

    fn counted<T>(&self, work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        let number = self.done.fetch_add(1, Ordering::SeqCst);
        let broken = || StoreError::Io {
            operation: Operation::Write,
            location: "here".to_owned(),
            source: std::io::Error::other("injected"),
        };
        match self.fault {
            Fault::Gone if number >= self.at => Err(broken()),
            _ if number != self.at => work(),
            Fault::Gone | Fault::Before => Err(broken()),
            Fault::After => work().and_then(|_| Err(broken())),
            Fault::LostAnswer | Fault::LostPublishing => work().and_then(|_| {
                Err(StoreError::AlreadyExists {
                    key: ObjectKey::parse("here").unwrap(),
                    location: "here".to_owned(),
                })
            }),
            Fault::KillBefore => die(),
            Fault::KillAfter => {
                let _ = work();
                die()
            }
        }
    }
}

/// SIGKILL: no destructor runs.
fn die() -> ! {
    let me = rustix::process::getpid();
    rustix::process::kill_process(me, rustix::process::Signal::KILL).unwrap();
    loop {
        std::thread::park();
    }
}

struct FaultyWriter {
    inner: Box<dyn ObjectWriter>,
    plan: Plan,
}

impl Write for FaultyWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.plan.step(|| {
            let location = "here";
            let written = self.inner.write(bytes);
            written.map_err(|error| StoreError::from_io(error, Operation::Write, location))
        });
        Ok(written?)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

impl ObjectWriter for FaultyWriter {
    fn publish(self: Box<Self>) -> Result<(), StoreError> {
        let Self { inner, plan } = *self;
        plan.counted(|| inner.publish())
    }
}

impl Store for FaultyStore {
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
        let inner = self.plan.step(|| self.inner.create(key, rivals))?;
        let plan = self.plan.clone();
        Ok(Box::new(FaultyWriter { inner, plan }))
    }
    fn open(&self, key: &ObjectKey) -> Result<Box<dyn Read + Send>, StoreError> {
        self.plan.step(|| self.inner.open(key))
    }
    fn read_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        self.plan.step(|| self.inner.read_range(key, range))
    }
    fn stat(&self, key: &ObjectKey) -> Result<Option<ObjectMeta>, StoreError> {
        self.plan.step(|| self.inner.stat(key))
    }
    fn list(&self, folder: Option<&ObjectKey>) -> Result<Vec<Entry>, StoreError> {
        self.plan.step(|| self.inner.list(folder))
    }
    fn make_durable(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.plan.step(|| self.inner.make_durable(key))
    }
    fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.plan.step(|| self.inner.delete(key))
    }
    fn delete_folder(&self, folder: &ObjectKey) -> Result<(), StoreError> {
        self.plan.step(|| self.inner.delete_folder(folder))
    }
    fn hold(&self, key: &ObjectKey) -> Result<Option<Hold>, StoreError> {
        self.plan.step(|| self.inner.hold(key))
    }
}

/// A whole backup by way of a faulty store. Says whether the fault was reached.
fn back_up(folder: &Path, fault: Fault, at: usize) -> (Result<BackupInfo, BackupWriteError>, bool) {
    let (store, done) = FaultyStore::new(folder, fault, at);
    let key = ObjectKey::parse("7000000000000000001/backups").unwrap();
    let catalog = BackupCatalog::new(store, key);
    let write = || {
        let mut writer = catalog.begin(super::at("2026-11-20T07:45:02Z"), small(6000, 4000))?;
        writer.add_tar(Archive::Base, cluster().as_slice())?;
        writer.put_manifest(&b"{}"[..])?;
        writer.commit(details())
    };
    let result = write();
    (result, done.load(Ordering::SeqCst) > at)
}

pub(super) fn cluster() -> Vec<u8> {
    static TAR: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    TAR.get_or_init(|| {
        let data = TempDir::new().unwrap();
        write(data.path(), "backup_label", b"label\n");
        write(data.path(), "base/1/1", &noise(5000, 1));
        write(data.path(), "global/pg_control", &noise(8192, 4));
        real_tar(data.path(), &[], None)
    })
    .clone()
}

/// What must hold afterwards: whole backups or none, and the next one succeeds.
fn check(scratch: &Scratch, told: Option<Label>, what: &str) {
    let catalog = &scratch.catalog;
    let sound = |label: Label| {
        let reader = catalog.open(label).unwrap().unwrap();
        for part in &reader.info().parts {
            reader.verify_part(&part.name).unwrap();
        }
        reader.manifest().unwrap().unwrap();
    };
    let listing = catalog.list().unwrap();
    assert!(listing.damaged.is_empty(), "{what}");
    for info in &listing.backups {
        sound(info.label);
    }
    if let Some(told) = told {
        // what was acknowledged is there
        assert!(
            listing.backups.iter().any(|info| info.label == told),
            "{what}"
        );
    }
    let cleaned = catalog.clean_abandoned().unwrap();
    assert!(cleaned.running.is_empty(), "{what}: {cleaned:?}");
    let left = names(&scratch.backups());
    let left: Vec<&String> = left
        .iter()
        .filter(|name| !name.ends_with(".hold"))
        .collect();
    assert_eq!(left.len(), listing.backups.len(), "{what}: {left:?}");
    let (next, _) = back_up(scratch.folder.path(), Fault::Before, usize::MAX);
    sound(next.unwrap().label);
}

#[test]
fn whatever_fails_a_backup_is_whole_or_not_there() {
    for fault in [Fault::Before, Fault::After, Fault::Gone, Fault::LostAnswer] {
        let mut errors = 0;
        for at in 0.. {
            let scratch = Scratch::new();
            let (result, reached) = back_up(scratch.folder.path(), fault, at);
            if !reached {
                result.unwrap();
                break;
            }
            errors += usize::from(result.is_err());
            if result.is_err() && fault != Fault::Gone {
                // the writer could still clean up behind itself
                assert!(
                    scratch.catalog.list().unwrap().backups.is_empty(),
                    "{fault:?} {at}"
                );
                assert_eq!(names(&scratch.backups()), [""; 0], "{fault:?} at {at}");
            }
            let told = result.ok().map(|info| info.label);
            check(&scratch, told, &format!("{fault:?} at {at}"));
        }
        assert!(errors > 20, "{fault:?}: {errors} errors");
    }
}

#[test]
fn an_answer_that_was_lost_is_no_failure() {
    // of every publishing: the contents are those that were written
    let mut publishings = 0;
    loop {
        let scratch = Scratch::new();
        let (result, reached) = back_up(scratch.folder.path(), Fault::LostPublishing, publishings);
        result.unwrap();
        if !reached {
            break;
        }
        publishings += 1;
    }
    // parts, manifest and document
    assert!(publishings >= 5, "{publishings}");
}

#[test]
#[ignore = "run by the test below, in a process of its own"]
fn child_backs_up_until_it_is_killed() {
    let Some(folder) = std::env::var_os("PITR_TEST_FOLDER") else {
        return;
    };
    let number = |name| std::env::var(name).unwrap().parse::<usize>().unwrap();
    let fault = [Fault::KillBefore, Fault::KillAfter][number("PITR_TEST_FAULT")];
    let (result, _) = back_up(Path::new(&folder), fault, number("PITR_TEST_AT"));
    result.unwrap();
}

#[test]
fn whenever_it_is_killed_a_backup_is_whole_or_not_there() {
    for fault in ["0", "1"] {
        for at in 0.. {
            let scratch = Scratch::new();
            let output = Command::new(std::env::current_exe().unwrap())
                .args([
                    "--exact",
                    "backup::tests::faults::child_backs_up_until_it_is_killed",
                    "--ignored",
                ])
                .env("PITR_TEST_FOLDER", scratch.folder.path())
                .env("PITR_TEST_FAULT", fault)
                .env("PITR_TEST_AT", at.to_string())
                .output()
                .unwrap();
            if output.status.success() {
                assert!(at > 20, "{at} operations");
                break;
            }
            assert_eq!(output.status.signal(), Some(9), "{output:?}");
            check(&scratch, None, &format!("killed at {at}"));
        }
    }
}
