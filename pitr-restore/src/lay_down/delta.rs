//! What of a data directory that is there stays, and what goes.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt as _;

use pitr_console::Progress;
use pitr_store::backup::{Archive, BackupReader, MemberPath};

use super::comparison::Comparison;
use super::failure::{LayDownError, failed};
use super::interlock::LOCK_FILE;
use super::marker::MARKER;
use super::root::Root;
use super::sweep::{Sweep, Swept};
use super::{CONTROL_FILE, LEFT_OUT, MANIFEST};
use crate::layout::Layout;

/// What `--delta` would find and do, without doing it.
pub(crate) fn survey(
    layout: &Layout,
    reader: &BackupReader,
    threads: usize,
    progress: &Progress,
) -> Result<Option<(Comparison, Swept)>, LayDownError> {
    if !layout.directory.is_occupied() {
        return Ok(None);
    }
    let mut roots = BTreeMap::new();
    let tablespaces = layout
        .tablespaces
        .iter()
        .map(|tablespace| (Archive::Tablespace(tablespace.oid), &tablespace.directory));
    for (archive, directory) in
        std::iter::once((Archive::Base, &layout.directory)).chain(tablespaces)
    {
        if directory.is_occupied() {
            let path = directory.path();
            let root = Root::open(path, None).map_err(failed("open", path))?;
            roots.insert(archive, root);
        }
    }
    let comparison = Comparison::take(|archive| roots.get(&archive), reader, threads, progress)?;
    let roots = roots.iter().map(|(archive, root)| (*archive, root));
    let swept = sweep(layout, roots, reader, &comparison, true)?;
    Ok(Some((comparison, swept)))
}

/// Takes away, or counts, what is not in place.
pub(super) fn sweep<'r>(
    layout: &Layout,
    roots: impl Iterator<Item = (Archive, &'r Root)>,
    reader: &BackupReader,
    comparison: &Comparison,
    dry_run: bool,
) -> Result<Swept, LayDownError> {
    let mut total = Swept::default();
    for (archive, root) in roots {
        let is_base = archive == Archive::Base;
        let start = match (archive, &layout.version_directory) {
            (Archive::Base, _) => "",
            (Archive::Tablespace(_), Some(folder)) => folder,
            // nothing was there
            (Archive::Tablespace(_), None) => continue,
        };
        let index = reader.index();
        let sweep = Sweep {
            root,
            stays: &|path| {
                comparison.has(archive, path)
                    || is_base && (path == LOCK_FILE || path == MARKER.as_bytes())
            },
            folders: comparison.folders_of(archive),
            link_stays: &|path, target| is_base && is_own_link(layout, path, target),
            in_backup: &|path| {
                is_base && path_is_rewritten(path)
                    || MemberPath::parse(path)
                        .is_ok_and(|path| index.find(&archive.manifest_path(&path)).is_some())
            },
            dry_run,
        };
        let swept = sweep.run(start.as_bytes())?;
        total.files += swept.files;
        total.links.extend(swept.links);
    }
    Ok(total)
}

/// Whether a restore writes this file of the data directory, in the backup or
/// not: it does not count as one that is lost.
fn path_is_rewritten(path: &[u8]) -> bool {
    path == MANIFEST || path == CONTROL_FILE || LEFT_OUT.contains(&path)
}

/// The link of a tablespace to where it goes.
fn is_own_link(layout: &Layout, path: &[u8], target: &[u8]) -> bool {
    layout.tablespaces.iter().any(|tablespace| {
        path == format!("pg_tblspc/{}", tablespace.oid).as_bytes()
            && target == tablespace.directory.path().as_os_str().as_bytes()
    })
}
