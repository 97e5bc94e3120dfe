//! The buyer with real payers and real chains. The servers refuse payments that they may have
//! settled, and ask for signatures for other contracts.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use quittance_buyer::{BuyError, Buyer};
use quittance_core::wire::{PaymentPayload, PaymentRequirements, header};
use quittance_core::{Amount, Clock, Facilitator, ManualClock, SystemClock, Timestamp};
use quittance_engine::Engine;
use quittance_solana::TokenProgram;
use quittance_tests::evm::{PRICE, Setting};
use serde_json::{Value, json};
use tokio::net::TcpListener;

async fn listen(app: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}

fn terms() -> Value {
    serde_json::to_value(Setting::requirements()).unwrap()
}

/// A 402 response with these payment options.
fn required(accepts: &[Value], error: &str) -> Response {
    let required = json!({ "x402Version": 2, "error": error, "resource": { "url": "http://a.example/" },
        "accepts": accepts });
    let value = header::encode(&required);
    let name = header::PAYMENT_REQUIRED;
    (StatusCode::PAYMENT_REQUIRED, [(name, value)]).into_response()
}

/// The payments that a server has received.
#[derive(Clone, Default)]
struct Shown(Arc<Mutex<Vec<PaymentPayload>>>);

impl Shown {
    fn push(&self, headers: &HeaderMap) -> Option<PaymentPayload> {
        let value = headers.get(header::PAYMENT_SIGNATURE)?;
        let payment: PaymentPayload = header::decode("payment", value.as_bytes()).unwrap();
        self.0.lock().unwrap().push(payment.clone());
        Some(payment)
    }

    fn different(&self) -> usize {
        let payments = self.0.lock().unwrap();
        let texts = payments.iter().map(|payment| payment.payload.text());
        texts.collect::<std::collections::BTreeSet<_>>().len()
    }
}

/// A server that settles each payment or stores it. Its receipt says that the payer has no money,
/// and names no network.
async fn liar(terms: PaymentRequirements, engine: Option<Engine>, shown: Shown) -> String {
    let answer = move |headers: HeaderMap| {
        let (terms, engine, shown) = (terms.clone(), engine.clone(), shown.clone());
        async move {
            let reason = "insufficient_funds";
            let answer = required(&[serde_json::to_value(&terms).unwrap()], reason);
            let Some(payment) = shown.push(&headers) else {
                return answer;
            };
            if let Some(engine) = engine {
                let request = quittance_tests::request(payment, &terms);
                // The second response says that the payment has settled.
                let _ = engine.settle(&request).await;
            }
            let receipt = json!({ "success": false, "errorReason": reason, "transaction": null });
            (
                [(header::PAYMENT_RESPONSE, header::encode(&receipt))],
                answer,
            )
                .into_response()
        }
    };
    listen(Router::new().fallback(any(answer))).await
}

/// A verdict in an unreadable receipt was believed, and another authorization was signed when the
/// first had expired: the buyer paid twice. Now the chain is asked, by its own clock.
#[tokio::test(flavor = "multi_thread")]
async fn refused_payment_is_paid_again_only_if_the_chain_shows_expiry() {
    for settles in [true, false] {
        let setting = Setting::start().await;
        let engine = match settles {
            true => Some(setting.engine().await),
            false => None,
        };
        let shown = Shown::default();
        let url = liar(Setting::requirements(), engine, shown.clone()).await;
        let clock = Arc::new(ManualClock::new(SystemClock.now()));
        let network = quittance_evm::known::network("base-sepolia").unwrap();
        let node = setting.local.url().parse().unwrap();
        let payer = Setting::payer().with_rpc(&network, &[node]).unwrap();
        let buyer = Buyer::builder().payer(payer).clock(clock.clone());
        let buyer = buyer.build().unwrap();

        let refused = buyer.get(&url).await;
        assert!(
            matches!(refused, Err(BuyError::Refused { .. })),
            "{refused:?}"
        );
        let passes = Setting::requirements().max_timeout_seconds + 61;
        clock.advance(passes);
        // Our clock says that the authorization has expired. If it is unused, the chain's clock
        // does not say so yet.
        match buyer.get(&url).await {
            Err(BuyError::Used { .. }) if settles => {}
            Err(BuyError::Unresolved { .. }) if !settles => {}
            other => panic!("settles: {settles}: {other:?}"),
        }
        assert_eq!(shown.different(), 1);

        let _: Value = setting
            .local
            .rpc("evm_increaseTime", (passes,))
            .await
            .unwrap();
        setting.local.mine().await.unwrap();
        match buyer.get(&url).await {
            Err(BuyError::Used { open, .. }) if settles => assert!(open.transaction.is_some()),
            Err(BuyError::Refused { .. }) if !settles => {}
            other => panic!("settles: {settles}: {other:?}"),
        }
        assert_eq!(shown.different(), if settles { 1 } else { 2 });
        let received = if settles { PRICE } else { 0 };
        assert_eq!(setting.received().await, Amount::from(received));
    }
}

/// The same on Solana, where a payer does not know its transaction's id.
#[tokio::test(flavor = "multi_thread")]
async fn refused_solana_payment_is_paid_again_only_after_expiry() {
    use quittance_tests::solana::{PRICE, SLOT, Setting};
    /// How long a payer considers a payment valid.
    const VALID_SECS: u64 = 150;
    for settles in [true, false] {
        let setting = Setting::start(TokenProgram::SplToken, Some(SLOT)).await;
        let engine = match settles {
            true => Some(setting.engine(Duration::from_secs(10)).await),
            false => None,
        };
        let shown = Shown::default();
        let url = liar(setting.requirements(), engine, shown.clone()).await;
        // Long ago by our clock, so that the cluster's next blocks are after the end of the
        // payment.
        let begin = SystemClock.now().secs() - 400;
        let clock = Arc::new(ManualClock::new(Timestamp::from_secs(begin)));
        let buyer = Buyer::builder().payer(setting.payer()).clock(clock.clone());
        let buyer = buyer.build().unwrap();
        let refused = buyer.get(&url).await;
        assert!(
            matches!(refused, Err(BuyError::Refused { .. })),
            "{refused:?}"
        );
        clock.advance(VALID_SECS + 61);
        // Blocks still accept it, unless it is used. And what is not final is not known.
        let ended = buyer.get(&url).await;
        let is_in_doubt = matches!(
            ended,
            Err(BuyError::Unresolved { .. } | BuyError::Used { .. })
        );
        assert!(is_in_doubt, "settles: {settles}: {ended:?}");
        assert_eq!(shown.different(), 1);

        setting.local.mine(250).await.unwrap();
        match buyer.get(&url).await {
            Err(BuyError::Used { open, .. }) if settles => assert!(open.transaction.is_some()),
            Err(BuyError::Refused { .. }) if !settles => {}
            other => panic!("settles: {settles}: {other:?}"),
        }
        assert_eq!(shown.different(), if settles { 1 } else { 2 });
        let received = if settles { PRICE } else { 0 };
        assert_eq!(setting.received().await, Amount::from(received));
    }
}

/// Without a node nothing is known, and nothing is signed.
#[tokio::test(flavor = "multi_thread")]
async fn a_buyer_whose_node_does_not_answer_signs_nothing_new() {
    let shown = Shown::default();
    let url = liar(Setting::requirements(), None, shown.clone()).await;
    for nodes in [vec![], vec!["http://127.0.0.1:1".parse().unwrap()]] {
        let clock = Arc::new(ManualClock::new(SystemClock.now()));
        let network = quittance_evm::known::network("base-sepolia").unwrap();
        let payer = Setting::payer().with_rpc(&network, &nodes).unwrap();
        let buyer = Buyer::builder().payer(payer).clock(clock.clone());
        let buyer = buyer.build().unwrap();
        assert!(buyer.get(&url).await.is_err());
        clock.advance(100_000);
        let before = shown.different();
        let ended = buyer.get(&url).await;
        assert!(
            matches!(ended, Err(BuyError::Unresolved { .. })),
            "{ended:?}"
        );
        assert_eq!(shown.different(), before);
    }
}

/// Batching wallets ask for USDC signed for their own contract. Such a payment was signed for the
/// token and could not be settled. The payable option after it was never tried.
#[tokio::test]
async fn requirements_for_another_contract_are_skipped() {
    let other = |extra: Value| {
        let mut terms = terms();
        terms["amount"] = json!("100");
        terms["extra"] = extra;
        terms
    };
    let contract = format!("0x{}", "77".repeat(20));
    for (extra, objection) in [
        (
            json!({ "name": "GatewayWalletBatched", "version": "1", "verifyingContract": contract }),
            "extra.name",
        ),
        (
            json!({ "name": "USDC", "version": "2", "verifyingContract": contract }),
            "extra.verifyingContract",
        ),
        (
            json!({ "name": "USDC", "version": "2", "verifyingContract": 1 }),
            "extra.verifyingContract",
        ),
        (json!({ "name": "USDC", "version": "1" }), "extra.version"),
        (json!({ "name": "USDC" }), "extra.version is missing"),
        (json!({ "version": "2" }), "extra.name is missing"),
        (
            json!({ "name": "USDC", "version": "2", "assetTransferMethod": "barter" }),
            "barter",
        ),
    ] {
        let shop = |accepts: Vec<Value>| async move {
            let answer = move |headers: HeaderMap| {
                let accepts = accepts.clone();
                async move {
                    match headers.get(header::PAYMENT_SIGNATURE) {
                        Some(payment) => payment.to_str().unwrap().to_owned().into_response(),
                        None => required(&accepts, "Payment required"),
                    }
                }
            };
            listen(Router::new().fallback(any(answer))).await
        };
        let buyer = Buyer::builder().payer(Setting::payer()).build().unwrap();
        let url = shop(vec![other(extra.clone()), terms()]).await;
        let shown = buyer
            .get(&url)
            .await
            .unwrap()
            .response
            .text()
            .await
            .unwrap();
        let payment: PaymentPayload = header::decode("payment", shown.as_bytes()).unwrap();
        assert_eq!(payment.accepted.amount, PRICE.to_string(), "{extra}");
        let alone = shop(vec![other(extra.clone())]).await;
        match buyer.get(&alone).await {
            Err(BuyError::NotAcceptable(why)) => {
                assert!(why[0].to_string().contains(objection), "{extra}: {why:?}");
            }
            other => panic!("{extra}: {other:?}"),
        }
    }
    // The token's own address may be given.
    let mut own = terms();
    own["extra"]["verifyingContract"] = own["asset"].clone();
    let own: PaymentRequirements = serde_json::from_value(own).unwrap();
    assert!(quittance_core::Payer::quote(&Setting::payer(), &own).is_ok());
}
