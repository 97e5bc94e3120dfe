//! The scheme `exact` by EIP-3009: the payer signs a transfer of exactly the required amount to exactly the required
//! recipient, and whoever holds the signature can make it, once.
//!
//! Specification: `exact` on EVM, asset transfer method `eip3009`.

mod authorization;
mod offer;
mod payer;
pub mod reason;

use std::sync::OnceLock;
use std::time::Duration;

use alloy::primitives::{Address, B256, U256, keccak256};
use alloy::sol_types::{SolCall, SolValue};
use quittance_core::json::{Object, text_or_integer};
use quittance_core::{
    Amount, Check, Effect, LaneId, Malformed, Network, Observed, Payment, PaymentInfo,
    PaymentRequest, Reason, Refusal, Rejection, Scheme, SignatureClaim, Timestamp, Version,
};
use serde::Deserialize;

use self::authorization::{Authorization, AuthorizationJson};
pub use self::offer::ExactOffer;
pub use self::payer::ExactPayer;
use crate::abi::{ContractWallet, ERC1271_MAGIC, Eip3009, Erc20};
use crate::blocks::inclusion_secs;
use crate::chain::{Call, Evidence, Evm, Log};
use crate::eip712::domain_separator;
use crate::hex::{HexBytes, address};
use crate::known::{self, Token, TransferMethod};
use crate::probe::{Condition, Outcome, Probe, Step};
use crate::signature::{Ecdsa, SIGNATURE_MAX, Signature};
use crate::used::AuthorizationUse;

/// The scheme's name on the wire.
const NAME: &str = "exact";

/// How long an authorization must still be valid, in seconds, on a chain with short blocks: it has to be signed into a
/// transaction and included. The reference implementations have the same six seconds, three blocks of Base.
/// [`BlockTimes`](crate::blocks::BlockTimes) says how long on a chain with longer ones.
const REMAINING_MIN_SECS: u64 = crate::blocks::INCLUSION_MIN_SECS;

/// How long an authorization may be valid from now, in seconds. A payment takes minutes; an authorization for years is
/// a blank cheque that has to be remembered for years.
const LIFETIME_MAX_SECS: u64 = 7 * 24 * 3600;

/// How much later than both clocks an authorization may open and still be waited for, in seconds:
/// what the clocks of wallets are wrong by.
const NOT_YET_MAX_SECS: u64 = 15;

/// The gas a view of the token may take. Circle's proxy answers within 10,000.
const VIEW_GAS: u32 = 100_000;

/// The scheme `exact` on one EVM chain.
#[derive(Debug, Clone)]
pub struct Exact {
    network: Network,
    chain_id: u64,
    tokens: Vec<SignedToken>,
    signers: Vec<Address>,
    gas_max: u32,
    contract_wallets: bool,
}

/// A token with what payers sign for it.
#[derive(Debug, Clone)]
struct SignedToken {
    token: Token,
    domain_separator: B256,
}

impl Exact {
    /// The scheme on this chain, for those of its tokens that know EIP-3009.
    pub fn new(evm: &Evm) -> Self {
        let config = evm.config();
        let signers = config.signers.iter().map(|signer| signer.address());
        Self {
            signers: signers.collect(),
            gas_max: config.gas_per_payment_max,
            contract_wallets: config.contract_wallets,
            ..Self::of(config.network.clone(), evm.chain_id(), &config.tokens)
        }
    }

    /// The scheme without a chain, for looking at payments offline. `None` for a network that is not EIP-155.
    pub fn offline(network: Network, tokens: &[Token]) -> Option<Self> {
        let chain_id = known::chain_id(&network)?;
        Some(Self::of(network, chain_id, tokens))
    }

    fn of(network: Network, chain_id: u64, tokens: &[Token]) -> Self {
        let signed = |token: &Token| SignedToken {
            domain_separator: domain_separator(
                &token.name,
                &token.version,
                chain_id,
                token.address,
            ),
            token: token.clone(),
        };
        Self {
            network,
            chain_id,
            tokens: tokens
                .iter()
                .filter(|token| token.method == TransferMethod::Eip3009)
                .map(signed)
                .collect(),
            signers: Vec::new(),
            gas_max: 0,
            contract_wallets: true,
        }
    }

    fn token(&self, address: Address) -> Option<&SignedToken> {
        self.tokens
            .iter()
            .find(|known| known.token.address == address)
    }
}

/// The payload of a payment by EIP-3009; another way to pay has no `authorization`.
#[derive(Deserialize)]
struct PayloadJson {
    #[serde(default)]
    signature: Option<HexBytes<SIGNATURE_MAX>>,
    #[serde(default)]
    authorization: Option<AuthorizationJson>,
}

/// The requirements' `extra`.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Extra {
    #[serde(default)]
    name: Option<String>,
    /// Some sellers write `2` for `"2"`.
    #[serde(default, deserialize_with = "text_or_integer")]
    version: Option<String>,
    #[serde(default)]
    asset_transfer_method: Option<String>,
    /// Whose EIP-712 domain it is, where a seller says so: the token's own, or that of another contract.
    #[serde(default)]
    verifying_contract: Option<serde_json::Value>,
}

/// One EIP-3009 authorization, decoded.
struct Eip3009Payment {
    /// Spelled out when they are first asked for: the checksums in three addresses cost as many hashes as the digest, and
    /// whoever only wants the verdict does not read them.
    info: OnceLock<PaymentInfo>,
    chain_id: u64,
    token: Address,
    authorization: Authorization,
    signature: Signature,
    digest: B256,
    claims: Vec<SignatureClaim>,
    /// The first check after the signature that failed. It is told only once the signature is known to hold, because
    /// what somebody else wrote is nobody's verdict.
    objection: Option<Rejection>,
    gas_max: u32,
    /// Whether accounts with code may pay.
    contract_wallets: bool,
    /// See [`Token::logs_authorization_first`].
    logs_authorization_first: bool,
}

impl Scheme<Evm> for Exact {
    fn name(&self) -> &str {
        NAME
    }

    fn versions(&self) -> &[Version] {
        &[Version::V1, Version::V2]
    }

    fn assets(&self) -> Vec<String> {
        self.tokens
            .iter()
            .map(|known| known.token.address.to_checksum(None))
            .collect()
    }

    fn decode(
        &self,
        request: &PaymentRequest,
        now: Timestamp,
    ) -> Result<Box<dyn Payment<Evm>>, Refusal> {
        let terms = &request.requirements;
        if request.accepted.scheme != NAME {
            let detail = "the payment is of another scheme than exact";
            return Err(Rejection::new(reason::SCHEME, detail).into());
        }
        let (authorization, signature) = read_payload(&request.payload)?;
        let extra: Extra = terms
            .extra
            .as_ref()
            .map(|extra| extra.read("paymentRequirements.extra"))
            .transpose()?
            .unwrap_or_default();
        let (Some(name), Some(version)) = (&extra.name, &extra.version) else {
            let detail = "paymentRequirements.extra must have the name and the version of the token's EIP-712 domain";
            return Err(Rejection::new(reason::MISSING_EIP712_DOMAIN, detail).into());
        };
        if !self.network.is(&request.accepted.network) {
            let detail = format_args!("the payment is for another network than {}", self.network);
            return Err(Rejection::new(reason::NETWORK_MISMATCH, detail).into());
        }
        let asset = address("paymentRequirements.asset", &terms.asset)?;
        let pay_to = address("paymentRequirements.payTo", &terms.pay_to)?;
        if let Some(accepted) = &request.accepted.requirements {
            accepted.check(address, &asset, &pay_to, terms.amount)?;
        }
        let method = extra.asset_transfer_method.as_deref();
        if method.is_some_and(|method| method != "eip3009") {
            let detail = "extra.assetTransferMethod: only eip3009 is supported";
            return Err(Rejection::new(reason::UNSUPPORTED_PAYLOAD_TYPE, detail).into());
        }
        let known = self.token(asset).ok_or_else(|| self.unsupported_asset())?;
        check_domain(&known.token, name, version)?;
        self.check_parties(&authorization, asset, pay_to)?;
        if signature.is_hopeless() {
            let detail =
                "not the 65 bytes of an ECDSA signature, nor any that a contract could accept";
            return Err(Rejection::new(reason::SIGNATURE, detail).into());
        }

        let digest = authorization.digest(&known.domain_separator);
        let claims = signature
            .ecdsa()
            .map(|Ecdsa(bytes)| SignatureClaim::Secp256k1 {
                digest: digest.0,
                signature: bytes,
                address: authorization.from.into_array(),
            });
        Ok(Box::new(Eip3009Payment {
            info: OnceLock::new(),
            chain_id: self.chain_id,
            token: asset,
            objection: objection(&authorization, pay_to, terms.amount, now),
            digest,
            claims: claims.into_iter().collect(),
            authorization,
            signature,
            gas_max: self.gas_max,
            contract_wallets: self.contract_wallets,
            logs_authorization_first: known.token.logs_authorization_first,
        }))
    }
}

impl Exact {
    fn unsupported_asset(&self) -> Rejection {
        let supported = self.tokens.iter().map(|known| &known.token);
        let supported: Vec<_> = supported
            .map(|token| format!("{} {}", token.symbol, token.address))
            .collect();
        let supported = supported.join(", ");
        let detail = format_args!("tokens supported on {}: {supported}", self.network);
        Rejection::new(Reason::UNSUPPORTED_ASSET, detail)
    }

    /// Refuses payers and recipients that no payment can be between. The engine refuses payments of nothing and of a payer to
    /// itself.
    fn check_parties(
        &self,
        authorization: &Authorization,
        asset: Address,
        pay_to: Address,
    ) -> Result<(), Rejection> {
        let unusable = |what| Err(Rejection::new(Reason::INVALID_PAYMENT_REQUIREMENTS, what));
        // The first 65,535 addresses are kept for precompiled contracts.
        let is_reserved = |address: Address| address.iter().take(18).all(|byte| *byte == 0);
        if is_reserved(pay_to) {
            return unusable("payTo is the zero address or a precompiled contract");
        }
        if pay_to == asset {
            return unusable("payTo is the token itself");
        }
        if self.signers.contains(&pay_to) {
            return unusable("payTo is the facilitator itself");
        }
        if is_reserved(authorization.from) {
            return Err(Rejection::new(
                reason::SIGNATURE,
                "the payer is the zero address or a precompiled contract",
            ));
        }
        Ok(())
    }
}

/// The payload's authorization and its signature.
fn read_payload(payload: &Object) -> Result<(Authorization, Signature), Refusal> {
    let payload: PayloadJson = payload.read("paymentPayload.payload")?;
    let Some(authorization) = payload.authorization.map(Authorization::from) else {
        let detail = "not an EIP-3009 authorization";
        return Err(Rejection::new(reason::UNSUPPORTED_PAYLOAD_TYPE, detail).into());
    };
    let field = "paymentPayload.payload.signature";
    let signature = payload
        .signature
        .ok_or_else(|| Malformed::new(field, "missing"))?;
    Ok((authorization, Signature::read(field, signature.0)?))
}

/// Whether the requirements name the EIP-712 domain that the token has.
fn check_domain(token: &Token, name: &str, version: &str) -> Result<(), Rejection> {
    let mismatch = |reason: Reason, found: &str, expected: &str| {
        let detail = format!("the requirements say {found:?}, the token {expected:?}");
        Err(Rejection::new(reason, detail))
    };
    if *name != token.name {
        return mismatch(reason::TOKEN_NAME_MISMATCH, name, &token.name);
    }
    if *version != token.version {
        return mismatch(reason::TOKEN_VERSION_MISMATCH, version, &token.version);
    }
    Ok(())
}

/// The checks of the authorization itself, in the specification's order.
fn objection(
    authorization: &Authorization,
    pay_to: Address,
    amount: Amount,
    now: Timestamp,
) -> Option<Rejection> {
    if authorization.to != pay_to {
        let detail = format!("authorized to {}, required to {pay_to}", authorization.to);
        return Some(Rejection::new(reason::RECIPIENT_MISMATCH, detail));
    }
    if let Err(rejection) = check_window(authorization, now, now, REMAINING_MIN_SECS) {
        return Some(rejection);
    }
    if authorization.value != amount.units() {
        let detail = format!("authorized {}, required {amount}", authorization.value);
        return Some(Rejection::new(reason::VALUE_MISMATCH, detail));
    }
    None
}

/// Whether the authorization is valid for `remaining_min` seconds more, by our clock and by the
/// chain's, whichever is stricter, and now or soon.
fn check_window(
    authorization: &Authorization,
    now: Timestamp,
    chain: Timestamp,
    remaining_min: u64,
) -> Result<(), Rejection> {
    let Authorization {
        valid_after,
        valid_before,
        ..
    } = authorization;
    let later = now.max(chain);
    let seconds = |moment: Timestamp| U256::from(moment.secs());
    if *valid_before < seconds(later.plus_secs(remaining_min)) {
        let detail = format!(
            "valid before {valid_before}, and it is {later}; at least {remaining_min} seconds must be left"
        );
        return Err(Rejection::new(reason::VALID_BEFORE, detail));
    }
    if *valid_before > seconds(later.plus_secs(LIFETIME_MAX_SECS)) {
        let detail = format!("valid for longer than {LIFETIME_MAX_SECS} seconds");
        return Err(Rejection::new(reason::VALID_BEFORE, detail));
    }
    // What opens sooner is not rejected but waited for.
    if *valid_after > seconds(later.plus_secs(NOT_YET_MAX_SECS)) {
        let detail = format!("valid after {valid_after}, and it is {later}");
        return Err(Rejection::new(reason::VALID_AFTER, detail));
    }
    Ok(())
}

/// How long it takes until the authorization opens, zero for the next block; `None` where it is
/// open. The token wants the block's time to be later than `validAfter`, and many wallets sign
/// their own time there.
fn opens_in(authorization: &Authorization, now: Timestamp, chain: Timestamp) -> Option<Duration> {
    let valid_after = u64::try_from(authorization.valid_after).unwrap_or(u64::MAX);
    let opens = Timestamp::from_secs(valid_after).plus_secs(1);
    (opens > chain).then(|| Duration::from_secs(opens.secs_since(now)))
}

/// The steps of a probe, by place.
mod step {
    pub(super) const ASSET_CODE: usize = 0;
    pub(super) const PAYER_CODE: usize = 1;
    pub(super) const AUTHORIZATION_STATE: usize = 2;
    pub(super) const BALANCE: usize = 3;
    pub(super) const TRANSFER: usize = 4;
    pub(super) const WALLET: usize = 5;
}

impl Payment<Evm> for Eip3009Payment {
    fn info(&self) -> &PaymentInfo {
        self.info.get_or_init(|| self.spell_facts())
    }

    fn signatures(&self) -> &[SignatureClaim] {
        &self.claims
    }

    fn check(&self, observed: &Observed<'_, Evm>) -> Result<Check<Evm>, Rejection> {
        let signed_by_key = observed.signatures == [true];
        let answer = match (observed.answers, signed_by_key) {
            ([], true) => {
                // Whoever holds the payer's key said all this, so what is wrong with it can be said at once.
                self.objection.clone().map_or(Ok(()), Err)?;
                return Ok(Check::Ask(self.probe_key()));
            }
            ([], false) => {
                self.check_wallets_allowed(reason::SIGNATURE)?;
                return Ok(Check::Ask(self.probe_contract()));
            }
            // An account with code is asked itself, whatever its key has signed: so does the token.
            ([first], true) if has_code(&first.outcomes) => {
                self.check_wallets_allowed(reason::CONTRACT_WALLET_NOT_ALLOWED)?;
                return Ok(Check::Ask(self.probe_contract()));
            }
            ([.., last], _) => last,
        };
        for outcomes in answer.looks() {
            if !signed_by_key || has_code(outcomes) {
                self.check_wallet(outcomes)?;
            }
        }
        self.objection.clone().map_or(Ok(()), Err)?;
        let remaining_min = inclusion_secs(answer.block_secs);
        check_window(
            &self.authorization,
            observed.now,
            answer.chain_time,
            remaining_min,
        )?;
        for outcomes in answer.looks() {
            self.check_state(outcomes)?;
        }
        if let Some(time) = opens_in(&self.authorization, observed.now, answer.chain_time) {
            return Ok(Check::NotYet(time));
        }
        for outcomes in answer.looks() {
            check_transfer(outcomes)?;
        }
        Ok(Check::Valid)
    }

    /// A contract wallet was tried as the transaction of one signer, and could tell another's from it.
    fn sender(&self, observed: &Observed<'_, Evm>) -> Option<LaneId> {
        observed.answers.last()?.sender.clone()
    }

    fn balance(&self, observed: &Observed<'_, Evm>) -> Option<Amount> {
        let found = observed
            .answers
            .last()?
            .outcomes
            .get(step::BALANCE)?
            .word()?;
        Some(Amount::new(U256::from_be_bytes(found.0)))
    }

    fn depends_on_time(&self, rejection: &Rejection) -> bool {
        [reason::VALID_AFTER, reason::VALID_BEFORE].contains(&rejection.reason)
    }

    fn action(&self, amount: Amount, observed: &Observed<'_, Evm>) -> Result<Call, Rejection> {
        if amount.units() != self.authorization.value {
            return Err(Rejection::new(
                reason::VALUE_MISMATCH,
                "exact settles exactly what was authorized",
            ));
        }
        let answer = observed.answers.last().ok_or(reason::SIMULATION_FAILED)?;
        let gas = |outcomes: &[Outcome]| outcomes.get(step::TRANSFER).and_then(Outcome::gas);
        let gas = answer.looks().filter_map(gas).max();
        let gas = gas.ok_or(reason::SIMULATION_FAILED)?;
        let code = has_code(&answer.outcomes);
        let by_key = self.signature.ecdsa().filter(|_| !code);
        Ok(Call {
            to: self.token,
            data: match &by_key {
                Some(signature) => self.authorization.transfer_with_key(signature),
                None => self.authorization.transfer_with_contract(&self.signature),
            },
            gas: gas.into(),
            // A contract wallet's code runs in the transfer and could take the others' gas.
            batchable: by_key.is_some(),
            effect_key: self.effect_key(),
        })
    }

    fn used_by(&self, rejection: &Rejection) -> Option<AuthorizationUse> {
        (rejection.reason == reason::NONCE_ALREADY_USED).then_some(AuthorizationUse {
            token: self.token,
            authorizer: self.authorization.from,
            nonce: self.authorization.nonce,
        })
    }

    fn effect(&self, _: Amount, evidence: &Evidence) -> Effect {
        if !evidence.succeeded {
            let detail = "the transaction was included and reverted";
            return Effect::None(Rejection::new(reason::TRANSACTION_FAILED, detail));
        }
        let ours = |log: &&Log| log.address == self.token;
        let logs: Vec<&Log> = evidence.logs.iter().filter(ours).collect();
        match self.logs_authorization_first {
            true => self.effect_by_nonce(&logs),
            false => self.effect_by_transfer(&logs),
        }
    }
}

fn has_code(outcomes: &[Outcome]) -> bool {
    outcomes
        .get(step::PAYER_CODE)
        .and_then(Outcome::code_size)
        .is_none_or(|size| size > 0)
}

impl Eip3009Payment {
    /// What happened, by the logs of a token that logs the use of an authorization right before its transfer: the nonce
    /// says which transfer is this payment's, however many are equal to it.
    fn effect_by_nonce(&self, logs: &[&Log]) -> Effect {
        let mut uses = (0..logs.len()).filter(|at| self.is_use(logs[*at]));
        match (uses.next(), uses.next()) {
            (None, _) => Effect::None(mismatch("the token did not use the authorization")),
            (Some(at), None) if logs.get(at + 1).is_some_and(|log| self.is_transfer(log)) => {
                Effect::Transferred(Amount::new(self.authorization.value))
            }
            (Some(_), None) => Effect::Mismatch(mismatch(
                "the token used the authorization and logged no such transfer right after it",
            )),
            (Some(_), Some(_)) => {
                Effect::Mismatch(mismatch("the token used the authorization more than once"))
            }
        }
    }

    /// What happened, by the logs of a token of which no order is known: there must be one transfer like this payment's
    /// and no second.
    fn effect_by_transfer(&self, logs: &[&Log]) -> Effect {
        let used = logs.iter().any(|log| self.is_use(log));
        match logs.iter().filter(|log| self.is_transfer(log)).count() {
            1 => Effect::Transferred(Amount::new(self.authorization.value)),
            0 if used => Effect::Mismatch(mismatch(
                "the token used the authorization and logged no such transfer",
            )),
            0 => Effect::None(mismatch("the token logged no such transfer")),
            _ => Effect::Mismatch(mismatch("the token logged the transfer more than once")),
        }
    }

    fn is_use(&self, log: &Log) -> bool {
        let Authorization { from, nonce, .. } = self.authorization;
        log.decode::<Eip3009::AuthorizationUsed>()
            .is_some_and(|used| used.authorizer == from && used.nonce == nonce)
    }

    fn is_transfer(&self, log: &Log) -> bool {
        let Authorization {
            from, to, value, ..
        } = self.authorization;
        log.decode::<Erc20::Transfer>()
            .is_some_and(|log| log.from == from && log.to == to && log.value == value)
    }

    /// Whether the operator lets accounts with code pay; `refusal` is what is said otherwise.
    fn check_wallets_allowed(&self, refusal: Reason) -> Result<(), Rejection> {
        match self.contract_wallets {
            true => Ok(()),
            false => Err(Rejection::new(
                refusal,
                "this facilitator takes payments by key only, not from contract wallets or delegated accounts",
            )),
        }
    }

    fn spell_facts(&self) -> PaymentInfo {
        let Authorization {
            from,
            to,
            value,
            valid_before,
            ..
        } = &self.authorization;
        PaymentInfo {
            id: self.authorization.id(self.chain_id, self.token),
            payer: from.to_checksum(None),
            pay_to: to.to_checksum(None),
            asset: self.token.to_checksum(None),
            amount: Amount::new(*value),
            expires: Timestamp::from_secs(valid_before.try_into().unwrap_or(u64::MAX)),
        }
    }

    /// What is asked for a payer whose key has signed.
    fn probe_key(&self) -> Probe {
        let payer = self.authorization.from;
        let signature = self.signature.ecdsa().unwrap_or(Ecdsa([0; 65]));
        let transfer = self.call(
            self.authorization.transfer_with_key(&signature),
            Condition::NoCode(payer),
        );
        Probe {
            steps: self.steps(transfer),
            as_transaction: false,
        }
    }

    /// What is asked for a payer that may be a contract.
    fn probe_contract(&self) -> Probe {
        let payer = self.authorization.from;
        let transfer = self.call(
            self.authorization.transfer_with_contract(&self.signature),
            Condition::HasCode(payer),
        );
        let question = ContractWallet::isValidSignatureCall {
            hash: self.digest,
            signature: self.signature.bytes.clone(),
        };
        let wallet = Step::Call {
            to: payer,
            data: question.abi_encode().into(),
            gas: self.gas_max,
            when: Condition::HasCode(payer),
        };
        let mut steps = self.steps(transfer);
        steps.push(wallet);
        Probe {
            steps,
            as_transaction: true,
        }
    }

    fn steps(&self, transfer: Step) -> Vec<Step> {
        let Authorization { from, nonce, .. } = self.authorization;
        let view = |data: Vec<u8>| Step::Call {
            to: self.token,
            data: data.into(),
            gas: VIEW_GAS,
            when: Condition::Always,
        };
        vec![
            Step::CodeSize(self.token),
            Step::CodeSize(from),
            view(
                Eip3009::authorizationStateCall {
                    authorizer: from,
                    nonce,
                }
                .abi_encode(),
            ),
            view(Erc20::balanceOfCall { account: from }.abi_encode()),
            transfer,
        ]
    }

    fn call(&self, data: alloy::primitives::Bytes, when: Condition) -> Step {
        Step::Call {
            to: self.token,
            data,
            gas: self.gas_max,
            when,
        }
    }

    /// A payer that did not sign by key must be a contract that accepts the signature.
    fn check_wallet(&self, outcomes: &[Outcome]) -> Result<(), Rejection> {
        if !has_code(outcomes) {
            return Err(match self.signature.factory {
                Some(_) => Rejection::new(
                    reason::FACTORY_NOT_ALLOWED,
                    "the payer's account does not exist yet, and none is deployed for it (ERC-6492)",
                ),
                None => Rejection::new(reason::SIGNATURE, self.expected_signature()),
            });
        }
        match outcomes.get(step::WALLET).and_then(Outcome::word) {
            Some(word) if word == ERC1271_MAGIC => Ok(()),
            _ => Err(Rejection::new(
                reason::SIGNATURE,
                "the payer's contract does not accept the signature",
            )),
        }
    }

    /// What a signature must be of, for people whose one is not.
    fn expected_signature(&self) -> String {
        format!(
            "not signed by the payer {}: expected is its signature over TransferWithAuthorization in the EIP-712 domain with \
             the required name and version, chain id {} and contract {}",
            self.authorization.from, self.chain_id, self.token,
        )
    }

    /// Whether the token is there, and would let the payer's money go.
    fn check_state(&self, outcomes: &[Outcome]) -> Result<(), Rejection> {
        let outcome = |at: usize| outcomes.get(at);
        if outcome(step::ASSET_CODE)
            .and_then(Outcome::code_size)
            .is_none_or(|size| size == 0)
        {
            let detail = "there is no contract at the asset's address";
            return Err(Rejection::new(reason::ASSET_NOT_DEPLOYED, detail));
        }
        let used = outcome(step::AUTHORIZATION_STATE)
            .and_then(Outcome::word)
            .ok_or_else(|| {
                let detail =
                    "the token does not answer authorizationState, so it does not take EIP-3009";
                Rejection::new(reason::EIP3009_NOT_SUPPORTED, detail)
            })?;
        if !used.is_zero() {
            let detail = "the authorization's nonce was used or cancelled";
            return Err(Rejection::new(reason::NONCE_ALREADY_USED, detail));
        }
        let balance = outcome(step::BALANCE).and_then(Outcome::word);
        let balance = balance.map(|balance| U256::from_be_bytes(balance.0));
        let value = self.authorization.value;
        if let Some(balance) = balance.filter(|balance| *balance < value) {
            let detail =
                format!("the payer has {balance} atomic units, and the payment is of {value}");
            return Err(Rejection::new(reason::INSUFFICIENT_BALANCE, detail));
        }
        Ok(())
    }

    /// Two payments with one mark cannot be told apart by their logs.
    fn effect_key(&self) -> B256 {
        let Authorization {
            from,
            to,
            value,
            nonce,
            ..
        } = &self.authorization;
        match self.logs_authorization_first {
            true => keccak256((self.token, from, nonce).abi_encode()),
            false => keccak256((self.token, from, to, value).abi_encode()),
        }
    }
}

fn mismatch(detail: &str) -> Rejection {
    Rejection::new(reason::TRANSFER_EVENT_MISMATCH, detail)
}

/// Whether the token would make the transfer.
fn check_transfer(outcomes: &[Outcome]) -> Result<(), Rejection> {
    match outcomes.get(step::TRANSFER) {
        Some(Outcome::Returned { .. }) => Ok(()),
        Some(Outcome::Reverted { data }) => Err(Rejection::new(
            reason::SIMULATION_FAILED,
            revert_reason(data),
        )),
        _ => Err(Rejection::new(
            reason::SIMULATION_FAILED,
            "the trial of the transfer ended without a result",
        )),
    }
}

/// Why a call reverted, for people: the text of `Error(string)`, or what there is.
fn revert_reason(data: &[u8]) -> String {
    alloy::sol_types::decode_revert_reason(data)
        .map(|reason| {
            reason
                .chars()
                .filter(|letter| !letter.is_control())
                .collect()
        })
        .unwrap_or_else(|| "the transfer would revert".to_owned())
}

#[cfg(test)]
mod tests;
