//! What `pg_waldump` prints.

use std::path::Path;
use std::process::Command;

use pitr_core::Lsn;
use pitr_testbed::PostgresInstall;

use crate::segments::Segment;

/// One line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) resource_manager: String,
    /// Without images of pages.
    pub(crate) len: u32,
    pub(crate) total_len: u32,
    pub(crate) xid: u32,
    pub(crate) lsn: Lsn,
    pub(crate) prev: Lsn,
    pub(crate) description: String,
}

/// What `pg_waldump` prints of consecutive segments, a line for each record; it ends where the log does.
pub(crate) fn text(install: &PostgresInstall, folder: &Path, run: &[Segment]) -> String {
    let (first, last) = (&run[0].name, &run[run.len() - 1].name);
    let output = Command::new(install.program("pg_waldump"))
        .args(["--path".as_ref(), folder.as_os_str()])
        .args([first.to_string(), last.to_string()])
        .env("TZ", "UTC")
        .env("LC_ALL", "C")
        .output()
        .expect("pg_waldump runs");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// All records of consecutive segments, as `pg_waldump` sees them; it ends where the log does.
pub(crate) fn lines(install: &PostgresInstall, folder: &Path, run: &[Segment]) -> Vec<Line> {
    text(install, folder, run)
        .lines()
        .filter(|line| line.starts_with("rmgr: "))
        .map(|line| parse(line).unwrap_or_else(|| panic!("not understood: {line}")))
        .collect()
}

fn parse(line: &str) -> Option<Line> {
    let (resource_manager, rest) = line.strip_prefix("rmgr: ")?.split_once("len (rec/tot):")?;
    let (lens, rest) = rest.split_once(", tx:")?;
    let (len, total_len) = lens.split_once('/')?;
    let (xid, rest) = rest.split_once(", lsn: ")?;
    let (lsn, rest) = rest.split_once(", prev ")?;
    let (prev, description) = rest.split_once(", desc: ")?;
    Some(Line {
        resource_manager: resource_manager.trim().to_owned(),
        len: len.trim().parse().ok()?,
        total_len: total_len.trim().parse().ok()?,
        xid: xid.trim().parse().ok()?,
        lsn: lsn.parse().ok()?,
        prev: prev.parse().ok()?,
        description: description.to_owned(),
    })
}
