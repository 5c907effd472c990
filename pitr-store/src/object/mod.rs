//! Stores in buckets: Amazon S3 and servers like it, Google Cloud Storage,
//! Azure Blob Storage.

mod address;
mod answer;
#[cfg(feature = "s3")]
mod aws_files;
#[cfg(feature = "az")]
mod az;
mod bucket;
mod clock;
mod environment;
mod failure;
#[cfg(feature = "gs")]
mod gs;
mod http;
mod lease;
mod listing;
mod probe;
mod reader;
mod retry;
mod runtime;
#[cfg(feature = "s3")]
mod s3;
mod settings;
mod writer;

use std::collections::HashMap;
use std::io::Read;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use self::bucket::Bucket;
use self::clock::Moment;
use self::failure::Failure;
use self::lease::Leases;
use self::reader::Ranged;
use self::runtime::Pending;
use crate::key::ObjectKey;
use crate::store::{
    Entry, Hold, Medium, ObjectMeta, ObjectTrace, ObjectWriter, Operation, Promises, Store,
    StoreError,
};

#[cfg(feature = "az")]
pub(crate) use az::open as open_az;
#[cfg(feature = "gs")]
pub(crate) use gs::open as open_gs;
#[cfg(feature = "s3")]
pub(crate) use s3::open as open_s3;

/// For how long an answer that nothing is there spares the same question before
/// a publish; the one after it is never spared.
const LOOK_LASTS: Duration = Duration::from_secs(2);

/// Largest object that is read before the caller comes to it.
const EXPECTED_BYTES: u64 = 64 * 1024;

/// A store in a bucket, or in a part of it.
#[derive(Debug)]
pub(crate) struct BucketStore {
    bucket: Bucket,
    leases: Arc<Leases>,
    /// The names that were last found absent, and when the question was asked.
    looked: Mutex<Option<(Vec<ObjectKey>, Moment)>>,
    expected: Mutex<Expected>,
}

/// Questions that were asked before the caller came to them.
#[derive(Debug, Default)]
struct Expected {
    documents: HashMap<ObjectKey, Pending<Document>>,
    names: Option<ExpectedNames>,
}

/// The question which of some names are there.
#[derive(Debug)]
struct ExpectedNames {
    names: Vec<ObjectKey>,
    asked: Moment,
    answer: Pending<Found>,
}

/// A small object; its size if it is too large.
type Document = Result<Result<Vec<u8>, u64>, Failure>;

/// Those of some names that are there.
type Found = Result<Vec<(usize, ObjectMeta)>, Failure>;

impl BucketStore {
    fn new(bucket: Bucket) -> Self {
        Self {
            bucket,
            leases: Arc::new(Leases::default()),
            looked: Mutex::new(None),
            expected: Mutex::default(),
        }
    }

    fn name(&self, key: &ObjectKey) -> String {
        self.bucket.name(key.as_str())
    }

    /// The answer to a question that was asked before; `None` if it was not, or
    /// if the thread that asked is gone.
    fn expected_document(&self, key: &ObjectKey) -> Option<Document> {
        let pending = lock(&self.expected).documents.remove(key)?;
        pending.wait().ok()
    }

    fn expected_names(&self, keys: &[ObjectKey]) -> Option<(Moment, Found)> {
        let expected = lock(&self.expected).names.take()?;
        if expected.names != keys {
            return None;
        }
        Some((expected.asked, expected.answer.wait().ok()?))
    }

    /// When it was asked whether any of `keys` is there, if that was just now
    /// and none was.
    fn has_just_looked(&self, keys: &[ObjectKey]) -> bool {
        let Some((absent, asked)) = lock(&self.looked).take() else {
            return false;
        };
        let all = keys.iter().all(|key| absent.contains(key));
        all && asked.elapsed() < LOOK_LASTS
    }
}

impl Store for BucketStore {
    fn location(&self) -> String {
        self.bucket.location()
    }

    fn object_location(&self, key: &ObjectKey) -> String {
        self.bucket.object_location(key)
    }

    fn promises(&self) -> Promises {
        Promises {
            create_only: self.bucket.refuses_to_overwrite(),
            exclusive_rivals: false,
        }
    }

    fn probe(&self) -> Result<Option<Medium>, StoreError> {
        self.bucket
            .run(
                Operation::Create,
                || self.location(),
                |bucket| async move { probe::probe(&bucket).await },
            )
            .map(Some)
    }

    fn adopt(&self, medium: &Medium) {
        self.bucket.set_create_only(medium.create_only);
    }

    /// Makes no bucket: proves only that there is one.
    fn establish(&self) -> Result<(), StoreError> {
        self.list(None).map(drop)
    }

    fn create(
        &self,
        key: &ObjectKey,
        rivals: &[ObjectKey],
    ) -> Result<Box<dyn ObjectWriter>, StoreError> {
        let has_looked = match rivals {
            [] => false,
            rivals => self.has_just_looked(rivals),
        };
        let writer =
            writer::BucketWriter::begin(&self.bucket, &self.leases, key, rivals, has_looked)?;
        Ok(Box::new(writer))
    }

    fn open(&self, key: &ObjectKey) -> Result<Box<dyn Read + Send>, StoreError> {
        let location = self.object_location(key);
        let reader = reader::ObjectReader::open(&self.bucket, self.name(key), location)?;
        Ok(Box::new(reader))
    }

    fn read_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        let location = || self.object_location(key);
        let (name, wanted) = (self.name(key), range.clone());
        let read = self
            .bucket
            .run(Operation::Read, location, |bucket| async move {
                reader::read_range(&bucket, &name, wanted).await
            })?;
        match read {
            Ranged::Bytes(bytes) => Ok(bytes),
            Ranged::Short { size_bytes } => Err(StoreError::OutOfRange {
                location: location(),
                begin: range.start,
                end: range.end,
                size_bytes,
            }),
        }
    }

    fn read_whole(&self, key: &ObjectKey, max_bytes: u64) -> Result<Vec<u8>, StoreError> {
        let location = || self.object_location(key);
        let too_large = || StoreError::TooLarge {
            location: location(),
            max_bytes,
        };
        match self.expected_document(key) {
            Some(Ok(Ok(bytes))) if fits(&bytes, max_bytes) => return Ok(bytes),
            Some(Ok(Ok(_))) => return Err(too_large()),
            Some(Err(failure)) => {
                return Err(self.bucket.error(failure, Operation::Open, location()));
            }
            // larger than was expected, perhaps not than the caller allows
            Some(Ok(Err(_))) | None => {}
        }
        let name = self.name(key);
        self.bucket
            .run(Operation::Open, location, |bucket| async move {
                reader::read_whole(&bucket, &name, max_bytes).await
            })?
            .map_err(|_| too_large())
    }

    fn expect(&self, documents: &[ObjectKey], names: &[ObjectKey]) -> bool {
        let mut expected = lock(&self.expected);
        for key in documents {
            let (bucket, name) = (self.bucket.clone(), self.name(key));
            let pending =
                runtime::begin(
                    async move { reader::read_whole(&bucket, &name, EXPECTED_BYTES).await },
                );
            // where nothing can be begun, the question itself tells why
            if let Ok(pending) = pending {
                expected.documents.insert(key.clone(), pending);
            }
        }
        if !names.is_empty() {
            let (bucket, wanted) = (self.bucket.clone(), names.to_vec());
            let asked = Moment::now();
            let answer = runtime::begin(async move { listing::which_of(&bucket, &wanted).await });
            expected.names = answer.ok().map(|answer| ExpectedNames {
                names: names.to_vec(),
                asked,
                answer,
            });
        }
        !expected.documents.is_empty() || expected.names.is_some()
    }

    fn stat(&self, key: &ObjectKey) -> Result<Option<ObjectMeta>, StoreError> {
        let name = self.name(key);
        self.bucket.run(
            Operation::Stat,
            || self.object_location(key),
            |bucket| async move {
                let head = bucket.head(&name).await?;
                Ok(head.map(|head| ObjectMeta { size: head.size }))
            },
        )
    }

    fn trace(&self, key: &ObjectKey) -> Result<Option<ObjectTrace>, StoreError> {
        let name = self.name(key);
        self.bucket.run(
            Operation::Stat,
            || self.object_location(key),
            |bucket| async move {
                let head = bucket.head(&name).await?;
                Ok(head.map(|head| {
                    let version = head.e_tag.unwrap_or_default();
                    ObjectTrace::of_version(head.size, &version)
                }))
            },
        )
    }

    fn which_of(&self, keys: &[ObjectKey]) -> Result<Vec<(usize, ObjectMeta)>, StoreError> {
        let Some(first) = keys.first() else {
            return Ok(Vec::new());
        };
        let location = || self.object_location(first);
        let (asked, found) = match self.expected_names(keys) {
            Some((asked, answer)) => {
                let told = |failure| self.bucket.error(failure, Operation::Stat, location());
                (asked, answer.map_err(told)?)
            }
            None => {
                let (asked, wanted) = (Moment::now(), keys.to_vec());
                let found = self
                    .bucket
                    .run(Operation::Stat, location, |bucket| async move {
                        listing::which_of(&bucket, &wanted).await
                    })?;
                (asked, found)
            }
        };
        if found.is_empty() {
            *lock(&self.looked) = Some((keys.to_vec(), asked));
        }
        Ok(found)
    }

    fn list(&self, folder: Option<&ObjectKey>) -> Result<Vec<Entry>, StoreError> {
        let location = || match folder {
            Some(folder) => self.object_location(folder),
            None => self.location(),
        };
        let folder = folder.cloned();
        self.bucket
            .run(Operation::List, location, |bucket| async move {
                listing::list(&bucket, folder.as_ref()).await
            })
    }

    fn make_durable(&self, key: &ObjectKey) -> Result<(), StoreError> {
        // what shows is durable: it must only be there
        match self.stat(key)? {
            Some(_) => Ok(()),
            None => Err(StoreError::NotFound {
                location: self.object_location(key),
            }),
        }
    }

    fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let name = self.name(key);
        self.bucket.run(
            Operation::Delete,
            || self.object_location(key),
            |bucket| async move {
                // a bucket says nothing of an object that was not there
                bucket.head(&name).await?.ok_or(Failure::Absent)?;
                bucket.delete(&name).await
            },
        )
    }

    fn delete_folder(&self, folder: &ObjectKey) -> Result<(), StoreError> {
        let location = || self.object_location(folder);
        let folder = folder.clone();
        self.bucket
            .run(Operation::Delete, location, |bucket| async move {
                listing::delete_folder(&bucket, &folder).await
            })
    }

    fn hold(&self, key: &ObjectKey) -> Result<Option<Hold>, StoreError> {
        self.leases.take(&self.bucket, key)
    }
}

fn fits(bytes: &[u8], max_bytes: u64) -> bool {
    u64::try_from(bytes.len()).is_ok_and(|length| length <= max_bytes)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
