//! Serving: connections with limits, and stopping in good order.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use tower::ServiceExt;
use tracing::{debug, info, warn};

use crate::config::{Config, DRAIN_SECS, Limits};
use crate::peer::Peer;

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

/// How a server treats its connections.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Connections at once; more wait to be accepted.
    pub connections_max: usize,
    /// Connections at once from one peer: an IPv4 address, or an IPv6 network of 64 bits. More are closed at once.
    pub connections_per_peer: usize,
    /// How long a new client may take to say which HTTP it speaks and to send the head of its first request.
    pub header_max: Duration,
    /// How long a connection may stay without a request under way after its first.
    pub idle_max: Duration,
    /// How long stopping waits for requests under way.
    pub drain: Duration,
}

impl Default for ServerOptions {
    /// As a configuration that says nothing of it.
    fn default() -> Self {
        Self::within(&Limits::default(), DRAIN_SECS)
    }
}

impl ServerOptions {
    /// What a configuration says.
    pub fn of(config: &Config) -> Self {
        Self::within(&config.limits, config.drain_secs)
    }

    fn within(limits: &Limits, drain_secs: u64) -> Self {
        Self {
            connections_max: limits.connections,
            connections_per_peer: limits.connections_per_peer,
            header_max: Duration::from_secs(limits.header_secs),
            idle_max: Duration::from_secs(limits.idle_secs),
            drain: Duration::from_secs(drain_secs),
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
    let deadline = Instant::now() + server.options.drain;
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
    slots: Arc<Semaphore>,
    peers: Peers,
}

/// A connection with what it holds as long as it lives.
struct Opened {
    stream: TcpStream,
    address: SocketAddr,
    _slot: OwnedSemaphorePermit,
    _place: Place,
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
        let slots = Arc::new(Semaphore::new(options.connections_max));
        let peers = Peers::new(options.connections_per_peer);
        Self {
            router,
            options,
            http,
            slots,
            peers,
        }
    }

    /// The next connection, or `None` for one that its peer has too many of. May be cancelled.
    async fn open(&self, listener: &TcpListener) -> Option<Opened> {
        let slot = Arc::clone(&self.slots).acquire_owned().await.ok()?;
        let (stream, address) = accept(listener).await;
        let Some(place) = self.peers.enter(address) else {
            count_closed("peer");
            return None;
        };
        Some(Opened {
            stream,
            address,
            _slot: slot,
            _place: place,
        })
    }

    /// Serves one connection until it ends, is of no more use, or everything stops.
    async fn hold(self, opened: Opened, mut stopping: watch::Receiver<bool>) {
        let under_way = UnderWay::default();
        let service = {
            let (under_way, router, address) =
                (under_way.clone(), self.router.clone(), opened.address);
            hyper::service::service_fn(move |request| {
                answer(router.clone(), address, under_way.begin(), request)
            })
        };
        let io = TokioIo::new(opened.stream);
        let mut connection = pin!(self.http.serve_connection(io, service));
        let why = tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    debug!(%error, "a connection ended badly");
                }
                return;
            }
            why = under_way.useless(&self.options) => why,
            _ = stopping.wait_for(|stopping| *stopping) => "stopping",
        };
        count_closed(why);
        connection.as_mut().graceful_shutdown();
        let ended = async {
            tokio::select! {
                _ = connection.as_mut() => {}
                () = under_way.ended_for(CLOSE_MAX) => {}
            }
        };
        ended.await;
    }
}

/// Answers one request of a connection.
async fn answer(
    router: Router,
    address: SocketAddr,
    begun: Begun,
    request: Request<Incoming>,
) -> Result<Response<axum::body::Body>, Infallible> {
    let mut request = request.map(axum::body::Body::new);
    request.extensions_mut().insert(ConnectInfo(address));
    let answer = router.oneshot(request).await;
    drop(begun);
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

fn count_closed(why: &'static str) {
    metrics::counter!("quittance_connections_closed_total", "why" => why).increment(1);
}

/// How many requests of a connection are under way, and how many there ever were.
#[derive(Clone)]
struct UnderWay(Arc<watch::Sender<(usize, u64)>>);

/// A request that is under way.
struct Begun(UnderWay);

impl Default for UnderWay {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new((0, 0))))
    }
}

impl UnderWay {
    fn begin(&self) -> Begun {
        self.0.send_modify(|(now, ever)| {
            *now += 1;
            *ever += 1;
        });
        Begun(self.clone())
    }

    /// Until the connection has shown for too long that it is of no use, and in what way.
    async fn useless(&self, options: &ServerOptions) -> &'static str {
        if timeout(options.header_max, self.first()).await.is_err() {
            return "silent";
        }
        self.ended_for(options.idle_max).await;
        "idle"
    }

    async fn first(&self) {
        let mut seen = self.0.subscribe();
        let _ = seen.wait_for(|(_, ever)| *ever > 0).await;
    }

    /// Until no request has been under way for so long.
    async fn ended_for(&self, long: Duration) {
        let mut seen = self.0.subscribe();
        loop {
            let Ok(ever) = seen.wait_for(|(now, _)| *now == 0).await.map(|at| at.1) else {
                return;
            };
            let begun = seen.wait_for(|at| at.1 != ever);
            if timeout(long, begun).await.is_err() {
                return;
            }
        }
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.0.0.send_modify(|(now, _)| *now -= 1);
    }
}

/// How many connections each peer has. Holds no more peers than there are connections.
#[derive(Clone)]
struct Peers {
    most: usize,
    open: Arc<Mutex<HashMap<Peer, usize>>>,
}

/// A connection's place among those of its peer.
struct Place {
    peers: Peers,
    peer: Peer,
}

impl Peers {
    fn new(most: usize) -> Self {
        Self {
            most,
            open: Arc::default(),
        }
    }

    fn enter(&self, address: SocketAddr) -> Option<Place> {
        let peer = Peer::of(address.ip());
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(peer).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Place {
            peers: self.clone(),
            peer,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self
            .peers
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_configuration_says_is_what_the_server_does() {
        let limits = "connections = 1, connections_per_peer = 2, header_secs = 3, idle_secs = 4";
        let text = format!("drain_secs = 5\naccess.anyone = true\nlimits = {{ {limits} }}");
        let options = ServerOptions::of(&Config::parse(&text).unwrap());
        let secs = Duration::from_secs;
        assert_eq!(
            (options.connections_max, options.connections_per_peer),
            (1, 2)
        );
        assert_eq!((options.header_max, options.idle_max), (secs(3), secs(4)));
        assert_eq!(options.drain, secs(5));
    }

    #[test]
    fn a_peer_has_no_more_places_than_it_may_and_leaves_nothing_behind() {
        let peers = Peers::new(2);
        let [one, other] = ["192.0.2.1:7", "192.0.2.2:7"].map(|text| text.parse().unwrap());
        let first = peers.enter(one);
        let second = peers.enter(one);
        assert!(first.is_some() && second.is_some());
        assert!(peers.enter(one).is_none());
        assert!(peers.enter(other).is_some());
        drop(first);
        assert!(peers.enter(one).is_some());
        drop(second);
        assert!(peers.open.lock().unwrap().is_empty());
    }
}
