//! Copying members of a backup into files.

use std::io::{self, Read, Write as _};
use std::os::fd::OwnedFd;

use pitr_store::backup::Member;

use super::failure::{LayDownError, failed, read_failed, write_failed};
use super::root::{Root, split};
use super::writeback::{Writeback, Written};

/// The folder that the last file went to stays open: files of one folder
/// follow each other.
pub(super) struct Folders<'a> {
    root: &'a Root,
    last: Option<(Vec<u8>, OwnedFd)>,
}

impl<'a> Folders<'a> {
    pub(super) fn new(root: &'a Root) -> Self {
        Self { root, last: None }
    }

    pub(super) fn copy(
        &mut self,
        member: &Member,
        data: &mut dyn Read,
        buffer: &mut [u8],
        writeback: &Writeback,
    ) -> Result<(), LayDownError> {
        let path = self.root.path_of(member.path.as_bytes());
        let (folder, name) = split(member.path.as_bytes());
        let open = match self.last.take() {
            Some((last, open)) if last == folder => open,
            _ => self.root.folder(folder).map_err(failed("create", &path))?,
        };
        let file = self.root.file_in(&open, name, member.mode);
        self.last = Some((folder.to_vec(), open));
        let mut file = file.map_err(failed("create", &path))?;
        let mut written = Written::default();
        loop {
            let length = match data.read(buffer) {
                Ok(0) => return Ok(()),
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(read_failed(error)),
            };
            let bytes = buffer.get(..length).unwrap_or_default();
            file.write_all(bytes)
                .map_err(write_failed(self.root, &path))?;
            writeback.note(&file, &mut written, bytes.len() as u64);
        }
    }
}
