//! The scheme `exact`: the payer makes and signs a transaction that transfers exactly the required amount to the
//! recipient's token account, and leaves the fee and the sending to the facilitator.
//!
//! Specification: `exact` on SVM, static path.

mod layout;
mod offer;
mod payer;
pub mod reason;

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use quittance_core::json::Object;
use quittance_core::{
    Amount, Check, Effect, Facts, LaneId, Malformed, Network, Payment, PaymentId, PaymentRequest,
    Reason, Refusal, Rejection, Scheme, Seen, SignatureClaim, Timestamp, Version,
};
use serde::Deserialize;
use serde_json::json;
use solana_pubkey::Pubkey;
use solana_signature::Signature;

use self::layout::{Caps, Layout};
pub use self::offer::ExactOffer;
pub use self::payer::ExactPayer;
use crate::chain::{Evidence, Partial, Rota, Solana};
use crate::instruction::Transfer;
use crate::known::{Token, TokenProgram};
use crate::mint;
use crate::read::{Answer, Inquiry};
use crate::transaction::{SIZE_MAX, Wire};

/// The scheme's name on the wire.
const NAME: &str = "exact";

/// For how long a payment that was read is worth sending, in seconds: its blockhash dies after 150 blocks of 0.4 seconds.
/// What was sent before is followed until it is certain, however long that takes.
const LIFETIME_SECS: u64 = 60;

/// The scheme `exact` on one Solana cluster.
#[derive(Debug, Clone)]
pub struct Exact {
    network: Network,
    tokens: Vec<Token>,
    rota: Arc<Rota>,
    caps: Caps,
}

impl Exact {
    /// The scheme on this cluster, for its tokens.
    pub fn new(solana: &Solana) -> Self {
        let config = solana.config();
        Self {
            network: config.network.clone(),
            tokens: config.tokens.clone(),
            rota: Arc::clone(solana.rota()),
            caps: Caps {
                compute_units: config.compute_units_max,
                compute_unit_price: config.compute_unit_price_max,
            },
        }
    }
}

/// The payload: a transaction in base64.
#[derive(Deserialize)]
struct PayloadJson {
    #[serde(default)]
    transaction: Option<String>,
}

/// The requirements' `extra`.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Extra {
    #[serde(default)]
    fee_payer: Option<String>,
    #[serde(default)]
    token_program: Option<String>,
    #[serde(default)]
    memo: Option<String>,
    #[serde(default)]
    recent_blockhash: Option<String>,
}

/// One payment, decoded.
struct ExactPayment {
    facts: Facts,
    wire: Wire,
    lane: LaneId,
    token: Token,
    transfer: Transfer,
    pay_to: Pubkey,
    claims: Vec<SignatureClaim>,
    /// The first check after the signatures that failed. It is told only once the signatures are known to hold, because
    /// what somebody else wrote is nobody's verdict.
    objection: Option<Rejection>,
}

impl Scheme<Solana> for Exact {
    fn name(&self) -> &str {
        NAME
    }

    fn versions(&self) -> &[Version] {
        &[Version::V1, Version::V2]
    }

    fn extra(&self) -> Option<Object> {
        let fee_payer = self.rota.next()?.to_string();
        Object::of(&json!({ "feePayer": fee_payer })).ok()
    }

    fn assets(&self) -> Vec<String> {
        self.tokens
            .iter()
            .map(|token| token.mint.to_string())
            .collect()
    }

    fn decode(
        &self,
        request: &PaymentRequest,
        now: Timestamp,
    ) -> Result<Box<dyn Payment<Solana>>, Refusal> {
        let terms = &request.terms;
        if request.accepted.scheme != NAME {
            return Err(reason::SCHEME.into());
        }
        if !self.network.is(&request.accepted.network) {
            return Err(reason::NETWORK_MISMATCH.into());
        }
        let extra: Extra = terms
            .extra
            .as_ref()
            .map(|extra| extra.read("paymentRequirements.extra"))
            .transpose()?
            .unwrap_or_default();
        let fee_payer = self.fee_payer(&extra)?;
        let mint = address("paymentRequirements.asset", &terms.asset)?;
        let pay_to = address("paymentRequirements.payTo", &terms.pay_to)?;
        if let Some(accepted) = &request.accepted.terms {
            accepted.check(address, &mint, &pay_to, terms.amount)?;
        }
        let token = self.tokens.iter().find(|token| token.mint == mint);
        let token = token.ok_or(Reason::UNSUPPORTED_ASSET)?;
        self.check_recipient(pay_to, &extra, token)?;

        let wire = wire(request)?;
        if wire.fee_payer() != Some(&fee_payer) {
            return Err(reason::FEE_PAYER_MISMATCH.into());
        }
        check_our_place(&wire)?;
        let layout = Layout::read(&wire, &self.rota.fee_payers, self.caps)?;
        let objection = objection(&layout, token, pay_to, terms.amount, &extra).err();
        Ok(Box::new(ExactPayment {
            facts: self.facts(&wire, &layout.transfer, pay_to, mint, now),
            lane: LaneId::new(&fee_payer.to_string()),
            token: token.clone(),
            claims: claims(&wire),
            transfer: layout.transfer,
            pay_to,
            objection,
            wire,
        }))
    }
}

impl Exact {
    /// Who is to pay the fee: one of ours.
    fn fee_payer(&self, extra: &Extra) -> Result<Pubkey, Refusal> {
        let named = extra
            .fee_payer
            .as_deref()
            .ok_or(reason::MISSING_FEE_PAYER)?;
        let ours = self.rota.fee_payers.iter();
        let found = ours.copied().find(|key| key.to_string() == named);
        found.ok_or_else(|| reason::FEE_PAYER_NOT_MANAGED.into())
    }

    fn check_recipient(
        &self,
        pay_to: Pubkey,
        extra: &Extra,
        token: &Token,
    ) -> Result<(), Rejection> {
        let unusable = |what| Err(Rejection::new(Reason::INVALID_PAYMENT_REQUIREMENTS, what));
        if self.rota.fee_payers.contains(&pay_to) {
            return unusable("payTo is the facilitator itself");
        }
        let program = token.program.id().to_string();
        if extra
            .token_program
            .as_ref()
            .is_some_and(|named| *named != program)
        {
            return unusable("extra.tokenProgram is not the program that keeps the asset");
        }
        Ok(())
    }

    fn facts(
        &self,
        wire: &Wire,
        transfer: &Transfer,
        pay_to: Pubkey,
        mint: Pubkey,
        now: Timestamp,
    ) -> Facts {
        Facts {
            // The runtime includes a message once, whatever its signatures are.
            id: PaymentId::of(&[b"exact svm", self.network.id().as_bytes(), wire.message()]),
            payer: transfer.authority.to_string(),
            pay_to: pay_to.to_string(),
            asset: mint.to_string(),
            amount: Amount::from(transfer.amount),
            expires: now.plus_secs(LIFETIME_SECS),
        }
    }
}

fn address(field: &str, text: &str) -> Result<Pubkey, Malformed> {
    text.parse()
        .map_err(|_| Malformed::new(field, "not an address of 32 bytes in base58"))
}

fn wire(request: &PaymentRequest) -> Result<Wire, Refusal> {
    /// The length of the longest transaction in base64.
    const TEXT_MAX: usize = SIZE_MAX.div_ceil(3) * 4;
    let payload: PayloadJson = request.payload.read("paymentPayload.payload")?;
    let text = payload.transaction.ok_or(reason::TRANSACTION)?;
    let undecodable =
        |what: &str| Refusal::from(Rejection::new(reason::COULD_NOT_BE_DECODED, what));
    if text.len() > TEXT_MAX {
        return Err(undecodable("longer than a transaction can be"));
    }
    let bytes = BASE64
        .decode(text)
        .map_err(|error| undecodable(&format!("not base64: {error}")))?;
    Wire::read(&bytes).map_err(|error| undecodable(&error.to_string()))
}

/// The fee payer's place for a signature must be empty. Bytes there mean nothing and are replaced, so anybody could write
/// some, present the payment as one of its own, and be told its success.
fn check_our_place(wire: &Wire) -> Result<(), Rejection> {
    let is_empty = |(_, signature): (_, &Signature)| *signature == Signature::default();
    if wire.signers().next().is_some_and(is_empty) {
        return Ok(());
    }
    let detail = "the place for the fee payer's signature is not empty";
    Err(Rejection::new(reason::SIGNATURE_INVALID, detail))
}

/// What must hold of every signature but the fee payer's, which is ours to add.
fn claims(wire: &Wire) -> Vec<SignatureClaim> {
    let claim = |(key, signature): (&Pubkey, &Signature)| SignatureClaim::Ed25519 {
        message: Arc::clone(wire.message()),
        signature: *signature.as_array(),
        key: key.to_bytes(),
    };
    wire.signers().skip(1).map(claim).collect()
}

/// The checks of the transfer itself, in the reference implementation's order.
fn objection(
    layout: &Layout,
    token: &Token,
    pay_to: Pubkey,
    amount: Amount,
    extra: &Extra,
) -> Result<(), Rejection> {
    let transfer = &layout.transfer;
    if transfer.mint != token.mint {
        return Err(reason::MINT_MISMATCH.into());
    }
    if TokenProgram::with_id(&transfer.program) != Some(token.program) {
        let detail = format!("the asset belongs to {}", token.program);
        return Err(Rejection::new(reason::MINT_MISMATCH, detail));
    }
    if transfer.decimals != token.decimals {
        let detail = format!("the asset has {} decimal places", token.decimals);
        return Err(Rejection::new(reason::MINT_MISMATCH, detail));
    }
    if transfer.destination != token.account_of(&pay_to) {
        return Err(reason::RECIPIENT_MISMATCH.into());
    }
    if transfer.authority == pay_to || transfer.source == transfer.destination {
        let detail = "the payer pays itself";
        return Err(Rejection::new(Reason::INVALID_PAYMENT_REQUIREMENTS, detail));
    }
    if Amount::from(transfer.amount) != amount {
        let detail = format!("transfers {}, required {amount}", transfer.amount);
        return Err(Rejection::new(reason::AMOUNT_MISMATCH, detail));
    }
    if transfer.amount == 0 {
        return Err(Reason::AMOUNT_TOO_LOW.into());
    }
    layout.check_memo(extra.memo.as_deref())
}

/// The accounts that are asked about, by place.
mod asked {
    pub(super) const MINT: usize = 0;
    pub(super) const SOURCE: usize = 1;
    pub(super) const DESTINATION: usize = 2;
}

impl Payment<Solana> for ExactPayment {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn signatures(&self) -> &[SignatureClaim] {
        &self.claims
    }

    fn check(&self, seen: &Seen<'_, Solana>) -> Result<Check<Solana>, Rejection> {
        let signed = seen.signatures.len() == self.claims.len()
            && seen.signatures.iter().all(|holds| *holds);
        if !signed {
            return Err(reason::SIGNATURE_INVALID.into());
        }
        self.objection.clone().map_or(Ok(()), Err)?;
        match seen.answers {
            [] => Ok(Check::Ask(Inquiry {
                accounts: vec![
                    self.transfer.mint,
                    self.transfer.source,
                    self.transfer.destination,
                ],
                simulate: Some(self.wire.clone()),
            })),
            [.., answer] => {
                self.check_accounts(answer)?;
                self.check_simulation(answer)?;
                Ok(Check::Content)
            }
        }
    }

    fn settle(&self, amount: Amount, _: &Seen<'_, Solana>) -> Result<Partial, Rejection> {
        if amount != self.facts.amount {
            let detail = "exact settles exactly what was authorized";
            return Err(Rejection::new(reason::AMOUNT_MISMATCH, detail));
        }
        Ok(Partial {
            wire: self.wire.clone(),
        })
    }

    fn lane(&self) -> Option<&LaneId> {
        Some(&self.lane)
    }

    fn effect(&self, _: Amount, evidence: &Evidence) -> Effect {
        if let Some(error) = &evidence.error {
            let detail = format!("the transaction was included and failed: {error}");
            return Effect::Nothing(Rejection::new(reason::TRANSACTION_FAILED, detail));
        }
        let keys = self.wire.keys();
        let found = evidence.balances.iter().find(|balance| {
            keys.get(balance.account) == Some(&self.transfer.destination)
                && balance.mint == self.facts.asset
        });
        let received = found.and_then(|balance| balance.after.checked_sub(balance.before));
        match received {
            Some(received) if received == self.transfer.amount => {
                Effect::Moved(Amount::from(received))
            }
            received => {
                let received = received.unwrap_or_default();
                let detail = format!("the recipient's account received {received}");
                Effect::Other(Rejection::new(reason::TRANSFER_NOT_CONFIRMED, detail))
            }
        }
    }
}

impl ExactPayment {
    /// Whether the token and both accounts are what they seem to be.
    fn check_accounts(&self, answer: &Answer) -> Result<(), Rejection> {
        let account = |at: usize| answer.accounts.get(at).and_then(Option::as_ref);
        let program = self.token.program;
        let mint = account(asked::MINT).ok_or(reason::MINT_MISMATCH)?;
        mint::judge(mint, program, &self.token.allowed)
            .map_err(|problem| Rejection::new(reason::MINT_NOT_ALLOWED, problem))?;
        let Some(destination) = account(asked::DESTINATION) else {
            let detail =
                "the recipient has no token account for this asset, and none is made for it";
            return Err(Rejection::new(reason::RECEIVER_ACCOUNT_NOT_FOUND, detail));
        };
        // SPL Token lets an owner give an associated account away; its address stays.
        if mint::owner_of(destination, program) != Some(self.pay_to) {
            let detail = "the recipient's token account belongs to somebody else";
            return Err(Rejection::new(reason::RECIPIENT_MISMATCH, detail));
        }
        let owner = account(asked::SOURCE).and_then(|source| mint::owner_of(source, program));
        if owner.is_some_and(|owner| owner != self.transfer.authority) {
            let detail = "the money is not the signer's own";
            return Err(Rejection::new(reason::SIGNATURE_INVALID, detail));
        }
        Ok(())
    }

    fn check_simulation(&self, answer: &Answer) -> Result<(), Rejection> {
        let simulated = answer.simulated.as_ref().ok_or(reason::SIMULATION_FAILED)?;
        let Some(error) = &simulated.error else {
            return Ok(());
        };
        let what = match error.as_str() {
            "\"BlockhashNotFound\"" => {
                "the blockhash has expired, or is of another cluster: nothing can be sent, so it is safe to pay anew"
            }
            "\"AlreadyProcessed\"" => "this very transaction was included before",
            other => other,
        };
        Err(Rejection::new(reason::SIMULATION_FAILED, what))
    }
}

#[cfg(test)]
mod tests;
