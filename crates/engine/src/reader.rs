//! Batches the questions of many payments into few round trips.
//!
//! If no batch is in progress, a question is sent at once. While batches are in progress, further
//! questions wait and form the next batch. So batches grow under load, and no question waits for a
//! timer.

use std::sync::Arc;

use quittance_core::{Chain, Fault, FaultKind, Status, Watched};
use tokio::sync::{Semaphore, mpsc, oneshot};

/// How many questions may wait. Further callers are asked to retry: at a thousand questions a round
/// trip, this many take seconds.
const QUEUE_MAX: usize = 4096;

/// How many questions one batch has at most. The chain splits it further as its nodes need.
const BATCH_MAX: usize = 256;

/// How many batches are in progress at once. Two would keep a node busy; four also hide a slow
/// node.
const IN_FLIGHT_MAX: usize = 4;

/// Collects questions and asks them in batches.
pub(crate) struct Batches<Question, Answer> {
    questions: mpsc::Sender<(Question, Reply<Answer>)>,
}

type Reply<Answer> = oneshot::Sender<Result<Answer, Fault>>;

/// Questions about a chain's state.
pub(crate) type Reads<C> = Batches<<C as Chain>::Read, <C as Chain>::Answer>;

/// Questions about the transactions of one sequence number.
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
        self.questions.try_send((question, reply)).map_err(|_| {
            Fault::new(
                FaultKind::Busy,
                "too many questions to the chain are queued: retry",
            )
        })?;
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
        // First a free slot, then the questions: those that arrive meanwhile join the batch.
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        let mut batch = Vec::new();
        if waiting.recv_many(&mut batch, BATCH_MAX).await == 0 {
            return;
        }
        // A caller that has disconnected needs no answer.
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
