//! The log of the asked cluster in every repository that the settings name.
//!
//! They are asked in order, and each is opened when it is asked for the first
//! time: one that is not needed costs nothing. What the first ones have is
//! enough to serve a file; to say that there is none, all have to answer.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use pitr_console::Console;
use pitr_core::{SegmentName, SystemIdentifier, TimelineId};
use pitr_store::wal::WalArchive;
use pitr_store::{Cluster, ClusterIdentity, Repository, RepositorySet, Store};

use super::failure::{HookFailure, Unanswered};

/// The repositories of one request.
pub(super) struct Archives {
    set: RepositorySet,
    members: Vec<RefCell<Member>>,
    /// Whose log it is, by the first repository that knew it.
    identity: Cell<Option<ClusterIdentity>>,
    asked: Option<SystemIdentifier>,
    console: Console,
}

/// What is known of one repository so far.
#[derive(Clone)]
enum Member {
    Unopened,
    Open(WalArchive),
    /// It answers, and nothing was ever archived in it.
    Empty,
    Failed(Arc<HookFailure>),
}

impl Archives {
    /// Those of `set`, for the cluster `asked`, or for the only one that there
    /// is. Opens none.
    pub(super) fn new(
        set: RepositorySet,
        asked: Option<SystemIdentifier>,
        console: Console,
    ) -> Self {
        let members = set.stores().iter();
        Self {
            members: members.map(|_| RefCell::new(Member::Unopened)).collect(),
            set,
            identity: Cell::new(None),
            asked,
            console,
        }
    }

    /// Where the repositories are, for messages.
    pub(super) fn location(&self) -> String {
        let stores = self.set.stores().iter();
        let locations: Vec<String> = stores.map(|store| store.location()).collect();
        locations.join("\", \"")
    }

    /// Whose log it is, by the first repository that knows it; `None` where all
    /// answer, and nothing was archived in any.
    pub(super) fn identity(&self) -> Result<Option<ClusterIdentity>, HookFailure> {
        // what is wrong with one is told when a file is asked for
        let (found, unanswered) = self.ask(|archive| Ok(Some(archive.cluster())))?;
        match found {
            Some(identity) => Ok(Some(identity)),
            None => self.unless_doubtful("the cluster", unanswered, None),
        }
    }

    /// What the first repository gives that gives anything to `ask`; `None`
    /// only where all have answered that there is nothing. A repository that
    /// fails is passed over with a warning where another one has `what`.
    pub(super) fn first<T>(
        &self,
        what: &str,
        ask: impl Fn(&WalArchive) -> Result<Option<T>, HookFailure>,
    ) -> Result<Option<T>, HookFailure> {
        let (found, unanswered) = self.ask(ask)?;
        match found {
            Some(found) => {
                self.tell_of(what, &unanswered);
                Ok(Some(found))
            }
            None => self.unless_doubtful(what, unanswered, None),
        }
    }

    /// The first answer, and who failed before it was given.
    fn ask<T>(
        &self,
        ask: impl Fn(&WalArchive) -> Result<Option<T>, HookFailure>,
    ) -> Result<(Option<T>, Vec<Unanswered>), HookFailure> {
        let mut unanswered = Vec::new();
        for index in 0..self.members.len() {
            let answer = match self.member(index) {
                Member::Open(archive) => ask(&archive).map_err(Arc::new),
                Member::Failed(failure) => Err(failure),
                Member::Empty | Member::Unopened => Ok(None),
            };
            match answer {
                Ok(None) => {}
                Ok(Some(found)) => return Ok((Some(found), unanswered)),
                // no other repository can help there
                Err(failure) if matches!(*failure, HookFailure::Delivery(_)) => {
                    return Err(HookFailure::Shared(failure));
                }
                Err(failure) => unanswered.push(Unanswered {
                    location: self.location_of(index),
                    failure,
                }),
            }
        }
        Ok((None, unanswered))
    }

    /// The last whole segment of `timeline` in any of them, all of which have
    /// to answer.
    pub(super) fn last_of_timeline(
        &self,
        timeline: TimelineId,
    ) -> Result<Option<SegmentName>, HookFailure> {
        let mut last = None;
        let mut unanswered = Vec::new();
        for index in 0..self.members.len() {
            let answer = match self.member(index) {
                Member::Open(archive) => match archive.ranges(timeline) {
                    Ok(ranges) => Ok(ranges.last().map(|range| range.last)),
                    Err(error) => Err(Arc::new(error.into())),
                },
                Member::Failed(failure) => Err(failure),
                Member::Empty | Member::Unopened => Ok(None),
            };
            match answer {
                Ok(found) => last = last.max(found),
                Err(failure) => unanswered.push(Unanswered {
                    location: self.location_of(index),
                    failure,
                }),
            }
        }
        self.unless_doubtful(&format!("the end of timeline {timeline}"), unanswered, last)
    }

    fn unless_doubtful<T>(
        &self,
        what: &str,
        mut unanswered: Vec<Unanswered>,
        answer: Option<T>,
    ) -> Result<Option<T>, HookFailure> {
        match (unanswered.len(), self.members.len()) {
            (0, _) => Ok(answer),
            // the one repository's failure speaks for itself
            (_, 1) => Err(HookFailure::Shared(unanswered.remove(0).failure)),
            (_, repositories) => Err(HookFailure::Unproven {
                what: what.to_owned(),
                repositories,
                unanswered,
            }),
        }
    }

    fn tell_of(&self, what: &str, unanswered: &[Unanswered]) {
        for passed_over in unanswered {
            let failure = &passed_over.failure;
            self.console.warn(
                format!(
                    "repository \"{}\" is passed over, another one has {what}: {failure}",
                    passed_over.location
                ),
                None,
                pitr_console::Explain::hint(failure.as_ref()).as_deref(),
            );
        }
    }

    fn location_of(&self, index: usize) -> String {
        let store = self.set.stores().get(index);
        store.map_or_else(String::new, |store| store.location())
    }

    /// Opens the repository, the first time.
    fn member(&self, index: usize) -> Member {
        let (Some(member), Some(store)) = (self.members.get(index), self.set.stores().get(index))
        else {
            return Member::Empty;
        };
        if let Member::Unopened = *member.borrow() {
        } else {
            return member.borrow().clone();
        }
        let opened = match self.open(store) {
            Ok(Some(archive)) => Member::Open(archive),
            Ok(None) => Member::Empty,
            Err(failure) => Member::Failed(Arc::new(failure)),
        };
        member.replace(opened.clone());
        opened
    }

    fn open(&self, store: &Arc<dyn Store>) -> Result<Option<WalArchive>, HookFailure> {
        let repository = self.set.open_one(store)?;
        // also where the file turns out to be absent: a key that is missing must
        // not show in the middle of a recovery
        repository.unlock()?;
        let Some(cluster) = find_cluster(&repository, self.asked)? else {
            return Ok(None);
        };
        let found = cluster.identity();
        match self.identity.get() {
            Some(expected) if expected != found => Err(HookFailure::OtherCluster {
                location: repository.location(),
                expected: expected.system_identifier,
                found: found.system_identifier,
            }),
            _ => {
                self.identity.set(Some(found));
                Ok(Some(cluster.wal()))
            }
        }
    }
}

/// The cluster that is asked for, else the only one. `None` where the
/// repository holds none at all.
fn find_cluster(
    repository: &Repository,
    asked: Option<SystemIdentifier>,
) -> Result<Option<Cluster>, HookFailure> {
    if let Some(asked) = asked
        && let Some(cluster) = repository.cluster(asked)?
    {
        return Ok(Some(cluster));
    }
    let mut clusters = repository.clusters()?;
    let known = || {
        clusters
            .iter()
            .map(|cluster| cluster.identity().system_identifier)
            .collect()
    };
    match (asked, clusters.len()) {
        (_, 0) => Ok(None),
        (Some(asked), _) => Err(HookFailure::UnknownCluster {
            asked,
            known: known(),
        }),
        (None, 1) => Ok(clusters.pop()),
        (None, _) => Err(HookFailure::SeveralClusters { known: known() }),
    }
}
