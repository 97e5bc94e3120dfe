//! Refunds: never more than what settled, and only between the same parties.
#![allow(clippy::unwrap_used, reason = "a test that cannot continue panics")]

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use quittance_core::wire::SettleResponse;
use quittance_core::{
    Amount, Chain, Facilitator, PaymentId, PaymentRequest, Reason, SaleId, Submission,
};
use quittance_engine::{Engine, Rules};
use quittance_testing::world::{Environment, PRICE, USD, World};

fn id(setting: &Environment, request: &PaymentRequest) -> PaymentId {
    let authorization = World::transfer_of(request).authorization;
    authorization.id(setting.world.network())
}

/// What the seller has at first, for more refunds than it was paid.
const FUNDS: u64 = 100 * PRICE;

fn fund_seller(setting: &Environment) {
    let funds = Amount::from(FUNDS);
    setting
        .world
        .set_balance(setting.world.seller(), USD, funds);
}

/// A settled payment, and its settlement.
async fn settled(setting: &Environment, engine: &Engine) -> (PaymentRequest, PaymentId) {
    let request = setting.request().await;
    let answer = engine.settle(&request).await.unwrap();
    assert!(answer.success, "{answer:?}");
    let id = id(setting, &request);
    (request, id)
}

async fn refund(
    setting: &Environment,
    (request, id): &(PaymentRequest, PaymentId),
    amount: u64,
) -> PaymentRequest {
    setting
        .world
        .refund(request, amount)
        .await
        .as_refund_of(*id)
}

fn reason(answer: &SettleResponse) -> Option<&str> {
    answer.error_reason.as_deref()
}

#[tokio::test]
async fn refunds_never_exceed_their_payment() {
    let setting = Environment::new();
    fund_seller(&setting);
    let engine = setting.engine().await;
    let before = setting
        .world
        .balance(&setting.world.payer(0).account(), USD);
    let original = settled(&setting, &engine).await;
    for (amount, refused) in [
        (PRICE + 1, true),
        (PRICE - 2, false),
        (3, true),
        (2, false),
        (1, true),
    ] {
        let refund = refund(&setting, &original, amount).await;
        let answer = engine.settle(&refund).await.unwrap();
        let exceeds = Reason::REFUND_EXCEEDS_PAYMENT;
        assert_eq!(answer.success, !refused, "{amount}: {answer:?}");
        assert_eq!(
            reason(&answer) == Some(exceeds.code()),
            refused,
            "{answer:?}"
        );
    }
    assert_eq!(setting.received(), Amount::from(FUNDS));
    let after = setting
        .world
        .balance(&setting.world.payer(0).account(), USD);
    assert_eq!(after, before);
}

/// Of concurrent refunds of the whole, one settles. An open one counts, also after a restart.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_refund_counts_against_its_payment() {
    let setting = Environment::new();
    fund_seller(&setting);
    let engine = setting.engine().await;
    let original = settled(&setting, &engine).await;
    let refunds = join_all((0..10).map(|_| refund(&setting, &original, PRICE))).await;
    setting.world.includes_at_once(false);
    let answers = join_all(refunds.iter().map(|refund| engine.settle(refund))).await;
    let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
    let pending = answers.iter().position(SettleResponse::is_pending).unwrap();
    let exceed = Reason::REFUND_EXCEEDS_PAYMENT;
    let refused = answers
        .iter()
        .filter(|answer| reason(answer) == Some(exceed.code()));
    assert_eq!(refused.count(), 9, "{answers:?}");
    engine.shut_down(std::time::Duration::ZERO).await;
    drop(engine);
    let engine = setting.engine().await;
    let other = refund(&setting, &original, 1).await;
    assert_eq!(
        reason(&engine.settle(&other).await.unwrap()),
        Some(exceed.code())
    );
    setting.world.includes_at_once(true);
    setting.world.include();
    let answer = engine.settle(&refunds[pending]).await.unwrap();
    assert!(answer.success, "{answer:?}");
    assert_eq!(setting.received(), Amount::from(FUNDS));
}

/// A node included a refund that it had reported as refused, and another refund took the rest. The
/// money has moved: a refusal would only hide it.
#[tokio::test]
async fn a_refund_whose_money_has_moved_is_not_refused() {
    let setting = Environment::new();
    fund_seller(&setting);
    let engine = setting.engine().await;
    let original = settled(&setting, &engine).await;
    let moved = refund(&setting, &original, PRICE).await;
    setting.world.refuse_transactions();
    assert!(engine.settle(&moved).await.is_err());
    setting.world.nodes_up();
    let released = engine.settlement(&id(&setting, &moved)).await.unwrap();
    let withdrawn = released.unwrap().withdrawn;
    let chain = setting.world.chain();
    let sent = chain.submit(&withdrawn[0].transaction).await;
    assert!(matches!(sent, Submission::Accepted), "{sent:?}");
    let other = refund(&setting, &original, PRICE).await;
    let answer = engine.settle(&other).await.unwrap();
    assert!(answer.success, "{answer:?}");
    let answer = engine.settle(&moved).await.unwrap();
    assert!(answer.success, "{answer:?}");
    let named = withdrawn[0].transaction.id.as_str();
    assert_eq!(answer.transaction, named);
}

#[tokio::test]
async fn only_the_seller_refunds_only_the_payer() {
    let setting = Environment::new();
    let engine = setting.engine().await;
    let original = settled(&setting, &engine).await;
    let other_payer = setting.world.request(&setting.world.payer(1)).await;
    assert!(engine.settle(&other_payer).await.unwrap().success);
    let unknown = PaymentId::from_parts(&[b"unknown"]);
    let pending = setting.request().await;
    setting.world.includes_at_once(false);
    assert!(engine.settle(&pending).await.unwrap().is_pending());
    let wrong = [
        // To another payer.
        setting
            .world
            .refund(&other_payer, 1)
            .await
            .as_refund_of(original.1),
        // By another seller: a payment to the seller is no refund.
        setting.request().await.as_refund_of(original.1),
        // Of a settlement that has not settled.
        setting
            .world
            .refund(&original.0, 1)
            .await
            .as_refund_of(id(&setting, &pending)),
    ];
    for refund in wrong {
        let answer = engine.settle(&refund).await.unwrap();
        assert_eq!(
            reason(&answer),
            Some(Reason::INVALID_REFUND.code()),
            "{answer:?}"
        );
    }
    setting.world.includes_at_once(true);
    // Another facilitator may have this settlement.
    let refund_of_unknown = setting.world.refund(&original.0, 1).await;
    let refund_of_unknown = refund_of_unknown.as_refund_of(unknown);
    let answer = engine.settle(&refund_of_unknown).await.unwrap();
    assert_eq!(reason(&answer), Some(Reason::UNKNOWN_SETTLEMENT.code()));
    assert_eq!(answer.transaction, "");
    // A refund cannot be refunded.
    let first = refund(&setting, &original, PRICE).await;
    assert!(engine.settle(&first).await.unwrap().success);
    let back = setting.request().await.as_refund_of(id(&setting, &first));
    let answer = engine.settle(&back).await.unwrap();
    assert_eq!(reason(&answer), Some(Reason::INVALID_REFUND.code()));
}

/// One authorization is a payment or a refund, whichever came first.
#[tokio::test]
async fn a_refund_does_not_settle_as_a_payment_too() {
    let setting = Environment::new();
    let engine = setting.engine().await;
    let original = settled(&setting, &engine).await;
    let refund = setting.world.refund(&original.0, PRICE).await;
    setting.world.includes_at_once(false);
    let pending = refund.clone().as_refund_of(original.1);
    assert!(engine.settle(&pending).await.unwrap().is_pending());
    let answer = engine.settle(&refund).await.unwrap();
    assert_eq!(reason(&answer), Some(Reason::DUPLICATE_SETTLEMENT.code()));
    setting.world.includes_at_once(true);
    setting.world.include();
    assert!(
        engine
            .settle(&refund.clone().as_refund_of(original.1))
            .await
            .unwrap()
            .success
    );
    let answer = engine.settle(&refund).await.unwrap();
    assert_eq!(reason(&answer), Some(Reason::DUPLICATE_SETTLEMENT.code()));
}

/// The recipients that an operator lists may refund. Payments to buyers are refused otherwise.
#[tokio::test]
async fn a_listed_recipient_may_refund_any_buyer() {
    let setting = Environment::new();
    let seller: BTreeSet<_> = [setting.world.seller().to_string()].into();
    let mut rules = Rules::default();
    rules.recipients = BTreeMap::from([(setting.world.network().id().to_owned(), seller)]);
    let engine = setting.engine_with(|builder| builder.policy(rules)).await;
    let original = settled(&setting, &engine).await;
    let payment = setting.world.refund(&original.0, 1).await;
    let answer = engine.settle(&payment).await.unwrap();
    assert_eq!(reason(&answer), Some(Reason::RECIPIENT_NOT_ALLOWED.code()));
    let refund = refund(&setting, &original, 1).await;
    assert!(engine.settle(&refund).await.unwrap().success);
}

/// An answer that was lost between the facilitator and the seller costs no sale.
#[tokio::test]
async fn success_is_reported_again_to_the_same_sale_for_a_day() {
    let setting = Environment::new();
    let sale = |text: &str| SaleId::new(text).unwrap();
    let request = setting.request().await;
    let ours = request.clone().with_sale(sale("ours"));
    let mut engine = setting.engine().await;
    let first = engine.settle(&ours).await.unwrap();
    assert!(first.success && !first.is_repeated(), "{first:?}");
    for restarts in 0..2 {
        let again = engine.settle(&ours).await.unwrap();
        assert!(again.is_repeated(), "{restarts}: {again:?}");
        assert!(engine.verify(&ours).await.unwrap().is_repeated());
        assert_eq!(again.transaction, first.transaction);
        for other in [request.clone(), request.clone().with_sale(sale("theirs"))] {
            let answer = engine.settle(&other).await.unwrap();
            assert_eq!(reason(&answer), Some(Reason::DUPLICATE_SETTLEMENT.code()));
        }
        assert!(!engine.verify(&request).await.unwrap().is_valid);
        engine.shut_down(std::time::Duration::ZERO).await;
        drop(engine);
        engine = setting.engine().await;
    }
    // Another payment of the same sale is another settlement.
    let next = setting.request().await.with_sale(sale("ours"));
    assert!(engine.settle(&next).await.unwrap().success);
    setting.world.clock().advance(24 * 3600);
    let late = engine.settle(&ours).await.unwrap();
    assert_eq!(reason(&late), Some(Reason::DUPLICATE_SETTLEMENT.code()));
    assert_eq!(setting.received(), Amount::from(2 * PRICE));
}
