//! The log of the asked cluster in every repository that the settings name.
//!
//! They are asked in order, and each is opened when it is asked for the first
//! time: one that is not needed costs nothing. What the first ones have is
//! enough to serve a file; to say that there is none, all have to answer.
//!
//! A server that is down is tried again for a minute or more, and the hook runs
//! anew for every segment. So where another repository may have the file, one
//! that is slow to open is waited for last.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use pitr_console::Console;
use pitr_core::{SegmentName, SystemIdentifier, TimelineId};
use pitr_store::wal::WalArchive;
use pitr_store::{Cluster, ClusterIdentity, Repository, RepositorySet, Store};

use super::failure::{HookFailure, Unanswered};

/// How long the opening of one repository is waited for before the next is asked.
const PATIENCE: Duration = Duration::from_secs(1);

/// The repositories of one request.
pub(super) struct Archives {
    set: RepositorySet,
    members: Vec<RefCell<Member>>,
    /// Threads that open a repository, and whether that was waited for already.
    openings: Vec<RefCell<Option<Opening>>>,
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

struct Opening {
    opened: Receiver<Opened>,
    is_slow: bool,
}

/// The log of the cluster; `None` where the repository is empty.
type Opened = Result<Option<WalArchive>, HookFailure>;

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
            openings: members.clone().map(|_| RefCell::default()).collect(),
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

    /// The first answer, and who failed before it was given. Nothing is said.
    pub(super) fn ask<T>(
        &self,
        mut ask: impl FnMut(&WalArchive) -> Result<Option<T>, HookFailure>,
    ) -> Result<(Option<T>, Vec<Unanswered>), HookFailure> {
        let mut unanswered = Vec::new();
        let mut slow = Vec::new();
        let all = (0..self.members.len()).map(|index| (index, Some(PATIENCE)));
        let mut waiting: VecDeque<_> = all.collect();
        while let Some((index, patience)) = waiting.pop_front() {
            let answer = match self.member(index, patience) {
                None => {
                    // for its whole answer, once nobody else is left
                    waiting.push_back((index, None));
                    slow.push(index);
                    continue;
                }
                Some(Member::Open(archive)) => ask(&archive).map_err(Arc::new),
                Some(Member::Failed(failure)) => Err(failure),
                Some(Member::Empty | Member::Unopened) => Ok(None),
            };
            slow.retain(|slow| *slow != index);
            match answer {
                Ok(None) => {}
                Ok(Some(found)) => {
                    unanswered.extend(slow.into_iter().map(|index| Unanswered {
                        location: self.location_of(index),
                        failure: Arc::new(HookFailure::Slow { waited: PATIENCE }),
                    }));
                    return Ok((Some(found), unanswered));
                }
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

    /// Whether all are of the kind in which objects show in the order in which they
    /// were pushed.
    pub(super) fn show_at_once(&self) -> bool {
        self.set.stores().iter().all(|store| store.shows_at_once())
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
            let answer = match self.member(index, None) {
                Some(Member::Open(archive)) => archive
                    .last_segment(timeline)
                    .map_err(|error| Arc::new(error.into())),
                Some(Member::Failed(failure)) => Err(failure),
                Some(Member::Empty | Member::Unopened) | None => Ok(None),
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
            passed_over.note(what).say(self.console);
        }
    }

    fn location_of(&self, index: usize) -> String {
        let store = self.set.stores().get(index);
        store.map_or_else(String::new, |store| store.location())
    }

    /// Opens the repository, the first time; `None` where that takes longer
    /// than `patience`, if there is a limit to it.
    fn member(&self, index: usize, patience: Option<Duration>) -> Option<Member> {
        let (Some(member), Some(store)) = (self.members.get(index), self.set.stores().get(index))
        else {
            return Some(Member::Empty);
        };
        if let Member::Unopened = *member.borrow() {
        } else {
            return Some(member.borrow().clone());
        }
        let opened = match (self.members.len(), self.openings.get(index)) {
            (0 | 1, _) | (_, None) => open(&self.set, store, self.asked),
            (_, Some(opening)) => self.opened_aside(store, &mut opening.borrow_mut(), patience)?,
        };
        let opened = match opened.and_then(|archive| self.same_cluster(store, archive)) {
            Ok(Some(archive)) => Member::Open(archive),
            Ok(None) => Member::Empty,
            Err(failure) => Member::Failed(Arc::new(failure)),
        };
        member.replace(opened.clone());
        Some(opened)
    }

    /// The same in a thread of its own, which ends with the process where
    /// nobody waits for it any more.
    fn opened_aside(
        &self,
        store: &Arc<dyn Store>,
        opening: &mut Option<Opening>,
        patience: Option<Duration>,
    ) -> Option<Opened> {
        let opening = match opening {
            Some(opening) => opening,
            None => {
                let (tell, opened) = channel();
                let (set, store, asked) = (self.set.clone(), Arc::clone(store), self.asked);
                let thread = std::thread::Builder::new().name("repository".to_owned());
                // where no thread is to be had, it drops what would tell
                let _ = thread.spawn(move || tell.send(open(&set, &store, asked)));
                opening.insert(Opening {
                    opened,
                    is_slow: false,
                })
            }
        };
        let received = match patience {
            Some(_) if opening.is_slow => opening.opened.recv_timeout(Duration::ZERO),
            Some(patience) => opening.opened.recv_timeout(patience),
            None => opening.opened.recv().map_err(RecvTimeoutError::from),
        };
        match received {
            Ok(opened) => Some(opened),
            Err(RecvTimeoutError::Timeout) => {
                opening.is_slow = true;
                None
            }
            Err(RecvTimeoutError::Disconnected) => Some(open(&self.set, store, self.asked)),
        }
    }

    /// That all of them are of one cluster.
    fn same_cluster(&self, store: &Arc<dyn Store>, archive: Option<WalArchive>) -> Opened {
        let Some(archive) = archive else {
            return Ok(None);
        };
        let found = archive.cluster();
        match self.identity.get() {
            Some(expected) if expected != found => Err(HookFailure::OtherCluster {
                location: store.location(),
                expected: expected.system_identifier,
                found: found.system_identifier,
            }),
            _ => {
                self.identity.set(Some(found));
                Ok(Some(archive))
            }
        }
    }
}

fn open(set: &RepositorySet, store: &Arc<dyn Store>, asked: Option<SystemIdentifier>) -> Opened {
    let repository = set.open_one(store)?;
    // also where the file turns out to be absent: a key that is missing must
    // not show in the middle of a recovery
    repository.unlock()?;
    Ok(find_cluster(&repository, asked)?.map(|cluster| cluster.wal()))
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
