//! A settlement as the journal stores it.

use std::fmt;
use std::str::FromStr;

use quittance_core::{
    Amount, Fault, PaymentId, PaymentInfo, Reason, Timestamp, Transaction, TransactionId,
};

/// How many attempts may end with a transaction that had no effect. After that, the authorization
/// is not tried again. Each such attempt costs the operator gas, and an authorization that passes
/// the simulation three times and fails each time is probably an attack.
pub const FAILURES_MAX: u32 = 3;

/// The content of a claim. It is written before anything is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Claim {
    /// The authorization's identity.
    pub id: PaymentId,
    /// The network's CAIP-2 identifier.
    pub network: String,
    /// The scheme's name.
    pub scheme: String,
    /// The payer's address, as the chain spells it.
    pub payer: String,
    /// The recipient's address, as the chain spells it.
    pub pay_to: String,
    /// The asset, as the chain spells it.
    pub asset: String,
    /// The amount to transfer, in atomic units.
    pub amount: Amount,
    /// The first moment at which the authorization can no longer be used.
    pub expires: Timestamp,
    /// The parts of the request that a scheme reads
    /// ([`PaymentRequest::kept_text`](quittance_core::PaymentRequest::kept_text)). After a crash,
    /// the engine decodes the payment again from this text and `decoded_at`.
    pub request: String,
    /// The time for which the payment was decoded.
    pub decoded_at: Timestamp,
}

impl Claim {
    /// A claim for the payment that `info` describes. `request` and `decoded_at` are what the
    /// payment was decoded from.
    pub fn new(
        network: &str,
        scheme: &str,
        info: &PaymentInfo,
        request: String,
        decoded_at: Timestamp,
    ) -> Self {
        Self {
            id: info.id,
            network: network.to_owned(),
            scheme: scheme.to_owned(),
            payer: info.payer.clone(),
            pay_to: info.pay_to.clone(),
            asset: info.asset.clone(),
            amount: info.amount,
            expires: info.expires,
            request,
            decoded_at,
        }
    }
}

/// The answer to a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claimed {
    /// The caller has the claim.
    Won {
        /// The number of the attempt, from 1.
        attempt: u32,
    },
    /// Another request holds the claim, or the authorization may not be retried.
    Taken(Box<Settlement>),
}

/// A settlement with everything that was written about it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settlement {
    /// The newest claim.
    pub claim: Claim,
    /// How many times the authorization was claimed: 1 after the first claim. It may be claimed
    /// again after an attempt that ended without a transfer.
    pub attempt: u32,
    /// How many attempts ended with a transaction that had no effect; see [`FAILURES_MAX`].
    pub failures: u32,
    /// Whether the current attempt has ended, and how.
    pub state: State,
    /// The transactions signed for this settlement and not withdrawn, oldest first. Each has the
    /// number of its attempt.
    pub transactions: Vec<(u32, Transaction)>,
    /// The withdrawn transactions. A node refused each of them, and that node may have been wrong.
    pub withdrawn: Vec<(u32, Transaction)>,
    /// When the current attempt was claimed.
    pub claimed_at: Timestamp,
    /// When the current attempt ended.
    pub concluded_at: Option<Timestamp>,
    /// When `success: true` was reported. This stays set if the settlement is opened again.
    pub success_reported_at: Option<Timestamp>,
    /// When the block of its transaction was found final. The engine no longer watches it then.
    pub final_at: Option<Timestamp>,
}

impl Settlement {
    /// The first attempt of a claim, with nothing signed yet.
    pub fn new(claim: Claim, state: State, claimed_at: Timestamp) -> Self {
        Self {
            claim,
            attempt: 1,
            failures: 0,
            state,
            transactions: Vec::new(),
            withdrawn: Vec::new(),
            claimed_at,
            concluded_at: None,
            success_reported_at: None,
            final_at: None,
        }
    }

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

    /// Every transaction that was ever signed for this settlement, withdrawn ones included.
    pub fn all_transactions(&self) -> impl Iterator<Item = &Transaction> {
        let all = self.transactions.iter().chain(&self.withdrawn);
        all.map(|(_, transaction)| transaction)
    }

    /// The transaction that a caller should look up: the deciding one, else the newest one sent.
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

/// Whether the current attempt has ended.
///
/// Callers match every state: a new one must not be handled by a default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// In progress.
    Open,
    /// Ended.
    Concluded(Outcome),
}

impl State {
    /// The state without its data.
    pub fn kind(&self) -> StateKind {
        match self {
            Self::Open => StateKind::Open,
            Self::Concluded(outcome) => outcome.kind(),
        }
    }
}

/// How an attempt ended.
///
/// Callers match every outcome: a new one must not be handled by a default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The money was transferred.
    Settled {
        /// The transaction that transferred it.
        transaction: TransactionId,
        /// The transferred amount, in atomic units.
        amount: Amount,
    },
    /// The money was not transferred, and this attempt will not transfer it.
    Failed {
        /// The reason code.
        reason: Reason,
        /// The explanation for people; may be empty.
        detail: String,
        /// The transaction that was included without effect, if there is one.
        transaction: Option<TransactionId>,
    },
    /// The money was transferred and success was reported. Then the chain took the transaction
    /// back, and it cannot be sent again. The seller has delivered and was not paid.
    Lost {
        /// The reason why it cannot be sent again.
        reason: Reason,
        /// The explanation for people; may be empty.
        detail: String,
        /// The transaction to look up, if there is one.
        transaction: Option<TransactionId>,
    },
    /// Nothing was sent, because of a fault of the facilitator or of its nodes. The authorization
    /// may be claimed again at once.
    Released {
        /// The fault that prevented sending, with its advice on when to retry.
        fault: Fault,
    },
}

impl Outcome {
    /// The outcome without its data.
    pub fn kind(&self) -> StateKind {
        match self {
            Self::Settled { .. } => StateKind::Settled,
            Self::Failed { .. } => StateKind::Failed,
            Self::Released { .. } => StateKind::Released,
            Self::Lost { .. } => StateKind::Lost,
        }
    }
}

/// A state without its data, for filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StateKind {
    /// [`State::Open`].
    Open,
    /// [`Outcome::Settled`].
    Settled,
    /// [`Outcome::Failed`].
    Failed,
    /// [`Outcome::Released`].
    Released,
    /// [`Outcome::Lost`].
    Lost,
}

impl StateKind {
    /// All states.
    pub const ALL: [Self; 5] = [
        Self::Open,
        Self::Settled,
        Self::Failed,
        Self::Released,
        Self::Lost,
    ];

    /// The name in the journal's files and in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Settled => "settled",
            Self::Failed => "failed",
            Self::Released => "released",
            Self::Lost => "lost",
        }
    }
}

impl fmt::Display for StateKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for StateKind {
    type Err = UnknownState;

    fn from_str(name: &str) -> Result<Self, UnknownState> {
        let found = Self::ALL.into_iter().find(|kind| kind.as_str() == name);
        found.ok_or_else(|| UnknownState(name.to_owned()))
    }
}

/// A text is not the name of a state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown state {0:?}: use open, settled, failed, released or lost")]
pub struct UnknownState(pub String);
