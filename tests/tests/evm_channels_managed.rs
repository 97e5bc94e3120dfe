//! Channels whose vouchers the facilitator keeps: each is charged once, by the caller whose channel
//! it is, and claimed without being asked.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::time::Duration;

use futures_util::future::join_all;
use quittance_core::StateStore;
use quittance_core::wire::SettleResponse;
use quittance_core::{Amount, Facilitator, PaymentRequest, Reason, RequestCaller};
use quittance_engine::{Engine, Timing};
use quittance_evm::Evm;
use quittance_evm::batch::{
    BatchConfig, BatchConfigError, BatchSettlement, ChannelBook, ClaimRules, reason, state_id,
};
use quittance_tests::channels::{Channel, by_seller, keeping_vouchers, request};
use quittance_tests::engine::{self, assert_refused, settled};
use quittance_tests::evm::{PRICE, Setting, set};
use quittance_tests::until;
use serde_json::{Value, json};

/// Claims that come only when a test asks for them.
const NEVER: ClaimRules = ClaimRules::new(u64::MAX, u128::MAX);

/// Short pauses between looks at records that are due.
const HASTY: Timing = engine::HASTY.with_sweep_every(Duration::from_millis(200));

const PRICE_UNITS: u128 = PRICE as u128;

async fn engine(setting: &Setting, claims: ClaimRules) -> Engine {
    let evm = Evm::new(setting.config()).unwrap();
    let scheme = BatchSettlement::new(&evm)
        .with_config(keeping_vouchers(claims))
        .unwrap();
    let builder = setting.builder().await.timing(HASTY);
    let builder = builder.chain(evm, vec![std::sync::Arc::new(scheme)]);
    builder.start().await.unwrap()
}

/// A channel whose authorizer is the facilitator.
fn channel() -> Channel {
    let authorizer = Setting::signers()[0].address;
    Channel::new().with(|config| config.receiver_authorizer = authorizer)
}

/// A deposit with the first voucher.
fn deposit(channel: &Channel, amount: u128) -> PaymentRequest {
    let deposit = channel.deposit_by_eip3009(amount);
    let requirements = channel.managed_requirements(PRICE);
    by_seller(&channel.deposit_request(&deposit, PRICE_UNITS, &requirements))
}

fn voucher(channel: &Channel, max_claimable: u128) -> PaymentRequest {
    by_seller(&channel.voucher_request(max_claimable, &channel.managed_requirements(PRICE)))
}

async fn settle(engine: &Engine, request: &PaymentRequest) -> SettleResponse {
    engine.settle(request).await.unwrap()
}

async fn refused_verdict(engine: &Engine, request: &PaymentRequest) -> String {
    let verdict = engine.verify(request).await.unwrap();
    assert!(!verdict.is_valid, "{verdict:?}");
    verdict.invalid_reason.unwrap()
}

fn charged(answer: &SettleResponse) -> (String, String) {
    let extra = Value::Object(answer.extra.as_ref().unwrap().tree());
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (
        text(&extra["chargedAmount"]),
        text(&extra["channelState"]["chargedCumulativeAmount"]),
    )
}

/// The book in the journal, once no engine has it open.
async fn book(setting: &Setting, channel: &Channel) -> ChannelBook {
    let record = setting
        .journal()
        .await
        .state(&state_id(&channel.id()))
        .await;
    ChannelBook::read(&record.unwrap().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_voucher_is_charged_once_and_kept_over_a_restart() {
    let setting = Setting::start().await;
    let first = engine(&setting, NEVER).await;
    let channel = channel();
    let answer = settled(&first, &deposit(&channel, 10 * PRICE_UNITS)).await;
    assert_eq!(charged(&answer), (PRICE.to_string(), PRICE.to_string()));
    let sent = setting.sent(Setting::signers()[0].address).await;

    // Less than the price is charged, and the next voucher begins there.
    let next = voucher(&channel, 2 * PRICE_UNITS);
    assert!(first.verify(&next).await.unwrap().is_valid);
    let part = next.charging(Amount::from(3_000)).unwrap();
    let answer = settled(&first, &part).await;
    assert_eq!(charged(&answer), ("3000".to_owned(), "13000".to_owned()));
    assert_eq!(
        (answer.transaction.as_str(), answer.amount.as_deref()),
        ("", Some(""))
    );
    first.shut_down(Duration::from_secs(5)).await;
    drop(first);

    let second = engine(&setting, NEVER).await;
    // A payer that does not know what was charged reads it in the rejection.
    let verdict = second.verify(&next).await.unwrap();
    let extra = Value::Object(verdict.extra.unwrap().tree());
    assert_eq!(extra["channelState"]["chargedCumulativeAmount"], "13000");
    assert_eq!(extra["voucherState"]["signedMaxClaimable"], "20000");
    assert_eq!(
        extra["voucherState"]["signature"],
        next.payload.tree()["voucher"]["signature"]
    );
    for again in [&part, &next] {
        assert_refused(
            &settle(&second, again).await,
            &reason::CUMULATIVE_AMOUNT_MISMATCH,
        );
    }
    let last = voucher(&channel, 13_000 + PRICE_UNITS);
    let more = last.charging(Amount::from(PRICE + 1)).unwrap();
    assert_refused(
        &settle(&second, &more).await,
        &reason::CHARGE_EXCEEDS_SIGNED_CUMULATIVE,
    );
    settled(&second, &last).await;
    assert_eq!(setting.sent(Setting::signers()[0].address).await, sent);
    second.shut_down(Duration::from_secs(5)).await;
    drop(second);
    let book = book(&setting, &channel).await;
    assert_eq!((book.charged, book.charge_count), (23_000, 3));
    assert_eq!(book.voucher.unwrap().max_claimable, 23_000);
    assert_eq!(channel.state(&setting).await, (10 * PRICE_UNITS, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_concurrent_vouchers_one_is_charged() {
    let setting = Setting::start().await;
    let engine = engine(&setting, NEVER).await;
    let channel = channel();
    settled(&engine, &deposit(&channel, 10 * PRICE_UNITS)).await;
    let next = voucher(&channel, 2 * PRICE_UNITS);
    let answers = join_all((0..20).map(|_| settle(&engine, &next))).await;
    let charged = answers.iter().filter(|answer| answer.success).count();
    assert_eq!(charged, 1, "{answers:?}");
    for answer in answers.iter().filter(|answer| !answer.success) {
        assert_refused(answer, &reason::CUMULATIVE_AMOUNT_MISMATCH);
    }
}

/// A verified voucher has its channel until it is charged or cancelled.
/// A payer made its own deposit first, with a key of its own at the facilitator. The seller
/// delivered, and the channel was the payer's to refund.
#[tokio::test(flavor = "multi_thread")]
async fn only_its_caller_shares_a_deposit_that_it_owns() {
    let setting = Setting::start().await;
    let engine = engine(&setting, NEVER).await;
    let request = deposit(&channel(), 3 * PRICE_UNITS);
    let by_payer = request.clone().by(RequestCaller::Known("payer".into()));
    setting.hold().await;
    let first = settle(&engine, &by_payer).await;
    assert!(first.is_pending(), "{first:?}");
    let refused = refused_verdict(&engine, &request).await;
    assert_eq!(refused, Reason::DUPLICATE_SETTLEMENT.code());
    assert!(engine.verify(&by_payer).await.unwrap().is_valid);
    setting.go_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_serves_one_request_at_a_time() {
    let setting = Setting::start().await;
    let engine = engine(&setting, NEVER).await;
    let channel = channel();
    settled(&engine, &deposit(&channel, 10 * PRICE_UNITS)).await;
    let next = voucher(&channel, 2 * PRICE_UNITS);
    let verdict = engine.verify(&next).await.unwrap();
    let pending = verdict.extra.unwrap().tree()["pendingId"].clone();
    assert_eq!(
        refused_verdict(&engine, &next).await,
        reason::CHANNEL_BUSY.code()
    );

    let with = |fields: Value| {
        let mut payload = Value::Object(next.payload.tree());
        for (name, value) in fields.as_object().unwrap() {
            payload[name] = value.clone();
        }
        by_seller(&request(&payload, &channel.managed_requirements(PRICE)))
    };
    let foreign = with(json!({ "pendingId": "another" }));
    assert_refused(&settle(&engine, &foreign).await, &reason::CHANNEL_BUSY);
    // The handler failed.
    let cancel = with(json!({ "pendingId": pending, "cancel": true }));
    let cancel = cancel.charging(Amount::ZERO).unwrap();
    let answer = settled(&engine, &cancel).await;
    assert_eq!(charged(&answer), ("0".to_owned(), PRICE.to_string()));
    // The same voucher pays the next try.
    assert!(engine.verify(&next).await.unwrap().is_valid);
    let answer = settled(&engine, &with(json!({ "pendingId": pending }))).await;
    assert_eq!(
        charged(&answer),
        (PRICE.to_string(), (2 * PRICE).to_string())
    );
}

/// A payer with access to the facilitator could otherwise charge its voucher for less.
#[tokio::test(flavor = "multi_thread")]
async fn only_the_channels_caller_can_charge_claim_and_refund() {
    let setting = Setting::start().await;
    let engine = engine(&setting, NEVER).await;
    let channel = channel();
    settled(&engine, &deposit(&channel, 10 * PRICE_UNITS)).await;
    let next = voucher(&channel, 2 * PRICE_UNITS);
    let refund = json!({
        "type": "refund", "channelConfig": channel.config, "voucher": channel.voucher(PRICE_UNITS),
        "amount": "1", "refundNonce": "0",
    });
    let acts = [
        next.charging(Amount::from(1)).unwrap(),
        channel.delegated_claim(&[channel.row(PRICE_UNITS)]),
        request(&refund, &channel.own_requirements()),
    ];
    for act in &acts {
        for caller in [RequestCaller::Anyone, RequestCaller::Known("buyer".into())] {
            let answer = settle(&engine, &act.clone().by(caller)).await;
            assert_refused(&answer, &reason::AUTHORIZER_ADDRESS_MISMATCH);
        }
    }
    // The call of the authorizer itself has no nonce that the contract would check.
    let early = set(&acts[2], "/paymentPayload/payload/refundNonce", json!("1"));
    let answer = settle(&engine, &by_seller(&early)).await;
    assert_refused(&answer, &reason::REFUND_SIMULATION_FAILED);
    for act in acts {
        settled(&engine, &by_seller(&act)).await;
    }
    assert_eq!(
        channel.state(&setting).await,
        (10 * PRICE_UNITS - 1, PRICE_UNITS)
    );
}

/// One signature of the facilitator's lane claims for all of them.
#[tokio::test(flavor = "multi_thread")]
async fn due_channels_are_claimed_together_without_being_asked() {
    let setting = Setting::start().await;
    let first = engine(&setting, NEVER).await;
    let channels: Vec<Channel> = (0..5).map(|_| channel()).collect();
    for channel in &channels {
        settled(&first, &deposit(channel, 2 * PRICE_UNITS)).await;
    }
    first.shut_down(Duration::from_secs(5)).await;
    drop(first);
    let signer = Setting::signers()[0].address;
    let sent = setting.sent(signer).await;
    // A charge makes each channel due two seconds later: by then, all of them are charged.
    let second = engine(&setting, ClaimRules::new(2, u128::MAX)).await;
    let vouchers: Vec<_> = channels
        .iter()
        .map(|channel| voucher(channel, 2 * PRICE_UNITS))
        .collect();
    for answer in join_all(vouchers.iter().map(|voucher| settle(&second, voucher))).await {
        assert!(answer.success, "{answer:?}");
    }
    for channel in &channels {
        until("the channel is claimed", || async {
            channel.state(&setting).await == (2 * PRICE_UNITS, 2 * PRICE_UNITS)
        })
        .await;
    }
    let claims = setting.sent(signer).await - sent;
    assert!(claims < 5, "{claims} transactions for five channels");
}

/// A facilitator died after it had charged a voucher and before it answered. The chain had the
/// claim before the payer came again, and its refusal had no correction: the stream ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_claimed_voucher_that_comes_again_corrects_its_payer() {
    let setting = Setting::start().await;
    let engine = engine(&setting, ClaimRules::new(0, u128::MAX)).await;
    let channel = channel();
    settled(&engine, &deposit(&channel, 10 * PRICE_UNITS)).await;
    let last = voucher(&channel, 2 * PRICE_UNITS);
    settled(&engine, &last).await;
    until("the channel is claimed", || async {
        channel.state(&setting).await == (10 * PRICE_UNITS, 2 * PRICE_UNITS)
    })
    .await;
    let more = channel.deposit_by_eip3009(PRICE_UNITS);
    let requirements = channel.managed_requirements(PRICE);
    let more = by_seller(&channel.deposit_request(&more, 2 * PRICE_UNITS, &requirements));
    let too_much = voucher(&channel, 11 * PRICE_UNITS);
    for stale in [&last, &more, &too_much] {
        let verdict = engine.verify(stale).await.unwrap();
        let code = verdict.invalid_reason.as_deref();
        assert_eq!(code, Some(reason::CUMULATIVE_AMOUNT_MISMATCH.code()));
        let extra = Value::Object(verdict.extra.unwrap().tree());
        let charged = (2 * PRICE).to_string();
        assert_eq!(extra["channelState"]["chargedCumulativeAmount"], charged);
        assert_eq!(extra["voucherState"]["signedMaxClaimable"], charged);
    }
    settled(&engine, &voucher(&channel, 3 * PRICE_UNITS)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_claims_what_was_charged_before() {
    let setting = Setting::start().await;
    let engine = engine(&setting, NEVER).await;
    let channel = channel();
    settled(&engine, &deposit(&channel, 10 * PRICE_UNITS)).await;
    settled(&engine, &voucher(&channel, 2 * PRICE_UNITS)).await;
    let refund = json!({
        "type": "refund", "channelConfig": channel.config,
        "voucher": channel.voucher(2 * PRICE_UNITS),
        "amount": (100 * PRICE).to_string(), "refundNonce": "0",
    });
    let refund = by_seller(&request(&refund, &channel.managed_requirements(PRICE)));
    let answer = settled(&engine, &refund).await;
    assert_eq!(answer.amount, Some((8 * PRICE).to_string()));
    assert_eq!(
        channel.state(&setting).await,
        (2 * PRICE_UNITS, 2 * PRICE_UNITS)
    );
    let next = voucher(&channel, 3 * PRICE_UNITS);
    let code = refused_verdict(&engine, &next).await;
    assert_eq!(code, reason::CUMULATIVE_EXCEEDS_BALANCE.code());
}

/// The contract asks the account of such a payer at the claim. By then a key's account can have
/// code that refuses.
#[tokio::test(flavor = "multi_thread")]
async fn vouchers_that_accounts_could_disown_are_not_kept() {
    let setting = Setting::start().await;
    let by_account = Channel {
        voucher_key: Setting::buyer().signer,
        ..channel()
    };
    let by_account = by_account.with(|config| config.payer_authorizer = Default::default());
    let strict = engine(&setting, NEVER).await;
    let first = deposit(&by_account, 2 * PRICE_UNITS);
    for refused in [&first, &voucher(&by_account, PRICE_UNITS)] {
        let code = refused_verdict(&strict, refused).await;
        assert_eq!(code, reason::CONTRACT_WALLET_NOT_ALLOWED.code());
    }
    // Where the seller keeps the vouchers, it decides.
    let by_server = by_account
        .clone()
        .with(|config| config.salt = alloy::primitives::B256::ZERO);
    settled(&strict, &by_server.deposit(PRICE_UNITS)).await;
    strict.shut_down(Duration::from_secs(5)).await;
    drop(strict);

    let mut config = keeping_vouchers(NEVER);
    config.contract_payers = true;
    let evm = Evm::new(setting.config()).unwrap();
    let scheme = BatchSettlement::new(&evm).with_config(config).unwrap();
    let builder = setting.builder().await.timing(HASTY);
    let builder = builder.chain(evm, vec![std::sync::Arc::new(scheme)]);
    let trusting = builder.start().await.unwrap();
    settled(&trusting, &first).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vouchers_are_kept_only_where_they_can_be_claimed() {
    let setting = Setting::start().await;
    let engine = engine(&setting, NEVER).await;
    // The seller's own authorizer.
    let own = Channel::new();
    let refused = by_seller(&own.voucher_request(PRICE_UNITS, &own.managed_requirements(PRICE)));
    let code = refused_verdict(&engine, &refused).await;
    assert_eq!(code, reason::AUTHORIZER_ADDRESS_MISMATCH.code());
    let kinds = engine.supported().await.unwrap().kinds;
    let extra = kinds[0].extra.as_ref().unwrap().tree();
    assert_eq!(extra["voucherManager"], json!(["server", "facilitator"]));
    let authorizer = Setting::signers()[0].address.to_string();
    assert_eq!(extra["receiverAuthorizer"], json!(authorizer));

    let evm = Evm::new(setting.config()).unwrap();
    let wrong = |change: fn(&mut BatchConfig)| {
        let mut config = keeping_vouchers(NEVER);
        change(&mut config);
        BatchSettlement::new(&evm).with_config(config).unwrap_err()
    };
    assert_eq!(
        wrong(|config| config.authorizer = None),
        BatchConfigError::NoAuthorizer
    );
    let buyer = Setting::buyer().address;
    assert_eq!(
        wrong(|config| config.authorizer = Some(Setting::buyer().address)),
        BatchConfigError::NotASigner(buyer)
    );
}
