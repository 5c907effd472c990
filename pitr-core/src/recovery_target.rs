//! Where recovery is to stop, on which timeline, and what to do there.

pub(crate) mod action;
pub(crate) mod restore_point_name;
pub(crate) mod stop;
pub(crate) mod timeline;

use std::fmt;

use crate::lsn::Lsn;
use crate::recovery_target::restore_point_name::RestorePointName;
use crate::timestamp::Timestamp;
use crate::transaction_id::TransactionId;

/// Where recovery is to stop.
///
/// ```
/// use pitr_core::{RecoveryTarget, RecoveryTargetKind};
/// let target = RecoveryTarget { kind: RecoveryTargetKind::Lsn("0/5000028".parse()?), inclusive: false };
/// assert_eq!(target.settings(), [
///     ("recovery_target_lsn", "0/5000028".to_owned()),
///     ("recovery_target_inclusive", "off".to_owned()),
/// ]);
/// # Ok::<(), pitr_core::ParseLsnError>(())
/// ```
///
/// Source: `RecoveryTargetType`, src/include/access/xlogrecovery.h.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RecoveryTarget {
    /// What marks the place.
    pub kind: RecoveryTargetKind,
    /// Whether what stands at the place itself is still replayed.
    ///
    /// Without effect on `Latest` and `Immediate`, and on `Name`, where the
    /// server always stops after the restore point.
    pub inclusive: bool,
}

/// What marks the place where recovery is to stop.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RecoveryTargetKind {
    /// The end of the WAL that there is.
    Latest,
    /// The first place at which the backup is consistent.
    Immediate,
    /// The first commit or abort, in the order of the log, that is later than this (exclusive: as late).
    ///
    /// The server fails if there is none.
    Time(Timestamp),
    /// The first record that begins here or later.
    ///
    /// The functions of SQL return the end of what they speak of, which is
    /// the start of the next record: to include what lies before such a
    /// position and no more, the target must be exclusive.
    Lsn(Lsn),
    /// The commit or abort of this transaction; never that of a subtransaction.
    Xid(TransactionId),
    /// The first restore point of this name.
    Name(RestorePointName),
}

impl RecoveryTarget {
    /// Recovery to the end of the WAL that there is.
    pub const LATEST: RecoveryTarget = RecoveryTarget::to(RecoveryTargetKind::Latest);

    /// The inclusive target of this kind, which is the server's default.
    pub const fn to(kind: RecoveryTargetKind) -> Self {
        RecoveryTarget {
            kind,
            inclusive: true,
        }
    }

    /// The settings that tell the server, each with its value; the values are not quoted. None for `Latest`.
    ///
    /// A time has microseconds and a numeric offset, so that the restored
    /// cluster's `TimeZone` plays no part. One outside the server's own
    /// calendar (4713 BC to 294276 AD) is given as it is, and refused there.
    ///
    /// Source: `recovery_target_time` and its kin, src/backend/access/transam/xlogrecovery.c.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        let inclusive = (
            "recovery_target_inclusive",
            if self.inclusive { "on" } else { "off" }.to_owned(),
        );
        match &self.kind {
            RecoveryTargetKind::Latest => Vec::new(),
            RecoveryTargetKind::Immediate => vec![("recovery_target", "immediate".to_owned())],
            RecoveryTargetKind::Time(time) => {
                vec![("recovery_target_time", time.to_string()), inclusive]
            }
            RecoveryTargetKind::Lsn(lsn) => {
                vec![("recovery_target_lsn", lsn.to_string()), inclusive]
            }
            RecoveryTargetKind::Xid(xid) => {
                vec![("recovery_target_xid", xid.to_string()), inclusive]
            }
            RecoveryTargetKind::Name(name) => vec![("recovery_target_name", name.to_string())],
        }
    }
}

impl fmt::Display for RecoveryTarget {
    /// For messages: `time 2026-11-20 07:25:00.000000+00, exclusive`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exclusive = if self.inclusive { "" } else { ", exclusive" };
        match &self.kind {
            RecoveryTargetKind::Latest => f.write_str("end of the archived WAL"),
            RecoveryTargetKind::Immediate => f.write_str("first consistent point"),
            RecoveryTargetKind::Time(time) => write!(f, "time {time}{exclusive}"),
            RecoveryTargetKind::Lsn(lsn) => write!(f, "LSN {lsn}{exclusive}"),
            RecoveryTargetKind::Xid(xid) => write!(f, "transaction {xid}{exclusive}"),
            RecoveryTargetKind::Name(name) => write!(f, "restore point \"{name}\""),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(kind: RecoveryTargetKind, inclusive: bool) -> Vec<(&'static str, String)> {
        RecoveryTarget { kind, inclusive }.settings()
    }

    fn pairs(list: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
        list.iter()
            .map(|(name, value)| (*name, (*value).to_owned()))
            .collect()
    }

    #[test]
    fn a_time_is_told_with_microseconds_and_offset() {
        let time = RecoveryTargetKind::Time(Timestamp::new(0x0003_03AE_E923_2B9C));
        assert_eq!(
            settings(time, true),
            pairs(&[
                ("recovery_target_time", "2026-11-20 07:25:00.721052+00"),
                ("recovery_target_inclusive", "on")
            ])
        );
    }

    #[test]
    fn never_more_than_one_target_is_set() {
        let xid = RecoveryTargetKind::Xid("779".parse().unwrap());
        let name = RecoveryTargetKind::Name("before upgrade".parse().unwrap());
        for (kind, expected) in [
            (RecoveryTargetKind::Latest, pairs(&[])),
            (
                RecoveryTargetKind::Immediate,
                pairs(&[("recovery_target", "immediate")]),
            ),
            (
                xid,
                pairs(&[
                    ("recovery_target_xid", "779"),
                    ("recovery_target_inclusive", "off"),
                ]),
            ),
            (name, pairs(&[("recovery_target_name", "before upgrade")])),
        ] {
            assert_eq!(settings(kind, false), expected);
        }
    }

    #[test]
    fn messages_name_the_place() {
        assert_eq!(
            RecoveryTarget::LATEST.to_string(),
            "end of the archived WAL"
        );
        let target = RecoveryTarget {
            kind: RecoveryTargetKind::Lsn(Lsn::new(0x500_0028)),
            inclusive: false,
        };
        assert_eq!(target.to_string(), "LSN 0/5000028, exclusive");
    }
}
