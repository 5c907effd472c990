//! Whether the moment before a finding can be reached, and from which backup.

use std::collections::{BTreeMap, BTreeSet};

use chrono::Utc;
use pitr_console::Explain as _;
use pitr_core::{Lsn, RecoveryTarget, RecoveryTargetKind, RecoveryTargetTimeline};
use pitr_store::backup::Label;

use super::ground::Ground;
use crate::plan::choice::{Wish, choose};
use crate::plan::inventory::brought_segments;
use crate::plan::prove_before;

/// Whether a moment can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reach {
    /// From this backup.
    From(Label),
    /// Why not, and what can be done.
    Not {
        reason: String,
        hint: Option<String>,
    },
}

/// Recovery to just before a record.
pub(crate) fn just_before(lsn: Lsn) -> RecoveryTarget {
    RecoveryTarget {
        kind: RecoveryTargetKind::Lsn(lsn),
        inclusive: false,
    }
}

/// Answers for many moments; what was proven for one holds for those before it.
#[derive(Debug)]
pub(crate) struct Reaches<'g> {
    ground: &'g Ground<'g>,
    /// How far the log leads from each backup without a gap.
    proven: BTreeMap<Label, Lsn>,
}

impl<'g> Reaches<'g> {
    pub(crate) fn new(ground: &'g Ground<'g>) -> Self {
        Self {
            ground,
            proven: BTreeMap::new(),
        }
    }

    /// Whether recovery can stop just before the record at `lsn`.
    pub(crate) fn to(&mut self, lsn: Lsn) -> Reach {
        let target = just_before(lsn);
        let inventory = &self.ground.inventory;
        let wish = Wish {
            target: &target,
            timeline: RecoveryTargetTimeline::Id(self.ground.timeline()),
            backup: None,
            now: Utc::now(),
        };
        let choice = match choose(&inventory.backups, &inventory.histories, &wish) {
            Ok(choice) => choice,
            Err(refusal) => {
                return Reach::Not {
                    reason: refusal.to_string(),
                    hint: refusal.hint(),
                };
            }
        };
        let label = choice.backup.label;
        if self.proven.get(&label).is_some_and(|end| lsn < *end) {
            return Reach::From(label);
        }
        let brought = match self.ground.cluster.backups().open(label) {
            Ok(Some(reader)) => brought_segments(&reader),
            _ => BTreeSet::new(),
        };
        match prove_before(choice, lsn, inventory.wal(), &brought) {
            Ok(plan) => {
                self.proven.insert(label, plan.coverage.end);
                Reach::From(label)
            }
            Err(refusal) => Reach::Not {
                reason: refusal.to_string(),
                hint: refusal.hint(),
            },
        }
    }
}
