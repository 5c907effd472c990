//! Where a base backup goes: into one repository first, and from there into
//! the others, before the command says that it is done.

use pitr_console::{ByteCount, Console, Failure, Progress, Settings};
use pitr_core::{SegmentName, TimelineId, WalFileName};
use pitr_store::backup::{BackupInfo, Label};
use pitr_store::wal::WalArchive;
use pitr_store::{Cluster, ClusterIdentity, Repository};

use crate::repository;

/// The repositories that answer, in the order of the setting.
pub(crate) struct Targets {
    repositories: Vec<Repository>,
    /// How many are named.
    named: usize,
    required: usize,
}

impl Targets {
    /// Opens the repositories. Those that do not answer are named, and enough
    /// others must be left.
    pub(crate) fn open(settings: &Settings, console: Console) -> Result<Self, Failure> {
        let named = settings.repositories()?.len();
        if named == 1 {
            return Ok(Self {
                repositories: vec![repository::open(settings)?],
                named,
                required: 1,
            });
        }
        let set = repository::set(settings)?;
        let required = set.required();
        let reached = set.open();
        let answering = reached.repositories.len();
        for unreached in reached.unreached {
            let failure = Failure::from(unreached.error);
            if answering < required {
                let message = failure.message().to_owned();
                return Err(failure.with_detail(format!(
                    "{answering} of {named} repositories answer, and {required} must have the backup. \
                     \"{}\": {message}.",
                    unreached.location
                )));
            }
            console.warn(
                format!(
                    "repository \"{}\" will not have the backup: {}",
                    unreached.location,
                    failure.message()
                ),
                None,
                Some("\"pitr-archive sync\" stores there what it lacks."),
            );
        }
        Ok(Self {
            repositories: reached.repositories,
            named,
            required,
        })
    }

    /// The cluster in each of them: the backup is written into the first.
    pub(crate) fn claim(&self, identity: &ClusterIdentity) -> Result<Copies, Failure> {
        let mut clusters = Vec::new();
        for repository in &self.repositories {
            clusters.push(repository.claim(identity)?);
        }
        let first = match clusters.is_empty() {
            true => return Err(Failure::new("no repository was named")),
            false => clusters.remove(0),
        };
        Ok(Copies {
            first,
            others: clusters,
            named: self.named,
            required: self.required,
        })
    }
}

/// One cluster in the repositories that answer.
pub(crate) struct Copies {
    /// Where the backup is written.
    pub(crate) first: Cluster,
    others: Vec<Cluster>,
    named: usize,
    required: usize,
}

impl Copies {
    /// The log in each of them.
    pub(crate) fn archives(&self) -> Vec<WalArchive> {
        std::iter::once(&self.first)
            .chain(&self.others)
            .map(Cluster::wal)
            .collect()
    }

    /// Makes sure that the first one has what the backup needs of the log: it
    /// may have been away when that was archived.
    pub(crate) fn complete_first(&self, needed: &[SegmentName]) -> Result<(), Failure> {
        if self.others.is_empty() {
            return Ok(());
        }
        self.give_log(&self.first, needed)
    }

    /// Copies a finished backup, and the log that it needs, into the others.
    /// Success when as many as are required have it.
    pub(crate) fn spread(
        &self,
        info: &BackupInfo,
        needed: &[SegmentName],
        threads: usize,
        console: Console,
    ) -> Result<(), Failure> {
        let mut done = 1;
        let mut failures = Vec::new();
        for other in &self.others {
            match self.copy(other, info, needed, threads, console) {
                Ok(()) => done += 1,
                Err(failure) => failures.push((other.store().location(), failure)),
            }
        }
        if done < self.required
            && let Some((location, failure)) = failures.first()
        {
            return Err(Failure::new(format!(
                "backup {} is complete in \"{}\", but not in \"{location}\": {}",
                info.label,
                self.first.store().location(),
                failure.message()
            ))
            .with_detail(format!(
                "It is in {done} of {} repositories, and {} must have it.",
                self.named, self.required
            ))
            .with_hint(format!(
                "{}\"pitr-archive sync\" copies it there; it need not be taken again.",
                failure
                    .hint()
                    .map_or_else(String::new, |hint| format!("{hint} "))
            )));
        }
        for (location, failure) in failures {
            console.warn(
                format!(
                    "repository \"{location}\" does not have backup {}: {}",
                    info.label,
                    failure.message()
                ),
                failure.detail(),
                Some("\"pitr-archive sync\" stores there what it lacks."),
            );
        }
        Ok(())
    }

    fn copy(
        &self,
        to: &Cluster,
        info: &BackupInfo,
        needed: &[SegmentName],
        threads: usize,
        console: Console,
    ) -> Result<(), Failure> {
        let label: Label = info.label;
        self.give_log(to, needed)?;
        let bytes = info.sizes.stored_bytes;
        let what = format!("copy of {} to {}", ByteCount(bytes), to.store().location());
        let progress = Progress::start(console, what, bytes);
        to.backups()
            .copy_from(&self.first.backups(), label, threads, &|copied| {
                progress.advance(copied);
            })?;
        progress.finish();
        Ok(())
    }

    /// Stores in `to` those of the `needed` segments, and the histories of
    /// their timelines, that it lacks and another one has.
    fn give_log(&self, to: &Cluster, needed: &[SegmentName]) -> Result<(), Failure> {
        let mut timelines: Vec<TimelineId> = needed.iter().map(SegmentName::timeline).collect();
        timelines.sort_unstable();
        timelines.dedup();
        let histories = timelines.into_iter().map(WalFileName::History);
        let segments = needed.iter().map(|segment| WalFileName::Segment(*segment));
        let wal = to.wal();
        for name in histories.chain(segments) {
            if wal.locate(&name)?.is_some() {
                continue;
            }
            for archive in self.archives() {
                if archive.locate(&name)?.is_some() {
                    wal.copy_from(&archive, &name)?;
                    break;
                }
            }
        }
        Ok(())
    }
}
