//! On an EVM chain.

use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::U256;
use axum::http::StatusCode;
use quittance_buyer::{BuyError, Buyer, Limits};
use quittance_core::{Amount, Scheme};
use quittance_devnet::{AUTH_CAPTURE_ESCROW, Account, Evm as Local, USDC};
use quittance_evm::batch::{BatchSettlement, ChannelOffer, ChannelPayer, Channels};
use quittance_evm::{
    ApprovalGas, AuthCapture, AuthCaptureOffer, Evm, Exact, ExactOffer, ExactPayer,
    PrivateKeySigner, TransferMethod, Upto, UptoOffer, UptoPayer, known,
};
use quittance_http::RemoteFacilitator;
use quittance_tests::channel_shop::ChannelShop;
use quittance_tests::evm::{PRICE, Setting};
use quittance_tests::open_journal;
use quittance_tests::proxy::Fate;
use quittance_verify::VerifierQueue;
use serde_json::{Value, json};
use tokio::process::Child;

use super::{KEY, Town, official_client, official_server};

pub(crate) struct EvmTown {
    pub(crate) setting: Setting,
    pub(crate) town: Town,
}

pub(crate) async fn town() -> EvmTown {
    town_that_waits(quittance_engine::SETTLE_WAIT).await
}

/// A seller whose facilitator answers "pending" after this time.
async fn town_that_waits(wait: Duration) -> EvmTown {
    let setting = Setting::start().await;
    let engine = setting
        .engine_with(setting.config(), |builder| builder.settle_wait(wait))
        .await;
    let town = Town::new(engine, Setting::offer).await;
    EvmTown { setting, town }
}

/// What the official client gets for each URL.
async fn buy(payer: &Account, urls: &[String]) -> Vec<Value> {
    official_client(&[("PAYER_KEY", &payer.key)], urls).await
}

/// The official server, and its address.
async fn server(facilitator: &str) -> (Child, String) {
    let seller = Setting::seller().address.to_string();
    official_server(&[facilitator, "eip155:84532", &seller]).await
}

pub(crate) fn buyer() -> Buyer {
    Buyer::builder().payer(Setting::payer()).build().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_client_pays_our_seller() {
    let town = town().await;
    let goods = format!("{}/goods", town.town.shop);
    let bought = buy(&Setting::buyer(), &[goods.clone(), goods]).await;
    for answer in &bought {
        assert_eq!(
            (&answer["status"], &answer["body"]),
            (&json!(200), &json!("goods")),
            "{answer}"
        );
        let receipt = &answer["receipt"];
        assert_eq!(
            (&receipt["success"], &receipt["network"]),
            (&json!(true), &json!("eip155:84532"))
        );
        assert_eq!(
            receipt["payer"],
            json!(Setting::buyer().address.to_checksum(None))
        );
    }
    assert_ne!(
        bought[0]["receipt"]["transaction"],
        bought[1]["receipt"]["transaction"]
    );
    assert_eq!(town.setting.received().await, Amount::from(2 * PRICE));
}

/// A setting whose seller takes USDC by Permit2, which the buyer has approved.
async fn permit2_town() -> EvmTown {
    let setting = Setting::start().await;
    let approved = setting
        .local
        .approve_permit2(USDC, Setting::buyer().address);
    approved.await.unwrap();
    let engine = setting.engine().await;
    let offer = || {
        let network = known::network("base-sepolia").unwrap();
        let usdc = known::token(network.id(), "USDC").unwrap().clone();
        let token = usdc.with_method(TransferMethod::Permit2);
        let seller = Setting::seller().address.to_string();
        ExactOffer::new(network, token, "0.01", &seller).unwrap()
    };
    let town = Town::new(engine, offer).await;
    EvmTown { setting, town }
}

#[tokio::test(flavor = "multi_thread")]
async fn official_client_pays_our_seller_by_permit2() {
    let town = permit2_town().await;
    let goods = [format!("{}/goods", town.town.shop)];
    let bought = &buy(&Setting::buyer(), &goods).await[0];
    assert_eq!(
        (&bought["status"], &bought["receipt"]["success"]),
        (&json!(200), &json!(true)),
        "{bought}"
    );
    let unapproved = &buy(&Local::accounts()[4], &goods).await[0];
    assert_eq!(
        (&unapproved["status"], &unapproved["terms"]["error"]),
        (&json!(412), &json!("permit2_allowance_required")),
        "{unapproved}"
    );
    assert_eq!(town.setting.received().await, Amount::from(PRICE));
}

#[tokio::test(flavor = "multi_thread")]
async fn official_server_sells_by_permit2_to_both_clients() {
    let town = permit2_town().await;
    let (_server, url) = server(&town.town.facilitator).await;
    let url = format!("{url}/permit2");
    let bought = buyer().get(&url).await.unwrap();
    let receipt = bought.cost.unwrap().receipt.unwrap();
    assert!(receipt.success, "{receipt:?}");
    let body = bought.response.json::<Value>().await.unwrap();
    assert_eq!(body, json!({ "goods": "permit2" }));
    let official = &buy(&Setting::buyer(), &[url]).await[0];
    assert_eq!(
        (&official["status"], &official["receipt"]["success"]),
        (&json!(200), &json!(true)),
        "{official}"
    );
    assert_eq!(town.setting.received().await, Amount::from(2 * PRICE));
}

/// One deposit pays for many requests of the official packages, and what was charged is claimed by
/// the seller, paid to it, and the rest paid back.
#[tokio::test(flavor = "multi_thread")]
async fn official_packages_sell_and_buy_by_a_channel() {
    let setting = Setting::start().await;
    let evm = Evm::new(setting.config()).unwrap();
    let schemes: Vec<Arc<dyn Scheme<Evm>>> = vec![
        Arc::new(Exact::new(&evm)),
        Arc::new(BatchSettlement::new(&evm)),
    ];
    let builder = setting.builder().await.chain(evm, schemes);
    let engine = builder.start().await.unwrap();
    let town = Town::new(engine, Setting::offer).await;
    let (_server, url) = server(&town.facilitator).await;
    let goods = format!("{url}/channel");
    let less = format!("{goods}?charge=2500");
    let urls = [
        goods.clone(),
        goods.clone(),
        less,
        format!("{url}/claim"),
        goods.clone(),
        "refund".to_owned(),
        goods,
    ];
    let bought = buy(&Setting::buyer(), &urls).await;
    let [first, second, third, claimed, fourth, refunded] = bought.as_slice() else {
        panic!("{bought:?}");
    };
    for answer in [first, second, third, fourth] {
        let expected = (&json!(200), &json!(true));
        let got = (&answer["status"], &answer["receipt"]["success"]);
        assert_eq!(got, expected, "{answer}");
    }
    // The deposit is a transaction, and a voucher none.
    assert_ne!(first["receipt"]["transaction"], "");
    assert_eq!(second["receipt"]["transaction"], "");
    assert_eq!(claimed["status"], 200, "{claimed}");
    let charged = PRICE + PRICE + 2_500;
    assert_eq!(setting.received().await, Amount::from(charged));
    let receipt = &refunded["receipt"];
    assert_eq!(receipt["success"], true, "{refunded}");
    // The server's hint made the client deposit ten times the price.
    let left = 10 * PRICE - charged - PRICE;
    assert_eq!(receipt["amount"], left.to_string());
}

/// Our buyer pays the official server by a channel, which charges less than the price, claims, and
/// pays back the rest. A payer that has lost its books is corrected.
#[tokio::test(flavor = "multi_thread")]
async fn our_buyer_pays_the_official_server_by_a_channel() {
    let setting = Setting::start().await;
    let evm = Evm::new(setting.config()).unwrap();
    let schemes: Vec<Arc<dyn Scheme<Evm>>> = vec![
        Arc::new(Exact::new(&evm)),
        Arc::new(BatchSettlement::new(&evm)),
    ];
    let builder = setting.builder().await.chain(evm, schemes);
    let engine = builder.start().await.unwrap();
    let town = Town::new(engine, Setting::offer).await;
    let (_server, url) = server(&town.facilitator).await;
    let goods = format!("{url}/channel");
    let network = known::network("base-sepolia").unwrap();
    let payer = || {
        let payer = ChannelPayer::new(Setting::buyer().signer);
        let node = setting.node.url().parse().unwrap();
        payer.with_rpc(&network, &[node]).unwrap()
    };
    let buyer = |payer: &ChannelPayer| {
        let limits = Limits::default().per_payment("0.01").locked("1");
        let builder = Buyer::builder().payer(payer.clone()).limits(limits);
        builder.build().unwrap()
    };
    let first = payer();
    let one = buyer(&first);
    for (query, charged) in [
        ("", PRICE),
        ("", PRICE),
        ("?charge=2500", 2_500),
        ("", PRICE),
    ] {
        let bought = one.get(&format!("{goods}{query}")).await.unwrap();
        assert_eq!(bought.response.status(), StatusCode::OK);
        assert_eq!(
            bought.cost.unwrap().charged,
            Some(Amount::from(charged)),
            "{query}"
        );
    }
    let claimed = reqwest::get(format!("{url}/claim")).await.unwrap();
    assert_eq!(claimed.status(), 200);
    assert_eq!(setting.received().await, Amount::from(3 * PRICE + 2_500));
    for _ in 0..2 {
        let bought = one.get(&goods).await.unwrap();
        assert_eq!(bought.cost.unwrap().charged, Some(Amount::from(PRICE)));
    }
    // The books are lost. The node has what was claimed, and the server what was charged since.
    let second = payer();
    let other = buyer(&second);
    let bought = other.get(&goods).await.unwrap();
    assert_eq!(bought.cost.unwrap().charged, Some(Amount::from(PRICE)));
    let charged = 6 * PRICE + 2_500;
    let [book] = second.channels().try_into().unwrap();
    assert_eq!(book.charged, u128::from(charged));
    let receipt = other.reclaim(&goods).await.unwrap().unwrap();
    assert_eq!(receipt.amount, Some(Amount::from(10 * PRICE - charged)));
    assert_eq!(other.reclaim(&goods).await.unwrap(), None);
}

/// A seller that keeps the vouchers of its channels, with what its books are in.
struct ChannelSeller {
    channels: Channels,
    shop: ChannelShop,
    _folder: tempfile::TempDir,
}

impl ChannelSeller {
    /// The seller with this facilitator over HTTP.
    async fn open(facilitator: &str) -> Self {
        let remote = RemoteFacilitator::new(facilitator).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let channels = Channels::new(
            "base-sepolia",
            Arc::new(remote.with_key(KEY.into())),
            Arc::new(open_journal(&folder.path().join("channels.db")).await),
            Arc::new(VerifierQueue::start().unwrap()),
            PrivateKeySigner::random(),
        );
        let channels = channels.unwrap();
        let seller = Setting::seller().address.to_string();
        let offer = ChannelOffer::usdc("base-sepolia", "0.01", &seller).unwrap();
        let offer = offer.with_authorizer(channels.authorizer());
        Self {
            shop: ChannelShop::open(Arc::new(channels.clone()), offer).await,
            channels,
            _folder: folder,
        }
    }

    /// The official client buys, is corrected by the 402 response after it has lost its book, and
    /// gets back the rest.
    async fn sell_to_official_clients(&self, setting: &Setting) {
        let goods = self.shop.url().to_owned();
        let less = format!("{goods}?charge=2500");
        let first = buy(&Setting::buyer(), &[goods.clone(), goods.clone(), less]).await;
        for answer in &first {
            let got = (&answer["status"], &answer["receipt"]["success"]);
            assert_eq!(got, (&json!(200), &json!(true)), "{answer}");
        }
        assert_ne!(first[0]["receipt"]["transaction"], "");
        assert_eq!(first[1]["receipt"]["transaction"], "");
        assert_eq!(self.channels.claim_all().await.unwrap().claimed, 1);
        let charged = 2 * PRICE + 2_500;
        assert_eq!(setting.received().await, Amount::from(charged));

        // Two more processes of the payer, which know only what the chain has.
        let node = setting.local.url().to_owned();
        let buyer = Setting::buyer();
        let environment = [("PAYER_KEY", buyer.key.as_str()), ("EVM_RPC", &node)];
        let second = official_client(&environment, &[goods.clone(), goods.clone()]).await;
        for answer in &second {
            assert_eq!(answer["status"], 200, "{answer}");
        }
        let urls = [goods.clone(), "refund".to_owned(), goods];
        let third = official_client(&environment, &urls).await;
        assert_eq!(third[0]["status"], 200, "{}", third[0]);
        let receipt = &third[1]["receipt"];
        assert_eq!(receipt["success"], true, "{}", third[1]);
        let left = 10 * PRICE - charged - 3 * PRICE;
        assert_eq!(receipt["amount"], left.to_string());
        assert_eq!(self.shop.served(), 6);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn official_client_buys_from_a_seller_that_keeps_its_vouchers() {
    let setting = Setting::start().await;
    let evm = Evm::new(setting.config()).unwrap();
    let schemes: Vec<Arc<dyn Scheme<Evm>>> = vec![
        Arc::new(Exact::new(&evm)),
        Arc::new(BatchSettlement::new(&evm)),
    ];
    let builder = setting.builder().await.chain(evm, schemes);
    let town = Town::new(builder.start().await.unwrap(), Setting::offer).await;
    let seller = ChannelSeller::open(&town.facilitator).await;
    seller.sell_to_official_clients(&setting).await;
}

/// Our seller needs of a facilitator only what the official one does, too.
#[tokio::test(flavor = "multi_thread")]
async fn official_facilitator_serves_a_seller_that_keeps_its_vouchers() {
    let setting = Setting::start().await;
    let (_facilitator, url) = official_facilitator(&setting).await;
    let seller = ChannelSeller::open(&url).await;
    seller.sell_to_official_clients(&setting).await;
}

/// The official facilitator for channels, and its address.
async fn official_facilitator(setting: &Setting) -> (Child, String) {
    let mut command = super::node_in("", "facilitator.mjs");
    let signer = &Setting::signers()[0].key;
    command
        .arg(setting.local.url())
        .env("FACILITATOR_SIGNER", signer);
    super::serving(command).await
}

/// A setting whose seller charges at most its price, and whose facilitator settles both schemes.
async fn upto_town() -> EvmTown {
    let setting = Setting::start().await;
    let buyer = Setting::buyer().address;
    setting.local.approve_permit2(USDC, buyer).await.unwrap();
    let evm = Evm::new(setting.config()).unwrap();
    let schemes = vec![
        Arc::new(Exact::new(&evm)) as _,
        Arc::new(Upto::new(&evm)) as _,
    ];
    let builder = setting.builder().await.chain(evm, schemes);
    let seller = Setting::seller().address.to_string();
    let offer = || UptoOffer::usdc("base-sepolia", "0.01", &seller).unwrap();
    let town = Town::new(builder.start().await.unwrap(), offer).await;
    EvmTown { setting, town }
}

/// What a handler charges of a price of 10,000, and what is settled.
const CHARGES: [(&str, &str); 4] = [
    ("1500", "1500"),
    ("12.34%25", "1234"),
    ("$0.002", "2000"),
    ("0", "0"),
];

/// The sum of [`CHARGES`].
const CHARGED: u64 = 4_734;

#[tokio::test(flavor = "multi_thread")]
async fn official_client_pays_our_seller_what_it_charges() {
    let town = upto_town().await;
    let shop = &town.town.shop;
    let urls = CHARGES.map(|(charge, _)| format!("{shop}/metered/{charge}"));
    let bought = buy(&Setting::buyer(), &urls).await;
    for ((_, amount), bought) in CHARGES.iter().zip(&bought) {
        assert_eq!(bought["status"], 200, "{bought}");
        let receipt = &bought["receipt"];
        assert_eq!(
            (&receipt["success"], &receipt["amount"]),
            (&json!(true), &json!(amount))
        );
    }
    let goods = [format!("{shop}/goods")];
    let whole = &buy(&Setting::buyer(), &goods).await[0];
    assert_eq!(whole["receipt"]["amount"], json!(PRICE.to_string()));
    let unapproved = &buy(&Local::accounts()[4], &goods).await[0];
    assert_eq!(
        (&unapproved["status"], &unapproved["terms"]["error"]),
        (&json!(412), &json!("permit2_allowance_required")),
        "{unapproved}"
    );
    assert_eq!(town.setting.received().await, Amount::from(CHARGED + PRICE));
}

#[tokio::test(flavor = "multi_thread")]
async fn official_server_charges_both_clients_less() {
    let town = upto_town().await;
    let (_server, url) = server(&town.town.facilitator).await;
    let urls = CHARGES.map(|(charge, _)| format!("{url}/metered?charge={charge}"));
    let payer = UptoPayer::new(Setting::buyer().signer);
    let buyer = Buyer::builder().payer(payer).build().unwrap();
    let bought = buy(&Setting::buyer(), &urls).await;
    for (at, (_, amount)) in CHARGES.iter().enumerate() {
        let official = &bought[at]["receipt"];
        assert_eq!(official["amount"], json!(amount), "{:?}", bought[at]);
        let ours = buyer.get(&urls[at]).await.unwrap();
        let cost = ours.cost.unwrap();
        assert_eq!(cost.charged.unwrap().to_string(), *amount);
        assert_eq!(cost.amount, Amount::from(PRICE));
        let receipt = cost.receipt.unwrap();
        assert!(receipt.success, "{receipt:?}");
    }
    assert_eq!(town.setting.received().await, Amount::from(2 * CHARGED));
}

/// Accounts that have not approved Permit2. None of them sends a transaction here.
fn unapproved() -> [Account; 2] {
    let [.., first, second, _, _, _, _] = &Local::accounts()[..] else {
        unreachable!("ten accounts")
    };
    [first.clone(), second.clone()]
}

/// A seller whose payments are held by this method, or charged at once.
async fn hold_town(method: TransferMethod, at_once: bool) -> EvmTown {
    let setting = Setting::start().await;
    let buyer = Setting::buyer().address;
    setting.local.approve_permit2(USDC, buyer).await.unwrap();
    let evm = Evm::new(setting.config()).unwrap();
    let schemes = vec![Arc::new(AuthCapture::new(&evm)) as _];
    let builder = setting.builder().await.chain(evm, schemes);
    let seller = Setting::seller().address.to_string();
    let network = known::network("base-sepolia").unwrap();
    let token = known::token(network.id(), "USDC").unwrap().clone();
    let token = token.with_method(method);
    let offer = AuthCaptureOffer::new(network, token, "0.01", &seller).unwrap();
    let offer = offer.with_authorizer(PrivateKeySigner::random());
    let offer = match at_once {
        true => offer.at_once(),
        false => offer,
    };
    let town = Town::new(builder.start().await.unwrap(), || offer.clone()).await;
    EvmTown { setting, town }
}

/// By both methods, and in both flows.
#[tokio::test(flavor = "multi_thread")]
async fn official_client_pays_our_seller_by_a_hold() {
    for (method, at_once) in [
        (TransferMethod::Eip3009, false),
        (TransferMethod::Permit2, false),
        (TransferMethod::Eip3009, true),
    ] {
        let town = hold_town(method, at_once).await;
        let shop = &town.town.shop;
        let urls = ["goods", "metered/1500", "broken"].map(|path| format!("{shop}/{path}"));
        let bought = buy(&Setting::buyer(), &urls).await;
        for (bought, amount) in bought.iter().zip(["10000", "1500"]) {
            assert_eq!(bought["status"], 200, "{bought}");
            let receipt = &bought["receipt"];
            assert_eq!(
                (&receipt["success"], &receipt["amount"]),
                (&json!(true), &json!(amount))
            );
        }
        assert_eq!(bought[2]["status"], 418, "{}", bought[2]);
        assert_eq!(town.setting.received().await, Amount::from(11_500_u64));
        let held = town.setting.local.balance(USDC, AUTH_CAPTURE_ESCROW).await;
        assert_eq!(held.unwrap(), U256::ZERO);
    }
}

/// What the official client gets, which asks this node for the allowance of Permit2.
async fn buy_with_node(payer: &Account, node: &str, urls: &[String]) -> Vec<Value> {
    official_client(&[("PAYER_KEY", &payer.key), ("EVM_RPC", node)], urls).await
}

fn assert_allowance_required(answer: &Value) {
    assert_eq!(
        (&answer["status"], &answer["terms"]["error"]),
        (&json!(412), &json!("permit2_allowance_required")),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn official_client_signs_the_approval_that_we_offer() {
    for town in [permit2_town().await, upto_town().await] {
        let goods = [format!("{}/goods", town.town.shop)];
        let [payer, without_node] = unapproved();
        let bought = &buy_with_node(&payer, town.setting.local.url(), &goods).await[0];
        assert_eq!(
            (&bought["status"], &bought["receipt"]["success"]),
            (&json!(200), &json!(true)),
            "{bought}"
        );
        assert_eq!(town.setting.sent(payer.address).await, 0);
        assert_allowance_required(&buy(&without_node, &goods).await[0]);
        assert_eq!(town.setting.received().await, Amount::from(PRICE));
    }
}

/// For a token without signed approvals, the official client signs the transaction that approves.
/// Its account has no coin.
#[tokio::test(flavor = "multi_thread")]
async fn official_client_signs_the_approval_that_we_send() {
    let setting = Setting::start().await;
    let network = known::network("base-sepolia").unwrap();
    let usdc = known::token(network.id(), "USDC").unwrap().clone();
    let token = usdc
        .with_method(TransferMethod::Permit2)
        .with_eip2612(false);
    let mut config = setting.config();
    config.tokens = vec![token.clone()];
    let most = U256::from(10_u64.pow(15));
    config.approval_gas = Some(ApprovalGas::new(most, most));
    let evm = Evm::new(config).unwrap();
    let schemes = vec![Arc::new(Exact::new(&evm)) as _];
    let builder = setting.builder().await.chain(evm, schemes);
    let seller = Setting::seller().address.to_string();
    let offer = || ExactOffer::new(network.clone(), token.clone(), "0.01", &seller).unwrap();
    let town = Town::new(builder.start().await.unwrap(), offer).await;
    let goods = format!("{}/goods", town.shop);
    let [payer, _] = unapproved();
    let no_coin = (payer.address, "0x0");
    let _: Value = setting
        .local
        .rpc("anvil_setBalance", no_coin)
        .await
        .unwrap();
    let node = setting.local.url();
    for bought in buy_with_node(&payer, node, &[goods.clone(), goods]).await {
        assert_eq!(
            (&bought["status"], &bought["receipt"]["success"]),
            (&json!(200), &json!(true)),
            "{bought}"
        );
    }
    assert_eq!(setting.sent(payer.address).await, 1);
    assert_eq!(setting.received().await, Amount::from(2 * PRICE));
}

#[tokio::test(flavor = "multi_thread")]
async fn official_server_offers_approvals_to_both_clients() {
    let town = upto_town().await;
    let (_server, url) = server(&town.town.facilitator).await;
    let node = town.setting.local.url();
    let network = known::network("base-sepolia").unwrap();
    let [ours, theirs] = unapproved();
    let nodes = [node.parse().unwrap()];
    let exact = ExactPayer::new(ours.signer.clone()).with_rpc(&network, &nodes);
    let upto = UptoPayer::new(ours.signer.clone()).with_rpc(&network, &nodes);
    let buyer = Buyer::builder().payer(exact.unwrap()).payer(upto.unwrap());
    let buyer = buyer.build().unwrap();
    let urls = [
        format!("{url}/approved"),
        format!("{url}/approved/metered?charge=1500"),
    ];
    for bought in buy_with_node(&theirs, node, &urls).await {
        assert_eq!(
            (&bought["status"], &bought["receipt"]["success"]),
            (&json!(200), &json!(true)),
            "{bought}"
        );
    }
    for url in &urls {
        let bought = buyer.get(url).await.unwrap();
        assert!(bought.cost.unwrap().receipt.unwrap().success);
    }
    assert_eq!(
        town.setting.received().await,
        Amount::from(2 * (PRICE + 1_500))
    );
    for payer in unapproved() {
        assert_eq!(town.setting.sent(payer.address).await, 0);
    }
    // Without a node, neither of them can know the nonce of an approval.
    let without_node = Buyer::builder().payer(ExactPayer::new(ours.signer.clone()));
    match without_node.build().unwrap().get(&urls[0]).await {
        Err(BuyError::Refused { reason, .. }) => assert_eq!(reason, "permit2_allowance_required"),
        other => panic!("{other:?}"),
    }
    assert_allowance_required(&buy(&theirs, &urls[..1]).await[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_client_understands_our_refusals() {
    let town = town().await;
    let (goods, broken) = (
        format!("{}/goods", town.town.shop),
        format!("{}/broken", town.town.shop),
    );
    // An account that has spent its money.
    let poor = Local::accounts()[4].clone();
    let all = town
        .setting
        .local
        .balance(USDC, poor.address)
        .await
        .unwrap();
    alloy::sol! { function transfer(address to, uint256 amount) external returns (bool); }
    let gone = transferCall {
        to: Setting::buyer().address,
        amount: all,
    };
    let call = alloy::sol_types::SolCall::abi_encode(&gone);
    town.setting
        .local
        .send(poor.address, USDC, call)
        .await
        .unwrap();
    let refused = &buy(&poor, std::slice::from_ref(&goods)).await[0];
    assert_eq!(refused["status"], 402, "{refused}");
    assert_eq!(
        refused["terms"]["error"],
        "invalid_exact_evm_insufficient_balance"
    );

    let failed = &buy(&Setting::buyer(), &[broken]).await[0];
    assert_eq!(
        (&failed["status"], &failed["receipt"]["success"]),
        (&json!(418), &json!(false)),
        "{failed}"
    );

    // A facilitator without its chain gives no verdict, and the client gets none.
    town.setting
        .node
        .breaks_for_good("eth_call", Fate::Status(500));
    let unknown = &buy(&Setting::buyer(), &[goods]).await[0];
    assert_eq!(unknown["status"], 503, "{unknown}");
    assert_eq!(town.setting.received().await, Amount::ZERO);
}

#[tokio::test(flavor = "multi_thread")]
async fn our_buyer_pays_the_official_server() {
    let town = town().await;
    let (_server, url) = server(&town.town.facilitator).await;
    for (path, goods) in [
        ("/goods", json!({ "goods": true })),
        ("/upfront", json!({ "goods": "upfront" })),
    ] {
        let bought = buyer().get(&format!("{url}{path}")).await.unwrap();
        let cost = bought.cost.unwrap();
        assert_eq!(cost.amount, Amount::from(PRICE));
        assert!(cost.receipt.unwrap().success);
        assert_eq!(bought.response.json::<Value>().await.unwrap(), goods);
    }
    assert_eq!(town.setting.received().await, Amount::from(2 * PRICE));
}

#[tokio::test(flavor = "multi_thread")]
async fn our_buyer_understands_the_official_servers_refusals() {
    let town = town().await;
    let (_server, url) = server(&town.town.facilitator).await;
    let broken = buyer().get(&format!("{url}/broken")).await.unwrap();
    assert_eq!(broken.response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let penniless = ExactPayer::new(PrivateKeySigner::random());
    let poor = Buyer::builder().payer(penniless).build().unwrap();
    match poor.get(&format!("{url}/goods")).await {
        Err(BuyError::Refused { reason, .. }) => {
            assert_eq!(reason, "invalid_exact_evm_insufficient_balance")
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(town.setting.received().await, Amount::ZERO);
}

#[tokio::test(flavor = "multi_thread")]
async fn official_client_and_server_use_our_facilitator() {
    let town = town().await;
    let (_server, url) = server(&town.town.facilitator).await;
    let bought = buy(
        &Setting::buyer(),
        &[format!("{url}/goods"), format!("{url}/upfront")],
    )
    .await;
    for answer in &bought {
        assert_eq!(
            (&answer["status"], &answer["receipt"]["success"]),
            (&json!(200), &json!(true)),
            "{answer}"
        );
    }
    assert_eq!(town.setting.received().await, Amount::from(2 * PRICE));
}

/// The official server asks once more about a pending settlement, and must then get the outcome of
/// the first request.
#[tokio::test(flavor = "multi_thread")]
async fn official_server_gets_the_outcome_of_a_pending_payment() {
    let town = town_that_waits(Duration::from_millis(1_500)).await;
    let (_server, url) = server(&town.town.facilitator).await;
    town.setting
        .local
        .set_mining(quittance_devnet::Mining::Manual)
        .await
        .unwrap();
    let goods = format!("{url}/goods");
    let buying = tokio::spawn(async move { buyer().get(&goods).await.unwrap() });
    // After the first answer, before the second.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    town.setting.local.mine().await.unwrap();
    let bought = buying.await.unwrap();
    assert_eq!(bought.response.status(), StatusCode::OK);
    assert!(bought.cost.unwrap().receipt.unwrap().success);
    assert_eq!(town.setting.received().await, Amount::from(PRICE));
    assert_eq!(town.setting.sent(Setting::signers()[0].address).await, 1);
}
