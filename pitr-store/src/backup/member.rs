//! What a tar archive says of one file, directory or link.

use tar::{EntryType, Header};

use super::member_path::MemberPath;

/// Bytes of a tar block.
pub(super) const BLOCK_BYTES: usize = 512;

/// One member of an archive: everything but its data.
///
/// Numbers come from the archive as they are; a path has been checked, a link's
/// target has not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Path inside its archive: relative to the data directory, or to the
    /// tablespace.
    pub path: MemberPath,
    /// File, directory or link.
    pub kind: MemberKind,
    /// Permission bits (`st_mode & 07777`).
    pub mode: u32,
    /// Numeric owner.
    pub uid: u64,
    /// Numeric group.
    pub gid: u64,
    /// Last modification in seconds since 1970.
    pub mtime: u64,
    /// Bytes of data; 0 unless a file.
    pub size: u64,
}

/// Kinds of members that a base backup can hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link: only `pg_tblspc/<oid>`, to a tablespace.
    Symlink {
        /// Where it points, unchecked.
        target: Vec<u8>,
    },
}

impl Member {
    /// Header blocks of this member: one, or more where a name needs GNU's
    /// long-name blocks (over 100 bytes).
    pub(super) fn to_blocks(&self) -> Vec<u8> {
        let mut name = self.path.as_bytes().to_vec();
        if self.path.is_root() {
            name.push(b'.');
        }
        if self.kind == MemberKind::Directory {
            name.push(b'/');
        }
        let mut blocks = Vec::with_capacity(BLOCK_BYTES);
        let mut header = Header::new_gnu();
        header.set_mode(self.mode & 0o7777);
        header.set_uid(self.uid);
        header.set_gid(self.gid);
        header.set_mtime(self.mtime);
        header.set_size(self.size);
        match &self.kind {
            MemberKind::File => header.set_entry_type(EntryType::Regular),
            MemberKind::Directory => header.set_entry_type(EntryType::Directory),
            MemberKind::Symlink { target } => {
                header.set_entry_type(EntryType::Symlink);
                if let Some(gnu) = header.as_gnu_mut() {
                    long_field(
                        &mut gnu.linkname,
                        target,
                        EntryType::GNULongLink,
                        &mut blocks,
                    );
                }
            }
        }
        if let Some(gnu) = header.as_gnu_mut() {
            long_field(&mut gnu.name, &name, EntryType::GNULongName, &mut blocks);
        }
        header.set_cksum();
        blocks.extend_from_slice(header.as_bytes());
        blocks
    }
}

/// Puts `value` into a header's field, and whole into an extra member before
/// it where it does not fit (GNU tar's `././@LongLink`).
fn long_field(field: &mut [u8; 100], value: &[u8], kind: EntryType, blocks: &mut Vec<u8>) {
    let fits = value.len().min(field.len());
    field[..fits].copy_from_slice(&value[..fits]);
    if value.len() <= field.len() {
        return;
    }
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(value.len() as u64 + 1);
    if let Some(gnu) = header.as_gnu_mut() {
        gnu.name[..13].copy_from_slice(b"././@LongLink");
    }
    header.set_cksum();
    blocks.extend_from_slice(header.as_bytes());
    blocks.extend_from_slice(value);
    blocks.push(0);
    blocks.resize(blocks.len().next_multiple_of(BLOCK_BYTES), 0);
}

/// Zeros that follow `size` bytes of data up to the next block.
pub(super) fn padding(size: u64) -> usize {
    let beyond = usize::try_from(size % BLOCK_BYTES as u64).unwrap_or(0);
    (BLOCK_BYTES - beyond) % BLOCK_BYTES
}
