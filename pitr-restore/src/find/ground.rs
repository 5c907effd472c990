//! What is searched: the archived log along one timeline, and the backups on it.

use pitr_console::{Console, Failure};
use pitr_core::{RecoveryTargetTimeline, TimelineHistory, TimelineId, WalSegmentSize};
use pitr_store::Cluster;

use super::stretch::{Stretch, path_from};
use crate::plan::choice::BackupFacts;
use crate::plan::inventory::Inventory;
use crate::plan::refusal::Refusal;

/// What is searched.
#[derive(Debug)]
pub(crate) struct Ground<'c> {
    pub(crate) cluster: &'c Cluster,
    pub(crate) inventory: Inventory,
    pub(crate) history: TimelineHistory,
    /// What there is of the log, divided where segments are missing.
    pub(crate) stretches: Vec<Stretch>,
}

impl<'c> Ground<'c> {
    /// Lists what there is along `timeline`: a timeline by its number, else
    /// that which a restore takes by itself.
    ///
    /// # Errors
    /// The store failed, or there is no such timeline, or nothing to search.
    pub(crate) fn survey(
        cluster: &'c Cluster,
        timeline: RecoveryTargetTimeline,
        console: Console,
    ) -> Result<Self, Failure> {
        let inventory = Inventory::take_whole(cluster)?;
        for damaged in &inventory.damaged_backups {
            let message = format!(
                "base backup {} is passed over: {}",
                damaged.label, damaged.error
            );
            console.warn(message, None, None);
        }
        for (timeline, error) in &inventory.damaged_histories {
            let message = format!("timeline {timeline} is passed over: {error}");
            console.warn(message, None, None);
        }
        let archive = cluster.wal();
        let mut known = archive.timelines()?;
        known.extend(inventory.backups.iter().map(|backup| backup.timeline));
        known.sort_unstable();
        known.dedup();
        let history_of = |timeline: TimelineId| {
            let known = inventory.histories.get(&timeline).cloned();
            known.unwrap_or_else(|| TimelineHistory::root(timeline))
        };
        let timeline = match timeline {
            RecoveryTargetTimeline::Id(timeline) if !known.contains(&timeline) => {
                return Err(Refusal::UnknownTimeline { timeline, known }.into());
            }
            RecoveryTargetTimeline::Id(timeline) => timeline,
            RecoveryTargetTimeline::Latest | RecoveryTargetTimeline::Current => {
                let leads_there = |timeline: &&TimelineId| {
                    let history = history_of(**timeline);
                    let mut backups = inventory.backups.iter();
                    backups.any(|backup| is_on(&history, backup))
                };
                let reachable = known.iter().rev().find(leads_there);
                let newest = reachable.or(known.last()).copied();
                newest.ok_or_else(|| {
                    Failure::new("the repository holds no write-ahead log of this cluster")
                })?
            }
        };
        let history = history_of(timeline);
        let stretches = Stretch::all(&archive, &history)?;
        if stretches.is_empty() {
            return Err(Failure::new(format!(
                "the repository holds no write-ahead log of timeline {timeline}"
            )));
        }
        Ok(Self {
            cluster,
            inventory,
            history,
            stretches,
        })
    }

    pub(crate) fn segment_size(&self) -> WalSegmentSize {
        self.cluster.identity().segment_size
    }

    pub(crate) fn timeline(&self) -> TimelineId {
        self.history.timeline()
    }

    /// Base backups that lie on the way, oldest first.
    pub(crate) fn backups(&self) -> Vec<&BackupFacts> {
        let all = self.inventory.backups.iter();
        let mut backups: Vec<&BackupFacts> =
            all.filter(|backup| is_on(&self.history, backup)).collect();
        backups.sort_by_key(|backup| (backup.start_lsn, backup.label));
        backups
    }
}

fn is_on(history: &TimelineHistory, backup: &BackupFacts) -> bool {
    path_from(history, backup.timeline, backup.start_lsn).is_some()
}
