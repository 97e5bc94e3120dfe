//! What the seller signs and asks for itself: claims, transfers of what is claimed, and refunds.

use alloy::primitives::{Address, B256, Bytes};
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use quittance_core::json::Object;
use quittance_core::wire::{PaymentPayload, PaymentRequirements};
use quittance_core::{Amount, Fault, FaultKind, Malformed, PaymentRequest, Refusal};
use serde_json::{Map, Value, json};

use super::super::NAME;
use super::super::book::{ChannelBook, SignedRefund};
use super::super::voucher::{ClaimRow, claim_digest, refund_digest};

/// The seller's authority over its channels on one network.
pub(super) struct Authority {
    signer: PrivateKeySigner,
    network: String,
    /// The separator of the EIP-712 domain of the contract of channels.
    pub(super) separator: B256,
}

impl Authority {
    pub(super) fn new(signer: PrivateKeySigner, network: &str, separator: B256) -> Self {
        Self {
            signer,
            network: network.to_owned(),
            separator,
        }
    }

    /// The account that channels name.
    pub(super) fn address(&self) -> Address {
        self.signer.address()
    }

    fn sign(&self, digest: &B256) -> Result<Bytes, Fault> {
        let signature = self.signer.sign_hash_sync(digest);
        let signature = signature.map_err(|error| Fault::new(FaultKind::Internal, error))?;
        Ok(signature.as_bytes().to_vec().into())
    }

    /// The request to claim these rows, which all have one receiver and one token.
    ///
    /// # Errors
    /// [`Malformed`] if there are too many rows for one request.
    pub(super) fn claim(&self, rows: &[ClaimRow]) -> Result<PaymentRequest, ActError> {
        let signature = self.sign(&claim_digest(&self.separator, rows))?;
        let payload = json!({
            "type": "claim", "claims": rows, "claimAuthorizerSignature": signature,
        });
        let Some(ClaimRow { config, .. }) = rows.first() else {
            return Err(Malformed::new("claims", "empty").into());
        };
        self.request(config.receiver, config.token, &payload)
    }

    /// The request to pay a receiver what it has claimed.
    ///
    /// # Errors
    /// Never: it is short.
    pub(super) fn sweep(
        &self,
        receiver: Address,
        token: Address,
    ) -> Result<PaymentRequest, ActError> {
        let payload = json!({
            "type": "settle",
            "receiver": receiver.to_checksum(None),
            "token": token.to_checksum(None),
        });
        self.request(receiver, token, &payload)
    }

    /// A payer's request for a refund, completed: with a last claim of what is charged.
    ///
    /// # Errors
    /// [`Malformed`] if the request would be too long.
    pub(super) fn refund(
        &self,
        request: &PaymentRequest,
        book: &ChannelBook,
        refund: SignedRefund,
    ) -> Result<PaymentRequest, ActError> {
        let id = book.config.id(&self.separator);
        let SignedRefund { nonce, amount } = refund;
        let digest = refund_digest(&self.separator, &id, nonce, amount);
        let rows: Vec<ClaimRow> = book.claim_row().into_iter().collect();
        let mut fields = json!({
            "amount": amount.to_string(),
            "refundNonce": nonce.to_string(),
            "claims": rows,
            "refundAuthorizerSignature": self.sign(&digest)?,
        });
        if !rows.is_empty() {
            let signature = self.sign(&claim_digest(&self.separator, &rows))?;
            fields["claimAuthorizerSignature"] = json!(signature);
        }
        let mut payload: Map<String, Value> = request.payload.tree();
        payload.extend(fields.as_object().cloned().unwrap_or_default());
        let payload = Object::of(&payload)?;
        Ok(request.completed(payload, request.requirements.amount)?)
    }

    /// A request of the seller itself, as the reference implementation has it.
    fn request(
        &self,
        receiver: Address,
        token: Address,
        payload: &Value,
    ) -> Result<PaymentRequest, ActError> {
        let [pay_to, asset] = [receiver, token].map(|address| address.to_checksum(None));
        let amount = Amount::ZERO.to_string();
        let requirements = PaymentRequirements {
            extra: Some(Object::of(&json!({}))?),
            ..PaymentRequirements::new(NAME, &self.network, &amount, &asset, &pay_to, 0)
        };
        let payload = PaymentPayload::new(requirements.clone(), Object::of(payload)?);
        Ok(PaymentRequest::new(payload, requirements)?)
    }
}

impl std::fmt::Debug for Authority {
    /// Omits the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Authority({} on {})", self.address(), self.network)
    }
}

/// Why an act of the seller cannot be asked for.
#[derive(Debug)]
pub(super) enum ActError {
    /// The request cannot be written, because it is too long.
    Malformed(Malformed),
    /// The key cannot sign.
    Fault(Fault),
}

impl From<Malformed> for ActError {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

impl From<Refusal> for ActError {
    fn from(refusal: Refusal) -> Self {
        Self::Malformed(match refusal {
            Refusal::Malformed(malformed) => malformed,
            Refusal::Rejected(rejection) => Malformed::new("body", rejection),
        })
    }
}

impl From<Fault> for ActError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<ActError> for quittance_core::FacilitatorError {
    fn from(error: ActError) -> Self {
        match error {
            ActError::Malformed(malformed) => Self::Malformed(malformed),
            ActError::Fault(fault) => Self::Fault(fault),
        }
    }
}
