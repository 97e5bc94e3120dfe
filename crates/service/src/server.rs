//! A server with limits on connections and a graceful stop.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tower::ServiceExt;
use tracing::{debug, info, warn};

use crate::connections::{Connections, InProgress, Slot};
use crate::limits::{DRAIN, ServiceLimits, WAIT_MAX};
use crate::metrics::count_closed;

/// The size limit for the headers of a request, in bytes: many times that of real requests.
const HEAD_MAX: usize = 16 * 1024;

/// The number of concurrent requests on an HTTP/2 connection.
const STREAMS_MAX: u32 = 256;

/// The number of pending stream resets after which an HTTP/2 connection is closed. Opening and
/// resetting streams costs the server work and the client nothing (CVE-2023-44487).
const RESETS_MAX: usize = 20;

/// The pause after the operating system refused to accept a connection, because there are too many.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The time limit for a graceful shutdown of a connection: its last answer is one small packet.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// The time limit for the end of an idle connection that makes room for a new one.
const SHED_MAX: Duration = Duration::from_millis(250);

/// The time limit for the first request's headers on a spare connection: others wait for its slot.
const SPARE_HEADER_MAX: Duration = Duration::from_secs(1);

/// In a request's extensions: the request came on a spare connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spare;

/// In a request's extensions: keeps the connection from being idle, for answers that take longer
/// than the handler.
#[derive(Clone)]
pub(crate) struct Busy {
    _in_progress: Arc<InProgress>,
}

/// In a request's extensions: whether the server stops.
#[derive(Debug, Clone)]
pub(crate) struct Stopping(watch::Receiver<bool>);

impl Stopping {
    /// Completes when the server stops.
    pub(crate) async fn stopped(&mut self) {
        // The sender is dropped only after it has stopped.
        let _ = self.0.wait_for(|stopping| *stopping).await;
    }
}

/// The options of a server.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ServerOptions {
    /// The number of concurrent connections. Beyond it, an idle connection is closed for each new
    /// one. If none is idle, a few spare connections are accepted, on which
    /// [`router`](crate::router) answers only `GET /health`.
    pub connections_max: usize,
    /// The number of concurrent connections from one address: an IPv4 address, or an IPv6 network
    /// of 64 bits. An IPv6 network of 48 bits can have twice as many. Further ones are closed at
    /// once.
    pub connections_per_address: usize,
    /// The time limit for the headers of the first request on a connection.
    pub header_max: Duration,
    /// How long a connection can stay idle after its first request.
    pub idle_max: Duration,
    /// How long a stop waits for requests in progress.
    pub drain: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self::new(&ServiceLimits::default(), DRAIN)
    }
}

impl ServerOptions {
    /// The options that follow from these limits. A stop waits no longer than `drain` for requests
    /// in progress.
    pub fn new(limits: &ServiceLimits, drain: Duration) -> Self {
        Self {
            connections_max: limits.connections,
            connections_per_address: limits.connections_per_address,
            header_max: Duration::from_secs(limits.header_secs),
            idle_max: Duration::from_secs(limits.idle_secs),
            drain,
        }
    }
}

/// Serves until `stop` completes, then finishes the requests in progress for at most `drain`.
/// Returns the rest of `drain`, as the time limit for everything else that has to stop.
pub async fn serve(
    router: Router,
    listener: TcpListener,
    options: ServerOptions,
    stop: impl Future<Output = ()>,
) -> Duration {
    let server = Server::new(router, options);
    let mut tasks = JoinSet::new();
    let (stop_sender, stopping) = watch::channel(false);
    let mut stop = pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            opened = server.open(&listener) => {
                if let Some(opened) = opened {
                    tasks.spawn(server.clone().serve_connection(opened, stopping.clone()));
                }
            }
            Some(_) = tasks.join_next() => {}
        }
    }
    info!("no longer accepting connections");
    drop(listener);
    let deadline = Instant::now() + server.options.drain.min(WAIT_MAX);
    stop_sender.send_replace(true);
    let finished = async { while tasks.join_next().await.is_some() {} };
    if timeout_at(deadline, finished).await.is_err() {
        warn!("some requests did not finish in time");
    }
    deadline.saturating_duration_since(Instant::now())
}

#[derive(Clone)]
struct Server {
    router: Router,
    options: ServerOptions,
    http: Builder<TokioExecutor>,
    connections: Connections,
}

/// A connection with its slot.
struct Opened {
    stream: TcpStream,
    address: SocketAddr,
    slot: Slot,
}

impl Server {
    fn new(router: Router, options: ServerOptions) -> Self {
        let mut http = Builder::new(TokioExecutor::new());
        // This module limits the time for headers itself: for both versions of HTTP, and from the
        // start of the connection.
        http.http1()
            .timer(TokioTimer::new())
            .header_read_timeout(None)
            .max_buf_size(HEAD_MAX);
        http.http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_pending_accept_reset_streams(RESETS_MAX)
            .max_header_list_size(HEAD_MAX as u32)
            .keep_alive_interval(Some(options.header_max));
        let connections =
            Connections::new(options.connections_max, options.connections_per_address);
        Self {
            router,
            options,
            http,
            connections,
        }
    }

    /// The next connection, or `None` for one without a slot. Cancel-safe.
    async fn open(&self, listener: &TcpListener) -> Option<Opened> {
        let (stream, address) = accept(listener).await;
        match self.connections.enter(address) {
            Ok(slot) => Some(Opened {
                stream,
                address,
                slot,
            }),
            Err(why) => {
                count_closed(why.label());
                None
            }
        }
    }

    /// Serves a connection until it ends, is idle for too long, has to make room, or the server
    /// stops.
    async fn serve_connection(self, opened: Opened, mut stopping: watch::Receiver<bool>) {
        let Opened {
            stream,
            address,
            slot,
        } = opened;
        let requests = &slot.requests;
        let service = {
            let (requests, router, is_spare) =
                (requests.clone(), self.router.clone(), slot.is_spare);
            let stopping = Stopping(stopping.clone());
            hyper::service::service_fn(move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(ConnectInfo(address));
                request.extensions_mut().insert(stopping.clone());
                if is_spare {
                    request.extensions_mut().insert(Spare);
                }
                answer(router.clone(), requests.begin(), request)
            })
        };
        let (first_within, idle_max) = match slot.is_spare {
            true => (SPARE_HEADER_MAX, Duration::ZERO),
            false => (self.options.header_max, self.options.idle_max),
        };
        let mut connection = pin!(self.http.serve_connection(TokioIo::new(stream), service));
        let (why, close_max) = tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    debug!(%error, "a connection ended with an error");
                }
                return;
            }
            why = requests.idle_for_too_long(first_within, idle_max) => (why, CLOSE_MAX),
            () = slot.leave.notified() => ("room", SHED_MAX),
            _ = stopping.wait_for(|stopping| *stopping) => ("stopping", CLOSE_MAX),
        };
        count_closed(why);
        connection.as_mut().graceful_shutdown();
        let ended = async {
            tokio::select! {
                _ = connection.as_mut() => {}
                () = requests.ended_for(close_max) => {}
            }
        };
        ended.await;
    }
}

/// Answers one request of a connection.
async fn answer(
    router: Router,
    in_progress: InProgress,
    mut request: Request<Incoming>,
) -> Result<Response<axum::body::Body>, Infallible> {
    let in_progress = Busy {
        _in_progress: Arc::new(in_progress),
    };
    request.extensions_mut().insert(in_progress.clone());
    let answer = router.oneshot(request.map(axum::body::Body::new)).await;
    drop(in_progress);
    answer
}

async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                // An answer is one small packet, which Nagle's algorithm would only delay.
                let _ = stream.set_nodelay(true);
                return (stream, address);
            }
            Err(error) => {
                warn!(%error, "the operating system accepted no connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_become_the_servers_options() {
        let mut limits = ServiceLimits::default();
        (limits.connections, limits.connections_per_address) = (1, 2);
        (limits.header_secs, limits.idle_secs) = (3, 4);
        let secs = Duration::from_secs;
        let options = ServerOptions::new(&limits, secs(5));
        assert_eq!(
            (options.connections_max, options.connections_per_address),
            (1, 2)
        );
        assert_eq!((options.header_max, options.idle_max), (secs(3), secs(4)));
        assert_eq!(options.drain, secs(5));
    }
}
