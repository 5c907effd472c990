//! A blocking connection to a running PostgreSQL server: libpq settings, authentication, TLS, SQL and replication commands.

mod data_directory;

pub use data_directory::{DataDirectory, ReadControlFileError};
