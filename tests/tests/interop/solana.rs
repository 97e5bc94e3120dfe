//! Clients and servers of other projects on Solana, with a token of each token program.

use quittance_buyer::{BuyError, Buyer};
use quittance_core::Amount;
use quittance_engine::SETTLE_WAIT;
use quittance_solana::{Blockhashes, ExactOffer, ExactPayer, Keypair, TokenProgram};
use quittance_tests::proxy::Fate;
use quittance_tests::solana::{PRICE, SLOT, Setting};
use serde_json::{Value, json};
use tokio::process::Child;

use super::{Town, official_client, official_server};

const BOTH: [TokenProgram; 2] = [TokenProgram::SplToken, TokenProgram::Token2022];

pub(crate) struct SolanaTown {
    pub(crate) setting: Setting,
    pub(crate) town: Town,
}

pub(crate) fn seller() -> String {
    Setting::account(2).address.to_string()
}

pub(crate) async fn town(program: TokenProgram) -> SolanaTown {
    town_with(program, |_, offer| offer).await
}

/// The setting with another offer of our seller.
async fn town_with(
    program: TokenProgram,
    change: impl Fn(&Setting, ExactOffer) -> ExactOffer,
) -> SolanaTown {
    let setting = Setting::start(program, Some(SLOT)).await;
    let engine = setting.engine(SETTLE_WAIT).await;
    let town = Town::new(engine, || change(&setting, setting.offer())).await;
    SolanaTown { setting, town }
}

impl SolanaTown {
    /// The result of the official client for each URL. This keypair pays.
    async fn buy(&self, key: &str, urls: &[String]) -> Vec<Value> {
        self.buy_by(self.setting.local.url(), key, urls).await
    }

    /// As [`buy`](Self::buy), with this node.
    async fn buy_by(&self, node: &str, key: &str, urls: &[String]) -> Vec<Value> {
        let environment = [("SOLANA_PAYER_KEY", key), ("SOLANA_RPC", node)];
        official_client(&environment, urls).await
    }

    /// The official server, and its URL.
    async fn server(&self) -> (Child, String) {
        self.server_with(&[]).await
    }

    /// As [`server`](Self::server), with more arguments.
    async fn server_with(&self, more: &[&str]) -> (Child, String) {
        let network = Setting::network();
        let (seller, mint) = (seller(), self.setting.token.mint.to_string());
        let arguments = [&*self.town.facilitator, network.id(), &seller, &mint];
        official_server(&[&arguments, more].concat()).await
    }

    pub(crate) fn buyer(&self) -> Buyer {
        let payer = self.setting.payer();
        Buyer::builder().payer(payer).build().unwrap()
    }

    /// A buyer whose payer has no node to ask.
    fn buyer_without_a_node(&self) -> Buyer {
        let payer = self.setting.payer_without_a_node();
        Buyer::builder().payer(payer).build().unwrap()
    }

    /// A buyer with a new keypair, which has no money.
    fn poor_buyer(&self) -> Buyer {
        let node = self.setting.local.url().parse().unwrap();
        let payer = ExactPayer::new(Keypair::new())
            .with_token(Setting::network().id(), self.setting.token.clone())
            .with_rpc(&Setting::network(), &[node])
            .unwrap();
        Buyer::builder().payer(payer).build().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_client_pays_our_seller() {
    for program in BOTH {
        let town = town(program).await;
        let goods = format!("{}/goods", town.town.shop);
        let buyer = Setting::account(3);
        let bought = town.buy(&buyer.key, &[goods.clone(), goods]).await;
        for answer in &bought {
            assert_eq!(
                (&answer["status"], &answer["body"]),
                (&json!(200), &json!("goods")),
                "{program}: {answer}"
            );
            let receipt = &answer["receipt"];
            assert_eq!(
                (&receipt["success"], &receipt["network"], &receipt["payer"]),
                (
                    &json!(true),
                    &json!(Setting::network().id()),
                    &json!(buyer.address.to_string())
                )
            );
        }
        assert_ne!(
            bought[0]["receipt"]["transaction"],
            bought[1]["receipt"]["transaction"]
        );
        assert_eq!(town.setting.received().await, Amount::from(2 * PRICE));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn official_client_uses_our_sellers_blockhash() {
    let hinting = |setting: &Setting, offer: ExactOffer| {
        let node = setting.local.url().parse().unwrap();
        offer.with_blockhashes(&Blockhashes::new(&[node]).unwrap())
    };
    for program in BOTH {
        let town = town_with(program, hinting).await;
        // The client's node answers requests for mints, and fails those for blockhashes.
        let node = &town.setting.node;
        node.breaks_for_good("getLatestBlockhash", Fate::Status(500));
        let goods = format!("{}/goods", town.town.shop);
        let key = Setting::account(3).key;
        let bought = &town.buy_by(node.url(), &key, &[goods]).await[0];
        assert_eq!(
            (&bought["status"], &bought["receipt"]["success"]),
            (&json!(200), &json!(true)),
            "{program}: {bought}"
        );
        assert_eq!(node.calls("getLatestBlockhash"), 0);
        assert_eq!(town.setting.received().await, Amount::from(PRICE));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn our_buyer_uses_the_official_servers_blockhash() {
    for program in BOTH {
        let town = town(program).await;
        let node = town.setting.local.url();
        let (_server, url) = town.server_with(&[node]).await;
        for path in ["/goods", "/upfront"] {
            let buyer = town.buyer_without_a_node();
            let bought = buyer.get(&format!("{url}{path}")).await.unwrap();
            assert!(bought.cost.unwrap().receipt.unwrap().success, "{program}");
        }
        assert_eq!(town.setting.received().await, Amount::from(2 * PRICE));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_client_understands_our_refusals() {
    for program in BOTH {
        let town = town(program).await;
        let goods = format!("{}/goods", town.town.shop);
        let broken = format!("{}/broken", town.town.shop);
        let poor = Keypair::new().to_base58_string();
        let refused = &town.buy(&poor, std::slice::from_ref(&goods)).await[0];
        assert_eq!(refused["status"], 402, "{refused}");
        assert_eq!(
            refused["terms"]["error"],
            "invalid_exact_svm_transaction_simulation_failed"
        );

        let rich = Setting::account(3).key;
        let failed = &town.buy(&rich, &[broken]).await[0];
        assert_eq!(
            (&failed["status"], &failed["receipt"]["success"]),
            (&json!(418), &json!(false)),
            "{failed}"
        );

        // A facilitator that cannot reach its chain returns no verdict, so the seller has none.
        let down = Fate::Status(500);
        let node = &town.setting.node;
        node.breaks_for_good("getMultipleAccounts", down);
        let unknown = &town.buy(&rich, &[goods]).await[0];
        assert_eq!(unknown["status"], 503, "{unknown}");
        assert_eq!(town.setting.received().await, Amount::ZERO);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn our_buyer_pays_the_official_server() {
    for program in BOTH {
        let town = town(program).await;
        let (_server, url) = town.server().await;
        for (path, goods) in [
            ("/goods", json!({ "goods": true })),
            ("/upfront", json!({ "goods": "upfront" })),
        ] {
            let bought = town.buyer().get(&format!("{url}{path}")).await.unwrap();
            let cost = bought.cost.unwrap();
            assert_eq!(cost.amount, Amount::from(PRICE));
            assert!(cost.receipt.unwrap().success);
            assert_eq!(bought.response.json::<Value>().await.unwrap(), goods);
        }
        assert_eq!(town.setting.received().await, Amount::from(2 * PRICE));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn our_buyer_understands_the_official_servers_refusals() {
    for program in BOTH {
        let town = town(program).await;
        let (_server, url) = town.server().await;
        let broken = town.buyer().get(&format!("{url}/broken")).await.unwrap();
        assert_eq!(broken.response.status(), 500);
        match town.poor_buyer().get(&format!("{url}/goods")).await {
            Err(BuyError::Refused { reason, .. }) => {
                assert_eq!(reason, "invalid_exact_svm_transaction_simulation_failed")
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(town.setting.received().await, Amount::ZERO);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn official_client_and_server_use_our_facilitator() {
    for program in BOTH {
        let town = town(program).await;
        let (_server, url) = town.server().await;
        let urls = [format!("{url}/goods"), format!("{url}/upfront")];
        for answer in town.buy(&Setting::account(3).key, &urls).await {
            assert_eq!(
                (&answer["status"], &answer["receipt"]["success"]),
                (&json!(200), &json!(true)),
                "{program}: {answer}"
            );
        }
        assert_eq!(town.setting.received().await, Amount::from(2 * PRICE));
    }
}
