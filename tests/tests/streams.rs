//! A stream that is paid tick by tick, with the example scheme `per-second` on a local chain. The
//! judge reads the chain: what was paid is what was delivered, and at most one tick differs.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use alloy::primitives::U256;
use async_trait::async_trait;
use axum::Router;
use axum::routing::get;
use quittance_buyer::{Buyer, PaidStream};
use quittance_core::Clock as _;
use quittance_core::wire::{PaymentRequirements, SettleResponse, SupportedKind, VerifyResponse};
use quittance_core::{
    Amount, Facilitator, FacilitatorError, Fault, FaultKind, Offer, Payer as _, PaymentRequest,
    SystemClock,
};
use quittance_devnet::{Evm as Local, USDC};
use quittance_engine::{Engine, Timing};
use quittance_evm::Evm;
use quittance_examples::{PerSecond, PerSecondOffer, PerSecondPayer};
use quittance_seller::{PaymentLayer, StreamLimits};
use quittance_tests::evm::Setting;
use quittance_tests::streams::count;
use quittance_tests::{engine, until};
use tokio::net::TcpListener;

/// The price of a tick in USDC, and in atomic units.
const PRICE: &str = "0.001";
const UNITS: u64 = 1_000;

/// A stream is settled after this time without a tick.
const QUIET_SECS: u64 = 3;

/// Short pauses between looks at streams that are quiet.
const HASTY: Timing = engine::HASTY.with_sweep_every(Duration::from_millis(300));

async fn start_engine(setting: &Setting) -> Engine {
    let evm = Evm::new(setting.config()).unwrap();
    let scheme = Arc::new(PerSecond::new(&evm, QUIET_SECS));
    let builder = Engine::builder(setting.journal().await).chain(evm, vec![scheme]);
    builder.timing(HASTY).start().await.unwrap()
}

fn offer() -> PerSecondOffer {
    let seller = Setting::seller().address.to_string();
    PerSecondOffer::usdc("base-sepolia", PRICE, &seller).unwrap()
}

fn shop(facilitator: Arc<dyn Facilitator>) -> Router {
    let layer = PaymentLayer::new(facilitator).accept(offer());
    let limits = StreamLimits::default().idle(Duration::from_secs(10));
    Router::new().route("/count", get(count).layer(layer.streaming(limits)))
}

async fn listen(app: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}

/// A buyer with books of its own, so its stream has a nonce of its own.
fn buyer() -> Buyer {
    let payer = PerSecondPayer::new(Setting::buyer().signer, QUIET_SECS - 1);
    Buyer::builder().payer(payer).build().unwrap()
}

async fn open(url: &str) -> PaidStream {
    buyer().stream(&format!("{url}/count")).await.unwrap()
}

/// What the seller has, by the chain.
async fn received(local: &Local) -> U256 {
    local
        .balance(USDC, Setting::seller().address)
        .await
        .unwrap()
}

/// What the seller gets for the one stream that is claimed next, in ticks.
async fn paid_ticks(local: &Local, before: U256) -> u64 {
    until("the stream is claimed", || async {
        received(local).await > before
    })
    .await;
    let paid: u64 = (received(local).await - before).to();
    assert_eq!(paid % UNITS, 0);
    paid / UNITS
}

#[tokio::test(flavor = "multi_thread")]
async fn the_chain_pays_for_each_chunk_in_one_transaction() {
    let setting = Setting::start().await;
    let engine = start_engine(&setting).await;
    let url = listen(shop(Arc::new(engine))).await;
    let before = received(&setting.local).await;
    let mut stream = open(&url).await;
    for number in 1..=50 {
        let chunk = stream.chunk().await.unwrap().unwrap();
        assert_eq!(chunk, format!("{number}\n"));
        // A chunk may arrive before the receipt of its tick.
        let ticks = stream.cost().ticks;
        assert!(ticks == number || ticks + 1 == number, "{ticks} {number}");
    }
    let cost = stream.stop().await;
    assert_eq!((cost.ticks, cost.charged), (50, Amount::from(50 * UNITS)));
    assert_eq!(paid_ticks(&setting.local, before).await, 50);
}

/// A facilitator that once charges a payment and loses its answer for good.
struct Forgetful {
    engine: Engine,
    forgets: AtomicBool,
}

#[async_trait]
impl Facilitator for Forgetful {
    async fn verify(&self, request: &PaymentRequest) -> Result<VerifyResponse, FacilitatorError> {
        self.engine.verify(request).await
    }

    async fn settle(&self, request: &PaymentRequest) -> Result<SettleResponse, FacilitatorError> {
        let settled = self.engine.settle(request).await;
        match self.forgets.swap(false, Ordering::SeqCst) {
            true => {
                let fault = Fault::new(FaultKind::FacilitatorUnreachable, "the answer is lost");
                let retry_after = Some(Duration::from_millis(100));
                Err(Fault {
                    retry_after,
                    ..fault
                }
                .into())
            }
            false => settled,
        }
    }

    async fn supported(&self) -> Result<quittance_core::wire::SupportedResponse, FacilitatorError> {
        self.engine.supported().await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tick_whose_answer_is_lost_is_all_that_is_lost() {
    let setting = Setting::start().await;
    let engine = start_engine(&setting).await;
    let forgets = AtomicBool::new(false);
    let facilitator = Arc::new(Forgetful { engine, forgets });
    let url = listen(shop(facilitator.clone())).await;
    let before = received(&setting.local).await;
    let mut stream = open(&url).await;
    for number in 1..=20 {
        if number == 7 {
            facilitator.forgets.store(true, Ordering::SeqCst);
        }
        let chunk = stream.chunk().await.unwrap().unwrap();
        assert_eq!(chunk, format!("{number}\n"));
    }
    assert!(stream.problem().is_none(), "{:?}", stream.problem());
    let cost = stream.stop().await;
    assert_eq!((cost.ticks, cost.charged), (20, Amount::from(21 * UNITS)));
    assert_eq!(paid_ticks(&setting.local, before).await, 21);
}

/// A tick that was charged is never charged again, and none is left out.
#[tokio::test(flavor = "multi_thread")]
async fn ticks_out_of_order_are_refused_with_the_total() {
    let setting = Setting::start().await;
    let engine = start_engine(&setting).await;
    let requirements: PaymentRequirements = {
        let kind = SupportedKind::new(2, "per-second", "eip155:84532");
        offer().requirements(&kind).unwrap()
    };
    let payer = PerSecondPayer::new(Setting::buyer().signer, QUIET_SECS - 1);
    let mut ticks = Vec::new();
    for _ in 0..3 {
        let signed = payer
            .pay(&requirements, None, SystemClock.now())
            .await
            .unwrap();
        let served = quittance_core::PaymentOutcome::Served { receipt: None };
        payer.observe(&requirements, &signed.payload, served).await;
        let payload = quittance_tests::payload_of(&requirements, signed.payload);
        ticks.push(quittance_tests::request(payload, &requirements));
    }
    for (tick, total) in [(1, "0"), (2, "0")] {
        let verdict = engine.verify(&ticks[tick]).await.unwrap();
        assert!(!verdict.is_valid && total_of(verdict.extra) == total);
    }
    for tick in &ticks[..2] {
        assert!(engine.verify(tick).await.unwrap().is_valid);
        engine::settled(&engine, tick).await;
    }
    for tick in &ticks[..2] {
        let again = engine.settle(tick).await.unwrap();
        assert!(!again.success && total_of(again.extra) == "2000");
    }
    // Many at once are charged once.
    let settling: Vec<_> = (0..10)
        .map(|_| engine::settling(&engine, &ticks[2]))
        .collect();
    let mut charged = 0;
    for settling in settling {
        charged += usize::from(settling.await.unwrap().unwrap().success);
    }
    assert_eq!(charged, 1);
}

fn total_of(extra: Option<quittance_core::json::Object>) -> String {
    extra.unwrap().tree()["total"].as_str().unwrap().to_owned()
}
