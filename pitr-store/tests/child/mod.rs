//! A process of its own that pushes or fetches one segment: this test program,
//! started again with a task in its environment.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use pitr_store::made_wal::{made_cluster, made_segment};
use pitr_store::{ErrorClass, FetchError, LocalStore, Repository, Store, WalArchive, WalBytes};

/// The one segment that all tests here are about.
pub(crate) const SEGMENT: &str = "000000010000000000000004";

/// Exit codes of the child.
pub(crate) const DONE: i32 = 0;
pub(crate) const FAILED: i32 = 10;
pub(crate) const ABSENT: i32 = 11;

const TASK: &str = "PITR_STORE_TEST_TASK";

/// Makes an empty repository at `path`.
pub(crate) fn init(path: &Path) {
    let store: Arc<dyn Store> = Arc::new(LocalStore::new(path));
    Repository::init(store).unwrap();
}

/// The log in the repository at `path`, which the cluster claims.
pub(crate) fn wal(path: &Path) -> WalArchive {
    let store: Arc<dyn Store> = Arc::new(LocalStore::new(path));
    let repository = Repository::open(store).unwrap();
    repository.claim(&made_cluster()).unwrap().wal()
}

/// `program arguments... CHILD`, where CHILD pushes the segment made from `seed`.
pub(crate) fn push(prefix: &[String], repository: &Path, seed: u64, codec: &str) -> Command {
    task(
        prefix,
        &format!("push\n{}\n{seed}\n{codec}", repository.display()),
    )
}

/// `program arguments... CHILD`, where CHILD fetches the segment to `target`.
pub(crate) fn fetch(prefix: &[String], repository: &Path, target: &Path) -> Command {
    task(
        prefix,
        &format!("fetch\n{}\n{}", repository.display(), target.display()),
    )
}

fn task(prefix: &[String], task: &str) -> Command {
    let this = std::env::current_exe().unwrap();
    let mut command = match prefix.split_first() {
        Some((program, arguments)) => {
            let mut command = Command::new(program);
            command.args(arguments).arg(this);
            command
        }
        None => Command::new(this),
    };
    command
        .args([
            "--exact",
            "child_process",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(TASK, task);
    command
}

/// What a child said, for the message of a failed assertion.
pub(crate) fn text(output: &Output) -> String {
    format!(
        "{}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// What the child does; nothing in the parent.
pub(crate) fn run() {
    let Ok(task) = std::env::var(TASK) else {
        return;
    };
    let words: Vec<_> = task.split('\n').collect();
    let code = match words[..] {
        ["push", repository, seed, codec] => {
            run_push(Path::new(repository), seed.parse().unwrap(), codec)
        }
        ["fetch", repository, target] => run_fetch(Path::new(repository), Path::new(target)),
        _ => panic!("no such task: {words:?}"),
    };
    std::process::exit(code);
}

fn run_push(repository: &Path, seed: u64, codec: &str) -> i32 {
    let mut source = WalBytes::new(made_segment(SEGMENT, seed), "pg_wal/test");
    let store: Arc<dyn Store> = Arc::new(LocalStore::new(repository));
    let claimed = Repository::open(store)
        .map_err(Into::into)
        .and_then(|repository| repository.claim(&made_cluster()));
    let wal = match claimed {
        Ok(cluster) => cluster.wal(),
        Err(error) => {
            println!("error: {error}");
            return FAILED;
        }
    };
    match wal.push(
        &SEGMENT.parse().unwrap(),
        &mut source,
        codec.parse().unwrap(),
    ) {
        Ok(_) => DONE,
        Err(error) => {
            println!("error: {error}; hint: {:?}", error.hint());
            FAILED
        }
    }
}

fn run_fetch(repository: &Path, target: &Path) -> i32 {
    let store: Arc<dyn Store> = Arc::new(LocalStore::new(repository));
    let wal = match Repository::open(store)
        .and_then(|repository| repository.cluster(made_cluster().system_identifier))
    {
        Ok(Some(cluster)) => cluster.wal(),
        Ok(None) => return ABSENT,
        Err(error) => {
            println!("error: {error}");
            return FAILED;
        }
    };
    let mut content = Vec::new();
    match wal.fetch_to(&SEGMENT.parse().unwrap(), &mut content) {
        Ok(_) => {
            std::fs::write(target, content).unwrap();
            DONE
        }
        Err(error @ FetchError::Absent { .. }) => {
            assert_eq!(error.class(), ErrorClass::Absent);
            ABSENT
        }
        Err(error) => {
            assert_ne!(error.class(), ErrorClass::Absent, "{error}");
            println!("error: {error}");
            FAILED
        }
    }
}
