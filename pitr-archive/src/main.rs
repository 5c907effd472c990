//! `archive_command`, base backups, listing: the writing side of a pitr repository.

mod arguments;
mod backup;
mod import;
mod init;
mod key;
mod list;
mod manifest_proof;
mod manners;
mod needed_wal;
mod push;
mod receive;
mod repository;
mod sync;
mod targets;

use std::process::ExitCode;

use clap::Parser;
use pitr_console::{Console, Exit, Failure, Settings, guard};

use arguments::{Arguments, Verb};

fn main() -> ExitCode {
    // a panic exits with 101, which is no number that this command says
    guard(Exit::Failed, run).into()
}

fn run() -> Exit {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() {
                Exit::WrongUsage
            } else {
                Exit::Done
            };
        }
    };
    let console = Console::new();
    let words = std::env::args_os().skip(1);
    if let Some(failure) = arguments.lost_repository(words) {
        console.fail(&failure);
        return Exit::WrongUsage;
    }
    match carry_out(arguments, console) {
        Ok(()) => Exit::Done,
        Err(failure) => {
            console.fail(&failure);
            Exit::Failed
        }
    }
}

fn carry_out(arguments: Arguments, console: Console) -> Result<(), Failure> {
    let settings = Settings::load(&arguments.repository)?;
    match &arguments.verb {
        None => push::push(&arguments.push, &settings, console),
        Some(Verb::Init(init)) => init::init(init, &settings, console),
        Some(Verb::Backup(backup)) => backup::backup(backup, &settings, console),
        Some(Verb::Import(import)) => import::import(import, &settings, console),
        Some(Verb::Receive(receive)) => receive::receive(receive, &settings, console),
        Some(Verb::List(list)) => list::list(list, &settings, console),
        Some(Verb::Sync(sync)) => sync::sync(sync, &settings, console),
        Some(Verb::Key(key)) => key::key(key, &settings, console),
    }
}
