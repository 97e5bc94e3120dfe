//! A settlement as the journal stores it.

use std::fmt;
use std::str::FromStr;

use quittance_core::{
    Amount, Fault, PaymentId, PaymentInfo, Reason, SchemeReceipt, StateId, Timestamp, Transaction,
    TransactionId,
};

use crate::replica::ReplicaId;

/// How many attempts may end with a transaction that had no effect. After that, the authorization
/// is not tried again. Each such attempt costs the operator gas, and an authorization that passes
/// the simulation three times and fails each time is probably an attack.
///
/// It does not apply to a claim that
/// [retries without limit](Claim::retries_without_limit).
pub const FAILURES_MAX: u32 = 3;

/// The pause after the first failure of a claim that
/// [retries without limit](Claim::retries_without_limit), in seconds. Each later failure doubles
/// it. A block of most chains passes in this time, so the next attempt sees another state of it.
pub const RETRY_PAUSE: u64 = 10;

/// The longest pause between two such attempts, in seconds. A token that is paused for a day then
/// costs the gas of some thirty failures.
pub const RETRY_PAUSE_MAX: u64 = 3600;

/// How long success is reported again to the caller with the same key, in seconds. A seller that
/// lost the answer asks again after its restart, which takes minutes and rarely hours.
pub const REPORTED_AGAIN_FOR: u64 = 24 * 3600;

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
    /// The caller: the name of its key, never the key. `None` if any caller may ask.
    pub caller: Option<String>,
    /// The state record that the payment uses, if its scheme keeps state.
    pub access: Option<Place>,
    /// The settlement that this payment refunds.
    pub refund_of: Option<PaymentId>,
    /// Whether a caller may retry without limit: success is reported to every repeat, and failures
    /// never end the authorization. They only make the next claim wait longer. For payments whose
    /// success [releases nothing](quittance_core::Payment::releases_nothing).
    pub retries_without_limit: bool,
    /// Whether a transaction of an earlier attempt has moved the money, or still may. Such a claim
    /// begins nothing: the conditions of refunds and of exclusive access do not apply. Not stored.
    pub is_unfinished: bool,
}

/// A payment's access to a state record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The state record.
    pub state: StateId,
    /// The revision that the payment was judged by; 0 for a record that does not exist. An
    /// exclusive claim is won only if the record still has it.
    pub revision: u64,
    /// Whether the settlement has the record for itself from its claim to its conclusion. Meanwhile
    /// no other exclusive claim is won, and
    /// [`write_state`](quittance_core::StateStore::write_state) writes nothing. Other settlements
    /// may still be concluded with the record's next content.
    pub exclusive: bool,
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
            caller: None,
            access: None,
            refund_of: None,
            retries_without_limit: false,
            is_unfinished: false,
        }
    }

    /// As asked by this caller: the name of its key, never the key.
    #[must_use]
    pub fn caller(mut self, caller: impl Into<String>) -> Self {
        self.caller = Some(caller.into());
        self
    }

    /// With access to a state record.
    #[must_use]
    pub fn access(mut self, place: Place) -> Self {
        self.access = Some(place);
        self
    }

    /// As a refund of an earlier settlement.
    #[must_use]
    pub fn refund_of(mut self, original: PaymentId) -> Self {
        self.refund_of = Some(original);
        self
    }

    /// For a payment that an earlier attempt has settled, or still may.
    #[must_use]
    pub fn unfinished(mut self) -> Self {
        self.is_unfinished = true;
        self
    }

    /// Without a limit to the number of retries.
    #[must_use]
    pub fn retries_without_limit(mut self) -> Self {
        self.retries_without_limit = true;
        self
    }

    /// The state record that the settlement has for itself while it is open.
    pub(crate) fn exclusive(&self) -> Option<&Place> {
        self.access.as_ref().filter(|place| place.exclusive)
    }

    /// The amount that settled, if this claim is a payment in the other direction.
    pub(crate) fn refundable(
        &self,
        original: Option<&Settlement>,
    ) -> Result<Amount, RefundProblem> {
        let original = original.ok_or(RefundProblem::Unknown)?;
        let State::Concluded(Outcome::Settled { amount, .. }) = &original.state else {
            return Err(RefundProblem::NotSettled);
        };
        let paid = &original.claim;
        match () {
            () if paid.refund_of.is_some() => Err(RefundProblem::IsRefund),
            () if paid.network != self.network => Err(RefundProblem::Network),
            () if paid.asset != self.asset => Err(RefundProblem::Asset),
            () if original.is_pruned() => Err(RefundProblem::Pruned),
            () if paid.pay_to != self.payer => Err(RefundProblem::Payer),
            () if paid.payer != self.pay_to => Err(RefundProblem::PayTo),
            () => Ok(*amount),
        }
    }
}

/// The answer to a claim. Every answer but [`Won`](Self::Won) has changed nothing.
///
/// Callers match every answer: a new one must not be handled by a default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claimed {
    /// The caller has the claim.
    Won {
        /// The number of the attempt, from 1.
        attempt: u32,
    },
    /// Another request holds the claim, or the authorization may not be retried.
    Taken(Box<Settlement>),
    /// The state record no longer has the revision of the claim's [`Place`]. Judge the payment by
    /// the newest one, and claim again.
    StateMoved,
    /// This open settlement has the state record for itself.
    StateTaken(PaymentId),
    /// The refund is larger than what is left of the original payment.
    RefundsExceed {
        /// What settled, less all open and settled refunds of it, in atomic units.
        left: Amount,
    },
    /// The claim is not a refund of the settlement that it names.
    NotRefundable(RefundProblem),
    /// The last attempt failed a short time ago, and the claim
    /// [retries without limit](Claim::retries_without_limit).
    TooSoon {
        /// When the next attempt can be claimed.
        until: Timestamp,
    },
}

/// Why a claim is not a refund of the settlement that it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RefundProblem {
    /// The journal has no such settlement.
    #[error("the journal has no settlement with this id")]
    Unknown,
    /// The original payment has not settled, or the chain took it back.
    #[error("the original payment has not settled")]
    NotSettled,
    /// The original payment is a refund itself.
    #[error("the original payment is a refund itself")]
    IsRefund,
    /// The parties of the original payment were [pruned](crate::Journal::prune).
    #[error("the original payment is too old: its payer and its recipient were removed")]
    Pruned,
    /// The refund is on another network.
    #[error("the original payment is on another network")]
    Network,
    /// The refund is in another asset.
    #[error("the original payment is in another asset")]
    Asset,
    /// The original payment's recipient does not pay the refund.
    #[error("a refund must be paid by the recipient of the original payment")]
    Payer,
    /// The original payment's payer does not receive the refund.
    #[error("a refund must be paid to the payer of the original payment")]
    PayTo,
}

/// The answer to a conclusion.
///
/// Callers match every answer: a new one must not be handled by a default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The outcome is written.
    Yes,
    /// The settlement is not open, or is at another attempt. Nothing has changed.
    No,
    /// The state record has another revision now. Nothing has changed: compute the record's content
    /// again from the newest one, and conclude again.
    StateMoved,
}

/// The answer to a request to report success.
///
/// Callers match every answer: a new one must not be handled by a default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reported {
    /// Success is reported for the first time.
    First,
    /// Success was reported to the same sale before. It may be reported to it again.
    Again,
    /// Success must not be reported to this caller.
    No,
}

/// A settlement that a transaction was signed for, and which step of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SettlementStep {
    /// The settlement.
    pub settlement: PaymentId,
    /// The step: 0 for the action that settles, other numbers for what must be on the chain before.
    pub step: u8,
}

impl SettlementStep {
    /// The action that settles.
    pub const fn settling(settlement: PaymentId) -> Self {
        Self {
            settlement,
            step: 0,
        }
    }
}

/// A transaction that was signed for a settlement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedFor {
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// The step: 0 for the action that settles.
    pub step: u8,
    /// The transaction.
    pub transaction: Transaction,
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
    /// The transactions signed for this settlement and not withdrawn, oldest first.
    pub transactions: Vec<SignedFor>,
    /// The withdrawn transactions. A node refused each of them, and that node may have been wrong.
    pub withdrawn: Vec<SignedFor>,
    /// When the current attempt was claimed.
    pub claimed_at: Timestamp,
    /// When the current attempt ended.
    pub concluded_at: Option<Timestamp>,
    /// When `success: true` was reported. This stays set if the settlement is opened again.
    pub success_reported_at: Option<Timestamp>,
    /// The key of the caller that success was reported to, if it sent one.
    pub reported_to: Option<String>,
    /// When the block of its transaction was found final. The engine no longer watches it then.
    pub final_at: Option<Timestamp>,
    /// The replica that works on it; `None` once it has ended, or if it was handed over.
    pub owner: Option<ReplicaId>,
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
            reported_to: None,
            final_at: None,
            owner: None,
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
            .filter(|signed| signed.attempt == self.attempt)
            .map(|signed| &signed.transaction)
    }

    /// Every transaction that was ever signed for this settlement, withdrawn ones included.
    pub fn all_transactions(&self) -> impl Iterator<Item = &Transaction> {
        self.all_signed().map(|signed| &signed.transaction)
    }

    /// As [`all_transactions`](Self::all_transactions), with the attempt and the step of each.
    pub fn all_signed(&self) -> impl Iterator<Item = &SignedFor> {
        self.transactions.iter().chain(&self.withdrawn)
    }

    /// Whether a transaction was ever signed for one of its steps.
    pub fn has_steps(&self) -> bool {
        self.all_signed().any(|signed| signed.step > 0)
    }

    /// The transaction that a caller should look up: the deciding one, else the newest one sent.
    pub fn evidence(&self) -> Option<&TransactionId> {
        let newest = || self.transaction().map(|transaction| &transaction.id);
        match &self.state {
            State::Concluded(Outcome::Settled { transaction, .. }) => transaction.as_ref(),
            State::Concluded(
                Outcome::Failed { transaction, .. } | Outcome::Lost { transaction, .. },
            ) => transaction.as_ref().or_else(newest),
            State::Concluded(Outcome::Released { .. }) => None,
            State::Open => newest(),
        }
    }

    /// Whether success that was reported before may be reported again, to the caller with this key:
    /// the key must be the same, and the first report at most a day
    /// ([`REPORTED_AGAIN_FOR`]) ago. Always if the claim retries without limit.
    pub fn reports_again(&self, key: Option<&str>, now: Timestamp) -> bool {
        let is_settled = matches!(self.state, State::Concluded(Outcome::Settled { .. }));
        let is_same = key.is_some() && self.reported_to.as_deref() == key;
        let is_recent = self
            .success_reported_at
            .is_some_and(|at| now < at.plus_secs(REPORTED_AGAIN_FOR));
        is_settled && (self.claim.retries_without_limit || is_same && is_recent)
    }

    /// When the authorization can be claimed again, by a claim that retries without limit or does
    /// not. `None` if it never can; 1970 if it can at once, also because the clock was set back
    /// since the last attempt: its time says nothing then.
    pub fn claimable_from(&self, retries_without_limit: bool, now: Timestamp) -> Option<Timestamp> {
        let at_once = Timestamp::default();
        let ended = self.concluded_at.unwrap_or(self.claimed_at);
        let after_pause = match ended > now {
            true => at_once,
            false => ended.plus_secs(retry_pause(self.failures)),
        };
        let without_limit = retries_without_limit;
        match &self.state {
            State::Open | State::Concluded(Outcome::Settled { .. }) => None,
            State::Concluded(Outcome::Lost { .. }) => {
                (without_limit && self.claim.retries_without_limit).then_some(after_pause)
            }
            State::Concluded(Outcome::Failed {
                transaction: Some(_),
                ..
            }) if without_limit => Some(after_pause),
            State::Concluded(Outcome::Failed { .. } | Outcome::Released { .. }) => {
                (without_limit || self.failures < FAILURES_MAX).then_some(at_once)
            }
        }
    }
}

/// The pause after this many failures, in seconds.
fn retry_pause(failures: u32) -> u64 {
    let doubled = 1_u64.checked_shl(failures.saturating_sub(1));
    let pause = doubled.and_then(|times| RETRY_PAUSE.checked_mul(times));
    pause.unwrap_or(RETRY_PAUSE_MAX).min(RETRY_PAUSE_MAX)
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
        /// The transaction that transferred it. `None` if nothing had to be sent: the settlement is
        /// then final at once.
        transaction: Option<TransactionId>,
        /// The transferred amount, in atomic units.
        amount: Amount,
        /// What the answer says in the scheme's own way.
        receipt: SchemeReceipt,
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The pauses that operators and sellers see.
    #[test]
    fn the_pause_doubles_from_ten_seconds_to_an_hour() {
        let pauses: Vec<u64> = (1..=11).map(retry_pause).collect();
        let expected = [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600];
        assert_eq!(pauses, expected);
        for failures in [64, 65, 1000, u32::MAX] {
            assert_eq!(retry_pause(failures), 3600);
        }
    }
}
