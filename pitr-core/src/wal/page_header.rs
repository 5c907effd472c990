//! The header of a WAL page.

use nom::number::complete::{le_u16, le_u32, le_u64};
use nom::{IResult, Parser};

use crate::lsn::Lsn;
use crate::postgres_major::PostgresMajor;
use crate::system_identifier::SystemIdentifier;
use crate::timeline::id::TimelineId;
use crate::wal::segment_size::{WalSegmentSize, WalSegmentSizeError};

const FIRST_IS_CONTRECORD: u16 = 0x0001;
const LONG_HEADER: u16 = 0x0002;

/// The header of a WAL page, of PostgreSQL 13 to 19, written on a little-endian machine.
///
/// Its magic and its flag bits are known and its timeline is not zero; no
/// more is proven. Whether the page stands where `page_address` says is for
/// the reader to match against the segment's name.
///
/// Source: `XLogPageHeaderData`, src/include/access/xlog_internal.h.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageHeader {
    /// Version of the server that wrote the page, known by `xlp_magic`.
    pub major: PostgresMajor,
    /// Flag bits as they stand in the page. Their meaning depends on `major`: ask the accessors.
    ///
    /// Source: `xlp_info`.
    pub info: u16,
    /// Timeline of the page's first record.
    ///
    /// In the first segment of a new timeline, the pages up to the branch are
    /// copies and bear the parent's number: lower than the segment's name says.
    ///
    /// Source: `xlp_tli`.
    pub timeline: TimelineId,
    /// Position of the page's first byte.
    ///
    /// Source: `xlp_pageaddr`.
    pub page_address: Lsn,
    /// Bytes still to come, counted from this page, of the record that the previous page left unfinished.
    ///
    /// Meaningful if [`PageHeader::first_is_contrecord`]. Unverified: never allocate by it.
    ///
    /// Source: `xlp_rem_len`.
    pub remaining_len: u32,
    /// What the first page of a segment has in addition.
    pub long: Option<LongHeader>,
}

/// What the header of a segment's first page has in addition.
///
/// Source: `XLogLongPageHeaderData`, src/include/access/xlog_internal.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LongHeader {
    /// The cluster that wrote the segment.
    pub system_identifier: SystemIdentifier,
    /// Size of this and every other segment of the cluster.
    pub segment_size: WalSegmentSize,
    /// Bytes in a WAL page: 8192 unless the server was compiled otherwise.
    pub block_size: u32,
}

impl PageHeader {
    /// Bytes in the header of any page but the first of a segment.
    pub const SHORT_LEN: usize = 24;
    /// Bytes in the header of a segment's first page.
    pub const LONG_LEN: usize = 40;

    /// Reads the header at the beginning of `page`; what follows it is ignored.
    ///
    /// # Errors
    /// `Truncated` if there are fewer than [`PageHeader::SHORT_LEN`] bytes, or
    /// fewer than [`PageHeader::LONG_LEN`] of a long header; the other kinds
    /// of [`PageHeaderError`] if a field has a value that no server writes.
    ///
    /// Source: `XLogReaderValidatePageHeader`, src/backend/access/transam/xlogreader.c.
    pub fn parse(page: &[u8]) -> Result<PageHeader, PageHeaderError> {
        let truncated = |needed| PageHeaderError::Truncated {
            needed,
            found: page.len(),
        };
        let (rest, short) = short_fields(page).map_err(|_| truncated(Self::SHORT_LEN))?;
        let (magic, info, timeline, page_address, remaining_len) = short;

        let major = PostgresMajor::from_magic(magic).ok_or(
            match PostgresMajor::from_magic(magic.swap_bytes()) {
                Some(_) => PageHeaderError::BigEndian { magic },
                None => PageHeaderError::UnknownMagic { magic },
            },
        )?;
        let unknown_flags = info & !known_flags(major);
        if unknown_flags != 0 {
            return Err(PageHeaderError::UnknownFlags {
                info,
                unknown_flags,
                major,
            });
        }
        let timeline = TimelineId::new(timeline).ok_or(PageHeaderError::TimelineZero)?;
        let long = if info & LONG_HEADER == 0 {
            None
        } else {
            let (_, (system_identifier, segment_size, block_size)) =
                long_fields(rest).map_err(|_| truncated(Self::LONG_LEN))?;
            Some(LongHeader::check(
                system_identifier,
                segment_size,
                block_size,
            )?)
        };
        Ok(PageHeader {
            major,
            info,
            timeline,
            page_address: Lsn::new(page_address),
            remaining_len,
            long,
        })
    }

    /// Bytes that this header takes in its page.
    pub const fn header_len(&self) -> usize {
        if self.long.is_some() {
            Self::LONG_LEN
        } else {
            Self::SHORT_LEN
        }
    }

    /// Whether the page goes on with a record that the previous page left unfinished.
    ///
    /// Source: `XLP_FIRST_IS_CONTRECORD`.
    pub const fn first_is_contrecord(&self) -> bool {
        self.info & FIRST_IS_CONTRECORD != 0
    }

    /// Whether this is the longer header of a segment's first page.
    ///
    /// Source: `XLP_LONG_HEADER`.
    pub const fn is_long(&self) -> bool {
        self.long.is_some()
    }

    /// Whether no base backup ran when the page was written; always false from 19 on, which no longer marks it.
    ///
    /// Source: `XLP_BKP_REMOVABLE`.
    pub fn backup_removable(&self) -> bool {
        self.info & backup_removable_flag(self.major) != 0
    }

    /// Whether the page takes the place of the rest of a record that was lost in a crash.
    ///
    /// The reader drops what it has of that record and goes on here.
    ///
    /// Source: `XLP_FIRST_IS_OVERWRITE_CONTRECORD`.
    pub fn first_is_overwrite_contrecord(&self) -> bool {
        self.info & overwrite_contrecord_flag(self.major) != 0
    }
}

impl LongHeader {
    fn check(
        system_identifier: u64,
        segment_size: u32,
        block_size: u32,
    ) -> Result<Self, PageHeaderError> {
        // XLOG_BLCKSZ is 1 to 64 KiB (configure --with-wal-blocksize)
        if !block_size.is_power_of_two() || !(1 << 10..=1 << 16).contains(&block_size) {
            return Err(PageHeaderError::BlockSize { block_size });
        }
        Ok(LongHeader {
            system_identifier: SystemIdentifier::new(system_identifier),
            segment_size: WalSegmentSize::new(u64::from(segment_size))
                .map_err(PageHeaderError::SegmentSize)?,
            block_size,
        })
    }
}

/// Source: `XLP_ALL_FLAGS`.
fn known_flags(major: PostgresMajor) -> u16 {
    FIRST_IS_CONTRECORD
        | LONG_HEADER
        | backup_removable_flag(major)
        | overwrite_contrecord_flag(major)
}

fn backup_removable_flag(major: PostgresMajor) -> u16 {
    if major.get() < 19 { 0x0004 } else { 0 }
}

/// 19 dropped `XLP_BKP_REMOVABLE` and moved this flag into its place.
fn overwrite_contrecord_flag(major: PostgresMajor) -> u16 {
    if major.get() < 19 { 0x0008 } else { 0x0004 }
}

fn short_fields(page: &[u8]) -> IResult<&[u8], (u16, u16, u32, u64, u32)> {
    let (rest, (magic, info, timeline, page_address, remaining_len, _padding)) =
        (le_u16, le_u16, le_u32, le_u64, le_u32, le_u32).parse(page)?;
    Ok((rest, (magic, info, timeline, page_address, remaining_len)))
}

fn long_fields(rest: &[u8]) -> IResult<&[u8], (u64, u32, u32)> {
    (le_u64, le_u32, le_u32).parse(rest)
}

/// Why bytes are not the header of a WAL page.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PageHeaderError {
    /// The bytes end within the header.
    #[error("WAL page ends within its header: expected at least {needed} bytes, found {found}")]
    Truncated {
        /// Bytes in the header.
        needed: usize,
        /// Bytes there are.
        found: usize,
    },
    /// No known version begins its pages like this.
    #[error("not a WAL page of PostgreSQL 13 to 19: magic number {magic:04X}")]
    UnknownMagic {
        /// First two bytes, little endian.
        magic: u16,
    },
    /// A known magic with its bytes the other way round.
    #[error("WAL page of a big-endian machine: magic number {:04X} with its bytes reversed", .magic.swap_bytes())]
    BigEndian {
        /// First two bytes, little endian.
        magic: u16,
    },
    /// Flag bits that this version does not have.
    #[error(
        "WAL page of PostgreSQL {major} has unknown flag bits {unknown_flags:04X} (all flags: {info:04X})"
    )]
    UnknownFlags {
        /// All bits.
        info: u16,
        /// Those that are not known.
        unknown_flags: u16,
        /// Version by the page's magic.
        major: PostgresMajor,
    },
    /// Timelines are counted from 1.
    #[error("WAL page names timeline 0, which does not exist")]
    TimelineZero,
    /// The long header has a segment size that no cluster has.
    #[error("WAL page header: {0}")]
    SegmentSize(#[source] WalSegmentSizeError),
    /// The long header has a page size that no server has.
    #[error(
        "WAL page header: {block_size} bytes is no page size: expected a power of two from 1 KiB to 64 KiB"
    )]
    BlockSize {
        /// What stood there.
        block_size: u32,
    },
}

impl PageHeaderError {
    /// What the administrator can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            PageHeaderError::UnknownMagic { .. } => Some(
                "The file is not WAL, is damaged, or comes from a version of PostgreSQL that this build does not know."
                    .to_owned(),
            ),
            PageHeaderError::BigEndian { .. } => Some("WAL of big-endian machines is not supported.".to_owned()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn page(magic: u16, info: u16) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(magic.to_le_bytes());
        bytes.extend(info.to_le_bytes());
        bytes.extend(1u32.to_le_bytes());
        bytes.extend(0x400_0000u64.to_le_bytes());
        bytes.extend(77u32.to_le_bytes());
        bytes.extend(0u32.to_le_bytes());
        bytes.extend(7_574_012_345_678_901_235u64.to_le_bytes());
        bytes.extend((16u32 << 20).to_le_bytes());
        bytes.extend(8192u32.to_le_bytes());
        bytes
    }

    #[test]
    fn the_fields_stand_where_the_server_puts_them() {
        let header = PageHeader::parse(&page(0xD110, 0x0003)).unwrap();
        assert_eq!(header.major.get(), 15);
        assert_eq!(header.timeline, TimelineId::FIRST);
        assert_eq!(header.page_address.to_string(), "0/4000000");
        assert_eq!(header.remaining_len, 77);
        assert!(header.first_is_contrecord());
        assert_eq!(header.header_len(), PageHeader::LONG_LEN);
        let long = header.long.unwrap();
        assert_eq!(long.system_identifier.get(), 7_574_012_345_678_901_235);
        assert_eq!(long.segment_size, WalSegmentSize::DEFAULT);
        assert_eq!(long.block_size, 8192);
    }

    #[test]
    fn flag_0004_means_one_thing_up_to_18_and_another_in_19() {
        let of_18 = PageHeader::parse(&page(0xD118, 0x0004)).unwrap();
        assert!(of_18.backup_removable() && !of_18.first_is_overwrite_contrecord());
        let of_19 = PageHeader::parse(&page(0xD122, 0x0004)).unwrap();
        assert!(!of_19.backup_removable() && of_19.first_is_overwrite_contrecord());
        let of_15 = PageHeader::parse(&page(0xD110, 0x000E)).unwrap();
        assert!(
            of_15.backup_removable() && of_15.first_is_overwrite_contrecord() && of_15.is_long()
        );
    }

    #[test]
    fn flags_that_the_version_does_not_have_are_refused() {
        assert!(matches!(
            PageHeader::parse(&page(0xD122, 0x0008)),
            Err(PageHeaderError::UnknownFlags {
                unknown_flags: 0x0008,
                ..
            })
        ));
        assert!(matches!(
            PageHeader::parse(&page(0xD118, 0x0010)),
            Err(PageHeaderError::UnknownFlags { .. })
        ));
    }

    #[test]
    fn a_short_header_needs_24_bytes_and_a_long_one_40() {
        let (short, long) = (page(0xD118, 0), page(0xD118, 2));
        for len in 0..40 {
            assert_eq!(PageHeader::parse(&short[..len]).is_ok(), len >= 24, "{len}");
            let needed = if len < 24 { 24 } else { 40 };
            assert_eq!(
                PageHeader::parse(&long[..len]),
                Err(PageHeaderError::Truncated { needed, found: len })
            );
        }
        assert!(PageHeader::parse(&short).unwrap().long.is_none());
    }

    #[test]
    fn what_is_not_wal_is_refused() {
        assert_eq!(
            PageHeader::parse(&[0; 8192]),
            Err(PageHeaderError::UnknownMagic { magic: 0 })
        );
        assert_eq!(
            PageHeader::parse(&page(0x18D1, 0)),
            Err(PageHeaderError::BigEndian { magic: 0x18D1 })
        );
        let mut no_timeline = page(0xD118, 0);
        no_timeline[4..8].fill(0);
        assert_eq!(
            PageHeader::parse(&no_timeline),
            Err(PageHeaderError::TimelineZero)
        );
        let mut odd_segment = page(0xD118, 2);
        odd_segment[32] = 1;
        assert!(matches!(
            PageHeader::parse(&odd_segment),
            Err(PageHeaderError::SegmentSize(_))
        ));
        let mut odd_block = page(0xD118, 2);
        odd_block[36] = 1;
        assert_eq!(
            PageHeader::parse(&odd_block),
            Err(PageHeaderError::BlockSize { block_size: 8193 })
        );
    }

    proptest! {
        #[test]
        fn no_bytes_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..64), known: bool) {
            if known && bytes.len() >= 4 {
                bytes[..2].copy_from_slice(&0xD118u16.to_le_bytes());
                bytes[3] = 0;
                bytes[2] &= 0x0F;
            }
            let _ = PageHeader::parse(&bytes);
        }
    }
}
