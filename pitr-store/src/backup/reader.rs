//! Reading a complete base backup.

use pitr_core::crc32c;
use std::io::Read;
use std::sync::Arc;

use super::elsewhere::Elsewhere;
use super::file_reader::{CheckedData, FileReader, PartRange, StoredObject};
use super::index::{BackupIndex, IndexEntry};
use super::info::{BackupInfo, PartInfo};
use super::label::Label;
use super::member::{Member, MemberKind};
use super::member_path::MemberPath;
use super::member_rules::RuleError;
use super::part_name::{Archive, PartName};
use super::part_reader::{PartPlace, PartReader};
use super::read_error::{BackupReadError, ManifestDamage, PartDamage};
use super::seekable_reader::SeekableReader;
use super::tar_reader::{EndBlocks, TarReader};
use super::writer::{MANIFEST, MAX_MANIFEST_BYTES};
use crate::{ObjectKey, Store};

/// One complete base backup: its description, its index, and its parts.
///
/// Methods take `&self`, so that threads can read parts at once.
#[derive(Debug, Clone)]
pub struct BackupReader {
    store: Arc<dyn Store>,
    folder: ObjectKey,
    info: Arc<BackupInfo>,
    index: Arc<BackupIndex>,
    elsewhere: Option<Arc<Elsewhere>>,
}

/// What [`BackupReader::verify_part`] has read and found sound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verified {
    /// Regular files.
    pub files: u64,
    /// Bytes of the tar archive.
    pub raw_bytes: u64,
}

impl BackupReader {
    pub(super) fn new(
        store: Arc<dyn Store>,
        folder: ObjectKey,
        info: BackupInfo,
        index: BackupIndex,
    ) -> Self {
        Self {
            store,
            folder,
            info: Arc::new(info),
            index: Arc::new(index),
            elsewhere: None,
        }
    }

    /// The same backup, with other copies of it to fall back on.
    #[must_use]
    pub fn with_copies(mut self, elsewhere: Elsewhere) -> Self {
        self.elsewhere = Some(Arc::new(elsewhere));
        self
    }

    /// What `read` makes of this copy, or of the first of the others where what
    /// went wrong, as `fault` finds it in the error, is the copy's own. The
    /// others are looked for only then.
    ///
    /// # Errors
    /// Of `read`, by the last copy that it was tried on.
    pub fn from_any_copy<T, E>(
        &self,
        mut read: impl FnMut(&Self) -> Result<T, E>,
        fault: impl Fn(&E) -> Option<&BackupReadError>,
    ) -> Result<T, E> {
        let mut last = match read(self) {
            Err(error) => error,
            done => return done,
        };
        let Some(elsewhere) = &self.elsewhere else {
            return Err(last);
        };
        let is_of_copy = |error: &E| fault(error).is_some_and(BackupReadError::is_of_copy);
        if !is_of_copy(&last) {
            return Err(last);
        }
        for copy in elsewhere.copies_of(self) {
            if let Some(error) = fault(&last) {
                (elsewhere.tell)(error, copy);
            }
            match read(copy) {
                Err(error) if is_of_copy(&error) => last = error,
                other => return other,
            }
        }
        Err(last)
    }

    /// Its label.
    #[must_use]
    pub fn label(&self) -> Label {
        self.info.label
    }

    /// Where it lies, for messages.
    #[must_use]
    pub fn location(&self) -> String {
        self.store.object_location(&self.folder)
    }

    /// Where the repository is that it lies in, for messages.
    #[must_use]
    pub fn repository_location(&self) -> String {
        self.store.location()
    }

    /// What `backup.json` says.
    #[must_use]
    pub fn info(&self) -> &BackupInfo {
        &self.info
    }

    /// Where each file lies.
    #[must_use]
    pub fn index(&self) -> &BackupIndex {
        &self.index
    }

    /// PostgreSQL's manifest, verbatim; `None` if the backup has none.
    ///
    /// # Errors
    /// `Manifest` if it is missing or not as it was written; `Store`.
    pub fn manifest(&self) -> Result<Option<Vec<u8>>, BackupReadError> {
        self.from_any_copy(Self::own_manifest, itself)
    }

    fn own_manifest(&self) -> Result<Option<Vec<u8>>, BackupReadError> {
        let Some(expected) = &self.info.manifest else {
            return Ok(None);
        };
        let key = self.folder.join(MANIFEST)?;
        let damaged = |damage| BackupReadError::Manifest {
            location: self.store.object_location(&key),
            damage,
        };
        let size = self.store.stat(&key)?;
        let size = size.ok_or_else(|| damaged(ManifestDamage::Missing))?.size;
        if size != expected.bytes {
            return Err(damaged(ManifestDamage::Size {
                expected: expected.bytes,
                found: size,
            }));
        }
        let bytes = self.store.read_whole(&key, size.min(MAX_MANIFEST_BYTES))?;
        let found = format!("{:08x}", crc32c::crc32c(&bytes));
        if found != expected.crc32c {
            return Err(damaged(ManifestDamage::Checksum {
                expected: expected.crc32c.clone(),
                found,
            }));
        }
        Ok(Some(bytes))
    }

    /// The tar archive of a part, decompressed.
    ///
    /// # Errors
    /// `NoSuchPart`, `Part` if the object is missing or of another size, `Store`.
    pub fn open_part(&self, part: &PartName) -> Result<PartReader, BackupReadError> {
        let info = self.part_info(part)?;
        PartReader::open(self.store.as_ref(), &self.part_key(part)?, info)
    }

    /// Reads a part from its first member to its last, and hands each to
    /// `visit` with its data.
    ///
    /// Members come in the order of the archive and keep the rules that a
    /// backup's members have: paths that stay inside, no links but those of
    /// tablespaces, no file below a link. Every file must
    /// agree with the index in path, place and length, and its CRC-32C is
    /// checked when its data has been read; a mismatch comes instead of the
    /// end of the data. What `visit` does not read is read and checked after
    /// it. Memory does not grow with the part.
    ///
    /// # Errors
    /// Of `visit`, or `Part` for a damaged part. An error while `visit` reads
    /// reaches it as an [`std::io::Error`]: [`BackupReadError::recover`] tells it
    /// from one of what it writes to.
    pub fn unpack<E: From<BackupReadError>>(
        &self,
        part: &PartName,
        visit: impl FnMut(&Member, &mut dyn Read) -> Result<(), E>,
    ) -> Result<(), E> {
        self.unpack_from(self.open_part(part)?, part, visit)
    }

    fn unpack_from<E: From<BackupReadError>>(
        &self,
        reader: PartReader,
        part: &PartName,
        mut visit: impl FnMut(&Member, &mut dyn Read) -> Result<(), E>,
    ) -> Result<(), E> {
        let place = reader.place().clone();
        let mut members = Members::new(self, *part, place, reader);
        while let Some((member, entry)) = members.next()? {
            let place = &members.place;
            let mut data = CheckedData::new(members.tar.data(), place, entry);
            visit(&member, &mut data)?;
            data.finish()?;
        }
        Ok(members.end()?)
    }

    /// As [`BackupReader::unpack`], but fetches only what is read: the headers,
    /// and the data of members that `visit` begins to read. The data of others
    /// is passed over, unchecked.
    ///
    /// One request to the store for each frame; [`BackupReader::unpack`] is the
    /// faster one where most of a part is wanted.
    ///
    /// # Errors
    /// As there.
    pub fn pick<E: From<BackupReadError>>(
        &self,
        part: &PartName,
        mut visit: impl FnMut(&Member, &mut dyn Read) -> Result<(), E>,
    ) -> Result<(), E> {
        let place = self.place(part)?;
        let range = PartRange::new(self.seekable(part)?);
        let mut members = Members::new(self, *part, place, range);
        while let Some((member, entry)) = members.next()? {
            let place = &members.place;
            let mut data = CheckedData::new(members.tar.data(), place, entry);
            visit(&member, &mut data)?;
            if data.is_begun() {
                data.finish()?;
            } else {
                members.tar.pass_over(PartRange::advance);
            }
        }
        Ok(members.end()?)
    }

    /// Reads a part whole and checks everything that [`BackupReader::unpack`]
    /// checks, and its seek table.
    ///
    /// # Errors
    /// `Part` for the first damage found, `NoSuchPart`, `Store`.
    pub fn verify_part(&self, part: &PartName) -> Result<Verified, BackupReadError> {
        self.verify_part_through(part, |stored| stored)
    }

    /// As [`BackupReader::verify_part`], with the stored bytes read through
    /// what `through` makes of them: each of them once, to the last.
    pub(super) fn verify_part_through(
        &self,
        part: &PartName,
        through: impl FnOnce(Box<dyn Read + Send>) -> Box<dyn Read + Send>,
    ) -> Result<Verified, BackupReadError> {
        let mut verified = Verified::default();
        let seekable = self.seekable(part)?;
        verified.raw_bytes = seekable.table().raw_bytes();
        let info = self.part_info(part)?;
        let key = self.part_key(part)?;
        let reader = PartReader::open_through(self.store.as_ref(), &key, info, through)?;
        self.unpack_from(reader, part, |member, _| -> Result<(), BackupReadError> {
            verified.files += u64::from(member.kind == MemberKind::File);
            Ok(())
        })?;
        Ok(verified)
    }

    /// Opens one file by its path in the manifest, reading nothing but the
    /// part's seek table and then the frames that the file lies in.
    ///
    /// Its CRC-32C is checked at the end of the data.
    ///
    /// # Errors
    /// `NoSuchFile`, `Part` for a damaged part, `Store`.
    pub fn open_member(&self, path: &MemberPath) -> Result<FileReader, BackupReadError> {
        let (part, entry) = self.find(path)?;
        let place = self.place(&part)?;
        let reader = self.seekable(&part)?;
        Ok(FileReader::new(reader, entry, place))
    }

    /// Reads one file of at most `limit` bytes, as [`BackupReader::open_member`].
    ///
    /// # Errors
    /// As there, and `FileTooLarge`.
    pub fn read_member(&self, path: &MemberPath, limit: u64) -> Result<Vec<u8>, BackupReadError> {
        let (part, entry) = self.find(path)?;
        if entry.length > limit {
            return Err(BackupReadError::FileTooLarge {
                path: path.to_string(),
                bytes: entry.length,
                limit,
            });
        }
        let read = |copy: &Self| {
            let place = copy.place(&part)?;
            let mut bytes = Vec::new();
            copy.open_member(path)?
                .read_to_end(&mut bytes)
                .map_err(|error| place.io_error(error))?;
            Ok(bytes)
        };
        self.from_any_copy(read, itself)
    }

    /// No file of any part of the data directory may lie below a link.
    fn check_link(&self, place: &PartPlace, link: &MemberPath) -> Result<(), BackupReadError> {
        let mut below = self.index.below(link);
        match below.find(|(part, _)| part.archive() == Archive::Base) {
            Some((_, file)) => Err(place.damage(PartDamage::Tar(
                RuleError::ThroughLink {
                    path: file.path.to_string(),
                }
                .into(),
            ))),
            None => Ok(()),
        }
    }

    fn find(&self, path: &MemberPath) -> Result<(PartName, &IndexEntry), BackupReadError> {
        self.index
            .find(path)
            .ok_or_else(|| BackupReadError::NoSuchFile {
                label: self.label(),
                path: path.to_string(),
            })
    }

    fn part_info(&self, part: &PartName) -> Result<&PartInfo, BackupReadError> {
        self.info
            .part(part)
            .ok_or_else(|| BackupReadError::NoSuchPart {
                label: self.label(),
                part: *part,
            })
    }

    fn part_key(&self, part: &PartName) -> Result<ObjectKey, BackupReadError> {
        Ok(self.folder.join(&part.to_string())?)
    }

    fn place(&self, part: &PartName) -> Result<PartPlace, BackupReadError> {
        Ok(PartPlace {
            part: *part,
            location: self.store.object_location(&self.part_key(part)?),
        })
    }

    /// Opens a part for random access: its seek table must agree with
    /// `backup.json`.
    fn seekable(&self, part: &PartName) -> Result<SeekableReader<StoredObject>, BackupReadError> {
        let info = self.part_info(part)?;
        let place = self.place(part)?;
        let key = self.part_key(part)?;
        place.check_stored_size(self.store.as_ref(), &key, info)?;
        let object = StoredObject::new(Arc::clone(&self.store), key, info.stored_bytes);
        let reader = SeekableReader::open(object).map_err(|error| place.seekable_error(error))?;
        let found = reader.table().raw_bytes();
        if found != info.raw_bytes {
            return Err(place.damage(PartDamage::RawSize {
                expected: info.raw_bytes,
                found,
            }));
        }
        Ok(reader)
    }
}

fn itself(error: &BackupReadError) -> Option<&BackupReadError> {
    Some(error)
}

/// The members of a part, held against the index.
struct Members<'a, R> {
    backup: &'a BackupReader,
    place: PartPlace,
    tar: TarReader<R>,
    files: std::slice::Iter<'a, IndexEntry>,
}

impl<'a, R: Read> Members<'a, R> {
    fn new(backup: &'a BackupReader, part: PartName, place: PartPlace, tar: R) -> Self {
        let files = backup.index.part(&part).map(|index| index.files.as_slice());
        Self {
            backup,
            place,
            tar: TarReader::new(tar, part.archive(), EndBlocks::Required),
            files: files.unwrap_or_default().iter(),
        }
    }

    /// The next member, and its entry if it is a file.
    fn next(&mut self) -> Result<Option<(Member, Option<&'a IndexEntry>)>, BackupReadError> {
        let member = self.tar.next_member();
        let Some(member) = member.map_err(|error| self.place.tar_error(error))? else {
            return Ok(None);
        };
        let entry = match member.kind {
            MemberKind::File => {
                let offset = self.tar.offset();
                Some(agree(&self.place, &member, offset, self.files.next())?)
            }
            MemberKind::Directory => None,
            MemberKind::Symlink { .. } => {
                self.backup.check_link(&self.place, &member.path)?;
                None
            }
        };
        Ok(Some((member, entry)))
    }

    /// That the index lists no more.
    fn end(mut self) -> Result<(), BackupReadError> {
        match self.files.next() {
            None => Ok(()),
            Some(missing) => Err(self.place.damage(PartDamage::Index {
                offset: missing.offset,
                expected: format!("\"{}\"", missing.path),
                found: "the end of the archive".to_owned(),
            })),
        }
    }
}

/// The next entry of the index, if it is that of `member`.
fn agree<'a>(
    place: &PartPlace,
    member: &Member,
    offset: u64,
    entry: Option<&'a IndexEntry>,
) -> Result<&'a IndexEntry, BackupReadError> {
    let path = place.part.archive().manifest_path(&member.path);
    match entry {
        Some(entry)
            if entry.path == path && entry.offset == offset && entry.length == member.size =>
        {
            Ok(entry)
        }
        _ => Err(place.damage(PartDamage::Index {
            offset,
            expected: entry.map_or_else(
                || "nothing".to_owned(),
                |entry| {
                    let IndexEntry {
                        path,
                        offset,
                        length,
                        ..
                    } = entry;
                    format!("\"{path}\" with {length} bytes at {offset}")
                },
            ),
            found: format!("\"{path}\" with {} bytes", member.size),
        })),
    }
}
