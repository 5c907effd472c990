//! How the reading of a tar archive fails.

use std::io;

use thiserror::Error;

use super::member_path::MemberPathError;
use super::member_rules::RuleError;

/// Longest extension (GNU long name, pax header) that is read.
pub(super) const MAX_EXTENSION_BYTES: u64 = 64 << 10;

/// Why a tar archive of a base backup cannot be read.
#[derive(Debug, Error)]
pub enum TarError {
    /// The stream failed.
    #[error("could not read the archive")]
    Read(#[source] io::Error),
    /// The archive ends inside a header.
    #[error("archive ends at byte {offset}, inside a header")]
    TruncatedHeader {
        /// Where it ends.
        offset: u64,
    },
    /// The archive ends inside a member.
    #[error("archive ends inside \"{path}\": {found} of {expected} bytes")]
    TruncatedMember {
        /// The member.
        path: String,
        /// Its size in the header, padding included.
        expected: u64,
        /// Bytes that are there.
        found: u64,
    },
    /// A header's checksum disagrees: no tar archive, or a damaged one.
    #[error("header at byte {offset} has checksum {found}, {expected} expected")]
    HeaderChecksum {
        /// Where the header starts.
        offset: u64,
        /// Sum of the header's bytes.
        expected: u32,
        /// Sum written in it.
        found: u32,
    },
    /// A field of a header does not parse.
    #[error("header at byte {offset}: {field} does not parse")]
    HeaderField {
        /// Where the header starts.
        offset: u64,
        /// Name of the field.
        field: &'static str,
    },
    /// A member's name cannot be trusted.
    #[error("member at byte {offset}")]
    Path {
        /// Where its header starts.
        offset: u64,
        /// What is wrong with it.
        source: MemberPathError,
    },
    /// A kind of member that a base backup does not have: device, hard link, sparse file.
    #[error("\"{path}\" is of type {type_flag:?}, which a base backup does not have")]
    UnsupportedType {
        /// The member.
        path: String,
        /// Its type flag.
        type_flag: char,
    },
    /// A member that no base backup has, and that nobody should unpack.
    #[error(transparent)]
    Rule(#[from] RuleError),
    /// A long name or pax header beyond all reason.
    #[error("extension at byte {offset} has {bytes} bytes, more than {MAX_EXTENSION_BYTES}")]
    ExtensionTooLong {
        /// Where its header starts.
        offset: u64,
        /// Its size.
        bytes: u64,
    },
    /// A pax header that does not parse, or has no member after it.
    #[error("extension at byte {offset} is malformed")]
    MalformedExtension {
        /// Where its header starts.
        offset: u64,
    },
    /// The two zero blocks at the end are missing where they must be.
    #[error("archive ends at byte {offset} without its end blocks")]
    MissingEnd {
        /// Where it ends.
        offset: u64,
    },
    /// Something follows the end of the archive.
    #[error("archive goes on after its end at byte {offset}")]
    TrailingData {
        /// Where the first byte that is not zero lies, to a block.
        offset: u64,
    },
}

impl TarError {
    /// Takes the error out that [`MemberData`] put into an [`io::Error`].
    pub(super) fn from_io(error: io::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(error) => error,
            Err(error) => Self::Read(error),
        }
    }
}
