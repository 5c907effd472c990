//! Which files of a data directory are already what the backup has.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Read as _};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use pitr_console::Progress;
use pitr_core::{BackupManifest, ChecksumAlgorithm, FileChecksum, FileHasher};
use pitr_store::backup::{Archive, BackupReader, IndexEntry, MemberPath, PartName};

use super::failure::LayDownError;
use super::root::{Root, split};
use super::{BUFFER_BYTES, is_made_anew};

/// What of a backup lies in place, each file proven by its checksum.
///
/// No time of modification is believed: after a crash, a copy or a restore it
/// says nothing about the contents.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    /// Paths below the archive's folder.
    same: BTreeMap<Archive, HashSet<Vec<u8>>>,
    /// Files in place.
    pub(crate) same_files: u64,
    /// Their bytes.
    pub(crate) same_bytes: u64,
    /// Files to be written.
    pub(crate) other_files: u64,
    /// Their bytes.
    pub(crate) other_bytes: u64,
    /// Bytes to be written, by part.
    by_part: BTreeMap<PartName, u64>,
}

/// One file to be looked at.
struct Candidate<'a> {
    part: PartName,
    entry: &'a IndexEntry,
    /// Path below its root.
    member: &'a [u8],
    root: Option<&'a Root>,
}

impl Comparison {
    /// Reads every file below `root_of` that has the size that the backup has
    /// of it, with so many `threads`, and compares its checksum: that of the
    /// manifest, by its algorithm, else that of the backup's index.
    ///
    /// A file that cannot be read counts as another one: it is made anew.
    pub(crate) fn take<'a>(
        root_of: impl Fn(Archive) -> Option<&'a Root>,
        reader: &BackupReader,
        threads: usize,
        progress: &Progress,
    ) -> Result<Self, LayDownError> {
        let manifest = reader.manifest()?;
        let manifest = manifest.and_then(|bytes| BackupManifest::parse(&bytes).ok());
        let checksums: BTreeMap<&[u8], &FileChecksum> = manifest
            .iter()
            .flat_map(|manifest| &manifest.files)
            .filter_map(|file| Some((file.path.as_slice(), file.checksum.as_ref()?)))
            .collect();
        let mut candidates: Vec<Candidate<'_>> = reader
            .index()
            .files()
            .filter_map(|(part, entry)| {
                let archive = part.archive();
                let member = member_of(archive, &entry.path)?;
                (!is_made_anew(archive, member)).then(|| Candidate {
                    part,
                    entry,
                    member,
                    root: root_of(archive),
                })
            })
            .collect();
        // the largest first, so that none is left for the end
        candidates.sort_by_key(|candidate| std::cmp::Reverse(candidate.entry.length));
        let next = AtomicUsize::new(0);
        let found = Mutex::new(Self::default());
        let work = || {
            let mut buffer = vec![0; BUFFER_BYTES];
            while let Some(candidate) = candidates.get(next.fetch_add(1, Ordering::Relaxed)) {
                let checksum = checksums.get(candidate.entry.path.as_bytes()).copied();
                let is_same = candidate.is_in_place(checksum, &mut buffer);
                progress.advance(candidate.entry.length);
                if let Ok(mut found) = found.lock() {
                    found.note(candidate, is_same);
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..threads.clamp(1, candidates.len().max(1)) {
                scope.spawn(work);
            }
            work();
        });
        found.into_inner().map_err(|_| LayDownError::GivenUp)
    }

    /// Whether this file of `archive` is in place.
    pub(crate) fn has(&self, archive: Archive, member: &[u8]) -> bool {
        self.same
            .get(&archive)
            .is_some_and(|files| files.contains(member))
    }

    /// The folders of `archive` that hold a file which is in place.
    pub(crate) fn folders_of(&self, archive: Archive) -> HashSet<&[u8]> {
        let mut folders = HashSet::new();
        for file in self.same.get(&archive).into_iter().flatten() {
            let mut path = file.as_slice();
            while !path.is_empty() {
                path = split(path).0;
                if !folders.insert(path) {
                    break;
                }
            }
        }
        folders
    }

    /// Bytes of a part that have to be written.
    pub(crate) fn bytes_wanted_of(&self, part: &PartName) -> u64 {
        self.by_part.get(part).copied().unwrap_or(0)
    }

    fn note(&mut self, candidate: &Candidate<'_>, is_same: bool) {
        let bytes = candidate.entry.length;
        if is_same {
            self.same
                .entry(candidate.part.archive())
                .or_default()
                .insert(candidate.member.to_vec());
            self.same_files += 1;
            self.same_bytes += bytes;
        } else {
            self.other_files += 1;
            self.other_bytes += bytes;
            *self.by_part.entry(candidate.part).or_default() += bytes;
        }
    }
}

impl Candidate<'_> {
    fn is_in_place(&self, checksum: Option<&FileChecksum>, buffer: &mut [u8]) -> bool {
        let Some(root) = self.root else {
            return false;
        };
        match checksum_of(root, self.member, self.entry.length, checksum, buffer) {
            Ok(Some(found)) => match checksum {
                Some(expected) => found == *expected,
                None => found.crc32c() == Some(self.entry.crc32c),
            },
            Ok(None) | Err(_) => false,
        }
    }
}

/// The checksum of a file, by the algorithm of `like`; `None` if it is no
/// regular file of `length` bytes.
fn checksum_of(
    root: &Root,
    member: &[u8],
    length: u64,
    like: Option<&FileChecksum>,
    buffer: &mut [u8],
) -> io::Result<Option<FileChecksum>> {
    let mut file = root.open_file(member)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() != length {
        return Ok(None);
    }
    let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Sequential);
    let algorithm = like.map_or(ChecksumAlgorithm::Crc32c, |like| like.algorithm);
    let mut hasher = FileHasher::new(algorithm);
    let mut left = length;
    while left > 0 {
        match file.read(buffer) {
            // cut off meanwhile
            Ok(0) => return Ok(None),
            Ok(read) => {
                hasher.update(buffer.get(..read).unwrap_or_default());
                left = left.saturating_sub(read as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Some(hasher.finish()))
}

/// A manifest's path as one below the archive's folder.
fn member_of(archive: Archive, path: &MemberPath) -> Option<&[u8]> {
    match archive {
        Archive::Base => Some(path.as_bytes()),
        Archive::Tablespace(oid) => path
            .as_bytes()
            .strip_prefix(format!("pg_tblspc/{oid}/").as_bytes()),
    }
}
