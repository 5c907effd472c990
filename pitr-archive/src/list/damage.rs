//! `list --damaged`: segments that were archived although records in them are
//! damaged, found by their summaries alone.
//!
//! A record that lies in two segments was checked in neither of them. Their
//! summaries tell together whether it is whole.

use std::fmt::Write as _;

use pitr_console::Failure;
use pitr_core::{DamageSeen, LogSeams, SystemIdentifier, WalFileName};
use pitr_store::wal::{SummaryError, WalArchive};
use pitr_store::{Cluster, StoreError};
use serde::Serialize;

/// What the summaries of a repository say of damage.
#[derive(Debug, Default, Serialize)]
pub(super) struct DamageReport {
    pub(super) damaged: Vec<DamagedSegment>,
    /// Segments whose summary was read.
    pub(super) summaries: u64,
    /// Segments without a summary, of which nothing can be told without
    /// reading them.
    pub(super) without_summary: u64,
}

/// A segment with damage in it or where it meets the one before, or with a
/// summary that is damaged itself.
#[derive(Debug, Serialize)]
pub(super) struct DamagedSegment {
    pub(super) system_identifier: SystemIdentifier,
    pub(super) segment: WalFileName,
    pub(super) damage: Vec<DamageSeen>,
    pub(super) unreadable: Option<String>,
}

pub(super) fn gather(clusters: &[Cluster]) -> Result<DamageReport, Failure> {
    let mut report = DamageReport::default();
    for cluster in clusters {
        let archive = cluster.wal();
        for timeline in archive.timelines()? {
            // in the order of the log
            let mut seams = LogSeams::default();
            for file in archive.content(timeline)?.files {
                let segment = file.name;
                if matches!(segment, WalFileName::Segment(_) | WalFileName::Partial(_)) {
                    report.look_at(cluster, &archive, segment, &mut seams)?;
                }
            }
        }
    }
    Ok(report)
}

impl DamageReport {
    fn look_at(
        &mut self,
        cluster: &Cluster,
        archive: &WalArchive,
        segment: WalFileName,
        seams: &mut LogSeams,
    ) -> Result<(), Failure> {
        let (damage, unreadable) = match archive.summary(&segment) {
            Ok(Some(mut summary)) => {
                self.summaries += 1;
                let seam = summary.edges().and_then(|edges| seams.add(&edges));
                summary.damage.extend(seam.as_ref().map(DamageSeen::from));
                (summary.damage, None)
            }
            Ok(None) => {
                self.without_summary += 1;
                return Ok(());
            }
            Err(SummaryError::Store(StoreError::Encryption(error))) if error.is_damage() => {
                (Vec::new(), Some(error.to_string()))
            }
            Err(SummaryError::Store(error)) => return Err(error.into()),
            Err(error) => (Vec::new(), Some(error.to_string())),
        };
        if !damage.is_empty() || unreadable.is_some() {
            self.damaged.push(DamagedSegment {
                system_identifier: cluster.identity().system_identifier,
                segment,
                damage,
                unreadable,
            });
        }
        Ok(())
    }

    pub(super) fn text(&self) -> String {
        let mut out = String::new();
        // writing to a String cannot fail
        for segment in &self.damaged {
            for damage in &segment.damage {
                let _ = writeln!(
                    out,
                    "{} of cluster {}: damaged at {}: {}",
                    segment.segment, segment.system_identifier, damage.lsn, damage.what
                );
            }
            if let Some(reason) = &segment.unreadable {
                let _ = writeln!(out, "{}: {reason}", segment.segment);
            }
        }
        let _ = writeln!(
            out,
            "{} damaged segments, by {} summaries",
            self.damaged.len(),
            self.summaries
        );
        if self.without_summary > 0 {
            let _ = writeln!(
                out,
                "{} segments have no summary (stored as xz, uncompressed or by an earlier version)",
                self.without_summary
            );
        }
        out
    }
}
