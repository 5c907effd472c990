//! One archive of a base backup, cut into parts.

use std::io::{self, Read};

use super::member::Member;
use super::member_rules::MemberRules;
use super::part_name::{Archive, PartName};
use super::part_writer::{CopyError, PartWriter};
use super::tar_error::TarError;
use super::tar_reader::{EndBlocks, TarReader};
use super::write_error::BackupWriteError;
use super::writer::BackupWriter;

/// Packs members into the parts of one archive, in the order in which they
/// come, without splitting any.
///
/// Members go to the parts in order, so that what came last
/// (`global/pg_control`, from a server) is in the last part.
#[derive(Debug)]
pub struct ArchiveWriter<'a> {
    backup: &'a mut BackupWriter,
    archive: Archive,
    part: Option<PartWriter>,
    parts: u32,
    rules: MemberRules,
}

impl<'a> ArchiveWriter<'a> {
    pub(super) fn new(backup: &'a mut BackupWriter, archive: Archive) -> Self {
        Self {
            backup,
            archive,
            part: None,
            parts: 0,
            rules: MemberRules::new(archive),
        }
    }

    /// Appends every member of a tar archive, each with the header that it has.
    ///
    /// A header is only rewritten where its name comes in an extension (GNU
    /// long name, pax), as PostgreSQL itself never sends it.
    ///
    /// # Errors
    /// `Tar`, `Store`; see [`BackupWriter::add_tar`].
    pub fn append_tar(&mut self, tar: impl Read) -> Result<(), BackupWriteError> {
        let archive = self.archive;
        let failed = |source| BackupWriteError::Tar { archive, source };
        let mut tar = TarReader::new(tar, archive, EndBlocks::Optional);
        while let Some(read) = tar.next_with_blocks().map_err(failed)? {
            let (member, blocks) = (&read.member, &read.blocks);
            self.append(member, blocks, &mut tar.data())
                .map_err(|error| match error {
                    CopyError::Source(error) => failed(TarError::from_io(error)),
                    // told as an error by the reader itself
                    CopyError::Short { found } => failed(TarError::TruncatedMember {
                        path: member.path.to_string(),
                        expected: member.size,
                        found,
                    }),
                    CopyError::Sink(error) => error,
                })?;
        }
        Ok(())
    }

    /// Appends one member under a header of its own: a file with the
    /// `member.size` bytes that `data` begins with, a directory, or a link.
    ///
    /// # Errors
    /// `Member` if the rules of a base backup forbid it, `Source` and
    /// `SourceLength` of `data`, `Store`.
    pub fn append_member(
        &mut self,
        member: &Member,
        mut data: impl Read,
    ) -> Result<(), BackupWriteError> {
        let blocks = member.to_blocks();
        let path = || member.path.to_string();
        self.append(member, &blocks, &mut data)
            .map_err(|error| match error {
                CopyError::Source(source) => BackupWriteError::Source {
                    path: path(),
                    source,
                },
                CopyError::Short { found } => BackupWriteError::SourceLength {
                    path: path(),
                    expected: member.size,
                    found,
                },
                CopyError::Sink(error) => error,
            })
    }

    /// Appends a directory or a link, which has no data.
    ///
    /// # Errors
    /// As [`ArchiveWriter::append_member`].
    pub fn append_empty(&mut self, member: &Member) -> Result<(), BackupWriteError> {
        self.append_member(member, io::empty())
    }

    /// Publishes the last part.
    ///
    /// # Errors
    /// `Store`.
    pub fn finish(mut self) -> Result<(), BackupWriteError> {
        if let Some(part) = self.part.take() {
            self.backup.publish(part)?;
        }
        self.backup.unfinished = None;
        Ok(())
    }

    fn append(
        &mut self,
        member: &Member,
        blocks: &[u8],
        data: &mut dyn Read,
    ) -> Result<(), CopyError> {
        self.rules
            .check(member)
            .map_err(|error| CopyError::Sink(error.into()))?;
        let bytes = PartWriter::bytes_of(member, blocks);
        self.make_room(bytes).map_err(CopyError::Sink)?;
        let Some(part) = &mut self.part else {
            return Err(CopyError::Sink(BackupWriteError::Unfinished {
                archive: self.archive,
            }));
        };
        let backup = &mut *self.backup;
        let path = self.archive.manifest_path(&member.path);
        let mut contents = backup.collects(&path, member.size).then(Vec::new);
        let mut told = 0;
        part.append(member, blocks, data, |bytes| {
            if let Some(contents) = &mut contents {
                contents.extend_from_slice(bytes);
            }
            told += bytes.len() as u64;
            backup.advance(bytes.len() as u64);
        })?;
        backup.advance(bytes.saturating_sub(told));
        if let Some(contents) = contents {
            backup.collect(path, contents);
        }
        Ok(())
    }

    /// Makes sure that there is a part that takes `bytes` more.
    fn make_room(&mut self, bytes: u64) -> Result<(), BackupWriteError> {
        self.backup.settle_what_is_over()?;
        let limit = self.backup.options.part_bytes;
        if let Some(part) = self.part.take_if(|part| !part.has_room(bytes, limit)) {
            self.backup.publish(part)?;
        }
        if self.part.is_none() {
            let archive = self.archive;
            let number = self.parts.checked_add(1);
            let number = number.ok_or(BackupWriteError::TooManyParts { archive })?;
            self.parts = number;
            self.part = Some(PartWriter::create(
                &self.backup.store,
                &self.backup.folder,
                PartName::new(archive, number),
                &self.backup.pool,
                self.backup.options.frame_bytes,
                self.backup.stored_counter(),
                self.backup.transfers(),
            )?);
        }
        Ok(())
    }
}
