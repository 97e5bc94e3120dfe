//! Group commit: many writes share one commit, and so the price of one fsync.
//!
//! One task writes. It takes all writes that wait, commits them together, and answers each of them.
//! A write that arrives while the task is idle is committed at once. Nothing here knows SQL: a
//! [`Store`] commits a batch, and a [`Write`] says what it changes.

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::error::JournalError;

/// How many writes may wait. Each belongs to one settlement. Beyond this number, callers wait for
/// room.
const QUEUE_MAX: usize = 4096;

/// How many writes share one commit at most. 256 small rows take a few milliseconds.
const BATCH_MAX: usize = 256;

/// How long the queue may be idle before [`Store::idle`] is called. A disk that has room again
/// should be used soon, and looking costs microseconds.
const IDLE_AFTER: Duration = Duration::from_secs(1);

/// What writes are committed to.
#[async_trait]
pub(crate) trait Store: Send + Sized + 'static {
    /// What a write is executed on.
    type Connection: Send;
    /// Why a write or a commit failed.
    type Error: StoreError;

    /// Executes all writes of a batch and commits them together, or changes nothing. A write that
    /// [fails alone](Pending::execute) must leave no change behind. The batch is left as it was;
    /// the callers of writes that are missing get [`JournalError::Closed`].
    async fn commit(&mut self, batch: &mut Vec<Waiting<Self>>) -> Result<(), JournalError>;

    /// Called every second in which nothing is written.
    async fn idle(&mut self);

    /// Called once, after the last write.
    async fn close(self);
}

/// An error of a store.
pub(crate) trait StoreError: Into<JournalError> + Send {
    /// Whether the error concerns one entry only. Then the write fails alone, and the others of the
    /// batch go on.
    fn concerns_one_entry(&self) -> bool;
}

/// One write, with the type of its answer.
#[async_trait]
pub(crate) trait Write<S: Store>: Send + Sync + 'static {
    /// What the caller gets.
    type Answer: Send + 'static;

    /// Makes the change. The store commits it later, so nothing is durable yet.
    async fn execute(&self, connection: &mut S::Connection) -> Result<Self::Answer, S::Error>;
}

/// A write that waits for its batch, of whatever answer type.
pub(crate) type Waiting<S> = Box<dyn Pending<S>>;

/// A write together with the way back to its caller.
#[async_trait]
pub(crate) trait Pending<S: Store>: Send {
    /// Executes the write and keeps its answer. Returns `false` if the write failed alone: the
    /// error is kept as its answer, and the store must undo its changes. May be repeated, after all
    /// changes of the batch were undone.
    async fn execute(&mut self, connection: &mut S::Connection) -> Result<bool, S::Error>;

    /// Sends the kept answer. Call it after the commit.
    fn answer(self: Box<Self>);

    /// Sends an error instead of the kept answer.
    fn fail(self: Box<Self>, error: JournalError);
}

struct Request<S: Store, W: Write<S>> {
    write: W,
    answer: Option<Result<W::Answer, JournalError>>,
    reply: oneshot::Sender<Result<W::Answer, JournalError>>,
}

#[async_trait]
impl<S: Store, W: Write<S>> Pending<S> for Request<S, W> {
    async fn execute(&mut self, connection: &mut S::Connection) -> Result<bool, S::Error> {
        let answer: Result<W::Answer, JournalError> = match self.write.execute(connection).await {
            Ok(answer) => Ok(answer),
            Err(error) if error.concerns_one_entry() => Err(error.into()),
            Err(error) => return Err(error),
        };
        let is_done = answer.is_ok();
        self.answer = Some(answer);
        Ok(is_done)
    }

    fn answer(self: Box<Self>) {
        let answer = self.answer.unwrap_or(Err(JournalError::Closed));
        // The caller may be gone. What was written stays.
        drop(self.reply.send(answer));
    }

    fn fail(self: Box<Self>, error: JournalError) {
        drop(self.reply.send(Err(error)));
    }
}

/// Where writes wait. The writing task ends after the queue is dropped.
pub(crate) struct Queue<S: Store>(mpsc::Sender<Waiting<S>>);

impl<S: Store> Queue<S> {
    /// Starts the task that writes to a store.
    pub(crate) fn start(store: S) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(run(store, waiting));
        Self(queue)
    }

    /// Commits a write, together with others. Returns its answer once it is durable.
    pub(crate) async fn write<W: Write<S>>(&self, write: W) -> Result<W::Answer, JournalError> {
        let (reply, answer) = oneshot::channel();
        let request = Request {
            write,
            answer: None,
            reply,
        };
        let queued = self.0.send(Box::new(request)).await;
        queued.map_err(|_| JournalError::Closed)?;
        answer.await.unwrap_or(Err(JournalError::Closed))
    }
}

/// Writes until the [`Queue`] is dropped.
async fn run<S: Store>(mut store: S, mut waiting: mpsc::Receiver<Waiting<S>>) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    loop {
        match timeout(IDLE_AFTER, waiting.recv_many(&mut batch, BATCH_MAX)).await {
            Ok(0) => break,
            Ok(_) => commit(&mut store, &mut batch).await,
            Err(_) => store.idle().await,
        }
    }
    store.close().await;
}

/// Commits a batch and answers its callers.
async fn commit<S: Store>(store: &mut S, batch: &mut Vec<Waiting<S>>) {
    metrics::histogram!("quittance_journal_batch_size").record(batch.len() as f64);
    match store.commit(batch).await {
        Ok(()) => batch.drain(..).for_each(|write| write.answer()),
        Err(error) => {
            metrics::counter!("quittance_journal_errors_total").increment(1);
            batch.drain(..).for_each(|write| write.fail(error.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::sync::Semaphore;

    use super::*;

    /// A store in memory: its commits wait for permits, and it refuses one number.
    struct Memory {
        committed: Arc<Mutex<Vec<Vec<u32>>>>,
        commits: Arc<Semaphore>,
    }

    #[derive(Debug)]
    enum Refused {
        Entry,
        Disk,
    }

    impl From<Refused> for JournalError {
        fn from(error: Refused) -> Self {
            match error {
                Refused::Entry => Self::unreadable("an odd number"),
                Refused::Disk => Self::unavailable("the disk is full"),
            }
        }
    }

    impl StoreError for Refused {
        fn concerns_one_entry(&self) -> bool {
            matches!(self, Self::Entry)
        }
    }

    #[async_trait]
    impl Store for Memory {
        type Connection = Vec<u32>;
        type Error = Refused;

        async fn commit(&mut self, batch: &mut Vec<Waiting<Self>>) -> Result<(), JournalError> {
            self.commits.acquire().await.unwrap().forget();
            let mut written = Vec::new();
            for write in batch {
                write.execute(&mut written).await?;
            }
            self.committed.lock().unwrap().push(written);
            Ok(())
        }

        async fn idle(&mut self) {}

        async fn close(self) {}
    }

    struct Add(u32);

    #[async_trait]
    impl Write<Memory> for Add {
        type Answer = usize;

        async fn execute(&self, written: &mut Vec<u32>) -> Result<usize, Refused> {
            match self.0 {
                13 => return Err(Refused::Disk),
                odd if odd % 2 == 1 => return Err(Refused::Entry),
                _ => written.push(self.0),
            }
            Ok(written.len())
        }
    }

    type Committed = Arc<Mutex<Vec<Vec<u32>>>>;

    fn start() -> (Arc<Queue<Memory>>, Arc<Semaphore>, Committed) {
        let (committed, commits) = (Committed::default(), Arc::new(Semaphore::new(0)));
        let store = Memory {
            committed: Arc::clone(&committed),
            commits: Arc::clone(&commits),
        };
        (Arc::new(Queue::start(store)), commits, committed)
    }

    /// Queues writes in this order, all before the first commit ends.
    async fn queue_all(
        queue: &Arc<Queue<Memory>>,
        numbers: &[u32],
    ) -> Vec<tokio::task::JoinHandle<Result<usize, JournalError>>> {
        let mut writes = Vec::new();
        for number in numbers.iter().copied() {
            let queue = Arc::clone(queue);
            writes.push(tokio::spawn(async move { queue.write(Add(number)).await }));
            tokio::task::yield_now().await;
        }
        writes
    }

    #[tokio::test]
    async fn writes_that_wait_share_one_commit() {
        let (queue, commits, committed) = start();
        let writes = queue_all(&queue, &[2, 4, 6, 8]).await;
        commits.add_permits(9);
        let mut answers = Vec::new();
        for write in writes {
            answers.push(write.await.unwrap().unwrap());
        }
        let committed = committed.lock().unwrap();
        assert_eq!(committed.concat(), [2, 4, 6, 8]);
        assert!(committed.len() <= 2, "{committed:?}");
        assert_eq!(answers.last(), Some(&committed.last().unwrap().len()));
    }

    #[tokio::test]
    async fn an_unreadable_entry_fails_its_own_write_only() {
        let (queue, commits, committed) = start();
        let writes = queue_all(&queue, &[2, 4, 5, 6]).await;
        commits.add_permits(9);
        let mut failed = Vec::new();
        for write in writes {
            failed.push(write.await.unwrap().is_err());
        }
        assert_eq!(failed, [false, false, true, false]);
        assert_eq!(committed.lock().unwrap().concat(), [2, 4, 6]);
    }

    #[tokio::test]
    async fn a_failed_commit_fails_every_write_of_its_batch() {
        let (queue, commits, committed) = start();
        // The first write is committed alone; the others wait meanwhile.
        let writes = queue_all(&queue, &[2, 4, 13, 6]).await;
        commits.add_permits(9);
        let mut failed = Vec::new();
        for write in writes {
            failed.push(write.await.unwrap().is_err());
        }
        let written = committed.lock().unwrap().concat();
        let lost = failed.iter().filter(|failed| **failed).count();
        assert_eq!(written.len() + lost, 4, "{written:?} {failed:?}");
        assert!(failed[2] && failed[1] && failed[3]);
        assert!(queue.write(Add(8)).await.is_ok());
    }
}
