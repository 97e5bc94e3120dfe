//! `quittance pay` and `quittance payments` as a shell runs them, against servers of all kinds.
//! They need no chain, because a payer signs without one.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::path::PathBuf;
use std::process::{Output, Stdio};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use quittance_core::wire::header;
use quittance_devnet::Evm;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::process::Command;

async fn listen(app: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}

fn terms() -> Value {
    json!({ "scheme": "exact", "network": "eip155:84532", "amount": "10000",
        "asset": "0x036CbD53842c5426634e7929541eC2318f3dCF7e",
        "payTo": "0x70997970C51812dc3A010C7d01b50e0d17dc79C8", "maxTimeoutSeconds": 60,
        "extra": { "name": "USDC", "version": "2" } })
}

fn required(terms: &Value, error: &str) -> Response {
    let required = json!({ "x402Version": 2, "error": error, "accepts": [terms],
        "resource": { "url": "http://a.example/" } });
    let value = header::encode(&required);
    (
        StatusCode::PAYMENT_REQUIRED,
        [(header::PAYMENT_REQUIRED, value)],
    )
        .into_response()
}

fn with_receipt(answer: impl IntoResponse, receipt: &Value) -> Response {
    let value = header::encode(receipt);
    ([(header::PAYMENT_RESPONSE, value)], answer).into_response()
}

/// A server with these requirements, and this answer to a payment.
async fn shop(terms: Value, say: impl Fn() -> Response + Clone + Send + Sync + 'static) -> String {
    let answer = move |headers: HeaderMap| {
        let (terms, say) = (terms.clone(), say.clone());
        async move {
            match headers.contains_key(header::PAYMENT_SIGNATURE) {
                true => say(),
                false => required(&terms, "Payment required"),
            }
        }
    };
    listen(Router::new().fallback(any(answer))).await
}

/// A folder with a state file in it.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn state(&self) -> PathBuf {
        self.0.path().join("purchases.json")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quittance"));
        command
            .args(arguments)
            .arg("--state")
            .arg(self.state())
            .env("XDG_DATA_HOME", self.0.path())
            .env("QUITTANCE_PAYER_KEY", &Evm::accounts()[2].key)
            .env_remove("QUITTANCE_SOLANA_PAYER_KEY")
            .env_remove("RUST_LOG")
            .kill_on_drop(true);
        command
    }

    async fn run(&self, arguments: &[&str]) -> Ran {
        let Output {
            status,
            stdout,
            stderr,
        } = self.command(arguments).output().await.unwrap();
        Ran {
            code: status.code().unwrap(),
            printed: String::from_utf8(stdout).unwrap(),
            said: String::from_utf8(stderr).unwrap(),
        }
    }

    async fn pay(&self, url: &str, more: &[&str]) -> Ran {
        self.run(&[&["pay", url], more].concat()).await
    }
}

#[derive(Debug)]
struct Ran {
    code: i32,
    printed: String,
    said: String,
}

/// Each result has its own exit code, and a message with the cause and with advice.
#[tokio::test]
async fn each_result_has_its_code_and_message() {
    let goods = || "goods".into_response();
    let settled = json!({ "success": true, "transaction": "0xabc", "network": "eip155:84532" });
    let denied = json!({ "success": false, "errorReason": "insufficient_funds", "transaction": "",
        "network": "eip155:84532" });
    let pending = json!({ "success": false, "errorReason": "settlement_pending", "transaction": "0xabc",
        "network": "eip155:84532" });
    let lost = json!({ "success": false, "errorReason": "duplicate_settlement", "transaction": "0xabc",
        "network": "eip155:84532" });
    let changed = |field: &str, value: Value| {
        let mut terms = terms();
        terms[field] = value;
        terms
    };
    type Say = std::sync::Arc<dyn Fn() -> Response + Send + Sync>;
    let say = |answer: fn() -> Response, receipt: Option<&Value>| -> Say {
        let receipt = receipt.cloned();
        std::sync::Arc::new(move || match &receipt {
            Some(receipt) => with_receipt(answer(), receipt),
            None => answer(),
        })
    };
    let refused = || required(&terms(), "insufficient_funds");
    let broken = || StatusCode::INTERNAL_SERVER_ERROR.into_response();
    for (terms, say, code, printed, words) in [
        (
            terms(),
            say(goods, Some(&settled)),
            0,
            "goods",
            "paid 0.01 USDC on eip155:84532 to 0x70997970C51812dc3A010C7d01b50e0d17dc79C8 in transaction 0xabc",
        ),
        (
            terms(),
            say(goods, None),
            0,
            "goods",
            "the server sent no receipt",
        ),
        (
            changed("amount", json!("200000")),
            say(goods, None),
            4,
            "",
            "0.2 USDC is over the limit of 0.10",
        ),
        (
            changed("extra", json!({ "name": "USDC" })),
            say(goods, None),
            4,
            "",
            "extra.version is missing",
        ),
        (
            changed("network", json!("cosmos:hub")),
            say(goods, None),
            4,
            "",
            "no payer for this scheme and network",
        ),
        (
            terms(),
            say(refused, None),
            5,
            "",
            "run the same command again",
        ),
        (
            terms(),
            say(refused, Some(&denied)),
            5,
            "",
            "insufficient_funds",
        ),
        (
            terms(),
            say(refused, Some(&lost)),
            5,
            "",
            "look up the transaction",
        ),
        (
            terms(),
            say(refused, Some(&pending)),
            6,
            "",
            "run the same command again",
        ),
        (
            terms(),
            say(broken, None),
            8,
            "",
            "the server answered HTTP 500",
        ),
        (
            terms(),
            say(goods, Some(&denied)),
            9,
            "goods",
            "the receipt says that it was not paid",
        ),
    ] {
        let url = shop(terms, move || say()).await;
        // A POST is not retried automatically; retries would take time.
        let ran = Place::new().pay(&url, &["--method", "POST"]).await;
        assert_eq!(
            (ran.code, ran.printed.as_str()),
            (code, printed),
            "{words}: {ran:?}"
        );
        assert!(ran.said.contains(words), "{words}: {ran:?}");
    }
}

#[tokio::test]
async fn errors_before_a_payment_have_their_own_messages() {
    let place = Place::new();
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = closed.local_addr().unwrap();
    drop(closed);
    let ran = place
        .pay(&format!("http://{address}/a?key=hunter2"), &[])
        .await;
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.said.contains(&address.to_string()), "{ran:?}");
    assert!(
        ran.said.to_lowercase().contains("connection refused"),
        "{ran:?}"
    );
    assert!(!ran.said.contains("hunter2"), "{ran:?}");

    let ran = place.pay("http://a.example/", &["--max", "abc"]).await;
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(
        ran.said.contains("not an amount in units of the token"),
        "{ran:?}"
    );
    let ran = place.pay("a.example/?key=hunter2", &[]).await;
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(
        ran.said.contains("is not a URL") && !ran.said.contains("hunter2"),
        "{ran:?}"
    );

    let version = header::encode(&json!({ "x402Version": 3 }));
    let answer = move || {
        let header = [(header::PAYMENT_REQUIRED, version.clone())];
        async move { (StatusCode::PAYMENT_REQUIRED, header, "pay first") }
    };
    let url = listen(Router::new().fallback(any(answer))).await;
    let ran = place.pay(&url, &[]).await;
    assert_eq!(ran.code, 4, "{ran:?}");
    assert!(
        ran.said
            .contains("unsupported version 3; supported: 1 and 2"),
        "{ran:?}"
    );

    let url = shop(terms(), || "goods".into_response()).await;
    let mut command = place.command(&["pay", &url]);
    let ran = command
        .env_remove("QUITTANCE_PAYER_KEY")
        .output()
        .await
        .unwrap();
    assert_eq!(ran.status.code(), Some(1), "{ran:?}");
}

/// The price changes while the first payment can still settle.
#[tokio::test]
async fn changed_price_beside_open_payment_is_paid_only_on_demand() {
    let amount = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(10_000));
    let own = amount.clone();
    let answer = move |headers: HeaderMap| {
        let mut terms = terms();
        let amount = own.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        terms["amount"] = json!(amount.to_string());
        async move {
            match headers.contains_key(header::PAYMENT_SIGNATURE) {
                true => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
                false => required(&terms, "Payment required"),
            }
        }
    };
    let url = listen(Router::new().fallback(any(answer))).await;
    let place = Place::new();
    assert_eq!(place.pay(&url, &[]).await.code, 8);
    let ran = place.pay(&url, &[]).await;
    assert_eq!(ran.code, 7, "{ran:?}");
    assert!(ran.said.contains("--second-payment"), "{ran:?}");
    assert_eq!(place.pay(&url, &["--second-payment"]).await.code, 8);
    let ran = place.run(&["payments"]).await;
    assert_eq!((ran.code, ran.printed.lines().count()), (0, 2), "{ran:?}");
}

#[tokio::test]
async fn open_payments_are_listed_and_forgotten() {
    let place = Place::new();
    let ran = place.run(&["payments"]).await;
    assert_eq!((ran.code, ran.printed.as_str()), (0, ""), "{ran:?}");
    let url = shop(terms(), || {
        with_receipt(
            required(&terms(), "x"),
            &json!({ "success": false, "errorReason": "x", "txHash": "0xabc" }),
        )
    })
    .await;
    assert_eq!(place.pay(&url, &[]).await.code, 5);
    let ran = place.run(&["payments", "list"]).await;
    let line = ran.printed.trim_end().to_owned();
    for part in [
        "0.01 USDC",
        &url,
        "transaction 0xabc",
        "eip155:84532",
        "expires in",
    ] {
        assert!(line.contains(part), "{part}: {ran:?}");
    }
    let id = line.split('\t').next().unwrap();
    // The whole line except for the remaining time.
    let lasting = |line: &str| -> Vec<String> {
        let parts = line.trim_end().split('\t').map(str::to_owned);
        parts.filter(|part| !part.contains("expires in")).collect()
    };
    let ran = place
        .run(&["payments", "forget", id, "0000000000000000"])
        .await;
    assert_eq!(ran.code, 1, "{ran:?}");
    let ran = place.run(&["payments"]).await;
    assert_eq!(lasting(&ran.printed), lasting(&line));
    assert_eq!(place.run(&["payments", "forget", id]).await.code, 0);
    assert_eq!(place.run(&["payments"]).await.printed, "");
}

/// The peak memory of a process, in bytes.
fn peak_memory(id: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes * 1024)
}

/// The whole response was kept in memory before the first byte was printed.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_long_response_is_printed_as_it_arrives() {
    const LENGTH: u64 = 400 * 1024 * 1024;
    const PIECE: usize = 256 * 1024;
    let say = || {
        let pieces = LENGTH / PIECE as u64;
        let piece = bytes::Bytes::from(vec![b'x'; PIECE]);
        let pieces = (0..pieces).map(move |_| Ok::<_, std::io::Error>(piece.clone()));
        Body::from_stream(futures_util::stream::iter(pieces)).into_response()
    };
    let url = shop(terms(), say).await;
    let place = Place::new();
    let mut child = place
        .command(&["pay", &url])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let id = child.id().unwrap();
    let mut out = child.stdout.take().unwrap();
    let (mut read, mut peak, mut piece) = (0, 0, vec![0; PIECE]);
    loop {
        let count = out.read(&mut piece).await.unwrap();
        if count == 0 {
            break;
        }
        read += count as u64;
        if let Some(found) = peak_memory(id) {
            peak = peak.max(found);
        }
    }
    assert!(child.wait().await.unwrap().success());
    assert_eq!(read, LENGTH);
    assert!(peak > 0 && peak < LENGTH / 4, "{peak} bytes of memory");
}

#[tokio::test]
async fn a_compressed_response_is_printed_decompressed() {
    use std::io::Write as _;
    let say = || {
        let level = flate2::Compression::best();
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
        encoder.write_all(b"goods").unwrap();
        ([("content-encoding", "gzip")], encoder.finish().unwrap()).into_response()
    };
    let url = shop(terms(), say).await;
    let ran = Place::new().pay(&url, &[]).await;
    assert_eq!((ran.code, ran.printed.as_str()), (0, "goods"), "{ran:?}");
}

#[tokio::test]
async fn a_response_that_breaks_off_is_reported() {
    let say = || {
        use futures_util::StreamExt;
        let begins = futures_util::stream::once(async { Ok("go") });
        // Long enough for the first part to be sent.
        let ends = futures_util::stream::once(async {
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            Err(std::io::Error::other("the cable is cut"))
        });
        Body::from_stream(begins.chain(ends)).into_response()
    };
    let url = shop(terms(), say).await;
    let place = Place::new();
    let ran = place.pay(&url, &[]).await;
    assert_eq!((ran.code, ran.printed.as_str()), (10, "go"), "{ran:?}");
    assert!(ran.said.contains("the response broke off"), "{ran:?}");
}

/// Payments to a server on this machine were sent in clear text through the proxy of the
/// environment.
#[tokio::test]
async fn a_server_on_this_machine_is_called_without_a_proxy() {
    let proxied = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let own = proxied.clone();
    let proxy = listen(Router::new().fallback(any(move || {
        own.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        async { "from the proxy" }
    })))
    .await;
    let place = Place::new();
    let through = |url: &str| {
        let mut command = place.command(&["pay", url]);
        for name in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
            command.env(name, &proxy);
        }
        command.env_remove("no_proxy").env_remove("NO_PROXY");
        command
    };
    let url = shop(terms(), || "goods".into_response()).await;
    let ran = through(&url).output().await.unwrap();
    assert_eq!(String::from_utf8(ran.stdout).unwrap(), "goods");
    let calls = || proxied.load(std::sync::atomic::Ordering::SeqCst);
    assert_eq!(calls(), 0);
    let ran = through("http://shop.example/").output().await.unwrap();
    assert_eq!(String::from_utf8(ran.stdout).unwrap(), "from the proxy");
    assert_eq!(calls(), 1);
}

/// An added line break would change a file.
#[tokio::test]
async fn output_to_a_file_is_unchanged() {
    for body in ["", "a", "a\n"] {
        let app = Router::new().fallback(any(move |_: Request| async move { body }));
        let ran = Place::new().pay(&listen(app).await, &[]).await;
        assert_eq!((ran.code, ran.printed.as_str()), (0, body), "{ran:?}");
    }
}

#[tokio::test]
async fn completions_and_examples_are_there() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quittance"));
        let ran = command.args(["completions", shell]).output().await.unwrap();
        let script = String::from_utf8(ran.stdout).unwrap();
        assert!(
            ran.status.success() && script.contains("payments"),
            "{shell}"
        );
    }
    for command in ["pay", "payments", "completions"] {
        let mut program = Command::new(env!("CARGO_BIN_EXE_quittance"));
        let ran = program.args([command, "--help"]).output().await.unwrap();
        let help = String::from_utf8(ran.stdout).unwrap();
        assert!(help.contains(&format!("  quittance {command} ")), "{help}");
    }
}
