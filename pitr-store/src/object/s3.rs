//! `s3://`: Amazon S3 and servers that speak like it.

use std::path::PathBuf;
use std::sync::Arc;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};

use super::BucketStore;
use super::address::BucketAddress;
use super::aws_files::{Profile, read_profile};
use super::bucket::{Bucket, Kind};
use super::environment::Environment;
use super::settings::{Connection, no_retries, unusable};
use crate::store::{AddressError, S3Options};

const SCHEME: &str = "s3";

/// Where nothing names a region: right for most servers that are not Amazon's.
const DEFAULT_REGION: &str = "us-east-1";

/// The store at `s3://rest`. Reads settings, connects to nothing.
///
/// # Errors
/// `Bucket` for a malformed address, `Settings` for settings that cannot be
/// used.
pub(crate) fn open(rest: &str, options: &S3Options) -> Result<BucketStore, AddressError> {
    let address = BucketAddress::parse(SCHEME, rest)?;
    let settings = Resolved::new(options, &Environment::of_process())?;
    let (builder, connection) = settings.builder(&address.bucket);
    let (http, budget) = connection.open(SCHEME)?;
    let client = builder
        .with_http_connector(http.clone())
        .with_retry(no_retries())
        .build()
        .map_err(|error| unusable(SCHEME, &error, "Check the settings of [s3] and AWS_*."))?;
    let kind = Kind {
        conditional_parts: true,
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

/// How requests are signed.
#[derive(PartialEq, Eq)]
enum Credentials {
    Keys {
        id: String,
        secret: String,
        token: Option<String>,
    },
    /// A token in a file that stands for a role.
    WebIdentity {
        token_file: String,
        role: String,
    },
    /// The service that gives a container its role, by path or by URL.
    ContainerPath(String),
    ContainerUrl {
        url: String,
        token_file: String,
    },
    /// The service that gives a machine its role.
    Instance,
    /// Nobody: for buckets that ask for no signature.
    Anonymous,
}

/// The settings in force: the environment over `pitr.toml` over the profile.
struct Resolved {
    credentials: Credentials,
    region: String,
    endpoint: Option<String>,
    path_style: bool,
    session_name: Option<String>,
    metadata_endpoint: Option<String>,
    kms_key: Option<String>,
    connection: Connection,
}

impl Resolved {
    fn new(options: &S3Options, environment: &Environment) -> Result<Self, AddressError> {
        let named = environment.get("AWS_PROFILE").or(options.profile.clone());
        let profile_name = named.as_deref().unwrap_or("default");
        let has_keys = environment.get("AWS_ACCESS_KEY_ID").is_some()
            || options.access_key_id.is_some()
            || options.anonymous == Some(true);
        let profile = match read_profile(environment, profile_name) {
            Ok(profile) => profile,
            // whoever needs no profile is not stopped by one that is hidden
            Err(_) if named.is_none() && has_keys => None,
            Err(error) => return Err(error),
        };
        if profile.is_none()
            && let Some(name) = &named
        {
            return Err(AddressError::Settings {
                scheme: SCHEME,
                reason: format!("there is no profile {name:?}"),
                hint: "Profiles stand in ~/.aws/credentials and ~/.aws/config of the user that runs the server, or where AWS_SHARED_CREDENTIALS_FILE and AWS_CONFIG_FILE say.",
            });
        }
        let profile = profile.unwrap_or_default();
        let in_profile = |key: &str| profile.get(key).map(str::to_owned);
        let region = environment
            .first(&["AWS_REGION", "AWS_DEFAULT_REGION"])
            .or_else(|| options.region.clone())
            .or_else(|| in_profile("region"))
            .unwrap_or_else(|| DEFAULT_REGION.to_owned());
        let endpoint = environment
            .first(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"])
            .or_else(|| options.endpoint.clone())
            .or_else(|| in_profile("endpoint_url"));
        // other servers rarely have a name for each bucket
        let path_style = options
            .path_style
            .or_else(|| match profile.get("s3.addressing_style") {
                Some("path") => Some(true),
                Some("virtual") => Some(false),
                _ => None,
            })
            .unwrap_or(endpoint.is_some());
        let ca_file = environment
            .get("AWS_CA_BUNDLE")
            .map(PathBuf::from)
            .or_else(|| options.ca_file.clone())
            .or_else(|| in_profile("ca_bundle").map(PathBuf::from));
        let metadata_endpoint = environment.get("AWS_EC2_METADATA_SERVICE_ENDPOINT");
        let credentials = credentials(options, environment, &profile, profile_name)?;
        let mut metadata: Vec<String> = metadata_endpoint.iter().cloned().collect();
        if let Credentials::ContainerUrl { url, .. } = &credentials {
            metadata.push(url.clone());
        }
        Ok(Self {
            session_name: environment.get("AWS_ROLE_SESSION_NAME"),
            kms_key: options.kms_key_id.clone(),
            connection: Connection {
                ca_file,
                timeout_seconds: options.timeout_seconds,
                retry_seconds: options.retry_seconds,
                endpoint: endpoint.clone(),
                conditional_complete: true,
                metadata,
            },
            credentials,
            region,
            endpoint,
            path_style,
            metadata_endpoint,
        })
    }

    fn builder(self, bucket: &str) -> (AmazonS3Builder, Connection) {
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(bucket)
            .with_region(&self.region)
            .with_allow_http(true) // the client itself knows where it may
            .with_disable_bulk_delete(true)
            .with_virtual_hosted_style_request(!self.path_style);
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(if self.path_style {
                endpoint.trim_end_matches('/').to_owned()
            } else {
                with_bucket(endpoint, bucket)
            });
        }
        if let Some(key) = self.kms_key {
            builder = builder.with_sse_kms_encryption(key);
        }
        if let Some(endpoint) = self.metadata_endpoint {
            builder = builder.with_metadata_endpoint(endpoint.trim_end_matches('/'));
        }
        builder = match self.credentials {
            Credentials::Keys { id, secret, token } => {
                let builder = builder
                    .with_access_key_id(id)
                    .with_secret_access_key(secret);
                match token {
                    Some(token) => builder.with_token(token),
                    None => builder,
                }
            }
            Credentials::WebIdentity { token_file, role } => {
                let builder = builder
                    .with_config(AmazonS3ConfigKey::WebIdentityTokenFile, token_file)
                    .with_config(AmazonS3ConfigKey::RoleArn, role);
                match self.session_name {
                    Some(name) => builder.with_config(AmazonS3ConfigKey::RoleSessionName, name),
                    None => builder,
                }
            }
            Credentials::ContainerPath(path) => {
                builder.with_config(AmazonS3ConfigKey::ContainerCredentialsRelativeUri, path)
            }
            Credentials::ContainerUrl { url, token_file } => builder
                .with_config(AmazonS3ConfigKey::ContainerCredentialsFullUri, url)
                .with_config(
                    AmazonS3ConfigKey::ContainerAuthorizationTokenFile,
                    token_file,
                ),
            Credentials::Instance => builder,
            Credentials::Anonymous => builder.with_skip_signature(true),
        };
        (builder, self.connection)
    }
}

/// `https://host` as `https://bucket.host`.
fn with_bucket(endpoint: &str, bucket: &str) -> String {
    let endpoint = endpoint.trim_end_matches('/');
    match endpoint.split_once("://") {
        Some((scheme, host)) => format!("{scheme}://{bucket}.{host}"),
        None => endpoint.to_owned(),
    }
}

fn credentials(
    options: &S3Options,
    environment: &Environment,
    profile: &Profile,
    profile_name: &str,
) -> Result<Credentials, AddressError> {
    let refused = |reason: String, hint: &'static str| AddressError::Settings {
        scheme: SCHEME,
        reason,
        hint,
    };
    let pair = |id: Option<String>, secret: Option<String>, token, place: &str| match (id, secret) {
        (Some(id), Some(secret)) => Ok(Some(Credentials::Keys { id, secret, token })),
        (None, None) => Ok(None),
        (Some(_), None) => Err(refused(
            format!("{place} has a key id without its secret"),
            "Set both, or neither.",
        )),
        (None, Some(_)) => Err(refused(
            format!("{place} has a secret without its key id"),
            "Set both, or neither.",
        )),
    };
    if let Some(keys) = pair(
        environment.get("AWS_ACCESS_KEY_ID"),
        environment.get("AWS_SECRET_ACCESS_KEY"),
        environment.get("AWS_SESSION_TOKEN"),
        "the environment",
    )? {
        return Ok(keys);
    }
    if options.anonymous == Some(true) {
        return Ok(Credentials::Anonymous);
    }
    let of = |secret: &Option<crate::store::Secret>| {
        secret.as_ref().map(|secret| secret.reveal().to_owned())
    };
    if let Some(keys) = pair(
        options.access_key_id.clone(),
        of(&options.secret_access_key),
        of(&options.session_token),
        "[s3] of pitr.toml",
    )? {
        return Ok(keys);
    }
    let web_identity = |token_file: Option<String>, role: Option<String>| {
        Some(Credentials::WebIdentity {
            token_file: token_file?,
            role: role?,
        })
    };
    if let Some(role) = web_identity(
        environment.get("AWS_WEB_IDENTITY_TOKEN_FILE"),
        environment.get("AWS_ROLE_ARN"),
    ) {
        return Ok(role);
    }
    let in_profile = |key: &str| profile.get(key).map(str::to_owned);
    if let Some(role) = web_identity(
        in_profile("web_identity_token_file"),
        in_profile("role_arn"),
    ) {
        return Ok(role);
    }
    let by_other_means = [
        "role_arn",
        "credential_process",
        "sso_session",
        "sso_start_url",
    ];
    if profile.has_any(&by_other_means) && profile.get("aws_access_key_id").is_none() {
        return Err(refused(
            format!(
                "profile {profile_name:?} takes its keys from another program, session or profile"
            ),
            "Of profiles, keys and web_identity_token_file are read. Others turn into keys by: aws configure export-credentials --profile NAME --format env",
        ));
    }
    if let Some(keys) = pair(
        in_profile("aws_access_key_id"),
        in_profile("aws_secret_access_key"),
        in_profile("aws_session_token"),
        &format!("profile {profile_name:?}"),
    )? {
        return Ok(keys);
    }
    if let Some(path) = environment.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") {
        return Ok(Credentials::ContainerPath(path));
    }
    if let (Some(url), Some(token_file)) = (
        environment.get("AWS_CONTAINER_CREDENTIALS_FULL_URI"),
        environment.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"),
    ) {
        return Ok(Credentials::ContainerUrl { url, token_file });
    }
    if environment
        .get("AWS_EC2_METADATA_DISABLED")
        .is_some_and(|value| value.eq_ignore_ascii_case("true"))
    {
        return Err(refused(
            "no credentials were found".to_owned(),
            "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for the server, or access_key_id and secret_access_key in [s3] of pitr.toml, or name a profile.",
        ));
    }
    Ok(Credentials::Instance)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Secret;

    fn resolve(options: &S3Options, variables: &[(&str, &str)]) -> Result<Resolved, AddressError> {
        Resolved::new(options, &Environment::made_of(variables))
    }

    fn keys(id: &str) -> Credentials {
        Credentials::Keys {
            id: id.to_owned(),
            secret: "s".to_owned(),
            token: None,
        }
    }

    #[test]
    fn the_environment_wins_over_the_file_and_that_over_the_profile() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join(".aws")).unwrap();
        std::fs::write(
            home.path().join(".aws/credentials"),
            "[default]\naws_access_key_id = P\naws_secret_access_key = s\nregion = p\n",
        )
        .unwrap();
        let home = home.path().display().to_string();
        let file = S3Options {
            access_key_id: Some("F".to_owned()),
            secret_access_key: Some(Secret::new("s")),
            region: Some("f".to_owned()),
            ..S3Options::default()
        };
        let none = S3Options::default();
        let in_env = [
            ("HOME", home.as_str()),
            ("AWS_ACCESS_KEY_ID", "E"),
            ("AWS_SECRET_ACCESS_KEY", "s"),
            ("AWS_REGION", "e"),
        ];
        for (options, variables, id, region) in [
            (&file, &in_env[..], "E", "e"),
            (&file, &in_env[..1], "F", "f"),
            (&none, &in_env[..1], "P", "p"),
        ] {
            let found = resolve(options, variables).unwrap();
            assert!(found.credentials == keys(id), "{id}");
            assert_eq!(found.region, region);
        }
    }

    #[test]
    fn roles_are_taken_as_the_environment_names_them() {
        let none = S3Options::default();
        let of = |variables: &[(&str, &str)]| resolve(&none, variables).unwrap().credentials;
        assert!(of(&[]) == Credentials::Instance);
        assert!(
            of(&[("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/x")])
                == Credentials::ContainerPath("/x".to_owned())
        );
        assert!(matches!(
            of(&[
                ("AWS_WEB_IDENTITY_TOKEN_FILE", "/t"),
                ("AWS_ROLE_ARN", "arn")
            ]),
            Credentials::WebIdentity { .. }
        ));
        assert!(resolve(&none, &[("AWS_EC2_METADATA_DISABLED", "true")]).is_err());
    }

    #[test]
    fn what_cannot_work_is_told_before_anything_is_sent() {
        let none = S3Options::default();
        for variables in [
            &[("AWS_ACCESS_KEY_ID", "hidden")][..],
            &[("AWS_SECRET_ACCESS_KEY", "hidden")],
            &[("AWS_PROFILE", "nobody"), ("HOME", "/nonexistent")],
        ] {
            let Err(error) = resolve(&none, variables) else {
                panic!("{variables:?} was taken");
            };
            assert!(!format!("{error} {error:?}").contains("hidden"));
            assert!(error.hint().is_some());
        }
    }

    #[test]
    fn an_endpoint_is_asked_by_path_unless_told_otherwise() {
        let endpoint = S3Options {
            endpoint: Some("https://minio.example".to_owned()),
            ..S3Options::default()
        };
        assert!(resolve(&endpoint, &[]).unwrap().path_style);
        assert!(!resolve(&S3Options::default(), &[]).unwrap().path_style);
        assert_eq!(with_bucket("https://h:1/", "b"), "https://b.h:1");
    }
}
