//! Other clients and servers in use: the Python SDK, axios and Hono, the packages of version 1, and
//! those of other authors. Each client buys from our seller, and each server sells to our buyer.
//! Our facilitator serves all.

use std::path::Path;
use std::process::Stdio;

use quittance_buyer::Buyer;
use quittance_core::Amount;
use quittance_solana::TokenProgram;
use quittance_tests::evm::{PRICE, Setting};
use quittance_tests::solana::Setting as SolanaSetting;
use serde_json::{Value, json};
use tokio::process::Command;

use super::{KEY, evm, lines_of, node_in, python, python_tool, serving, solana};

/// A script of `tests/interop`, with its first arguments.
type Script = &'static [&'static str];

/// Clients that buy on an EVM chain. Each supports one version of the protocol or both.
const EVM_CLIENTS: [Script; 5] = [
    &["python/client.py", "httpx"],
    &["python/client.py", "requests"],
    &["axios.mjs"],
    &["v1/client.mjs", "fetch"],
    &["v1/client.mjs", "axios"],
];

/// Servers that sell on an EVM chain, with the name they have for Base Sepolia.
const EVM_SERVERS: [(Script, &str); 5] = [
    (&["python/server.py", "fastapi"], "eip155:84532"),
    (&["python/server.py", "flask"], "eip155:84532"),
    (&["hono.mjs"], "eip155:84532"),
    (&["v1/server.mjs", "express"], "base-sepolia"),
    (&["v1/server.mjs", "hono"], "base-sepolia"),
];

const SOLANA_CLIENTS: [Script; 2] = [
    &["python/client.py", "httpx"],
    &["python/client.py", "requests"],
];

const SOLANA_SERVERS: [Script; 2] = [
    &["python/server.py", "fastapi"],
    &["python/server.py", "flask"],
];

/// The interpreter of a script: Node, or the Python of its folder.
fn run(script: Script) -> Command {
    let (script, arguments) = script.split_first().expect("a script's name");
    let path = Path::new(script);
    let folder = path.parent().unwrap().to_str().unwrap();
    let name = path.file_name().unwrap().to_str().unwrap();
    let mut command = match path.extension().and_then(|extension| extension.to_str()) {
        Some("py") => python(name),
        _ => node_in(folder, name),
    };
    command.args(arguments);
    command
}

/// What a client gets for each URL.
async fn buy(client: Script, environment: &[(&str, &str)], urls: &[String]) -> Vec<Value> {
    let mut command = run(client);
    command.args(urls).envs(environment.iter().copied());
    lines_of(command).await
}

/// Two purchases by a client: both are served, in two transactions.
fn assert_bought_twice(client: Script, bought: &[Value]) {
    for answer in bought {
        let goods = (&answer["status"], &answer["body"]);
        assert_eq!(
            goods,
            (&json!(200), &json!("goods")),
            "{client:?}: {answer}"
        );
        assert_eq!(answer["receipt"]["success"], true, "{client:?}: {answer}");
    }
    assert_eq!(bought.len(), 2, "{client:?}");
    let [first, second] = [0, 1].map(|at| &bought[at]["receipt"]["transaction"]);
    assert_ne!(first, second, "{client:?}");
}

/// Our buyer gets what a server sells.
async fn assert_sells(server: Script, arguments: &[&str], buyer: &Buyer) {
    let mut command = run(server);
    command.args(arguments).env("FACILITATOR_KEY", KEY);
    let (_running, url) = serving(command).await;
    let bought = buyer.get(&format!("{url}/goods")).await.unwrap();
    let cost = bought.cost.unwrap();
    assert_eq!(cost.amount, Amount::from(PRICE), "{server:?}");
    assert!(cost.receipt.unwrap().success, "{server:?}");
    let goods: Value = bought.response.json().await.unwrap();
    assert_eq!(goods, json!({ "goods": true }), "{server:?}");
}

async fn evm_clients_buy(clients: &[Script]) {
    let town = evm::town().await;
    let goods = format!("{}/goods", town.town.shop);
    for (already, client) in (0_u64..).zip(clients) {
        let key = Setting::buyer().key;
        let bought = buy(
            client,
            &[("PAYER_KEY", &key)],
            &[goods.clone(), goods.clone()],
        )
        .await;
        assert_bought_twice(client, &bought);
        let received = Amount::from(2 * (already + 1) * PRICE);
        assert_eq!(town.setting.received().await, received, "{client:?}");
    }
}

async fn solana_clients_buy(clients: &[Script]) {
    let town = solana::town(TokenProgram::SplToken).await;
    let goods = format!("{}/goods", town.town.shop);
    let (key, mint) = (
        SolanaSetting::account(3).key,
        town.setting.token.mint.to_string(),
    );
    let environment = [
        ("SOLANA_PAYER_KEY", &*key),
        ("SOLANA_RPC", town.setting.local.url()),
        ("SOLANA_MINT", &mint),
    ];
    for (already, client) in (0_u64..).zip(clients) {
        let bought = buy(client, &environment, &[goods.clone(), goods.clone()]).await;
        assert_bought_twice(client, &bought);
        let received = Amount::from(2 * (already + 1) * PRICE);
        assert_eq!(town.setting.received().await, received, "{client:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_buys_from_our_seller_on_evm() {
    evm_clients_buy(&EVM_CLIENTS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_buys_from_our_seller_on_solana() {
    solana_clients_buy(&SOLANA_CLIENTS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_server_sells_to_our_buyer_on_evm() {
    let town = evm::town().await;
    let seller = Setting::seller().address.to_string();
    for (server, network) in EVM_SERVERS {
        let arguments = [&*town.town.facilitator, network, &seller];
        assert_sells(server, &arguments, &evm::buyer()).await;
    }
    let all = Amount::from(EVM_SERVERS.len() as u64 * PRICE);
    assert_eq!(town.setting.received().await, all);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_server_sells_to_our_buyer_on_solana() {
    let town = solana::town(TokenProgram::SplToken).await;
    let (seller, network) = (solana::seller(), SolanaSetting::network());
    let mint = town.setting.token.mint.to_string();
    for server in SOLANA_SERVERS {
        let arguments = [&*town.town.facilitator, network.id(), &seller, &mint];
        assert_sells(server, &arguments, &town.buyer()).await;
    }
    let all = Amount::from(SOLANA_SERVERS.len() as u64 * PRICE);
    assert_eq!(town.setting.received().await, all);
}

/// The packages of other authors take a gigabyte. `make interop` installs them and runs the ignored
/// tests.
mod slow {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "needs tests/interop/others: make interop"]
    async fn clients_of_other_authors_buy_on_evm() {
        evm_clients_buy(&[&["others/faremeter.mjs"]]).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "needs tests/interop/others: make interop"]
    async fn clients_of_other_authors_buy_on_solana() {
        solana_clients_buy(&[&["others/faremeter.mjs"], &["others/solana.mjs"]]).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "needs tests/interop/others: make interop"]
    async fn a_paid_tool_over_mcp_settles_through_our_facilitator() {
        let town = evm::town().await;
        let seller = Setting::seller().address.to_string();
        let mut command = run(&["others/mcp.mjs"]);
        command
            .args([&town.town.facilitator, &seller])
            .env("FACILITATOR_KEY", KEY)
            .env("PAYER_KEY", Setting::buyer().key);
        let bought = &lines_of(command).await[0];
        let answer = (
            &bought["status"],
            &bought["body"],
            &bought["receipt"]["success"],
        );
        assert_eq!(
            answer,
            (&json!(200), &json!("42"), &json!(true)),
            "{bought}"
        );
        assert_eq!(town.setting.received().await, Amount::from(PRICE));
    }
}

/// The checks of `x402-conformance`: a facilitator's `/supported`, and a seller's 402.
mod conformance {
    use super::*;

    /// Runs a check of the `x402conf` program. It must find no fault.
    async fn passes(check: &str, url: &str) {
        let mut command = python_tool("x402conf");
        let output = command
            .args([check, url, "--fail-on-error"])
            .env("X402C_FACILITATOR_AUTHORIZATION", format!("Bearer {KEY}"))
            .env("X402C_FACILITATOR_AUTH_HOST", "127.0.0.1")
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let wrong = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{check} {url}: {said}{wrong}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn our_facilitator_and_our_seller_pass_on_evm() {
        let town = evm::town().await;
        passes("live", &town.town.facilitator).await;
        passes("resource", &format!("{}/goods", town.town.shop)).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn our_facilitator_and_our_seller_pass_on_solana() {
        let town = solana::town(TokenProgram::SplToken).await;
        passes("live", &town.town.facilitator).await;
        passes("resource", &format!("{}/goods", town.town.shop)).await;
    }
}
