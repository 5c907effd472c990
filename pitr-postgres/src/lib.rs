//! A blocking connection to a running PostgreSQL server: libpq settings, authentication, TLS, SQL and replication commands.
