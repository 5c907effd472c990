//! Azure Blob Storage by Azurite, an npm package.

use std::process::Command;
use std::sync::{Arc, Mutex, Weak};

use super::{ServerProcess, missing, server_cache, shared};
use crate::{TestbedError, process};

/// A request signed with the account's key: the service takes no other.
const MAKE_CONTAINER: &str = r#"
import base64, hashlib, hmac, http.client, sys
from email.utils import formatdate
port, account, key, container = sys.argv[1:]
headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-12-02"}
signed = "PUT" + "\n" * 12 + "".join(f"{n}:{v}\n" for n, v in sorted(headers.items()))
signed += f"/{account}/{account}/{container}\nrestype:container"
mac = hmac.new(base64.b64decode(key), signed.encode(), hashlib.sha256).digest()
headers["Authorization"] = f"SharedKey {account}:{base64.b64encode(mac).decode()}"
server = http.client.HTTPConnection("127.0.0.1", int(port), timeout=60)
server.request("PUT", f"/{account}/{container}?restype=container", headers=headers)
answer = server.getresponse()
if answer.status not in (201, 409):
    sys.exit(f"{answer.status} {answer.read().decode()}")
"#;

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

    /// Makes a container; one that is there already is no failure.
    ///
    /// # Errors
    /// The server refuses, or there is no Python to sign the request with.
    pub fn make_container(&self, container: &str) -> Result<(), TestbedError> {
        let mut command = Command::new("python3");
        command
            .args(["-c", MAKE_CONTAINER])
            .arg(self.server.address().port().to_string())
            .args([Self::ACCOUNT, Self::KEY, container]);
        process::run(command).map(drop)
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
