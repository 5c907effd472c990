//! TLS in front of a server that has none.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use super::ServerProcess;
use super::ftpd::make_certificate;
use crate::{TestDir, TestbedError};

/// Passes on what comes over TLS; arguments: port, port of the server.
const PROXY: &str = "
import asyncio, ssl, sys
port, target = map(int, sys.argv[1:])

async def copy(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()

async def serve(reader, writer):
    up_reader, up_writer = await asyncio.open_connection('127.0.0.1', target)
    await asyncio.gather(copy(reader, up_writer), copy(up_reader, writer))

async def main():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain('server.pem', 'server.key')
    hosts = ['127.0.0.1', '127.0.0.2']
    server = await asyncio.start_server(serve, hosts, port, ssl=context)
    await server.serve_forever()

asyncio.run(main())
";

/// A proxy that speaks TLS, with a certificate for `localhost` and 127.0.0.1 of
/// an authority of its own.
#[derive(Debug)]
pub struct TlsProxy {
    server: ServerProcess,
    dir: TestDir,
}

impl TlsProxy {
    /// In front of the server on this port of 127.0.0.1.
    ///
    /// # Errors
    /// `openssl` or `python3` fails.
    pub fn start(target: SocketAddr) -> Result<Self, TestbedError> {
        let dir = TestDir::new()?;
        make_certificate(&dir)?;
        let server = ServerProcess::start("the TLS proxy", |address, _| {
            let mut command = Command::new("python3");
            command
                .args(["-c", PROXY])
                .args([address.port().to_string(), target.port().to_string()])
                .current_dir(dir.path());
            command
        })?;
        Ok(Self { server, dir })
    }

    /// `https://localhost:PORT`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("https://localhost:{}", self.server.address().port())
    }

    /// The same under an address that is not in the certificate.
    #[must_use]
    pub fn misnamed_endpoint(&self) -> String {
        format!("https://127.0.0.2:{}", self.server.address().port())
    }

    /// The authority's certificate, PEM.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// The server's own certificate, PEM: no authority.
    #[must_use]
    pub fn server_certificate(&self) -> PathBuf {
        self.dir.join("server.pem")
    }
}
