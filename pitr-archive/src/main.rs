//! archive_command, base backups, listing: the writing side of a pitr repository.

mod arguments;

fn main() {}
