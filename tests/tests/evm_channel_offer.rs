//! Sales by channels whose vouchers the facilitator keeps: our seller's layer, with the payloads of
//! honest and of dishonest payers.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use axum::Router;
use axum::extract::Query;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use quittance_core::wire::{
    PaymentPayload, PaymentRequired, PaymentRequirements, SettleResponse, SupportedResponse,
    VerifyResponse, header,
};
use quittance_core::{
    Amount, Clock, Facilitator, FacilitatorError, Offer, PaymentRequest, RequestCaller, Scheme,
    SystemClock,
};
use quittance_engine::Engine;
use quittance_evm::Evm;
use quittance_evm::batch::{
    BatchConfig, BatchSettlement, ChannelOffer, ClaimRules, Voucher, reason,
};
use quittance_seller::{Charge, PaymentLayer};
use quittance_tests::channels::Channel;
use quittance_tests::evm::{PRICE, Setting};
use serde_json::{Value, json};
use tokio::net::TcpListener;

const PRICE_UNITS: u128 = PRICE as u128;

/// The facilitator, as the service calls it for a seller with a key.
struct BySeller(Engine);

#[async_trait]
impl Facilitator for BySeller {
    async fn verify(&self, request: &PaymentRequest) -> Result<VerifyResponse, FacilitatorError> {
        self.0.verify(&by_seller(request)).await
    }

    async fn settle(&self, request: &PaymentRequest) -> Result<SettleResponse, FacilitatorError> {
        self.0.settle(&by_seller(request)).await
    }

    async fn supported(&self) -> Result<SupportedResponse, FacilitatorError> {
        self.0.supported().await
    }
}

fn by_seller(request: &PaymentRequest) -> PaymentRequest {
    request.clone().by(RequestCaller::Known("seller".into()))
}

/// A seller of goods, and what it has served.
struct Town {
    setting: Setting,
    url: String,
    served: Arc<AtomicUsize>,
    terms: PaymentRequirements,
    http: reqwest::Client,
}

fn offer() -> ChannelOffer {
    let seller = Setting::seller().address.to_string();
    let offer = ChannelOffer::usdc("base-sepolia", "0.01", &seller).unwrap();
    offer.with_withdraw_delay_secs(900).unwrap()
}

fn scheme(evm: &Evm) -> BatchSettlement {
    let mut config = BatchConfig::default();
    config.authorizer = Some(Setting::signers()[0].address);
    config.keeps_vouchers = true;
    // Claims that come only when a test asks for them.
    config.claims = ClaimRules::new(u64::MAX, u128::MAX);
    BatchSettlement::new(evm).with_config(config).unwrap()
}

async fn town() -> Town {
    let setting = Setting::start().await;
    let evm = Evm::new(setting.config()).unwrap();
    let schemes: Vec<Arc<dyn Scheme<Evm>>> = vec![Arc::new(scheme(&evm))];
    let builder = setting.builder().await.chain(evm, schemes);
    let facilitator = Arc::new(BySeller(builder.start().await.unwrap()));
    let kinds = facilitator.supported().await.unwrap().kinds;
    let terms = offer().requirements(&kinds[0]).unwrap();
    let served = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&served);
    let goods = move |Query(wish): Query<HashMap<String, String>>| {
        count.fetch_add(1, Ordering::SeqCst);
        async move {
            match wish.get("charge").map(String::as_str) {
                None => "goods".into_response(),
                Some("fail") => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
                Some(units) => charged(units.parse().unwrap()),
            }
        }
    };
    let layer = PaymentLayer::new(facilitator).accept(offer());
    let app = Router::new().route("/goods", get(goods).layer(layer));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/goods", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    Town {
        setting,
        url,
        served,
        terms,
        http: reqwest::Client::new(),
    }
}

fn charged(amount: Amount) -> Response {
    let mut response = "goods".into_response();
    response.extensions_mut().insert(Charge::units(amount));
    response
}

/// A seller's response.
struct Bought {
    status: u16,
    body: String,
    receipt: Option<SettleResponse>,
    required: Option<PaymentRequired>,
}

impl Bought {
    fn charged(&self) -> (String, String) {
        let receipt = self.receipt.as_ref().unwrap();
        assert!(receipt.success, "{receipt:?}");
        let extra = Value::Object(receipt.extra.as_ref().unwrap().tree());
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        (
            text(&extra["chargedAmount"]),
            text(&extra["channelState"]["chargedCumulativeAmount"]),
        )
    }

    /// The error of a 402 response, and what it corrects.
    fn correction(&self) -> (String, Value) {
        let required = self.required.as_ref().unwrap();
        let extra = required.accepts[0].extra.as_ref().unwrap().tree();
        (required.error.clone().unwrap(), Value::Object(extra))
    }
}

impl Town {
    async fn buy(&self, query: &str, payload: &Value) -> Bought {
        let payload = serde_json::from_value(payload.clone()).unwrap();
        let payment = PaymentPayload::new(self.terms.clone(), payload);
        let request = self.http.get(format!("{}{query}", self.url));
        let request = request.header(header::PAYMENT_SIGNATURE, header::encode(&payment));
        let response = request.send().await.unwrap();
        let read = |name: &str| {
            response
                .headers()
                .get(name)
                .map(|it| it.as_bytes().to_vec())
        };
        let receipt = read(header::PAYMENT_RESPONSE);
        let required = read(header::PAYMENT_REQUIRED);
        Bought {
            status: response.status().as_u16(),
            receipt: receipt.map(|it| header::decode("receipt", &it).unwrap()),
            required: required.map(|it| header::decode("required", &it).unwrap()),
            body: response.text().await.unwrap(),
        }
    }

    fn served(&self) -> usize {
        self.served.load(Ordering::SeqCst)
    }
}

/// A channel whose authorizer is the facilitator.
fn channel() -> Channel {
    let authorizer = Setting::signers()[0].address;
    Channel::new().with(|config| config.receiver_authorizer = authorizer)
}

fn deposit(channel: &Channel, amount: u128) -> Value {
    json!({
        "type": "deposit", "channelConfig": channel.config, "voucher": channel.voucher(PRICE_UNITS),
        "deposit": channel.deposit_by_eip3009(amount),
    })
}

fn voucher(channel: &Channel, max_claimable: u128) -> Value {
    let voucher: Voucher = channel.voucher(max_claimable);
    json!({ "type": "voucher", "channelConfig": channel.config, "voucher": voucher })
}

/// A payer that lost its book reads it in the 402 response, and is charged for each request once.
#[tokio::test(flavor = "multi_thread")]
async fn a_channel_pays_many_requests_and_corrects_a_payer() {
    let town = town().await;
    let channel = channel();
    let first = town.buy("", &deposit(&channel, 10 * PRICE_UNITS)).await;
    assert_eq!((first.status, first.body.as_str()), (200, "goods"));
    assert_eq!(first.charged().1, PRICE.to_string());
    let part = town
        .buy("?charge=3000", &voucher(&channel, 2 * PRICE_UNITS))
        .await;
    assert_eq!(part.charged(), ("3000".to_owned(), "13000".to_owned()));

    let replayed = town.buy("", &voucher(&channel, 2 * PRICE_UNITS)).await;
    assert_eq!((replayed.status, town.served()), (402, 2));
    let (error, extra) = replayed.correction();
    assert_eq!(error, reason::CUMULATIVE_AMOUNT_MISMATCH.code());
    assert_eq!(extra["channelState"]["chargedCumulativeAmount"], "13000");
    assert_eq!(extra["voucherState"]["signedMaxClaimable"], "20000");
    assert_eq!(extra["minDeposit"], "100000");
    let next = town.buy("", &voucher(&channel, 13_000 + PRICE_UNITS)).await;
    assert_eq!(next.charged(), ("10000".to_owned(), "23000".to_owned()));
    assert_eq!(channel.state(&town.setting).await, (10 * PRICE_UNITS, 0));
}

/// The channel is free again at once, for the same voucher.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_handler_charges_nothing_and_frees_the_channel() {
    let town = town().await;
    let channel = channel();
    town.buy("", &deposit(&channel, 10 * PRICE_UNITS))
        .await
        .charged();
    let next = voucher(&channel, 2 * PRICE_UNITS);
    let failed = town.buy("?charge=fail", &next).await;
    assert_eq!(failed.status, 500);
    assert!(!failed.receipt.unwrap().success);
    let served = town.buy("", &next).await;
    assert_eq!(served.charged().1, (2 * PRICE).to_string());
}

/// The payer gets back what was not charged, and its request for that is no purchase.
#[tokio::test(flavor = "multi_thread")]
async fn a_refund_is_completed_and_serves_nothing() {
    let town = town().await;
    let channel = channel();
    town.buy("", &deposit(&channel, 10 * PRICE_UNITS))
        .await
        .charged();
    town.buy("", &voucher(&channel, 2 * PRICE_UNITS))
        .await
        .charged();
    let refund = json!({
        "type": "refund", "channelConfig": channel.config,
        "voucher": channel.voucher(2 * PRICE_UNITS),
    });
    let refunded = town.buy("", &refund).await;
    assert_eq!(
        (refunded.status, town.served()),
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
    town.buy("", &deposit(&channel, 10 * PRICE_UNITS))
        .await
        .charged();
    let mut cancelled = voucher(&channel, 2 * PRICE_UNITS);
    cancelled["cancel"] = json!(true);
    cancelled["pendingId"] = json!("made up");
    let served = town.buy("", &cancelled).await;
    assert_eq!(served.charged().1, (2 * PRICE).to_string());
    let refund = json!({
        "type": "refund", "channelConfig": channel.config,
        "voucher": channel.voucher(2 * PRICE_UNITS), "amount": (9 * PRICE).to_string(),
        "refundNonce": "0", "claims": [channel.row(1)],
    });
    let refunded = town.buy("", &refund).await;
    assert!(refunded.receipt.unwrap().success);
    assert_eq!(
        channel.state(&town.setting).await,
        (2 * PRICE_UNITS, 2 * PRICE_UNITS)
    );
    // An act of sellers is no payment.
    let claim = json!({ "type": "claim", "claims": [channel.row(2 * PRICE_UNITS)] });
    assert_eq!(town.buy("", &claim).await.status, 400);
    assert_eq!(town.served(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_offer_and_the_scheme_agree_on_identities() {
    let setting = Setting::start().await;
    let evm = Evm::new(setting.config()).unwrap();
    let scheme = scheme(&evm);
    let channel = channel();
    let by_eip3009 = deposit(&channel, 10 * PRICE_UNITS);
    let requests = [by_eip3009, voucher(&channel, PRICE_UNITS)].map(|payload| {
        let terms = channel.managed_requirements(PRICE);
        quittance_tests::channels::request(&payload, &terms)
    });
    for request in requests {
        let payment = scheme.decode(&request, SystemClock.now()).unwrap();
        let authorization = offer().authorization(&request.payload);
        assert_eq!(authorization, Some(payment.info().id));
        let serial = offer().serial(&request.payload);
        assert_eq!(serial, Some(channel.id().to_string()));
    }
    let usdc = quittance_evm::known::token("eip155:84532", "USDC").unwrap();
    let token = usdc
        .clone()
        .with_method(quittance_evm::TransferMethod::Permit2);
    let network = quittance_evm::known::network("base-sepolia").unwrap();
    let seller = Setting::seller().address.to_string();
    let offer = ChannelOffer::new(network, token, "0.01", &seller).unwrap();
    let payload = json!({
        "type": "deposit", "channelConfig": channel.config, "voucher": channel.voucher(PRICE_UNITS),
        "deposit": channel.deposit_by_permit2(10 * PRICE_UNITS),
    });
    let terms = channel.managed_requirements(PRICE);
    let request = quittance_tests::channels::request(&payload, &terms);
    let payment = scheme.decode(&request, SystemClock.now()).unwrap();
    assert_eq!(
        offer.authorization(&request.payload),
        Some(payment.info().id)
    );
    assert_eq!(offer.amount(), Amount::from(PRICE));
}
