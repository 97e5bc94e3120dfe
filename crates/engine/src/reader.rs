//! Chain reads of many payments in few round trips.
//!
//! A read is sent at once when nothing else is on its way. While reads are on their way, those that come after them
//! wait together and travel together: the batch grows by itself under load, and nobody waits for a timer.

use std::sync::Arc;

use quittance_core::{Chain, Fault, FaultKind};
use tokio::sync::{Semaphore, mpsc, oneshot};

/// How many questions may wait. Beyond it callers are told to come back: at a thousand a round trip this is seconds.
const QUEUE_MAX: usize = 4096;

/// How many questions travel together at most. The chain splits them further as its nodes need.
const BATCH_MAX: usize = 256;

/// How many batches are on their way at once. Two would keep a node busy; four also hide a slow one.
const IN_FLIGHT_MAX: usize = 4;

type Question<C> = (
    <C as Chain>::Read,
    oneshot::Sender<Result<<C as Chain>::Answer, Fault>>,
);

/// Collects questions and asks them together.
pub(crate) struct Reader<C: Chain> {
    questions: mpsc::Sender<Question<C>>,
}

impl<C: Chain> Reader<C> {
    pub(crate) fn new(chain: Arc<C>) -> Self {
        let (questions, waiting) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(ask_all(chain, waiting));
        Self { questions }
    }

    /// The answer to one question.
    pub(crate) async fn read(&self, read: C::Read) -> Result<C::Answer, Fault> {
        let (reply, answer) = oneshot::channel();
        self.questions
            .try_send((read, reply))
            .map_err(|_| Fault::new(FaultKind::Busy, "too many chain reads wait"))?;
        answer
            .await
            .unwrap_or_else(|_| Err(Fault::new(FaultKind::Internal, "a chain read was dropped")))
    }
}

async fn ask_all<C: Chain>(chain: Arc<C>, mut waiting: mpsc::Receiver<Question<C>>) {
    let slots = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    loop {
        // First a free slot, then the questions: what comes while all slots are taken joins the next batch.
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        let mut batch = Vec::new();
        if waiting.recv_many(&mut batch, BATCH_MAX).await == 0 {
            return;
        }
        // Somebody who no longer waits needs no answer.
        batch.retain(|(_, reply)| !reply.is_closed());
        let chain = Arc::clone(&chain);
        tokio::spawn(async move {
            let _slot = slot;
            let (reads, replies): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
            metrics::histogram!("quittance_chain_read_batch_size").record(reads.len() as f64);
            for (reply, answer) in replies.into_iter().zip(chain.read(&reads).await) {
                let _ = reply.send(answer);
            }
        });
    }
}
