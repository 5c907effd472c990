//! Whether the server refuses to overwrite: some accept the condition and pay
//! no heed to it.

use object_store::PutPayload;

use super::bucket::Bucket;
use super::failure::Failure;
use super::writer::unique;
use crate::store::{Medium, RemoteProblem};

/// Creates an object of a fresh name twice; the second must be refused.
pub(super) async fn probe(bucket: &Bucket) -> Result<Medium, Failure> {
    let random =
        unique().map_err(|error| Failure::new(RemoteProblem::Unexpected, error.to_string()))?;
    let name = bucket.name(&format!(".probe.{random}"));
    let outcome = try_twice(bucket, &name).await;
    let removed = bucket.delete(&name).await;
    let create_only = outcome?;
    removed?;
    Ok(Medium { create_only })
}

async fn try_twice(bucket: &Bucket, name: &str) -> Result<bool, Failure> {
    let create = |writer: &'static str| {
        let payload = || PutPayload::from_static(b"pitr asks whether this can be overwritten\n");
        bucket
            .budget
            .run(move || bucket.put_once(name, payload(), writer, true))
    };
    match create("first").await {
        // a lost answer, tried again
        Ok(()) | Err(Failure::Taken) => {}
        Err(Failure::UnknownCondition) => return Ok(false),
        Err(failure) => return Err(failure),
    }
    match create("second").await {
        Ok(()) => Ok(false),
        Err(Failure::UnknownCondition) => Ok(false),
        // and what is there must be what came first
        Err(Failure::Taken) => {
            let first = bucket.budget.run(|| bucket.is_of(name, "first")).await?;
            Ok(first == Some(true))
        }
        Err(failure) => Err(failure),
    }
}
