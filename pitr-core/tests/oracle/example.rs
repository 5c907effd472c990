//! The lines of `examples/waldump.rs` as they are printed.

#[allow(dead_code, reason = "its main is not called")]
#[path = "../../examples/waldump.rs"]
mod printed;

use std::path::{Path, PathBuf};

use pitr_testbed::PostgresInstall;

use crate::segments::Segment;
use crate::waldump;

/// Panics at the first line whose columns are not those of `pg_waldump`; gives how many there are.
///
/// What follows `desc: ` is each one's own wording.
pub(crate) fn prints_the_columns_of_pg_waldump(
    install: &PostgresInstall,
    folder: &Path,
    run: &[Segment],
) -> usize {
    let path = |segment: &Segment| folder.join(segment.name.to_string());
    let files: Vec<PathBuf> = run.iter().map(path).collect();
    let mut ours = Vec::new();
    let damaged = printed::print(&files, &mut ours).expect("lines");
    assert!(!damaged);
    let ours = String::from_utf8(ours).expect("text");
    let theirs = waldump::text(install, folder, run);
    let mut theirs = theirs.lines();
    let mut compared = 0;
    for line in ours.lines() {
        let their_line = theirs.next();
        let their_line = their_line.unwrap_or_else(|| panic!("{line} is ours alone"));
        assert_eq!(columns(line), columns(their_line));
        compared += 1;
    }
    assert_eq!(theirs.next(), None, "pg_waldump sees more");
    compared
}

/// Everything before the description, the blanks between the columns among it.
fn columns(line: &str) -> &str {
    let (columns, _) = line.split_once("desc: ").expect("a description");
    columns
}
