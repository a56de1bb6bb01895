//! What monitoring systems ask over HTTP: `/metrics`, `/healthz`, `/readyz`.
//!
//! One small listener of its own, by default for this machine only, that shows nothing secret and
//! changes nothing. Everything is bounded: connections, the size of a request, how long a client
//! may take. It is there until the process ends, so that a shutdown can be watched.

mod gather;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

use crate::control::Control;
use crate::metrics::exposition::Exposition;

/// Connections at a time. LIMIT: the others stay in the system's queue.
const CONNECTIONS_MAX: usize = 32;

/// Longest head of a request. LIMIT.
const REQUEST_BYTES_MAX: usize = 16 << 10;

/// A client must have sent the head of a request by then.
const HEAD_LIMIT: Duration = Duration::from_secs(10);

/// Age at which a connection is closed; a client that has more to ask comes again.
const CONNECTION_LIMIT: Duration = Duration::from_mins(1);

/// How long an answer that is under way then may still take.
const FAREWELL: Duration = Duration::from_secs(5);

/// Pause after the system could not give us a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The address of `[metrics] listen` cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for metrics; [metrics] listen = \"\" turns them off")]
pub struct ListenError {
    address: SocketAddr,
    #[source]
    source: io::Error,
}

/// Answers HTTP from now on; follows `[metrics] listen` when the configuration changes.
///
/// Must be called inside a tokio runtime.
///
/// # Errors
/// [`ListenError`]; after the start it is logged, and the address that worked is kept.
pub fn start(control: Arc<Control>) -> Result<(), ListenError> {
    let door = Door::open(control.config().metrics.listen)?;
    tokio::spawn(serve(Arc::new(Status::new(control)), door));
    Ok(())
}

/// Where clients come in, if anywhere.
struct Door {
    address: Option<SocketAddr>,
    listener: Option<TcpListener>,
}

impl Door {
    fn open(address: Option<SocketAddr>) -> Result<Self, ListenError> {
        let Some(asked) = address else { return Ok(Self { address, listener: None }) };
        let listener = listen(asked).map_err(|source| ListenError { address: asked, source })?;
        // Port 0 has become another one.
        let bound = listener.local_addr().unwrap_or(asked);
        tracing::info!(address = %bound, "listening for metrics");
        Ok(Self { address, listener: Some(listener) })
    }

    /// Moves to another address. The old one is left first where both cannot be had at a time.
    fn move_to(&mut self, address: Option<SocketAddr>) {
        if address == self.address {
            return;
        }
        let mut moved = Self::open(address);
        if moved.as_ref().is_err_and(|error| error.source.kind() == io::ErrorKind::AddrInUse) {
            self.listener = None;
            moved = Self::open(address);
        }
        match moved {
            Ok(door) => *self = door,
            Err(error) => {
                tracing::error!(%error, source = %error.source, "[metrics] listen stays as it was");
                if self.listener.is_none()
                    && let Ok(door) = Self::open(self.address)
                {
                    *self = door;
                }
            }
        }
    }

    /// Waits for the next client; for ever if there is no door.
    ///
    /// Cancel safe: a connection is taken only by the call that returns it.
    async fn accept(&self) -> TcpStream {
        let Some(listener) = &self.listener else { return std::future::pending().await };
        loop {
            match listener.accept().await {
                Ok((stream, _)) => return stream,
                Err(error) => {
                    tracing::debug!(%error, "cannot accept a client of metrics");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

async fn serve(status: Arc<Status>, mut door: Door) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut reloads = status.control.reloads.watch();
    loop {
        tokio::select! {
            // Cancel safe: both take only what they return.
            _ = reloads.changed() => {
                door.move_to(status.control.config().metrics.listen);
            }
            (permit, stream) = next_client(&connections, &door) => {
                let status = Arc::clone(&status);
                tokio::spawn(async move {
                    converse(status, stream).await;
                    drop(permit);
                });
            }
        }
    }
}

/// Waits for a place, then for the next client.
///
/// Cancel safe: a place is given back, and a connection is taken only by the call that returns it.
async fn next_client(
    connections: &Arc<Semaphore>,
    door: &Door,
) -> (Option<OwnedSemaphorePermit>, TcpStream) {
    // The semaphore is never closed, so there always is a permit.
    let permit = Arc::clone(connections).acquire_owned().await.ok();
    (permit, door.accept().await)
}

/// Answers one connection until it ends or has had its time.
async fn converse(status: Arc<Status>, stream: TcpStream) {
    let service = service_fn(|request| {
        let status = Arc::clone(&status);
        async move { Ok::<_, Infallible>(status.answer(&request).await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT);
    builder.max_buf_size(REQUEST_BYTES_MAX);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = if let Ok(ended) = timeout(CONNECTION_LIMIT, connection.as_mut()).await {
        ended
    } else {
        connection.as_mut().graceful_shutdown();
        timeout(FAREWELL, connection).await.unwrap_or(Ok(()))
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "client of metrics lost");
    }
}

/// Answers requests.
struct Status {
    control: Arc<Control>,
    /// Held while metrics are collected and written.
    latest: Mutex<Latest>,
}

/// What was shown last.
struct Latest {
    exposition: Arc<std::sync::Mutex<Exposition>>,
    /// When its values were asked for.
    asked: Option<Instant>,
    text: Bytes,
}

impl Status {
    fn new(control: Arc<Control>) -> Self {
        let latest = Latest { exposition: Arc::default(), asked: None, text: Bytes::new() };
        Self { control, latest: Mutex::new(latest) }
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let is_known = matches!(request.uri().path(), "/" | "/metrics" | "/healthz" | "/readyz");
        if is_known && !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match request.uri().path() {
            "/metrics" => self.metrics().await,
            "/healthz" => self.health().await,
            "/readyz" => self.readiness(),
            "/" => text(
                StatusCode::OK,
                concat!("pgtandem ", env!("CARGO_PKG_VERSION"), "\n/metrics\n/healthz\n/readyz\n"),
            ),
            _ => text(StatusCode::NOT_FOUND, "no such page\n"),
        }
    }

    /// All metrics. Whoever waits while others are served gets what was collected meanwhile, so that
    /// no number of clients makes more work than one behind the other.
    async fn metrics(&self) -> Response<Full<Bytes>> {
        let arrived = Instant::now();
        let mut latest = self.latest.lock().await;
        if latest.asked.is_none_or(|asked| asked < arrived) {
            let asked = Instant::now();
            let snapshot = gather::snapshot(&self.control).await;
            let exposition = Arc::clone(&latest.exposition);
            // Away from the logins: with many pools it takes milliseconds.
            let rendered = tokio::task::spawn_blocking(move || {
                let mut exposition =
                    exposition.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                exposition.render(snapshot)
            });
            let Ok(rendered) = rendered.await else {
                return text(StatusCode::INTERNAL_SERVER_ERROR, "metrics cannot be written\n");
            };
            latest.text = rendered.into();
            latest.asked = Some(asked);
        }
        let mut response = Response::new(Full::new(latest.text.clone()));
        let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    }

    /// Whether the process works: every worker answers. While it ends, workers may have.
    async fn health(&self) -> Response<Full<Bytes>> {
        if self.control.shutting_down().is_some() {
            return text(StatusCode::OK, "shutting down\n");
        }
        let reports = self.control.reports().await;
        let silent = reports.iter().filter(|report| report.is_none()).count();
        if silent == 0 {
            return text(StatusCode::OK, "ok\n");
        }
        let all = reports.len();
        let words = format!("{silent} of {all} workers do not answer\n");
        text(StatusCode::SERVICE_UNAVAILABLE, words)
    }

    /// Whether a load balancer should send clients here; then which databases have no server, and how
    /// secondaries are.
    ///
    /// Neither decides anything. All proxies have lost the server alike. And clients are served from the primary, and would be sent away from
    /// all proxies at once by a secondary that lags.
    fn readiness(&self) -> Response<Full<Bytes>> {
        let rest = gather::lost(&self.control) + &gather::secondaries(&self.control);
        match gather::obstacle(&self.control) {
            None => text(StatusCode::OK, format!("ready\n{rest}")),
            Some(obstacle) => {
                let words = format!("not ready: {obstacle}\n{rest}");
                text(StatusCode::SERVICE_UNAVAILABLE, words)
            }
        }
    }
}

fn text(status: StatusCode, words: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(words.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
