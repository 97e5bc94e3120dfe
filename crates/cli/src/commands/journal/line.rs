//! The lines of an export. `docs/journal.md` describes them.

use std::time::Duration;

use quittance_core::{
    Amount, Fault, FaultKind, LaneId, PaymentId, PaymentInfo, Reason, SchemeReceipt, SchemeState,
    StateId, Timestamp, Transaction, TransactionId,
};
use quittance_engine::{
    Claim, Entry, Outcome, Place, RecordedTransaction, Settlement, SignedRef, State, StateKind,
    StoredState,
};
use serde::{Deserialize, Serialize};

use super::line_text::{HexBytes, Text};

/// The version of the lines. A program refuses a newer one.
pub(super) const VERSION: u32 = 1;

/// One line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Line {
    /// The first line.
    Journal(Head),
    Transaction(TransactionLine),
    Settlement(Box<SettlementLine>),
    State(StateLine),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Head {
    pub(super) version: u32,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TransactionLine {
    id: String,
    network: String,
    signer: String,
    sequence: u64,
    /// Empty after they were pruned.
    bytes: HexBytes,
    signed_at: u64,
    #[serde(default, skip_serializing_if = "is_default")]
    withdrawn: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SettlementLine {
    id: Text<PaymentId>,
    network: String,
    scheme: String,
    payer: String,
    pay_to: String,
    asset: String,
    amount: Amount,
    expires: u64,
    request: String,
    decoded_at: u64,
    attempt: u32,
    failures: u32,
    state: Text<StateKind>,
    claimed_at: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    concluded_at: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    success_reported_at: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reported_to: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    final_at: Option<u64>,
    #[serde(default, skip_serializing_if = "is_default")]
    end: End,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    caller: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    state_record: Option<PlaceField>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refund_of: Option<Text<PaymentId>>,
    #[serde(default, skip_serializing_if = "is_default")]
    retries_without_limit: bool,
    transactions: Vec<SignedField>,
}

/// How the attempt ended; the fields of its state.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct End {
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    amount: Option<Amount>,
    #[serde(skip_serializing_if = "Option::is_none")]
    receipt: Option<SchemeReceipt>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlaceField {
    id: Text<StateId>,
    revision: u64,
    exclusive: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SignedField {
    id: String,
    attempt: u32,
    #[serde(default, skip_serializing_if = "is_default")]
    step: u8,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StateLine {
    id: Text<StateId>,
    network: String,
    scheme: String,
    revision: u64,
    state: HexBytes,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    due: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exclusive: Option<Text<PaymentId>>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl From<RecordedTransaction> for Line {
    fn from(recorded: RecordedTransaction) -> Self {
        let transaction = recorded.transaction;
        Self::Transaction(TransactionLine {
            id: transaction.id.as_str().to_owned(),
            network: recorded.network,
            signer: transaction.lane.address().to_owned(),
            sequence: transaction.sequence,
            bytes: HexBytes(transaction.bytes.to_vec()),
            signed_at: recorded.signed_at.secs(),
            withdrawn: recorded.is_withdrawn,
        })
    }
}

impl From<&Settlement> for Line {
    fn from(settlement: &Settlement) -> Self {
        let claim = &settlement.claim;
        let secs = |time: Option<Timestamp>| time.map(Timestamp::secs);
        let place = claim.access.as_ref().map(|place| PlaceField {
            id: Text(place.state),
            revision: place.revision,
            exclusive: place.exclusive,
        });
        let signed = settlement.all_signed().map(|signed| SignedField {
            id: signed.transaction.id.as_str().to_owned(),
            attempt: signed.attempt,
            step: signed.step,
        });
        Self::Settlement(Box::new(SettlementLine {
            id: Text(claim.id),
            network: claim.network.clone(),
            scheme: claim.scheme.clone(),
            payer: claim.payer.clone(),
            pay_to: claim.pay_to.clone(),
            asset: claim.asset.clone(),
            amount: claim.amount,
            expires: claim.expires.secs(),
            request: claim.request.clone(),
            decoded_at: claim.decoded_at.secs(),
            attempt: settlement.attempt,
            failures: settlement.failures,
            state: Text(settlement.state.kind()),
            claimed_at: settlement.claimed_at.secs(),
            concluded_at: secs(settlement.concluded_at),
            success_reported_at: secs(settlement.success_reported_at),
            reported_to: settlement.reported_to.clone(),
            final_at: secs(settlement.final_at),
            end: End::from(&settlement.state),
            caller: claim.caller.clone(),
            state_record: place,
            refund_of: claim.refund_of.map(Text),
            retries_without_limit: claim.retries_without_limit,
            transactions: signed.collect(),
        }))
    }
}

impl From<&State> for End {
    fn from(state: &State) -> Self {
        let id = |transaction: &Option<TransactionId>| {
            transaction.as_ref().map(|id| id.as_str().to_owned())
        };
        match state {
            State::Open => Self::default(),
            State::Concluded(Outcome::Settled {
                transaction,
                amount,
                receipt,
            }) => Self {
                transaction: id(transaction),
                amount: Some(*amount),
                receipt: (!receipt.is_empty()).then(|| receipt.clone()),
                ..Self::default()
            },
            State::Concluded(
                Outcome::Failed {
                    reason,
                    detail,
                    transaction,
                }
                | Outcome::Lost {
                    reason,
                    detail,
                    transaction,
                },
            ) => Self {
                transaction: id(transaction),
                reason: Some(reason.code().to_owned()),
                detail: Some(detail.clone()),
                ..Self::default()
            },
            State::Concluded(Outcome::Released { fault }) => Self {
                fault: Some(fault.kind.code().to_owned()),
                detail: Some(fault.detail.clone()),
                retry_after: fault.retry_after.map(|wait| wait.as_secs()),
                ..Self::default()
            },
        }
    }
}

impl From<StoredState> for Line {
    fn from(stored: StoredState) -> Self {
        let record = stored.record;
        Self::State(StateLine {
            id: Text(record.id),
            network: record.network,
            scheme: record.scheme,
            revision: record.revision,
            state: HexBytes(record.state),
            due: record.due.map(Timestamp::secs),
            exclusive: stored.exclusive.map(Text),
        })
    }
}

/// Why a line is not an entry.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum LineError {
    #[error("the first line must be the only one with the field journal")]
    Head,
    #[error("unknown fault {0:?}")]
    Fault(String),
    #[error("{state} settlements need the field {field} in `end`")]
    Missing {
        state: StateKind,
        field: &'static str,
    },
}

impl TryFrom<Line> for Entry {
    type Error = LineError;

    fn try_from(line: Line) -> Result<Self, LineError> {
        Ok(match line {
            Line::Journal(_) => return Err(LineError::Head),
            Line::Transaction(line) => Self::Transaction(line.into()),
            Line::Settlement(line) => {
                let signed = line.transactions.iter().map(|signed| SignedRef {
                    transaction: TransactionId::new(&signed.id),
                    attempt: signed.attempt,
                    step: signed.step,
                });
                Self::Settlement {
                    signed: signed.collect(),
                    settlement: Box::new((*line).try_into()?),
                }
            }
            Line::State(line) => Self::State(line.into()),
        })
    }
}

impl From<TransactionLine> for RecordedTransaction {
    fn from(line: TransactionLine) -> Self {
        Self {
            network: line.network,
            transaction: Transaction {
                id: TransactionId::new(&line.id),
                lane: LaneId::new(&line.signer),
                sequence: line.sequence,
                bytes: line.bytes.0.into(),
            },
            signed_at: Timestamp::from_secs(line.signed_at),
            is_withdrawn: line.withdrawn,
        }
    }
}

impl TryFrom<SettlementLine> for Settlement {
    type Error = LineError;

    fn try_from(line: SettlementLine) -> Result<Self, LineError> {
        let state = line.end.into_state(line.state.0)?;
        let info = PaymentInfo {
            id: line.id.0,
            payer: line.payer,
            pay_to: line.pay_to,
            asset: line.asset,
            amount: line.amount,
            expires: Timestamp::from_secs(line.expires),
        };
        let decoded_at = Timestamp::from_secs(line.decoded_at);
        let mut claim = Claim::new(&line.network, &line.scheme, &info, line.request, decoded_at);
        claim.caller = line.caller;
        claim.access = line.state_record.map(|place| Place {
            state: place.id.0,
            revision: place.revision,
            exclusive: place.exclusive,
        });
        claim.refund_of = line.refund_of.map(|id| id.0);
        claim.retries_without_limit = line.retries_without_limit;
        let time = |secs: Option<u64>| secs.map(Timestamp::from_secs);
        let mut settlement = Self::new(claim, state, Timestamp::from_secs(line.claimed_at));
        settlement.attempt = line.attempt;
        settlement.failures = line.failures;
        settlement.concluded_at = time(line.concluded_at);
        settlement.success_reported_at = time(line.success_reported_at);
        settlement.reported_to = line.reported_to;
        settlement.final_at = time(line.final_at);
        Ok(settlement)
    }
}

impl End {
    fn into_state(self, state: StateKind) -> Result<State, LineError> {
        let missing = |field| LineError::Missing { state, field };
        let transaction = self.transaction.as_deref().map(TransactionId::new);
        let detail = self.detail.unwrap_or_default();
        let reason = self.reason.map(Reason::from_code);
        let reason = reason.ok_or_else(|| missing("reason"));
        Ok(match state {
            StateKind::Open => State::Open,
            StateKind::Settled => State::Concluded(Outcome::Settled {
                transaction,
                amount: self.amount.ok_or_else(|| missing("amount"))?,
                receipt: self.receipt.unwrap_or_default(),
            }),
            StateKind::Failed => State::Concluded(Outcome::Failed {
                reason: reason?,
                detail,
                transaction,
            }),
            StateKind::Lost => State::Concluded(Outcome::Lost {
                reason: reason?,
                detail,
                transaction,
            }),
            _ => {
                let code = self.fault.ok_or_else(|| missing("fault"))?;
                let kind = FaultKind::ALL.into_iter().find(|kind| kind.code() == code);
                let kind = kind.ok_or(LineError::Fault(code))?;
                let fault = Fault {
                    retry_after: self.retry_after.map(Duration::from_secs),
                    ..Fault::new(kind, detail)
                };
                State::Concluded(Outcome::Released { fault })
            }
        })
    }
}

impl From<StateLine> for StoredState {
    fn from(line: StateLine) -> Self {
        Self {
            record: SchemeState {
                id: line.id.0,
                network: line.network,
                scheme: line.scheme,
                revision: line.revision,
                state: line.state.0,
                due: line.due.map(Timestamp::from_secs),
            },
            exclusive: line.exclusive.map(|id| id.0),
        }
    }
}
