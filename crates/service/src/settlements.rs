//! `GET /settlements/{id}` and `GET /settlements?transaction=...`.

#![allow(
    unused_qualifications,
    reason = "the code that utoipa generates has them"
)]

use axum::Json;
use axum::extract::State as AxumState;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query};
use quittance_core::{PaymentId, TransactionId};
use quittance_engine::{Outcome, Settlement, State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::error::ErrorResponse;
use crate::openapi::{LookupErrors, NotFound, QueryErrors};
use crate::router::Service;

/// The message for a settlement that the facilitator gave back.
const RELEASED: &str =
    "the facilitator sent nothing, for a reason of its own; the payment can be settled again";

/// The state of a settlement.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = Settlement)]
pub(crate) struct SettlementBody {
    /// The id of the settlement.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    id: String,
    state: StateName,
    /// The CAIP-2 identifier of the network.
    network: String,
    /// The payment scheme.
    scheme: String,
    /// The payer's address.
    payer: String,
    /// The recipient's address.
    pay_to: String,
    /// The token.
    asset: String,
    /// The amount in atomic units of the token.
    #[schema(pattern = "^(0|[1-9][0-9]{0,77})$")]
    amount: String,
    /// The transaction that decided the settlement, or the newest one.
    #[schema(required)]
    transaction: Option<String>,
    /// Every transaction that was signed for the settlement and may have been sent.
    transactions: Vec<String>,
    /// The reason code of a failed or lost settlement.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    reason: Option<String>,
    /// More about the state, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    message: Option<String>,
    /// What can still be refunded, in atomic units: what settled, less all open and settled
    /// refunds. Only in the answer of one settlement, and only if it has settled and is not a
    /// refund itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, pattern = "^(0|[1-9][0-9]{0,77})$")]
    refundable: Option<String>,
    /// What the answer to /settle said in `extra`, in the words of the scheme: the balances of a
    /// hold, for example. Only if it has settled.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Object)]
    extra: Option<quittance_core::json::Object>,
    /// How many times the settlement was started.
    attempt: u32,
    /// When it was started, in seconds since 1970.
    claimed_at: u64,
    /// When the authorization expires, in seconds since 1970.
    expires: u64,
    /// Whether an answer with `success: true` was given for it.
    success_reported: bool,
    /// Whether the block of a settled payment counts as final. It is then no longer watched.
    #[serde(rename = "final")]
    is_final: bool,
}

/// The state of a settlement. `pending`: in progress, or removed from the chain and being sent
/// again. `settled`: the money was transferred. `failed`: it was not; the reason says why.
/// `released`: the facilitator sent nothing, for a reason of its own. `lost`: success was reported,
/// the chain removed the payment, and it cannot be settled again; the reason says why.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = SettlementState)]
enum StateName {
    Pending,
    Settled,
    Failed,
    Released,
    Lost,
}

/// The settlements of a transaction.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Settlements)]
pub(crate) struct SettlementsBody {
    /// The settlements that the transaction was signed for.
    settlements: Vec<SettlementBody>,
}

impl From<Settlement> for SettlementBody {
    fn from(settlement: Settlement) -> Self {
        let transaction = settlement.evidence().map(ToString::to_string);
        let (state, reason, message) = match &settlement.state {
            State::Open => (StateName::Pending, None, None),
            State::Concluded(Outcome::Settled { .. }) => (StateName::Settled, None, None),
            State::Concluded(Outcome::Failed { reason, detail, .. }) => {
                let (reason, detail) = (reason.to_string(), detail.clone());
                (StateName::Failed, Some(reason), Some(detail))
            }
            State::Concluded(Outcome::Lost { reason, detail, .. }) => {
                let (reason, detail) = (reason.to_string(), detail.clone());
                (StateName::Lost, Some(reason), Some(detail))
            }
            // The fault may name nodes and signers. The log and the journal have it.
            State::Concluded(Outcome::Released { .. }) => {
                (StateName::Released, None, Some(RELEASED.to_owned()))
            }
        };
        let extra = match &settlement.state {
            State::Concluded(Outcome::Settled { receipt, .. }) => receipt.extra.clone(),
            _ => None,
        };
        let transactions = settlement.transactions.iter();
        let transactions = transactions
            .map(|signed| signed.transaction.id.to_string())
            .collect();
        let claim = settlement.claim;
        Self {
            id: claim.id.to_string(),
            state,
            network: claim.network,
            scheme: claim.scheme,
            payer: claim.payer,
            pay_to: claim.pay_to,
            asset: claim.asset,
            amount: claim.amount.to_string(),
            transaction,
            transactions,
            reason,
            message,
            refundable: None,
            extra,
            attempt: settlement.attempt,
            claimed_at: settlement.claimed_at.secs(),
            expires: claim.expires.secs(),
            success_reported: settlement.success_reported_at.is_some(),
            is_final: settlement.final_at.is_some(),
        }
    }
}

/// The state of a settlement, at any time.
#[utoipa::path(
    get,
    path = "/settlements/{id}",
    security((), ("key" = [])),
    params(("id" = String, Path, description = "The id of the settlement.")),
    responses(
        (status = 200, description = "The settlement.", body = SettlementBody),
        NotFound,
        LookupErrors,
    ),
)]
pub(crate) async fn by_id(
    AxumState(service): AxumState<Service>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<SettlementBody>, ErrorResponse> {
    let id: PaymentId = id
        .ok()
        .and_then(|Path(id)| id.parse().ok())
        .ok_or_else(|| {
            ErrorResponse::not_found(
                "the path has no settlement id; to search by transaction, use /settlements?transaction=...",
            )
        })?;
    let found = service.engine.settlement(&id).await?;
    let found = found.ok_or_else(|| ErrorResponse::not_found("there is no such settlement"))?;
    let refundable = service.engine.refundable(&found).await?;
    let mut body = SettlementBody::from(found);
    body.refundable = refundable.map(|amount| amount.to_string());
    Ok(Json(body))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct SettlementsQuery {
    /// The id of a transaction.
    transaction: String,
}

/// The settlements that a transaction was signed for.
#[utoipa::path(
    get,
    path = "/settlements",
    security((), ("key" = [])),
    params(SettlementsQuery),
    responses(
        (status = 200, description = "The settlements.", body = SettlementsBody),
        QueryErrors,
        LookupErrors,
    ),
)]
pub(crate) async fn by_transaction(
    AxumState(service): AxumState<Service>,
    query: Result<Query<SettlementsQuery>, QueryRejection>,
) -> Result<Json<SettlementsBody>, ErrorResponse> {
    let named = query
        .ok()
        .filter(|Query(query)| !query.transaction.is_empty());
    let Query(query) = named.ok_or_else(|| {
        let message = "the query names no transaction: use /settlements?transaction=...";
        ErrorResponse::bad_request("transaction", message)
    })?;
    let transaction = TransactionId::new(&query.transaction);
    let found = service.engine.settlements_of(&transaction).await?;
    let settlements = found.into_iter().map(Into::into).collect();
    Ok(Json(SettlementsBody { settlements }))
}

#[cfg(test)]
mod tests {
    use quittance_core::{Amount, Fault, FaultKind, PaymentInfo, Timestamp};
    use quittance_engine::Claim;

    use super::*;

    /// The answer contained the fault, which may name nodes and signers.
    #[test]
    fn the_fault_of_a_released_settlement_stays_private() {
        let info = PaymentInfo {
            id: "0".repeat(64).parse().unwrap(),
            payer: String::new(),
            pay_to: String::new(),
            asset: String::new(),
            amount: Amount::default(),
            expires: Timestamp::from_secs(2),
        };
        let now = Timestamp::from_secs(1);
        let claim = Claim::new("eip155:1", "exact", &info, String::new(), now);
        let detail = "the node at 10.0.0.7 gives nothing to signer 0xab";
        let fault = Fault::new(FaultKind::ChainUnavailable, detail);
        let released = State::Concluded(Outcome::Released { fault });
        let body = SettlementBody::from(Settlement::new(claim, released, now));
        let text = serde_json::to_string(&body).unwrap();
        assert!(text.contains("\"released\"") && text.contains("can be settled again"));
        assert!(
            !text.contains("10.0.0.7") && !text.contains("0xab"),
            "{text}"
        );
    }
}
