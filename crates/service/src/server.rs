//! Serving: connections with limits, and stopping in good order.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
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

use crate::connections::{Connections, Place, UnderWay};
use crate::limits::{DRAIN, ServiceLimits, WAIT_MAX};
use crate::metrics::count_closed;

/// The largest head of a request that is read, in bytes: keys and traces fit many times over.
const HEAD_MAX: usize = 16 * 1024;

/// How many requests one HTTP/2 connection may have open at once.
const STREAMS_MAX: u32 = 256;

/// How many requests an HTTP/2 client may have taken back before we came to look at them, before its connection is closed: who
/// opens and takes back streams without end costs us work and itself nothing (CVE-2023-44487).
const RESETS_MAX: usize = 20;

/// The pause after the operating system could not give a connection, because there are too many.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long a connection that was told that it ends may take to end: its last answer is one small packet.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// How long a connection may take to end that makes room for another: it has no request under way, and the other waits.
const SHED_MAX: Duration = Duration::from_millis(250);

/// How long a client on a spare connection may take to send its first request's head: others wait for the place.
const SPARE_HEADER_MAX: Duration = Duration::from_secs(1);

/// In a request's extensions: all other connections are busy, and this one is for one short answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spare;

/// How a server treats its connections.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Connections at once. Beyond it one without a request under way is closed for each new one; where there is none, a few
    /// more are taken, and [`router`](crate::router) answers nothing but `GET /health` on them.
    pub connections_max: usize,
    /// Connections at once from one peer: an IPv4 address, or an IPv6 network of 64 bits. An IPv6 network of 48 bits may
    /// have twice as many. More are closed at once.
    pub connections_per_address: usize,
    /// How long a new client may take to say which HTTP it speaks and to send the head of its first request.
    pub header_max: Duration,
    /// How long a connection may stay without a request under way after its first.
    pub idle_max: Duration,
    /// How long stopping waits for requests under way.
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

/// Serves until `stop` is done; then finishes the requests under way, for no longer than `drain`. Answers what is left
/// of `drain`, for whatever else must stop by then.
pub async fn serve(
    router: Router,
    listener: TcpListener,
    options: ServerOptions,
    stop: impl Future<Output = ()>,
) -> Duration {
    let server = Server::new(router, options);
    let mut tasks = JoinSet::new();
    let (stopping, told) = watch::channel(false);
    let mut stop = pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            opened = server.open(&listener) => {
                if let Some(opened) = opened {
                    tasks.spawn(server.clone().hold(opened, told.clone()));
                }
            }
            Some(_) = tasks.join_next() => {}
        }
    }
    info!("no longer accepting connections");
    drop(listener);
    let deadline = Instant::now() + server.options.drain.min(WAIT_MAX);
    stopping.send_replace(true);
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

/// A connection with what it holds as long as it lives.
struct Opened {
    stream: TcpStream,
    address: SocketAddr,
    place: Place,
}

impl Server {
    fn new(router: Router, options: ServerOptions) -> Self {
        let mut http = Builder::new(TokioExecutor::new());
        // How long a head may take is counted here, for both versions and from before it is known which it is.
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

    /// The next connection, or `None` for one that there is no place for. May be cancelled.
    async fn open(&self, listener: &TcpListener) -> Option<Opened> {
        let (stream, address) = accept(listener).await;
        match self.connections.enter(address) {
            Ok(place) => Some(Opened {
                stream,
                address,
                place,
            }),
            Err(why) => {
                count_closed(why.label());
                None
            }
        }
    }

    /// Serves one connection until it ends, is of no more use, has to make room, or everything stops.
    async fn hold(self, opened: Opened, mut stopping: watch::Receiver<bool>) {
        let Opened {
            stream,
            address,
            place,
        } = opened;
        let requests = &place.requests;
        let service = {
            let (requests, router, is_spare) =
                (requests.clone(), self.router.clone(), place.is_spare);
            hyper::service::service_fn(move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(ConnectInfo(address));
                if is_spare {
                    request.extensions_mut().insert(Spare);
                }
                answer(router.clone(), requests.begin(), request)
            })
        };
        let (first_within, idle_max) = match place.is_spare {
            true => (SPARE_HEADER_MAX, Duration::ZERO),
            false => (self.options.header_max, self.options.idle_max),
        };
        let mut connection = pin!(self.http.serve_connection(TokioIo::new(stream), service));
        let (why, close_max) = tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    debug!(%error, "a connection ended badly");
                }
                return;
            }
            why = requests.useless(first_within, idle_max) => (why, CLOSE_MAX),
            () = place.leave.notified() => ("room", SHED_MAX),
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
    under_way: UnderWay,
    request: Request<Incoming>,
) -> Result<Response<axum::body::Body>, Infallible> {
    let answer = router.oneshot(request.map(axum::body::Body::new)).await;
    drop(under_way);
    answer
}

async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                // Answers are one small packet; waiting to fill it would only delay them.
                let _ = stream.set_nodelay(true);
                return (stream, address);
            }
            Err(error) => {
                warn!(%error, "a connection could not be accepted");
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
