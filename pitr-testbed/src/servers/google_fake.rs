//! What Google Cloud Storage does with the requests that the store sends: its
//! XML interface, as far as it is used. No whole server exists; those that
//! there are overwrite whatever the condition says.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::TestbedError;

/// Names in one page of a listing: few, so that tests go on to the next.
const PAGE: usize = 7;

/// The running fake; it ends when dropped.
#[derive(Debug)]
pub struct GoogleFake {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    bucket: String,
    inner: Mutex<Inner>,
    over: AtomicBool,
}

#[derive(Debug, Default)]
struct Inner {
    objects: BTreeMap<String, Object>,
    uploads: BTreeMap<String, Upload>,
    counter: u64,
}

#[derive(Debug, Clone)]
struct Object {
    bytes: Arc<Vec<u8>>,
    generation: u64,
    changed: u64,
    metadata: Vec<(String, String)>,
}

#[derive(Debug, Default)]
struct Upload {
    parts: BTreeMap<u32, Vec<u8>>,
    metadata: Vec<(String, String)>,
}

impl GoogleFake {
    /// Starts with one empty bucket.
    ///
    /// # Errors
    /// No port can be listened on.
    pub fn start(bucket: &str) -> Result<Self, TestbedError> {
        let listener = TcpListener::bind("127.0.0.1:0")
            .map_err(TestbedError::file("listen on", "127.0.0.1"))?;
        let address = listener
            .local_addr()
            .map_err(TestbedError::file("listen on", "127.0.0.1"))?;
        let state = Arc::new(State {
            bucket: bucket.to_owned(),
            inner: Mutex::default(),
            over: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if accepting.over.load(Ordering::SeqCst) {
                    return;
                }
                let state = Arc::clone(&accepting);
                thread::spawn(move || {
                    let _ = serve(&client, &state);
                    let _ = client.shutdown(Shutdown::Both);
                });
            }
        });
        Ok(Self { address, state })
    }

    /// `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Makes every object whose name holds `part` older by `seconds`.
    pub fn age(&self, part: &str, seconds: u64) {
        let mut inner = self.state.lock();
        for (name, object) in &mut inner.objects {
            if name.contains(part) {
                object.changed = object.changed.saturating_sub(seconds);
            }
        }
    }

    /// Names and contents of all objects.
    #[must_use]
    pub fn objects(&self) -> Vec<(String, Vec<u8>)> {
        let inner = self.state.lock();
        let objects = inner.objects.iter();
        objects
            .map(|(name, object)| (name.clone(), object.bytes.to_vec()))
            .collect()
    }
}

impl Drop for GoogleFake {
    fn drop(&mut self) {
        self.state.over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

struct Request {
    method: String,
    object: String,
    query: BTreeMap<String, String>,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    fn metadata(&self) -> Vec<(String, String)> {
        self.headers
            .iter()
            .filter(|(name, _)| name.starts_with("x-goog-meta-"))
            .cloned()
            .collect()
    }
}

struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

fn error(status: u16, code: &str) -> Answer {
    let body =
        format!("<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>");
    Answer {
        status,
        headers: Vec::new(),
        body: body.into_bytes(),
    }
}

fn empty(status: u16) -> Answer {
    xml(status, String::new())
}

fn xml(status: u16, body: String) -> Answer {
    Answer {
        status,
        headers: Vec::new(),
        body: body.into_bytes(),
    }
}

fn serve(client: &TcpStream, state: &State) -> io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    while let Some((bucket, request)) = read_request(&mut reader)? {
        let answer = if bucket == state.bucket {
            state.answer(&request)
        } else {
            error(404, "NoSuchBucket")
        };
        let mut head = format!("HTTP/1.1 {} Answer\r\n", answer.status);
        for (name, value) in &answer.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let is_head = request.method == "HEAD";
        if !(is_head && answer.status == 200) {
            head.push_str(&format!("content-length: {}\r\n", answer.body.len()));
        }
        head.push_str("\r\n");
        let mut writer = client;
        writer.write_all(head.as_bytes())?;
        if !is_head {
            writer.write_all(&answer.body)?;
        }
    }
    Ok(())
}

fn read_request(reader: &mut impl BufRead) -> io::Result<Option<(String, Request)>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split(' ');
    let method = words.next().unwrap_or_default().to_owned();
    let target = words.next().unwrap_or_default().to_owned();
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line == "\r\n" {
            break;
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    let length = headers
        .iter()
        .find(|(name, _)| name == "content-length")
        .and_then(|(_, value)| value.parse().ok())
        .unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let path = path.trim_start_matches('/');
    let (bucket, object) = path.split_once('/').unwrap_or((path, ""));
    let query = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (unescape(key), unescape(value))
        })
        .collect();
    let request = Request {
        method,
        object: unescape(object),
        query,
        headers,
        body,
    };
    Ok(Some((bucket.to_owned(), request)))
}

fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let digit = |byte: Option<u8>| byte.and_then(|b| char::from(b).to_digit(16));
        bytes.push(match byte {
            b'%' => {
                let high = digit(rest.next()).unwrap_or(0);
                let low = digit(rest.next()).unwrap_or(0);
                u8::try_from(high * 16 + low).unwrap_or(b'?')
            }
            b'+' => b' ',
            other => other,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl State {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, request: &Request) -> Answer {
        let mut inner = self.lock();
        let upload = request.query.get("uploadId");
        match (request.method.as_str(), request.object.as_str(), upload) {
            ("GET", "", _) => inner.list(request),
            ("GET" | "HEAD", ..) => inner.get(request),
            ("PUT", _, Some(id)) => inner.put_part(request, id),
            ("PUT", ..) => inner.put(request),
            ("POST", _, Some(id)) => inner.complete(request, id),
            ("POST", ..) if request.query.contains_key("uploads") => inner.begin(request),
            ("DELETE", _, Some(id)) => {
                inner.uploads.remove(id);
                empty(204)
            }
            ("DELETE", object, None) => match inner.objects.remove(object) {
                Some(_) => empty(204),
                None => error(404, "NoSuchKey"),
            },
            _ => error(400, "InvalidArgument"),
        }
    }
}

impl Inner {
    fn store(&mut self, name: &str, bytes: Vec<u8>, metadata: Vec<(String, String)>) -> Answer {
        self.counter += 1;
        let object = Object {
            bytes: Arc::new(bytes),
            generation: self.counter,
            changed: now(),
            metadata,
        };
        let headers = object.headers();
        self.objects.insert(name.to_owned(), object);
        Answer {
            status: 200,
            headers,
            body: Vec::new(),
        }
    }

    fn put(&mut self, request: &Request) -> Answer {
        let condition = request.header("x-goog-if-generation-match");
        if condition == Some("0") && self.objects.contains_key(&request.object) {
            return error(412, "PreconditionFailed");
        }
        self.store(&request.object, request.body.clone(), request.metadata())
    }

    fn get(&self, request: &Request) -> Answer {
        let Some(object) = self.objects.get(&request.object) else {
            return error(404, "NoSuchKey");
        };
        if let Some(wanted) = request.header("if-match")
            && wanted != object.e_tag()
        {
            return error(412, "PreconditionFailed");
        }
        let mut headers = object.headers();
        let size = object.bytes.len();
        let range = request
            .header("range")
            .and_then(|range| range.strip_prefix("bytes="))
            .and_then(|range| range.split_once('-'));
        let Some((begin, end)) = range else {
            headers.push(("content-length".to_owned(), size.to_string()));
            let body = object.bytes.to_vec();
            // the length of a GET is added with its body
            if request.method == "GET" {
                headers.pop();
            }
            return Answer {
                status: 200,
                headers,
                body,
            };
        };
        let begin: usize = begin.parse().unwrap_or(usize::MAX);
        let end = end
            .parse()
            .unwrap_or(usize::MAX)
            .saturating_add(1)
            .min(size);
        if begin >= size {
            return error(416, "InvalidRange");
        }
        headers.push((
            "content-range".to_owned(),
            format!("bytes {begin}-{}/{size}", end.saturating_sub(1)),
        ));
        Answer {
            status: 206,
            headers,
            body: object.bytes.get(begin..end).unwrap_or_default().to_vec(),
        }
    }

    fn list(&self, request: &Request) -> Answer {
        let of = |name: &str| request.query.get(name).cloned().unwrap_or_default();
        let (prefix, delimiter, after) = (of("prefix"), of("delimiter"), of("continuation-token"));
        let mut contents = String::new();
        let mut folders: Vec<String> = Vec::new();
        let mut last = String::new();
        let mut count = 0;
        let mut more = false;
        for (name, object) in &self.objects {
            let Some(rest) = name.strip_prefix(&prefix) else {
                continue;
            };
            let folder = rest
                .split_once('/')
                .filter(|_| !delimiter.is_empty())
                .map(|(folder, _)| format!("{prefix}{folder}/"));
            let entry = folder.clone().unwrap_or_else(|| name.clone());
            if entry <= after || folders.last() == Some(&entry) {
                continue;
            }
            if count == PAGE {
                more = true;
                break;
            }
            count += 1;
            last.clone_from(&entry);
            match folder {
                Some(folder) => folders.push(folder),
                None => contents.push_str(&format!(
                    "<Contents><Key>{name}</Key><Size>{}</Size><LastModified>{}</LastModified><ETag>{}</ETag></Contents>",
                    object.bytes.len(),
                    iso_time(object.changed),
                    object.e_tag(),
                )),
            }
        }
        let folders: String = folders
            .iter()
            .map(|folder| format!("<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>"))
            .collect();
        let next = if more {
            format!("<NextContinuationToken>{last}</NextContinuationToken>")
        } else {
            String::new()
        };
        xml(
            200,
            format!(
                "<?xml version='1.0'?><ListBucketResult><IsTruncated>{more}</IsTruncated>{contents}{folders}{next}</ListBucketResult>"
            ),
        )
    }

    fn begin(&mut self, request: &Request) -> Answer {
        self.counter += 1;
        let id = format!("upload-{}", self.counter);
        let upload = Upload {
            metadata: request.metadata(),
            ..Upload::default()
        };
        self.uploads.insert(id.clone(), upload);
        xml(
            200,
            format!(
                "<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
            ),
        )
    }

    fn put_part(&mut self, request: &Request, id: &str) -> Answer {
        let number = request.query.get("partNumber").and_then(|n| n.parse().ok());
        let (Some(upload), Some(number)) = (self.uploads.get_mut(id), number) else {
            return error(404, "NoSuchUpload");
        };
        upload.parts.insert(number, request.body.clone());
        Answer {
            status: 200,
            headers: vec![("etag".to_owned(), format!("\"part-{number}\""))],
            body: Vec::new(),
        }
    }

    fn complete(&mut self, request: &Request, id: &str) -> Answer {
        let Some(upload) = self.uploads.remove(id) else {
            return error(404, "NoSuchUpload");
        };
        let bytes = upload.parts.into_values().flatten().collect();
        let mut answer = self.store(&request.object, bytes, upload.metadata);
        answer.body =
            b"<CompleteMultipartUploadResult><ETag>done</ETag></CompleteMultipartUploadResult>"
                .to_vec();
        answer
    }
}

impl Object {
    fn e_tag(&self) -> String {
        format!("\"{}\"", self.generation)
    }

    fn headers(&self) -> Vec<(String, String)> {
        let mut headers = vec![
            ("etag".to_owned(), self.e_tag()),
            ("last-modified".to_owned(), http_time(self.changed)),
            ("x-goog-generation".to_owned(), self.generation.to_string()),
        ];
        headers.extend(self.metadata.iter().cloned());
        headers
    }
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}

/// Year, month and day of a day counted from 1970-01-01.
fn civil(days: u64) -> (u64, usize, u64) {
    let mut year = 1970;
    let mut left = days;
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    while left >= 365 + u64::from(leap(year)) {
        left -= 365 + u64::from(leap(year));
        year += 1;
    }
    let months = [
        31,
        28 + u64::from(leap(year)),
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
        31,
    ];
    for (number, length) in months.into_iter().enumerate() {
        if left < length {
            return (year, number, left + 1);
        }
        left -= length;
    }
    (year, 11, 31)
}

fn clock(seconds: u64) -> String {
    let of_day = seconds % 86_400;
    format!(
        "{:02}:{:02}:{:02}",
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60
    )
}

fn iso_time(seconds: u64) -> String {
    let (year, month, day) = civil(seconds / 86_400);
    format!("{year}-{:02}-{day:02}T{}Z", month + 1, clock(seconds))
}

fn http_time(seconds: u64) -> String {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    let days = seconds / 86_400;
    let (year, month, day) = civil(days);
    let weekday = usize::try_from(days % 7).unwrap_or(0);
    format!(
        "{}, {day:02} {} {year} {} GMT",
        DAYS.get(weekday).copied().unwrap_or_default(),
        MONTHS.get(month).copied().unwrap_or_default(),
        clock(seconds)
    )
}
