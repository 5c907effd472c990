//! Which segment some bytes are, by their first page and their length.

use pitr_core::{
    Lsn, PageHeader, PageHeaderError, PostgresMajor, SegmentName, SystemIdentifier, TimelineId,
    WalFileName, WalFileNameError, WalSegmentSize,
};

use crate::repository::ClusterIdentity;

/// What a segment says about itself in its first page, found consistent with
/// its name and length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentIdentity {
    /// The cluster and its kind of log.
    pub cluster: ClusterIdentity,
    /// Bytes in one page of the log, `XLOG_BLCKSZ`.
    pub block_size: u32,
    /// Timeline in the first page: at most that of the name, because the first
    /// segment of a timeline begins with a copy of its parent's pages.
    pub header_timeline: TimelineId,
    /// Where the segment begins.
    pub start: Lsn,
}

/// Why some bytes are not the segment that their name says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentifyError {
    /// The name is that of a text file, which has no pages.
    #[error("\"{name}\" is no WAL segment")]
    NotASegmentName {
        /// The name.
        name: WalFileName,
    },
    /// No bytes at all.
    #[error("\"{name}\" is empty")]
    Empty {
        /// The name.
        name: WalFileName,
    },
    /// The first page is no page of a log.
    #[error("\"{name}\" does not begin with a WAL page: {source}")]
    NotWal {
        /// The name.
        name: WalFileName,
        /// What is wrong with the page.
        source: PageHeaderError,
    },
    /// The first page lacks the long header that begins every segment.
    #[error(
        "\"{name}\" does not begin a WAL segment: its first page has no long header (page address {page_address})"
    )]
    NotAtSegmentStart {
        /// The name.
        name: WalFileName,
        /// Where the page says that it belongs.
        page_address: Lsn,
    },
    /// The file is not as long as its header says.
    #[error(
        "\"{name}\" has {found_bytes} bytes, but its header says that a segment has {expected_bytes}"
    )]
    Length {
        /// The name.
        name: WalFileName,
        /// The segment size in the header.
        expected_bytes: u64,
        /// The length.
        found_bytes: u64,
    },
    /// No cluster with the header's segment size makes such a name.
    #[error(transparent)]
    Name(WalFileNameError),
    /// The first page belongs elsewhere in the log.
    #[error(
        "\"{name}\" begins with the page of {found} where {expected} belongs: the content is that of segment {content}"
    )]
    PageAddress {
        /// The name.
        name: WalFileName,
        /// Start of the segment by its name.
        expected: Lsn,
        /// Address in the first page.
        found: Lsn,
        /// The segment that begins with that page, on the page's timeline.
        content: SegmentName,
    },
    /// The content was written on a later timeline than the name's.
    #[error("\"{name}\" holds WAL of timeline {found}, its name says timeline {expected}")]
    TimelineAboveName {
        /// The name.
        name: WalFileName,
        /// The name's timeline.
        expected: TimelineId,
        /// The first page's timeline.
        found: TimelineId,
    },
    /// The segment belongs to another cluster.
    #[error("\"{name}\" belongs to cluster {found}, not to cluster {expected}")]
    OtherCluster {
        /// The name.
        name: WalFileName,
        /// The cluster that the log is of.
        expected: SystemIdentifier,
        /// The cluster in the header.
        found: SystemIdentifier,
    },
    /// The cluster's segments are of another size.
    #[error(
        "\"{name}\" is a segment of {found}, those of cluster {system_identifier} are of {expected}"
    )]
    OtherSegmentSize {
        /// The name.
        name: WalFileName,
        /// The cluster.
        system_identifier: SystemIdentifier,
        /// Segment size of the cluster.
        expected: WalSegmentSize,
        /// Segment size in the header.
        found: WalSegmentSize,
    },
    /// The cluster is of another PostgreSQL version.
    #[error(
        "\"{name}\" was written by PostgreSQL {found}, cluster {system_identifier} is of PostgreSQL {expected}"
    )]
    OtherMajor {
        /// The name.
        name: WalFileName,
        /// The cluster.
        system_identifier: SystemIdentifier,
        /// Version of the cluster.
        expected: PostgresMajor,
        /// Version by the page's magic number.
        found: PostgresMajor,
    },
}

impl IdentifyError {
    /// What the administrator can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotASegmentName { .. } => None,
            Self::Name(error) => error.hint(),
            Self::NotWal { source, .. } => source.hint(),
            Self::Empty { .. } | Self::Length { .. } | Self::NotAtSegmentStart { .. } => {
                Some("A finished segment always has its full length. Is the server's disk full or damaged?".to_owned())
            }
            Self::PageAddress { .. } => Some(
                "The file was renamed, or never written under this name. In archive_command, %p is the path and %f the file name."
                    .to_owned(),
            ),
            Self::TimelineAboveName { .. } => Some(
                "The file was renamed, or written by a server that is on another timeline.".to_owned(),
            ),
            Self::OtherCluster { .. } => {
                Some("Give every cluster a repository of its own, or allow this one with \"pitr-archive init --add\".".to_owned())
            }
            Self::OtherSegmentSize { .. } | Self::OtherMajor { .. } => Some(
                "After such a change of the cluster a new repository and a new base backup are needed."
                    .to_owned(),
            ),
        }
    }
}

/// Finds out which segment begins with `first_page`, and whether that is the
/// one that `name` says.
///
/// `first_page` needs the first 40 bytes; more does no harm. `total_len` is
/// the length of the whole file. Pure: to be called before a repository is
/// claimed, since the answer says for whom.
///
/// # Errors
/// Everything that is certainly wrong: not WAL, not a whole segment, not the
/// one named. `NotASegmentName` for history and backup history files.
///
/// Source: `XLogReaderValidatePageHeader`, src/backend/access/transam/xlogreader.c.
pub fn identify(
    name: &WalFileName,
    first_page: &[u8],
    total_len: u64,
) -> Result<SegmentIdentity, IdentifyError> {
    let name = *name;
    let (WalFileName::Segment(segment) | WalFileName::Partial(segment)) = name else {
        return Err(IdentifyError::NotASegmentName { name });
    };
    if total_len == 0 {
        return Err(IdentifyError::Empty { name });
    }
    let header =
        PageHeader::parse(first_page).map_err(|source| IdentifyError::NotWal { name, source })?;
    let Some(long) = header.long else {
        return Err(IdentifyError::NotAtSegmentStart {
            name,
            page_address: header.page_address,
        });
    };
    if total_len != long.segment_size.bytes() {
        return Err(IdentifyError::Length {
            name,
            expected_bytes: long.segment_size.bytes(),
            found_bytes: total_len,
        });
    }
    let start = segment
        .start(long.segment_size)
        .map_err(IdentifyError::Name)?;
    if header.page_address != start {
        return Err(IdentifyError::PageAddress {
            name,
            expected: start,
            found: header.page_address,
            content: SegmentName::containing(
                header.timeline,
                header.page_address,
                long.segment_size,
            ),
        });
    }
    if header.timeline > segment.timeline() {
        return Err(IdentifyError::TimelineAboveName {
            name,
            expected: segment.timeline(),
            found: header.timeline,
        });
    }
    Ok(SegmentIdentity {
        cluster: ClusterIdentity {
            system_identifier: long.system_identifier,
            major: header.major,
            segment_size: long.segment_size,
        },
        block_size: long.block_size,
        header_timeline: header.timeline,
        start,
    })
}

impl SegmentIdentity {
    /// Checks that the segment is of the cluster `expected`.
    ///
    /// # Errors
    /// `OtherCluster`, `OtherSegmentSize`, `OtherMajor`.
    pub fn check_cluster(
        &self,
        name: &WalFileName,
        expected: &ClusterIdentity,
    ) -> Result<(), IdentifyError> {
        let (name, found) = (*name, self.cluster);
        let system_identifier = expected.system_identifier;
        if found.system_identifier != system_identifier {
            return Err(IdentifyError::OtherCluster {
                name,
                expected: system_identifier,
                found: found.system_identifier,
            });
        }
        if found.segment_size != expected.segment_size {
            return Err(IdentifyError::OtherSegmentSize {
                name,
                system_identifier,
                expected: expected.segment_size,
                found: found.segment_size,
            });
        }
        if found.major != expected.major {
            return Err(IdentifyError::OtherMajor {
                name,
                system_identifier,
                expected: expected.major,
                found: found.major,
            });
        }
        Ok(())
    }
}
