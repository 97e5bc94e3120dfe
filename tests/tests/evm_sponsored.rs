//! Payments by Permit2 whose payer signs the approval of Permit2 as well, and sends no transaction:
//! the extension `eip2612GasSponsoring` of `exact` and `upto`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::sync::{Arc, Mutex};

use alloy::primitives::{Address, U256};
use alloy::signers::local::PrivateKeySigner;
use async_trait::async_trait;
use quittance_core::json::Object;
use quittance_core::{
    Amount, Clock, Facilitator, FacilitatorError, FaultKind, Offer, Payer, PaymentRequest, Reason,
    Scheme, SystemClock,
};
use quittance_devnet::{Evm as Local, USDC};
use quittance_engine::{Engine, EngineBuilder};
use quittance_evm::{
    Evm, Exact, ExactOffer, ExactPayer, Token, TransferMethod, Upto, UptoOffer, UptoPayer, known,
    reason,
};
use quittance_testing::faults::{EngineParts, FaultySchemeFixture, PlantedFault, SchemeFault};
use quittance_tests::conformance::scheme::{self, SchemeFixture};
use quittance_tests::evm::{PRICE, Setting, set};
use quittance_tests::mutations::{NOT_CAUGHT_IN_EXACT, assert_caught};
use quittance_tests::permit2::{
    APPROVAL, Approval, GAS_SPONSORING, Permit, Permits, SIGNATURE, allow, allowance,
    settle_elsewhere, twin, with_extensions,
};
use serde_json::{Value, json};

/// A chain on which no account has approved Permit2, and the payer of the newest payment.
struct Fixture<const UPTO: bool> {
    setting: Setting,
    payer: Mutex<Option<PrivateKeySigner>>,
}

type ByExact = Fixture<false>;
type ByUpto = Fixture<true>;

fn permits(upto: bool) -> Permits {
    match upto {
        true => Permits::upto(),
        false => Permits::exact(),
    }
}

async fn builder(setting: &Setting) -> EngineBuilder {
    let evm = Evm::new(setting.config()).unwrap();
    let schemes = vec![
        Arc::new(Exact::new(&evm)) as _,
        Arc::new(Upto::new(&evm)) as _,
    ];
    setting.builder().await.chain(evm, schemes)
}

async fn engine(setting: &Setting) -> Engine {
    builder(setting).await.start().await.unwrap()
}

/// A permit and an approval by an account, with a part of each changed before it is signed.
fn signed_by(
    upto: bool,
    account: &PrivateKeySigner,
    change_permit: impl FnOnce(&mut Permit),
    change: impl FnOnce(&mut Approval),
) -> PaymentRequest {
    let permits = permits(upto);
    let mut permit = Permit::new(permits.proxy, permits.facilitator);
    change_permit(&mut permit);
    let owner = account.address();
    let request = permit.request(owner, &permit.signature(account), &permits.requirements);
    let mut approval = Approval::new(owner, &permit);
    change(&mut approval);
    approval.beside(&request, account)
}

/// The approval of a payment by an account.
fn approval_in(request: &PaymentRequest, account: &PrivateKeySigner) -> Approval {
    let mut permit = Permit::new(Address::ZERO, None);
    let payload = request.payload.tree();
    let field = |name: &str| payload["permit2Authorization"][name].clone();
    permit.deadline = field("deadline").as_str().unwrap().parse().unwrap();
    Approval::new(account.address(), &permit)
}

impl<const UPTO: bool> Fixture<UPTO> {
    /// A payer that has never sent a transaction.
    async fn new_payer(&self) -> PrivateKeySigner {
        let key = PrivateKeySigner::random();
        let minted = self
            .setting
            .local
            .mint(USDC, key.address(), U256::from(5 * PRICE));
        minted.await.unwrap();
        *self.payer.lock().unwrap() = Some(key.clone());
        key
    }

    fn payer(&self) -> PrivateKeySigner {
        self.payer.lock().unwrap().clone().unwrap()
    }
}

#[async_trait]
impl<const UPTO: bool> SchemeFixture for Fixture<UPTO> {
    type Chain = Evm;

    const PRICE: Amount = Amount::new(U256::from_limbs([PRICE, 0, 0, 0]));

    async fn new() -> Self {
        Self {
            setting: Setting::start().await,
            payer: Mutex::default(),
        }
    }

    fn scheme(&self) -> Arc<dyn Scheme<Evm>> {
        let evm = Evm::new(self.setting.config()).unwrap();
        match UPTO {
            true => Arc::new(Upto::new(&evm)),
            false => Arc::new(Exact::new(&evm)),
        }
    }

    async fn engine(&self) -> Engine {
        engine(&self.setting).await
    }

    /// By a new payer each time: a payer can have one such payment open.
    async fn request(&self) -> PaymentRequest {
        signed_by(UPTO, &self.new_payer().await, |_| (), |_| ())
    }

    async fn alike(&self) -> [PaymentRequest; 2] {
        let nonce = U256::from(7);
        [2, 3].map(|at: usize| {
            let key = &Local::accounts()[at].signer;
            signed_by(UPTO, key, |permit| permit.nonce = nonce, |_| ())
        })
    }

    fn twin(&self, request: &PaymentRequest) -> PaymentRequest {
        twin(request)
    }

    /// The row 68 of docs/attacks.md is among them.
    async fn spoiled(&self) -> Vec<(&'static str, PaymentRequest, Reason)> {
        let buyer = Setting::buyer().signer;
        let good = signed_by(UPTO, &buyer, |_| (), |_| ());
        let approval = |change: fn(&mut Approval)| signed_by(UPTO, &buyer, |_| (), change);
        let field = |name: &str, value: Value| set(&good, &format!("{APPROVAL}/{name}"), value);
        let other = Address::repeat_byte(7);
        vec![
            (
                "no approval",
                with_extensions(&good, json!({})),
                reason::PERMIT2_ALLOWANCE_REQUIRED,
            ),
            (
                "the seller's offer, echoed",
                with_extensions(
                    &good,
                    json!({ GAS_SPONSORING: { "info": { "version": "1" } } }),
                ),
                reason::PERMIT2_ALLOWANCE_REQUIRED,
            ),
            (
                "an approval of another account",
                approval(|approval| approval.owner = Address::repeat_byte(7)),
                reason::EIP2612_FROM_MISMATCH,
            ),
            (
                "an approval at another token",
                approval(|approval| approval.token = Address::repeat_byte(7)),
                reason::EIP2612_ASSET_MISMATCH,
            ),
            (
                "an approval of another spender",
                approval(|approval| approval.spender = Address::repeat_byte(7)),
                reason::EIP2612_SPENDER_NOT_PERMIT2,
            ),
            (
                "an approval of less",
                approval(|approval| approval.value -= U256::ONE),
                reason::PERMIT2_2612_AMOUNT_MISMATCH,
            ),
            (
                "an approval of more",
                approval(|approval| approval.value = U256::MAX),
                reason::PERMIT2_2612_AMOUNT_MISMATCH,
            ),
            (
                "an approval that has expired",
                approval(|approval| approval.deadline = U256::from(SystemClock.now().secs() - 1)),
                reason::EIP2612_DEADLINE_EXPIRED,
            ),
            (
                "an approval with another nonce",
                approval(|approval| approval.nonce = U256::from(1)),
                reason::PERMIT2_ALLOWANCE_REQUIRED,
            ),
            (
                "an approval that another key signed",
                {
                    let stranger = PrivateKeySigner::random();
                    approval_in(&good, &buyer).beside(&good, &stranger)
                },
                reason::PERMIT2_ALLOWANCE_REQUIRED,
            ),
            (
                "a signature of another length",
                field("signature", json!("0x01")),
                reason::EIP2612_FORMAT,
            ),
            (
                "an amount that is no number",
                field("amount", json!("all")),
                reason::EIP2612_FORMAT,
            ),
            (
                "an account that is no address",
                field("from", json!("me")),
                reason::EIP2612_FORMAT,
            ),
            (
                "a permit that was not signed",
                set(&good, SIGNATURE, set_signature(&other)),
                reason::PERMIT2_SIGNATURE,
            ),
        ]
    }

    async fn pointless(&self) -> [(PaymentRequest, Reason); 2] {
        permits(UPTO).pointless().await
    }

    async fn received(&self) -> Amount {
        self.setting.received().await
    }

    async fn hold(&self) {
        self.setting.hold().await;
    }

    async fn go_on(&self) {
        self.setting.go_on().await;
    }

    async fn drain_payer(&self) -> bool {
        let payer = self.payer().address();
        let local = &self.setting.local;
        let _: Value = local
            .rpc("anvil_impersonateAccount", [payer])
            .await
            .unwrap();
        let coin = "0xde0b6b3a7640000";
        let _: Value = local
            .rpc("anvil_setBalance", json!([payer, coin]))
            .await
            .unwrap();
        self.setting.drain(payer).await;
        true
    }

    async fn settle_elsewhere(&self, request: &PaymentRequest) -> bool {
        submit(
            &self.setting,
            &approval_in(request, &self.payer()),
            &self.payer(),
        )
        .await;
        settle_elsewhere(&self.setting, request, PRICE).await;
        true
    }
}

/// A signature that is no key's.
fn set_signature(filler: &Address) -> Value {
    let digits = alloy::hex::encode(filler);
    json!(format!("0x{}1b", &digits.repeat(4)[..128]))
}

mod exact {
    use super::ByExact;
    quittance_tests::scheme_conformance!(ByExact);
}

mod upto {
    use super::ByUpto;
    quittance_tests::scheme_conformance!(ByUpto);
}

#[async_trait]
impl<const UPTO: bool> EngineParts for Fixture<UPTO> {
    fn parts(&self) -> (Evm, Arc<dyn Scheme<Evm>>) {
        let evm = Evm::new(self.setting.config()).unwrap();
        (evm, self.scheme())
    }

    async fn builder(&self) -> EngineBuilder {
        self.setting.builder().await
    }
}

/// Some minutes: `make mutations`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn planted_faults_are_caught() {
    let properties = scheme::properties::<FaultySchemeFixture<ByExact>>();
    let faults = SchemeFault::ALL.map(PlantedFault::Scheme);
    assert_caught(&properties, faults, &NOT_CAUGHT_IN_EXACT).await;
}

/// Submits an approval without the engine, as anyone who sees it can.
async fn submit(setting: &Setting, approval: &Approval, key: &PrivateKeySigner) {
    let sender = Local::accounts()[6].address;
    let sent = setting
        .local
        .send(sender, approval.token, approval.call(key));
    sent.await.unwrap();
}

/// Row 68 of docs/attacks.md: anyone who sees the approval can submit it first. The payment needs
/// only the allowance.
#[tokio::test(flavor = "multi_thread")]
async fn approval_that_another_submitted_first_settles() {
    let setting = Setting::start().await;
    let engine = engine(&setting).await;
    let buyer = Setting::buyer().signer;
    for upto in [false, true] {
        let nonce = U256::from(u64::from(upto));
        let request = signed_by(upto, &buyer, |_| (), |approval| approval.nonce = nonce);
        assert!(engine.verify(&request).await.unwrap().is_valid);
        let mut approval = approval_in(&request, &buyer);
        approval.nonce = nonce;
        submit(&setting, &approval, &buyer).await;
        assert!(engine.verify(&request).await.unwrap().is_valid);
        let settled = engine.settle(&request).await.unwrap();
        assert!(settled.success, "{settled:?}");
    }
    assert_eq!(setting.received().await, Amount::from(2 * PRICE));
}

/// Row 68, while the transaction waits: the proxy ignores that the approval fails.
#[tokio::test(flavor = "multi_thread")]
async fn approval_submitted_before_the_transaction_settles() {
    let setting = Setting::start().await;
    let engine = engine(&setting).await;
    let buyer = Setting::buyer().signer;
    let request = signed_by(false, &buyer, |_| (), |_| ());
    setting.hold().await;
    let settling = tokio::spawn({
        let (engine, request) = (engine.clone(), request.clone());
        async move { engine.settle(&request).await }
    });
    let signer = Setting::signers()[0].address;
    quittance_tests::until("it was sent", || async {
        let sent: Value = setting
            .local
            .rpc("eth_getTransactionCount", (signer, "pending"))
            .await
            .unwrap();
        sent == json!("0x1")
    })
    .await;
    let data = alloy::hex::encode_prefixed(approval_in(&request, &buyer).call(&buyer));
    let first = json!([{ "from": Local::accounts()[6].address, "to": USDC, "data": data,
        "maxFeePerGas": "0xd18c2e2800", "maxPriorityFeePerGas": "0xba43b74000" }]);
    let _: Value = setting
        .local
        .rpc("eth_sendTransaction", first)
        .await
        .unwrap();
    setting.go_on().await;
    let settled = settling.await.unwrap().unwrap();
    let settled = match settled.success {
        true => settled,
        false => engine.settle(&request).await.unwrap(),
    };
    assert!(settled.success, "{settled:?}");
    assert_eq!(setting.received().await, Amount::from(PRICE));
}

/// A payer signed ten approvals with one nonce. Each payment passed its own simulation, and all but
/// one would revert at the operator's cost.
#[tokio::test(flavor = "multi_thread")]
async fn approvals_with_one_nonce_cost_no_gas() {
    let setting = Setting::start().await;
    let engine = engine(&setting).await;
    let buyer = Setting::buyer().signer;
    let requests = [(); 10].map(|()| signed_by(false, &buyer, |_| (), |_| ()));
    let settled = requests.iter().map(|request| engine.settle(request));
    let settled = futures_util::future::join_all(settled).await;
    let mut successes = 0;
    for answer in settled {
        match answer {
            Ok(answer) => {
                successes += u64::from(answer.success);
                let reason = answer.error_reason;
                assert!(answer.success || reason.as_deref() == Some("permit2_allowance_required"));
            }
            Err(FacilitatorError::Fault(fault)) => assert_eq!(fault.kind, FaultKind::Busy),
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(successes, 1);
    assert_eq!(setting.received().await, Amount::from(PRICE));
    assert_eq!(setting.sent(Setting::signers()[0].address).await, 1);
}

/// An approval replaces the allowance. Submitted beside a larger one, it would take it from the
/// payer's other payments.
#[tokio::test(flavor = "multi_thread")]
async fn approval_is_not_submitted_beside_an_allowance() {
    let setting = Setting::start().await;
    let engine = engine(&setting).await;
    let buyer = Setting::buyer();
    allow(&setting, buyer.address, 5 * PRICE).await;
    let plain = [(); 2].map(|()| Permits::exact().permit_by(&buyer, |_| ()));
    let approved = [false, true].map(|upto| signed_by(upto, &buyer.signer, |_| (), |_| ()));
    let requests = plain.iter().chain(&approved);
    let settled = requests.map(|request| engine.settle(request));
    for answer in futures_util::future::join_all(settled).await {
        assert!(answer.unwrap().success);
    }
    assert_eq!(setting.received().await, Amount::from(4 * PRICE));
    assert_eq!(allowance(&setting, buyer.address).await, U256::from(PRICE));
}

/// A payment that is not open yet may need the allowance that an approval replaces.
#[tokio::test(flavor = "multi_thread")]
async fn payments_beside_an_approval_wait_for_it() {
    let setting = Setting::start().await;
    let engine = engine(&setting).await;
    let buyer = Setting::buyer();
    allow(&setting, buyer.address, PRICE - 1).await;
    let approved = signed_by(false, &buyer.signer, |_| (), |_| ());
    let plain = Permits::upto().permit_by(&buyer, |_| ());
    let plain = plain.charging(Amount::from(PRICE / 2)).unwrap();
    setting.hold().await;
    let pending = engine.settle(&approved).await.unwrap();
    assert!(pending.is_pending(), "{pending:?}");
    match engine.settle(&plain).await {
        Err(FacilitatorError::Fault(fault)) => assert_eq!(fault.kind, FaultKind::Busy),
        other => panic!("{other:?}"),
    }
    setting.go_on().await;
    assert!(engine.settle(&approved).await.unwrap().success);
    assert_eq!(setting.received().await, Amount::from(PRICE));
}

/// The approval is for the maximum, and the charge needs less.
#[tokio::test(flavor = "multi_thread")]
async fn charge_by_an_approval_moves_what_it_says() {
    let setting = Setting::start().await;
    let engine = engine(&setting).await;
    let buyer = Setting::buyer();
    let charges = [(0, 0), (1, 0), (PRICE - 1, 1), (PRICE, 1)];
    let mut received = 0;
    for (amount, nonce) in charges {
        let nonce = U256::from(nonce);
        let request = signed_by(
            true,
            &buyer.signer,
            |_| (),
            |approval| approval.nonce = nonce,
        );
        let charge = request.charging(Amount::from(amount)).unwrap();
        let settled = engine.settle(&charge).await.unwrap();
        assert!(settled.success, "{amount}: {settled:?}");
        received += amount;
        assert_eq!(setting.received().await, Amount::from(received));
        if amount == 1 {
            // What is left of the first approval is enough for this one.
            assert_eq!(
                allowance(&setting, buyer.address).await,
                U256::from(PRICE - 1)
            );
        }
    }
}

fn usdc() -> Token {
    known::token("eip155:84532", "USDC").unwrap().clone()
}

/// What a seller's 402 response offers, if its facilitator supports these extensions.
fn offered(upto: bool, token: Token, supported: &[&str]) -> Option<Object> {
    let supported: Vec<String> = supported.iter().map(ToString::to_string).collect();
    let network = known::network("base-sepolia").unwrap();
    let seller = Setting::seller().address.to_string();
    match upto {
        true => UptoOffer::new(network, token, "0.01", &seller)
            .unwrap()
            .extensions(&supported),
        false => {
            let token = token.with_method(TransferMethod::Permit2);
            ExactOffer::new(network, token, "0.01", &seller)
                .unwrap()
                .extensions(&supported)
        }
    }
}

/// The buyer's payer of a scheme, for this token, with this node.
fn payer(upto: bool, token: Token, node: Option<&str>) -> Box<dyn Payer> {
    let network = known::network("base-sepolia").unwrap();
    let urls: Vec<_> = node.iter().map(|url| url.parse().unwrap()).collect();
    let key = Setting::buyer().signer;
    if upto {
        let payer = UptoPayer::new(key).with_token(network.id(), token);
        return match urls.as_slice() {
            [] => Box::new(payer),
            urls => Box::new(payer.with_rpc(&network, urls).unwrap()),
        };
    }
    let payer = ExactPayer::new(key).with_token(network.id(), token);
    match urls.as_slice() {
        [] => Box::new(payer),
        urls => Box::new(payer.with_rpc(&network, urls).unwrap()),
    }
}

/// A payment for what a seller offers, and whether it has an approval.
async fn pay(payer: &dyn Payer, upto: bool, offered: Option<&Object>) -> (PaymentRequest, bool) {
    let requirements = permits(upto).requirements;
    let paid = payer.pay(&requirements, offered, SystemClock.now()).await;
    let paid = paid.unwrap();
    let mut payload = quittance_tests::payload_of(&requirements, paid.payload);
    let approves = paid.extensions.is_some();
    payload.extensions = paid.extensions.map(|signed| {
        assert_eq!(signed.tree().keys().collect::<Vec<_>>(), [GAS_SPONSORING]);
        quittance_core::json::Json::of(&signed).unwrap()
    });
    (quittance_tests::request(payload, &requirements), approves)
}

#[tokio::test(flavor = "multi_thread")]
async fn payer_signs_the_approval_that_is_missing() {
    let setting = Setting::start().await;
    let engine = engine(&setting).await;
    let node = Some(setting.local.url());
    for upto in [false, true] {
        let offered = offered(upto, usdc(), &[GAS_SPONSORING]);
        let payer = payer(upto, usdc(), node);
        for _ in 0..2 {
            let (request, approves) = pay(payer.as_ref(), upto, offered.as_ref()).await;
            assert!(approves);
            let settled = engine.settle(&request).await.unwrap();
            assert!(settled.success, "{settled:?}");
        }
    }
    assert_eq!(setting.received().await, Amount::from(4 * PRICE));
    // No transaction of the buyer's.
    assert_eq!(setting.sent(Setting::buyer().address).await, 0);
}

/// An approval is worth an allowance. None is signed without need.
#[tokio::test(flavor = "multi_thread")]
async fn payer_signs_no_approval_without_need() {
    let setting = Setting::start().await;
    let node = Some(setting.local.url());
    let plain = usdc().with_eip2612(false);
    let dead = Some("http://127.0.0.1:1");
    for upto in [false, true] {
        let offer = offered(upto, usdc(), &[GAS_SPONSORING]);
        let foreign = Object::of(&json!({ "anotherExtension": {} })).unwrap();
        let cases = [
            (payer(upto, usdc(), node), None, "it is not offered"),
            (
                payer(upto, usdc(), node),
                Some(&foreign),
                "another one is offered",
            ),
            (
                payer(upto, plain.clone(), node),
                offer.as_ref(),
                "the token accepts none",
            ),
            (
                payer(upto, usdc(), None),
                offer.as_ref(),
                "nothing shows the allowance",
            ),
            (
                payer(upto, usdc(), dead),
                offer.as_ref(),
                "the node does not reply",
            ),
        ];
        for (payer, offered, why) in cases {
            assert!(!pay(payer.as_ref(), upto, offered).await.1, "{why}");
        }
    }
    allow(&setting, Setting::buyer().address, PRICE).await;
    for upto in [false, true] {
        let offered = offered(upto, usdc(), &[GAS_SPONSORING]);
        let payer = payer(upto, usdc(), node);
        assert!(!pay(payer.as_ref(), upto, offered.as_ref()).await.1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn extension_is_offered_where_it_is_supported() {
    let setting = Setting::start().await;
    let supported = engine(&setting).await.supported().await.unwrap();
    assert_eq!(supported.extensions, Some(vec![GAS_SPONSORING.to_owned()]));
    for upto in [false, true] {
        let offer = offered(upto, usdc(), &[GAS_SPONSORING]).unwrap().tree();
        let extension = &offer[GAS_SPONSORING];
        assert_eq!(extension["info"]["version"], "1");
        let required = extension["schema"]["required"].as_array().unwrap();
        assert_eq!(required.len(), 8);
        assert_eq!(offered(upto, usdc(), &["another"]), None);
        let plain = usdc().with_eip2612(false);
        assert_eq!(offered(upto, plain, &[GAS_SPONSORING]), None);
    }
}

/// The approval's own values. The nonce, the version and the description do not decide.
#[tokio::test(flavor = "multi_thread")]
async fn approval_with_any_value_changed_is_not_valid() {
    let setting = Setting::start().await;
    let engine = engine(&setting).await;
    let buyer = Setting::buyer().signer;
    for upto in [false, true] {
        let good = signed_by(upto, &buyer, |_| (), |_| ());
        let tree: Value = serde_json::from_str(good.text()).unwrap();
        let info = tree.pointer(APPROVAL).unwrap().as_object().unwrap();
        for (name, value) in info {
            let mut text = value.as_str().unwrap().to_owned();
            let last = text.pop().unwrap();
            text.push(if last == '0' { '1' } else { '0' });
            let changed = set(&good, &format!("{APPROVAL}/{name}"), json!(text));
            let verdict = engine.verify(&changed).await.unwrap();
            let decides = !["nonce", "version", "description"].contains(&name.as_str());
            assert_eq!(verdict.is_valid, !decides, "{name}: {verdict:?}");
        }
        assert!(engine.verify(&good).await.unwrap().is_valid);
    }
}

/// What cannot be stored is refused before a seller serves anything.
#[tokio::test(flavor = "multi_thread")]
async fn extension_too_long_to_keep_is_malformed() {
    let setting = Setting::start().await;
    let engine = engine(&setting).await;
    let buyer = Setting::buyer().signer;
    let good = signed_by(false, &buyer, |_| (), |_| ());
    let padded = set(
        &good,
        &format!("{APPROVAL}/description"),
        json!("x".repeat(4_000)),
    );
    match engine.verify(&padded).await {
        Err(FacilitatorError::Malformed(malformed)) => {
            assert_eq!(malformed.field, "paymentPayload.extensions");
        }
        other => panic!("{other:?}"),
    }
    // Extensions that the scheme does not read are not stored.
    let mut extensions: Value = serde_json::from_str(good.text()).unwrap();
    let mut extensions = extensions["paymentPayload"]["extensions"].take();
    extensions["other"] = json!({ "info": "x".repeat(40_000) });
    let other = with_extensions(&good, extensions);
    assert!(engine.settle(&other).await.unwrap().success);
}

/// Permit2 takes `v` of a key's signature as 27 or 28, and so does the token. Some wallets write 0
/// or 1.
#[tokio::test(flavor = "multi_thread")]
async fn approval_with_a_parity_settles() {
    let setting = Setting::start().await;
    let engine = engine(&setting).await;
    let buyer = Setting::buyer().signer;
    let good = signed_by(false, &buyer, |_| (), |_| ());
    let tree: Value = serde_json::from_str(good.text()).unwrap();
    let signature = tree.pointer(APPROVAL).unwrap()["signature"]
        .as_str()
        .unwrap();
    let mut bytes = alloy::hex::decode(signature).unwrap();
    bytes[64] -= 27;
    let bytes = alloy::hex::encode_prefixed(bytes);
    let parity = set(&good, &format!("{APPROVAL}/signature"), json!(bytes));
    assert!(engine.settle(&parity).await.unwrap().success);
    assert_eq!(setting.received().await, Amount::from(PRICE));
}
