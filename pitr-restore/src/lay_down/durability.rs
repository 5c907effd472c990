//! Making everything that was laid down survive power loss.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::root::Root;

/// Syncs every file below `roots`, and on the file systems of `mounted`: folders
/// below a root that have one of their own.
///
/// One `syncfs` for each file system, which writes in the best order, instead
/// of one `fsync` for each of some ten thousand files. Kernels before 5.8 do
/// not report write errors from it: there every file is synced by itself.
pub(super) fn sync_everything(roots: &[&Root], mounted: &[OwnedFd]) -> io::Result<()> {
    if !reports_errors_of_syncfs(rustix::system::uname().release().to_bytes()) {
        return roots.iter().try_for_each(|root| sync_tree(root.path()));
    }
    let mut synced = Vec::new();
    for root in roots {
        let device = std::fs::metadata(root.path())?.dev();
        if !synced.contains(&device) {
            rustix::fs::syncfs(root)?;
            synced.push(device);
        }
    }
    for folder in mounted {
        rustix::fs::syncfs(folder)?;
    }
    Ok(())
}

/// `6.1.0-13-amd64`.
fn reports_errors_of_syncfs(release: &[u8]) -> bool {
    let text = String::from_utf8_lossy(release);
    let mut numbers = text
        .split(|c: char| !c.is_ascii_digit())
        .map(|number| number.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version >= (5, 8)
}

fn sync_tree(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            sync_tree(&entry.path())?;
        } else if kind.is_file() {
            File::open(entry.path())?.sync_all()?;
        }
    }
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_newer_kernels_are_trusted_with_syncfs() {
        assert!(reports_errors_of_syncfs(b"6.1.0-13-amd64"));
        assert!(reports_errors_of_syncfs(b"5.8.0"));
        assert!(!reports_errors_of_syncfs(b"5.7.19"));
        assert!(!reports_errors_of_syncfs(b"4.18.0-553.el8"));
        assert!(!reports_errors_of_syncfs(b"odd"));
    }

    #[test]
    fn a_tree_is_synced_file_by_file() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::fs::write(dir.path().join("a/b/c"), "x").unwrap();
        std::os::unix::fs::symlink("/nonexistent", dir.path().join("link")).unwrap();
        sync_tree(dir.path()).unwrap();
    }
}
