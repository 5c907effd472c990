//! For tests only: scratch PostgreSQL clusters of every major, run by an ordinary user even where the tests run as root.
//!
//! ```no_run
//! # fn main() -> Result<(), pitr_testbed::TestbedError> {
//! use pitr_testbed::{Cluster, PostgresInstall};
//!
//! for install in PostgresInstall::all_found() {
//!     let mut cluster = Cluster::builder(&install)
//!         .segment_size(1 << 20)
//!         .setting("archive_mode", "on")
//!         .create()?;
//!     cluster.start()?;
//!     assert_eq!(cluster.sql("SELECT 1"), "1");
//! } // the server is stopped and its files are removed
//! # Ok(())
//! # }
//! ```
//!
//! PostgreSQL refuses to run as root. Where the tests do, everything that
//! belongs to a server runs as the user `postgres` (see [`as_server_user`]),
//! who is made when there is none; files for it go to a [`TestDir`].

mod builder;
mod cluster;
mod error;
mod fault_proxy;
mod install;
mod process;
mod program;
mod server_user;
mod servers;
mod site;
mod test_dir;

pub use builder::ClusterBuilder;
pub use cluster::{Cluster, StopMode};
pub use error::TestbedError;
pub use fault_proxy::{Fault, FaultProxy, Rule, Seen};
pub use install::PostgresInstall;
pub use program::program;
pub use server_user::{as_server_user, chown_to_server_user, server_user_name};
pub use servers::{Azurite, GoogleFake, HttpAnswer, Moto, http_request, server_cache};
pub use servers::{FtpServer, SshServer, TlsProxy, VsFtpd};
pub use site::Site;
pub use test_dir::TestDir;
