//! The HTTP client under the object stores: TLS by ring with the system's
//! certificates, a watch for sockets that stand still, and answers as errors.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use http_body::{Body, Frame, SizeHint};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody,
    HttpResponse, HttpResponseBody, HttpService,
};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::answer::Answer;

/// Connecting, TLS included, takes no longer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The services that give instances their roles are next door or not there.
const METADATA_TIMEOUT: Duration = Duration::from_secs(3);

/// An upload counts as alive as long as pieces of this size go out.
const PIECE_BYTES: usize = 64 * 1024;

/// Of the body of an error no more is read.
const ERROR_BYTES: usize = 16 * 1024;

/// Why no answer came.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TransportError {
    /// Nothing moved for as long as the settings allow.
    #[error("nothing moved for {seconds} s")]
    Stalled {
        /// The limit.
        seconds: u64,
    },
    /// Plain HTTP where nobody allowed it.
    #[error("{host} is to be reached without TLS")]
    PlainHttp {
        /// The server.
        host: String,
    },
    /// The file with certificate authorities cannot be used.
    #[error("certificate file \"{}\" cannot be used: {reason}", path.display())]
    CertificateFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The client could not be made.
    #[error("{0}")]
    Client(String),
    /// The service that gives this machine its role did not answer.
    #[error("no key is set, and the metadata service {host} does not answer")]
    NoMetadata {
        /// The service.
        host: String,
    },
    /// TLS failed: an unknown authority, a name that does not fit.
    #[error("{0}")]
    Tls(String),
    /// The connection failed or broke.
    #[error("{0}")]
    Connection(String),
}

/// How the client behaves.
#[derive(Clone, Debug)]
pub(super) struct HttpSettings {
    /// Certificate authorities beside or instead of the system's, PEM.
    pub(super) ca_file: Option<PathBuf>,
    /// Longest time in which nothing moves.
    pub(super) stall: Duration,
    /// Hosts that may be asked without TLS: that of an `http://` endpoint.
    pub(super) plain_hosts: Vec<String>,
    /// Hosts that hand out the machine's role.
    pub(super) metadata_hosts: Vec<String>,
    /// Ask S3 to complete a multipart upload only where no object is.
    pub(super) conditional_complete: bool,
}

/// One client for all connections of a store.
#[derive(Clone, Debug)]
pub(super) struct Http(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: HttpSettings,
    conditional_complete: AtomicBool,
    /// With the system's certificates, which take milliseconds to read.
    secure: OnceLock<Result<reqwest::Client, TransportError>>,
    /// Without any: for plain HTTP, where none is looked at.
    plain: OnceLock<Result<reqwest::Client, TransportError>>,
}

impl Http {
    /// A client that connects to nothing yet.
    pub(super) fn new(settings: HttpSettings) -> Self {
        Self(Arc::new(Inner {
            conditional_complete: AtomicBool::new(settings.conditional_complete),
            settings,
            secure: OnceLock::new(),
            plain: OnceLock::new(),
        }))
    }

    /// Completes multipart uploads whatever is there, from now on: the server
    /// does not know the condition.
    pub(super) fn complete_unconditionally(&self) {
        self.0.conditional_complete.store(false, Ordering::Relaxed);
    }
}

impl HttpConnector for Http {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

impl HttpService for Http {
    fn call<'life, 'future>(
        &'life self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'future>>
    where
        'life: 'future,
        Self: 'future,
    {
        Box::pin(self.0.call(request))
    }
}

impl Inner {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (parts, body) = request.into_parts();
        let host = parts.uri.host().unwrap_or_default().to_owned();
        let is_metadata = self.settings.metadata_hosts.contains(&host);
        let is_plain = parts.uri.scheme_str() == Some("http");
        if is_plain && !is_metadata && !self.settings.plain_hosts.contains(&host) {
            return Err(transport(TransportError::PlainHttp { host }));
        }
        let client = self.client(is_plain).map_err(transport)?;
        let url =
            parts.uri.to_string().parse().map_err(|_| {
                transport(TransportError::Client("the address is no URL".to_owned()))
            })?;
        let completes = parts.method == reqwest::Method::POST
            && parts
                .uri
                .query()
                .is_some_and(|query| query.starts_with("uploadId="));
        let is_head = parts.method == reqwest::Method::HEAD;
        let mut outgoing = reqwest::Request::new(parts.method, url);
        *outgoing.headers_mut() = parts.headers;
        if completes && self.conditional_complete.load(Ordering::Relaxed) {
            // no part of the signature, and read by the server all the same
            outgoing.headers_mut().insert(
                reqwest::header::IF_NONE_MATCH,
                reqwest::header::HeaderValue::from_static("*"),
            );
        }
        let progress = Arc::new(Progress::new());
        *outgoing.body_mut() = Some(watched(body, &progress));

        let stall = if is_metadata {
            METADATA_TIMEOUT
        } else {
            self.settings.stall
        };
        let mut sent = Box::pin(client.execute(outgoing));
        let response = loop {
            let alarm = Box::pin(sleep_until(progress.last() + stall));
            match select(sent, alarm).await {
                Either::Left((response, _)) => break response,
                Either::Right(((), waiting)) => sent = waiting,
            }
            if progress.last() + stall <= Instant::now() {
                return Err(transport(if is_metadata {
                    TransportError::NoMetadata { host }
                } else {
                    TransportError::Stalled {
                        seconds: stall.as_secs(),
                    }
                }));
            }
        };
        let response = response.map_err(|error| {
            transport(if is_metadata {
                TransportError::NoMetadata { host }
            } else {
                told(&error)
            })
        })?;
        let response: http::Response<reqwest::Body> = response.into();
        let (parts, body) = response.into_parts();
        let body = WatchedAnswer::new(body, stall);
        if parts.status.is_success() {
            return Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body)));
        }
        let header = |name: &str| {
            parts
                .headers
                .get(name)
                .and_then(|value| value.to_str().ok())
                .map(str::to_owned)
        };
        let bytes = if is_head {
            Vec::new()
        } else {
            beginning(body).await
        };
        let mut answer = Answer::new(parts.status.as_u16(), &bytes);
        if answer.code.is_empty()
            && let Some(code) = header("x-ms-error-code")
        {
            answer.code = super::answer::one_line(&code);
        }
        answer.region = header("x-amz-bucket-region").or(answer.region);
        answer.retry_after = header("retry-after")
            .and_then(|seconds| seconds.parse().ok())
            .map(Duration::from_secs);
        Err(HttpError::new(HttpErrorKind::Unknown, answer))
    }

    fn client(&self, plain: bool) -> Result<&reqwest::Client, TransportError> {
        let (cell, roots) = if plain {
            (&self.plain, None)
        } else {
            (&self.secure, Some(&self.settings.ca_file))
        };
        cell.get_or_init(|| new_client(roots))
            .as_ref()
            .map_err(Clone::clone)
    }
}

/// A client that trusts the system's authorities and those of `roots`, or none.
fn new_client(roots: Option<&Option<PathBuf>>) -> Result<reqwest::Client, TransportError> {
    let said = |error: &dyn std::error::Error| TransportError::Client(error.to_string());
    let mut store = rustls::RootCertStore::empty();
    if let Some(ca_file) = roots {
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if let Some(path) = ca_file {
            add_file(&mut store, path)?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| said(&e))?
        .with_root_certificates(store)
        .with_no_client_auth();
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .http1_only()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .user_agent(concat!("pitr/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|e| said(&e))
}

fn add_file(
    store: &mut rustls::RootCertStore,
    path: &std::path::Path,
) -> Result<(), TransportError> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    let unusable = |reason: String| TransportError::CertificateFile {
        path: path.to_owned(),
        reason,
    };
    let mut count = 0_usize;
    for certificate in
        CertificateDer::pem_file_iter(path).map_err(|error| unusable(error.to_string()))?
    {
        let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
        store
            .add(certificate)
            .map_err(|error| unusable(error.to_string()))?;
        count += 1;
    }
    if count == 0 {
        return Err(unusable("it holds no certificate in PEM".to_owned()));
    }
    Ok(())
}

/// The certificate file's fault, if it has one: told before anything is sent.
pub(super) fn check_certificate_file(path: &std::path::Path) -> Result<(), TransportError> {
    add_file(&mut rustls::RootCertStore::empty(), path)
}

fn transport(error: TransportError) -> HttpError {
    HttpError::new(HttpErrorKind::Unknown, error)
}

/// What broke, by the innermost cause: the URL, which may hold a signature, is
/// left out.
fn told(error: &reqwest::Error) -> TransportError {
    if let Some(reason) = tls_fault(error) {
        return TransportError::Tls(reason);
    }
    if error.is_timeout() {
        return TransportError::Connection(format!(
            "no connection within {} s",
            CONNECT_TIMEOUT.as_secs()
        ));
    }
    if std::error::Error::source(error).is_none() {
        return TransportError::Connection("the request failed".to_owned());
    }
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    TransportError::Connection(innermost.to_string())
}

/// What rustls says, if the error is one of its own. It can lie in an
/// `io::Error`, and that in another, neither of which names it as its source.
fn tls_fault(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    if let Some(fault) = error.downcast_ref::<rustls::Error>() {
        return Some(fault.to_string());
    }
    let within = error
        .downcast_ref::<std::io::Error>()
        .and_then(std::io::Error::get_ref);
    if let Some(reason) = within.and_then(|inner| tls_fault(inner)) {
        return Some(reason);
    }
    tls_fault(error.source()?)
}

/// The first bytes of an error's body; what cannot be read is not missed.
async fn beginning(mut body: WatchedAnswer) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(Ok(frame)) =
        std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await
    {
        if let Ok(data) = frame.into_data() {
            bytes.extend_from_slice(&data);
        }
        if bytes.len() >= ERROR_BYTES {
            bytes.truncate(ERROR_BYTES);
            break;
        }
    }
    bytes
}

/// When a request last moved on.
#[derive(Debug)]
struct Progress {
    begun: Instant,
    last_ms: AtomicU64,
}

impl Progress {
    fn new() -> Self {
        Self {
            begun: Instant::now(),
            last_ms: AtomicU64::new(0),
        }
    }

    fn mark(&self) {
        let elapsed = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(elapsed, Ordering::Relaxed);
    }

    fn last(&self) -> Instant {
        self.begun + Duration::from_millis(self.last_ms.load(Ordering::Relaxed))
    }
}

/// A request's body that notes when a piece of it goes out.
fn watched(body: HttpRequestBody, progress: &Arc<Progress>) -> reqwest::Body {
    match body.as_bytes() {
        Some(bytes) if bytes.len() <= PIECE_BYTES => reqwest::Body::from(bytes.clone()),
        _ => reqwest::Body::wrap(WatchedUpload {
            body,
            rest: Bytes::new(),
            progress: Arc::clone(progress),
        }),
    }
}

struct WatchedUpload {
    body: HttpRequestBody,
    rest: Bytes,
    progress: Arc<Progress>,
}

impl Body for WatchedUpload {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let this = self.get_mut();
        this.progress.mark();
        if this.rest.is_empty() {
            match ready!(Pin::new(&mut this.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.rest = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        let piece = this.rest.split_to(this.rest.len().min(PIECE_BYTES));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = u64::try_from(self.rest.len()).unwrap_or(u64::MAX);
        match self.body.size_hint().exact() {
            Some(body) => SizeHint::with_exact(body.saturating_add(rest)),
            None => SizeHint::default(),
        }
    }
}

/// An answer's body that fails when no piece of it comes for too long.
struct WatchedAnswer {
    body: reqwest::Body,
    stall: Duration,
    alarm: Pin<Box<Sleep>>,
}

impl WatchedAnswer {
    fn new(body: reqwest::Body, stall: Duration) -> Self {
        Self {
            body,
            stall,
            alarm: Box::pin(sleep(stall)),
        }
    }
}

impl Body for WatchedAnswer {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let this = self.get_mut();
        match Pin::new(&mut this.body).poll_frame(context) {
            Poll::Ready(frame) => {
                this.alarm.as_mut().reset(Instant::now() + this.stall);
                Poll::Ready(frame.map(|frame| frame.map_err(|error| transport(told(&error)))))
            }
            Poll::Pending => {
                ready!(this.alarm.as_mut().poll(context));
                let seconds = this.stall.as_secs();
                Poll::Ready(Some(Err(transport(TransportError::Stalled { seconds }))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
