//! Azure Blob Storage by Azurite, an npm package.

use std::process::Command;
use std::sync::{Arc, Mutex, Weak};

use super::{ServerProcess, missing, server_cache, shared};
use crate::TestbedError;

static SHARED: Mutex<Weak<Azurite>> = Mutex::new(Weak::new());

/// A running blob service that checks signatures.
#[derive(Debug)]
pub struct Azurite {
    server: ServerProcess,
}

impl Azurite {
    /// The account that every Azurite has.
    pub const ACCOUNT: &'static str = "devstoreaccount1";

    /// Its key, which is no secret: it is in Azurite's documentation.
    pub const KEY: &'static str =
        "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

    /// One for all tests of this process.
    ///
    /// # Errors
    /// [`TestbedError::ServerMissing`] where it is not installed.
    pub fn shared() -> Result<Arc<Self>, TestbedError> {
        shared(&SHARED, Self::start)
    }

    fn start() -> Result<Self, TestbedError> {
        let script = server_cache().join("azurite/node_modules/azurite/dist/src/blob/main.js");
        if !script.exists() {
            return Err(missing("azurite", script));
        }
        let server = ServerProcess::start("azurite", |address, folder| {
            let mut command = Command::new("node");
            command
                .arg(&script)
                .args(["--silent", "--disableTelemetry", "--skipApiVersionCheck"])
                .args(["--blobHost", "127.0.0.1", "--blobPort"])
                .arg(address.port().to_string())
                .arg("--location")
                .arg(folder.join("data"));
            command
        })?;
        Ok(Self { server })
    }

    /// The account's endpoint.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}/{}", self.server.address(), Self::ACCOUNT)
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> std::net::SocketAddr {
        self.server.address()
    }
}
