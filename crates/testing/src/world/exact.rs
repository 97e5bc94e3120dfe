//! The scheme `exact` on the simulated chain.

use std::collections::BTreeSet;

use quittance_core::kit::Parties;
use quittance_core::{
    Amount, Check, Effect, Malformed, Network, Observed, Payment, PaymentInfo, PaymentRequest,
    Plan, Reason, Refusal, Rejection, Scheme, SignatureClaim, SignatureRule, Timestamp,
};

use super::address::Address;
use super::chain::{Evidence, Question, Search, SimulatedChain, StateAnswer};
use super::transaction::{Authorization, Transfer, content_message, is_signed_by};
use super::{USD, World};

/// The reasons of this scheme. A reason about a *used* authorization contains `nonce` or
/// `already_`: buyers then do not conclude that nothing was paid.
pub mod reason {
    use quittance_core::Reason;

    /// The payer did not sign the authorization.
    pub const SIGNATURE: Reason = Reason::new("invalid_exact_simulated_signature");
    /// The payer did not sign the transaction around its transfer, and this facilitator has no
    /// signer that could send it.
    pub const TRANSACTION: Reason = Reason::new("invalid_exact_simulated_transaction");
    /// The authorization is for another recipient.
    pub const RECIPIENT: Reason = Reason::new("invalid_exact_simulated_recipient");
    /// The authorization is for another amount.
    pub const AMOUNT: Reason = Reason::new("invalid_exact_simulated_amount");
    /// The authorization is for another asset.
    pub const ASSET: Reason = Reason::new("invalid_exact_simulated_asset");
    /// The authorization has expired, or expires too soon.
    pub const EXPIRED: Reason = Reason::new("invalid_exact_simulated_expired");
    /// The authorization is valid for too long.
    pub const LIFETIME: Reason = Reason::new("invalid_exact_simulated_lifetime");
    /// The payer is a signer of the facilitator.
    pub const PAYER: Reason = Reason::new("invalid_exact_simulated_payer");
    /// The authorization was already used.
    pub const NONCE_ALREADY_USED: Reason =
        Reason::new("invalid_exact_simulated_nonce_already_used");
    /// The payer has too little of the asset.
    pub const BALANCE: Reason = Reason::new("invalid_exact_simulated_insufficient_balance");
}

/// How long an authorization must still be valid, in seconds, to be signed into a block.
const REMAINING_MIN_SECS: u64 = 6;

/// How long an authorization may be valid, in seconds: a week. The journal keeps it as long.
const LIFETIME_MAX_SECS: u64 = 7 * 24 * 3600;

/// The time between two blocks in worlds that count heights, in seconds: an upper bound.
pub const BLOCK_SECS: u64 = 2;

/// The scheme `exact`: the payer authorizes exactly the amount that the seller requires.
pub struct SimulatedExact {
    network: Network,
    signers: BTreeSet<Address>,
    asks_for_keys: bool,
    counts_heights: bool,
    confirmations: u64,
}

impl SimulatedExact {
    /// The scheme on this chain.
    pub fn new(chain: &SimulatedChain) -> Self {
        Self {
            network: chain.world().network().clone(),
            signers: chain.signers(),
            asks_for_keys: false,
            counts_heights: false,
            confirmations: 0,
        }
    }

    /// The same scheme, in a world that counts heights ([`World::count_heights`]).
    #[must_use]
    pub fn counting_heights(self) -> Self {
        Self {
            counts_heights: true,
            ..self
        }
    }

    /// The same scheme, whose payments need this many confirmations at least.
    #[must_use]
    pub fn with_confirmations(self, confirmations: u64) -> Self {
        Self {
            confirmations,
            ..self
        }
    }

    /// The same scheme, for accounts whose key only the chain knows. Its claims are of the rule
    /// [`SimulatedRule`].
    #[must_use]
    pub fn asking_for_keys(self) -> Self {
        Self {
            asks_for_keys: true,
            ..self
        }
    }

    /// Checks everything that needs only the request.
    fn check_request(
        &self,
        request: &PaymentRequest,
        authorization: &Authorization,
    ) -> Result<(), Refusal> {
        let requirements = &request.requirements;
        request.check_scheme(self.name(), Reason::INVALID_PAYMENT_REQUIREMENTS)?;
        request.check_network(&self.network, Reason::INVALID_PAYMENT_REQUIREMENTS)?;
        // The asset is a name and the recipient an address, so both are compared as canonical text.
        let canonical = |field: &str, text: &str| match field.ends_with("payTo") {
            true => address(field, text).map(|address| address.to_string()),
            false => Ok(text.to_owned()),
        };
        let Parties { asset, pay_to } = request.parties(canonical)?;
        if asset != USD {
            let detail = format_args!("the only asset is {USD}");
            return Err(Rejection::new(Reason::UNSUPPORTED_ASSET, detail).into());
        }
        let pay_to: Address = address("paymentRequirements.payTo", &pay_to)?;
        let accepted = request.accepted.requirements.as_ref();
        if accepted.is_some_and(|terms| terms.max_timeout_secs != requirements.max_timeout_secs) {
            let detail = "the accepted maxTimeoutSeconds differs from the required";
            return Err(Rejection::new(Reason::INVALID_PAYMENT_REQUIREMENTS, detail).into());
        }
        let differs = |reason, what: &str| {
            let detail = format!("the authorization's {what} is not the required one");
            Err(Rejection::new(reason, detail).into())
        };
        if authorization.asset != requirements.asset {
            return differs(reason::ASSET, "asset");
        }
        if authorization.to != pay_to {
            return differs(reason::RECIPIENT, "recipient");
        }
        if authorization.amount != requirements.amount {
            return differs(reason::AMOUNT, "amount");
        }
        if self.signers.contains(&authorization.from) || self.signers.contains(&pay_to) {
            let detail = "a signer of the facilitator can neither pay nor be paid";
            return Err(Rejection::new(reason::PAYER, detail).into());
        }
        Ok(())
    }

    /// What the payer must have signed: its authorization, and its transaction if it sends one.
    fn claims(&self, transfer: &Transfer) -> Result<Vec<SignatureClaim>, Rejection> {
        let key = transfer.authorization.from.0;
        let mut claims = Vec::new();
        if !self.asks_for_keys {
            claims.push(SignatureClaim::Ed25519 {
                message: transfer.authorization.message(&self.network).into(),
                signature: transfer.signature,
                key,
            });
        }
        match transfer.carrier_transaction() {
            Some(signed) => claims.push(SignatureClaim::Ed25519 {
                message: content_message(&signed.content, &self.network).into(),
                signature: signed.signature,
                key,
            }),
            None if self.signers.is_empty() => {
                let detail = "this facilitator has no signer: the payer must sign a transaction";
                return Err(Rejection::new(reason::TRANSACTION, detail));
            }
            None => {}
        }
        Ok(claims)
    }
}

fn address(field: &str, text: &str) -> Result<Address, Malformed> {
    text.parse().map_err(|error| Malformed::new(field, error))
}

/// A decoded payment.
struct SimulatedPayment {
    info: PaymentInfo,
    transfer: Transfer,
    claims: Vec<SignatureClaim>,
    /// What the payer's key must have signed, if only the chain knows the key.
    to_be_signed: Option<Vec<u8>>,
    counts_heights: bool,
    confirmations: u64,
}

impl Scheme<SimulatedChain> for SimulatedExact {
    fn name(&self) -> &str {
        "exact"
    }

    fn assets(&self) -> Vec<String> {
        vec![USD.to_owned()]
    }

    fn decode(
        &self,
        request: &PaymentRequest,
        now: Timestamp,
    ) -> Result<Box<dyn Payment<SimulatedChain>>, Refusal> {
        let transfer: Transfer = request.payload.read("paymentPayload.payload")?;
        let authorization = &transfer.authorization;
        self.check_request(request, authorization)?;
        let info = PaymentInfo {
            id: authorization.id(&self.network),
            payer: authorization.from.to_string(),
            pay_to: authorization.to.to_string(),
            asset: authorization.asset.clone(),
            amount: authorization.amount,
            expires: match self.counts_heights {
                true => now.plus_secs(LIFETIME_MAX_SECS),
                false => Timestamp::from_secs(authorization.expires),
            },
        };
        Ok(Box::new(SimulatedPayment {
            info,
            claims: self.claims(&transfer)?,
            to_be_signed: self
                .asks_for_keys
                .then(|| transfer.authorization.message(&self.network)),
            counts_heights: self.counts_heights,
            confirmations: self.confirmations,
            transfer,
        }))
    }
}

/// The rule of claims whose key the chain has named: a key and a signature of 32 and 64 bytes, and
/// the message.
pub struct SimulatedRule;

impl SimulatedRule {
    const NAME: &'static str = "simulated-key";
}

impl SignatureRule for SimulatedRule {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn verify(&self, claims: &[&[u8]]) -> Vec<bool> {
        let is_valid = |claim: &&[u8]| {
            let (key, rest) = claim.split_first_chunk()?;
            let (signature, message) = rest.split_first_chunk()?;
            Some(is_signed_by(key, message, signature))
        };
        let verdicts = claims.iter().map(is_valid);
        verdicts.map(|valid| valid == Some(true)).collect()
    }
}

impl SimulatedPayment {
    /// The claim that this key signed the authorization.
    fn claim_of(&self, message: &[u8], key: [u8; 32]) -> SignatureClaim {
        SignatureClaim::Other {
            rule: SimulatedRule::NAME.into(),
            claim: [&key[..], &self.transfer.signature, message]
                .concat()
                .into(),
        }
    }

    /// How many blocks can still include the transfer.
    fn blocks_left(&self, state: &StateAnswer) -> u64 {
        let last = self.transfer.authorization.expires;
        last.saturating_sub(state.height)
    }

    fn check_height(&self, state: &StateAnswer) -> Result<(), Rejection> {
        let left = self.blocks_left(state);
        match left {
            0 => Err(Rejection::new(reason::EXPIRED, "no block can include it")),
            _ if left * BLOCK_SECS > LIFETIME_MAX_SECS => {
                let detail = format_args!("valid for {left} blocks more");
                Err(Rejection::new(reason::LIFETIME, detail))
            }
            _ => Ok(()),
        }
    }

    fn check_time(&self, now: Timestamp) -> Result<(), Rejection> {
        let left = self.info.expires.secs_since(now);
        if left < REMAINING_MIN_SECS {
            let detail = format_args!("valid for {left} s more: at least {REMAINING_MIN_SECS}");
            return Err(Rejection::new(reason::EXPIRED, detail));
        }
        if left > LIFETIME_MAX_SECS {
            let detail = format_args!("valid for {left} s more: at most {LIFETIME_MAX_SECS}");
            return Err(Rejection::new(reason::LIFETIME, detail));
        }
        Ok(())
    }
}

impl Payment<SimulatedChain> for SimulatedPayment {
    fn info(&self) -> &PaymentInfo {
        &self.info
    }

    fn signatures(&self) -> &[SignatureClaim] {
        &self.claims
    }

    /// Asks one question: whether the nonce is free, and what the payer has.
    fn check(
        &self,
        observed: &Observed<'_, SimulatedChain>,
    ) -> Result<Check<SimulatedChain>, Rejection> {
        let signatures = observed.signatures;
        if signatures.len() < self.claims.len() || signatures.contains(&false) {
            let detail = "the payer did not sign the authorization";
            return Err(Rejection::new(reason::SIGNATURE, detail));
        }
        if !self.counts_heights {
            self.check_time(observed.now)?;
        }
        let authorization = &self.transfer.authorization;
        let Some(state) = observed.answers.first() else {
            return Ok(Check::Ask(Question {
                from: authorization.from,
                asset: authorization.asset.clone(),
                nonce: authorization.nonce,
            }));
        };
        if self.counts_heights {
            self.check_height(state)?;
        }
        if state.is_used {
            let detail = "the authorization's nonce was already used";
            return Err(Rejection::new(reason::NONCE_ALREADY_USED, detail));
        }
        if state.balance < authorization.amount {
            let detail = format_args!("the payer has {}", state.balance);
            return Err(Rejection::new(reason::BALANCE, detail));
        }
        match &self.to_be_signed {
            Some(message) if signatures.len() == self.claims.len() => {
                Ok(Check::Verify(vec![self.claim_of(message, state.key)]))
            }
            _ => Ok(Check::Valid),
        }
    }

    fn depends_on_time(&self, rejection: &Rejection) -> bool {
        !self.counts_heights && [reason::EXPIRED, reason::LIFETIME].contains(&rejection.reason)
    }

    fn expires(&self, observed: &Observed<'_, SimulatedChain>) -> Option<Timestamp> {
        let state = observed.answers.first().filter(|_| self.counts_heights)?;
        Some(observed.now.plus_secs(self.blocks_left(state) * BLOCK_SECS))
    }

    fn confirmations_required(&self) -> u64 {
        self.confirmations
    }

    fn plan(
        &self,
        _amount: Amount,
        _observed: &Observed<'_, SimulatedChain>,
    ) -> Result<Plan<Transfer>, Rejection> {
        Ok(Plan::Submit(self.transfer.clone()))
    }

    fn balance(&self, observed: &Observed<'_, SimulatedChain>) -> Option<Amount> {
        observed.answers.first().map(|state| state.balance)
    }

    fn used_by(&self, rejection: &Rejection) -> Option<Search> {
        let authorization = &self.transfer.authorization;
        (rejection.reason == reason::NONCE_ALREADY_USED).then_some(Search {
            from: authorization.from,
            nonce: authorization.nonce,
        })
    }

    /// A success releases a resource, so the event must be this authorization's, and must have
    /// moved exactly its amount.
    fn effect(&self, amount: Amount, evidence: &Evidence) -> Effect {
        let authorization = &self.transfer.authorization;
        let is_ours = |nonce: &[u8; 32], from: &Address| {
            (nonce, from) == (&authorization.nonce, &authorization.from)
        };
        let mut events = evidence
            .events
            .iter()
            .filter(|event| is_ours(&event.authorization.nonce, &event.authorization.from));
        let Some(event) = events.next() else {
            let detail = "the transaction does not contain the transfer";
            return Effect::None(Rejection::new(Reason::INVALID_TRANSACTION_STATE, detail));
        };
        if let Some(failure) = &event.failure {
            return Effect::None(Rejection::new(Reason::INVALID_TRANSACTION_STATE, failure));
        }
        if event.authorization != *authorization || authorization.amount != amount {
            let detail = "the nonce was used by another transfer";
            return Effect::Mismatch(Rejection::new(Reason::INVALID_TRANSACTION_STATE, detail));
        }
        Effect::Transferred(amount)
    }
}

/// The transfer in a payload.
pub(crate) fn transfer_in(payload: &quittance_core::json::Object) -> Option<Transfer> {
    payload.read("payload").ok()
}

impl World {
    /// The transfer that a payment request carries.
    ///
    /// # Panics
    /// When it carries none.
    pub fn transfer_of(request: &PaymentRequest) -> Transfer {
        transfer_in(&request.payload).expect("a payload of this chain")
    }
}
