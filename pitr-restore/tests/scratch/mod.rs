//! A repository and a data directory to run the command against.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use pitr_core::{
    PostgresMajor, SegmentName, SystemIdentifier, TimelineId, WalFileName, WalSegmentSize,
};
use pitr_store::wal::{WalArchive, WalBytes};
use pitr_store::{Cluster, ClusterIdentity, Codec, Repository, Store, StoreOptions, open_store};
use pitr_testbed::TestDir;

/// 1 MiB: the smallest segments there are.
pub(crate) const SEGMENT_BYTES: usize = 1 << 20;

/// Folder of what is fetched ahead, in `pg_wal`.
pub(crate) const AHEAD: &str = "pgsql_tmp_pitr_ahead";

/// Who the cluster of the tests is.
pub(crate) const SYSTEM_IDENTIFIER: u64 = 7_000_000_000_000_000_001;

/// A repository, and a folder that looks like a data directory in recovery.
pub(crate) struct Scratch {
    pub(crate) dir: TestDir,
    pub(crate) repository: PathBuf,
    pub(crate) data: PathBuf,
    program: PathBuf,
}

impl Scratch {
    /// Makes both; the repository knows one cluster with segments of 1 MiB.
    pub(crate) fn new() -> Self {
        let scratch = Self::without_cluster();
        scratch.claim(SYSTEM_IDENTIFIER);
        scratch
    }

    /// The same with a repository that nobody has claimed.
    pub(crate) fn without_cluster() -> Self {
        Self::made(|store| drop(Repository::init(store).unwrap()))
    }

    /// The same with a repository that is made by `init`.
    pub(crate) fn made(init: impl FnOnce(Arc<dyn Store>)) -> Self {
        let dir = TestDir::new().unwrap();
        let repository = dir.join("repository");
        init(open_store(repository.to_str().unwrap(), &StoreOptions::default()).unwrap());
        let data = dir.join("data");
        for folder in ["global", "pg_wal"] {
            fs::create_dir_all(data.join(folder)).unwrap();
        }
        // found, and not read: the tests name the cluster
        fs::write(data.join("global/pg_control"), "").unwrap();
        let program = dir.reachable(env!("CARGO_BIN_EXE_pitr-restore")).unwrap();
        Self {
            dir,
            repository,
            data,
            program,
        }
    }

    pub(crate) fn open(&self) -> Repository {
        Repository::open(
            open_store(self.repository.to_str().unwrap(), &StoreOptions::default()).unwrap(),
        )
        .unwrap()
    }

    pub(crate) fn claim(&self, system_identifier: u64) -> Cluster {
        self.open().add(&identity(system_identifier)).unwrap()
    }

    pub(crate) fn wal(&self) -> WalArchive {
        self.claim(SYSTEM_IDENTIFIER).wal()
    }

    /// Archives a segment that is recognisable by its timeline and number.
    pub(crate) fn push(&self, name: &str) {
        self.push_as(name, Codec::Zstd { level: 1 });
    }

    pub(crate) fn push_as(&self, name: &str, codec: Codec) {
        let name: WalFileName = name.parse().unwrap();
        let bytes = segment(&name.segment().unwrap());
        self.push_bytes(&name, bytes, codec);
    }

    /// Archives a history file.
    pub(crate) fn push_history(&self, timeline: u32, text: &str) {
        let name = WalFileName::History(TimelineId::new(timeline).unwrap());
        self.push_bytes(&name, text.as_bytes().to_vec(), Codec::None);
    }

    fn push_bytes(&self, name: &WalFileName, bytes: Vec<u8>, codec: Codec) {
        self.wal()
            .push(name, &mut WalBytes::new(bytes, "the test"), codec)
            .unwrap();
    }

    /// The file that holds a stored name.
    pub(crate) fn object(&self, name: &str) -> PathBuf {
        let stored = self.wal().locate(&name.parse().unwrap()).unwrap().unwrap();
        stored.location.into()
    }

    /// The server keeps a history in `pg_wal`.
    pub(crate) fn keep_history(&self, timeline: u32, text: &str) {
        let name = format!("{timeline:08X}.history");
        fs::write(self.data.join("pg_wal").join(name), text).unwrap();
    }

    pub(crate) fn signal(&self, name: &str) {
        fs::write(self.data.join(name), "").unwrap();
    }

    /// The command in the data directory, with an empty environment.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            .current_dir(&self.data)
            .arg("--repo")
            .arg(&self.repository);
        command
    }

    /// What `restore_command` does.
    pub(crate) fn fetch(&self, name: &str) -> Outcome {
        self.fetch_with(&[], name)
    }

    pub(crate) fn fetch_with(&self, options: &[&str], name: &str) -> Outcome {
        let mut command = self.command();
        command
            .args(["--system-identifier", &SYSTEM_IDENTIFIER.to_string()])
            .args(options)
            .args([name, "pg_wal/RECOVERYXLOG"]);
        self.outcome(command.output().unwrap())
    }

    pub(crate) fn outcome(&self, output: Output) -> Outcome {
        Outcome {
            exit: output.status.code(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            file: fs::read(self.data.join("pg_wal/RECOVERYXLOG")).ok(),
            debris: names(&self.data.join("pg_wal"))
                .into_iter()
                .filter(|name| name.contains("pitr") && name != AHEAD)
                .collect(),
        }
    }
}

/// What came of a fetch.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Exit code; `None` after a signal.
    pub(crate) exit: Option<i32>,
    /// What it said.
    pub(crate) stderr: String,
    /// What lies at `%p`.
    pub(crate) file: Option<Vec<u8>>,
    /// Unfinished files beside it.
    pub(crate) debris: Vec<String>,
}

impl Outcome {
    /// The whole segment arrived.
    #[track_caller]
    pub(crate) fn is_segment(&self, name: &str) {
        assert_eq!(self.exit, Some(0), "{}", self.stderr);
        assert!(self.file.as_deref() == Some(&segment(&name.parse().unwrap())[..]));
        assert!(self.debris.is_empty(), "{:?}", self.debris);
    }

    /// Nothing arrived, with this exit code, and `text` was said.
    #[track_caller]
    pub(crate) fn is_refused(&self, exit: i32, text: &str) {
        assert_eq!(self.exit, Some(exit), "{}", self.stderr);
        assert!(self.stderr.contains(text), "{}", self.stderr);
        assert!(self.file.is_none(), "something lies at %p");
        assert!(self.debris.is_empty(), "{:?}", self.debris);
    }
}

/// Names in a folder.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

pub(crate) fn identity(system_identifier: u64) -> ClusterIdentity {
    ClusterIdentity {
        system_identifier: SystemIdentifier::new(system_identifier),
        major: PostgresMajor::new(15).unwrap(),
        segment_size: WalSegmentSize::new(SEGMENT_BYTES as u64).unwrap(),
    }
}

/// A segment with a right first page; what follows differs by name, and does
/// not compress to nothing.
pub(crate) fn segment(name: &SegmentName) -> Vec<u8> {
    let size = WalSegmentSize::new(SEGMENT_BYTES as u64).unwrap();
    let start = name.start(size).unwrap().get();
    let mut state = start ^ u64::from(name.timeline().get()) << 48 ^ 0x2545_F491_4F6C_DD1D;
    let mut bytes = Vec::with_capacity(SEGMENT_BYTES);
    while bytes.len() < SEGMENT_BYTES {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&(state & 0x0F0F_0F0F_0F0F_0F0F).to_le_bytes());
    }
    let mut header = Vec::new();
    header.extend_from_slice(&0xD110_u16.to_le_bytes());
    header.extend_from_slice(&2_u16.to_le_bytes());
    header.extend_from_slice(&name.timeline().get().to_le_bytes());
    header.extend_from_slice(&start.to_le_bytes());
    header.extend_from_slice(&[0; 8]);
    header.extend_from_slice(&SYSTEM_IDENTIFIER.to_le_bytes());
    header.extend_from_slice(&u32::try_from(SEGMENT_BYTES).unwrap().to_le_bytes());
    header.extend_from_slice(&8192_u32.to_le_bytes());
    bytes[..header.len()].copy_from_slice(&header);
    bytes
}
