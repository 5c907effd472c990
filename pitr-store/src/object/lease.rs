//! Marks of life in a bucket, which has no locks: small objects that their
//! holder writes again and again.
//!
//! A mark on `a/NAME` is an object `a/.NAME.hold.<random>`, which no listing of
//! a store shows. Who wants to hold first puts a mark of his own, then lists
//! all marks on the name: his own tells the server's time, so that no clock
//! here matters. Another mark younger than [`EXPIRY`] means that somebody may
//! be alive: then he takes his own away again. Of two who come at once the
//! later one sees the other, perhaps each sees the other and neither holds,
//! but never both.
//!
//! The holder knows by a clock that goes on in a suspended machine when he last
//! renewed. Before others can take him for dead he stops publishing below the
//! name himself, and for good: a later renewal would not bring back what others
//! may have removed meanwhile.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use chrono::TimeDelta;
use tokio::task::AbortHandle;

use super::bucket::Bucket;
use super::clock::Moment;
use super::failure::Failure;
use super::runtime;
use super::writer::unique;
use crate::key::ObjectKey;
use crate::store::{Hold, Operation, RemoteProblem, StoreError};

/// How long after its last renewal a mark still counts.
const EXPIRY: Duration = Duration::from_secs(3600);

/// From this long after its last renewal on the holder itself trusts it no
/// more: what it has begun to publish is done before [`EXPIRY`].
const TRUSTED: Duration = Duration::from_secs(1800);

/// Pause between renewals.
const RENEWAL: Duration = Duration::from_secs(60);

/// How long giving up a mark may take.
const RELEASE_LIMIT: Duration = Duration::from_secs(10);

/// What is in a mark, for people who find one.
const CONTENT: &[u8] = b"{\n  \"format\": 1,\n  \"held\": true\n}\n";

/// How often a mark is renewed, and for how long its holder trusts it.
#[derive(Clone, Copy, Debug)]
struct Times {
    renewal: Duration,
    trusted: Duration,
}

/// The marks that this process holds on a store.
#[derive(Debug)]
pub(super) struct Leases {
    times: Times,
    held: Mutex<HashMap<ObjectKey, Weak<Lease>>>,
}

impl Default for Leases {
    fn default() -> Self {
        Self {
            times: Times {
                renewal: RENEWAL,
                trusted: TRUSTED,
            },
            held: Mutex::default(),
        }
    }
}

/// A mark that is held and renewed.
#[derive(Debug)]
struct Lease {
    bucket: Bucket,
    name: String,
    times: Times,
    /// When the last renewal that succeeded began.
    renewed: Mutex<Moment>,
    renewing: Mutex<Option<AbortHandle>>,
}

impl Leases {
    /// Sets a mark on `key`, unless somebody who may be alive has one.
    pub(super) fn take(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
    ) -> Result<Option<Hold>, StoreError> {
        let location = || bucket.object_location(key);
        let thread = |source| StoreError::Io {
            operation: Operation::Lock,
            location: location(),
            source,
        };
        let marks = marks_of(key);
        let own = format!("{marks}{}", unique().map_err(thread)?);
        let own = bucket.name(&own);
        let marks = bucket.name(&marks);
        let began = Moment::now();
        let (name, prefix) = (own.clone(), marks);
        let taken = bucket.run(Operation::Lock, location, |bucket| async move {
            let outcome = contend(&bucket, &name, &prefix).await;
            if !matches!(outcome, Ok(true)) {
                let _ = bucket.delete(&name).await;
            }
            outcome
        })?;
        if !taken {
            return Ok(None);
        }
        let lease = Arc::new(Lease {
            bucket: bucket.clone(),
            name: own,
            times: self.times,
            renewed: Mutex::new(began),
            renewing: Mutex::new(None),
        });
        let renewing = runtime::handle()
            .map_err(thread)?
            .spawn(renew(Arc::downgrade(&lease)));
        *lock(&lease.renewing) = Some(renewing.abort_handle());
        lock(&self.held).insert(key.clone(), Arc::downgrade(&lease));
        Ok(Some(Hold::new(lease)))
    }

    /// Whether what is held above `key` is certain to be held still.
    ///
    /// # Errors
    /// `HoldLost` if it was not renewed for so long that others may soon take
    /// the holder for dead.
    pub(super) fn check(
        &self,
        key: &ObjectKey,
        location: impl Fn() -> String,
    ) -> Result<(), StoreError> {
        let held = lock(&self.held);
        let mut above = key.parent();
        while let Some(folder) = above {
            if let Some(lease) = held.get(&folder).and_then(Weak::upgrade)
                && lease.is_lost()
            {
                return Err(StoreError::HoldLost {
                    operation: Operation::Publish,
                    location: location(),
                });
            }
            above = folder.parent();
        }
        Ok(())
    }
}

impl Lease {
    /// Whether it was not renewed in time. What is lost once stays lost.
    fn is_lost(&self) -> bool {
        lock(&self.renewed).elapsed() > self.times.trusted
    }

    /// Notes a renewal that began at `began`; `false` if it came too late.
    fn is_renewed(&self, began: Moment) -> bool {
        let mut renewed = lock(&self.renewed);
        // also where the machine slept between the two
        if renewed.elapsed() > self.times.trusted {
            return false;
        }
        *renewed = began;
        true
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(renewing) = lock(&self.renewing).take() {
            renewing.abort();
        }
        let (bucket, name) = (self.bucket.clone(), self.name.clone());
        let released = runtime::begin(async move {
            let _ = bucket.delete(&name).await;
        });
        if let Ok(released) = released {
            let _ = released.wait_at_most(RELEASE_LIMIT);
        }
    }
}

/// What the names of all marks on `key` begin with.
fn marks_of(key: &ObjectKey) -> String {
    match key.parent() {
        Some(parent) => format!("{parent}/.{}.hold.", key.file_name()),
        None => format!(".{}.hold.", key.file_name()),
    }
}

/// Puts the mark `name`, and looks whether it is the only living one.
async fn contend(bucket: &Bucket, name: &str, prefix: &str) -> Result<bool, Failure> {
    bucket.overwrite(name, Bytes::from_static(CONTENT)).await?;
    let listed = bucket.list(prefix, true).await?;
    let own = listed.objects.iter().find(|(found, ..)| found == name);
    let Some((_, _, server_now)) = own else {
        return Err(Failure::new(
            RemoteProblem::Unexpected,
            "what was just written is not in the listing",
        ));
    };
    let expiry = TimeDelta::from_std(EXPIRY).unwrap_or(TimeDelta::MAX);
    let (living, dead): (Vec<_>, Vec<_>) = listed
        .objects
        .iter()
        .filter(|(found, ..)| found != name)
        .partition(|(_, _, changed)| server_now.signed_duration_since(*changed) < expiry);
    if !living.is_empty() {
        return Ok(false);
    }
    for (name, ..) in dead {
        bucket.delete(name).await?;
    }
    Ok(true)
}

/// Writes the mark again, as long as somebody holds it and it is not lost.
async fn renew(lease: Weak<Lease>) {
    loop {
        let Some(pause) = lease.upgrade().map(|lease| lease.times.renewal) else {
            return;
        };
        tokio::time::sleep(pause).await;
        let Some((bucket, name)) = lease
            .upgrade()
            .filter(|lease| !lease.is_lost())
            .map(|lease| (lease.bucket.clone(), lease.name.clone()))
        else {
            return;
        };
        let began = Moment::now();
        // what fails is tried again after the pause
        if bucket
            .overwrite(&name, Bytes::from_static(CONTENT))
            .await
            .is_ok()
            && !lease.upgrade().is_some_and(|lease| lease.is_renewed(began))
        {
            return;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(all(test, feature = "s3"))]
mod tests {
    #![allow(
        clippy::print_stderr,
        clippy::unwrap_used,
        reason = "a panic is how a test reports"
    )]

    use std::time::Instant;

    use pitr_testbed::{Fault, FaultProxy, Moto};

    use super::*;
    use crate::store::{ErrorClass, S3Options, Secret, Store};

    fn key(text: &str) -> ObjectKey {
        ObjectKey::parse(text).unwrap()
    }

    #[test]
    fn who_could_not_renew_in_time_publishes_nothing_more_below_the_mark() {
        let moto = match Moto::shared() {
            Ok(moto) => moto,
            Err(error) => {
                eprintln!("skipped: {error}");
                return;
            }
        };
        moto.make_bucket("lost").unwrap();
        let proxy = FaultProxy::start(moto.address()).unwrap();
        let options = S3Options {
            endpoint: Some(proxy.endpoint()),
            access_key_id: Some("test".to_owned()),
            secret_access_key: Some(Secret::new("test")),
            retry_seconds: Some(1),
            ..S3Options::default()
        };
        let mut store = super::super::s3::open("lost/repo", &options).unwrap();
        store.leases = Arc::new(Leases {
            times: Times {
                renewal: Duration::from_millis(200),
                trusted: Duration::from_secs(4),
            },
            held: Mutex::default(),
        });
        let held = store.hold(&key("backups/one")).unwrap().unwrap();
        let part = |number: u32| key(&format!("backups/one/part-{number}"));
        // renewed, it holds for longer than one mark would
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(100));
        }
        store.put(&part(1), &[], b"x").unwrap();
        let writing = store.create(&part(2), &[]).unwrap();
        proxy.inject("PUT", ".one.hold.", usize::MAX, Fault::Hangup);
        let lost = loop {
            match store.put(&part(3), &[], b"x") {
                Err(error) => break error,
                Ok(()) => store.delete(&part(3)).unwrap(),
            }
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "it trusts for ever"
            );
        };
        assert!(matches!(lost, StoreError::HoldLost { .. }), "{lost}");
        assert_eq!(lost.class(), ErrorClass::Permanent);
        let text = lost.to_string();
        assert!(text.contains("s3://lost/repo/backups/one/part-3"), "{text}");
        assert_eq!(text.lines().count(), 1);
        assert!(lost.hint().unwrap().contains("suspended"));
        let error = writing.publish().unwrap_err();
        assert!(matches!(error, StoreError::HoldLost { .. }), "{error}");
        // what lies beside it is nobody's loss
        store.put(&key("backups/two"), &[], b"x").unwrap();
        // a server that is back does not bring back what others may have removed
        proxy.clear();
        // a renewal that was begun before may still be tried again for its budget
        std::thread::sleep(Duration::from_secs(3));
        proxy.forget();
        std::thread::sleep(Duration::from_secs(1));
        let error = store.put(&part(3), &[], b"x").unwrap_err();
        assert!(matches!(error, StoreError::HoldLost { .. }), "{error}");
        let renewals = proxy.seen();
        assert!(renewals.iter().all(|seen| !seen.path.contains(".hold.")));
        drop(held);
        store.put(&part(3), &[], b"x").unwrap();
    }
}
