//! Sales by channels whose vouchers the facilitator keeps: our seller's layer, with the payloads of
//! honest and of dishonest payers.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::sync::Arc;

use quittance_core::{Amount, Clock, Offer, Scheme, SystemClock};
use quittance_evm::batch::{BatchSettlement, ChannelOffer, ClaimRules, reason};
use quittance_evm::{Evm, TransferMethod, known};
use quittance_tests::channel_shop::{ChannelShop, deposit, refund, voucher};
use quittance_tests::channels::{BySeller, Channel, keeping_vouchers, request};
use quittance_tests::evm::{PRICE, Setting};
use serde_json::json;

const PRICE_UNITS: u128 = PRICE as u128;

/// A seller whose facilitator keeps its vouchers.
struct Town {
    setting: Setting,
    shop: ChannelShop,
}

fn offer() -> ChannelOffer {
    let seller = Setting::seller().address.to_string();
    let offer = ChannelOffer::usdc("base-sepolia", "0.01", &seller).unwrap();
    offer.with_withdraw_delay_secs(900).unwrap()
}

fn scheme(evm: &Evm) -> BatchSettlement {
    // Claims that come only when a test asks for them.
    let config = keeping_vouchers(ClaimRules::new(u64::MAX, u128::MAX));
    BatchSettlement::new(evm).with_config(config).unwrap()
}

async fn town() -> Town {
    let setting = Setting::start().await;
    let evm = Evm::new(setting.config()).unwrap();
    let schemes: Vec<Arc<dyn Scheme<Evm>>> = vec![Arc::new(scheme(&evm))];
    let builder = setting.builder().await.chain(evm, schemes);
    let facilitator = Arc::new(BySeller(builder.start().await.unwrap()));
    let shop = ChannelShop::open(facilitator, offer()).await;
    Town { setting, shop }
}

/// A channel whose authorizer is the facilitator.
fn channel() -> Channel {
    let authorizer = Setting::signers()[0].address;
    Channel::new().with(|config| config.receiver_authorizer = authorizer)
}

/// A payer that lost its book reads it in the 402 response, and is charged for each request once.
#[tokio::test(flavor = "multi_thread")]
async fn a_channel_pays_many_requests_and_corrects_a_payer() {
    let town = town().await;
    let channel = channel();
    let first = town
        .shop
        .buy("", &deposit(&channel, 10 * PRICE_UNITS, PRICE_UNITS))
        .await;
    assert_eq!((first.status, first.body.as_str()), (200, "goods"));
    assert_eq!(first.charged().1, PRICE_UNITS);
    let part = town
        .shop
        .buy("?charge=3000", &voucher(&channel, 2 * PRICE_UNITS))
        .await;
    assert_eq!(part.charged(), (3_000, 13_000));

    let replayed = town.shop.buy("", &voucher(&channel, 2 * PRICE_UNITS)).await;
    assert_eq!((replayed.status, town.shop.served()), (402, 2));
    let (error, extra) = replayed.correction();
    assert_eq!(error, reason::CUMULATIVE_AMOUNT_MISMATCH.code());
    assert_eq!(extra["channelState"]["chargedCumulativeAmount"], "13000");
    assert_eq!(extra["voucherState"]["signedMaxClaimable"], "20000");
    assert_eq!(extra["minDeposit"], "100000");
    let next = town
        .shop
        .buy("", &voucher(&channel, 13_000 + PRICE_UNITS))
        .await;
    assert_eq!(next.charged(), (10_000, 23_000));
    assert_eq!(channel.state(&town.setting).await, (10 * PRICE_UNITS, 0));
}

/// The channel is free again at once, for the same voucher.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_handler_charges_nothing_and_frees_the_channel() {
    let town = town().await;
    let channel = channel();
    town.shop
        .buy("", &deposit(&channel, 10 * PRICE_UNITS, PRICE_UNITS))
        .await
        .charged();
    let next = voucher(&channel, 2 * PRICE_UNITS);
    let failed = town.shop.buy("?charge=fail", &next).await;
    assert_eq!(failed.status, 500);
    assert!(!failed.receipt.unwrap().success);
    let served = town.shop.buy("", &next).await;
    assert_eq!(served.charged().1, 2 * PRICE_UNITS);
}

/// The payer gets back what was not charged, and its request for that is no purchase.
#[tokio::test(flavor = "multi_thread")]
async fn a_refund_is_completed_and_serves_nothing() {
    let town = town().await;
    let channel = channel();
    town.shop
        .buy("", &deposit(&channel, 10 * PRICE_UNITS, PRICE_UNITS))
        .await
        .charged();
    town.shop
        .buy("", &voucher(&channel, 2 * PRICE_UNITS))
        .await
        .charged();
    let refunded = town.shop.buy("", &refund(&channel, 2 * PRICE_UNITS)).await;
    assert_eq!(
        (refunded.status, town.shop.served()),
        (200, 2),
        "{}",
        refunded.body
    );
    assert!(refunded.body.contains("Refund acknowledged"));
    let receipt = refunded.receipt.unwrap();
    assert_eq!(receipt.amount, Some((8 * PRICE).to_string()));
    assert_eq!(
        channel.state(&town.setting).await,
        (2 * PRICE_UNITS, 2 * PRICE_UNITS)
    );
}

/// A payer writes what only sellers write: it would be served for nothing, or get back what it
/// owes.
#[tokio::test(flavor = "multi_thread")]
async fn a_payer_cannot_write_what_sellers_write() {
    let town = town().await;
    let channel = channel();
    town.shop
        .buy("", &deposit(&channel, 10 * PRICE_UNITS, PRICE_UNITS))
        .await
        .charged();
    let mut cancelled = voucher(&channel, 2 * PRICE_UNITS);
    cancelled["cancel"] = json!(true);
    cancelled["pendingId"] = json!("made up");
    // Also without a value, which would be a second field of this name.
    cancelled["refundNonce"] = json!(null);
    let served = town.shop.buy("", &cancelled).await;
    assert_eq!(served.charged().1, 2 * PRICE_UNITS);
    let mut payload = refund(&channel, 2 * PRICE_UNITS);
    payload["amount"] = json!((9 * PRICE).to_string());
    payload["refundNonce"] = json!("0");
    payload["claims"] = json!([channel.row(1)]);
    let refunded = town.shop.buy("", &payload).await;
    assert!(refunded.receipt.unwrap().success);
    assert_eq!(
        channel.state(&town.setting).await,
        (2 * PRICE_UNITS, 2 * PRICE_UNITS)
    );
    // An act of sellers is no payment.
    let claim = json!({ "type": "claim", "claims": [channel.row(2 * PRICE_UNITS)] });
    assert_eq!(town.shop.buy("", &claim).await.status, 400);
    assert_eq!(town.shop.served(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_offer_and_the_scheme_agree_on_identities() {
    let setting = Setting::start().await;
    let evm = Evm::new(setting.config()).unwrap();
    let scheme = scheme(&evm);
    let channel = channel();
    let by_eip3009 = deposit(&channel, 10 * PRICE_UNITS, PRICE_UNITS);
    let requests = [by_eip3009, voucher(&channel, PRICE_UNITS)].map(|payload| {
        let terms = channel.managed_requirements(PRICE);
        request(&payload, &terms)
    });
    for request in requests {
        let payment = scheme.decode(&request, SystemClock.now()).unwrap();
        let authorization = offer().authorization(&request.payload);
        // Anyone can compute the identity of a voucher: its signed payload is reserved.
        let is_voucher = request.payload.tree()["type"] == "voucher";
        let expected = (!is_voucher).then_some(payment.info().id);
        assert_eq!(authorization, expected);
        let serial = offer().serial(&request.payload);
        assert_eq!(serial, Some(channel.id().to_string()));
    }
    let usdc = known::token("eip155:84532", "USDC").unwrap();
    let token = usdc.clone().with_method(TransferMethod::Permit2);
    let network = known::network("base-sepolia").unwrap();
    let seller = Setting::seller().address.to_string();
    let offer = ChannelOffer::new(network, token, "0.01", &seller).unwrap();
    let payload = json!({
        "type": "deposit", "channelConfig": channel.config, "voucher": channel.voucher(PRICE_UNITS),
        "deposit": channel.deposit_by_permit2(10 * PRICE_UNITS),
    });
    let terms = channel.managed_requirements(PRICE);
    let request = request(&payload, &terms);
    let payment = scheme.decode(&request, SystemClock.now()).unwrap();
    assert_eq!(
        offer.authorization(&request.payload),
        Some(payment.info().id)
    );
    assert_eq!(offer.amount(), Amount::from(PRICE));
}
