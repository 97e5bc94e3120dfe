//! Questions of many payments in few round trips.
//!
//! A question is sent at once when nothing else is on its way. While questions are on their way, those that come after them
//! wait together and travel together: the batch grows by itself under load, and nobody waits for a timer.

use std::sync::Arc;

use quittance_core::{Chain, Fault, FaultKind, Status, Watched};
use tokio::sync::{Semaphore, mpsc, oneshot};

/// How many questions may wait. Beyond it callers are told to come back: at a thousand a round trip this is seconds.
const QUEUE_MAX: usize = 4096;

/// How many questions travel together at most. The chain splits them further as its nodes need.
const BATCH_MAX: usize = 256;

/// How many batches are on their way at once. Two would keep a node busy; four also hide a slow one.
const IN_FLIGHT_MAX: usize = 4;

/// Collects questions and asks them together.
pub(crate) struct Batches<Question, Answer> {
    questions: mpsc::Sender<(Question, Reply<Answer>)>,
}

type Reply<Answer> = oneshot::Sender<Result<Answer, Fault>>;

/// Questions about a chain's state.
pub(crate) type Reads<C> = Batches<<C as Chain>::Read, <C as Chain>::Answer>;

/// Questions about what has become of the transactions of a place.
pub(crate) type Statuses<C> = Batches<Watched, Status<<C as Chain>::Evidence>>;

/// Collects questions about a chain's state.
pub(crate) fn reads<C: Chain>(chain: Arc<C>) -> Reads<C> {
    Batches::new(move |reads: Vec<C::Read>| {
        let chain = Arc::clone(&chain);
        metrics::histogram!("quittance_chain_read_batch_size").record(reads.len() as f64);
        async move { chain.read(&reads).await }
    })
}

/// Collects questions about transactions.
pub(crate) fn statuses<C: Chain>(chain: Arc<C>) -> Statuses<C> {
    Batches::new(move |watched: Vec<Watched>| {
        let chain = Arc::clone(&chain);
        async move { chain.status(&watched).await }
    })
}

impl<Question: Send + 'static, Answer: Send + 'static> Batches<Question, Answer> {
    fn new<F>(ask: impl Fn(Vec<Question>) -> F + Send + 'static) -> Self
    where
        F: Future<Output = Vec<Result<Answer, Fault>>> + Send + 'static,
    {
        let (questions, waiting) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(ask_all(ask, waiting));
        Self { questions }
    }

    /// The answer to one question.
    pub(crate) async fn ask(&self, question: Question) -> Result<Answer, Fault> {
        let (reply, answer) = oneshot::channel();
        self.questions
            .try_send((question, reply))
            .map_err(|_| Fault::new(FaultKind::Busy, "too many questions to the chain wait"))?;
        let dropped = || {
            let what = "a question to the chain was dropped";
            Err(Fault::new(FaultKind::Internal, what))
        };
        answer.await.unwrap_or_else(|_| dropped())
    }
}

async fn ask_all<Question: Send + 'static, Answer: Send + 'static, F>(
    ask: impl Fn(Vec<Question>) -> F,
    mut waiting: mpsc::Receiver<(Question, Reply<Answer>)>,
) where
    F: Future<Output = Vec<Result<Answer, Fault>>> + Send + 'static,
{
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
        // A caller that no longer waits needs no answer.
        batch.retain(|(_, reply)| !reply.is_closed());
        let (questions, replies): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
        let answers = ask(questions);
        tokio::spawn(async move {
            let _slot = slot;
            for (reply, answer) in replies.into_iter().zip(answers.await) {
                let _ = reply.send(answer);
            }
        });
    }
}
