//! Our buyer pays our seller by channels whose vouchers the facilitator keeps, on a local chain:
//! deposits, vouchers, lost answers, lost books, refunds and limits.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use alloy::primitives::B256;
use axum::Router;
use axum::extract::{Query, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::future::join_all;
use quittance_buyer::{BuyError, Buyer, BuyerBuilder, Cost, Limits};
use quittance_core::{Amount, Scheme};
use quittance_evm::batch::{
    BatchSettlement, ChannelOffer, ChannelPayer, ClaimRules, DepositRules, PayerBook, read_books,
};
use quittance_evm::{Evm, TransferMethod, known};
use quittance_seller::{Charge, PaymentLayer};
use quittance_tests::channels::{BySeller, Channel, keeping_vouchers};
use quittance_tests::evm::{PRICE, Setting};
use quittance_tests::permit2::approved;
use tokio::net::TcpListener;

const PRICE_UNITS: u128 = PRICE as u128;

/// What the buyer deposits at once.
const DEPOSIT: u128 = 10 * PRICE_UNITS;

/// A seller of goods, and what it has served.
struct Town {
    setting: Setting,
    url: String,
    served: Arc<AtomicUsize>,
    /// Whether the next answer to a payment is lost.
    loses: Arc<AtomicBool>,
    folder: tempfile::TempDir,
}

fn offer(method: TransferMethod) -> ChannelOffer {
    let seller = Setting::seller().address.to_string();
    let network = known::network("base-sepolia").unwrap();
    let usdc = known::token(network.id(), "USDC").unwrap();
    let token = usdc.clone().with_method(method);
    let offer = ChannelOffer::new(network, token, "0.01", &seller).unwrap();
    offer.with_withdraw_delay_secs(900).unwrap()
}

fn scheme(evm: &Evm) -> BatchSettlement {
    // Claims that come only when a test asks for them.
    let config = keeping_vouchers(ClaimRules::new(u64::MAX, u128::MAX));
    BatchSettlement::new(evm).with_config(config).unwrap()
}

async fn town(method: TransferMethod) -> Town {
    let setting = match method {
        TransferMethod::Permit2 => approved().await,
        _ => Setting::start().await,
    };
    let evm = Evm::new(setting.config()).unwrap();
    let schemes: Vec<Arc<dyn Scheme<Evm>>> = vec![Arc::new(scheme(&evm))];
    let builder = setting.builder().await.chain(evm, schemes);
    let facilitator = Arc::new(BySeller(builder.start().await.unwrap()));
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
    let loses = Arc::new(AtomicBool::new(false));
    let layer = PaymentLayer::new(facilitator).accept(offer(method));
    let app = Router::new().route("/goods", get(goods).layer(layer));
    let app = app.layer(middleware::from_fn_with_state(Arc::clone(&loses), lose));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/goods", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    Town {
        setting,
        url,
        served,
        loses,
        folder: tempfile::tempdir().unwrap(),
    }
}

fn charged(amount: Amount) -> Response {
    let mut response = "goods".into_response();
    response.extensions_mut().insert(Charge::units(amount));
    response
}

/// Keeps the answer to a paid request for ever, after it was served.
async fn lose(State(loses): State<Arc<AtomicBool>>, request: Request, next: Next) -> Response {
    let is_paid = request.headers().contains_key("payment-signature");
    let answer = next.run(request).await;
    if is_paid && loses.swap(false, Ordering::SeqCst) {
        std::future::pending::<()>().await;
    }
    answer
}

impl Town {
    fn payer(&self) -> ChannelPayer {
        ChannelPayer::new(Setting::buyer().signer)
    }

    /// A payer whose books are in the town's folder.
    fn payer_in_folder(&self) -> ChannelPayer {
        self.payer().in_folder(&self.books()).unwrap()
    }

    /// The same with a node.
    fn payer_with_node(&self) -> ChannelPayer {
        self.with_node(self.payer_in_folder())
    }

    fn with_node(&self, payer: ChannelPayer) -> ChannelPayer {
        let network = known::network("base-sepolia").unwrap();
        let node = self.setting.node.url().parse().unwrap();
        payer.with_rpc(&network, &[node]).unwrap()
    }

    fn books(&self) -> std::path::PathBuf {
        self.folder.path().join("channels")
    }

    /// The only book in the folder.
    fn book(&self) -> PayerBook {
        let [book] = read_books(&self.books()).unwrap().try_into().unwrap();
        book
    }

    async fn state(&self, book: &PayerBook) -> (u128, u128) {
        let channel = Channel::new().with(|config| *config = book.config);
        channel.state(&self.setting).await
    }

    async fn buy(&self, buyer: &Buyer, query: &str) -> Result<Cost, BuyError> {
        let purchase = buyer.get(&format!("{}{query}", self.url)).await?;
        assert_eq!(purchase.response.status(), 200);
        assert_eq!(purchase.response.text().await.unwrap(), "goods");
        Ok(purchase.cost.unwrap())
    }

    fn served(&self) -> usize {
        self.served.load(Ordering::SeqCst)
    }
}

fn builder(payer: ChannelPayer) -> BuyerBuilder {
    let limits = Limits::default().per_payment("0.01").locked("1");
    Buyer::builder().payer(payer).limits(limits)
}

fn buyer(payer: ChannelPayer) -> Buyer {
    builder(payer).build().unwrap()
}

/// A buyer that stops waiting soon.
fn hasty(payer: ChannelPayer) -> Buyer {
    let builder = builder(payer).timeout(Duration::from_secs(3));
    builder.build().unwrap()
}

async fn pays_many_requests(method: TransferMethod) {
    let town = town(method).await;
    let buyer = buyer(town.payer_in_folder());
    let quote = reqwest::Request::new(reqwest::Method::GET, town.url.parse().unwrap());
    let quote = buyer.quote(&quote).await.unwrap().unwrap();
    assert_eq!(quote.locks, Amount::from(9 * PRICE));
    for number in 1..=12_u128 {
        let cost = town.buy(&buyer, "").await.unwrap();
        assert_eq!(cost.charged, Some(Amount::from(PRICE)), "{number}");
        let book = town.book();
        assert_eq!(
            (book.charged, book.signed),
            (number * PRICE_UNITS, number * PRICE_UNITS)
        );
        // The first one deposits, and the eleventh one does again.
        let deposits = number.div_ceil(10);
        assert_eq!(town.state(&book).await, (deposits * DEPOSIT, 0));
        assert_eq!(book.balance, deposits * DEPOSIT);
    }
    assert_eq!(town.served(), 12);
    assert!(buyer.open_payments().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_by_eip3009_pays_many_requests() {
    pays_many_requests(TransferMethod::Eip3009).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_by_permit2_pays_many_requests() {
    pays_many_requests(TransferMethod::Permit2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_smaller_charge_lowers_the_next_voucher() {
    let town = town(TransferMethod::Eip3009).await;
    let buyer = buyer(town.payer_in_folder());
    town.buy(&buyer, "").await.unwrap();
    let cost = town.buy(&buyer, "?charge=3000").await.unwrap();
    assert_eq!(cost.charged, Some(Amount::from(3_000)));
    assert_eq!((town.book().charged, town.book().signed), (13_000, 20_000));
    town.buy(&buyer, "").await.unwrap();
    assert_eq!((town.book().charged, town.book().signed), (23_000, 23_000));
}

/// The handler fails: nothing is charged, and the same voucher pays the next try.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_handler_costs_nothing() {
    let town = town(TransferMethod::Eip3009).await;
    let buyer = buyer(town.payer_in_folder());
    town.buy(&buyer, "").await.unwrap();
    let failed = buyer
        .get(&format!("{}?charge=fail", town.url))
        .await
        .unwrap();
    assert_eq!(failed.response.status(), 500);
    town.buy(&buyer, "").await.unwrap();
    assert_eq!((town.book().charged, town.book().signed), (20_000, 20_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_buyer_goes_on_with_its_channel() {
    let town = town(TransferMethod::Eip3009).await;
    for number in 1..=3_u128 {
        let buyer = buyer(town.payer_in_folder());
        town.buy(&buyer, "").await.unwrap();
        drop(buyer);
        let book = town.book();
        assert_eq!(book.charged, number * PRICE_UNITS);
        assert_eq!(town.state(&book).await, (DEPOSIT, 0));
    }
    // Two payers at once would sign with different books.
    let first = town.payer_in_folder();
    let second = town.payer().in_folder(&town.books());
    let problem = second.unwrap_err().to_string();
    assert!(problem.contains("in use"), "{problem}");
    drop(first);
    town.payer_in_folder();
}

/// The seller corrects a payer that has lost its books, or the node does. No second deposit is
/// made.
#[tokio::test(flavor = "multi_thread")]
async fn lost_books_are_found_again() {
    let town = town(TransferMethod::Eip3009).await;
    let first = buyer(town.payer_in_folder());
    for _ in 0..3 {
        town.buy(&first, "").await.unwrap();
    }
    let book = town.book();
    drop(first);
    let without_node = town.payer();
    let cost = town.buy(&buyer(without_node.clone()), "").await.unwrap();
    assert_eq!(cost.charged, Some(Amount::from(PRICE)));
    let [found] = without_node.channels().try_into().unwrap();
    assert_eq!((found.charged, found.channel_id), (40_000, book.channel_id));
    let with_node = town.with_node(town.payer());
    town.buy(&buyer(with_node.clone()), "").await.unwrap();
    let [found] = with_node.channels().try_into().unwrap();
    assert_eq!((found.charged, found.balance), (50_000, DEPOSIT));
    assert_eq!(town.state(&book).await, (DEPOSIT, 0));
    assert_eq!(town.served(), 5);
}

/// Another salt is another channel.
#[tokio::test(flavor = "multi_thread")]
async fn two_programs_with_one_key_have_a_channel_each() {
    let town = town(TransferMethod::Eip3009).await;
    let [one, other] = [0, 1].map(|salt| town.payer().with_salt(B256::with_last_byte(salt)));
    let buyers = [one.clone(), other.clone()].map(buyer);
    for bought in join_all(buyers.iter().map(|buyer| town.buy(buyer, ""))).await {
        bought.unwrap();
    }
    assert_ne!(one.channels()[0].channel_id, other.channels()[0].channel_id);
}

/// One channel is charged in order, so the calls of one buyer wait for each other.
#[tokio::test(flavor = "multi_thread")]
async fn parallel_requests_over_one_channel_are_all_served() {
    let town = town(TransferMethod::Eip3009).await;
    let buyer = buyer(town.payer_in_folder());
    let bought = join_all((0..15).map(|_| town.buy(&buyer, ""))).await;
    for cost in bought {
        assert_eq!(cost.unwrap().charged, Some(Amount::from(PRICE)));
    }
    let book = town.book();
    assert_eq!(
        (book.charged, book.signed),
        (15 * PRICE_UNITS, 15 * PRICE_UNITS)
    );
    assert_eq!(town.state(&book).await, (2 * DEPOSIT, 0));
    assert_eq!(town.served(), 15);
}

/// The seller has charged the voucher. It is never paid for twice, and the channel goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_costs_one_price() {
    let town = town(TransferMethod::Eip3009).await;
    let buyer = hasty(town.payer_in_folder());
    town.buy(&buyer, "").await.unwrap();
    town.loses.store(true, Ordering::SeqCst);
    let lost = town.buy(&buyer, "?lost").await;
    assert!(matches!(lost, Err(BuyError::Lost { .. })), "{lost:?}");
    // Another purchase finds out that it was charged.
    town.buy(&buyer, "?next").await.unwrap();
    assert_eq!((town.book().charged, town.book().signed), (30_000, 30_000));
    // The lost one is not paid again, although its payer signs for others.
    let again = town.buy(&buyer, "?lost").await;
    match again {
        // The seller delivers what was paid for, if it still knows.
        Ok(_) => {}
        Err(BuyError::Used { .. }) => assert_eq!(buyer.open_payments().len(), 1),
        other => panic!("{other:?}"),
    }
    assert_eq!((town.book().charged, town.book().signed), (30_000, 30_000));
    town.buy(&buyer, "").await.unwrap();
    assert_eq!((town.book().charged, town.book().signed), (40_000, 40_000));
}

/// A deposit whose answer is lost is made once, whatever is bought next.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_deposit_is_not_made_twice() {
    let town = town(TransferMethod::Eip3009).await;
    let first = hasty(town.payer_with_node());
    town.loses.store(true, Ordering::SeqCst);
    let lost = town.buy(&first, "?lost").await;
    assert!(matches!(lost, Err(BuyError::Lost { .. })), "{lost:?}");
    assert!(town.book().deposit.is_some());
    drop(first);
    // After a restart, for another purchase.
    let second = hasty(town.payer_with_node());
    town.buy(&second, "?next").await.unwrap();
    let book = town.book();
    assert_eq!((book.balance, &book.deposit), (DEPOSIT, &None));
    assert_eq!((book.charged, book.signed), (20_000, 20_000));
    assert_eq!(town.state(&book).await, (DEPOSIT, 0));
}

/// The request with the deposit never arrived: the same deposit comes with the next purchase.
#[tokio::test(flavor = "multi_thread")]
async fn a_deposit_that_did_not_arrive_is_presented_again() {
    let town = town(TransferMethod::Eip3009).await;
    let buyer = hasty(town.payer_in_folder());
    town.setting.hold().await;
    let pending = town.buy(&buyer, "?lost").await.unwrap_err();
    assert!(pending.open_payment().is_some(), "{pending}");
    town.setting.go_on().await;
    town.buy(&buyer, "?lost").await.unwrap();
    let book = town.book();
    assert_eq!(town.state(&book).await, (DEPOSIT, 0));
    assert_eq!((book.charged, book.balance), (PRICE_UNITS, DEPOSIT));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rest_of_a_deposit_is_paid_back() {
    let town = town(TransferMethod::Eip3009).await;
    let buyer = buyer(town.payer_with_node());
    assert_eq!(buyer.reclaim(&town.url).await.unwrap(), None);
    town.buy(&buyer, "").await.unwrap();
    town.buy(&buyer, "?charge=3000").await.unwrap();
    let receipt = buyer.reclaim(&town.url).await.unwrap().unwrap();
    assert_eq!(receipt.amount, Some(Amount::from(87_000)));
    let book = town.book();
    assert_eq!(town.state(&book).await, (13_000, 13_000));
    assert_eq!(
        (book.balance, book.locked(), book.charged),
        (13_000, 0, 13_000)
    );
    assert_eq!(buyer.reclaim(&town.url).await.unwrap(), None);
    // The next payment deposits into the same channel.
    town.buy(&buyer, "").await.unwrap();
    let book = town.book();
    assert_eq!(town.state(&book).await, (13_000 + DEPOSIT, 13_000));
    assert_eq!(book.charged, 13_000 + PRICE_UNITS);
}

#[tokio::test(flavor = "multi_thread")]
async fn deposits_stay_within_all_limits() {
    let town = town(TransferMethod::Eip3009).await;
    let refused = |buyer: &Buyer| {
        let buyer = buyer.clone();
        let url = town.url.clone();
        async move { buyer.get(&url).await.unwrap_err().to_string() }
    };
    // The buyer's own limit.
    let limits = Limits::default().per_payment("0.05");
    let tight = Buyer::builder().payer(town.payer()).limits(limits);
    let problem = refused(&tight.build().unwrap()).await;
    assert!(problem.contains("locks up 0.09 more"), "{problem}");
    // The payer's.
    for rules in [("0.005", "1"), ("1", "0.005")] {
        let rules = DepositRules::new(10, rules.0, rules.1).unwrap();
        let problem = refused(&buyer(town.payer().with_deposits(rules))).await;
        assert!(problem.contains("limits of deposits"), "{problem}");
    }
    assert_eq!(town.served(), 0);
    // Two prices at a time.
    let rules = DepositRules::new(10, "0.02", "1").unwrap();
    let payer = town.payer().with_deposits(rules);
    let small = buyer(payer.clone());
    for number in 1..=4_u128 {
        town.buy(&small, "").await.unwrap();
        let [book] = payer.channels().try_into().unwrap();
        let deposits = number.div_ceil(2);
        assert_eq!(book.balance, deposits * 2 * PRICE_UNITS);
        assert_eq!(town.state(&book).await.0, book.balance);
    }
}
