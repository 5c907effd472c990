//! The place in a bucket that a store lies in, and the single requests on it.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::TryStreamExt as _;
use futures_util::stream::BoxStream;
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    Attribute, AttributeValue, Attributes, GetOptions, GetRange, MultipartId, ObjectStore,
    ObjectStoreExt as _, PutMode, PutMultipartOptions, PutOptions, PutPayload,
};

use super::address::BucketAddress;
use super::failure::Failure;
use super::http::Http;
use super::retry::RetryBudget;
use super::runtime;
use crate::key::ObjectKey;
use crate::store::{Operation, RemoteProblem, StoreError};

/// Metadata that every object carries: who wrote it. Tells the own object
/// whose answer was lost from another's.
const WRITER: &str = "pitrwriter";

/// What all kinds of buckets can do.
pub(super) trait Client: ObjectStore + MultipartStore + PaginatedListStore {}

impl<T: ObjectStore + MultipartStore + PaginatedListStore> Client for T {}

/// What differs between the kinds of buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    /// Whether an upload in parts can be completed under the condition that no
    /// object is there.
    pub(super) conditional_parts: bool,
    /// Whether an upload in parts can carry metadata.
    pub(super) parts_carry_metadata: bool,
    /// Whether a listing leaves out the object whose name is the prefix itself:
    /// object_store does so on Azure, where that may be a directory.
    pub(super) listing_hides_prefix: bool,
}

/// The client of a bucket with what every request needs.
#[derive(Clone)]
pub(super) struct Bucket {
    client: Arc<dyn Client>,
    http: Http,
    address: Arc<BucketAddress>,
    pub(super) kind: Kind,
    pub(super) budget: RetryBudget,
    /// Whether the bucket has answered with something that only one that
    /// exists can answer.
    seen: Arc<AtomicBool>,
    /// Whether the server refuses to overwrite, as far as is known.
    create_only: Arc<AtomicBool>,
}

impl fmt::Debug for Bucket {
    /// The client's own text may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bucket")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// What a HEAD, or the head of a GET, says of an object.
#[derive(Clone, Debug)]
pub(super) struct Head {
    pub(super) size: u64,
    pub(super) e_tag: Option<String>,
    writer: Option<String>,
}

/// One page's worth of names, put together over all pages.
#[derive(Debug, Default)]
pub(super) struct Listed {
    /// Full name in the bucket, size, and the server's time of the last change.
    pub(super) objects: Vec<(String, u64, DateTime<Utc>)>,
    /// Full names of folders, without the slash at the end.
    pub(super) folders: Vec<String>,
}

impl Bucket {
    pub(super) fn new(
        client: Arc<dyn Client>,
        http: Http,
        address: BucketAddress,
        kind: Kind,
        budget: RetryBudget,
    ) -> Self {
        Self {
            client,
            http,
            address: Arc::new(address),
            kind,
            budget,
            seen: Arc::new(AtomicBool::new(false)),
            create_only: Arc::new(AtomicBool::new(true)),
        }
    }

    /// The address, for messages.
    pub(super) fn location(&self) -> String {
        self.address.to_string()
    }

    /// An object's address, for messages.
    pub(super) fn object_location(&self, key: &ObjectKey) -> String {
        format!("{}/{key}", self.address)
    }

    /// Full name in the bucket of what has the name `below` in the repository.
    pub(super) fn name(&self, below: &str) -> String {
        match &self.address.prefix {
            Some(prefix) => format!("{prefix}/{below}"),
            None => below.to_owned(),
        }
    }

    /// What begins the names of all that lies in `folder`.
    pub(super) fn folder_prefix(&self, folder: Option<&ObjectKey>) -> String {
        match (folder, &self.address.prefix) {
            (Some(folder), _) => format!("{}/", self.name(folder.as_str())),
            (None, Some(prefix)) => format!("{prefix}/"),
            (None, None) => String::new(),
        }
    }

    pub(super) fn refuses_to_overwrite(&self) -> bool {
        self.create_only.load(Ordering::Relaxed)
    }

    pub(super) fn set_create_only(&self, create_only: bool) {
        self.create_only.store(create_only, Ordering::Relaxed);
        if !create_only {
            self.http.complete_unconditionally();
        }
    }

    /// Runs a request on the thread for remote stores and waits for it, with
    /// the store's error for its failure.
    pub(super) fn run<T: Send + 'static, Fut>(
        &self,
        operation: Operation,
        location: impl Fn() -> String,
        request: impl FnOnce(Self) -> Fut,
    ) -> Result<T, StoreError>
    where
        Fut: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        runtime::run(request(self.clone()))
            .map_err(|source| StoreError::Io {
                operation,
                location: location(),
                source,
            })?
            .map_err(|failure| self.error(failure, operation, location()))
    }

    /// The store's error for a failed request.
    pub(super) fn error(
        &self,
        failure: Failure,
        operation: Operation,
        location: String,
    ) -> StoreError {
        // of a missing bucket the bucket is told, not the object
        let of_bucket = matches!(
            &failure,
            Failure::Problem {
                problem: RemoteProblem::BucketMissing,
                ..
            }
        );
        let location = if of_bucket { self.location() } else { location };
        failure.into_error(operation, location)
    }

    /// Notes that the bucket exists, where the outcome proves it.
    fn note<T>(&self, outcome: Result<T, Failure>) -> Result<T, Failure> {
        match &outcome {
            Ok(_) | Err(Failure::Absent | Failure::Taken | Failure::BeyondEnd) => {
                self.seen.store(true, Ordering::Relaxed);
            }
            Err(_) => {}
        }
        outcome
    }

    /// Says what a bare 404 means: absence where the bucket is known to exist.
    /// Its listing proves that, where nothing has yet.
    async fn certain<T>(&self, outcome: Result<T, Failure>) -> Result<T, Failure> {
        let outcome = self.note(outcome);
        if !matches!(outcome, Err(Failure::MaybeAbsent)) {
            return outcome;
        }
        if !self.seen.load(Ordering::Relaxed) {
            self.list_page(&self.folder_prefix(None), true, Some(1), None)
                .await?;
        }
        Err(Failure::Absent)
    }

    /// Size and marks of an object; `None` if its absence is proven.
    pub(super) async fn head(&self, name: &str) -> Result<Option<Head>, Failure> {
        self.budget.run(|| self.head_once(name)).await
    }

    pub(super) async fn head_once(&self, name: &str) -> Result<Option<Head>, Failure> {
        let options = GetOptions {
            head: true,
            ..GetOptions::default()
        };
        let outcome = self.client.get_opts(&Path::from(name), options).await;
        match self.certain(outcome.map_err(Failure::from)).await {
            Ok(result) => Ok(Some(Head {
                size: result.meta.size,
                e_tag: result.meta.e_tag,
                writer: writer_of(&result.attributes),
            })),
            Err(Failure::Absent) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// One try of a GET: what the object is, the range that is sent, and the
    /// bytes as they come.
    pub(super) async fn get_once(
        &self,
        name: &str,
        range: Option<std::ops::Range<u64>>,
        if_match: Option<String>,
    ) -> Result<
        (
            Head,
            std::ops::Range<u64>,
            BoxStream<'static, Result<Bytes, Failure>>,
        ),
        Failure,
    > {
        let options = GetOptions {
            range: range.map(GetRange::Bounded),
            if_match,
            ..GetOptions::default()
        };
        let outcome = self.client.get_opts(&Path::from(name), options).await;
        let result = self.certain(outcome.map_err(Failure::from)).await?;
        let head = Head {
            size: result.meta.size,
            e_tag: result.meta.e_tag.clone(),
            writer: None,
        };
        let range = result.range.clone();
        let stream = Box::pin(result.into_stream().map_err(Failure::from));
        Ok((head, range, stream))
    }

    /// One try of putting a whole object; under the condition that none is
    /// there if `create`.
    pub(super) async fn put_once(
        &self,
        name: &str,
        payload: PutPayload,
        writer: &str,
        create: bool,
    ) -> Result<(), Failure> {
        let options = PutOptions {
            mode: if create {
                PutMode::Create
            } else {
                PutMode::Overwrite
            },
            attributes: attributes(writer),
            ..PutOptions::default()
        };
        let outcome = self
            .client
            .put_opts(&Path::from(name), payload, options)
            .await;
        self.note(outcome.map_err(Failure::from)).map(drop)
    }

    /// Puts a small object whatever is there: marks of life, which only their
    /// owner writes.
    pub(super) async fn overwrite(&self, name: &str, bytes: Bytes) -> Result<(), Failure> {
        self.budget
            .run(|| self.put_once(name, PutPayload::from(bytes.clone()), "", false))
            .await
    }

    /// Whether the object that is there was written by `writer`: `None` if
    /// there is none.
    pub(super) async fn is_of(&self, name: &str, writer: &str) -> Result<Option<bool>, Failure> {
        let head = self.head_once(name).await?;
        Ok(head.map(|head| head.writer.as_deref() == Some(writer)))
    }

    /// Begins an upload in parts.
    pub(super) async fn begin_parts(
        &self,
        name: &str,
        writer: &str,
    ) -> Result<MultipartId, Failure> {
        let options = PutMultipartOptions {
            attributes: if self.kind.parts_carry_metadata {
                attributes(writer)
            } else {
                Attributes::default()
            },
            ..PutMultipartOptions::default()
        };
        self.budget
            .run(|| async {
                self.client
                    .create_multipart_opts(&Path::from(name), options.clone())
                    .await
                    .map_err(Failure::from)
            })
            .await
    }

    /// Sends one part, again and again where it fails.
    pub(super) async fn put_part(
        &self,
        name: &str,
        upload: &MultipartId,
        number: usize,
        bytes: Bytes,
    ) -> Result<PartId, Failure> {
        let path = Path::from(name);
        self.budget
            .run(|| async {
                self.client
                    .put_part(&path, upload, number, PutPayload::from(bytes.clone()))
                    .await
                    .map_err(Failure::from)
            })
            .await
    }

    /// One try of turning the parts into the object.
    pub(super) async fn complete_once(
        &self,
        name: &str,
        upload: &MultipartId,
        parts: Vec<PartId>,
    ) -> Result<(), Failure> {
        let outcome = self
            .client
            .complete_multipart(&Path::from(name), upload, parts)
            .await;
        self.note(outcome.map_err(Failure::from)).map(drop)
    }

    /// Drops the parts that were sent.
    pub(super) async fn abort_parts(
        &self,
        name: &str,
        upload: &MultipartId,
    ) -> Result<(), Failure> {
        self.client
            .abort_multipart(&Path::from(name), upload)
            .await
            .map_err(Failure::from)
    }

    /// Removes an object; one that is not there is no failure.
    pub(super) async fn delete(&self, name: &str) -> Result<(), Failure> {
        self.budget
            .run(|| async {
                let outcome = self.client.delete(&Path::from(name)).await;
                match self.certain(outcome.map_err(Failure::from)).await {
                    Err(Failure::Absent) => Ok(()),
                    other => other,
                }
            })
            .await
    }

    /// All names that begin with `prefix`: one level of folders, or all levels.
    pub(super) async fn list(&self, prefix: &str, one_level: bool) -> Result<Listed, Failure> {
        let mut listed = Listed::default();
        let mut token = None;
        loop {
            let page = self
                .budget
                .run(|| self.list_page(prefix, one_level, None, token.clone()))
                .await?;
            let result = page.0;
            listed.objects.extend(result.objects);
            listed.folders.extend(result.folders);
            match page.1 {
                // a server that gives the same page for ever is not followed
                Some(next) if token.as_ref() != Some(&next) => token = Some(next),
                Some(_) => {
                    return Err(Failure::new(
                        RemoteProblem::Unexpected,
                        "the listing does not go on",
                    ));
                }
                None => return Ok(listed),
            }
        }
    }

    async fn list_page(
        &self,
        prefix: &str,
        one_level: bool,
        max_keys: Option<usize>,
        page_token: Option<String>,
    ) -> Result<(Listed, Option<String>), Failure> {
        let options = PaginatedListOptions {
            delimiter: one_level.then_some("/".into()),
            max_keys,
            page_token,
            ..PaginatedListOptions::default()
        };
        let outcome = self
            .client
            .list_paginated(Some(prefix).filter(|prefix| !prefix.is_empty()), options)
            .await;
        let page = self.note(outcome.map_err(Failure::from))?;
        let objects = page.result.objects.into_iter();
        let folders = page.result.common_prefixes.into_iter();
        let listed = Listed {
            objects: objects
                .map(|object| {
                    (
                        object.location.to_string(),
                        object.size,
                        object.last_modified,
                    )
                })
                .collect(),
            folders: folders.map(|folder| folder.to_string()).collect(),
        };
        Ok((listed, page.page_token))
    }
}

fn attributes(writer: &str) -> Attributes {
    let mut attributes = Attributes::new();
    if !writer.is_empty() {
        attributes.insert(
            Attribute::Metadata(WRITER.into()),
            AttributeValue::from(writer.to_owned()),
        );
    }
    attributes
}

fn writer_of(attributes: &Attributes) -> Option<String> {
    attributes
        .get(&Attribute::Metadata(WRITER.into()))
        .map(|value| value.as_ref().to_owned())
}
