//! The errors, by the side at fault: the caller, the payer, or this program and the network.
//!
//! * [`Malformed`]: the caller sent something that is not a request. The caller must change it
//!   before it retries. HTTP 400.
//! * [`Rejection`](crate::Rejection): a verdict. The request was decoded, and the payment in it is
//!   not valid. HTTP 200 with `isValid: false` or `success: false`, and a reason code.
//! * [`Fault`]: the facilitator or the network failed. It is not a verdict on the payment. HTTP
//!   503.
//!
//! A fault is never reported as a verdict: if the RPC call for a payer's balance timed out, the
//! payer may still have the money.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

/// A reason code of the protocol: the `invalidReason` of a
/// [`VerifyResponse`](crate::wire::VerifyResponse), the `errorReason` of a
/// [`SettleResponse`](crate::wire::SettleResponse).
///
/// Schemes define their own codes as constants next to the checks that raise them. The constants
/// here belong to the protocol (specification section 9) and to the engine.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reason(Cow<'static, str>);

impl Reason {
    /// The payload or one of its fields cannot be decoded.
    pub const INVALID_PAYLOAD: Self = Self::new("invalid_payload");
    /// The requirements cannot be decoded, or the payload accepted different ones.
    pub const INVALID_PAYMENT_REQUIREMENTS: Self = Self::new("invalid_payment_requirements");
    /// The facilitator does not serve a network of this name.
    pub const INVALID_NETWORK: Self = Self::new("invalid_network");
    /// The facilitator does not serve a scheme of this name on this network.
    pub const UNSUPPORTED_SCHEME: Self = Self::new("unsupported_scheme");
    /// The protocol version is unknown or missing, or the request has two different ones.
    pub const INVALID_X402_VERSION: Self = Self::new("invalid_x402_version");
    /// Success was already reported for this authorization, or another request with it is in
    /// progress.
    pub const DUPLICATE_SETTLEMENT: Self = Self::new("duplicate_settlement");
    /// The transaction was sent, and its outcome is not known yet. Not a failure. Always has a
    /// transaction id.
    pub const SETTLEMENT_PENDING: Self = Self::new("settlement_pending");
    /// The authorization expired before a transaction was sent, or before one was included.
    pub const SETTLEMENT_EXPIRED: Self = Self::new("settlement_expired");
    /// A transaction from another sender paid the recipient. Always has that transaction's id.
    pub const SETTLED_BY_OTHER_TRANSACTION: Self = Self::new("settled_by_other_transaction");
    /// The chain refused the transaction, or included it without effect.
    pub const INVALID_TRANSACTION_STATE: Self = Self::new("invalid_transaction_state");
    /// The asset is not in the operator's list.
    pub const UNSUPPORTED_ASSET: Self = Self::new("unsupported_asset");
    /// The recipient is not in the operator's list.
    pub const RECIPIENT_NOT_ALLOWED: Self = Self::new("recipient_not_allowed");
    /// The amount is below the operator's minimum.
    pub const AMOUNT_TOO_LOW: Self = Self::new("amount_too_low");

    /// The payment is not a refund of the settlement that the request names.
    pub const INVALID_REFUND: Self = Self::new("invalid_refund");
    /// The facilitator does not have the settlement that the refund names. Another one may have
    /// it.
    pub const UNKNOWN_SETTLEMENT: Self = Self::new("unknown_settlement");
    /// The refund is larger than what is left of the original payment.
    pub const REFUND_EXCEEDS_PAYMENT: Self = Self::new("refund_exceeds_payment");

    /// Too many transactions of this payer, or to this recipient, were included in the last hour
    /// without settling a payment.
    pub const TOO_MANY_FAILURES: Self = Self::new("too_many_failed_settlements");

    /// A code that is a constant of the program.
    pub const fn new(code: &'static str) -> Self {
        Self(Cow::Borrowed(code))
    }

    /// A code from a journal or a remote facilitator.
    pub fn from_code(code: impl Into<String>) -> Self {
        Self(Cow::Owned(code.into()))
    }

    /// The code, as on the wire.
    pub fn code(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Invalid input: wrong JSON, a missing field, a number in place of a string.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Malformed {
    /// The field: a path such as `paymentPayload.payload.authorization.value`, or `body` for the
    /// whole body.
    pub field: String,
    /// What is wrong with the field.
    pub problem: String,
}

impl Malformed {
    /// The error that `field` has this `problem`.
    pub fn new(field: impl Into<String>, problem: impl fmt::Display) -> Self {
        Self {
            field: field.into(),
            problem: problem.to_string(),
        }
    }
}

/// The facilitator or the network failed. Not a verdict on the payment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", kind.code())]
pub struct Fault {
    /// What failed.
    pub kind: FaultKind,
    /// For operators: what happened. Never has a key, a credential, or the path and query of a URL.
    pub detail: String,
    /// How long to wait before a retry with the same request. `None` if a retry cannot succeed
    /// until an operator acts. A retry is always safe: one authorization settles at most once.
    pub retry_after: Option<Duration>,
    /// Whether it is certain that this call did nothing with the payment and never will. Only then
    /// may the caller ask another facilitator to settle it.
    pub not_attempted: bool,
}

impl Fault {
    /// A fault of this kind, with the retry delay of the kind.
    pub fn new(kind: FaultKind, detail: impl fmt::Display) -> Self {
        Self {
            kind,
            detail: detail.to_string(),
            retry_after: kind.retry_after(),
            not_attempted: false,
        }
    }

    /// The same fault, for a call that certainly did nothing with the payment because it was
    /// refused first.
    #[must_use]
    pub fn not_attempted(self) -> Self {
        Self {
            not_attempted: true,
            ..self
        }
    }
}

/// What failed, other than the payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// One of our queues or limits is full.
    Busy,
    /// No node of the chain answers, or the nodes' answers cannot be correct.
    ChainUnavailable,
    /// Every signer lacks the chain's native coin.
    FacilitatorFunds,
    /// The journal cannot be written or read. Nothing is signed without it.
    JournalUnavailable,
    /// Another facilitator behind this one does not answer, or its answer is not a verdict.
    FacilitatorUnreachable,
    /// The payment becomes valid with a block that does not exist yet. That block is expected
    /// within seconds, so this is not a verdict.
    NotYetValid,
    /// The configuration of this service is wrong.
    Misconfigured,
    /// A bug in this program.
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

    /// How long to wait before a retry: as long as such faults usually last.
    const fn retry_after(self) -> Option<Duration> {
        match self {
            Self::Busy => Some(Duration::from_secs(1)),
            // The time between two blocks of most chains.
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
