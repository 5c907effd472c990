//! Real segments for the benchmarks of a segment's way; see `benches/`.

use std::path::PathBuf;

use pitr_testbed::{Cluster, PostgresInstall, TestbedError};

/// A segment that a real server wrote.
#[derive(Debug, Clone)]
pub struct RealSegment {
    /// Its name.
    pub name: String,
    /// Its bytes, 16 MiB.
    pub bytes: Vec<u8>,
}

/// What kind of log a segment holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Many small records: long after a checkpoint, nearly no page images.
    SmallRecords,
    /// Mostly images of whole pages: right after a checkpoint.
    PageImages,
}

impl Kind {
    /// Name of the kind, and of the folder that its segments are kept in.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::SmallRecords => "small records",
            Self::PageImages => "page images",
        }
    }
}

/// Segments of a pgbench run on the installed PostgreSQL, kept in the target
/// folder between runs.
///
/// # Errors
/// [`TestbedError`] where no server can be run.
pub fn pgbench_segments(kind: Kind, count: usize) -> Result<Vec<RealSegment>, TestbedError> {
    let kept = kept_in().join(kind.name());
    if let Some(segments) = read(&kept, count) {
        return Ok(segments);
    }
    let install = PostgresInstall::any()?;
    let mut cluster = Cluster::builder(&install)
        .setting("wal_keep_size", "8GB")
        .setting("max_wal_size", "8GB")
        .setting("checkpoint_timeout", "1h")
        .create()?;
    cluster.start()?;
    let pgbench = |arguments: &[&str]| -> Result<(), TestbedError> {
        let output = install
            .command("pgbench")?
            .args(["-h"])
            .arg(cluster.socket_dir())
            .args(["-p", &cluster.port().to_string(), "-U", "postgres"])
            .args(arguments)
            .arg("postgres")
            .output();
        match output {
            Ok(output) if output.status.success() => Ok(()),
            other => Err(TestbedError::Failed {
                program: "pgbench".to_owned(),
                status: "failure".to_owned(),
                stderr: format!("{other:?}"),
            }),
        }
    };
    pgbench(&["-i", "-q", "-s", "20"])?;
    let segment = |expression: &str| number(&cluster, expression) / SEGMENT_BYTES;
    let (first, last) = match kind {
        Kind::PageImages => {
            cluster.execute("CHECKPOINT");
            let first = segment("pg_current_wal_lsn() - '0/0'") + 1;
            pgbench(&["-n", "-c", "4", "-t", "6000"])?;
            (first, first + count as u64 - 1)
        }
        Kind::SmallRecords => {
            // after the first change of a page come those without its image
            pgbench(&["-n", "-c", "4", "-t", "30000"])?;
            let last = segment("pg_current_wal_lsn() - '0/0'") - 1;
            (last.saturating_sub(count as u64 - 1), last)
        }
    };
    let _ = std::fs::create_dir_all(&kept);
    for number in first..=last {
        let name = format!("{:08X}{:08X}{:08X}", 1, number / 256, number % 256);
        let from = cluster.data_dir().join("pg_wal").join(&name);
        let _ = std::fs::copy(from, kept.join(name));
    }
    read(&kept, count).ok_or_else(|| TestbedError::Failed {
        program: "pgbench".to_owned(),
        status: "success".to_owned(),
        stderr: format!("fewer than {count} segments in {}", kept.display()),
    })
}

/// Bytes of a segment of the default size.
const SEGMENT_BYTES: u64 = 16 << 20;

fn number(cluster: &Cluster, expression: &str) -> u64 {
    cluster
        .sql(&format!("SELECT ({expression})::bigint"))
        .parse()
        .unwrap_or(0)
}

fn kept_in() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target")),
        PathBuf::from,
    );
    target.join("pgbench-segments")
}

fn read(folder: &std::path::Path, count: usize) -> Option<Vec<RealSegment>> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    let segments: Vec<RealSegment> = names
        .into_iter()
        .filter_map(|name| {
            let bytes = std::fs::read(folder.join(&name)).ok()?;
            (bytes.len() as u64 == SEGMENT_BYTES).then_some(RealSegment { name, bytes })
        })
        .take(count)
        .collect();
    (segments.len() == count).then_some(segments)
}
