//! For tests only: scratch PostgreSQL clusters of every major, run by an ordinary user even where the tests run as root.
