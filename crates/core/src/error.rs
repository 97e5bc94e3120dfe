//! What can go wrong, told apart by whose fault it is.
//!
//! * [`Malformed`]: the caller sent something that is not a request. Ask again differently. HTTP 400.
//! * [`Rejection`]: a verdict. The request was understood and the payer's side does not hold up. HTTP 200 with
//!   `isValid: false` or `success: false` and a reason code.
//! * [`Fault`]: our side or the network failed; it says nothing about the payment. HTTP 503.
//!
//! A fault is never told as a verdict: a payer whose RPC read timed out is not a payer without money.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

/// A reason code of the protocol: the `invalidReason` of a
/// [`VerifyResponse`](crate::wire::VerifyResponse), the `errorReason` of a
/// [`SettleResponse`](crate::wire::SettleResponse).
///
/// Schemes keep their own codes as constants beside the checks that raise them; the constants here belong to the
/// protocol itself (specification section 9) and to the engine.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reason(Cow<'static, str>);

impl Reason {
    /// The payload or a field of it cannot be read.
    pub const INVALID_PAYLOAD: Self = Self::new("invalid_payload");
    /// The requirements cannot be read, or the payload accepted others.
    pub const INVALID_PAYMENT_REQUIREMENTS: Self = Self::new("invalid_payment_requirements");
    /// No chain of this name is served here.
    pub const INVALID_NETWORK: Self = Self::new("invalid_network");
    /// No scheme of this name is served on this network.
    pub const UNSUPPORTED_SCHEME: Self = Self::new("unsupported_scheme");
    /// The protocol version is unknown, missing, or not the same everywhere in the request.
    pub const INVALID_X402_VERSION: Self = Self::new("invalid_x402_version");
    /// This authorization was already told a success, or belongs to another request that is under way.
    pub const DUPLICATE_SETTLEMENT: Self = Self::new("duplicate_settlement");
    /// Broadcast, and its outcome is not known yet; not a failure. Always comes with a transaction id.
    pub const SETTLEMENT_PENDING: Self = Self::new("settlement_pending");
    /// The authorization ran out before anything was broadcast, or before what was broadcast was included.
    pub const SETTLEMENT_EXPIRED: Self = Self::new("settlement_expired");
    /// The recipient was paid, by a transaction that this facilitator did not send. Always comes with that transaction.
    pub const SETTLED_BY_OTHER_TRANSACTION: Self = Self::new("settled_by_other_transaction");
    /// The chain refused the transaction, or included it without effect.
    pub const INVALID_TRANSACTION_STATE: Self = Self::new("invalid_transaction_state");
    /// The asset is not on the operator's list.
    pub const UNSUPPORTED_ASSET: Self = Self::new("unsupported_asset");
    /// The recipient is not on the operator's list.
    pub const RECIPIENT_NOT_ALLOWED: Self = Self::new("recipient_not_allowed");
    /// The amount is below what the operator settles.
    pub const AMOUNT_TOO_LOW: Self = Self::new("amount_too_low");

    /// Too many transactions of this payer, or for this recipient, were included in the last hour and settled nothing.
    pub const TOO_MANY_FAILURES: Self = Self::new("too_many_failed_settlements");

    /// A code known when the program is written.
    pub const fn new(code: &'static str) -> Self {
        Self(Cow::Borrowed(code))
    }

    /// A code that was read from somewhere: a journal, a remote facilitator.
    pub fn from_code(code: impl Into<String>) -> Self {
        Self(Cow::Owned(code.into()))
    }

    /// The code as it stands on the wire.
    pub fn code(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Input that is not what it should be: wrong JSON, a missing field, a number where a string belongs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Malformed {
    /// Where: a path such as `paymentPayload.payload.authorization.value`, or `body` for the whole.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
}

impl Malformed {
    /// `field` has this `problem`.
    pub fn new(field: impl Into<String>, problem: impl fmt::Display) -> Self {
        Self {
            field: field.into(),
            problem: problem.to_string(),
        }
    }
}

/// A verdict against the payment, with the code the specification or the reference implementation has for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}{}", detail.as_ref().map(|detail| format!(": {detail}")).unwrap_or_default())]
pub struct Rejection {
    /// The code.
    pub reason: Reason,
    /// For people: what was found, never a secret.
    pub detail: Option<String>,
}

impl Rejection {
    /// A rejection with a sentence for people.
    pub fn new(reason: Reason, detail: impl fmt::Display) -> Self {
        Self {
            reason,
            detail: Some(detail.to_string()),
        }
    }
}

impl From<Reason> for Rejection {
    fn from(reason: Reason) -> Self {
        Self {
            reason,
            detail: None,
        }
    }
}

/// Why a request is not a payment: it cannot be read, or it was read and refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The caller's message is at fault.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The payer's side is at fault.
    #[error(transparent)]
    Rejected(#[from] Rejection),
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Self::Rejected(reason.into())
    }
}

/// Our side or the network is at fault. Nothing is said about the payment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", kind.code())]
pub struct Fault {
    /// What failed.
    pub kind: FaultKind,
    /// For operators: what happened. Never holds a key, a credential, or the path and query of a URL.
    pub detail: String,
    /// When it makes sense to ask again with the same request; `None` where asking again cannot help until an
    /// operator acts. Asking again is always safe: the same authorization settles at most once.
    pub retry_after: Option<Duration>,
    /// Certain: this call did nothing with the payment and never will. Only then may another facilitator be asked to settle
    /// it.
    pub not_attempted: bool,
}

impl Fault {
    /// A fault of this kind, with the kind's own advice on when to ask again.
    pub fn new(kind: FaultKind, detail: impl fmt::Display) -> Self {
        Self {
            kind,
            detail: detail.to_string(),
            retry_after: kind.retry_after(),
            not_attempted: false,
        }
    }

    /// The same fault, of a call that certainly did nothing with the payment: it was turned away at the door.
    #[must_use]
    pub fn not_attempted(self) -> Self {
        Self {
            not_attempted: true,
            ..self
        }
    }
}

/// What failed, when it was not the payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// A queue or a limit of ours is full.
    Busy,
    /// No node of the chain answers, or what they answer cannot be right.
    ChainUnavailable,
    /// Every signer is out of the chain's own coin.
    FacilitatorFunds,
    /// The journal cannot be written or read; nothing is signed without it.
    JournalUnavailable,
    /// A facilitator behind this one does not answer, or does not answer with a verdict.
    FacilitatorUnreachable,
    /// The payment's first block is one that does not exist yet. It is expected within seconds, so
    /// this is no verdict.
    NotYetValid,
    /// A mistake in the configuration of this service.
    Misconfigured,
    /// A mistake in this program.
    Internal,
}

impl FaultKind {
    /// All kinds.
    pub const ALL: [Self; 8] = [
        Self::Busy,
        Self::ChainUnavailable,
        Self::FacilitatorFunds,
        Self::JournalUnavailable,
        Self::FacilitatorUnreachable,
        Self::NotYetValid,
        Self::Misconfigured,
        Self::Internal,
    ];

    /// The code for the wire and for metrics.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::ChainUnavailable => "chain_unavailable",
            Self::FacilitatorFunds => "insufficient_facilitator_funds",
            Self::JournalUnavailable => "journal_unavailable",
            Self::FacilitatorUnreachable => "facilitator_unreachable",
            Self::NotYetValid => "not_yet_valid",
            Self::Misconfigured => "misconfigured",
            Self::Internal => "internal_error",
        }
    }

    /// How long to wait before asking again, by how long such faults usually last.
    const fn retry_after(self) -> Option<Duration> {
        match self {
            Self::Busy => Some(Duration::from_secs(1)),
            // A block of most chains.
            Self::NotYetValid => Some(Duration::from_secs(2)),
            Self::ChainUnavailable
            | Self::FacilitatorUnreachable
            | Self::JournalUnavailable
            | Self::Internal => Some(Duration::from_secs(5)),
            Self::FacilitatorFunds => Some(Duration::from_secs(60)),
            Self::Misconfigured => None,
        }
    }
}
