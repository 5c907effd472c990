//! `pitr-archive key`: who can read an encrypted repository.
//!
//! Objects are never touched: what is added is one more wrapped copy of the
//! repository's private key.

use std::fmt::Write as _;

use pitr_console::{Console, Failure, Settings};
use pitr_store::Repository;
use pitr_store::encryption::{EncryptionError, RepositoryKeyName};
use serde::Serialize;
use serde_json::json;

use crate::arguments::{KeyArguments, KeyVerb, ReaderArguments};
use crate::repository;

pub(crate) fn key(
    arguments: &KeyArguments,
    settings: &Settings,
    console: Console,
) -> Result<(), Failure> {
    let repository = repository::open(settings)?;
    let (text, json, is_json) = match &arguments.verb {
        KeyVerb::Add(add) => {
            let (text, json) = add_keys(&add.readers, &repository)?;
            (text, json, add.json)
        }
        KeyVerb::List(list) => {
            let report = Encryption::of(&repository)?.ok_or_else(|| not_encrypted(&repository))?;
            let json = json!({ "repository": repository.location(), "encryption": report });
            (report.text(), json, list.json)
        }
    };
    let output = if is_json { json.to_string() } else { text };
    console
        .result(output)
        .map_err(|error| Failure::new("could not write the result").with_detail(error.to_string()))
}

fn not_encrypted(repository: &Repository) -> Failure {
    EncryptionError::NotEncrypted {
        location: repository.location(),
    }
    .into()
}

fn add_keys(
    readers: &ReaderArguments,
    repository: &Repository,
) -> Result<(String, serde_json::Value), Failure> {
    let added = names(&repository.add_keys(&readers.keys())?);
    let location = repository.location();
    let text = if added.is_empty() {
        format!("repository \"{location}\" has a wrapped key for each of them already")
    } else {
        format!(
            "repository \"{location}\" opens now for {}",
            added.join(", ")
        )
    };
    let report = Encryption::of(repository)?;
    let json = json!({ "repository": location, "added": added, "encryption": report });
    Ok((text, json))
}

/// What is known of a repository's encryption without a key.
#[derive(Debug, Serialize)]
pub(crate) struct Encryption {
    format: u32,
    public_key: String,
    /// Who can read, each a recipient or the number of a key file.
    keys: Vec<String>,
}

impl Encryption {
    /// `None` where the repository is not encrypted.
    pub(crate) fn of(repository: &Repository) -> Result<Option<Self>, Failure> {
        let Some(encryption) = repository.encryption() else {
            return Ok(None);
        };
        Ok(Some(Self {
            format: encryption.format,
            public_key: encryption.public_key.to_string(),
            keys: names(&repository.keys()?),
        }))
    }

    /// Lines for people.
    pub(crate) fn text(&self) -> String {
        let mut out = format!("encrypted; its public key is {}", self.public_key);
        if self.keys.is_empty() {
            out.push_str("\n  NOBODY CAN READ IT: its wrapped keys are gone");
        }
        for key in &self.keys {
            // writing to a String cannot fail
            let _ = write!(out, "\n  opens for {key}");
        }
        out
    }
}

fn names(keys: &[RepositoryKeyName]) -> Vec<String> {
    keys.iter().map(ToString::to_string).collect()
}
