//! `pitr-archive init`: makes a repository, or lets another cluster into one.

use std::path::Path;
use std::sync::Arc;

use pitr_console::quoting::{setting_value, shell_word, without_placeholders};
use pitr_console::{Console, Failure, Settings};
use pitr_postgres::DataDirectory;
use pitr_store::encryption::NewKeys;
use pitr_store::{ClusterIdentity, Initialized, Repository, Store};
use serde_json::json;

use crate::arguments::InitArguments;
use crate::key::Encryption;
use crate::repository;

pub(crate) fn init(
    arguments: &InitArguments,
    settings: &Settings,
    console: Console,
) -> Result<(), Failure> {
    let add_to = match (arguments.add, &arguments.pgdata) {
        (false, _) => None,
        (true, Some(data)) => Some(data),
        (true, None) => {
            return Err(
                Failure::new("the cluster to add was not named").with_hint(
                    "Name its data directory: pitr-archive init --add --pgdata /var/lib/postgresql/15/main",
                ),
            );
        }
    };
    let set = repository::set(settings)?;
    let readers = arguments.readers.keys();
    let mut reports = Vec::new();
    for store in set.stores() {
        let report = match add_to {
            None => create(Arc::clone(store), &readers),
            Some(data) => add(data, &set.open_one(store)?),
        };
        reports.push(report.map_err(|failure| so_far(failure, &reports))?);
    }
    let report = Report::of_all(reports, add_to.is_none());
    let text = if arguments.json {
        report.json.to_string()
    } else {
        report.text
    };
    console
        .result(text)
        .map_err(|error| Failure::new("could not write the result").with_detail(error.to_string()))
}

struct Report {
    location: String,
    text: String,
    json: serde_json::Value,
}

impl Report {
    /// One report is shown as it is; several as a list, with the one setting
    /// that names them all.
    fn of_all(mut reports: Vec<Self>, are_made: bool) -> Self {
        if reports.len() == 1
            && let Some(one) = reports.pop()
        {
            return one;
        }
        let mut lines: Vec<&str> = reports
            .iter()
            .filter_map(|report| report.text.lines().next())
            .collect();
        let locations: Vec<&str> = reports.iter().map(|r| r.location.as_str()).collect();
        let command = format!(
            "Now in postgresql.conf: archive_command = {}",
            archive_command(&locations)
        );
        if are_made {
            lines.push(&command);
        }
        Self {
            location: String::new(),
            text: lines.join("\n"),
            json: reports.iter().map(|report| report.json.clone()).collect(),
        }
    }
}

/// What was made before another repository failed, which is left.
fn so_far(failure: Failure, reports: &[Report]) -> Failure {
    let done: Vec<&str> = reports
        .iter()
        .filter_map(|report| report.text.lines().next())
        .collect();
    if done.is_empty() {
        return failure;
    }
    let detail = failure
        .detail()
        .map_or_else(String::new, |d| format!("{d}\n"));
    failure.with_detail(format!("{detail}Before that: {}.", done.join("; ")))
}

fn create(store: Arc<dyn Store>, readers: &NewKeys) -> Result<Report, Failure> {
    let made = if readers.is_empty() {
        Repository::init(store)?
    } else {
        Repository::init_encrypted(store, readers)?
    };
    let created = matches!(made, Initialized::Created(_));
    let repository = made.into_repository();
    let location = repository.location();
    let encryption = Encryption::of(&repository)?;
    let mut text = if created {
        format!("created repository \"{location}\"")
    } else {
        format!("repository \"{location}\" is there already, and was left as it is")
    };
    if let Some(encryption) = &encryption {
        text.push_str(", ");
        text.push_str(&encryption.text());
    }
    if created {
        text.push_str("\nNow in postgresql.conf: archive_command = ");
        text.push_str(&archive_command(&[&location]));
    }
    Ok(Report {
        text,
        location: location.clone(),
        json: json!({
            "repository": location,
            "created": created,
            "format": repository.document().format,
            "encryption": encryption,
        }),
    })
}

/// The setting for `postgresql.conf`, quoted for the shell and for the server.
fn archive_command(locations: &[&str]) -> String {
    let mut command = b"pitr-archive".to_vec();
    for location in locations {
        command.extend_from_slice(b" --repo ");
        command.extend(without_placeholders(&shell_word(location.as_bytes())));
    }
    command.extend_from_slice(b" %p %f");
    String::from_utf8_lossy(&setting_value(&command)).into_owned()
}

fn add(data: &Path, repository: &Repository) -> Result<Report, Failure> {
    let control = DataDirectory::new(data)
        .control_file()
        .map_err(|error| Failure::from_error(&error).with_hint_of(error.hint()))?;
    let identity = ClusterIdentity {
        system_identifier: control.system_identifier,
        major: control.major,
        segment_size: control.wal_segment_size,
    };
    repository.add(&identity)?;
    Ok(Report {
        location: repository.location(),
        text: format!(
            "cluster {} (PostgreSQL {}, segments of {}) may use repository \"{}\"",
            identity.system_identifier,
            identity.major,
            identity.segment_size,
            repository.location()
        ),
        json: json!({
            "repository": repository.location(),
            "system_identifier": identity.system_identifier,
        }),
    })
}
