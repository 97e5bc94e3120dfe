//! Streams that are paid tick by tick. No part of this module knows HTTP.
//!
//! A stream is a bounded channel of paid ticks. A request for a tick takes a place in the channel
//! before it is charged, so no tick is charged without room for it. The handler takes the ticks
//! out, one for each chunk.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quittance_core::PaymentId;
use tokio::sync::mpsc::{self, OwnedPermit, Receiver, Sender};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::debug;

use crate::refusal::SaleReceipt;
use crate::reservations::{Reservations, ReservedAuthorization};

/// How many paid ticks wait for the handler by default. With one, a stream that breaks off costs
/// its buyer at most one tick.
const WAITING: usize = 1;

/// How long a handler waits for a tick by default: longer than a deposit takes on most chains.
const IDLE: Duration = Duration::from_secs(30);

/// How many streams run at once by default. Each has a connection and a few kilobytes.
const STREAMS: usize = 1000;

/// How long a stream may run without its handler taking a tick: longer than any chunk takes to be
/// made. A client that reads nothing would otherwise keep its stream, and the handler with it, for
/// one tick.
const STALLED: Duration = Duration::from_secs(300);

/// The limits of the streams of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamLimits {
    waiting: usize,
    idle: Duration,
    streams: usize,
}

impl Default for StreamLimits {
    /// One waiting tick, 30 seconds without a tick, and 1000 streams.
    fn default() -> Self {
        Self {
            waiting: WAITING,
            idle: IDLE,
            streams: STREAMS,
        }
    }
}

impl StreamLimits {
    /// Sets how many paid ticks may wait for the handler, at least one. If the stream breaks off,
    /// its buyer loses them. The request for one more tick waits before it is charged.
    #[must_use]
    pub fn waiting(self, waiting: usize) -> Self {
        Self {
            waiting: waiting.max(1),
            ..self
        }
    }

    /// Sets how long a handler waits for a tick. Then the stream is over.
    #[must_use]
    pub fn idle(self, idle: Duration) -> Self {
        Self { idle, ..self }
    }

    /// Sets how many streams run at once. More are answered 503.
    #[must_use]
    pub fn streams(self, streams: usize) -> Self {
        Self { streams, ..self }
    }
}

/// A paid tick of a stream: the right to send one more chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tick {
    /// The number of the tick in its stream, from 1.
    pub number: u64,
}

/// Tells a handler when the next tick of its stream is paid. It is in the request's extensions.
///
/// A handler waits for [`next`](Self::next) before it sends a chunk. It ends its response when
/// there is no next tick.
///
/// ```
/// use axum::Extension;
/// use axum::body::Body;
/// use futures_util::stream;
/// use quittance_seller::Meter;
///
/// async fn count(Extension(meter): Extension<Meter>) -> Body {
///     Body::from_stream(stream::unfold(meter, |meter| async move {
///         let tick = meter.next().await?;
///         Some((Ok::<_, std::io::Error>(format!("{}\n", tick.number)), meter))
///     }))
/// }
/// # let _ = count;
/// ```
#[derive(Clone)]
pub struct Meter(Arc<Shared>);

/// What a stream and its handler share.
struct Shared {
    ticks: tokio::sync::Mutex<Receiver<Tick>>,
    /// Notified when the handler waits for a tick.
    awaited: Notify,
    /// Notified when the handler has got one, or learns that there is none.
    taken: Notify,
    idle: Duration,
}

impl Shared {
    /// Waits until the handler has taken no tick for a long time.
    async fn stalled(&self) {
        while timeout(STALLED, self.taken.notified()).await.is_ok() {}
    }
}

impl Meter {
    /// Waits for the next paid tick. `None` if there is none: the buyer has stopped, or paid no
    /// tick in time. Dropping this future loses no tick.
    ///
    /// The first tick is charged when the handler waits for it or returns its response, whichever
    /// is first. A handler that fails before costs its buyer nothing.
    pub async fn next(&self) -> Option<Tick> {
        self.0.awaited.notify_one();
        let mut ticks = self.0.ticks.lock().await;
        let tick = match timeout(self.0.idle, ticks.recv()).await {
            Ok(tick) => tick,
            Err(_) => {
                debug!("a stream ends: no tick was paid in time");
                ticks.close();
                // A tick that is being charged now still counts.
                ticks.recv().await
            }
        };
        self.0.taken.notify_one();
        tick
    }
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Meter")
    }
}

/// The streams of a layer. Clones share them.
#[derive(Clone)]
pub(crate) struct Streams {
    limits: StreamLimits,
    slots: Arc<Semaphore>,
    running: Arc<Mutex<HashMap<String, Arc<Stream>>>>,
    /// The state records, such as channels, that a stream uses.
    records: Reservations,
}

/// The right to run one stream.
pub(crate) struct StreamSlot {
    _permit: OwnedSemaphorePermit,
}

impl Streams {
    pub(crate) fn new(limits: StreamLimits) -> Self {
        Self {
            limits,
            slots: Arc::new(Semaphore::new(limits.streams)),
            running: Arc::default(),
            records: Reservations::default(),
        }
    }

    /// Room for one stream; `None` if too many run.
    pub(crate) fn slot(&self) -> Option<StreamSlot> {
        let permit = Arc::clone(&self.slots).try_acquire_owned();
        permit.ok().map(|_permit| StreamSlot { _permit })
    }

    /// Starts a stream at this URL that uses this state record. `None` if another stream uses the
    /// record.
    pub(crate) fn start(
        &self,
        slot: StreamSlot,
        url: &str,
        record: Option<PaymentId>,
    ) -> Option<RunningStream> {
        let reserved = match record {
            Some(record) => Some(self.records.reserve(record)?),
            None => None,
        };
        let (sender, receiver) = mpsc::channel(self.limits.waiting);
        let stream = Arc::new(Stream {
            id: format!("{:032x}", rand::random::<u128>()),
            url: url.to_owned(),
            record,
            idle: self.limits.idle,
            books: Mutex::new(Books {
                sender: Some(sender),
                paid: 0,
                last: None,
                place: Some((slot, reserved)),
            }),
        });
        let shared = Arc::new(Shared {
            ticks: tokio::sync::Mutex::new(receiver),
            awaited: Notify::new(),
            taken: Notify::new(),
            idle: self.limits.idle,
        });
        self.running().insert(stream.id.clone(), stream.clone());
        let watch = tokio::spawn({
            let (streams, stream, shared) = (self.clone(), stream.clone(), shared.clone());
            async move {
                shared.stalled().await;
                debug!("a stream ends: its handler takes no ticks");
                streams.close(&stream);
            }
        });
        Some(RunningStream {
            streams: self.clone(),
            stream,
            shared,
            watch,
        })
    }

    /// Ends a stream and frees its place, though its response may not have ended.
    fn close(&self, stream: &Stream) {
        stream.end();
        self.running().remove(&stream.id);
        stream.books().place = None;
    }

    /// The running stream with this id at this URL.
    pub(crate) fn find(&self, id: &str, url: &str) -> Option<Arc<Stream>> {
        let found = self.running().get(id).cloned();
        found.filter(|stream| stream.url == url)
    }

    fn running(&self) -> MutexGuard<'_, HashMap<String, Arc<Stream>>> {
        // Each change is one call, so a panic of another task leaves the map consistent.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream as the requests for its ticks see it.
pub(crate) struct Stream {
    pub(crate) id: String,
    url: String,
    /// The state record that pays for it.
    pub(crate) record: Option<PaymentId>,
    idle: Duration,
    books: Mutex<Books>,
}

struct Books {
    /// `None` once no more ticks come.
    sender: Option<Sender<Tick>>,
    /// How many ticks are paid.
    paid: u64,
    /// The last paid tick, for a client that has lost its receipt.
    last: Option<(TickKey, SaleReceipt)>,
    /// The stream's place among those that run, and its state record, until it is over.
    place: Option<(StreamSlot, Option<ReservedAuthorization>)>,
}

/// Identifies a tick's payment as it was presented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TickKey(pub(crate) [u8; 32]);

/// Room for one tick. Dropping it without a charge frees the room.
pub(crate) struct TickRoom {
    stream: Arc<Stream>,
    permit: OwnedPermit<Tick>,
}

/// Why there is no room for a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoRoom {
    /// The stream is over.
    Over,
    /// The handler has not taken a tick for a while.
    Full,
}

impl Stream {
    /// Waits until the handler has room for one more tick.
    pub(crate) async fn room(self: &Arc<Self>) -> Result<TickRoom, NoRoom> {
        let sender = self.books().sender.clone().ok_or(NoRoom::Over)?;
        match timeout(self.idle, sender.reserve_owned()).await {
            Ok(Ok(permit)) => Ok(TickRoom {
                stream: Arc::clone(self),
                permit,
            }),
            Ok(Err(_)) => Err(NoRoom::Over),
            Err(_) => Err(NoRoom::Full),
        }
    }

    /// The receipt of the last tick, if this payment paid it.
    pub(crate) fn receipt(&self, key: TickKey) -> Option<SaleReceipt> {
        let books = self.books();
        let (last, receipt) = books.last.as_ref()?;
        (*last == key).then(|| receipt.clone())
    }

    /// No more ticks come. The handler gets those that are paid.
    pub(crate) fn end(&self) {
        self.books().sender = None;
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        // Each change is complete before anything can panic.
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TickRoom {
    /// Gives the handler the tick, which is charged.
    pub(crate) fn fill(self, key: TickKey, receipt: SaleReceipt) {
        let Self { stream, permit } = self;
        let mut books = stream.books();
        books.paid += 1;
        books.last = Some((key, receipt));
        permit.send(Tick { number: books.paid });
    }
}

/// A stream as its response owns it. Dropping it ends the stream.
pub(crate) struct RunningStream {
    streams: Streams,
    stream: Arc<Stream>,
    shared: Arc<Shared>,
    /// Ends the stream if its handler takes no ticks.
    watch: JoinHandle<()>,
}

impl RunningStream {
    pub(crate) fn id(&self) -> &str {
        &self.stream.id
    }

    pub(crate) fn meter(&self) -> Meter {
        Meter(Arc::clone(&self.shared))
    }

    /// Waits until the handler waits for a tick.
    pub(crate) async fn awaited(&self) {
        self.shared.awaited.notified().await;
    }

    /// Gives the handler the first tick, which is charged.
    pub(crate) async fn begin(&self, key: TickKey, receipt: SaleReceipt) {
        if let Ok(room) = self.stream.room().await {
            room.fill(key, receipt);
        }
    }
}

impl Drop for RunningStream {
    fn drop(&mut self) {
        self.watch.abort();
        self.streams.close(&self.stream);
        debug!(ticks = self.stream.books().paid, "a stream is over");
    }
}
