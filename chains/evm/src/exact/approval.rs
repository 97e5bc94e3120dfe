//! The extension `erc20ApprovalGasSponsoring`: beside its permit, the payer signs a transaction
//! that approves Permit2 at the token. The facilitator gives the payer the coin for its gas, if the
//! payer lacks it, sends the transaction, and then settles the payment.
//!
//! The funding is the operator's loss if the payer uses it for something else. So it is bounded for
//! each approval and for each payer and day, and only one payment of a payer is sponsored at a
//! time. The state record of the payer has what it got, also after a crash.

use std::num::NonZeroU8;
use std::time::Duration;

use alloy::consensus::Transaction as _;
use alloy::consensus::TxEnvelope;
use alloy::eips::eip2718::Decodable2718;
use alloy::primitives::{Address, Bytes, TxKind, U256};
use alloy::sol_types::SolCall;
use quittance_core::json::Json;
use quittance_core::{
    Amount, Check, Effect, LaneId, Observed, Payment, PaymentId, PaymentInfo, PaymentRequest, Plan,
    Rejection, SchemeReceipt, SchemeState, SignatureClaim, StateAccess, StateChange, StateId,
    Timestamp, Transaction, TransactionId,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::payment::{ExactPayment, Method};
use super::reason;
use crate::abi::Erc20;
use crate::call::Call;
use crate::chain::{
    ApprovalGas, AuthorizationSearch, Evm, Probe, Step, StepOutcome, intrinsic_gas,
};
use crate::evidence::Evidence;
use crate::hex::{Hex, HexBytes};
use crate::permit2::{PERMIT2, WitnessPermit};
use crate::signature::EcdsaSignature;

/// The extension's identifier.
pub(crate) const APPROVAL_GAS_SPONSORING: &str = "erc20ApprovalGasSponsoring";

/// Where a request has the transaction.
const FIELD: &str = "paymentPayload.extensions.erc20ApprovalGasSponsoring.info";

/// The most bytes of the transaction. An approval has some 180.
const TRANSACTION_MAX: usize = 512;

/// The step that gives the payer coin for gas.
const FUND: NonZeroU8 = NonZeroU8::MIN;

/// The step that sends the payer's transaction.
const RELAY: NonZeroU8 = NonZeroU8::MIN.saturating_add(1);

/// For how long a funding counts, in seconds: a day.
const COUNTED_SECS: u64 = 24 * 3600;

/// A payer's signed transaction whose whole effect is an approval of Permit2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApprovalTransaction {
    owner: Address,
    token: Address,
    data: Bytes,
    nonce: u64,
    gas: u64,
    /// The most that its gas can cost, in wei.
    cost: U256,
    /// That the owner has signed it.
    claim: SignatureClaim,
    transaction: Transaction,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct InfoJson {
    from: Hex<20>,
    asset: Hex<20>,
    spender: Hex<20>,
    signed_transaction: HexBytes<TRANSACTION_MAX>,
}

impl ApprovalTransaction {
    /// The transaction in a request, if there is one, for this permit. Clients that sign none echo
    /// what the seller offered, which has no transaction.
    ///
    /// # Errors
    /// If it cannot be read, or does anything but to approve enough for the permit.
    fn read(
        request: &PaymentRequest,
        chain_id: u64,
        permit: &WitnessPermit,
    ) -> Result<Option<Self>, Rejection> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Signed {
            signed_transaction: Option<Json>,
        }
        let Some(info) = request.extension_info(APPROVAL_GAS_SPONSORING) else {
            return Ok(None);
        };
        match info.read::<Signed>(FIELD) {
            Ok(Signed {
                signed_transaction: Some(_),
            }) => {}
            _ => return Ok(None),
        }
        let info: Result<InfoJson, _> = info.read(FIELD);
        let info = info.map_err(|error| Rejection::new(reason::ERC20_APPROVAL_FORMAT, error))?;
        check_info(&info, permit)?;
        Self::decode(&info.signed_transaction.0, chain_id, permit).map(Some)
    }

    /// Decodes the transaction, and checks what needs no chain.
    fn decode(bytes: &[u8], chain_id: u64, permit: &WitnessPermit) -> Result<Self, Rejection> {
        let unreadable = |what| Rejection::new(reason::ERC20_APPROVAL_TX_PARSE, what);
        let mut rest = bytes;
        let envelope = TxEnvelope::decode_2718(&mut rest);
        let envelope = envelope.map_err(|_| unreadable("signedTransaction cannot be decoded"))?;
        let is_known = envelope.is_legacy() || envelope.is_eip2930() || envelope.is_eip1559();
        if !is_known || !rest.is_empty() {
            let what = "signedTransaction must be one transaction of type 0, 1 or 2";
            return Err(unreadable(what));
        }
        let (owner, token) = (permit.owner, permit.token);
        if envelope.chain_id() != Some(chain_id) {
            let what = format!("signedTransaction must be for chain {chain_id}");
            return Err(Rejection::new(reason::ERC20_APPROVAL_TX_SIGNER, what));
        }
        if envelope.kind() != TxKind::Call(token) || !envelope.value().is_zero() {
            let what = format!("signedTransaction must call {token}, without value");
            return Err(Rejection::new(reason::ERC20_APPROVAL_TX_TARGET, what));
        }
        check_calldata(envelope.input(), permit)?;
        let price = envelope.max_fee_per_gas();
        let signature = EcdsaSignature(envelope.signature().as_bytes());
        Ok(Self {
            claim: signature.claim(envelope.signature_hash(), owner),
            owner,
            token,
            data: envelope.input().clone(),
            nonce: envelope.nonce(),
            gas: envelope.gas_limit(),
            cost: U256::from(envelope.gas_limit()).saturating_mul(U256::from(price)),
            transaction: Transaction {
                id: TransactionId::new(&format!("{:#x}", envelope.tx_hash())),
                lane: LaneId::new(&owner.to_checksum(None)),
                sequence: envelope.nonce(),
                bytes: bytes.into(),
            },
        })
    }

    /// The coin that its payer needs, in wei. A quarter more than the gas can cost: some chains
    /// take a fee for data in addition (OP Stack).
    fn needed(&self) -> U256 {
        self.cost.saturating_add(self.cost / U256::from(4))
    }
}

/// A signed transaction that approves Permit2 for all amounts, as the payer writes it.
pub(crate) fn signed(permit: &WitnessPermit, transaction: &Bytes) -> Value {
    json!({ APPROVAL_GAS_SPONSORING: { "info": {
        "from": permit.owner.to_checksum(None),
        "asset": permit.token.to_checksum(None),
        "spender": PERMIT2.to_checksum(None),
        "amount": U256::MAX.to_string(),
        "signedTransaction": transaction,
        "version": "1",
    } } })
}

fn check_info(info: &InfoJson, permit: &WitnessPermit) -> Result<(), Rejection> {
    let fields = [
        (
            "from",
            info.from.0,
            permit.owner,
            reason::ERC20_APPROVAL_FROM,
        ),
        (
            "asset",
            info.asset.0,
            permit.token,
            reason::ERC20_APPROVAL_ASSET,
        ),
        (
            "spender",
            info.spender.0,
            PERMIT2,
            reason::ERC20_APPROVAL_SPENDER,
        ),
    ];
    for (field, found, expected, reason) in fields {
        let found = Address::from(found);
        if found != expected {
            let detail = format!("{FIELD}.{field} is {found}, but must be {expected}");
            return Err(Rejection::new(reason, detail));
        }
    }
    Ok(())
}

/// Checks that the whole call data is an approval of Permit2 for at least the permit's amount.
fn check_calldata(data: &Bytes, permit: &WitnessPermit) -> Result<(), Rejection> {
    let call = Erc20::approveCall::abi_decode_validate(data);
    let call = call.ok().filter(|call| call.abi_encode() == **data);
    let is_enough =
        |call: &Erc20::approveCall| call.spender == PERMIT2 && call.amount >= permit.amount;
    if call.is_some_and(|call| is_enough(&call)) {
        return Ok(());
    }
    let detail = format!(
        "signedTransaction must call approve({PERMIT2}, at least {}) and nothing else",
        permit.amount
    );
    Err(Rejection::new(reason::ERC20_APPROVAL_TX_CALLDATA, detail))
}

/// An approval that a facilitator sends, within the operator's bounds.
pub(crate) struct SponsoredApproval {
    approval: ApprovalTransaction,
    gas: ApprovalGas,
}

impl SponsoredApproval {
    /// The approval transaction in a request for this permit, if there is one and the operator
    /// sends such transactions.
    ///
    /// # Errors
    /// If the transaction cannot be read, or does anything but to approve enough for the permit.
    pub(crate) fn read(
        gas: Option<ApprovalGas>,
        request: &PaymentRequest,
        chain_id: u64,
        permit: &WitnessPermit,
    ) -> Result<Option<Self>, Rejection> {
        let Some(gas) = gas else {
            return Ok(None);
        };
        let approval = ApprovalTransaction::read(request, chain_id, permit)?;
        Ok(approval.map(|approval| Self { approval, gas }))
    }
}

/// A payment by a permit whose payer has signed the transaction that approves Permit2.
pub(crate) struct SponsoredPayment<M> {
    payment: ExactPayment<M>,
    approval: ApprovalTransaction,
    gas: ApprovalGas,
    access: StateAccess,
    /// The signatures of the payment, and then that of the approval.
    claims: Vec<SignatureClaim>,
}

/// All answers.
const ALL: usize = usize::MAX;

/// The answers about the payer, by index.
mod answer {
    pub(super) const NONCE: usize = 0;
    pub(super) const BALANCE: usize = 1;
    pub(super) const APPROVAL: usize = 2;
}

impl<M: Method> SponsoredPayment<M> {
    /// The payment of a scheme. Its record is held by a verified payment for `hold`.
    pub(crate) fn new(
        payment: ExactPayment<M>,
        SponsoredApproval { approval, gas }: SponsoredApproval,
        (scheme, chain_id): (&str, u64),
        hold: Duration,
    ) -> Self {
        let payer = approval.owner.as_slice();
        let parts = [
            b"sponsor",
            scheme.as_bytes(),
            &chain_id.to_be_bytes(),
            payer,
        ];
        let access = StateAccess::new(StateId::from_parts(&parts), reason::SPONSORSHIP_OPEN);
        let claims = payment.signatures().iter().chain([&approval.claim]);
        Self {
            claims: claims.cloned().collect(),
            payment,
            approval,
            gas,
            access: access.exclusive().held_for(hold),
        }
    }

    /// The questions about the payer, whose allowance is too low.
    fn probe(&self) -> Probe {
        let ApprovalTransaction {
            owner, token, data, ..
        } = &self.approval;
        let gas = self.approval.gas.saturating_sub(intrinsic_gas(data));
        Probe::new(vec![
            Step::Nonce(*owner),
            Step::Balance(*owner),
            Step::CallAs {
                from: *owner,
                to: *token,
                data: data.clone(),
                gas: u32::try_from(gas).unwrap_or(u32::MAX),
            },
        ])
    }

    /// Checks that the approval can be sent, after the payer is funded if it lacks gas.
    fn check_approval(
        &self,
        about_payer: &[StepOutcome],
        observed: &Observed<'_, Evm>,
    ) -> Result<Check<Evm>, Rejection> {
        let failed = |what: &str| Err(Rejection::new(reason::ERC20_APPROVAL_TX_FAILED, what));
        if let Some(relayed) = completed(observed, RELAY) {
            return match relayed.succeeded {
                // A node that is behind does not show the allowance yet.
                true => Ok(Check::NotYet(Duration::ZERO)),
                false => failed("the approval was included and reverted"),
            };
        }
        let number = word(about_payer, answer::NONCE);
        if number != Some(U256::from(self.approval.nonce)) {
            let detail = format!(
                "signedTransaction has the nonce {}, but the next one of the account is {}",
                self.approval.nonce,
                number.unwrap_or_default()
            );
            return Err(Rejection::new(reason::ERC20_APPROVAL_TX_NONCE, detail));
        }
        match about_payer.get(answer::APPROVAL) {
            Some(StepOutcome::Returned { .. }) => {}
            _ => return failed("the approval would revert, or needs more gas than its limit"),
        }
        if !self.lacks_gas(about_payer) {
            return Ok(Check::Valid);
        }
        if completed(observed, FUND).is_some() {
            // With the same nonce, the account has not spent it: a node is behind.
            return Ok(Check::NotYet(Duration::ZERO));
        }
        self.check_funding(observed).map(|()| Check::Valid)
    }

    fn lacks_gas(&self, about_payer: &[StepOutcome]) -> bool {
        word(about_payer, answer::BALANCE).is_none_or(|balance| balance < self.approval.cost)
    }

    /// Checks that the operator still funds this payer.
    fn check_funding(&self, observed: &Observed<'_, Evm>) -> Result<(), Rejection> {
        let needed = self.approval.needed();
        let refused = |detail| Err(Rejection::new(reason::ERC20_APPROVAL_NOT_FUNDED, detail));
        if needed > self.gas.per_approval_max {
            let most = self.gas.per_approval_max;
            return refused(format!(
                "the approval may cost {needed} wei, but this facilitator gives at most {most}"
            ));
        }
        let fundings = Fundings::read(observed.state, observed.now);
        let others = fundings.without(self.info().id).sum();
        if others.saturating_add(needed) > self.gas.per_day_max {
            return refused(format!(
                "this facilitator has given the payer {others} wei within a day"
            ));
        }
        Ok(())
    }

    /// Whether nothing but the allowance is missing. A payer that signs by a contract has no
    /// transactions of its own.
    fn is_needed(&self, observed: &Observed<'_, Evm>) -> bool {
        let verdict = self.payment.check(&of_payment(observed, 1));
        let allowance = reason::PERMIT2_ALLOWANCE_REQUIRED;
        observed.signatures == [true, true] && verdict.is_err_and(|it| it.reason == allowance)
    }

    /// The next step: the payer's funding, or its approval.
    fn step(&self, about_payer: &[StepOutcome]) -> Plan<Call> {
        match self.lacks_gas(about_payer) {
            true => {
                let balance = word(about_payer, answer::BALANCE).unwrap_or_default();
                let missing = self.approval.needed().saturating_sub(balance);
                Plan::Step {
                    step: FUND,
                    action: Call::transfer(self.approval.owner, missing),
                }
            }
            false => Plan::Step {
                step: RELAY,
                action: Call::relayed(self.approval.token, self.approval.transaction.clone()),
            },
        }
    }

    /// What the payer's record says after this payment, if it was funded for it. The most that it
    /// may have got counts: after a restart, nothing else is known.
    fn next_record(&self, observed: &Observed<'_, Evm>) -> Option<(Vec<u8>, Option<Timestamp>)> {
        if !observed.signed_steps.contains(&FUND) {
            return None;
        }
        let id = self.info().id;
        let mut fundings = Fundings::read(observed.state, observed.now).without(id);
        fundings.fundings.push(Funding {
            payment: id.to_string(),
            wei: Amount::new(self.approval.needed()),
            at: observed.now.secs(),
        });
        let content = serde_json::to_vec(&fundings).ok()?;
        Some((content, None))
    }
}

/// What was observed of the payment itself, with the first `answers`, and without the signature of
/// the approval.
fn of_payment<'a>(observed: &Observed<'a, Evm>, answers: usize) -> Observed<'a, Evm> {
    let signatures = observed.signatures.split_last();
    let signatures = signatures.map_or(&[][..], |(_, own)| own);
    let answers = observed.answers.get(..answers).unwrap_or(observed.answers);
    let own = Observed::new(signatures, answers, observed.now);
    let own = own.with_state(observed.state).after(observed.completed);
    match observed.settling {
        true => own.settling(),
        false => own,
    }
}

fn completed<'a>(observed: &Observed<'a, Evm>, step: NonZeroU8) -> Option<&'a Evidence> {
    let found = observed.completed.iter().find(|done| done.step == step);
    found.map(|done| &done.evidence)
}

fn word(outcomes: &[StepOutcome], at: usize) -> Option<U256> {
    let word = outcomes.get(at)?.word()?;
    Some(U256::from_be_bytes(word.0))
}

/// The content of a payer's state record: what it got within the last day.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Fundings {
    fundings: Vec<Funding>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Funding {
    payment: String,
    wei: Amount,
    /// In seconds since 1970.
    at: u64,
}

impl Fundings {
    /// A record that cannot be read counts as all that a payer can get.
    fn read(record: Option<&SchemeState>, now: Timestamp) -> Self {
        let Some(record) = record else {
            return Self::default();
        };
        let read = serde_json::from_slice(&record.state);
        let mut fundings: Self = read.unwrap_or_else(|_| Self {
            fundings: vec![Funding {
                payment: String::new(),
                wei: Amount::MAX,
                at: now.secs(),
            }],
        });
        let is_recent = |funding: &Funding| now.secs() < funding.at.saturating_add(COUNTED_SECS);
        fundings.fundings.retain(is_recent);
        fundings
    }

    fn without(mut self, payment: PaymentId) -> Self {
        let payment = payment.to_string();
        self.fundings.retain(|funding| funding.payment != payment);
        self
    }

    fn sum(&self) -> U256 {
        let amounts = self.fundings.iter().map(|funding| funding.wei.units());
        amounts.fold(U256::ZERO, U256::saturating_add)
    }
}

impl<M: Method> Payment<Evm> for SponsoredPayment<M> {
    fn info(&self) -> &PaymentInfo {
        self.payment.info()
    }

    fn moves(&self, amount: Amount) -> Amount {
        self.payment.moves(amount)
    }

    fn signatures(&self) -> &[SignatureClaim] {
        &self.claims
    }

    /// If only the allowance is missing, the approval decides. The transfer is simulated once the
    /// approval is on the chain, before the last gas is spent.
    fn check(&self, observed: &Observed<'_, Evm>) -> Result<Check<Evm>, Rejection> {
        if observed.signatures.last() != Some(&true) {
            let detail = "signedTransaction is not signed by the payer";
            return Err(Rejection::new(reason::ERC20_APPROVAL_TX_SIGNER, detail));
        }
        match observed.answers {
            _ if !self.is_needed(observed) => self.payment.check(&of_payment(observed, ALL)),
            [_, second, ..] => self.check_approval(&second.outcomes, observed),
            _ => Ok(Check::Ask(self.probe())),
        }
    }

    fn depends_on_time(&self, rejection: &Rejection) -> bool {
        self.payment.depends_on_time(rejection)
    }

    fn plan(&self, amount: Amount, observed: &Observed<'_, Evm>) -> Result<Plan<Call>, Rejection> {
        match observed.answers {
            [_, second, ..] if self.is_needed(observed) => Ok(self.step(&second.outcomes)),
            _ => self.payment.plan(amount, &of_payment(observed, ALL)),
        }
    }

    fn sender(&self, observed: &Observed<'_, Evm>) -> Option<LaneId> {
        let answers = if self.is_needed(observed) { 1 } else { ALL };
        self.payment.sender(&of_payment(observed, answers))
    }

    /// A payment that needs the approval is its payer's only open payment.
    fn balance(&self, observed: &Observed<'_, Evm>) -> Option<Amount> {
        match self.is_needed(observed) {
            true => Some(self.payment.info().amount),
            false => self.payment.balance(&of_payment(observed, ALL)),
        }
    }

    fn used_by(&self, rejection: &Rejection) -> Option<AuthorizationSearch> {
        self.payment.used_by(rejection)
    }

    fn state_access(&self) -> Option<&StateAccess> {
        Some(&self.access)
    }

    fn state_after(
        &self,
        _: Amount,
        observed: &Observed<'_, Evm>,
        _: Option<&Evidence>,
    ) -> StateChange {
        StateChange {
            state: self.next_record(observed),
            receipt: SchemeReceipt::default(),
        }
    }

    fn state_after_failure(
        &self,
        observed: &Observed<'_, Evm>,
    ) -> Option<(Vec<u8>, Option<Timestamp>)> {
        self.next_record(observed)
    }

    fn effect(&self, amount: Amount, evidence: &Evidence) -> Effect {
        self.payment.effect(amount, evidence)
    }
}

#[cfg(test)]
mod tests {
    use alloy::consensus::{SignableTransaction as _, TxEip1559};
    use alloy::eips::eip2718::Encodable2718 as _;
    use alloy::signers::SignerSync;
    use alloy::signers::local::PrivateKeySigner;
    use proptest::prelude::*;

    use super::*;
    use crate::permit2::EXACT_PERMIT2_PROXY;

    const CHAIN_ID: u64 = 84_532;

    fn permit(owner: Address) -> WitnessPermit {
        let amount = (Address::repeat_byte(2), U256::from(5));
        WitnessPermit::new(owner, amount, EXACT_PERMIT2_PROXY, U256::ZERO, U256::MAX)
    }

    fn transaction(permit: &WitnessPermit, amount: U256) -> TxEip1559 {
        let call = Erc20::approveCall {
            spender: PERMIT2,
            amount,
        };
        TxEip1559 {
            chain_id: CHAIN_ID,
            nonce: 3,
            gas_limit: 70_000,
            max_fee_per_gas: 10,
            max_priority_fee_per_gas: 1,
            to: TxKind::Call(permit.token),
            value: U256::ZERO,
            access_list: Default::default(),
            input: call.abi_encode().into(),
        }
    }

    fn signed_bytes(key: &PrivateKeySigner, unsigned: TxEip1559) -> Vec<u8> {
        let signature = key.sign_hash_sync(&unsigned.signature_hash()).unwrap();
        TxEnvelope::from(unsigned.into_signed(signature)).encoded_2718()
    }

    proptest! {
        #[test]
        fn only_an_approval_of_enough_is_decoded(amount in 0_u64..10, gas: u64, price: u64) {
            let key = PrivateKeySigner::random();
            let permit = permit(key.address());
            let unsigned = TxEip1559 {
                gas_limit: gas,
                max_fee_per_gas: price.into(),
                ..transaction(&permit, U256::from(amount))
            };
            let bytes = signed_bytes(&key, unsigned);
            match ApprovalTransaction::decode(&bytes, CHAIN_ID, &permit) {
                Err(_) => prop_assert!(amount < 5),
                Ok(decoded) => {
                    prop_assert!(amount >= 5);
                    prop_assert_eq!(decoded.cost, U256::from(gas) * U256::from(price));
                    prop_assert_eq!(&*decoded.transaction.bytes, bytes.as_slice());
                    prop_assert_eq!(decoded.transaction.sequence, 3);
                }
            }
        }

        /// Whatever bytes a payer sends, what is decoded approves Permit2 and is by the payer.
        #[test]
        fn no_changed_byte_makes_another_call(at: prop::sample::Index, bits in 1_u8..) {
            let key = PrivateKeySigner::random();
            let permit = permit(key.address());
            let mut bytes = signed_bytes(&key, transaction(&permit, U256::MAX));
            let at = at.index(bytes.len());
            bytes[at] ^= bits;
            if let Ok(decoded) = ApprovalTransaction::decode(&bytes, CHAIN_ID, &permit) {
                prop_assert!(check_calldata(&decoded.data, &permit).is_ok());
                prop_assert_eq!((decoded.owner, decoded.token), (permit.owner, permit.token));
                prop_assert_eq!(&*decoded.transaction.bytes, bytes.as_slice());
            }
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let permit = permit(Address::repeat_byte(1));
            prop_assert!(ApprovalTransaction::decode(&bytes, CHAIN_ID, &permit).is_err());
        }

        #[test]
        fn fundings_of_a_day_count_once(
            added in prop::collection::vec((0_u8..4, 1_u64..100, 0_u64..200_000), 0..12),
        ) {
            let mut fundings = Fundings::default();
            let mut last = std::collections::BTreeMap::new();
            for (payment, wei, at) in added {
                let id = PaymentId::from_bytes([payment; 32]);
                fundings = fundings.without(id);
                let (payment, wei) = (id.to_string(), Amount::from(wei));
                fundings.fundings.push(Funding { payment, wei, at });
                last.insert(id, (wei.units(), at));
            }
            let now = Timestamp::from_secs(150_000);
            let mut record = SchemeState::new(StateId::from_bytes([1; 32]), "a", "b", Vec::new());
            record.state = serde_json::to_vec(&fundings).unwrap();
            let recent = last.values().filter(|(_, at)| 150_000 < at + COUNTED_SECS);
            let sum: U256 = recent.map(|(wei, _)| *wei).sum();
            prop_assert_eq!(Fundings::read(Some(&record), now).sum(), sum);
        }
    }

    #[test]
    fn an_unreadable_record_funds_nothing() {
        let mut record = SchemeState::new(StateId::from_bytes([1; 32]), "a", "b", b"odd".to_vec());
        record.revision = 1;
        let sum = Fundings::read(Some(&record), Timestamp::from_secs(9)).sum();
        assert_eq!(sum, U256::MAX);
    }
}
