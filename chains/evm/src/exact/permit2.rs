//! The asset transfer method `permit2`: the x402 proxy for exact payments makes a transfer by a
//! Permit2 permit. The recipient is in the permit's witness, so that the proxy can pay no other.

use alloy::primitives::{Address, B256, Bytes, Log, U256, b256, keccak256};
use alloy::sol_types::{SolCall, SolEvent, SolInterface, SolValue};
use quittance_core::{Amount, Effect, LaneId, PaymentInfo, Reason, Rejection, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};

use super::payment::{
    ContractCall, Method, Reasons, check_equal, effect_by_transfers, is_deployed, view,
};
use super::reason;
use super::sponsoring::SignedApproval;
use super::window::Window;
use crate::abi::{
    EIP2612Permit, Eip3009, ExactPermit2Proxy as Proxy,
    Permit2ProxyErrors::Permit2ProxyErrorsErrors as Errors,
};
use crate::chain::{AuthorizationSearch, Step, StepOutcome};
use crate::hex::Hex;
use crate::permit2::{
    EXACT_PERMIT2_PROXY, PERMIT2, PermitJson, PermitUse, WitnessPermit, WitnessType,
};
use crate::signature::{EcdsaSignature, PayerSignature};

/// The hashes of `PermitWitnessTransferFrom(TokenPermissions permitted,address spender,uint256
/// nonce,uint256 deadline,Witness witness)TokenPermissions(address token,uint256 amount)Witness(
/// address to,uint256 validAfter)` and of its `Witness`.
const WITNESS: WitnessType = WitnessType {
    permit_type_hash: b256!("ebc156cd23678a74c94df13d772ef5478420637f0c94bd10d509e1dc98f521c7"),
    witness_type_hash: b256!("d97b3239a7f32295517bd14cb074edfdd188dfe5eb42f802bb26d4fd1eb12c37"),
};

static REASONS: Reasons = permit_reasons(
    reason::TRANSACTION_FAILED,
    reason::CONTRACT_WALLET_NOT_ALLOWED,
);

/// The reason codes of a payment by a permit. All but these two are the same in every scheme.
pub(crate) const fn permit_reasons(
    transaction_failed: Reason,
    wallet_not_allowed: Reason,
) -> Reasons {
    Reasons {
        signature: reason::PERMIT2_SIGNATURE,
        recipient_mismatch: reason::PERMIT2_RECIPIENT_MISMATCH,
        value_mismatch: reason::PERMIT2_AMOUNT_MISMATCH,
        insufficient_balance: reason::PERMIT2_INSUFFICIENT_BALANCE,
        simulation_failed: reason::PERMIT2_SIMULATION_FAILED,
        transaction_failed,
        wallet_not_allowed,
    }
}

/// A permit with the witness of an x402 proxy, which alone can use it.
pub(crate) trait ProxyPermit: Send + Sync {
    /// The address of the proxy.
    const PROXY: Address;

    /// The codes of its rejections.
    fn reasons(&self) -> &'static Reasons;

    /// The permit.
    fn permit(&self) -> &WitnessPermit;

    /// The recipient, which the witness names.
    fn to(&self) -> Address;

    /// The first block time at which it can be used, in seconds since 1970.
    fn valid_after(&self) -> U256;

    /// The digest that the owner signs.
    fn digest(&self, domain_separator: &B256) -> B256;

    /// The reason code of an error that only this permit's proxy has.
    fn own_reason(_error: &Errors) -> Option<Reason> {
        None
    }

    /// The data of the call of the proxy that transfers `amount`.
    fn settle(&self, amount: U256, signature: Bytes) -> Bytes;

    /// The same, after an approval of Permit2 at the token.
    fn settle_with_approval(
        &self,
        approval: EIP2612Permit,
        amount: U256,
        signature: Bytes,
    ) -> Bytes;

    /// The transfer, as the chain shows it.
    fn transfer(&self) -> PermitUse;

    /// See [`Method::sender`].
    fn sender(&self) -> Option<(Address, &LaneId)> {
        None
    }

    /// See [`Method::check_amount`].
    fn check_amount(&self, amount: Amount, _settling: bool) -> Result<(), Rejection> {
        check_equal(self.permit().amount, amount, self.reasons())
    }

    /// See [`Method::effect`]. If the token logs the use of an authorization right before its
    /// transfer, `authorization_first` is true.
    fn effect(&self, _amount: Amount, logs: &[&Log], authorization_first: bool) -> Effect {
        effect_of_all(&self.transfer(), logs, authorization_first)
    }
}

/// Checks that the permit is for this token, and that only the proxy can use it: another spender
/// could pay another recipient.
pub(crate) fn check_scope(
    permit: &WitnessPermit,
    proxy: Address,
    asset: Address,
) -> Result<(), Rejection> {
    let (spender, token) = (permit.spender, permit.token);
    if spender != proxy {
        let detail =
            format!("permit2Authorization.spender is {spender}, but must be the proxy {proxy}");
        return Err(Rejection::new(reason::PERMIT2_SPENDER, detail));
    }
    if token != asset {
        let detail = format!(
            "permit2Authorization.permitted.token is {token}, but the required asset is {asset}"
        );
        return Err(Rejection::new(reason::PERMIT2_TOKEN_MISMATCH, detail));
    }
    Ok(())
}

/// The effect if the proxy transfers all that is permitted. Its own event has no fields. The
/// token's transfer shows that the money moved. One right after `AuthorizationUsed` belongs to an
/// EIP-3009 payment in the same transaction.
fn effect_of_all(transfer: &PermitUse, logs: &[&Log], authorization_first: bool) -> Effect {
    let is_use = |log: &&Log| Eip3009::AuthorizationUsed::decode_log_data(&log.data).is_ok();
    let by_eip3009 = |at: usize| {
        let before = at.checked_sub(1).and_then(|before| logs.get(before));
        authorization_first && before.is_some_and(is_use)
    };
    let transfers = logs.iter().enumerate();
    let transfers = transfers.filter(|(at, log)| transfer.is_transfer(log) && !by_eip3009(*at));
    effect_by_transfers(transfers.count(), transfer.amount)
}

/// A permit for the proxy, as the payload's `permit2Authorization` has it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "PermitJson<WitnessJson>")]
pub(crate) struct ExactPermit {
    pub(super) permit: WitnessPermit,
    /// The recipient.
    pub(super) to: Address,
    /// The first block time at which it can be used, in seconds since 1970.
    pub(super) valid_after: U256,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WitnessJson {
    to: Hex<20>,
    valid_after: Amount,
}

impl From<PermitJson<WitnessJson>> for ExactPermit {
    fn from(json: PermitJson<WitnessJson>) -> Self {
        Self {
            permit: json.permit(),
            to: json.witness.to.0.into(),
            valid_after: json.witness.valid_after.units(),
        }
    }
}

impl ExactPermit {
    /// The payload of a payment by this permit.
    pub(super) fn payload(&self, signature: &Bytes) -> Value {
        let witness = json!({
            "to": self.to.to_checksum(None),
            "validAfter": self.valid_after.to_string(),
        });
        self.permit.payload(signature, witness)
    }

    /// The witness as the proxy takes it.
    fn witness(&self) -> Proxy::Witness {
        Proxy::Witness {
            to: self.to,
            validAfter: self.valid_after,
        }
    }
}

impl ProxyPermit for ExactPermit {
    const PROXY: Address = EXACT_PERMIT2_PROXY;

    fn reasons(&self) -> &'static Reasons {
        &REASONS
    }

    fn permit(&self) -> &WitnessPermit {
        &self.permit
    }

    fn to(&self) -> Address {
        self.to
    }

    fn valid_after(&self) -> U256 {
        self.valid_after
    }

    fn digest(&self, domain_separator: &B256) -> B256 {
        let witness = [self.to.into_word(), self.valid_after.into()];
        self.permit.digest(domain_separator, &WITNESS, witness)
    }

    /// The proxy transfers exactly what is permitted.
    fn settle(&self, _: U256, signature: Bytes) -> Bytes {
        let permit = &self.permit;
        let call = Proxy::settleCall {
            permit: permit.to_abi(),
            owner: permit.owner,
            witness: self.witness(),
            signature,
        };
        call.abi_encode().into()
    }

    fn settle_with_approval(&self, approval: EIP2612Permit, _: U256, signature: Bytes) -> Bytes {
        let call = Proxy::settleWithPermitCall {
            approval,
            permit: self.permit.to_abi(),
            owner: self.permit.owner,
            witness: self.witness(),
            signature,
        };
        call.abi_encode().into()
    }

    fn transfer(&self) -> PermitUse {
        PermitUse::new(&self.permit, self.to)
    }
}

/// A permit on one chain.
pub(crate) struct Permit2Transfer<P> {
    pub(crate) chain_id: u64,
    /// The separator of Permit2's EIP-712 domain on this chain.
    pub(crate) domain_separator: B256,
    /// See [`Token::logs_authorization_first`](crate::Token::logs_authorization_first).
    pub(crate) logs_authorization_first: bool,
    pub(crate) authorization: P,
    /// The approval of Permit2 that the payer signed beside the permit.
    pub(crate) approval: Option<SignedApproval>,
}

/// The state steps, by index.
mod state {
    pub(super) const PROXY_CODE: usize = 0;
    pub(super) const NONCES: usize = 1;
    pub(super) const ALLOWANCE: usize = 2;
}

impl<P: ProxyPermit> Permit2Transfer<P> {
    fn permit(&self) -> &WitnessPermit {
        self.authorization.permit()
    }

    /// How much of the payer's tokens Permit2 may move, by the outcomes of the state steps.
    fn allowance(outcomes: &[StepOutcome]) -> Option<U256> {
        let word = outcomes.get(state::ALLOWANCE)?.word()?;
        Some(U256::from_be_bytes(word.0))
    }

    /// The rejection of a payer that has approved only this much.
    fn allowance_required(&self, allowance: U256, amount: U256) -> Rejection {
        let what = match self.approval {
            None => format!("the payer has to approve {PERMIT2} at the token"),
            Some(_) => "the token does not accept the signed approval, or the transfer".to_owned(),
        };
        let detail = format!(
            "Permit2 may move {allowance} atomic units of the payer's tokens, and the payment is of {amount}: {what}"
        );
        Rejection::new(reason::PERMIT2_ALLOWANCE_REQUIRED, detail)
    }
}

/// The bytes of a key's signature for Permit2, which takes `v` as it is. Some wallets write 0 or 1.
fn key_signature(signature: &EcdsaSignature) -> Bytes {
    let mut bytes = signature.0;
    bytes[64] = signature.v();
    bytes.to_vec().into()
}

/// The reason code of an error of the permit's proxy.
pub(crate) fn proxy_reason<P: ProxyPermit>(data: &[u8]) -> Option<Reason> {
    let error = Errors::abi_decode(data).ok()?;
    Some(match error {
        Errors::InvalidAmount(_) => reason::PERMIT2_INVALID_AMOUNT,
        Errors::InvalidDestination(_) => reason::PERMIT2_INVALID_DESTINATION,
        Errors::InvalidOwner(_) => reason::PERMIT2_INVALID_OWNER,
        Errors::PaymentTooEarly(_) => reason::PERMIT2_PAYMENT_TOO_EARLY,
        Errors::Permit2612AmountMismatch(_) => reason::PERMIT2_2612_AMOUNT_MISMATCH,
        Errors::AmountExceedsPermitted(_) | Errors::UnauthorizedFacilitator(_) => {
            return P::own_reason(&error);
        }
    })
}

impl<P: ProxyPermit> Method for Permit2Transfer<P> {
    const STATE_STEPS: usize = 3;

    fn reasons(&self) -> &'static Reasons {
        self.authorization.reasons()
    }

    fn info(&self) -> PaymentInfo {
        let permit = self.permit();
        PaymentInfo {
            id: permit.payment_id(self.chain_id),
            payer: permit.owner.to_checksum(None),
            pay_to: self.pay_to().to_checksum(None),
            asset: permit.token.to_checksum(None),
            amount: Amount::new(permit.amount),
            expires: Timestamp::from_secs(permit.valid_before().try_into().unwrap_or(u64::MAX)),
        }
    }

    fn token(&self) -> Address {
        self.permit().token
    }

    fn payer(&self) -> Address {
        self.permit().owner
    }

    fn pay_to(&self) -> Address {
        self.authorization.to()
    }

    fn value(&self) -> U256 {
        self.permit().amount
    }

    fn sender(&self) -> Option<(Address, &LaneId)> {
        self.authorization.sender()
    }

    fn check_amount(&self, amount: Amount, settling: bool) -> Result<(), Rejection> {
        self.authorization.check_amount(amount, settling)
    }

    fn digest(&self) -> B256 {
        self.authorization.digest(&self.domain_separator)
    }

    fn signed_message(&self) -> String {
        format!(
            "PermitWitnessTransferFrom in the EIP-712 domain of Permit2, chain id {} and contract {PERMIT2}",
            self.chain_id
        )
    }

    /// The proxy accepts a block at `validAfter` itself. An approval that expires earlier than the
    /// permit ends the time of both.
    fn window(&self) -> Window {
        let valid_after = self.authorization.valid_after();
        let permit = Window {
            valid_after: valid_after.saturating_sub(U256::ONE),
            valid_before: self.permit().valid_before(),
            not_yet: reason::PERMIT2_NOT_YET_VALID,
            expired: reason::PERMIT2_DEADLINE_EXPIRED,
        };
        match &self.approval {
            None => permit,
            Some(approval) => {
                permit.until(approval.valid_before(), reason::EIP2612_DEADLINE_EXPIRED)
            }
        }
    }

    fn check_approval(&self) -> Result<(), Rejection> {
        let approval = self.approval.as_ref();
        let other_amount = reason::PERMIT2_2612_AMOUNT_MISMATCH;
        approval.map_or(Ok(()), |approval| {
            approval.check(self.permit(), other_amount)
        })
    }

    fn state_steps(&self) -> Vec<Step> {
        let permit = self.permit();
        vec![
            Step::CodeSize(P::PROXY),
            view(PERMIT2, permit.nonce_call()),
            view(permit.token, permit.allowance_call()),
        ]
    }

    fn transfer_with_key(&self, amount: U256, signature: &EcdsaSignature) -> ContractCall {
        let signature = key_signature(signature);
        (P::PROXY, self.authorization.settle(amount, signature))
    }

    fn transfer_with_contract(&self, amount: U256, signature: &PayerSignature) -> ContractCall {
        let signature = signature.bytes.clone();
        (P::PROXY, self.authorization.settle(amount, signature))
    }

    fn transfer_with_approval(
        &self,
        amount: U256,
        key: Option<&EcdsaSignature>,
        signature: &PayerSignature,
    ) -> Option<ContractCall> {
        let approval = self.approval.as_ref()?.to_abi();
        let signature = key.map_or_else(|| signature.bytes.clone(), key_signature);
        let permit = &self.authorization;
        Some((
            P::PROXY,
            permit.settle_with_approval(approval, amount, signature),
        ))
    }

    /// An approval replaces the allowance. So it is not submitted if the allowance is enough: the
    /// payer's other payments may need more than this one.
    fn needs_approval(&self, amount: U256, outcomes: &[StepOutcome]) -> bool {
        let allowance = Self::allowance(outcomes);
        self.approval.is_some() && allowance.is_some_and(|allowance| allowance < amount)
    }

    fn check_usable(&self, outcomes: &[StepOutcome]) -> Result<(), Rejection> {
        if !is_deployed(outcomes.get(state::PROXY_CODE)) {
            let detail = format!(
                "there is no contract at {}, the x402 proxy for Permit2, on this network",
                P::PROXY
            );
            return Err(Rejection::new(reason::PERMIT2_PROXY_NOT_DEPLOYED, detail));
        }
        let word = outcomes.get(state::NONCES).and_then(StepOutcome::word);
        let word = word.ok_or_else(|| {
            let detail = format!("there is no Permit2 contract at {PERMIT2} on this network");
            Rejection::new(reason::PERMIT2_SIMULATION_FAILED, detail)
        })?;
        if self.permit().is_used(word) {
            let detail = "the permit's nonce was used or invalidated";
            return Err(Rejection::new(reason::PERMIT2_NONCE_USED, detail));
        }
        Ok(())
    }

    /// Permits that exceed the allowance together would revert at the operator's cost, as those
    /// that exceed the balance. A token accepts one signed approval after another, and each
    /// replaces the allowance. So a payment that needs one is its payer's only open payment.
    fn spendable(&self, amount: U256, balance: U256, outcomes: &[StepOutcome]) -> U256 {
        let allowance = match self.needs_approval(amount, outcomes) {
            true => Some(amount),
            false => Self::allowance(outcomes),
        };
        allowance.map_or(balance, |allowance| balance.min(allowance))
    }

    fn used_by(&self, rejection: &Rejection) -> Option<AuthorizationSearch> {
        let is_used = rejection.reason == reason::PERMIT2_NONCE_USED;
        is_used.then(|| AuthorizationSearch::Permit2(self.authorization.transfer()))
    }

    /// With a signed approval, the simulation of the transfer decides.
    fn check_funded(&self, amount: U256, outcomes: &[StepOutcome]) -> Result<(), Rejection> {
        match Self::allowance(outcomes).filter(|allowance| *allowance < amount) {
            Some(allowance) if self.approval.is_none() => {
                Err(self.allowance_required(allowance, amount))
            }
            _ => Ok(()),
        }
    }

    fn reverted(&self, amount: U256, outcomes: &[StepOutcome], data: &[u8]) -> Option<Rejection> {
        if let Some(reason) = proxy_reason::<P>(data) {
            return Some(Rejection::new(
                reason,
                "the x402 proxy for Permit2 refuses it",
            ));
        }
        let allowance = Self::allowance(outcomes).filter(|allowance| *allowance < amount)?;
        Some(self.allowance_required(allowance, amount))
    }

    /// If the token does not log authorizations first, an equal EIP-3009 transfer has the same key,
    /// so the two never share a transaction.
    fn effect_key(&self) -> B256 {
        let permit = self.permit();
        keccak256((permit.token, permit.owner, self.pay_to(), permit.amount).abi_encode())
    }

    fn effect(&self, amount: Amount, logs: &[&Log]) -> Effect {
        let authorization_first = self.logs_authorization_first;
        self.authorization.effect(amount, logs, authorization_first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::Erc20;
    use crate::permit2::domain_separator;
    use alloy::sol;
    use alloy::sol_types::{SolStruct, eip712_domain};
    use proptest::prelude::*;

    sol! {
        struct TokenPermissions { address token; uint256 amount; }
        struct Witness { address to; uint256 validAfter; }
        struct PermitWitnessTransferFrom {
            TokenPermissions permitted; address spender; uint256 nonce; uint256 deadline;
            Witness witness;
        }
    }

    proptest! {
        #[test]
        fn digest_equals_that_of_an_independent_implementation(
            accounts: [[u8; 20]; 4], numbers: [[u64; 4]; 4], chain_id: u64,
        ) {
            let [owner, token, spender, to] = accounts.map(Address::from);
            let [amount, nonce, deadline, valid_after] = numbers.map(U256::from_limbs);
            let permit = WitnessPermit::new(owner, (token, amount), spender, nonce, deadline);
            let ours = ExactPermit { permit, to, valid_after };
            let other = PermitWitnessTransferFrom {
                permitted: TokenPermissions { token, amount }, spender, nonce, deadline,
                witness: Witness { to, validAfter: valid_after },
            };
            let domain = eip712_domain! {
                name: "Permit2", chain_id: chain_id, verifying_contract: PERMIT2,
            };
            prop_assert_eq!(ours.digest(&domain_separator(chain_id)), other.eip712_signing_hash(&domain));
        }
    }

    #[test]
    fn selectors_are_those_of_the_deployed_proxy() {
        assert_eq!(Proxy::settleCall::SELECTOR, [0x13, 0xcd, 0x3b, 0x53]);
        let with_approval = Proxy::settleWithPermitCall::SELECTOR;
        assert_eq!(with_approval, [0xfa, 0x34, 0x03, 0x78]);
    }

    #[test]
    fn errors_of_the_proxy_have_their_reasons() {
        let reason = |signature: &str| proxy_reason::<ExactPermit>(&keccak256(signature)[..4]);
        for (signature, expected) in [
            ("InvalidAmount()", "permit2_invalid_amount"),
            ("InvalidDestination()", "permit2_invalid_destination"),
            ("InvalidOwner()", "permit2_invalid_owner"),
            ("PaymentTooEarly()", "permit2_payment_too_early"),
            ("Permit2612AmountMismatch()", "permit2_2612_amount_mismatch"),
        ] {
            assert_eq!(reason(signature).unwrap().code(), expected);
        }
        // A payer's contract can revert with any data. Codes of a used permit need its nonce.
        for other in [
            "InvalidNonce()",
            "Error(string)",
            "AmountExceedsPermitted()",
            "",
        ] {
            assert_eq!(reason(other), None, "{other}");
        }
        assert_eq!(proxy_reason::<ExactPermit>(&[]), None);
    }

    fn transfer_of(authorization: &ExactPermit) -> Log {
        let event = Erc20::Transfer {
            from: authorization.permit.owner,
            to: authorization.to,
            value: authorization.permit.amount,
        };
        log(authorization, &event)
    }

    fn log(authorization: &ExactPermit, event: &impl SolEvent) -> Log {
        Log {
            address: authorization.permit.token,
            data: event.encode_log_data(),
        }
    }

    /// A permit's payment and an EIP-3009 payment of the same amount between the same accounts
    /// shared a transaction. The permit's counted both transfers as its own, and failed.
    #[test]
    fn transfer_of_an_authorization_is_not_the_permits() {
        let [owner, token, to] = [1, 2, 3].map(Address::repeat_byte);
        let amount = (token, U256::from(5));
        let permit = WitnessPermit::new(owner, amount, to, U256::ZERO, U256::MAX);
        let authorization = ExactPermit {
            permit,
            to,
            valid_after: U256::ZERO,
        };
        let own = transfer_of(&authorization);
        let used = Eip3009::AuthorizationUsed {
            authorizer: owner,
            nonce: B256::ZERO,
        };
        let used = log(&authorization, &used);
        let payment = |logs_authorization_first| Permit2Transfer {
            chain_id: 1,
            domain_separator: domain_separator(1),
            logs_authorization_first,
            authorization: authorization.clone(),
            approval: None,
        };
        let moved = Effect::Transferred(Amount::from(5));
        assert_eq!(
            payment(true).effect(Amount::from(5), &[&used, &own, &own]),
            moved
        );
        assert_eq!(
            payment(true).effect(Amount::from(5), &[&own, &used, &own]),
            moved
        );
        let is_mismatch = |effect| matches!(effect, Effect::Mismatch(_));
        assert!(is_mismatch(
            payment(true).effect(Amount::from(5), &[&own, &own])
        ));
        assert!(is_mismatch(
            payment(false).effect(Amount::from(5), &[&used, &own, &own])
        ));
        let is_none = |effect| matches!(effect, Effect::None(_));
        assert!(is_none(
            payment(true).effect(Amount::from(5), &[&used, &own])
        ));
        assert!(is_none(payment(true).effect(Amount::from(5), &[])));
    }
}
