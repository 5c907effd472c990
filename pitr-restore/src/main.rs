//! restore_command and restores to any point: the reading side of a pitr repository.

mod archived_log;
mod arguments;
mod asking_server;
mod configuration;
mod earlier_restores;
mod find;
mod hook;
mod lay_down;
mod layout;
mod os_user;
mod plan;
mod port;
mod postmaster;
mod recovery_settings;
mod request;
mod rescue;
mod restore;
mod restore_command;
mod role;
mod settings_file;
mod sources;
mod start;
mod target_directory;
mod unarchived;

use std::process::ExitCode;

use clap::error::ErrorKind;
use pitr_console::{Console, Exit, Failure, guard};

use arguments::{Arguments, Verb, is_for_a_person};

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().collect();
    let console = Console::new();
    let for_a_person = is_for_a_person(words.iter().skip(1));
    let on_panic = if for_a_person {
        Exit::Failed
    } else {
        Exit::Doubt
    };
    guard(on_panic, || match arguments::parse(words) {
        Ok(arguments) => run(&arguments, console),
        Err(error) => refuse_usage(&error, for_a_person, console),
    })
    .into()
}

fn run(arguments: &Arguments, console: Console) -> Exit {
    match (&arguments.verb, &arguments.restore.to) {
        (Some(Verb::Find(find)), _) => find::run(arguments, find, console),
        (Some(Verb::Table(table)), _) => rescue::run(arguments, table, console),
        (None, Some(to)) => restore::run(arguments, to, console),
        (None, None) => hook::run(arguments, console),
    }
}

/// Help goes to stdout; wrong usage to stderr, with an exit code that
/// PostgreSQL does not take for "no such file".
fn refuse_usage(error: &clap::Error, for_a_person: bool, console: Console) -> Exit {
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    ) {
        return match console.result(error.render().to_string()) {
            Ok(()) => Exit::Done,
            Err(_) => Exit::Failed,
        };
    }
    let text = error.render().to_string();
    let message = text.trim_start_matches("error: ").trim_end();
    let (message, more) = message.split_once("\n\n").unwrap_or((message, ""));
    let mut failure = Failure::new(message).with_hint("See \"pitr-restore --help\".");
    if let Some(usage) = more.split("\n\n").find(|part| part.starts_with("Usage:")) {
        failure = failure.with_detail(usage);
    }
    console.fail(&failure);
    if for_a_person {
        Exit::WrongUsage
    } else {
        Exit::HookWrongUsage
    }
}
