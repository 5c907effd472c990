//! The search: which segments are read, and what is found in them.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use pitr_console::{Console, Failure, Progress};
use pitr_core::{
    Finding, Follower, Interest, Lsn, NoCatalogFiles, SegmentName, Thresholds, TransactionId,
};
use pitr_store::backup::Label;

use super::catalog_files::BackupCatalogs;
use super::digests::{self, Read};
use super::ground::Ground;
use super::range::SearchRange;
use super::stretch::Stretch;
use super::summaries;
use crate::archived_log::LogError;
use crate::sources::Sources;

/// How often a search begins anew because a catalog has moved to another file.
const MAX_PASSES: usize = 16;

/// What is searched for.
#[derive(Debug, Clone)]
pub(crate) struct SearchRequest {
    pub(crate) range: SearchRange,
    pub(crate) thresholds: Thresholds,
    pub(crate) quiet_micros: i64,
    pub(crate) threads: usize,
}

/// What was found, and in what.
#[derive(Debug, Default)]
pub(crate) struct Searched {
    pub(crate) findings: Vec<Finding>,
    /// Where the search began and ended.
    pub(crate) begin: Option<Lsn>,
    pub(crate) end: Option<Lsn>,
    /// Segments in the range, and those before it that names were followed through.
    pub(crate) segments: u64,
    /// Segments that were read: of the others the summaries say that nothing
    /// of interest is in them.
    pub(crate) segments_read: u64,
    /// Backups that names come from.
    pub(crate) names_from: Vec<Label>,
    /// Missing segments within the range.
    pub(crate) gaps: Vec<SegmentName>,
}

/// A part of a stretch, with the names that are known of it.
#[derive(Debug)]
struct Leg {
    base: Option<Label>,
    /// Pieces to go through.
    pieces: Range<usize>,
    /// The first piece of the range itself.
    in_range: usize,
    /// Findings from here on, up to there, are told.
    report: Range<Lsn>,
    /// A piece that the next leg begins with again.
    shared: Option<usize>,
}

/// Searches the ground.
///
/// # Errors
/// The store failed. What cannot be read of the log itself is warned of.
pub(crate) fn search(
    ground: &mut Ground,
    sources: &Sources,
    request: &SearchRequest,
    console: Console,
) -> Result<Searched, Failure> {
    let mut searched = Searched::default();
    let xid = request.thresholds.xid.and_then(TransactionId::new);
    let extent = ground.extent(&request.range, xid)?;
    let stretches = ground.stretches(&extent)?;
    let scene = Scene {
        ground,
        sources,
        request,
        console,
    };
    let mut last_searched: Option<&Stretch> = None;
    for stretch in &stretches {
        let range = pieces_of(stretch, &extent);
        if range.is_empty() {
            continue;
        }
        if let Some(before) = last_searched {
            searched.gaps.extend(before.missing_behind());
        }
        last_searched = Some(stretch);
        let size = scene.ground.segment_size();
        let first = stretch.pieces.get(range.start);
        let last = stretch.pieces.get(range.end - 1);
        let begin = first.map(|piece| piece.number.start(size));
        searched.begin = searched.begin.or(begin);
        searched.end = last.map(|piece| piece.until);
        for leg in legs(scene.ground, stretch, &range) {
            scene.go_along(stretch, &leg, &mut searched)?;
        }
    }
    let range = &request.range;
    let size = scene.ground.segment_size();
    searched
        .findings
        .retain(|finding| range.contains(finding, size));
    // quiet spans are only known when they have ended
    searched.findings.sort_by_key(|finding| finding.lsn);
    Ok(searched)
}

/// What a search has to do with, wherever it is.
#[derive(Clone, Copy)]
struct Scene<'s> {
    ground: &'s Ground,
    sources: &'s Sources,
    request: &'s SearchRequest,
    console: Console,
}

/// The pieces of a stretch that lie in the extent.
fn pieces_of(stretch: &Stretch, extent: &Range<Lsn>) -> Range<usize> {
    let count = stretch.pieces.len();
    let begin = stretch.index_of(extent.start).min(count);
    let last = extent.end.checked_sub(1).unwrap_or(extent.end);
    let end = if last < stretch.begin() {
        0
    } else {
        (stretch.index_of(last) + 1).min(count)
    };
    begin..end.max(begin)
}

/// Divides a range where a base backup gives names that were not known before.
fn legs(ground: &Ground, stretch: &Stretch, range: &Range<usize>) -> Vec<Leg> {
    let size = ground.segment_size();
    let begin = stretch
        .pieces
        .get(range.start)
        .map_or(Lsn::INVALID, |piece| piece.number.start(size));
    let end = Lsn::new(u64::MAX);
    let inside: Vec<_> = ground
        .backups()
        .into_iter()
        .filter(|backup| stretch.contains(backup.start_lsn))
        .collect();
    if let Some(base) = inside.iter().rfind(|backup| backup.start_lsn <= begin) {
        return vec![Leg {
            base: Some(base.label),
            pieces: stretch.index_of(base.start_lsn)..range.end,
            in_range: range.start,
            report: begin..end,
            shared: None,
        }];
    }
    let within = |lsn: Lsn| range.contains(&stretch.index_of(lsn));
    let Some(first) = inside.iter().find(|backup| within(backup.start_lsn)) else {
        return vec![Leg {
            base: None,
            pieces: range.clone(),
            in_range: range.start,
            report: begin..end,
            shared: None,
        }];
    };
    // before the first backup the log alone gives names
    let index = stretch.index_of(first.start_lsn);
    vec![
        Leg {
            base: None,
            pieces: range.start..index + 1,
            in_range: range.start,
            report: begin..first.start_lsn,
            shared: Some(index),
        },
        Leg {
            base: Some(first.label),
            pieces: index..range.end,
            in_range: index,
            report: first.start_lsn..end,
            shared: None,
        },
    ]
}

impl Scene<'_> {
    /// Reads one leg, as often as catalogs turn out to lie elsewhere.
    fn go_along(
        &self,
        stretch: &Stretch,
        leg: &Leg,
        searched: &mut Searched,
    ) -> Result<(), Failure> {
        let Self {
            ground,
            sources,
            request,
            console,
        } = *self;
        let mut base = match leg.base {
            None => None,
            Some(label) => Some(BackupCatalogs::new(sources.open_backup(label, console)?)),
        };
        let pieces = stretch.pieces.get(leg.pieces.clone()).unwrap_or(&[]);
        let is_all = |index: usize| !request.thresholds.drops_only && index >= leg.in_range;
        // where all of it is read nothing has to be asked before
        let asked = if is_all(leg.pieces.start) {
            Vec::new()
        } else {
            pieces.to_vec()
        };
        let (hints, moved) = summaries::hints(ground.log(), &asked, request.threads);
        let mut catalog_files: HashSet<u32> = moved.into_iter().collect();
        if let Some(base) = &mut base {
            catalog_files.extend(base.moved_files());
        }
        let counted = pieces.len() - usize::from(leg.shared.is_some());
        searched.segments += u64::try_from(counted).unwrap_or(u64::MAX);
        for _ in 0..MAX_PASSES {
            // summaries do not tell of rows in files that catalogs moved to
            let everything = !catalog_files.is_empty();
            let wanted: Vec<bool> = (0..stretch.pieces.len())
                .map(|index| {
                    let hint = index
                        .checked_sub(leg.pieces.start)
                        .and_then(|index| hints.get(index));
                    leg.pieces.contains(&index)
                        && (everything
                            || is_all(index)
                            || hint.is_some_and(|hint| hint.has_changes))
                })
                .collect();
            let interest = Arc::new(Interest {
                catalog_files: catalog_files.clone(),
                rows: !request.thresholds.drops_only,
                quiet_micros: request.quiet_micros,
            });
            let files: Box<dyn pitr_core::CatalogFiles> = match &base {
                Some(base) => Box::new(base.clone()),
                None => Box::new(NoCatalogFiles),
            };
            let mut pass = Pass {
                scene: *self,
                stretch,
                interest,
                follower: Follower::new(
                    files,
                    ground.log().identity().major,
                    request.thresholds.clone(),
                    request.quiet_micros,
                ),
                findings: Vec::new(),
                shared: leg.shared,
                segments_read: 0,
            };
            pass.run(leg, &wanted)?;
            for trouble in base.iter().flat_map(BackupCatalogs::troubles) {
                let message = format!("names are not all known: {trouble}");
                console.warn(message, None, None);
            }
            let moved = pass.follower.moved();
            if !moved.is_subset(&catalog_files) {
                catalog_files.extend(moved);
                continue;
            }
            searched.segments_read += pass.segments_read;
            let told = pass.findings.into_iter();
            let in_leg = told.filter(|finding| leg.report.contains(&finding.lsn));
            searched.findings.extend(in_leg);
            searched.names_from.extend(leg.base);
            return Ok(());
        }
        Err(
            Failure::new("the catalogs were moved too often to be followed in one search")
                .with_hint("Narrow the range with --from and --until."),
        )
    }
}

/// One reading of a leg.
struct Pass<'p> {
    scene: Scene<'p>,
    stretch: &'p Stretch,
    interest: Arc<Interest>,
    follower: Follower<'p>,
    findings: Vec<Finding>,
    /// A piece that is counted by the next leg.
    shared: Option<usize>,
    segments_read: u64,
}

impl Pass<'_> {
    fn run(&mut self, leg: &Leg, wanted: &[bool]) -> Result<(), Failure> {
        let threads = self.scene.request.threads;
        let runs = digests::runs(self.stretch, wanted, threads);
        let to_read: u64 = runs.iter().map(|run| self.bytes_of(run)).sum();
        let progress = Progress::start(self.scene.console, "searching", to_read);
        let log = self.scene.ground.log();
        let (stretch, interest) = (self.stretch, Arc::clone(&self.interest));
        let mut position = leg.pieces.start;
        let follow = |index: usize, read: Read| -> Result<(), Failure> {
            let Some(run) = runs.get(index) else {
                return Ok(());
            };
            self.go_on_until(position, run.start, &progress)?;
            self.take(run, read, &progress)?;
            position = run.end;
            Ok(())
        };
        digests::read_runs(log, stretch, &runs, &interest, threads, &progress, follow)?;
        self.go_on_until(position, leg.pieces.end, &progress)?;
        progress.finish();
        Ok(())
    }

    /// Reads pieces that seemed to be of no interest as long as a transaction
    /// that changes catalogs has not ended.
    fn go_on_until(&mut self, from: usize, end: usize, progress: &Progress) -> Result<(), Failure> {
        let log = self.scene.ground.log();
        for index in from..end {
            if !self.follower.has_open_changes() {
                break;
            }
            let run = index..index + 1;
            let read = digests::read_run(log, self.stretch, &run, &self.interest, progress);
            self.take(&run, read, progress)?;
        }
        Ok(())
    }

    fn take(&mut self, run: &Range<usize>, read: Read, progress: &Progress) -> Result<(), Failure> {
        match read {
            Ok(digest) => {
                self.follower.follow(&digest);
                for damage in digest.damage() {
                    progress.say(|console| {
                        console.warn(format!("the log is damaged: {damage}"), None, None);
                    });
                }
            }
            // of the store, and not of one segment
            Err(error @ (LogError::Store(_) | LogError::Spool(_))) => return Err(error.into()),
            Err(error) => {
                progress.say(|console| {
                    let detail = "What happened in it is not known.";
                    console.warn(error.to_string(), Some(detail), None);
                });
                self.follower.gap();
            }
        }
        let counted = run.clone().filter(|index| Some(*index) != self.shared);
        self.segments_read += u64::try_from(counted.count()).unwrap_or(u64::MAX);
        self.findings.extend(self.follower.findings());
        Ok(())
    }

    fn bytes_of(&self, run: &Range<usize>) -> u64 {
        let count = u64::try_from(run.len()).unwrap_or(u64::MAX);
        count.saturating_mul(self.stretch.segment_bytes())
    }
}
