//! `batch-settlement` on the contracts of channels: deposits have the properties of every scheme,
//! and vouchers, claims, transfers, refunds and withdrawals do what they say.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::sync::{Arc, Mutex};

use alloy::primitives::{Address, B256, U256};
use alloy::signers::local::PrivateKeySigner;
use async_trait::async_trait;
use futures_util::future::join_all;
use quittance_core::wire::SettleResponse;
use quittance_core::{
    Amount, Clock, Facilitator, PaymentRequest, Reason, Scheme, StateStore, SystemClock,
};
use quittance_devnet::{Account, Evm as Local, USDC};
use quittance_engine::{Engine, EngineBuilder};
use quittance_evm::batch::{BatchSettlement, ClaimRow, Voucher, reason};
use quittance_evm::{Evm, EvmConfig};
use quittance_testing::faults::{EngineParts, FaultySchemeFixture, PlantedFault, SchemeFault};
use quittance_tests::channels::{Channel, deposited, request};
use quittance_tests::conformance::life::{Act, LifeFixture};
use quittance_tests::conformance::scheme::{self, SchemeFixture};
use quittance_tests::engine::{assert_invalid, assert_refused, settled_at_last as settled};
use quittance_tests::evm::{PRICE, Setting, set, set_required};
use quittance_tests::mutations::{NOT_CAUGHT_IN_EXACT, assert_caught};
use quittance_tests::permit2::approved;
use serde_json::{Value, json};

/// Where a request has the authorization of its deposit.
const AUTHORIZATION: &str = "/paymentPayload/payload/deposit/authorization/erc3009Authorization";

/// Where a request has its voucher, and its channel.
const VOUCHER: &str = "/paymentPayload/payload/voucher";
const CONFIG: &str = "/paymentPayload/payload/channelConfig";

fn scheme_of(config: EvmConfig) -> (Evm, BatchSettlement) {
    let evm = Evm::new(config).unwrap();
    let scheme = BatchSettlement::new(&evm);
    (evm, scheme)
}

async fn builder(setting: &Setting) -> EngineBuilder {
    let (evm, scheme) = scheme_of(setting.config());
    setting.builder().await.chain(evm, vec![Arc::new(scheme)])
}

async fn engine(setting: &Setting) -> Engine {
    builder(setting).await.start().await.unwrap()
}

/// A deposit of the price into a new channel, and a voucher for it.
fn deposit() -> PaymentRequest {
    Channel::new().deposit(PRICE.into())
}

struct DepositFixture(Setting);

#[async_trait]
impl SchemeFixture for DepositFixture {
    type Chain = Evm;

    const PRICE: Amount = Amount::new(U256::from_limbs([PRICE, 0, 0, 0]));

    async fn new() -> Self {
        Self(Setting::start().await)
    }

    fn scheme(&self) -> Arc<dyn Scheme<Evm>> {
        Arc::new(scheme_of(self.0.config()).1)
    }

    async fn engine(&self) -> Engine {
        engine(&self.0).await
    }

    async fn request(&self) -> PaymentRequest {
        deposit()
    }

    async fn alike(&self) -> [PaymentRequest; 2] {
        let salt = B256::from(PrivateKeySigner::random().to_bytes());
        let until = SystemClock.now().secs() + 60;
        [Setting::buyer(), Local::accounts()[3].clone()].map(|payer| {
            let channel = Channel::of(&payer).with(|config| config.salt = salt);
            let deposit = channel.deposit_with(PRICE.into(), salt, until);
            channel.deposit_request(&deposit, PRICE.into(), &channel.requirements())
        })
    }

    fn twin(&self, request: &PaymentRequest) -> PaymentRequest {
        let path = format!("{AUTHORIZATION}/signature");
        set(request, &path, json!(format!("0x{}", "11".repeat(65))))
    }

    async fn spoiled(&self) -> Vec<(&'static str, PaymentRequest, Reason)> {
        spoiled()
    }

    async fn pointless(&self) -> [(PaymentRequest, Reason); 2] {
        let channel = Channel::new();
        let nothing = channel.deposit_by_eip3009(0);
        let nothing = channel.deposit_request(&nothing, PRICE.into(), &channel.requirements());
        let buyer = Setting::buyer().address;
        let to_itself = Channel::new().with(|config| config.receiver = buyer);
        [
            (nothing, Reason::AMOUNT_TOO_LOW),
            (
                to_itself.deposit(PRICE.into()),
                Reason::INVALID_PAYMENT_REQUIREMENTS,
            ),
        ]
    }

    /// A deposit is the contract's until it is claimed.
    async fn received(&self) -> Amount {
        Amount::new(deposited(&self.0).await)
    }

    async fn hold(&self) {
        self.0.hold().await;
    }

    async fn go_on(&self) {
        self.0.go_on().await;
    }

    async fn drain_payer(&self) -> bool {
        self.0.drain(Setting::buyer().address).await;
        true
    }

    async fn settle_elsewhere(&self, request: &PaymentRequest) -> bool {
        Channel::deposit_elsewhere(&self.0, request).await;
        true
    }
}

quittance_tests::scheme_conformance!(DepositFixture);

/// Lives of a channel whose seller keeps its book.
struct ChannelLives {
    setting: Setting,
    /// The channel of the newest life.
    newest: Mutex<Channel>,
}

/// What each act of a life moves, in atomic units.
const DEPOSIT: u128 = 50_000;
const CLAIM: u128 = 30_000;
const REFUND: u128 = 10_000;

#[async_trait]
impl LifeFixture for ChannelLives {
    type Chain = Evm;

    async fn new() -> Self {
        Self {
            setting: Setting::start().await,
            newest: Mutex::new(Channel::new()),
        }
    }

    fn parts(&self) -> (Evm, Arc<dyn Scheme<Evm>>) {
        let (evm, scheme) = scheme_of(self.setting.config());
        (evm, Arc::new(scheme))
    }

    async fn acts(&self) -> Vec<Act> {
        let channel = Channel::new();
        *self.newest.lock().unwrap() = channel.clone();
        let after = ["deposit"];
        vec![
            Act::new("deposit", channel.deposit(DEPOSIT)),
            Act::new("claim", channel.claim(&[channel.row(CLAIM)]))
                .settled_only()
                .after(&after),
            Act::new("refund", channel.refund(REFUND, 0, None)).after(&after),
        ]
    }

    /// By the contract's record of the channel.
    async fn effects(&self, _: &[Act], _: &dyn StateStore) -> Vec<Option<u64>> {
        let channel = self.newest.lock().unwrap().clone();
        let (balance, claimed) = channel.state(&self.setting).await;
        let deposits = balance.div_ceil(DEPOSIT);
        let refunds = (deposits * DEPOSIT - balance) / REFUND;
        let effects = [deposits, claimed / CLAIM, refunds];
        effects.map(|count| u64::try_from(count).ok()).to_vec()
    }

    async fn hold(&self) {
        self.setting.hold().await;
    }

    async fn go_on(&self) {
        self.setting.go_on().await;
    }
}

mod life {
    use super::ChannelLives;
    quittance_tests::life_conformance!(ChannelLives);
}

#[async_trait]
impl EngineParts for DepositFixture {
    fn parts(&self) -> (Evm, Arc<dyn Scheme<Evm>>) {
        let (evm, scheme) = scheme_of(self.0.config());
        (evm, Arc::new(scheme))
    }

    async fn builder(&self) -> EngineBuilder {
        self.0.builder().await
    }
}

/// Some minutes: `make mutations`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn planted_faults_are_caught() {
    let properties = scheme::properties::<FaultySchemeFixture<DepositFixture>>();
    let faults = SchemeFault::ALL.map(PlantedFault::Scheme);
    assert_caught(&properties, faults, &NOT_CAUGHT_IN_EXACT).await;
}

/// Deposits that are wrong in one way each, in the order of the checks. The row 40 of
/// docs/attacks.md is among them.
fn spoiled() -> Vec<(&'static str, PaymentRequest, Reason)> {
    let channel = Channel::new();
    let good = channel.deposit(PRICE.into());
    let odd = Address::repeat_byte(7);
    let now = SystemClock.now().secs();
    let extra = |field: &str, value: Value| {
        let mut extra = channel.requirements().extra.unwrap().tree();
        extra.insert(field.to_owned(), value);
        set(&good, "/paymentRequirements/extra", Value::Object(extra))
    };
    let without = |field: &str| {
        let mut extra = channel.requirements().extra.unwrap().tree();
        extra.remove(field);
        set(&good, "/paymentRequirements/extra", Value::Object(extra))
    };
    let until = |valid_before: u64| {
        let deposit = channel.deposit_with(PRICE.into(), B256::repeat_byte(3), valid_before);
        channel.deposit_request(&deposit, PRICE.into(), &channel.requirements())
    };
    let delayed = |delay: u64| {
        let channel = Channel::new().with(|config| config.withdraw_delay = delay);
        channel.deposit(PRICE.into())
    };
    let by_contract = Channel::new().with(|config| config.payer_authorizer = USDC);
    let poor = Account {
        address: PrivateKeySigner::random().address(),
        ..Setting::buyer()
    };
    let stranger = PrivateKeySigner::random();
    let poor = Account {
        address: stranger.address(),
        signer: stranger,
        ..poor
    };
    let more = |max_claimable: u128| {
        let deposit = channel.deposit_by_eip3009(PRICE.into());
        channel.deposit_request(&deposit, max_claimable, &channel.requirements())
    };
    let other_channel = Channel::new().voucher(PRICE.into());
    vec![
        (
            "an unknown type",
            set(&good, "/paymentPayload/payload/type", json!("gift")),
            reason::PAYLOAD_TYPE,
        ),
        (
            "a voucher of another channel",
            set(&good, VOUCHER, json!(other_channel)),
            reason::CHANNEL_ID_MISMATCH,
        ),
        (
            "other terms than the voucher's",
            set(
                &good,
                &format!("{CONFIG}/salt"),
                json!(B256::repeat_byte(9)),
            ),
            reason::CHANNEL_ID_MISMATCH,
        ),
        (
            "another receiver",
            set_required(&good, "payTo", json!(odd)),
            reason::RECEIVER_MISMATCH,
        ),
        (
            "another authorizer",
            extra("receiverAuthorizer", json!(odd)),
            reason::RECEIVER_AUTHORIZER_MISMATCH,
        ),
        (
            "no authorizer",
            without("receiverAuthorizer"),
            reason::RECEIVER_AUTHORIZER_MISMATCH,
        ),
        (
            "another delay",
            extra("withdrawDelay", json!(901)),
            reason::WITHDRAW_DELAY_MISMATCH,
        ),
        (
            "a short delay",
            delayed(899),
            reason::WITHDRAW_DELAY_OUT_OF_RANGE,
        ),
        (
            "a long delay",
            delayed(30 * 24 * 3600 + 1),
            reason::WITHDRAW_DELAY_OUT_OF_RANGE,
        ),
        (
            "no authorization",
            set(
                &good,
                "/paymentPayload/payload/deposit/authorization",
                json!({}),
            ),
            reason::ERC3009_AUTHORIZATION_REQUIRED,
        ),
        ("no domain", without("name"), reason::MISSING_EIP712_DOMAIN),
        ("expired", until(now - 1), reason::VALID_BEFORE),
        ("about to expire", until(now + 3), reason::VALID_BEFORE),
        (
            "valid for years",
            until(now + 20 * 365 * 24 * 3600),
            reason::VALID_BEFORE,
        ),
        (
            "an authorization with another salt",
            set(
                &good,
                &format!("{AUTHORIZATION}/salt"),
                json!(B256::repeat_byte(8)),
            ),
            reason::RECEIVE_AUTHORIZATION_SIGNATURE,
        ),
        (
            "another amount than was signed",
            set(
                &good,
                "/paymentPayload/payload/deposit/amount",
                json!((PRICE + 1).to_string()),
            ),
            reason::RECEIVE_AUTHORIZATION_SIGNATURE,
        ),
        (
            "a voucher with the signature of no key",
            set(
                &good,
                &format!("{VOUCHER}/signature"),
                json!(format!("0x{}", "22".repeat(65))),
            ),
            reason::VOUCHER_SIGNATURE,
        ),
        (
            "a voucher by a contract",
            by_contract.deposit(PRICE.into()),
            reason::VOUCHER_SIGNATURE,
        ),
        (
            "a payer without money",
            Channel::of(&poor).deposit(PRICE.into()),
            reason::INSUFFICIENT_BALANCE,
        ),
        (
            "a voucher for more than the deposit",
            more(u128::from(PRICE) + 1),
            reason::CUMULATIVE_EXCEEDS_BALANCE,
        ),
        (
            "a voucher for less than the price",
            more(u128::from(PRICE) - 1),
            reason::CUMULATIVE_AMOUNT_MISMATCH,
        ),
    ]
}

fn extra(answer: &SettleResponse) -> Value {
    let extra = answer.extra.as_ref().unwrap();
    let mut extra = Value::Object(extra.tree());
    extra.as_object_mut().unwrap().remove("settlement");
    extra
}

async fn settle(engine: &Engine, request: &PaymentRequest) -> SettleResponse {
    engine.settle(request).await.unwrap()
}

/// A channel with this deposit.
async fn open(engine: &Engine, amount: u128) -> Channel {
    let channel = Channel::new();
    settled(engine, &channel.deposit(amount)).await;
    channel
}

/// The whole life of a channel whose seller keeps its book.
#[tokio::test(flavor = "multi_thread")]
async fn a_channel_lives_from_its_deposit_to_its_refund() {
    let setting = approved().await;
    let engine = engine(&setting).await;
    let channel = Channel::new();
    let id = json!(channel.id());
    let price = u128::from(PRICE);

    let first = channel.deposit(5 * price);
    let verdict = engine.verify(&first).await.unwrap();
    assert!(verdict.is_valid, "{verdict:?}");
    let nothing = json!({
        "channelId": id, "balance": "0", "totalClaimed": "0", "withdrawRequestedAt": 0,
        "refundNonce": "0",
    });
    assert_eq!(Value::Object(verdict.extra.unwrap().tree()), nothing);
    let answer = settled(&engine, &first).await;
    assert_eq!(answer.amount, Some((5 * price).to_string()));
    assert_eq!(extra(&answer)["channelState"]["balance"], "50000");
    assert_eq!(extra(&answer)["channelState"]["refundNonce"], "0");

    // More by Permit2.
    let requirements = {
        let mut requirements = channel.requirements();
        let mut extra = requirements.extra.unwrap().tree();
        extra.insert("assetTransferMethod".to_owned(), json!("permit2"));
        requirements.extra = Some(quittance_core::json::Object::of(&extra).unwrap());
        requirements
    };
    let deposit = channel.deposit_by_permit2(price);
    let top_up = channel.deposit_request(&deposit, 2 * price, &requirements);
    let answer = settled(&engine, &top_up).await;
    assert_eq!(extra(&answer)["channelState"]["balance"], "60000");

    // A voucher costs nothing, and is not settled.
    let voucher = channel.voucher_request(3 * price, &channel.requirements());
    let verdict = engine.verify(&voucher).await.unwrap();
    assert!(verdict.is_valid, "{verdict:?}");
    assert_refused(&settle(&engine, &voucher).await, &reason::PAYLOAD_TYPE);

    let claim = channel.claim(&[channel.row(3 * price)]);
    let answer = settled(&engine, &claim).await;
    assert_eq!(answer.amount.as_deref(), Some(""));
    assert_eq!(channel.state(&setting).await, (6 * price, 3 * price));
    let answer = settled(&engine, &channel.sweep()).await;
    assert_eq!(answer.amount, Some((3 * price).to_string()));
    assert_eq!(setting.received().await, Amount::from(3 * PRICE));
    let again = settle(&engine, &channel.sweep()).await;
    assert!(!again.success, "{again:?}");

    // The rest, after a last claim.
    let row = channel.row(4 * price);
    let answer = settled(&engine, &channel.refund(9 * price, 0, Some(&row))).await;
    assert_eq!(answer.amount, Some((2 * price).to_string()));
    let after = json!({
        "channelId": id, "balance": "40000", "totalClaimed": "40000", "withdrawRequestedAt": 0,
        "refundNonce": "1",
    });
    assert_eq!(extra(&answer)["channelState"], after);
    assert_eq!(channel.state(&setting).await, (4 * price, 4 * price));
    let refund = channel.refund(1, 1, None);
    assert_refused(&settle(&engine, &refund).await, &reason::REFUND_NO_BALANCE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voucher_is_valid_only_between_claims_and_balance() {
    let setting = Setting::start().await;
    let engine = engine(&setting).await;
    let price = u128::from(PRICE);
    let unknown = Channel::new();
    let verdict = engine
        .verify(&unknown.voucher_request(price, &unknown.requirements()))
        .await
        .unwrap();
    assert_invalid(&verdict, &reason::CHANNEL_NOT_FOUND);
    let channel = open(&engine, 3 * price).await;
    settled(&engine, &channel.claim(&[channel.row(price)])).await;
    for (max, wrong) in [
        (price - 1, Some(reason::CUMULATIVE_BELOW_CLAIMED)),
        (price, Some(reason::CUMULATIVE_BELOW_CLAIMED)),
        (price + 1, None),
        (3 * price, None),
        (3 * price + 1, Some(reason::CUMULATIVE_EXCEEDS_BALANCE)),
    ] {
        let voucher = channel.voucher_request(max, &channel.requirements_of(1));
        let verdict = engine.verify(&voucher).await.unwrap();
        match wrong {
            None => assert!(verdict.is_valid, "{max}: {verdict:?}"),
            Some(reason) => assert_invalid(&verdict, &reason),
        }
    }
    // A refund's voucher charges nothing, so it may be for exactly what was claimed.
    let refund = json!({
        "type": "refund", "channelConfig": channel.config, "voucher": channel.voucher(price),
    });
    let verdict = engine
        .verify(&request(&refund, &channel.requirements()))
        .await
        .unwrap();
    assert!(verdict.is_valid, "{verdict:?}");
    // Another key's voucher.
    let forged = Channel {
        voucher_key: PrivateKeySigner::random(),
        ..channel.clone()
    };
    let forged = forged.voucher_request(2 * price, &channel.requirements());
    assert_invalid(
        &engine.verify(&forged).await.unwrap(),
        &reason::VOUCHER_SIGNATURE,
    );
}

/// A row that claims too much reverts the claim of all. It is named before gas is spent.
#[tokio::test(flavor = "multi_thread")]
async fn one_bad_row_is_named_and_costs_no_gas() {
    let setting = Setting::start().await;
    let engine = engine(&setting).await;
    let signer = Setting::signers()[0].address;
    let price = u128::from(PRICE);
    let channel = open(&engine, price).await;
    let other = Channel {
        config: {
            let mut config = Channel::new().config;
            config.receiver_authorizer = channel.config.receiver_authorizer;
            config
        },
        ..Channel::new()
    };
    let other = Channel {
        voucher_key: channel.voucher_key.clone(),
        ..other
    }
    .with(|config| config.payer_authorizer = channel.config.payer_authorizer);
    settled(&engine, &other.deposit(price)).await;
    let sent = setting.sent(signer).await;
    let good = channel.row(price);
    let spoil = |change: fn(&mut ClaimRow)| {
        let mut row = other.row(u128::from(PRICE));
        change(&mut row);
        channel.claim(&[good.clone(), row])
    };
    let bad = [
        spoil(|row| row.total_claimed += 1),
        spoil(|row| (row.total_claimed, row.max_claimable) = (20_000, 20_000)),
        spoil(|row| row.signature = vec![7; 65].into()),
    ];
    for claim in &bad {
        let answer = settle(&engine, claim).await;
        assert_refused(&answer, &reason::CLAIM_SIMULATION_FAILED);
    }
    let named = settle(&engine, &bad[0]).await.error_message.unwrap();
    assert!(named.contains("row 1"), "{named}");
    // The signature of another key.
    let foreign = Channel {
        authorizer: PrivateKeySigner::random(),
        ..channel.clone()
    };
    let foreign = foreign.claim(std::slice::from_ref(&good));
    assert_refused(
        &settle(&engine, &foreign).await,
        &reason::CLAIM_SIMULATION_FAILED,
    );
    assert_eq!(setting.sent(signer).await, sent);
    settled(&engine, &channel.claim(&[good, other.row(price)])).await;
    assert_eq!(channel.state(&setting).await, (price, price));
    assert_eq!(other.state(&setting).await, (price, price));
}

/// A claim that is repeated after its success, or made by others before, needs no transaction.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_of_what_was_claimed_sends_nothing() {
    let setting = Setting::start().await;
    let engine = engine(&setting).await;
    let price = u128::from(PRICE);
    let channel = open(&engine, 2 * price).await;
    settled(&engine, &channel.claim(&[channel.row(2 * price)])).await;
    let sent = setting.sent(Setting::signers()[0].address).await;
    let answer = settled(&engine, &channel.claim(&[channel.row(price)])).await;
    assert_eq!(
        (answer.transaction.as_str(), answer.amount.as_deref()),
        ("", Some(""))
    );
    assert_eq!(setting.sent(Setting::signers()[0].address).await, sent);
    assert_eq!(channel.state(&setting).await, (2 * price, 2 * price));
}

/// Vouchers reserve nothing: only what is claimed is safe from a withdrawal.
#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawal_takes_what_is_not_claimed() {
    let setting = Setting::start().await;
    let engine = engine(&setting).await;
    let price = u128::from(PRICE);
    let channel = open(&engine, 3 * price).await;
    settled(&engine, &channel.claim(&[channel.row(price)])).await;
    channel.announce_withdrawal(&setting, 2 * price).await;
    // Every verdict names it, so that a seller can still claim.
    let voucher = channel.voucher_request(2 * price, &channel.requirements());
    let verdict = engine.verify(&voucher).await.unwrap();
    let announced = verdict.extra.unwrap().tree()["withdrawRequestedAt"].as_u64();
    assert!(announced.is_some_and(|at| at > 0), "{announced:?}");
    let _: Value = setting.local.rpc("evm_increaseTime", (901,)).await.unwrap();
    channel.withdraw(&setting).await;
    assert_eq!(channel.state(&setting).await, (price, price));
    let late = channel.claim(&[channel.row(2 * price)]);
    assert_refused(
        &settle(&engine, &late).await,
        &reason::CLAIM_SIMULATION_FAILED,
    );
    settled(&engine, &channel.sweep()).await;
    assert_eq!(setting.received().await, Amount::from(PRICE));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_pays_at_most_what_is_left_and_once() {
    let setting = Setting::start().await;
    let engine = engine(&setting).await;
    let price = u128::from(PRICE);
    let channel = open(&engine, 3 * price).await;
    for (refund, reason) in [
        (channel.refund(0, 0, None), reason::REFUND_AMOUNT_INVALID),
        (channel.refund(1, 1, None), reason::REFUND_SIMULATION_FAILED),
        (
            set(
                &channel.refund(1, 0, None),
                "/paymentPayload/payload/amount",
                json!("2"),
            ),
            reason::REFUND_SIMULATION_FAILED,
        ),
        (
            channel.refund(1, 0, Some(&Channel::new().row(1))),
            reason::REFUND_PAYLOAD,
        ),
    ] {
        assert_refused(&settle(&engine, &refund).await, &reason);
    }
    let refund = channel.refund(price, 0, None);
    let answers = join_all((0..5).map(|_| settle(&engine, &refund))).await;
    let paid: Vec<_> = answers.iter().filter(|answer| answer.success).collect();
    assert_eq!(paid.len(), 1, "{answers:?}");
    assert_eq!(paid[0].amount, Some(price.to_string()));
    assert_eq!(channel.state(&setting).await, (2 * price, 0));
    settled(&engine, &channel.refund(9 * price, 1, None)).await;
    assert_eq!(channel.state(&setting).await, (0, 0));
}

/// Acts of a seller name its own channels and its own recipient: the operator's list of recipients
/// is asked about these.
#[tokio::test(flavor = "multi_thread")]
async fn acts_for_another_recipient_or_token_are_refused() {
    let setting = Setting::start().await;
    let engine = engine(&setting).await;
    let channel = open(&engine, PRICE.into()).await;
    let odd = json!(Address::repeat_byte(9));
    let acts = [
        channel.claim(&[channel.row(1)]),
        channel.sweep(),
        channel.refund(1, 0, None),
    ];
    for act in acts {
        let other = set_required(&act, "payTo", odd.clone());
        assert_refused(&settle(&engine, &other).await, &reason::RECEIVER_MISMATCH);
    }
    // Without a signature, and without the facilitator as the authorizer.
    let bare = channel.delegated_claim(&[channel.row(1)]);
    assert_refused(
        &settle(&engine, &bare).await,
        &reason::AUTHORIZER_NOT_CONFIGURED,
    );
    let two = channel.claim(&[channel.row(1), channel.row(2)]);
    assert_refused(&settle(&engine, &two).await, &reason::CLAIM_PAYLOAD);
    assert_refused(
        &settle(&engine, &channel.claim(&[])).await,
        &reason::CLAIM_PAYLOAD,
    );
    for act in [channel.claim(&[channel.row(1)]), channel.sweep()] {
        let verdict = engine.verify(&act).await.unwrap();
        assert_invalid(&verdict, &reason::PAYLOAD_TYPE);
    }
}

/// A voucher is signed for one channel: of one chain, one contract, one seller.
#[tokio::test(flavor = "multi_thread")]
async fn a_voucher_of_one_channel_is_worth_nothing_in_another() {
    let setting = Setting::start().await;
    let engine = engine(&setting).await;
    let price = u128::from(PRICE);
    let (first, second) = (open(&engine, price).await, open(&engine, price).await);
    let moved = Voucher {
        channel_id: second.id(),
        ..first.voucher(price)
    };
    let moved = set(
        &second.voucher_request(price, &second.requirements()),
        VOUCHER,
        json!(moved),
    );
    assert_invalid(
        &engine.verify(&moved).await.unwrap(),
        &reason::VOUCHER_SIGNATURE,
    );
}

/// What a claim costs, printed for docs/channels.md: `cargo test -p quittance-tests --test
/// evm_channels gas -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures"]
async fn gas_of_a_claim() {
    let setting = Setting::start().await;
    let engine = engine(&setting).await;
    for count in [1, 10, 100] {
        let first = Channel::new();
        let mut rows = Vec::new();
        for _ in 0..count {
            let channel = Channel {
                voucher_key: first.voucher_key.clone(),
                ..Channel::new()
            };
            let channel = channel.with(|config| {
                config.payer_authorizer = first.config.payer_authorizer;
                config.receiver_authorizer = first.config.receiver_authorizer;
            });
            settled(&engine, &channel.deposit(PRICE.into())).await;
            rows.push(channel.row(PRICE.into()));
        }
        let answer = settled(&engine, &first.claim(&rows)).await;
        let receipt: Value = setting
            .local
            .rpc("eth_getTransactionReceipt", (&answer.transaction,))
            .await
            .unwrap();
        let gas: U256 = serde_json::from_value(receipt["gasUsed"].clone()).unwrap();
        println!("{count} rows: {gas} gas, {} a row", gas / U256::from(count));
    }
}
