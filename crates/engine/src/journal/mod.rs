//! The journal: what is known of every settlement, written before it is acted upon.
//!
//! Three writes make a settlement, each durable before the next step:
//!
//! 1. a **claim**, before anything is signed: of all who ever claim one authorization, one wins;
//! 2. a **record** of the signed transaction, before it is sent: whatever happens next, it is known what to look for;
//! 3. the **conclusion**, before anybody is told.
//!
//! A fourth, **told**, stands before the answer `success: true`, which is given at most once.
//!
//! A settled payment is watched until its block is final. One that the chain takes back before is **reopened**, and settles
//! again or is **lost**.

mod files;
mod format;
mod sqlite;

use std::ops::Range;

use async_trait::async_trait;
use quittance_core::{
    Amount, Fault, FaultKind, LaneId, PaymentId, Reason, Timestamp, Transaction, TransactionId,
};

pub use sqlite::SqliteJournal;

/// What is written before anything is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The authorization's identity.
    pub id: PaymentId,
    /// The network's CAIP-2 identifier.
    pub network: String,
    /// The scheme's name.
    pub scheme: String,
    /// Who pays.
    pub payer: String,
    /// Who receives.
    pub pay_to: String,
    /// The asset.
    pub asset: String,
    /// How much is to be moved.
    pub amount: Amount,
    /// The first moment at which the authorization can no longer be used.
    pub expires: Timestamp,
    /// The request, as far as a scheme reads it ([`PaymentRequest::kept_text`](quittance_core::PaymentRequest::kept_text)).
    /// From it and `decoded_at` the payment is decoded again after a crash.
    pub request: String,
    /// The time the payment was decoded for.
    pub decoded_at: Timestamp,
}

/// What the journal knows of a settlement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement {
    /// What was claimed.
    pub claim: Claim,
    /// How often it was claimed: 1 for the first time. An authorization may be claimed again when an attempt has ended
    /// without the money moving.
    pub attempt: u32,
    /// How many of its attempts ended with a transaction without effect; see [`FAILURES_MAX`].
    pub failures: u32,
    /// Where it stands.
    pub state: State,
    /// Every transaction ever signed for it and not withdrawn, oldest first, with the attempt it belongs to.
    pub transactions: Vec<(u32, Transaction)>,
    /// Those that were withdrawn. A node refused each of them, and could have been wrong.
    pub withdrawn: Vec<(u32, Transaction)>,
    /// When the current attempt was claimed.
    pub claimed_at: Timestamp,
    /// When the current attempt ended.
    pub concluded_at: Option<Timestamp>,
    /// When somebody was told `success: true`.
    pub success_reported_at: Option<Timestamp>,
    /// When the block of its transaction was found final. From then on it is not watched any more.
    pub final_at: Option<Timestamp>,
}

/// Where a settlement stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Under way.
    Open,
    /// Ended.
    Concluded(Outcome),
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The money moved, in this transaction.
    Settled {
        /// Which one.
        transaction: TransactionId,
        /// How much.
        amount: Amount,
    },
    /// The money did not move and, as far as this attempt is concerned, will not.
    Failed {
        /// The code.
        reason: Reason,
        /// For people.
        detail: String,
        /// The transaction that was included without effect, if it came to that.
        transaction: Option<TransactionId>,
    },
    /// The money had moved and success was reported; then the chain took the transaction back, and it cannot be sent again. The
    /// seller has delivered and is not paid.
    Lost {
        /// Why it cannot be sent again.
        reason: Reason,
        /// For people.
        detail: String,
        /// The transaction to look at.
        transaction: Option<TransactionId>,
    },
    /// Nothing was ever sent, for a reason of ours. The authorization may be claimed again at once.
    Released {
        /// What kept it from being sent.
        fault: String,
    },
}

/// Who has the authorization now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claimed {
    /// The caller, in this attempt.
    Won {
        /// Which attempt.
        attempt: u32,
    },
    /// Somebody before, or nobody any more.
    Taken(Box<Settlement>),
}

/// How often a transaction without effect may end an attempt before its authorization is not tried again. Each costs
/// the operator gas, and whoever gets here three times through a simulation is playing with it.
pub const FAILURES_MAX: u32 = 3;

/// Keeps settlements. Every method that writes returns only when what it wrote survives a crash of the machine.
#[async_trait]
pub trait Journal: Send + Sync + 'static {
    /// What is wrong with the journal now, as a sentence for the operator; `None` while it can be written, as far as is
    /// known. Costs nothing to ask. A journal that failed finds out by itself when it can be written again.
    fn problem(&self) -> Option<String> {
        None
    }

    /// Claims an authorization, if it is free: never claimed, or its last attempt ended as [`Outcome::Released`], or as
    /// [`Outcome::Failed`] fewer than [`FAILURES_MAX`] times with a transaction. Atomic among everyone who shares the
    /// journal.
    async fn claim(&self, claim: &Claim, now: Timestamp) -> Result<Claimed, JournalError>;

    /// Records a signed transaction for the current attempts of those of these settlements that are open. May be repeated;
    /// one that was withdrawn counts again, at the lane and the place of the newest record.
    async fn record(
        &self,
        network: &str,
        transaction: &Transaction,
        settlements: &[PaymentId],
        now: Timestamp,
    ) -> Result<(), JournalError>;

    /// Forgets a recorded transaction that certainly no node has and that nobody will ever send again. Its place in the
    /// lane is free.
    async fn withdraw(&self, transaction: &TransactionId) -> Result<(), JournalError>;

    /// Ends the attempt of an open settlement, and says whether it did: one that is not open, or at another attempt, stays
    /// as it is.
    async fn conclude(
        &self,
        id: &PaymentId,
        attempt: u32,
        outcome: &Outcome,
        now: Timestamp,
    ) -> Result<bool, JournalError>;

    /// Opens a settlement again that has settled in this attempt and is not final, because the chain no longer has its
    /// transaction. Says whether it did. Whether success was reported stays known.
    async fn reopen(&self, id: &PaymentId, attempt: u32) -> Result<bool, JournalError>;

    /// Notes that the blocks of these settlements are final.
    async fn finalize(&self, ids: &[PaymentId], now: Timestamp) -> Result<(), JournalError>;

    /// Asks for the right to say `success: true` for an authorization that has settled in this attempt. Yes once, ever.
    async fn report_success(
        &self,
        id: &PaymentId,
        attempt: u32,
        now: Timestamp,
    ) -> Result<bool, JournalError>;

    /// What is known of a settlement.
    async fn settlement(&self, id: &PaymentId) -> Result<Option<Settlement>, JournalError>;

    /// The settlements a transaction was made for.
    async fn settlements_of(
        &self,
        transaction: &TransactionId,
    ) -> Result<Vec<PaymentId>, JournalError>;

    /// The open settlements of a network, oldest first. What each is like is to be read once it is certain that nobody
    /// else works on it.
    async fn open(&self, network: &str) -> Result<Vec<PaymentId>, JournalError>;

    /// The settlements of a network that have settled and are not final, oldest first.
    async fn not_final(&self, network: &str) -> Result<Vec<PaymentId>, JournalError>;

    /// The transactions recorded for these places in a lane, by place, and for each place oldest first.
    async fn transactions_at(
        &self,
        network: &str,
        lane: &LaneId,
        sequences: Range<u64>,
    ) -> Result<Vec<Transaction>, JournalError>;

    /// One more than the highest place in a lane for which a transaction is recorded; 0 where there is none.
    async fn next_sequence(&self, network: &str, lane: &LaneId) -> Result<u64, JournalError>;
}

/// The journal could not be read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// The whole journal, for the reason given.
    #[error("{0}")]
    Unavailable(String),
    /// One row of it, which says what this program does not understand. All others can be read and written.
    #[error("an entry of the journal cannot be read: {0}")]
    Unreadable(String),
}

impl From<JournalError> for Fault {
    fn from(error: JournalError) -> Self {
        Self::new(FaultKind::JournalUnavailable, error)
    }
}

impl Settlement {
    /// The newest transaction of the current attempt.
    pub fn transaction(&self) -> Option<&Transaction> {
        self.current_transactions().next_back()
    }

    /// The transactions of the current attempt, oldest first.
    pub fn current_transactions(&self) -> impl DoubleEndedIterator<Item = &Transaction> {
        self.transactions
            .iter()
            .filter(|(attempt, _)| *attempt == self.attempt)
            .map(|(_, transaction)| transaction)
    }

    /// Every transaction that was ever signed for it, withdrawn ones included.
    pub fn all_transactions(&self) -> impl Iterator<Item = &Transaction> {
        let all = self.transactions.iter().chain(&self.withdrawn);
        all.map(|(_, transaction)| transaction)
    }

    /// The transaction that a caller should look at: the one that decided, else the newest that was sent.
    pub fn evidence(&self) -> Option<&TransactionId> {
        let newest = || self.transaction().map(|transaction| &transaction.id);
        match &self.state {
            State::Concluded(Outcome::Settled { transaction, .. }) => Some(transaction),
            State::Concluded(
                Outcome::Failed { transaction, .. } | Outcome::Lost { transaction, .. },
            ) => transaction.as_ref().or_else(newest),
            State::Concluded(Outcome::Released { .. }) => None,
            State::Open => newest(),
        }
    }
}
