//! What the three kinds of buckets are set up with alike.

use std::path::PathBuf;
use std::time::Duration;

use object_store::{BackoffConfig, RetryConfig};

use super::http::{Http, HttpSettings, check_certificate_file};
use super::retry::RetryBudget;
use crate::store::AddressError;

/// Longest time in which nothing moves on a connection, by default.
const STALL: Duration = Duration::from_secs(30);

/// For how long a request is tried again, by default.
const BUDGET: Duration = Duration::from_secs(180);

/// Hosts that give machines of the providers their roles, without TLS.
const METADATA_HOSTS: [&str; 5] = [
    "169.254.169.254",
    "169.254.170.2",
    "169.254.170.23",
    "[fd00:ec2::254]",
    "metadata.google.internal",
];

/// Settings of the connection, whatever the provider.
#[derive(Debug, Default)]
pub(super) struct Connection {
    pub(super) ca_file: Option<PathBuf>,
    pub(super) timeout_seconds: Option<u64>,
    pub(super) retry_seconds: Option<u64>,
    /// The endpoint as set; `http://` in it allows plain HTTP to its host.
    pub(super) endpoint: Option<String>,
    pub(super) conditional_complete: bool,
    /// Further places that give roles: what the environment names.
    pub(super) metadata: Vec<String>,
}

impl Connection {
    /// The client and the budget for it.
    ///
    /// # Errors
    /// `Settings` for an endpoint that is no URL, and for a certificate file
    /// that cannot be used.
    pub(super) fn open(self, scheme: &'static str) -> Result<(Http, RetryBudget), AddressError> {
        let refused = |reason: String, hint: &'static str| AddressError::Settings {
            scheme,
            reason,
            hint,
        };
        if let Some(path) = &self.ca_file {
            check_certificate_file(path).map_err(|error| {
                refused(
                    error.to_string(),
                    "Name a file of certificates in PEM that this user may read.",
                )
            })?;
        }
        let mut plain_hosts = Vec::new();
        if let Some(endpoint) = &self.endpoint {
            let uri = endpoint.parse::<http::Uri>().ok();
            let host = uri
                .as_ref()
                .and_then(|uri| Some((uri.scheme_str()?, uri.host()?)));
            match host {
                Some(("https", _)) => {}
                Some(("http", host)) => plain_hosts.push(host.to_owned()),
                _ => {
                    return Err(refused(
                        "the endpoint is not a URL of the form https://HOST".to_owned(),
                        "Plain HTTP has to be asked for: http://HOST:PORT.",
                    ));
                }
            }
        }
        let named = self.metadata.iter().filter_map(|url| {
            let uri = url.parse::<http::Uri>().ok()?;
            uri.host().map(str::to_owned)
        });
        let metadata_hosts = METADATA_HOSTS
            .iter()
            .map(|host| (*host).to_owned())
            .chain(named)
            // an endpoint of the repository is no metadata service
            .filter(|host| !plain_hosts.contains(host))
            .collect();
        let stall = self.timeout_seconds.map_or(STALL, Duration::from_secs);
        let total = self.retry_seconds.map_or(BUDGET, Duration::from_secs);
        let http = Http::new(HttpSettings {
            ca_file: self.ca_file,
            stall: stall.max(Duration::from_secs(1)),
            plain_hosts,
            metadata_hosts,
            conditional_complete: self.conditional_complete,
        });
        Ok((http, RetryBudget { total }))
    }
}

/// Each request goes out once: this crate itself knows what to do after a
/// failure.
pub(super) fn no_retries() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig::default(),
        max_retries: 0,
        retry_timeout: Duration::ZERO,
    }
}

/// Why a client cannot be made of its settings. Its own text may repeat a
/// setting, so only what is known to be harmless is passed on.
pub(super) fn unusable(
    scheme: &'static str,
    error: &object_store::Error,
    hint: &'static str,
) -> AddressError {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    let reason = if let Some(io) = innermost.downcast_ref::<std::io::Error>() {
        io.to_string()
    } else if let Some(json) = innermost.downcast_ref::<serde_json::Error>() {
        format!(
            "the file with the key is not the JSON that belongs there (line {})",
            json.line()
        )
    } else {
        "the key or another setting is not of the form that belongs there".to_owned()
    };
    AddressError::Settings {
        scheme,
        reason,
        hint,
    }
}
