//! `pitr-archive list`: what a repository holds.

mod report;
mod text;

use pitr_console::{Console, Failure, Settings};

use crate::arguments::ListArguments;
use crate::repository;

pub(crate) fn list(
    arguments: &ListArguments,
    settings: &Settings,
    console: Console,
) -> Result<(), Failure> {
    let repository = repository::open(settings)?;
    let clusters = match &arguments.system_identifier {
        Some(named) => {
            let named = repository::system_identifier(named)?;
            vec![repository::cluster(&repository, Some(named))?]
        }
        None => repository.clusters()?,
    };
    let report = report::gather(&repository, &clusters)?;
    let output = if arguments.json {
        serde_json::to_string_pretty(&report).map_err(|error| {
            Failure::new("could not write the result").with_detail(error.to_string())
        })?
    } else {
        text::render(&report)
    };
    console
        .result(output)
        .map_err(|error| Failure::new("could not write the result").with_detail(error.to_string()))
}
