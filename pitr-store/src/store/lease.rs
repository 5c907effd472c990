//! Marks of life on media without locks: a small document that its holder
//! renews, and that counts no longer once it has not been renewed for long
//! enough. `docs/store-format.md` specifies it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::retry::unique;
use crate::key::ObjectKey;

/// Largest lease that is read.
pub(crate) const MAX_LEASE_BYTES: u64 = 4096;

/// Who works on something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lease {
    /// 1.
    pub(crate) format: u32,
    /// A random number that tells this holder from every other.
    pub(crate) holder: String,
    /// The holder's host, for people.
    pub(crate) host: String,
    /// The holder's process, for people.
    pub(crate) pid: u32,
    /// For how many seconds the lease counts after it was written last.
    pub(crate) seconds: u64,
}

impl Lease {
    pub(crate) fn new(seconds: u64) -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Self {
            format: 1,
            holder: format!("{:016x}{:016x}", unique(), unique()),
            host: host.trim().to_owned(),
            pid: std::process::id(),
            seconds: seconds.max(1),
        }
    }

    /// One line of JSON.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// `None` where it is torn or of another format. Such a one counts as
    /// held as long as a lease of our own would.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes)
            .ok()
            .filter(|lease: &Self| lease.format == 1)
    }

    /// How often it is renewed: several times before it runs out.
    pub(crate) fn renewal(seconds: u64) -> Duration {
        Duration::from_millis(seconds.max(1).saturating_mul(1000) / 6)
    }
}

/// The marks that this process holds on one server.
#[derive(Debug, Default)]
pub(crate) struct HeldMarks(Mutex<Vec<(ObjectKey, Lease)>>);

impl HeldMarks {
    /// Notes a mark that was taken.
    pub(crate) fn add(&self, key: &ObjectKey, lease: &Lease) {
        self.marks().push((key.clone(), lease.clone()));
    }

    /// Forgets a mark that is given up.
    pub(crate) fn remove(&self, lease: &Lease) {
        self.marks().retain(|(_, held)| held != lease);
    }

    /// Those that stand for `key`: on itself, or on a folder above it.
    pub(crate) fn over(&self, key: &ObjectKey) -> Vec<(ObjectKey, Lease)> {
        self.marks()
            .iter()
            .filter(|(held, _)| covers(held, key))
            .cloned()
            .collect()
    }

    fn marks(&self) -> MutexGuard<'_, Vec<(ObjectKey, Lease)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a mark on `held` stands for `key`: for the same, or one below it.
fn covers(held: &ObjectKey, key: &ObjectKey) -> bool {
    key == held
        || key
            .as_str()
            .strip_prefix(held.as_str())
            .is_some_and(|below| below.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_reads_back_and_a_torn_one_is_none() {
        let lease = Lease::new(600);
        let bytes = lease.to_bytes();
        assert!(u64::try_from(bytes.len()).unwrap() < MAX_LEASE_BYTES);
        assert_eq!(Lease::parse(&bytes), Some(lease));
        assert_eq!(Lease::parse(&bytes[..bytes.len() / 2]), None);
        assert_eq!(Lease::parse(b""), None);
        assert_ne!(Lease::new(1).holder, Lease::new(1).holder);
        assert!(Lease::renewal(600) < Duration::from_secs(200));
    }

    #[test]
    fn a_mark_stands_for_its_key_and_what_lies_below_until_it_is_given_up() {
        let key = |text| ObjectKey::parse(text).unwrap();
        let (marks, lease) = (HeldMarks::default(), Lease::new(1));
        marks.add(&key("a/one"), &lease);
        marks.add(&key("b"), &Lease::new(1));
        for (below, count) in [("a/one", 1), ("a/one/part", 1), ("a/one2", 0), ("a", 0)] {
            assert_eq!(marks.over(&key(below)).len(), count, "{below}");
        }
        marks.remove(&lease);
        assert!(marks.over(&key("a/one/part")).is_empty());
        assert_eq!(marks.over(&key("b/part")).len(), 1);
    }
}
