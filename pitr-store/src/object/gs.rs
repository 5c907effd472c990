//! `gs://`: Google Cloud Storage.

use std::str::FromStr as _;
use std::sync::Arc;

use object_store::StaticCredentialProvider;
use object_store::gcp::{GcpCredential, GoogleCloudStorageBuilder, GoogleConfigKey};

use super::BucketStore;
use super::address::BucketAddress;
use super::bucket::{Bucket, Kind};
use super::environment::Environment;
use super::settings::{Connection, no_retries, unusable};
use crate::store::{AddressError, GsOptions};

const SCHEME: &str = "gs";

/// The store at `gs://rest`. Reads settings, connects to nothing.
///
/// # Errors
/// `Bucket` for a malformed address, `Settings` for settings that cannot be
/// used.
pub(crate) fn open(rest: &str, options: &GsOptions) -> Result<BucketStore, AddressError> {
    let address = BucketAddress::parse(SCHEME, rest)?;
    let environment = Environment::of_process();
    let connection = Connection {
        ca_file: options.ca_file.clone(),
        timeout_seconds: options.timeout_seconds,
        retry_seconds: options.retry_seconds,
        endpoint: options.endpoint.clone(),
        ..Connection::default()
    };
    let (http, budget) = connection.open(SCHEME)?;
    let client = builder(options, &environment)
        .with_bucket_name(&address.bucket)
        .with_http_connector(http.clone())
        .with_retry(no_retries())
        .build()
        .map_err(|error| {
            unusable(
                SCHEME,
                &error,
                "GOOGLE_APPLICATION_CREDENTIALS, or service_account_file in [gs] of pitr.toml, names the JSON file of a service account.",
            )
        })?;
    let kind = Kind {
        conditional_parts: false,
        parts_carry_metadata: true,
        listing_hides_prefix: false,
    };
    Ok(BucketStore::new(Bucket::new(
        Arc::new(client),
        http,
        address,
        kind,
        budget,
    )))
}

/// The environment over `pitr.toml`.
fn builder(options: &GsOptions, environment: &Environment) -> GoogleCloudStorageBuilder {
    let mut builder = GoogleCloudStorageBuilder::new();
    if let Some(endpoint) = &options.endpoint {
        builder = builder.with_base_url(endpoint.trim_end_matches('/'));
    }
    if options.anonymous == Some(true) {
        // an empty token is not sent; without any the machine's role is asked for
        let nobody = GcpCredential {
            bearer: String::new(),
        };
        return builder.with_credentials(Arc::new(StaticCredentialProvider::new(nobody)));
    }
    let from_environment: Vec<_> = environment
        .beginning("GOOGLE_")
        .into_iter()
        .filter_map(|(name, value)| {
            let key = GoogleConfigKey::from_str(&name.to_ascii_lowercase()).ok()?;
            is_credential(key).then_some((key, value))
        })
        .collect();
    match (&options.service_account_file, from_environment.is_empty()) {
        (Some(file), true) => {
            builder = builder.with_service_account_path(file.display().to_string())
        }
        _ => {
            for (key, value) in from_environment {
                builder = builder.with_config(key, value);
            }
        }
    }
    builder
}

fn is_credential(key: GoogleConfigKey) -> bool {
    matches!(
        key,
        GoogleConfigKey::ServiceAccount
            | GoogleConfigKey::ServiceAccountKey
            | GoogleConfigKey::ApplicationCredentials
    )
}
