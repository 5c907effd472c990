//! One plain HTTP request, for setting a server up.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::TestbedError;

/// What a server answered.
#[derive(Debug, Clone)]
pub struct HttpAnswer {
    /// Status.
    pub status: u16,
    /// Status line and headers.
    pub head: String,
    /// Body, to the end of the connection.
    pub body: Vec<u8>,
}

impl HttpAnswer {
    /// Makes an error of any status but 2xx.
    pub(crate) fn expect_success(&self, action: &str) -> Result<(), TestbedError> {
        if (200..300).contains(&self.status) {
            return Ok(());
        }
        Err(TestbedError::Failed {
            program: action.to_owned(),
            status: self.status.to_string(),
            stderr: String::from_utf8_lossy(&self.body).into_owned(),
        })
    }
}

/// Sends a request over a connection of its own.
///
/// # Errors
/// No connection, or an answer that is not HTTP.
pub fn http_request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<HttpAnswer, TestbedError> {
    let failed = |action| TestbedError::file(action, address.to_string());
    let mut stream = TcpStream::connect(address).map_err(failed("connect to"))?;
    let mut request =
        format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    stream
        .write_all(request.as_bytes())
        .and_then(|()| stream.write_all(body))
        .map_err(failed("write to"))?;
    let mut answer = Vec::new();
    stream
        .read_to_end(&mut answer)
        .map_err(failed("read from"))?;
    let end = answer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .unwrap_or(answer.len());
    let head = String::from_utf8_lossy(answer.get(..end).unwrap_or_default()).into_owned();
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or(0);
    let body = answer.get(end + 4..).unwrap_or_default().to_vec();
    Ok(HttpAnswer { status, head, body })
}
