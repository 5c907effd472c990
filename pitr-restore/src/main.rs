//! restore_command and restores to any point: the reading side of a pitr repository.
fn main() {}
