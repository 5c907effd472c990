//! Why the hook has no answer.

use std::sync::Arc;
use std::time::Duration;

use pitr_console::{Explain, SettingsError};
use pitr_core::{Lsn, SegmentName, SystemIdentifier, TimelineId, WalFileNameError};
use pitr_store::wal::FetchError;
use pitr_store::{AddressError, ErrorClass, RepositoryError, StoreError};

use super::ahead::notes::Note;
use super::delivery::DeliveryError;
use crate::asking_server::AskingServerError;

/// Anything that keeps the hook from telling whether the file exists, or from
/// handing it over whole.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HookFailure {
    /// The configuration cannot be used.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The repository's address leads nowhere.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The repository cannot be opened.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The receiver's spool cannot be used.
    #[error(transparent)]
    Spool(#[from] pitr_store::spool::SpoolError),
    /// The data directory of the asking server cannot be read.
    #[error(transparent)]
    Server(#[from] AskingServerError),
    /// The segment cannot be one of this cluster.
    #[error(transparent)]
    Name(#[from] WalFileNameError),
    /// The repository is empty: it is hardly the one that is meant.
    #[error("repository \"{location}\" holds no cluster yet")]
    EmptyRepository {
        /// Where it is.
        location: String,
    },
    /// The repository knows other clusters only.
    #[error("the repository does not know cluster {asked}")]
    UnknownCluster {
        /// Whose file is asked for.
        asked: SystemIdentifier,
        /// Whom it knows.
        known: Vec<SystemIdentifier>,
    },
    /// Nothing says which of several clusters is meant.
    #[error("the repository holds {} clusters, and nothing says which one is meant", known.len())]
    SeveralClusters {
        /// Whom it knows.
        known: Vec<SystemIdentifier>,
    },
    /// The histories in `pg_wal`, and `--timeline`, do not agree.
    #[error(
        "whether recovery needs segment {segment} depends on whether it follows timeline {} or {}, \
         and pg_wal does not show which", lines[0], lines[1]
    )]
    Undecided {
        /// The segment.
        segment: SegmentName,
        /// The newest timeline of each line.
        lines: [TimelineId; 2],
    },
    /// The child's copy of a branch segment is not there.
    #[error(
        "segment {child} is not in the repository, and recovery along timeline {followed} needs it \
         in place of {segment}, which holds what came after the branch at {switch_lsn} on the other timeline"
    )]
    ChildMissing {
        /// The segment that was asked for.
        segment: SegmentName,
        /// The copy that recovery needs.
        child: SegmentName,
        /// The timeline that is followed.
        followed: TimelineId,
        /// Where the branch lies.
        switch_lsn: Lsn,
    },
    /// The child's copy has come since the server asked for it.
    #[error(
        "recovery along timeline {followed} needs segment {child}, which is in the repository, and not {segment}"
    )]
    ChildPresent {
        /// The segment that was asked for.
        segment: SegmentName,
        /// The copy that recovery needs.
        child: SegmentName,
        /// The timeline that is followed.
        followed: TimelineId,
    },
    /// A segment is missing in the middle of the log.
    #[error("segment {segment} is not in the repository, which has later ones up to {last}")]
    Hole {
        /// The segment.
        segment: SegmentName,
        /// The last one of its timeline.
        last: SegmentName,
        /// Where the missing segment begins.
        begin: Lsn,
    },
    /// A segment is missing on the way to a branch.
    #[error(
        "segment {segment} is not in the repository, and timeline {followed}, which recovery follows, \
         left timeline {} behind it at {switch_lsn}", segment.timeline()
    )]
    HoleBeforeBranch {
        /// The segment.
        segment: SegmentName,
        /// The timeline that is followed.
        followed: TimelineId,
        /// Where the branch lies.
        switch_lsn: Lsn,
        /// Where the missing segment begins.
        begin: Lsn,
    },
    /// The server has a segment that its path does not include, and would
    /// replay it.
    #[error(
        "timeline {followed}, which recovery follows, left timeline {} at {switch_lsn}, and pg_wal \
         holds segment {segment} from after it, which the server would replay", segment.timeline()
    )]
    ForeignSegment {
        /// The segment.
        segment: SegmentName,
        /// The timeline that is followed.
        followed: TimelineId,
        /// Where the branch lies.
        switch_lsn: Lsn,
    },
    /// Two of the repositories are of different clusters.
    #[error(
        "repository \"{location}\" is of cluster {found}, another one that is named is of cluster {expected}"
    )]
    OtherCluster {
        /// The repository.
        location: String,
        /// Whose log another one holds.
        expected: SystemIdentifier,
        /// Whose log it holds.
        found: SystemIdentifier,
    },
    /// None of the repositories has it, and some could not say so.
    #[error(
        "{what} was not found, and {} of {repositories} repositories gave no answer: {}",
        unanswered.len(), reasons(unanswered)
    )]
    Unproven {
        /// What was asked for.
        what: String,
        /// How many were asked.
        repositories: usize,
        /// Those that gave no answer.
        unanswered: Vec<Unanswered>,
    },
    /// A repository that was not waited for, because another one has the file.
    #[error("it gave no answer within {} s", waited.as_secs())]
    Slow {
        /// How long it was waited for.
        waited: Duration,
    },
    /// The failure of a repository, which stays known for further questions.
    #[error(transparent)]
    Shared(Arc<HookFailure>),
    /// The file is there but cannot be read whole.
    #[error(transparent)]
    Fetch(FetchError),
    /// The file cannot be put where it is wanted.
    #[error(transparent)]
    Delivery(#[from] DeliveryError),
}

/// A repository that gave no answer.
#[derive(Debug)]
pub(crate) struct Unanswered {
    /// Where it is.
    pub(crate) location: String,
    /// Why.
    pub(crate) failure: Arc<HookFailure>,
}

impl Unanswered {
    /// What is to be said where another repository has `what`.
    pub(super) fn note(&self, what: &str) -> Note {
        Note {
            message: format!(
                "repository \"{}\" is passed over, another one has {what}: {}",
                self.location, self.failure
            ),
            hint: self.failure.hint(),
        }
    }
}

fn reasons(unanswered: &[Unanswered]) -> String {
    let reasons: Vec<String> = unanswered
        .iter()
        .map(|one| format!("\"{}\": {}", one.location, one.failure))
        .collect();
    reasons.join("; ")
}

impl HookFailure {
    /// Whether the same question may find an answer later: the place of the
    /// repository or of the file is not as it should be, or the server has not
    /// settled on a timeline. What is wrong with the file itself, or with what
    /// was asked, stays.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            // a key does not come by itself
            Self::Store(StoreError::Encryption(_))
            | Self::Fetch(FetchError::Store(StoreError::Encryption(_))) => false,
            Self::Store(_)
            | Self::Delivery(_)
            | Self::Slow { .. }
            | Self::Undecided { .. }
            | Self::ChildMissing { .. }
            | Self::ChildPresent { .. } => true,
            Self::Shared(failure) => failure.may_pass(),
            Self::Unproven { unanswered, .. } => {
                unanswered.iter().any(|one| one.failure.may_pass())
            }
            Self::Repository(error) => {
                matches!(error, RepositoryError::NotARepository { .. })
                    || error.store_error().is_some()
            }
            Self::Fetch(FetchError::Store(_) | FetchError::Sink(_)) => true,
            Self::Fetch(error) => error.class() == ErrorClass::Passing,
            Self::Settings(_)
            | Self::Address(_)
            | Self::Spool(_)
            | Self::Server(_)
            | Self::Name(_)
            | Self::EmptyRepository { .. }
            | Self::UnknownCluster { .. }
            | Self::SeveralClusters { .. }
            | Self::OtherCluster { .. }
            | Self::Hole { .. }
            | Self::HoleBeforeBranch { .. }
            | Self::ForeignSegment { .. } => false,
        }
    }
}

impl Explain for HookFailure {
    fn hint(&self) -> Option<String> {
        let ids = |known: &[SystemIdentifier]| {
            known
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(", ")
        };
        match self {
            Self::Shared(failure) => failure.hint(),
            Self::Slow { .. } => None,
            Self::OtherCluster { .. } => {
                Some("Repositories that are named together must be of the same cluster.".to_owned())
            }
            Self::Unproven { unanswered, .. } => {
                let first = unanswered.first().and_then(|one| one.failure.hint());
                Some(format!(
                    "{}Recovery goes on when they answer; one that is lost for good must be taken \
                     out of the setting.",
                    first.map_or_else(String::new, |hint| hint + " ")
                ))
            }
            Self::Settings(error) => error.hint(),
            Self::Address(error) => error.hint(),
            Self::Repository(error) => error.hint(),
            Self::Store(error) => error.hint(),
            Self::Spool(error) => error.hint(),
            Self::Server(error) => error.hint(),
            Self::Name(error) => error.hint(),
            Self::Fetch(error) => error.hint(),
            Self::Delivery(error) => error.hint(),
            Self::EmptyRepository { .. } => Some(
                "A server that recovers is asking a repository in which nothing was ever archived: \
                 is it the right one?"
                    .to_owned(),
            ),
            Self::UnknownCluster { known, .. } => Some(format!(
                "Is it the right repository? It holds: {}.",
                ids(known)
            )),
            Self::SeveralClusters { known } => Some(format!(
                "Name one with --system-identifier: {}.",
                ids(known)
            )),
            Self::Undecided { .. } => Some(
                "Let restore_command have --timeline with the number of recovery_target_timeline, and \
                 take the .history files of other timelines out of pg_wal."
                    .to_owned(),
            ),
            Self::ChildMissing { segment, child, .. } => Some(format!(
                "If the server on timeline {} still runs, SELECT pg_switch_wal() makes it archive the \
                 segment. To recover along timeline {} instead, set recovery_target_timeline to {1} \
                 (and --timeline, where restore_command has it).",
                child.timeline(),
                segment.timeline()
            )),
            Self::ChildPresent { .. } => Some(
                "It was archived since the server asked for it: start the server again.".to_owned(),
            ),
            Self::ForeignSegment { segment, .. } => Some(format!(
                "Move {segment} out of pg_wal: this server wrote it on another history."
            )),
            Self::Hole { begin, .. } | Self::HoleBeforeBranch { begin, .. } => Some(format!(
                "Recovery stops here so that it does not end early without notice. To recover up to \
                 the gap, set a recovery target before {begin} (and from PostgreSQL 15 on \
                 recovery_prefetch = off, since it reads ahead); to get beyond it, restore a base \
                 backup taken after it."
            )),
        }
    }
}
