//! Base backups: tar parts in the Zstandard Seekable Format, their index, and
//! the document that makes a backup exist.
//!
//! Writing: [`BackupCatalog::begin`] gives a [`BackupWriter`], which takes the
//! tar archives that PostgreSQL sends ([`BackupWriter::add_tar`]) or single
//! members ([`BackupWriter::archive`]), the manifest, and at last
//! [`BackupWriter::commit`].
//!
//! Reading: [`BackupCatalog::open`] gives a [`BackupReader`], which streams a
//! part's members ([`BackupReader::unpack`]) or fetches one file
//! ([`BackupReader::open_member`]).
//!
//! `docs/store-format.md`, section "Base backups", has the bytes.

mod archive_writer;
mod catalog;
mod copy;
mod document;
mod elsewhere;
mod file_reader;
mod frame_pool;
mod index;
mod info;
mod label;
mod member;
mod member_path;
mod member_rules;
mod object;
mod options;
mod part_name;
mod part_reader;
mod part_writer;
mod read_error;
mod reader;
mod seek_table;
mod seekable_reader;
#[cfg(test)]
mod seekable_tests;
mod seekable_writer;
mod tar_error;
mod tar_reader;
#[cfg(test)]
mod tests;
mod transfer;
mod write_error;
mod writer;

pub use archive_writer::ArchiveWriter;
pub use catalog::{BackupCatalog, BackupOutline, Cleaned, DamagedBackup, Listing};
pub use copy::{BackupCopied, BackupCopyError};
pub use document::DocumentError;
pub use elsewhere::Elsewhere;
pub use file_reader::FileReader;
pub use frame_pool::FramePool;
pub use index::{BackupIndex, IndexEntry, IndexError, PartIndex};
pub use info::{
    BackupDetails, BackupInfo, BackupSource, FORMAT, ManifestInfo, Origin, PartInfo, Settings,
    Sizes, Tablespace,
};
pub use label::{Label, ParseLabelError};
pub use member::{Member, MemberKind};
pub use member_path::{MemberPath, MemberPathError};
pub use member_rules::RuleError;
pub use options::{
    BackupOptions, DEFAULT_PART_BYTES, DEFAULT_PARTS_IN_FLIGHT, DEFAULT_WAITING_BYTES,
};
pub use part_name::{Archive, ParsePartNameError, PartName};
pub use part_reader::PartReader;
pub use read_error::{BackupReadError, ManifestDamage, PartDamage};
pub use reader::{BackupReader, Verified};
pub use seek_table::{FrameSpan, MAX_FRAME_BYTES, MAX_FRAMES, SeekTable, SeekTableError};
pub use seekable_reader::{RangeSource, SeekableError, SeekableRange, SeekableReader};
pub use seekable_writer::{DEFAULT_FRAME_BYTES, SeekableTotals, SeekableWriter};
pub use tar_error::TarError;
pub use tar_reader::{EndBlocks, MemberData, TarReader};
pub use write_error::BackupWriteError;
pub use writer::{BackupWriter, Progress};
