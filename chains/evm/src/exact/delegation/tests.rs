use std::sync::{Arc, LazyLock};

use alloy::primitives::{B256, address};
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::SolValue;
use proptest::prelude::*;
use quittance_core::wire::{PaymentPayload, PaymentRequirements, Rest, SupportedKind};
use quittance_core::{Offer, Scheme};
use serde_json::{Value, json};

use super::*;
use crate::abi::Delegation;
use crate::chain::{EvmConfig, ProbeResult};
use crate::erc7710::{ANY_DELEGATE, ROOT_AUTHORITY};
use crate::exact::ExactConfig;
use crate::known;

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
const SELLER: &str = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8";
const MANAGER: Address = address!("dddddddddddddddddddddddddddddddddddddddd");
const BUYER: Address = address!("bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb");
const PRICE: u64 = 10_000;
const TIMEOUT_SECS: u64 = 60;

fn signers() -> [PrivateKeySigner; 2] {
    [[7; 32], [8; 32]].map(|key| PrivateKeySigner::from_slice(&key).unwrap())
}

fn scheme(managers: &[Address], contract_wallets: bool) -> Exact {
    let network = known::network("base-sepolia").unwrap();
    let url = "http://127.0.0.1:1".parse().unwrap();
    let signers = signers().map(|signer| Arc::new(signer) as crate::Signer);
    let mut config = EvmConfig::new(network, vec![url], signers.to_vec());
    config.contract_wallets = contract_wallets;
    let settings = ExactConfig {
        delegation_managers: managers.iter().copied().collect(),
        ..ExactConfig::default()
    };
    let exact = Exact::new(&Evm::new(config).unwrap());
    exact.with_config(settings).unwrap()
}

static SCHEME: LazyLock<Exact> = LazyLock::new(|| scheme(&[MANAGER], true));

fn offer() -> DelegationOffer {
    let offer = DelegationOffer::usdc("base-sepolia", "0.01", SELLER).unwrap();
    offer.with_timeout_secs(TIMEOUT_SECS)
}

fn requirements() -> PaymentRequirements {
    let kind = SupportedKind {
        x402_version: 2,
        scheme: "exact".to_owned(),
        network: "eip155:84532".to_owned(),
        extra: SCHEME.extra(),
        rest: Rest::default(),
    };
    offer().requirements(&kind).unwrap()
}

fn link(delegate: Address, delegator: Address, salt: u64) -> Delegation {
    Delegation {
        delegate,
        delegator,
        authority: ROOT_AUTHORITY,
        caveats: vec![],
        salt: U256::from(salt),
        signature: vec![1; 65].into(),
    }
}

fn payload(chain: &[Delegation], delegator: Address) -> Value {
    json!({
        "delegationManager": MANAGER,
        "permissionContext": Bytes::from(chain.to_vec().abi_encode()),
        "delegator": delegator,
    })
}

fn request(payload: &Value, requirements: PaymentRequirements) -> PaymentRequest {
    let payload = PaymentPayload {
        x402_version: 2,
        resource: None,
        accepted: requirements.clone(),
        payload: Object::of(payload).unwrap(),
        extensions: None,
        rest: Rest::default(),
    };
    PaymentRequest::new(payload, requirements).unwrap()
}

/// A delegation of the buyer to the first signer.
fn good() -> Value {
    payload(&[link(signers()[0].address(), BUYER, 1)], BUYER)
}

fn decoded(payload: &Value) -> Box<dyn Payment<Evm>> {
    SCHEME
        .decode(&request(payload, requirements()), NOW)
        .unwrap()
}

fn refusal(scheme: &Exact, payload: &Value) -> Reason {
    match scheme.decode(&request(payload, requirements()), NOW) {
        Err(Refusal::Rejected(rejection)) => rejection.reason,
        other => panic!("{:?}", other.map(drop)),
    }
}

/// A delegation says nothing about the token and the recipient: they are those of the requirements.
#[test]
fn delegation_pays_only_usable_accounts_in_listed_tokens() {
    let refused = |change: &dyn Fn(&mut PaymentRequirements)| {
        let mut requirements = requirements();
        change(&mut requirements);
        match SCHEME.decode(&request(&good(), requirements), NOW) {
            Err(Refusal::Rejected(rejection)) => rejection.reason,
            other => panic!("{:?}", other.map(drop)),
        }
    };
    let other = refused(&|terms| terms.asset = Address::repeat_byte(9).to_string());
    assert_eq!(other, Reason::UNSUPPORTED_ASSET);
    let token = requirements().asset;
    for unusable in [
        Address::ZERO.to_string(),
        token,
        signers()[1].address().to_string(),
    ] {
        let refused = refused(&|terms| terms.pay_to.clone_from(&unusable));
        assert_eq!(refused, Reason::INVALID_PAYMENT_REQUIREMENTS, "{unusable}");
    }
}

/// attacks.md 72: no node is asked, because a rejection by `decode` comes before every question.
#[test]
fn unlisted_delegation_manager_is_never_called() {
    let other = scheme(&[Address::repeat_byte(9)], true);
    let refused = refusal(&other, &good());
    assert_eq!(refused, reason::DELEGATION_MANAGER_NOT_ALLOWED);
    let by_key_only = scheme(&[MANAGER], false);
    let refused = refusal(&by_key_only, &good());
    assert_eq!(refused, reason::CONTRACT_WALLET_NOT_ALLOWED);
    assert_eq!(by_key_only.extra(), None);
}

#[test]
fn without_a_manager_no_delegation_is_offered_or_accepted() {
    let without = scheme(&[], true);
    assert_eq!(without.extra(), None);
    assert_eq!(refusal(&without, &good()), reason::UNSUPPORTED_PAYLOAD_TYPE);
    let kind = SupportedKind {
        x402_version: 2,
        scheme: "exact".to_owned(),
        network: "eip155:84532".to_owned(),
        extra: without.extra(),
        rest: Rest::default(),
    };
    assert!(offer().requirements(&kind).is_err());
}

#[test]
fn supported_names_every_signer() {
    let extra = SCHEME.extra().unwrap().tree();
    let signers = signers().map(|signer| signer.address().to_checksum(None));
    assert_eq!(extra[REDEEMERS], json!(signers));
}

#[test]
fn delegation_of_or_to_another_account_is_refused() {
    let [signer, _] = signers().map(|signer| signer.address());
    let other = Address::repeat_byte(9);
    let to_other = payload(&[link(other, BUYER, 1)], BUYER);
    assert_eq!(refusal(&SCHEME, &to_other), reason::REDEEMER_MISMATCH);
    let from_other = payload(&[link(signer, other, 1)], BUYER);
    assert_eq!(refusal(&SCHEME, &from_other), reason::DELEGATOR_MISMATCH);
    let from_signer = payload(&[link(signer, signer, 1)], signer);
    assert_eq!(refusal(&SCHEME, &from_signer), reason::DELEGATOR_MISMATCH);
    let open = payload(
        &[link(signer, other, 1), link(ANY_DELEGATE, BUYER, 1)],
        BUYER,
    );
    assert_eq!(refusal(&SCHEME, &open), reason::DELEGATION_CONTEXT);
    assert_eq!(
        refusal(&SCHEME, &payload(&[], BUYER)),
        reason::DELEGATION_CONTEXT
    );
}

#[test]
fn payload_says_one_way_to_pay() {
    let mut both = good();
    both["permit2Authorization"] = json!({
        "from": BUYER, "permitted": { "token": BUYER, "amount": "1" }, "spender": BUYER,
        "nonce": "1", "deadline": "1", "witness": { "to": BUYER, "validAfter": "0" },
    });
    assert_eq!(refusal(&SCHEME, &both), reason::UNSUPPORTED_PAYLOAD_TYPE);
    for field in ["delegationManager", "permissionContext", "delegator"] {
        let mut part = good();
        part.as_object_mut().unwrap().remove(field);
        match SCHEME.decode(&request(&part, requirements()), NOW) {
            Err(Refusal::Malformed(malformed)) => assert!(malformed.field.ends_with(field)),
            other => panic!("{field}: {:?}", other.map(drop)),
        }
    }
}

/// The redeemer is the sender that the manager sees, so no other signer can send the payment.
#[test]
fn redeemer_is_the_named_signer_or_always_the_same_one() {
    for signer in signers().map(|signer| signer.address()) {
        let payment = decoded(&payload(&[link(signer, BUYER, 1)], BUYER));
        assert_eq!(
            payment.sender(&Observed::new(&[], &[], NOW)),
            Some(LaneId::new(&signer.to_checksum(None)))
        );
        let Ok(Check::Ask(probe)) = payment.check(&Observed::new(&[], &[], NOW)) else {
            panic!("no question")
        };
        assert!(probe.as_transaction);
        let is_call = |step: &Step| matches!(step, Step::CallAs { from, to, .. } if *from == signer && *to == MANAGER);
        assert!(probe.steps.iter().any(is_call));
    }
    let open = |salt| payload(&[link(ANY_DELEGATE, BUYER, salt)], BUYER);
    let lane = |salt| decoded(&open(salt)).sender(&Observed::new(&[], &[], NOW));
    let lanes: BTreeSet<_> = (0..32).map(|salt| format!("{:?}", lane(salt))).collect();
    assert_eq!(lanes.len(), 2);
    assert_eq!(lane(5), lane(5));
}

/// The seller chooses the terms, so they are no part of the identity.
#[test]
fn delegation_is_one_payment_whatever_the_terms() {
    let first = decoded(&good()).info().clone();
    let other = Address::repeat_byte(9).to_checksum(None);
    for (amount, pay_to) in [("9999", SELLER), ("10000", &other)] {
        let mut terms = requirements();
        (terms.amount, terms.pay_to) = (amount.to_owned(), pay_to.to_owned());
        let payment = SCHEME.decode(&request(&good(), terms), NOW).unwrap();
        assert_eq!(payment.info().id, first.id);
    }
    let salted = payload(&[link(signers()[0].address(), BUYER, 2)], BUYER);
    assert_ne!(decoded(&salted).info().id, first.id);
    assert_eq!(
        offer().authorization(&Object::of(&good()).unwrap()),
        Some(first.id)
    );
}

/// The journal keeps its row for ever, and nothing is sent after the seller's time.
#[test]
fn payment_never_expires_and_is_not_tried_for_ever() {
    let check = |timeout: u64, after: u64| {
        let mut terms = requirements();
        terms.max_timeout_seconds = timeout;
        let payment = SCHEME.decode(&request(&good(), terms), NOW).unwrap();
        assert_eq!(payment.info().expires, Timestamp::NEVER);
        match payment.check(&Observed::new(&[], &[], NOW.plus_secs(after))) {
            Ok(_) => true,
            Err(rejection) => {
                assert_eq!(rejection.reason, Reason::SETTLEMENT_EXPIRED);
                assert!(payment.depends_on_time(&rejection));
                false
            }
        }
    };
    let needed = INCLUSION_MIN_SECS;
    assert!(check(60, 0) && check(60, 59 - needed) && !check(60, 60 - needed));
    assert!(!check(needed, 0) && !check(0, 0));
    assert!(check(u64::MAX, PATIENCE_MAX_SECS - needed - 1));
    assert!(!check(u64::MAX, PATIENCE_MAX_SECS - needed));
}

fn any_outcome() -> impl Strategy<Value = StepOutcome> {
    let word = |number: u64| Bytes::copy_from_slice(&U256::from(number).to_be_bytes::<32>());
    prop_oneof![
        prop_oneof![Just(0), Just(23)].prop_map(StepOutcome::CodeSize),
        prop_oneof![Just(0), Just(PRICE - 1), Just(PRICE), any::<u64>()].prop_map(move |number| {
            StepOutcome::Returned {
                data: word(number),
                gas: 50_000,
            }
        }),
        Just(StepOutcome::Returned {
            data: Bytes::new(),
            gas: 50_000
        }),
        Just(StepOutcome::Reverted { data: Bytes::new() }),
        Just(StepOutcome::NotMade),
    ]
}

/// A second formulation of what must hold in each simulation.
fn is_payable(outcomes: &[StepOutcome]) -> bool {
    let [asset, manager, delegator, balance, redeemed] = outcomes else {
        return false;
    };
    let exists = |outcome: &StepOutcome| outcome.code_size().is_some_and(|size| size > 0);
    let poor = balance
        .word()
        .is_some_and(|word| U256::from_be_bytes(word.0) < U256::from(PRICE));
    exists(asset)
        && exists(manager)
        && delegator.code_size() != Some(0)
        && !poor
        && matches!(redeemed, StepOutcome::Returned { .. })
}

proptest! {
    #[test]
    fn valid_is_only_what_every_simulation_shows(
        now in prop::collection::vec(any_outcome(), 5), block_secs in 0_u64..40,
        later in prop::option::of(prop::collection::vec(any_outcome(), 5)),
    ) {
        let mut result = ProbeResult::new(NOW, 1, now.clone());
        (result.later, result.block_secs) = (later.clone(), block_secs);
        let answers = [result];
        let payment = decoded(&good());
        let valid = payment.check(&Observed::new(&[], &answers, NOW)).is_ok();
        let in_time = (2 * block_secs).max(INCLUSION_MIN_SECS) < TIMEOUT_SECS;
        let payable = is_payable(&now) && later.is_none_or(|later| is_payable(&later));
        prop_assert_eq!(valid, in_time && payable);
        if valid {
            let observed = Observed::new(&[], &answers, NOW).settling();
            let plan = payment.plan(Amount::from(PRICE), &observed).unwrap();
            let call = plan.into_action().unwrap();
            prop_assert!(!call.batchable && call.to == MANAGER && call.gas == 50_000);
            let less = payment.plan(Amount::from(PRICE - 1), &observed);
            prop_assert_eq!(less.map(drop).unwrap_err().reason, reason::VALUE_MISMATCH);
        }
    }

    /// Success is exactly one transfer of the payment. Nothing else that the accounts did is tried
    /// again.
    #[test]
    fn effect_is_one_transfer_of_the_payment(
        logs in prop::collection::vec((0..3_usize, 0..3_usize, 0..3_usize, 0..2_usize), 0..4), succeeded: bool,
    ) {
        let other = Address::repeat_byte(9);
        let seller: Address = SELLER.parse().unwrap();
        let token: Address = requirements().asset.parse().unwrap();
        let log = |(from, to, value, emitter): &(usize, usize, usize, usize)| {
            let from = [BUYER, other, seller][*from];
            let to = [seller, other, BUYER][*to];
            let value = U256::from([PRICE, PRICE - 1, 0][*value]);
            let data = Erc20::Transfer { from, to, value }.encode_log_data();
            Log { address: [token, other][*emitter], data }
        };
        let is_payment = |log: &&(usize, usize, usize, usize)| **log == (0, 0, 0, 0);
        let is_related = |log: &&(usize, usize, usize, usize)| log.3 == 0 && (log.0 == 0 || log.1 == 0);
        let count = logs.iter().filter(is_payment).count();
        let evidence = Evidence { succeeded, logs: logs.iter().map(log).collect() };
        let effect = decoded(&good()).effect(Amount::from(PRICE), &evidence);
        match (succeeded, count) {
            (true, 1) => prop_assert_eq!(effect, Effect::Transferred(Amount::from(PRICE))),
            (true, 0) if !logs.iter().any(|log| is_related(&log)) => prop_assert!(matches!(effect, Effect::None(_))),
            (true, _) => prop_assert!(matches!(effect, Effect::Mismatch(_))),
            (false, _) => prop_assert!(matches!(effect, Effect::None(_))),
        }
    }

    #[test]
    fn no_payload_panics(texts in prop::array::uniform3("(0x)?[0-9a-f]{0,140}"), number: u64) {
        let [manager, context, delegator] = texts;
        for payload in [
            json!({ "delegationManager": manager, "permissionContext": context, "delegator": delegator }),
            json!({ "delegationManager": MANAGER, "permissionContext": context, "delegator": BUYER }),
            json!({ "permissionContext": number }),
            json!({ "delegationManager": null, "permissionContext": "0x", "delegator": [] }),
        ] {
            let _ = SCHEME.decode(&request(&payload, requirements()), NOW);
        }
    }
}

#[test]
fn two_payments_never_share_a_transaction() {
    let key = |salt| {
        let payment = decoded(&payload(
            &[link(signers()[0].address(), BUYER, salt)],
            BUYER,
        ));
        let code = || StepOutcome::CodeSize(1);
        let word = U256::from(PRICE).to_be_bytes::<32>();
        let returned = |data: &[u8]| StepOutcome::Returned {
            data: Bytes::copy_from_slice(data),
            gas: 1,
        };
        let outcomes = vec![code(), code(), code(), returned(&word), returned(&[])];
        let answers = [ProbeResult::new(NOW, 1, outcomes)];
        let observed = Observed::new(&[], &answers, NOW).settling();
        assert_eq!(payment.balance(&observed), Some(Amount::from(PRICE)));
        let call = payment
            .plan(Amount::from(PRICE), &observed)
            .unwrap()
            .into_action()
            .unwrap();
        (call.batchable, call.effect_key)
    };
    let [first, second]: [(bool, B256); 2] = [key(1), key(2)];
    assert!(!first.0 && !second.0 && first.1 != second.1);
}
