//! What a stream holds while its client reads: a place, and its connection.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use crate::metrics::count_stalled;
use crate::server::Busy;
use crate::shares::Share;

/// How long a client may take nothing. A comment is sent every fifteen seconds, so a client that
/// reads takes something in this time.
const STALL_MAX: Duration = Duration::from_secs(60);

/// The place of a stream, and what keeps its connection from being idle.
pub(super) struct Hold {
    _share: Share,
    _busy: Option<Busy>,
}

impl Hold {
    pub(super) const fn new(share: Share, busy: Option<Busy>) -> Self {
        Self {
            _share: share,
            _busy: busy,
        }
    }
}

/// When the client last took something, and what is held until then.
struct Progress(Mutex<(Instant, Option<Hold>)>);

impl Progress {
    /// Notes that the client takes something. `false` if nothing is held any more.
    fn touch(&self) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 = Instant::now();
        state.1.is_some()
    }

    fn last(&self) -> Instant {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    fn release(&self) {
        let held = {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            state.1.take()
        };
        drop(held);
    }
}

/// A stream that gives back what it holds when it ends, and when its client takes nothing for a
/// minute. Its connection then counts as idle, and the server closes it.
struct Held<S> {
    stream: Pin<Box<S>>,
    progress: Arc<Progress>,
    watch: AbortHandle,
}

/// Attaches what a stream holds.
pub(super) fn held<S: Stream + Send>(stream: S, hold: Hold) -> impl Stream<Item = S::Item> + Send {
    let progress = Arc::new(Progress(Mutex::new((Instant::now(), Some(hold)))));
    let watch = tokio::spawn(release_when_stalled(Arc::clone(&progress)));
    Held {
        stream: Box::pin(stream),
        progress,
        watch: watch.abort_handle(),
    }
}

async fn release_when_stalled(progress: Arc<Progress>) {
    loop {
        let last = progress.last();
        sleep_until(last + STALL_MAX).await;
        if progress.last() == last {
            count_stalled();
            return progress.release();
        }
    }
}

impl<S: Stream> Stream for Held<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<S::Item>> {
        match self.progress.touch() {
            true => self.stream.as_mut().poll_next(context),
            false => Poll::Ready(None),
        }
    }
}

impl<S> Drop for Held<S> {
    fn drop(&mut self) {
        self.watch.abort();
        self.progress.release();
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::{StreamExt, stream};

    use super::*;
    use crate::shares::Shares;

    fn endless(shares: &Shares) -> impl Stream<Item = Result<u8, Infallible>> + Send + use<> {
        let share = shares.enter(None).unwrap();
        held(stream::repeat(Ok(1)), Hold::new(share, None))
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stalls_loses_its_place() {
        let shares = Shares::new(1);
        let mut slow = std::pin::pin!(endless(&shares));
        for _ in 0..5 {
            tokio::time::sleep(STALL_MAX * 2 / 3).await;
            assert!(slow.next().await.is_some());
            assert!(shares.enter(None).is_none());
        }
        tokio::time::sleep(STALL_MAX + Duration::from_secs(1)).await;
        assert!(shares.enter(None).is_some());
        assert!(slow.next().await.is_none(), "it goes on without a place");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_ends_gives_back_its_place() {
        let shares = Shares::new(1);
        let stream = endless(&shares);
        assert!(shares.enter(None).is_none());
        drop(stream);
        assert!(shares.enter(None).is_some());
    }
}
