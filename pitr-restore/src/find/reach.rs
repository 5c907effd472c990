//! Whether the moment before a finding can be reached, and from which backup.

use std::collections::{BTreeMap, BTreeSet};

use chrono::Utc;
use pitr_console::{Console, Explain as _, Failure};
use pitr_core::{Lsn, RecoveryTarget, RecoveryTargetKind, RecoveryTargetTimeline, SegmentName};
use pitr_store::backup::Label;

use super::ground::Ground;
use crate::plan::choice::{Wish, choose};
use crate::plan::inventory::brought_segments;
use crate::plan::prove_before;
use crate::plan::refusal::Refusal;
use crate::sources::Sources;

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
pub(crate) struct Reaches<'g> {
    ground: &'g mut Ground,
    sources: &'g Sources,
    console: Console,
    /// How far the log leads from each backup without a gap.
    proven: BTreeMap<Label, Lsn>,
    brought: BTreeMap<Label, BTreeSet<SegmentName>>,
}

impl<'g> Reaches<'g> {
    pub(crate) fn new(ground: &'g mut Ground, sources: &'g Sources, console: Console) -> Self {
        Self {
            ground,
            sources,
            console,
            proven: BTreeMap::new(),
            brought: BTreeMap::new(),
        }
    }

    /// Whether recovery can stop just before the record at `lsn`.
    ///
    /// # Errors
    /// The store failed.
    pub(crate) fn to(&mut self, lsn: Lsn) -> Result<Reach, Failure> {
        let target = just_before(lsn);
        let timeline = RecoveryTargetTimeline::Id(self.ground.timeline());
        let inventory = &mut self.ground.inventory;
        let wish = Wish {
            target: &target,
            timeline,
            backup: None,
            now: Utc::now(),
        };
        let choice = match choose(&inventory.backups, &inventory.histories, &wish) {
            Ok(choice) => choice,
            Err(refusal) => return Ok(not(&refusal)),
        };
        let label = choice.backup.label;
        if self.proven.get(&label).is_some_and(|end| lsn < *end) {
            return Ok(Reach::From(label));
        }
        let brought = self.brought.entry(label).or_insert_with(|| {
            let reader = self.sources.open_backup(label, self.console);
            reader.map_or_else(|_| BTreeSet::new(), |reader| brought_segments(&reader))
        });
        let behind = lsn.checked_add(1).unwrap_or(lsn);
        inventory.look_until(&choice.path, behind)?;
        let proven = prove_before(choice.clone(), lsn, inventory.wal(), brought);
        let refusal = match proven {
            Ok(plan) => {
                self.proven.insert(label, plan.coverage.end);
                return Ok(Reach::From(label));
            }
            Err(refusal) => refusal,
        };
        // to tell where the log goes on
        inventory.look_until(&choice.path, Lsn::new(u64::MAX))?;
        let again = prove_before(choice, lsn, inventory.wal(), brought);
        Ok(not(&again.err().unwrap_or(refusal)))
    }
}

fn not(refusal: &Refusal) -> Reach {
    Reach::Not {
        reason: refusal.to_string(),
        hint: refusal.hint(),
    }
}
