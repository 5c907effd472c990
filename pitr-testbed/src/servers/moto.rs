//! S3 by `moto_server`, a Python package.

use std::process::Command;
use std::sync::{Arc, Mutex, Weak};

use super::{ServerProcess, http_request, missing, server_cache, shared};
use crate::TestbedError;

static SHARED: Mutex<Weak<Moto>> = Mutex::new(Weak::new());

/// Starts the server. By itself it looks whether an object is there, and puts
/// it afterwards, in several threads: of two creates at once both could win,
/// which no S3 allows. So one put goes after the other.
const START: &str = "
import threading
from moto.s3.responses import S3Response
from moto.server import main
one_at_a_time = threading.Lock()
put_object = S3Response.put_object
def put(self):
    with one_at_a_time:
        return put_object(self)
S3Response.put_object = put
main()
";

/// A running S3 server in memory. Conditional creates are atomic; signatures
/// are not looked at.
#[derive(Debug)]
pub struct Moto {
    server: ServerProcess,
}

impl Moto {
    /// One for all tests of this process.
    ///
    /// # Errors
    /// [`TestbedError::ServerMissing`] where it is not installed.
    pub fn shared() -> Result<Arc<Self>, TestbedError> {
        shared(&SHARED, Self::start)
    }

    /// One of its own.
    ///
    /// # Errors
    /// [`TestbedError::ServerMissing`] where it is not installed.
    pub fn start() -> Result<Self, TestbedError> {
        let program = server_cache().join("moto/bin/python");
        if !program.exists() {
            return Err(missing("moto", program));
        }
        let server = ServerProcess::start("moto", |address, _| {
            let mut command = Command::new(&program);
            command
                .args(["-c", START, "-H", "127.0.0.1", "-p"])
                .arg(address.port().to_string());
            command
        })?;
        Ok(Self { server })
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> std::net::SocketAddr {
        self.server.address()
    }

    /// `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Makes a bucket; one that is there already is no failure.
    ///
    /// # Errors
    /// The server refuses.
    pub fn make_bucket(&self, bucket: &str) -> Result<(), TestbedError> {
        self.put(&format!("/{bucket}"))
    }

    /// Makes an empty object.
    ///
    /// # Errors
    /// The server refuses.
    pub fn put_object(&self, bucket: &str, name: &str) -> Result<(), TestbedError> {
        self.put(&format!("/{bucket}/{name}"))
    }

    fn put(&self, path: &str) -> Result<(), TestbedError> {
        let signed = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0";
        let headers = [("Authorization", signed)];
        http_request(self.address(), "PUT", path, &headers, b"")?.expect_success(path)
    }
}
