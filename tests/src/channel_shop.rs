//! A shop that sells by channels over HTTP, and a payer that presents any payload to it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::extract::Query;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use quittance_core::wire::{
    PaymentPayload, PaymentRequired, PaymentRequirements, SettleResponse, header,
};
use quittance_core::{Amount, Facilitator, Offer};
use quittance_evm::batch::ChannelOffer;
use quittance_seller::{Charge, PaymentLayer};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::channels::Channel;

/// A seller of goods, and what it has served. `?charge=` sets what its handler charges, in atomic
/// units; with `?charge=fail` the handler fails.
pub struct ChannelShop {
    url: String,
    served: Arc<AtomicUsize>,
    terms: PaymentRequirements,
    http: reqwest::Client,
}

impl ChannelShop {
    /// A shop with this facilitator and this offer.
    pub async fn open(facilitator: Arc<dyn Facilitator>, offer: ChannelOffer) -> Self {
        let supported = facilitator.supported().await.expect("a facilitator");
        let mut kinds = supported.kinds.iter();
        let kind = kinds.find(|kind| kind.scheme == offer.scheme());
        let terms = offer.requirements(kind.expect("the scheme"));
        let served = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&served);
        let goods = move |Query(wish): Query<HashMap<String, String>>| {
            count.fetch_add(1, Ordering::SeqCst);
            async move {
                match wish.get("charge").map(String::as_str) {
                    None => "goods".into_response(),
                    Some("fail") => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
                    Some(units) => charged(units.parse().expect("an amount")),
                }
            }
        };
        let layer = PaymentLayer::new(facilitator).accept(offer);
        let app = Router::new().route("/goods", get(goods).layer(layer));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = listener.local_addr().expect("a bound socket");
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self {
            url: format!("http://{url}/goods"),
            served,
            terms: terms.expect("an offer"),
            http: reqwest::Client::new(),
        }
    }

    /// The address of its goods.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// How many requests its handler got.
    pub fn served(&self) -> usize {
        self.served.load(Ordering::SeqCst)
    }

    /// Presents a payload.
    pub async fn buy(&self, query: &str, payload: &Value) -> Bought {
        let payload = serde_json::from_value(payload.clone()).expect("an object");
        let payment = PaymentPayload::new(self.terms.clone(), payload);
        let request = self.http.get(format!("{}{query}", self.url));
        let request = request.header(header::PAYMENT_SIGNATURE, header::encode(&payment));
        let response = request.send().await.expect("a response");
        let read = |name: &str| {
            let value = response.headers().get(name)?;
            Some(value.as_bytes().to_vec())
        };
        let receipt = read(header::PAYMENT_RESPONSE);
        let required = read(header::PAYMENT_REQUIRED);
        Bought {
            status: response.status().as_u16(),
            receipt: receipt.map(|it| header::decode("receipt", &it).expect("a receipt")),
            required: required.map(|it| header::decode("required", &it).expect("terms")),
            body: response.text().await.expect("a body"),
        }
    }
}

fn charged(amount: Amount) -> Response {
    let mut response = "goods".into_response();
    response.extensions_mut().insert(Charge::units(amount));
    response
}

/// A seller's response.
#[derive(Debug)]
pub struct Bought {
    /// Its status.
    pub status: u16,
    /// Its body.
    pub body: String,
    /// Its receipt.
    pub receipt: Option<SettleResponse>,
    /// What it requires, if it is a 402 response.
    pub required: Option<PaymentRequired>,
}

impl Bought {
    /// What was charged, and what was charged in total by now.
    pub fn charged(&self) -> (u128, u128) {
        let receipt = self.receipt.as_ref().expect("a receipt");
        assert!(receipt.success, "{receipt:?}");
        let extra = receipt.extra.as_ref().expect("the state of the channel");
        let extra = Value::Object(extra.tree());
        (
            units(&extra["chargedAmount"]),
            units(&extra["channelState"]["chargedCumulativeAmount"]),
        )
    }

    /// The error of a 402 response, and what it corrects.
    pub fn correction(&self) -> (String, Value) {
        let required = self.required.as_ref().expect("a 402 response");
        let extra = required.accepts[0].extra.as_ref().expect("an object");
        let error = required.error.clone().unwrap_or_default();
        (error, Value::Object(extra.tree()))
    }
}

fn units(value: &Value) -> u128 {
    let text = value.as_str().expect("a text");
    text.parse().expect("an amount")
}

/// The payload of a deposit by EIP-3009, with a voucher for this much.
pub fn deposit(channel: &Channel, amount: u128, max_claimable: u128) -> Value {
    json!({
        "type": "deposit", "channelConfig": channel.config,
        "voucher": channel.voucher(max_claimable), "deposit": channel.deposit_by_eip3009(amount),
    })
}

/// The payload of a voucher for this much in total.
pub fn voucher(channel: &Channel, max_claimable: u128) -> Value {
    json!({
        "type": "voucher", "channelConfig": channel.config,
        "voucher": channel.voucher(max_claimable),
    })
}

/// The payload of a request for a refund, with a voucher for what was charged.
pub fn refund(channel: &Channel, charged: u128) -> Value {
    json!({
        "type": "refund", "channelConfig": channel.config, "voucher": channel.voucher(charged),
    })
}
