//! A proxy between a test and an HTTP server that does what networks and
//! servers do on their bad days.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::TestbedError;

/// What happens to one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The server does what it is asked, and the connection breaks after this
    /// many bytes of its answer.
    CutAnswer {
        /// Bytes, head included, that still come through.
        after_bytes: usize,
    },
    /// The same, but the connection stays open and nothing more comes.
    StallAnswer {
        /// Bytes, head included, that still come through.
        after_bytes: usize,
    },
    /// The server does what it is asked, and this is answered in its place.
    AnswerInstead {
        /// Status.
        status: u16,
        /// `<Code>` of the body.
        code: &'static str,
    },
    /// This is answered, and the server never hears of the request.
    Refuse {
        /// Status.
        status: u16,
        /// `<Code>` of the body.
        code: &'static str,
    },
    /// The connection is closed before the request is read to its end.
    Hangup,
    /// The request goes on without this header, on this and every matching
    /// request: a server that does not know it.
    Ignore {
        /// Name of the header, lower case.
        header: &'static str,
    },
}

/// Which requests a fault befalls.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Method; empty for every one.
    pub method: &'static str,
    /// What the path with its query holds.
    pub path: String,
    /// How many matching requests it befalls.
    pub times: usize,
    /// What befalls them.
    pub fault: Fault,
}

/// A request that came by.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Method.
    pub method: String,
    /// Path with query.
    pub path: String,
    /// Request line and headers as they came.
    pub head: String,
}

/// The running proxy; it ends when dropped.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    server: SocketAddr,
    rules: Mutex<Vec<Rule>>,
    seen: Mutex<Vec<Seen>>,
    over: AtomicBool,
}

impl FaultProxy {
    /// Begins to pass on to `server`.
    ///
    /// # Errors
    /// No port can be listened on.
    pub fn start(server: SocketAddr) -> Result<Self, TestbedError> {
        let listener = TcpListener::bind("127.0.0.1:0")
            .map_err(TestbedError::file("listen on", "127.0.0.1"))?;
        let address = listener
            .local_addr()
            .map_err(TestbedError::file("listen on", "127.0.0.1"))?;
        let shared = Arc::new(Shared {
            server,
            rules: Mutex::new(Vec::new()),
            seen: Mutex::new(Vec::new()),
            over: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if accepting.over.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&accepting);
                thread::spawn(move || {
                    // a broken connection is what this is for
                    let _ = serve(&client, &shared);
                    let _ = client.shutdown(Shutdown::Both);
                });
            }
        });
        Ok(Self { address, shared })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Adds a fault for the next `times` requests of `method` whose path holds
    /// `path`.
    pub fn inject(&self, method: &'static str, path: &str, times: usize, fault: Fault) {
        lock(&self.shared.rules).push(Rule {
            method,
            path: path.to_owned(),
            times,
            fault,
        });
    }

    /// Takes back what has befallen nobody yet.
    pub fn clear(&self) {
        lock(&self.shared.rules).clear();
    }

    /// Faults that have not befallen anybody yet.
    #[must_use]
    pub fn left(&self) -> usize {
        let rules = lock(&self.shared.rules);
        rules.iter().map(|rule| rule.times).sum()
    }

    /// Every request so far, in order.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.shared.seen).clone()
    }

    /// Forgets the requests so far.
    pub fn forget(&self) {
        lock(&self.shared.seen).clear();
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        // wakes the thread that accepts
        let _ = TcpStream::connect(self.address);
    }
}

/// Passes on request after request of one connection.
fn serve(client: &TcpStream, shared: &Shared) -> io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    loop {
        let Some(mut head) = read_head(&mut reader)? else {
            return Ok(());
        };
        let line = head.lines().next().unwrap_or_default().to_owned();
        let mut words = line.split(' ');
        let method = words.next().unwrap_or_default().to_owned();
        let path = words.next().unwrap_or_default().to_owned();
        let faults = shared.faults(&method, &path);
        let last =
            header(&head, "connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        lock(&shared.seen).push(Seen {
            method: method.clone(),
            path,
            head: head.clone(),
        });
        if faults.contains(&Fault::Hangup) {
            return Ok(());
        }
        let mut body = vec![0; content_length(&head)];
        reader.read_exact(&mut body)?;
        for fault in &faults {
            match fault {
                Fault::Refuse { status, code } => {
                    respond(client, *status, code)?;
                }
                Fault::Ignore { header } => head = without(&head, header),
                _ => {}
            }
        }
        if faults.iter().any(|f| matches!(f, Fault::Refuse { .. })) {
            continue;
        }
        let answer = ask(shared.server, &head, &body, method == "HEAD")?;
        let fault = faults
            .iter()
            .find(|fault| !matches!(fault, Fault::Ignore { .. }));
        let mut writer = client;
        match fault {
            Some(Fault::CutAnswer { after_bytes }) => {
                writer.write_all(answer.get(..*after_bytes).unwrap_or(&answer))?;
                return Ok(());
            }
            Some(Fault::StallAnswer { after_bytes }) => {
                writer.write_all(answer.get(..*after_bytes).unwrap_or(&answer))?;
                // until the client gives up
                let _ = io::copy(&mut reader, &mut io::sink());
                return Ok(());
            }
            Some(Fault::AnswerInstead { status, code }) => respond(client, *status, code)?,
            _ => writer.write_all(&answer)?,
        }
        if last {
            return Ok(());
        }
    }
}

impl Shared {
    /// The faults that befall this request: every header to ignore, and the
    /// first other one that is left.
    fn faults(&self, method: &str, path: &str) -> Vec<Fault> {
        let mut rules = lock(&self.rules);
        let matches = |rule: &Rule| {
            rule.times > 0
                && (rule.method.is_empty() || rule.method == method)
                && path.contains(&rule.path)
        };
        let mut faults: Vec<Fault> = rules
            .iter()
            .filter(|rule| matches!(rule.fault, Fault::Ignore { .. }) && matches(rule))
            .map(|rule| rule.fault.clone())
            .collect();
        let other = rules
            .iter_mut()
            .find(|rule| !matches!(rule.fault, Fault::Ignore { .. }) && matches(rule));
        if let Some(rule) = other {
            rule.times -= 1;
            faults.push(rule.fault.clone());
        }
        faults
    }
}

/// Request line and headers with the empty line; `None` at the end.
fn read_head(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if reader.read_until(b'\n', &mut head)? == 0 {
            return Ok(None);
        }
    }
    Ok(Some(String::from_utf8_lossy(&head).into_owned()))
}

fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
}

fn content_length(head: &str) -> usize {
    header(head, "content-length")
        .and_then(|length| length.parse().ok())
        .unwrap_or(0)
}

fn without(head: &str, name: &str) -> String {
    head.split_inclusive("\r\n")
        .filter(|line| {
            !line
                .split_once(':')
                .is_some_and(|(key, _)| key.eq_ignore_ascii_case(name))
        })
        .collect()
}

fn respond(mut client: &TcpStream, status: u16, code: &str) -> io::Result<()> {
    let body =
        format!("<Error><Code>{code}</Code><Message>made by the fault proxy</Message></Error>");
    write!(
        client,
        "HTTP/1.1 {status} Fault\r\nContent-Type: application/xml\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Sends the request over a connection of its own; gives the whole answer.
fn ask(server: SocketAddr, head: &str, body: &[u8], head_only: bool) -> io::Result<Vec<u8>> {
    let mut upstream = TcpStream::connect(server)?;
    upstream.set_read_timeout(Some(Duration::from_secs(120)))?;
    let head = without(head, "connection").replacen("\r\n", "\r\nConnection: close\r\n", 1);
    upstream.write_all(head.as_bytes())?;
    upstream.write_all(body)?;
    let mut reader = BufReader::new(upstream);
    let mut answer = Vec::new();
    let Some(head) = read_head(&mut reader)? else {
        return Err(io::ErrorKind::UnexpectedEof.into());
    };
    let has_length = header(&head, "content-length").is_some();
    let is_chunked = header(&head, "transfer-encoding").is_some();
    // the client's connection stays open
    answer.extend_from_slice(without(&head, "connection").as_bytes());
    if head_only || head.starts_with("HTTP/1.1 204") || head.starts_with("HTTP/1.1 304") {
        return Ok(answer);
    }
    if has_length {
        let begin = answer.len();
        answer.resize(begin + content_length(&head), 0);
        if let Some(rest) = answer.get_mut(begin..) {
            reader.read_exact(rest)?;
        }
    } else if is_chunked {
        reader.read_to_end(&mut answer)?;
    } else {
        // ended by the connection's end, which the client does not see
        let mut body = Vec::new();
        reader.read_to_end(&mut body)?;
        answer.truncate(answer.len() - 2);
        answer.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
        answer.extend_from_slice(&body);
    }
    Ok(answer)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
