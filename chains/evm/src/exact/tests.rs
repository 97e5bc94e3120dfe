use std::sync::{Arc, LazyLock};

use alloy::primitives::{B256, Bytes, Log, LogData, U256};
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::{SolEvent, SolValue};
use proptest::prelude::*;
use quittance_core::json::Object;
use quittance_core::wire::{PaymentPayload, PaymentRequirements, Rest, SupportedKind};
use quittance_core::{Amount, Check, Effect, Observed, Offer, Payer};
use serde_json::json;

use super::window::LIFETIME_MAX_SECS;
use super::*;
use crate::abi::{Eip3009, Erc20};
use crate::account::ERC1271_MAGIC;
use crate::chain::{EvmConfig, INCLUSION_MIN_SECS, ProbeResult, Step, StepOutcome};
use crate::evidence::Evidence;
use crate::multicall::MULTICALL3;

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
const SELLER: &str = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8";
const PRICE: u64 = 10_000;

static SCHEME: LazyLock<Exact> = LazyLock::new(|| {
    let network = known::network("base-sepolia").unwrap();
    let signer = PrivateKeySigner::from_slice(&[7; 32]).unwrap();
    let url = "http://127.0.0.1:1".parse().unwrap();
    Exact::new(&Evm::new(EvmConfig::new(network, vec![url], vec![Arc::new(signer)])).unwrap())
});

/// The same scheme, with a token that is not known to log authorizations first.
static UNORDERED: LazyLock<Exact> = LazyLock::new(|| {
    let network = known::network("base-sepolia").unwrap();
    let mut tokens = known::tokens(network.id()).to_vec();
    tokens[0].logs_authorization_first = false;
    Exact::offline(network, &tokens).unwrap()
});

fn requirements() -> PaymentRequirements {
    let kind = SupportedKind {
        x402_version: 2,
        scheme: NAME.to_owned(),
        network: "eip155:84532".to_owned(),
        extra: None,
        rest: Rest::default(),
    };
    ExactOffer::usdc("base-sepolia", "0.01", SELLER)
        .unwrap()
        .requirements(&kind)
        .unwrap()
}

fn request_with(payload: Object) -> PaymentRequest {
    let requirements = requirements();
    let payload = PaymentPayload {
        x402_version: 2,
        resource: None,
        accepted: requirements.clone(),
        payload,
        extensions: None,
        rest: Rest::default(),
    };
    PaymentRequest::new(payload, requirements).unwrap()
}

/// A request that a test key signed, and the key's address.
fn signed() -> (PaymentRequest, Address) {
    static SIGNED: LazyLock<(PaymentRequest, Address)> = LazyLock::new(|| {
        let signer = PrivateKeySigner::from_slice(&[9; 32]).unwrap();
        let (address, payer) = (signer.address(), ExactPayer::new(signer));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let paid = runtime.block_on(payer.pay(&requirements(), None, NOW));
        (request_with(paid.unwrap().payload), address)
    });
    SIGNED.clone()
}

fn any_outcome() -> impl Strategy<Value = StepOutcome> {
    let word = |number: u64| Bytes::copy_from_slice(&U256::from(number).to_be_bytes::<32>());
    prop_oneof![
        prop_oneof![Just(0), Just(23), any::<u64>()].prop_map(StepOutcome::CodeSize),
        prop_oneof![Just(0), Just(1), Just(PRICE - 1), Just(PRICE), any::<u64>()].prop_map(
            move |number| StepOutcome::Returned {
                data: word(number),
                gas: 50_000
            }
        ),
        Just(StepOutcome::Returned {
            data: Bytes::from_static(&ERC1271_MAGIC),
            gas: 1
        }),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(|data| StepOutcome::Returned {
            data: data.into(),
            gas: 2
        }),
        prop::collection::vec(any::<u8>(), 0..160)
            .prop_map(|data| StepOutcome::Reverted { data: data.into() }),
        Just(StepOutcome::NotMade),
    ]
}

prop_compose! {
    fn any_result()(
        outcomes in prop::collection::vec(any_outcome(), 0..8), late in 0u64..100, block_secs in 0_u64..16,
        later in prop::option::of(prop::collection::vec(any_outcome(), 0..8)),
    ) -> ProbeResult {
        ProbeResult { chain_time: NOW.plus_secs(late), block: 1, block_secs, outcomes, later, sender: None }
    }
}

/// A second formulation of everything that must hold for a payment that settles.
fn may_settle(answer: &ProbeResult, signed_by_key: bool) -> bool {
    let in_time =
        NOW.plus_secs(60).secs() >= answer.chain_time.secs() + (2 * answer.block_secs).max(6);
    let later = answer.later.as_deref();
    in_time
        && is_payable(&answer.outcomes, signed_by_key)
        && later.is_none_or(|later| is_payable(later, signed_by_key))
}

fn is_payable(outcomes: &[StepOutcome], signed_by_key: bool) -> bool {
    let [asset, payer, balance, transfer, used, rest @ ..] = outcomes else {
        return false;
    };
    let word = |outcome: &StepOutcome| match outcome {
        StepOutcome::Returned { data, .. } if data.len() == 32 => Some(U256::from_be_slice(data)),
        _ => None,
    };
    let accepted = match payer {
        StepOutcome::CodeSize(0) => signed_by_key,
        StepOutcome::CodeSize(_) => {
            matches!(rest.first(), Some(StepOutcome::Returned { data, .. }) if data.as_ref() == ERC1271_MAGIC)
        }
        _ => false,
    };
    accepted
        && matches!(asset, StepOutcome::CodeSize(size) if *size > 0)
        && word(used) == Some(U256::ZERO)
        && word(balance).is_none_or(|balance| balance >= U256::from(PRICE))
        && matches!(transfer, StepOutcome::Returned { .. })
}

/// The outcomes for an account that the payment deploys, each of them right in most cases.
fn outcomes_of_a_new_account() -> impl Strategy<Value = Vec<StepOutcome>> {
    let returned = |data: &[u8]| StepOutcome::Returned {
        data: Bytes::copy_from_slice(data),
        gas: 200_000,
    };
    let good = [
        StepOutcome::CodeSize(1),
        StepOutcome::CodeSize(0),
        returned(&U256::from(PRICE).to_be_bytes::<32>()),
        StepOutcome::NotMade,
        returned(&[0; 32]),
        StepOutcome::NotMade,
        returned(&ERC1271_MAGIC),
        returned(&[]),
    ];
    let size = (0..10_u64).prop_map(|size| StepOutcome::CodeSize(size.saturating_sub(8)));
    let mut outcomes = good.map(|good| prop_oneof![9 => Just(good), 1 => any_outcome()].boxed());
    outcomes[1] = size.boxed();
    outcomes.to_vec()
}

/// A second formulation of what must hold for an account that the payment deploys.
fn is_payable_by_new_account(outcomes: &[StepOutcome]) -> bool {
    let [asset, payer, balance, _, used, _, accepts, transfer] = outcomes else {
        return false;
    };
    if !matches!(payer, StepOutcome::CodeSize(0)) {
        return is_payable(outcomes, false);
    }
    // The same as for an account with code, by the steps after the deployment.
    let code = StepOutcome::CodeSize(1);
    let deployed = [asset, &code, balance, transfer, used, accepts].map(Clone::clone);
    is_payable(&deployed, false)
}

/// The scheme with one allowed factory, and a payment that it may deploy the account for.
fn new_account() -> (Exact, PaymentRequest) {
    let factory = Address::repeat_byte(0xfa);
    let account_factories = [factory].into();
    let scheme = SCHEME.clone().with_config(ExactConfig {
        account_factories,
        ..ExactConfig::default()
    });
    let (request, _) = signed();
    let mut payload = request.payload.tree();
    let inner: Bytes = payload["signature"].as_str().unwrap().parse().unwrap();
    let wrapper = (factory, Bytes::from_static(b"deploy"), inner).abi_encode_params();
    let wrapped = Bytes::from([wrapper, [0x64, 0x92].repeat(16)].concat());
    payload["signature"] = json!(wrapped.to_string());
    (scheme.unwrap(), request_with(Object::of(&payload).unwrap()))
}

fn result_of(outcomes: Vec<StepOutcome>) -> ProbeResult {
    ProbeResult {
        chain_time: NOW,
        block: 1,
        block_secs: 0,
        outcomes,
        later: None,
        sender: None,
    }
}

fn log(address: Address, event: &impl SolEvent) -> Log {
    Log {
        address,
        data: event.encode_log_data(),
    }
}

proptest! {
    #[test]
    fn offer_and_scheme_give_a_payload_the_same_identity(
        nonce: [u8; 32], field in "[a-z]{1,8}", beside: u64, signature: [u8; 65], upper: bool,
    ) {
        let offer = ExactOffer::usdc("base-sepolia", "0.01", SELLER).unwrap();
        let original = signed().0;
        let spelled = |nonce: &[u8; 32]| {
            let mut payload = original.payload.tree();
            payload.insert(format!("x{field}"), json!(beside));
            payload["signature"] = json!(Bytes::from(signature).to_string());
            let authorization = payload["authorization"].as_object_mut().unwrap();
            authorization.insert(format!("x{field}"), json!([beside]));
            let digits = alloy::hex::encode(nonce);
            let digits = match upper { true => digits.to_uppercase(), false => digits };
            authorization["nonce"] = json!(format!("0x{digits}"));
            Object::of(&payload).unwrap()
        };
        let id = |payload: &Object| offer.authorization(payload).unwrap();
        let payload = spelled(&nonce);
        if let Ok(payment) = SCHEME.decode(&request_with(payload.clone()), NOW) {
            prop_assert_eq!(id(&payload), payment.info().id);
        }
        let first = original.payload.tree()["authorization"]["nonce"].as_str().unwrap().to_owned();
        let first: B256 = first.parse().unwrap();
        prop_assert_eq!(id(&spelled(&first.0)), id(&original.payload));
        prop_assert_eq!(id(&original.payload), SCHEME.decode(&original, NOW).unwrap().info().id);
        prop_assert_eq!(id(&payload) == id(&original.payload), nonce == first.0);
    }

    #[test]
    fn valid_payment_may_always_settle(
        first in any_result(), second in any_result(), signed_by_key: bool,
    ) {
        let (request, _) = signed();
        let payment = SCHEME.decode(&request, NOW).unwrap();
        let answers = [first, second];
        for count in 1..=2 {
            let signed = [signed_by_key];
            let observed = Observed::new(&signed, &answers[..count], NOW);
            if let Ok(Check::Valid) = payment.check(&observed) {
                prop_assert!(may_settle(&answers[count - 1], signed_by_key), "{answers:?}");
                prop_assert!(payment.plan(Amount::from(PRICE), &observed).is_ok());
            }
        }
    }

    #[test]
    fn valid_payment_of_a_new_account_may_always_settle(
        now in outcomes_of_a_new_account(), later in prop::option::of(outcomes_of_a_new_account()),
    ) {
        let (scheme, request) = new_account();
        let payment = scheme.decode(&request, NOW).unwrap();
        let payable = [Some(&now), later.as_ref()].into_iter().flatten();
        let expected = payable.clone().all(|outcomes| is_payable_by_new_account(outcomes));
        let mixed = payable.clone().any(|outcomes| outcomes[1] != StepOutcome::CodeSize(0));
        let answers = [ProbeResult { later: later.clone(), ..result_of(now.clone()) }];
        let observed = Observed::new(&[], &answers, NOW);
        let valid = matches!(payment.check(&observed), Ok(Check::Valid));
        prop_assert_eq!(valid, expected);
        if valid && !mixed {
            let plan = payment.plan(Amount::from(PRICE), &observed).unwrap();
            let call = plan.into_action().unwrap();
            let gas = payable.filter_map(|outcomes| outcomes[7].gas()).max().unwrap();
            prop_assert_eq!((call.to, call.batchable), (MULTICALL3, false));
            prop_assert_eq!(call.gas, u64::from(gas));
        }
    }

    #[test]
    fn only_the_authorized_amount_is_settled(amount: u64, answer in any_result()) {
        let (request, _) = signed();
        let payment = SCHEME.decode(&request, NOW).unwrap();
        let answers = [answer];
        let observed = Observed::new(&[true], &answers, NOW);
        if amount != PRICE {
            prop_assert!(payment.plan(Amount::from(amount), &observed).is_err());
        }
    }

    #[test]
    fn transfer_counts_only_if_logged_exactly_once(
        logs in prop::collection::vec((0usize..3, 0usize..3, 0usize..3, 0u64..3), 0..4), succeeded: bool,
    ) {
        let (request, payer) = signed();
        let token: Address = requirements().asset.parse().unwrap();
        let seller: Address = SELLER.parse().unwrap();
        let other = Address::repeat_byte(1);
        let log = |(by, from, to, more): (usize, usize, usize, u64)| {
            let value = U256::from(PRICE + more);
            let transfer = Erc20::Transfer { from: [payer, seller, other][from], to: [seller, payer, other][to], value };
            log([token, other, payer][by], &transfer)
        };
        let exact = logs.iter().filter(|log| **log == (0, 0, 0, 0)).count();
        let evidence = Evidence { succeeded, logs: logs.iter().copied().map(log).collect() };
        let payment = UNORDERED.decode(&request, NOW).unwrap();
        let moved = payment.effect(Amount::from(PRICE), &evidence) == Effect::Transferred(Amount::from(PRICE));
        prop_assert_eq!(moved, succeeded && exact == 1);
    }

    #[test]
    fn equal_payments_are_distinguished_by_their_nonces(made in prop::collection::vec(any::<bool>(), 1..6), ours in any::<prop::sample::Index>()) {
        let (request, payer) = signed();
        let payment = SCHEME.decode(&request, NOW).unwrap();
        let token: Address = requirements().asset.parse().unwrap();
        let nonce: B256 = request.payload.tree()["authorization"]["nonce"].as_str().unwrap().parse().unwrap();
        let ours = ours.index(made.len());
        let transfer = Erc20::Transfer { from: payer, to: SELLER.parse().unwrap(), value: U256::from(PRICE) };
        let pair = |(at, _): (usize, &bool)| {
            let nonce = if at == ours { nonce } else { B256::repeat_byte(at as u8) };
            [log(token, &Eip3009::AuthorizationUsed { authorizer: payer, nonce }), log(token, &transfer)]
        };
        let logs = made.iter().enumerate().filter(|(_, made)| **made).flat_map(pair).collect();
        let effect = payment.effect(Amount::from(PRICE), &Evidence { succeeded: true, logs });
        match made[ours] {
            true => prop_assert_eq!(effect, Effect::Transferred(Amount::from(PRICE))),
            false => prop_assert!(matches!(effect, Effect::None(_))),
        }
    }

    /// The token is listed as one that logs the authorization first, and does not.
    #[test]
    fn use_without_its_transfer_right_after_is_a_mismatch(order in Just([0, 1, 2, 3]).prop_shuffle()) {
        let (request, payer) = signed();
        let payment = SCHEME.decode(&request, NOW).unwrap();
        let token: Address = requirements().asset.parse().unwrap();
        let nonce: B256 = request.payload.tree()["authorization"]["nonce"].as_str().unwrap().parse().unwrap();
        let (to, value) = (SELLER.parse().unwrap(), U256::from(PRICE));
        let used = |nonce| log(token, &Eip3009::AuthorizationUsed { authorizer: payer, nonce });
        let transfer = log(token, &Erc20::Transfer { from: payer, to, value });
        let all = [used(nonce), transfer.clone(), used(B256::ZERO), transfer];
        let logs: Vec<Log> = order.iter().map(|at| all[*at].clone()).collect();
        let sequence = |wanted: usize| order.iter().position(|at| *at == wanted).unwrap();
        let behind = sequence(0) + 1 == sequence(1) || sequence(0) + 1 == sequence(3);
        let effect = payment.effect(Amount::from(PRICE), &Evidence { succeeded: true, logs });
        match behind {
            true => prop_assert_eq!(effect, Effect::Transferred(Amount::from(PRICE))),
            false => prop_assert!(matches!(effect, Effect::Mismatch(_))),
        }
    }

    #[test]
    fn no_logs_panic(topics in prop::collection::vec(any::<[u8; 32]>(), 0..5), data: Vec<u8>) {
        let token: Address = requirements().asset.parse().unwrap();
        let topics = topics.into_iter().map(B256::from).collect();
        if let Some(data) = LogData::new(topics, data.into()) {
            let evidence = Evidence { succeeded: true, logs: vec![Log { address: token, data }] };
            let payment = SCHEME.decode(&signed().0, NOW).unwrap();
            prop_assert!(!matches!(payment.effect(Amount::from(PRICE), &evidence), Effect::Transferred(_)));
        }
    }

    #[test]
    fn no_payload_panics(
        signature in "0x[0-9a-f]{0,140}", texts in prop::array::uniform6("(0x)?[0-9a-f]{0,66}|[0-9]{0,80}"), number: u64,
    ) {
        let [from, to, value, valid_after, valid_before, nonce] = texts;
        for payload in [
            json!({ "signature": signature, "authorization": {
                "from": from, "to": to, "value": value, "validAfter": valid_after, "validBefore": valid_before, "nonce": nonce } }),
            json!({ "signature": signature, "authorization": number }),
            json!({ "signature": number, "authorization": { "from": from } }),
            json!({ "authorization": null, "more": [texts_of(number)] }),
        ] {
            let _ = SCHEME.decode(&request_with(Object::of(&payload).unwrap()), NOW);
        }
    }

    #[test]
    fn payment_is_valid_only_within_its_window(now in 0u64..4_000_000_000) {
        let (request, _) = signed();
        let payment = SCHEME.decode(&request, Timestamp::from_secs(now)).unwrap();
        let observed = Observed::new(&[true], &[], Timestamp::from_secs(now));
        let expires = NOW.plus_secs(60).secs();
        let valid = now + INCLUSION_MIN_SECS <= expires && expires <= now + LIFETIME_MAX_SECS;
        prop_assert_eq!(payment.check(&observed).is_ok(), valid);
    }
}

fn texts_of(number: u64) -> String {
    number.to_string()
}

#[test]
fn objection_to_an_unsigned_payload_is_not_reported() {
    // Neither the recipient nor the signature is right. The signature is reported, once it is known
    // that the payer is not a contract that accepts it.
    let (request, _) = signed();
    let mut payload = request.payload.tree();
    payload["authorization"]["to"] = json!(Address::repeat_byte(5));
    let payment = SCHEME
        .decode(&request_with(Object::of(&payload).unwrap()), NOW)
        .unwrap();
    let look = |signatures: &'static [bool], answers: &[ProbeResult]| {
        payment
            .check(&Observed::new(signatures, answers, NOW))
            .map_err(|rejection| rejection.reason)
    };
    assert!(matches!(look(&[false], &[]), Ok(Check::Ask(_))));
    let codeless = result_of(vec![StepOutcome::CodeSize(1), StepOutcome::CodeSize(0)]);
    assert_eq!(look(&[false], &[codeless]).err(), Some(reason::SIGNATURE));
    assert_eq!(look(&[true], &[]).err(), Some(reason::RECIPIENT_MISMATCH));
}

#[test]
fn possible_contract_is_simulated_as_a_transaction() {
    let (request, payer) = signed();
    let payment = SCHEME.decode(&request, NOW).unwrap();
    let ask =
        |signatures: &'static [bool]| match payment.check(&Observed::new(signatures, &[], NOW)) {
            Ok(Check::Ask(probe)) => probe,
            other => panic!("{other:?}"),
        };
    assert!(!ask(&[true]).as_transaction);
    let contract = ask(&[false]);
    assert!(contract.as_transaction);
    let asks_payer = |step: &Step| matches!(step, Step::Call { to, .. } if *to == payer);
    assert!(contract.steps.iter().any(asks_payer) && !ask(&[true]).steps.iter().any(asks_payer));
}

/// attacks.md 26: without the operator's word, no step calls a factory.
#[test]
fn only_an_allowed_factory_is_in_the_probe() {
    let (scheme, request) = new_account();
    let probes = |scheme: &Exact| {
        let payment = scheme.decode(&request, NOW).unwrap();
        let claims = payment.signatures().len();
        let observed = Observed::new(&[], &[], NOW);
        match payment.check(&observed) {
            Ok(Check::Ask(probe)) => (probe.steps.len(), claims, probe.as_transaction),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(probes(&SCHEME), (6, 0, true));
    assert_eq!(probes(&scheme), (8, 0, true));
}

#[test]
fn equal_payments_batch_only_if_logs_distinguish_them() {
    let keys = |scheme: &Exact| {
        let (first, _) = signed();
        let mut payload = first.payload.tree();
        payload["authorization"]["nonce"] = json!(B256::repeat_byte(3));
        let second = request_with(Object::of(&payload).unwrap());
        let answers = [result_of(vec![
            StepOutcome::CodeSize(1),
            StepOutcome::CodeSize(0),
            StepOutcome::NotMade,
            StepOutcome::Returned {
                data: Bytes::new(),
                gas: 50_000,
            },
        ])];
        let observed = Observed::new(&[true], &answers, NOW);
        [first, second].map(|request| {
            let payment = scheme.decode(&request, NOW).unwrap();
            payment
                .plan(Amount::from(PRICE), &observed)
                .unwrap()
                .into_action()
                .unwrap()
                .effect_key
        })
    };
    let [first, second] = keys(&SCHEME);
    assert_ne!(first, second);
    let [first, second] = keys(&UNORDERED);
    assert_eq!(first, second);
}

#[test]
fn operator_can_accept_payments_by_key_only() {
    let by_key_only = Exact {
        limits: Limits {
            contract_wallets: false,
            ..SCHEME.limits
        },
        ..SCHEME.clone()
    };
    let payment = by_key_only.decode(&signed().0, NOW).unwrap();
    let look = |signatures: &'static [bool], answers: &[ProbeResult]| {
        payment
            .check(&Observed::new(signatures, answers, NOW))
            .map_err(|rejection| rejection.reason)
    };
    assert_eq!(look(&[false], &[]).err(), Some(reason::SIGNATURE));
    assert!(matches!(look(&[true], &[]), Ok(Check::Ask(_))));
    let with_code = result_of(vec![StepOutcome::CodeSize(1), StepOutcome::CodeSize(23)]);
    assert_eq!(
        look(&[true], &[with_code]).err(),
        Some(reason::CONTRACT_WALLET_NOT_ALLOWED)
    );
}

/// A request with changes to its JSON.
fn changed_request(change: impl FnOnce(&mut serde_json::Value)) -> Result<PaymentRequest, Refusal> {
    let (request, _) = signed();
    let mut body: serde_json::Value = serde_json::from_str(request.text()).unwrap();
    change(&mut body);
    PaymentRequest::decode(body.to_string().as_bytes())
}

#[test]
fn exact_numbers_in_place_of_strings_are_the_same_payment() {
    let expected = SCHEME.decode(&signed().0, NOW).unwrap().info().clone();
    let exact = changed_request(|body| {
        let authorization = &mut body["paymentPayload"]["payload"]["authorization"];
        authorization["value"] = json!(PRICE);
        authorization["validAfter"] = json!(0);
        authorization["validBefore"] = json!(NOW.plus_secs(60).secs());
        for terms in ["/paymentRequirements", "/paymentPayload/accepted"] {
            let terms = body.pointer_mut(terms).unwrap();
            terms["amount"] = json!(PRICE);
            terms["maxTimeoutSeconds"] = json!("60");
            terms["extra"]["version"] = json!(2);
        }
    });
    let payment = SCHEME.decode(&exact.unwrap(), NOW).unwrap();
    assert_eq!(*payment.info(), expected);
    assert_eq!(
        payment.signatures(),
        SCHEME.decode(&signed().0, NOW).unwrap().signatures()
    );
}

#[test]
fn inexact_number_is_malformed_and_named() {
    let payload = "/paymentPayload/payload/authorization";
    for (at, field, name) in [
        (
            payload,
            "value",
            "paymentPayload.payload.authorization.value",
        ),
        (
            payload,
            "validAfter",
            "paymentPayload.payload.authorization.validAfter",
        ),
        (
            payload,
            "validBefore",
            "paymentPayload.payload.authorization.validBefore",
        ),
        (
            "/paymentRequirements",
            "amount",
            "paymentRequirements.amount",
        ),
        (
            "/paymentRequirements",
            "maxTimeoutSeconds",
            "paymentRequirements.maxTimeoutSeconds",
        ),
        (
            "/paymentRequirements/extra",
            "version",
            "paymentRequirements.extra.version",
        ),
    ] {
        for odd in [
            json!(2.5),
            json!(1e20),
            json!(-1),
            json!(true),
            json!(["2"]),
        ] {
            let request =
                changed_request(|body| body.pointer_mut(at).unwrap()[field] = odd.clone());
            let decoded = request.and_then(|request| SCHEME.decode(&request, NOW).map(drop));
            match decoded {
                Err(Refusal::Malformed(malformed)) => assert_eq!(malformed.field, name, "{odd}"),
                other => panic!("{name} {odd}: {other:?}"),
            }
        }
    }
}

/// attacks.md 55.
#[test]
fn nonce_is_32_bytes_in_hexadecimal() {
    let decoded = |nonce: String| {
        let request = changed_request(|body| {
            body["paymentPayload"]["payload"]["authorization"]["nonce"] = json!(nonce);
        });
        SCHEME.decode(&request.unwrap(), NOW).map(drop)
    };
    for good in ["00", "ab"] {
        assert!(decoded(format!("0x{}", good.repeat(32))).is_ok());
    }
    let short = format!("0x{}", "00".repeat(31));
    let long = format!("0x{}", "00".repeat(33));
    for odd in [short, long, "00".repeat(32), "7".to_owned(), String::new()] {
        match decoded(odd.clone()) {
            Err(Refusal::Malformed(malformed)) => {
                assert!(
                    malformed.field.ends_with("authorization.nonce"),
                    "{malformed:?}"
                );
            }
            other => panic!("{odd}: {other:?}"),
        }
    }
}

#[test]
fn offer_identifies_payloads_by_the_authorization_alone() {
    let (request, _) = signed();
    let offer = ExactOffer::usdc("base-sepolia", "0.01", SELLER).unwrap();
    let info = SCHEME.decode(&request, NOW).unwrap().info().clone();
    assert_eq!(offer.authorization(&request.payload), Some(info.id));
    // Other fields of the payload do not change the authorization.
    let mut payload = request.payload.tree();
    payload.insert("unknown".to_owned(), json!(1));
    payload["signature"] = json!("0x");
    payload["authorization"]["unknown"] = json!({ "a": [2] });
    payload["authorization"]["value"] = json!("7");
    let from = payload["authorization"]["from"]
        .as_str()
        .unwrap()
        .to_lowercase();
    payload["authorization"]["from"] = json!(from);
    assert_eq!(
        offer.authorization(&Object::of(&payload).unwrap()),
        Some(info.id)
    );
    payload["authorization"]["nonce"] = json!(B256::repeat_byte(7));
    let other = offer.authorization(&Object::of(&payload).unwrap());
    assert!(other.is_some() && other != Some(info.id));
    let foreign = Object::of(&json!({ "transaction": "AA==" })).unwrap();
    assert_eq!(offer.authorization(&foreign), None);
}
