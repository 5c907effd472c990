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
    /// Rows by the page, as `COPY` writes them.
    BulkLoad,
}

impl Kind {
    /// Name of the kind, and of the folder that its segments are kept in.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::SmallRecords => "small records",
            Self::PageImages => "page images",
            Self::BulkLoad => "COPY",
        }
    }
}

/// Segments that a pgbench run or a `COPY` of its rows wrote, all of them
/// behind one another, on the installed PostgreSQL; kept in the target folder
/// between runs.
///
/// # Errors
/// [`TestbedError`] where no server can be run.
pub fn pgbench_segments(kind: Kind, count: usize) -> Result<Vec<RealSegment>, TestbedError> {
    let kept = pgbench_folder(kind);
    if let Some(segments) = read(&kept, count) {
        return Ok(segments);
    }
    let install = PostgresInstall::any()?;
    let mut cluster = Cluster::builder(&install)
        .setting("wal_keep_size", "8GB")
        .setting("max_wal_size", "8GB")
        .setting("checkpoint_timeout", "1h")
        .setting("autovacuum", "off")
        .setting("synchronous_commit", "off")
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
    // no checkpoint from here on, and so no images, unless they are asked for
    pgbench(&["-i", "-q", "-s", "20"])?;
    cluster.execute(TRANSACTIONS);
    let transactions = |count: u64| cluster.execute(&format!("CALL transactions({count}, 20)"));
    let segment = || number(&cluster, "pg_current_wal_lsn() - '0/0'") / SEGMENT_BYTES;
    let rows = cluster.data_dir().join("rows");
    if kind == Kind::BulkLoad {
        cluster.execute("CREATE TABLE copied (LIKE pgbench_accounts)");
        cluster.execute(&format!("COPY pgbench_accounts TO '{}'", rows.display()));
    }
    let first = segment() + 1;
    while segment() < first + count as u64 {
        match kind {
            Kind::SmallRecords => transactions(50_000),
            Kind::PageImages => {
                cluster.execute("CHECKPOINT");
                transactions(24_000);
            }
            Kind::BulkLoad => {
                cluster.execute(&format!("COPY copied FROM '{}'", rows.display()));
            }
        }
    }
    let last = first + count as u64 - 1;
    let _ = std::fs::remove_dir_all(&kept);
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

/// What pgbench does by default, without a way to the client and back for each statement.
const TRANSACTIONS: &str = "
CREATE PROCEDURE transactions(number bigint, scale int) LANGUAGE plpgsql AS $$
DECLARE account int; teller int; branch int; delta int;
BEGIN
    FOR i IN 1..number LOOP
        account := 1 + floor(random() * 100000 * scale);
        teller := 1 + floor(random() * 10 * scale);
        branch := 1 + floor(random() * scale);
        delta := -5000 + floor(random() * 10001);
        UPDATE pgbench_accounts SET abalance = abalance + delta WHERE aid = account;
        PERFORM abalance FROM pgbench_accounts WHERE aid = account;
        UPDATE pgbench_tellers SET tbalance = tbalance + delta WHERE tid = teller;
        UPDATE pgbench_branches SET bbalance = bbalance + delta WHERE bid = branch;
        INSERT INTO pgbench_history (tid, bid, aid, delta, mtime)
            VALUES (teller, branch, account, delta, CURRENT_TIMESTAMP);
        COMMIT;
    END LOOP;
END $$";

fn number(cluster: &Cluster, expression: &str) -> u64 {
    cluster
        .sql(&format!("SELECT ({expression})::bigint"))
        .parse()
        .unwrap_or(0)
}

/// Where the segments of [`pgbench_segments`] are.
#[must_use]
pub fn pgbench_folder(kind: Kind) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target")),
        PathBuf::from,
    );
    target.join("pgbench-segments").join(kind.name())
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
