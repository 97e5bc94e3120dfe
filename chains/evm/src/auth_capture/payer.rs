//! The buyer's side: signs for a hold.

use std::fmt;
use std::sync::Arc;

use alloy::primitives::{B256, U256};
use alloy::signers::Signer;
use async_trait::async_trait;
use quittance_core::json::Object;
use quittance_core::wire::PaymentRequirements;
use quittance_core::{
    AuthorizationState, Clock, Malformed, Network, Payer, PayerError, Quote, QuoteError,
    SignedPayment, SystemClock, Timestamp,
};
use serde_json::{Value, json};
use url::Url;

use super::NAME;
use super::payload::{PayersPart, Signed};
use super::setup::{Extra, HoldExtra, MARGIN_SECS};
use super::terms::{AMOUNT_MAX, bound_salt};
use crate::eip3009::Authorization;
use crate::exact::ExactPayer;
use crate::exact::payer::{Transfer, Use, expiry};
use crate::hex::address;
use crate::permit2::{PermitUse, WitnessPermit, domain_separator};
use crate::token::{Token, TransferMethod};

/// How long a payment may be held by default, in seconds: a month, which is longer than cards.
const HELD_MAX_SECS: u64 = 31 * 24 * 3600;

/// Pays `auth-capture` requirements on any EVM chain with one key.
///
/// The whole amount is taken from the account and held by a contract, until the seller captures or
/// returns it. Until the capture deadline that the requirements state, the buyer cannot take it
/// back. So this payer signs for no hold of more than a month
/// ([`with_longest_hold_secs`](Self::with_longest_hold_secs)).
///
/// The signature binds the operator, the recipient, the token, the amount, both deadlines, the
/// bounds of the fee and the receiver's authorizer. It knows tokens as [`ExactPayer`] does, and
/// for tokens by Permit2 the account must have approved the Permit2 contract.
#[derive(Clone)]
pub struct AuthCapturePayer {
    payer: ExactPayer,
    held_max_secs: u64,
    clock: Arc<dyn Clock>,
}

impl AuthCapturePayer {
    /// A payer with this key, which may be in memory or behind a key service.
    pub fn new(signer: impl Signer + Send + Sync + 'static) -> Self {
        Self {
            payer: ExactPayer::new(signer),
            held_max_secs: HELD_MAX_SECS,
            clock: Arc::new(SystemClock),
        }
    }

    /// The same payer, with another token of the network with this CAIP-2 identifier.
    #[must_use]
    pub fn with_token(self, network: &str, token: Token) -> Self {
        let payer = self.payer.with_token(network, token);
        Self { payer, ..self }
    }

    /// The same payer, with nodes of a network that are asked for the outcome of payments there;
    /// see [`ExactPayer::with_rpc`].
    ///
    /// # Errors
    /// As [`ExactPayer::with_rpc`].
    pub fn with_rpc(self, network: &Network, urls: &[Url]) -> Result<Self, PayerError> {
        let payer = self.payer.with_rpc(network, urls)?;
        Ok(Self { payer, ..self })
    }

    /// The same payer, which signs for no longer hold than this, in seconds.
    #[must_use]
    pub fn with_longest_hold_secs(self, held_max_secs: u64) -> Self {
        Self {
            held_max_secs,
            ..self
        }
    }

    /// The same payer, with this clock for the deadlines of holds.
    #[must_use]
    pub fn with_clock(self, clock: Arc<dyn Clock>) -> Self {
        Self { clock, ..self }
    }

    /// What is signed for these requirements, and what they say about the hold.
    fn transfer(
        &self,
        requirements: &PaymentRequirements,
        now: Timestamp,
    ) -> Result<(Transfer<'_>, HoldExtra), QuoteError> {
        let found = self
            .payer
            .transfer_by(NAME, requirements, |token| check_extra(requirements, token))?;
        let (transfer, hold) = &found;
        if transfer.amount.units() > U256::from(AMOUNT_MAX) {
            return Err(QuoteError::unpayable(
                "amount: holds have amounts of 120 bits",
            ));
        }
        let (capture, refund) = (hold.capture_deadline, hold.refund_deadline);
        let expires = expiry(requirements, now).secs();
        if capture < expires || capture <= now.secs().saturating_add(MARGIN_SECS) {
            let what = format!("extra.captureDeadline is {capture}, before the payment expires");
            return Err(QuoteError::unpayable(what));
        }
        if refund < capture {
            let what = format!("extra.refundDeadline is {refund}, before captureDeadline");
            return Err(QuoteError::unpayable(what));
        }
        let held_max = self.held_max_secs;
        if capture > now.secs().saturating_add(held_max) {
            let what = format!(
                "extra.captureDeadline is {capture}: the payer signs for no hold of more than {held_max} seconds"
            );
            return Err(QuoteError::unpayable(what));
        }
        Ok(found)
    }

    /// The authorization by EIP-3009, signed.
    async fn authorization(
        &self,
        transfer: &Transfer<'_>,
        hold: &HoldExtra,
        (expiry, nonce): (u64, B256),
    ) -> Result<Value, PayerError> {
        let authorization = Authorization {
            from: self.payer.signer_address(),
            to: hold.deployment.eip3009_collector,
            value: transfer.amount.units(),
            valid_after: U256::ZERO,
            valid_before: U256::from(expiry),
            nonce,
        };
        let separator = transfer.token.domain_separator(transfer.chain_id);
        let digest = authorization.receive_digest(&separator);
        Ok(json!({
            "signature": self.payer.sign(digest).await?,
            "authorization": {
                "from": authorization.from.to_checksum(None),
                "to": authorization.to.to_checksum(None),
                "value": transfer.amount,
                "validAfter": "0",
                "validBefore": expiry.to_string(),
                "nonce": nonce,
            }
        }))
    }

    /// The permit, signed. It has no witness: its nonce binds the terms.
    async fn permit(
        &self,
        transfer: &Transfer<'_>,
        hold: &HoldExtra,
        (expiry, nonce): (u64, B256),
    ) -> Result<Value, PayerError> {
        let permit = WitnessPermit::new(
            self.payer.signer_address(),
            (transfer.token.address, transfer.amount.units()),
            hold.deployment.permit2_collector,
            nonce.into(),
            U256::from(expiry),
        );
        let digest = permit.plain_digest(&domain_separator(transfer.chain_id));
        let mut payload = permit.payload(&self.payer.sign(digest).await?, Value::Null);
        if let Some(fields) = payload["permit2Authorization"].as_object_mut() {
            fields.remove("witness");
        }
        Ok(payload)
    }
}

/// What the requirements say about the hold. For EIP-3009 they must mean the token's own EIP-712
/// domain: signed for another one, the payment would not be what they say.
fn check_extra(requirements: &PaymentRequirements, token: &Token) -> Result<HoldExtra, QuoteError> {
    let unreadable = |error: Malformed| QuoteError::unpayable(error.to_string());
    let fields = requirements.extra.as_ref();
    let fields = fields.ok_or_else(|| QuoteError::unpayable("extra is missing"))?;
    let extra: Extra = fields.read("extra").map_err(unreadable)?;
    let hold = extra.hold();
    let hold = hold.map_err(|rejection| QuoteError::unpayable(rejection.to_string()))?;
    match (hold.method, token.method) {
        (TransferMethod::Permit2, _) => Ok(hold),
        (TransferMethod::Eip3009, TransferMethod::Permit2) => {
            let what = format!("{} does not support EIP-3009", token.symbol);
            Err(QuoteError::unpayable(what))
        }
        (TransferMethod::Eip3009, TransferMethod::Eip3009) => {
            let (name, version) = (extra.name.as_ref(), extra.version.as_ref());
            match name == Some(&token.name) && version == Some(&token.version) {
                true => Ok(hold),
                false => Err(QuoteError::unpayable(format!(
                    "extra names the token {name:?} {version:?}; that of {} is {:?} {:?}",
                    token.symbol, token.name, token.version
                ))),
            }
        }
    }
}

impl fmt::Debug for AuthCapturePayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuthCapturePayer({})", self.payer.address())
    }
}

#[async_trait]
impl Payer for AuthCapturePayer {
    fn address(&self) -> &str {
        self.payer.address()
    }

    fn quote(&self, requirements: &PaymentRequirements) -> Result<Quote, QuoteError> {
        let (transfer, _) = self.transfer(requirements, self.clock.now())?;
        Ok(transfer.quote())
    }

    async fn pay(
        &self,
        requirements: &PaymentRequirements,
        _offered: Option<&Object>,
        now: Timestamp,
    ) -> Result<SignedPayment, PayerError> {
        let (transfer, hold) = self.transfer(requirements, now)?;
        let expires = expiry(requirements, now);
        let random = B256::from(rand::random::<[u8; 32]>());
        let (salt, salt_nonce) = match hold.authorizer {
            Some(authorizer) => (bound_salt(authorizer, random), Some(random)),
            None => (random, None),
        };
        // The quote has checked that it fits.
        let max = transfer.amount.units().saturating_to::<u128>();
        let parties = (transfer.pay_to, transfer.token.address);
        let payer = self.payer.signer_address();
        let terms = hold.terms(payer, parties, max, expires.secs(), salt);
        let nonce = terms.nonce(transfer.chain_id, hold.deployment.escrow);
        let signed = (expires.secs(), nonce);
        let mut payload = match hold.method {
            TransferMethod::Eip3009 => self.authorization(&transfer, &hold, signed).await?,
            TransferMethod::Permit2 => self.permit(&transfer, &hold, signed).await?,
        };
        payload["salt"] = json!(salt);
        if let Some(nonce) = salt_nonce {
            payload["saltNonce"] = json!(nonce);
        }
        let payload = Object::of(&payload).map_err(PayerError::Payload)?;
        Ok(SignedPayment::new(payload, expires))
    }

    async fn authorization_state(
        &self,
        network: &str,
        asset: &str,
        payload: &Object,
        _expires: Timestamp,
    ) -> AuthorizationState {
        let act = PayersPart::read("payload", payload).ok();
        let (Some(act), Ok(asset)) = (act, address("asset", asset)) else {
            return AuthorizationState::Unknown;
        };
        let used = match &act.signed {
            Signed::Eip3009(authorization) => Use::of_authorization(asset, authorization),
            // Only the transaction's name depends on where the tokens go.
            Signed::Permit2(permit) => {
                Use::of_permit(permit, PermitUse::new(permit, permit.spender))
            }
        };
        self.payer.state_of(network, used).await
    }
}
