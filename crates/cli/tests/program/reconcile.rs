//! The books against the chain: every planted difference is found, and nothing else.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

use alloy::primitives::{Address, U256};
use serde_json::{Value, json};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection};

use super::*;

impl Place {
    fn journal(&self) -> PathBuf {
        self.folder.path().join("journal.db")
    }

    /// Changes the journal by hand, as a fault of the program or a person would.
    pub(super) async fn alter(&self, statements: &[&str]) {
        let path = self.journal();
        let options = SqliteConnectOptions::from_str(&format!("sqlite:{}", path.display()));
        let options = options.unwrap().foreign_keys(false);
        let mut connection: SqliteConnection = options.connect().await.unwrap();
        for statement in statements {
            let statement = sqlx::AssertSqlSafe((*statement).to_owned());
            let changed = sqlx::raw_sql(statement).execute(&mut connection).await;
            assert!(changed.unwrap().rows_affected() > 0);
        }
        connection.close().await.unwrap();
    }

    pub(super) async fn block(&self) -> u64 {
        let block: Value = self.evm.rpc("eth_blockNumber", ()).await.unwrap();
        u64::from_str_radix(&block.as_str().unwrap()[2..], 16).unwrap()
    }

    /// The exit code, and the printed objects.
    pub(super) async fn reconcile(&self, from: u64, more: &[&str]) -> (Option<i32>, Vec<Value>) {
        let from = from.to_string();
        let mut arguments = vec!["reconcile", "--from", &from, "--to", "newest", "--json"];
        arguments.extend(more);
        let (code, printed, log) = output(self.command(&arguments)).await;
        let lines = printed.lines().map(serde_json::from_str);
        let lines: Result<Vec<Value>, _> = lines.collect();
        (code, lines.unwrap_or_else(|_| panic!("{printed}{log}")))
    }

    /// Settles a payment, and returns its settlement and its transaction.
    pub(super) async fn settle(&self, serving: &Serving) -> (String, String) {
        self.settle_request(serving, &payment().await).await
    }

    pub(super) async fn settle_request(
        &self,
        serving: &Serving,
        request: &PaymentRequest,
    ) -> (String, String) {
        let answer = serving.post("/settle", request).await;
        assert_eq!(answer["success"], true, "{answer}");
        let transaction = answer["transaction"].as_str().unwrap().to_owned();
        let settlement = answer["extra"]["settlement"].as_str().unwrap().to_owned();
        (settlement, transaction)
    }
}

impl Serving {
    pub(super) async fn stop(mut self) {
        self.signal("-TERM");
        self.child.wait().await.unwrap();
    }
}

/// The objects of this type.
fn of_type<'a>(lines: &'a [Value], name: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["type"] == name).collect()
}

/// The kinds of the differences, each with its transaction.
pub(super) fn kinds(lines: &[Value]) -> BTreeMap<(String, String), usize> {
    let mut kinds = BTreeMap::new();
    for line in of_type(lines, "difference") {
        let field = |name: &str| line[name].as_str().unwrap().to_owned();
        *kinds
            .entry((field("kind"), field("transaction")))
            .or_default() += 1;
    }
    kinds
}

/// A transfer of the token by its owner.
fn transfer(to: Address, amount: u64) -> Vec<u8> {
    let words = [to.into_word().0, U256::from(amount).to_be_bytes::<32>()];
    let selector = [0xa9, 0x05, 0x9c, 0xbb];
    [selector.as_slice(), words.concat().as_slice()].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_difference_is_found_and_nothing_else() {
    let place = Place::new().await;
    let from = place.block().await + 1;
    let serving = place.serve().await;
    let kept = place.settle(&serving).await;
    let unbooked = place.settle(&serving).await;
    let unknown = place.settle(&serving).await;
    let altered = place.settle(&serving).await;

    // The facilitator runs, and its books match.
    let (code, lines) = place.reconcile(from, &["--payments"]).await;
    assert_eq!(
        (code, kinds(&lines)),
        (Some(0), BTreeMap::new()),
        "{lines:?}"
    );
    let totals = of_type(&lines, "totals")[0];
    let seller = Evm::accounts()[1].address.to_string();
    assert_eq!(totals["transactions"], 4);
    assert_eq!(totals["by_recipient"][0]["name"], json!(seller));
    assert_eq!(totals["by_recipient"][0]["payments"], 4);
    assert_eq!(totals["gas_without_payment"], "0");
    assert_eq!(of_type(&lines, "gas").len(), 4);
    let number = |value: &Value| value.as_str().unwrap().parse::<u128>().unwrap();
    let shares = of_type(&lines, "gas")
        .into_iter()
        .map(|line| number(&line["gas"]));
    assert_eq!(shares.sum::<u128>(), number(&totals["gas"]));
    assert!(number(&totals["gas"]) > 0);

    // The chain takes the last payment back.
    let before: Value = place.evm.rpc("evm_snapshot", ()).await.unwrap();
    let taken_back = place.settle(&serving).await;
    serving.stop().await;
    let reverted: bool = place.evm.rpc("evm_revert", (before,)).await.unwrap();
    assert!(reverted);
    // Someone else pays with the signer's key, in the token and in the chain's own coin.
    let (signer, thief) = (Evm::accounts()[0].address, Evm::accounts()[9].address);
    place.evm.mint(USDC, signer, U256::from(9)).await.unwrap();
    let token = json!({ "from": signer, "to": USDC,
        "data": format!("0x{}", alloy::hex::encode(transfer(thief, 9))) });
    let token: String = place
        .evm
        .rpc("eth_sendTransaction", (token,))
        .await
        .unwrap();
    let coin = json!({ "from": signer, "to": thief, "value": "0x7" });
    let coin: String = place.evm.rpc("eth_sendTransaction", (coin,)).await.unwrap();
    // The row of one payment is deleted, that of another with its transaction, and one is altered.
    let of = |table: &str, column: &str, id: &str| {
        format!("DELETE FROM {table} WHERE {column} = '{id}'")
    };
    let settlement = |id: &str| format!("DELETE FROM settlements WHERE id = x'{id}'");
    let link = |id: &str| format!("DELETE FROM settlement_transactions WHERE settlement = x'{id}'");
    place
        .alter(&[
            &link(&unbooked.0),
            &settlement(&unbooked.0),
            &link(&unknown.0),
            &settlement(&unknown.0),
            &of("transactions", "id", &unknown.1),
            &format!(
                "UPDATE settlements SET settled_amount = '9999' WHERE id = x'{}'",
                altered.0
            ),
        ])
        .await;
    // A later block than the journal's last row.
    tokio::time::sleep(Duration::from_secs(2)).await;
    place.evm.mine().await.unwrap();

    let (code, lines) = place.reconcile(from, &[]).await;
    let expected = [
        ("moved_not_booked", &unbooked.1),
        ("moved_not_booked", &unknown.1),
        ("amount_differs", &altered.1),
        ("booked_not_moved", &taken_back.1),
        ("foreign_transfer", &token),
        ("foreign_transfer", &coin),
    ];
    let expected = expected.map(|(kind, id)| ((kind.to_owned(), id.clone()), 1));
    assert_eq!(kinds(&lines), BTreeMap::from(expected), "{lines:#?}");
    assert_eq!(code, Some(1));
    let of_settlement = |id: &str| {
        let found = lines.iter().find(|line| line["settlement"] == id);
        found.cloned().unwrap_or_default()
    };
    assert_eq!(of_settlement(&altered.0)["booked"], "9999");
    assert_eq!(of_settlement(&altered.0)["moved"], "10000");
    assert_eq!(of_settlement(&taken_back.0)["block"], Value::Null);
    assert_eq!(of_settlement(&kept.0), Value::Null);
}

/// A node that does not answer is no proof that nothing moved.
#[tokio::test(flavor = "multi_thread")]
async fn what_nodes_do_not_say_is_unknown() {
    let place = Place::new().await;
    let serving = place.serve().await;
    place.settle(&serving).await;
    serving.stop().await;
    let text = std::fs::read_to_string(place.config()).unwrap();
    let text = text.replace(place.evm.url(), "http://127.0.0.1:9");
    std::fs::write(place.config(), text).unwrap();
    let (code, lines) = place.reconcile(0, &[]).await;
    assert_eq!(code, Some(2), "{lines:?}");
    assert!(of_type(&lines, "difference").is_empty(), "{lines:?}");
    assert_eq!(of_type(&lines, "unknown").len(), 1, "{lines:?}");
}

/// On Solana: a row is deleted with its transaction, one is altered, and one was never included.
#[tokio::test(flavor = "multi_thread")]
async fn differences_on_solana_are_found() {
    let place = Place::new().await;
    let (local, entry) = solana().await;
    place.append(&entry);
    let serving = place.serve().await;
    let mut settled = Vec::new();
    for _ in 0..4 {
        let request = solana_payment(&serving, &local).await;
        settled.push(place.settle_request(&serving, &request).await);
    }
    let on_solana = ["--network", SOLANA_DEVNET];
    let (code, lines) = place.reconcile(0, &on_solana).await;
    assert_eq!(
        (code, kinds(&lines)),
        (Some(0), BTreeMap::new()),
        "{lines:#?}"
    );
    let totals = of_type(&lines, "totals")[0];
    assert_eq!(totals["transactions"], 4, "{totals}");
    // Two signatures cost 10,000 lamports, and the payer sets a priority fee.
    let gas: u64 = totals["gas"].as_str().unwrap().parse().unwrap();
    assert!((40_000..120_000).contains(&gas), "{totals}");
    serving.stop().await;

    let [deleted, altered, absent, _] = &settled[..] else {
        panic!("{settled:?}")
    };
    // A signature that no block has.
    let nowhere = "1".repeat(64);
    place
        .alter(&[
            &format!(
                "DELETE FROM settlement_transactions WHERE settlement = x'{}'",
                deleted.0
            ),
            &format!("DELETE FROM settlements WHERE id = x'{}'", deleted.0),
            &format!("DELETE FROM transactions WHERE id = '{}'", deleted.1),
            &format!(
                "UPDATE settlements SET settled_amount = '1' WHERE id = x'{}'",
                altered.0
            ),
            &format!(
                "UPDATE settlements SET transaction_id = '{nowhere}' WHERE id = x'{}'",
                absent.0
            ),
        ])
        .await;
    local.mine(10).await.unwrap();
    let (code, lines) = place.reconcile(0, &on_solana).await;
    let expected = [
        ("moved_not_booked", &deleted.1),
        ("amount_differs", &altered.1),
        ("booked_not_moved", &nowhere),
        ("moved_twice", &absent.1),
    ];
    let expected = expected.map(|(kind, id)| ((kind.to_owned(), id.clone()), 1));
    assert_eq!(kinds(&lines), BTreeMap::from(expected), "{lines:#?}");
    assert_eq!(code, Some(1));
}
