//! What the server is going to ask for next.

use std::path::{Path, PathBuf};

use pitr_core::WalFileName;

/// A file that is marked as ready to be archived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReadyFile {
    pub(crate) name: WalFileName,
    pub(crate) path: PathBuf,
}

/// The file that the server asks for, and those that it is going to ask for after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReadyFiles {
    /// In the server's order: histories, then by name.
    pub(crate) files: Vec<ReadyFile>,
    /// Place of the file that it asks for now.
    pub(crate) own: usize,
}

impl ReadyFiles {
    /// Reads `archive_status` beside `path`, for at most `most` files. `None` where
    /// there is nothing beside the own one; also where `path` does not lie in a
    /// `pg_wal` or is not marked as ready itself: then it is not the server that asks.
    ///
    /// Source: `pgarch_readyXlog` and `ready_file_comparator`,
    /// src/backend/postmaster/pgarch.c.
    pub(crate) fn beside(path: &Path, name: &WalFileName, most: usize) -> Option<Self> {
        let text = name.to_string();
        if path.file_name()?.to_str()? != text {
            return None;
        }
        let folder = path.parent()?;
        let mut names = Vec::new();
        let mut is_asked_for = false;
        for entry in std::fs::read_dir(folder.join("archive_status")).ok()? {
            // a listing that breaks off is no reason to stop: nothing depends on it
            let Ok(entry) = entry else { break };
            let entry = entry.file_name();
            let Some(ready) = entry.to_str().and_then(|e| e.strip_suffix(".ready")) else {
                continue;
            };
            match ready.parse::<WalFileName>() {
                Ok(other) if other == *name => is_asked_for = true,
                Ok(other) => names.push((!is_history(&other), ready.to_owned(), other)),
                Err(_) => {}
            }
        }
        if !is_asked_for {
            return None;
        }
        names.sort_unstable();
        names.truncate(most.saturating_sub(1));
        if names.is_empty() {
            return None;
        }
        // what is asked for goes before all that is no history, whatever its name is
        let own = match is_history(name) {
            true => 0,
            false => names.partition_point(|(is_other, _, _)| !is_other),
        };
        let mut files: Vec<ReadyFile> = names
            .into_iter()
            .map(|(_, text, name)| ReadyFile {
                name,
                path: folder.join(text),
            })
            .collect();
        let asked_for = ReadyFile {
            name: *name,
            path: path.to_owned(),
        };
        files.insert(own, asked_for);
        Some(Self { files, own })
    }
}

fn is_history(name: &WalFileName) -> bool {
    matches!(name, WalFileName::History(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn pg_wal(ready: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("archive_status")).unwrap();
        for name in ready {
            fs::write(dir.path().join("archive_status").join(name), "").unwrap();
        }
        dir
    }

    fn beside(dir: &tempfile::TempDir, name: &str, most: usize) -> Option<(Vec<String>, usize)> {
        let ready = ReadyFiles::beside(&dir.path().join(name), &name.parse().unwrap(), most)?;
        let names = ready.files.iter().map(|file| {
            assert_eq!(file.path, dir.path().join(file.name.to_string()));
            file.name.to_string()
        });
        Some((names.collect(), ready.own))
    }

    #[test]
    fn histories_come_first_and_then_names_in_their_order() {
        let dir = pg_wal(&[
            "000000010000000000000003.ready",
            "00000003.history.ready",
            "000000010000000000000001.ready",
            "000000010000000000000002.00000028.backup.ready",
            "00000002.history.ready",
            "000000010000000000000002.ready",
            "000000010000000000000000.done",
            "000000010000000000000004.partial.ready",
            "RECOVERYXLOG.ready",
            "x.ready",
        ]);
        let (names, own) = beside(&dir, "000000010000000000000002", 64).unwrap();
        let expected = [
            "00000002.history",
            "00000003.history",
            "000000010000000000000002",
            "000000010000000000000001",
            "000000010000000000000002.00000028.backup",
            "000000010000000000000003",
            "000000010000000000000004.partial",
        ];
        assert_eq!(
            (names.as_slice(), own),
            (&expected.map(str::to_owned)[..], 2)
        );

        let (names, own) = beside(&dir, "00000003.history", 3).unwrap();
        let expected = [
            "00000003.history",
            "00000002.history",
            "000000010000000000000001",
        ];
        assert_eq!(
            (names.as_slice(), own),
            (&expected.map(str::to_owned)[..], 0)
        );
    }

    #[test]
    fn who_is_not_asked_by_the_server_looks_no_further() {
        let dir = pg_wal(&[
            "000000010000000000000001.ready",
            "000000010000000000000002.ready",
            "000000010000000000000003.done",
        ]);
        assert!(beside(&dir, "000000010000000000000001", 2).is_some());
        // by hand, of a file that is archived
        assert_eq!(beside(&dir, "000000010000000000000003", 64), None);
        // nothing but itself
        assert_eq!(beside(&dir, "000000010000000000000001", 1), None);
        // under another name, and in a folder that is no pg_wal
        let name = "000000010000000000000001".parse().unwrap();
        assert_eq!(ReadyFiles::beside(&dir.path().join("x"), &name, 64), None);
        let other = tempfile::tempdir().unwrap();
        assert_eq!(beside(&other, "000000010000000000000001", 64), None);
    }
}
