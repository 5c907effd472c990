//! `pitr-archive init`: makes a repository, or lets another cluster into one.

use std::path::Path;

use pitr_console::quoting::{setting_value, shell_word, without_placeholders};
use pitr_console::{Console, Failure, Settings};
use pitr_postgres::DataDirectory;
use pitr_store::{ClusterIdentity, Initialized, Repository, open_store};
use serde_json::json;

use crate::arguments::InitArguments;
use crate::repository;

pub(crate) fn init(
    arguments: &InitArguments,
    settings: &Settings,
    console: Console,
) -> Result<(), Failure> {
    let report = match (arguments.add, &arguments.pgdata) {
        (false, _) => create(settings)?,
        (true, Some(data)) => add(data, &repository::open(settings)?)?,
        (true, None) => {
            return Err(
                Failure::new("the cluster to add was not named").with_hint(
                    "Name its data directory: pitr-archive init --add --pgdata /var/lib/postgresql/15/main",
                ),
            );
        }
    };
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
    text: String,
    json: serde_json::Value,
}

fn create(settings: &Settings) -> Result<Report, Failure> {
    let made = Repository::init(open_store(settings.repository()?, &settings.stores)?)?;
    let created = matches!(made, Initialized::Created(_));
    let repository = made.into_repository();
    let location = repository.location();
    let text = if created {
        format!(
            "created repository \"{location}\"\n\
             Now in postgresql.conf: archive_command = {}",
            archive_command(&location)
        )
    } else {
        format!("repository \"{location}\" is there already, and was left as it is")
    };
    Ok(Report {
        text,
        json: json!({
            "repository": location,
            "created": created,
            "format": repository.document().format,
        }),
    })
}

/// The setting for `postgresql.conf`, quoted for the shell and for the server.
fn archive_command(location: &str) -> String {
    let mut command = b"pitr-archive --repo ".to_vec();
    command.extend(without_placeholders(&shell_word(location.as_bytes())));
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
