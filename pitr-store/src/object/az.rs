//! `az://`: Azure Blob Storage.

use std::str::FromStr as _;
use std::sync::Arc;

use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};

use super::BucketStore;
use super::address::BucketAddress;
use super::bucket::{Bucket, Kind};
use super::environment::Environment;
use super::settings::{Connection, no_retries, unusable};
use crate::store::{AddressError, AzOptions};

const SCHEME: &str = "az";

/// The store at `az://rest`: container and path; the account is a setting.
/// Reads settings, connects to nothing.
///
/// # Errors
/// `Bucket` for a malformed address, `Settings` for settings that cannot be
/// used.
pub(crate) fn open(rest: &str, options: &AzOptions) -> Result<BucketStore, AddressError> {
    let address = BucketAddress::parse(SCHEME, rest)?;
    let settings = Settings::new(options, &Environment::of_process())?;
    let endpoint = settings.get(AzureConfigKey::Endpoint).map(str::to_owned);
    let metadata = [AzureConfigKey::MsiEndpoint, AzureConfigKey::AuthorityHost]
        .into_iter()
        .filter_map(|key| settings.get(key))
        .filter(|url| url.starts_with("http://"))
        .map(str::to_owned)
        .collect();
    let connection = Connection {
        ca_file: options.ca_file.clone(),
        timeout_seconds: options.timeout_seconds,
        retry_seconds: options.retry_seconds,
        endpoint,
        conditional_complete: false,
        metadata,
    };
    let (http, budget) = connection.open(SCHEME)?;
    let client = settings
        .builder()
        .with_container_name(&address.bucket)
        .with_allow_http(true) // the client itself knows where it may
        .with_http_connector(http.clone())
        .with_retry(no_retries())
        .build()
        .map_err(|error| {
            unusable(
                SCHEME,
                &error,
                "Check AZURE_STORAGE_ACCOUNT_NAME, AZURE_STORAGE_ACCOUNT_KEY (base64) and [az] of pitr.toml.",
            )
        })?;
    let kind = Kind {
        conditional_parts: false,
        parts_carry_metadata: false,
        listing_hides_prefix: true,
    };
    Ok(BucketStore::new(Bucket::new(
        Arc::new(client),
        http,
        address,
        kind,
        budget,
    )))
}

/// The settings in force: the environment over `pitr.toml`.
struct Settings(Vec<(AzureConfigKey, String)>);

impl Settings {
    fn new(options: &AzOptions, environment: &Environment) -> Result<Self, AddressError> {
        let mut settings = Self(Vec::new());
        let secret = |secret: &Option<crate::store::Secret>| {
            secret.as_ref().map(|secret| secret.reveal().to_owned())
        };
        for (key, value) in [
            (AzureConfigKey::AccountName, options.account.clone()),
            (AzureConfigKey::AccessKey, secret(&options.account_key)),
            (AzureConfigKey::SasKey, secret(&options.sas_token)),
            (AzureConfigKey::Endpoint, options.endpoint.clone()),
        ] {
            if let Some(value) = value {
                settings.set(key, value);
            }
        }
        if let Some(text) = environment.get("AZURE_STORAGE_CONNECTION_STRING") {
            settings.forget_keys();
            settings.read_connection_string(&text)?;
        }
        let named: Vec<_> = environment
            .beginning("AZURE_")
            .into_iter()
            .filter_map(|(name, value)| {
                // what Azure's own tools say, beside object_store's names
                let name = match name {
                    "AZURE_STORAGE_ACCOUNT" => "azure_storage_account_name".to_owned(),
                    "AZURE_STORAGE_KEY" => "azure_storage_account_key".to_owned(),
                    other => other.to_ascii_lowercase(),
                };
                Some((AzureConfigKey::from_str(&name).ok()?, value.to_owned()))
            })
            .filter(|(key, _)| {
                !matches!(
                    key,
                    AzureConfigKey::Client(_) | AzureConfigKey::ContainerName
                )
            })
            .collect();
        if named.iter().any(|(key, _)| is_key(*key)) {
            settings.forget_keys();
        }
        for (key, value) in named {
            settings.set(key, value);
        }
        if settings.get(AzureConfigKey::AccountName).is_none()
            && settings.get(AzureConfigKey::UseEmulator).is_none()
        {
            return Err(AddressError::Settings {
                scheme: SCHEME,
                reason: "no storage account was named".to_owned(),
                hint: "Set AZURE_STORAGE_ACCOUNT_NAME, or account in [az] of pitr.toml.",
            });
        }
        Ok(settings)
    }

    fn set(&mut self, key: AzureConfigKey, value: String) {
        self.0.retain(|(known, _)| *known != key);
        self.0.push((key, value));
    }

    fn get(&self, key: AzureConfigKey) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, _)| *known == key)
            .map(|(_, value)| value.as_str())
    }

    /// A key of the environment does not go with one of the file.
    fn forget_keys(&mut self) {
        self.0.retain(|(key, _)| !is_key(*key));
    }

    /// `AccountName=…;AccountKey=…;…`, as the portal shows it.
    fn read_connection_string(&mut self, text: &str) -> Result<(), AddressError> {
        let value = |name: &str| {
            text.split(';')
                .filter_map(|part| part.split_once('='))
                .find(|(key, _)| key.trim().eq_ignore_ascii_case(name))
                .map(|(_, value)| value.trim().to_owned())
        };
        let account = value("AccountName").ok_or(AddressError::Settings {
            scheme: SCHEME,
            reason: "the connection string names no account".to_owned(),
            hint: "AZURE_STORAGE_CONNECTION_STRING is AccountName=NAME;AccountKey=KEY with further parts.",
        })?;
        let endpoint = value("BlobEndpoint").or_else(|| {
            let suffix = value("EndpointSuffix")?;
            Some(format!("https://{account}.blob.{suffix}"))
        });
        self.set(AzureConfigKey::AccountName, account);
        for (key, value) in [
            (AzureConfigKey::AccessKey, value("AccountKey")),
            (AzureConfigKey::SasKey, value("SharedAccessSignature")),
            (AzureConfigKey::Endpoint, endpoint),
        ] {
            if let Some(value) = value {
                self.set(key, value);
            }
        }
        Ok(())
    }

    fn builder(self) -> MicrosoftAzureBuilder {
        self.0
            .into_iter()
            .fold(MicrosoftAzureBuilder::new(), |builder, (key, value)| {
                builder.with_config(key, value)
            })
    }
}

fn is_key(key: AzureConfigKey) -> bool {
    matches!(
        key,
        AzureConfigKey::AccessKey | AzureConfigKey::SasKey | AzureConfigKey::Token
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Secret;

    #[test]
    fn a_key_of_the_environment_replaces_that_of_the_file() {
        let file = AzOptions {
            account: Some("file".to_owned()),
            sas_token: Some(Secret::new("sig=file")),
            ..AzOptions::default()
        };
        let of = |variables: &[(&str, &str)]| {
            Settings::new(&file, &Environment::made_of(variables)).unwrap()
        };
        let plain = of(&[]);
        assert_eq!(plain.get(AzureConfigKey::SasKey), Some("sig=file"));
        let keyed = of(&[("AZURE_STORAGE_KEY", "a2V5")]);
        assert_eq!(keyed.get(AzureConfigKey::SasKey), None);
        assert_eq!(keyed.get(AzureConfigKey::AccessKey), Some("a2V5"));
        assert_eq!(keyed.get(AzureConfigKey::AccountName), Some("file"));
        let named = of(&[(
            "AZURE_STORAGE_CONNECTION_STRING",
            "DefaultEndpointsProtocol=http;AccountName=dev;AccountKey=a2V5==;BlobEndpoint=http://127.0.0.1:1/dev;",
        )]);
        assert_eq!(named.get(AzureConfigKey::AccountName), Some("dev"));
        assert_eq!(named.get(AzureConfigKey::AccessKey), Some("a2V5=="));
        assert_eq!(
            named.get(AzureConfigKey::Endpoint),
            Some("http://127.0.0.1:1/dev")
        );
    }

    #[test]
    fn an_address_without_an_account_is_told_so() {
        let environment = Environment::made_of(&[]);
        let Err(error) = Settings::new(&AzOptions::default(), &environment) else {
            panic!("taken without an account");
        };
        assert!(error.hint().unwrap().contains("AZURE_STORAGE_ACCOUNT_NAME"));
    }
}
