//! `pitr-archive list`: what a repository holds.

mod damage;
mod report;
mod several;
mod text;
mod window;

use pitr_console::{Console, Failure, Settings};

use crate::arguments::ListArguments;
use crate::repository;

pub(crate) fn list(
    arguments: &ListArguments,
    settings: &Settings,
    console: Console,
) -> Result<(), Failure> {
    if settings.repositories()?.len() > 1 {
        return several::list(arguments, settings, console);
    }
    let repository = repository::open(settings)?;
    let clusters = match &arguments.system_identifier {
        Some(named) => {
            let named = repository::system_identifier(named)?;
            vec![repository::cluster(&repository, Some(named))?]
        }
        None => repository.clusters()?,
    };
    if arguments.damaged {
        let report = damage::gather(&clusters)?;
        return print(arguments, &report, || report.text(), console);
    }
    let report = report::gather(&repository, &clusters)?;
    print(arguments, &report, || text::render(&report), console)
}

fn print(
    arguments: &ListArguments,
    report: &impl serde::Serialize,
    text: impl FnOnce() -> String,
    console: Console,
) -> Result<(), Failure> {
    let unwritten = |reason: String| Failure::new("could not write the result").with_detail(reason);
    let output = if arguments.json {
        serde_json::to_string_pretty(report).map_err(|error| unwritten(error.to_string()))?
    } else {
        text()
    };
    console
        .result(output)
        .map_err(|error| unwritten(error.to_string()))
}
