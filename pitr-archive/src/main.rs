//! archive_command, base backups, listing: the writing side of a pitr repository.
fn main() {}
