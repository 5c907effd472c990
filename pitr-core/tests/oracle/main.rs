//! The reader against `pg_waldump` of the same major version, and against changed bits, on segments of real servers.
//!
//! Without further ado, each major version that is installed writes some
//! 40 segments of 1 MiB for it; `PITR_TEST_ORACLE_SEGMENTS=64` lets it write that
//! many at least, and `PITR_TEST_FLIPS=10000` sets how many bits are changed.
//! The same comparison runs over any folder of segments, complete ones of any
//! size, version and timeline:
//!
//!     PITR_TEST_SEGMENTS=/srv/wal cargo test -p pitr-core --test oracle folder

mod compare;
mod example;
mod flips;
mod recoveries;
mod segments;
mod waldump;
mod workload;

use std::path::PathBuf;

use pitr_testbed::PostgresInstall;

use crate::segments::Segment;

/// Segments of each major version whose lines are compared as they are printed.
const SEGMENTS_PRINTED: usize = 6;

#[test]
fn every_record_is_the_one_that_pg_waldump_shows() {
    let installs = PostgresInstall::all_found();
    assert!(!installs.is_empty());
    for install in installs {
        let least = workload::wanted(20);
        let cluster = workload::written_by(&install, least);
        let folder = cluster.data_dir().join("pg_wal");
        let runs = segments::consecutive(segments::in_folder(&folder));
        let mut compared = compare::Compared::default();
        for run in &runs {
            compared += compare::with_pg_waldump(&install, &folder, run);
        }
        println!("PostgreSQL {}: {compared}", install.version());
        assert!(compared.segments >= least, "{compared}");
        assert!(compared.ends > 500, "{compared}");

        // as they are printed; the last segment may be in use
        let first = runs.first().expect("segments");
        let printed = &first[..SEGMENTS_PRINTED.min(first.len() - 1)];
        let lines = example::prints_the_columns_of_pg_waldump(&install, &folder, printed);
        println!("{lines} lines of the example");
        assert!(lines > 1000, "{lines}");

        // what pg_waldump has agreed to, with a bit changed
        let run: Vec<Segment> = runs.into_iter().flatten().take(6).collect();
        println!("{}", flips::every_one_is_noticed(&run, flips::wanted(200)));
    }
}

#[test]
fn every_record_of_a_folder_is_the_one_that_pg_waldump_shows() {
    let Some(folder) = std::env::var_os("PITR_TEST_SEGMENTS").map(PathBuf::from) else {
        println!("PITR_TEST_SEGMENTS names no folder");
        return;
    };
    let mut compared = compare::Compared::default();
    for run in segments::consecutive(segments::in_folder(&folder)) {
        let install = PostgresInstall::find(run[0].major()).unwrap();
        compared += compare::with_pg_waldump(&install, &folder, &run);
    }
    println!("{}: {compared}", folder.display());
    assert!(compared.segments > 0);
}

#[test]
fn changed_bits_of_kept_segments_are_noticed() {
    for major in ["v13", "v14"] {
        let segment = segments::kept(major, "000000010000000000000004");
        println!(
            "{}",
            flips::every_one_is_noticed(&[segment], flips::wanted(300))
        );
    }
}
