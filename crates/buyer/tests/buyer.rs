//! The buyer signs one payment for a purchase, even if servers refuse it, lie, or lose responses.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::any;
use common::{
    LONG_AFTER_SECS, Say, Server, listen, purchaser, refusal, required_of, terms, with_header,
    with_receipt,
};
use quittance_buyer::{BuyError, BuyerBuilder, Limits, Purchase, TransportError};
use quittance_core::AuthorizationState;
use quittance_core::wire::{SettleResponse, header};
use quittance_testing::scripted::{VALID_SECS, failed};
use reqwest::{Method, Request};
use serde_json::json;

/// Once, the buyer signed another payment after the first had expired, although the first one had
/// been presented, its response was lost, and the chain was not asked.
#[tokio::test]
async fn expired_payment_with_lost_response_is_not_signed_again() {
    let server = Server::start().await;
    let fixture = purchaser(|builder| builder);
    server.says(|| StatusCode::INTERNAL_SERVER_ERROR.into_response());
    let broken = fixture.buyer.get(&server.url).await.unwrap();
    let open = broken.cost.unwrap().open.unwrap();
    assert_eq!(open.expires, common::START.plus_secs(VALID_SECS));

    fixture.clock.advance(LONG_AFTER_SECS);
    // Facilitators answer this to every expired payment, settled or not.
    server.says(|| refusal("invalid_exact_evm_payload_authorization_valid_before"));
    for _ in 0..2 {
        match fixture.buyer.get(&server.url).await {
            Err(BuyError::Unresolved { open: same, .. }) => assert_eq!(*same, open),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(server.seen(), (3, 1));

    // A facilitator that knows the settlement names it.
    assert!(fixture.buyer.abandon(&open.id).await && fixture.buyer.open_payments().is_empty());
    server.says(|| "goods".into_response());
    fixture.buyer.get(&server.url).await.unwrap();
    assert_eq!(server.seen(), (4, 2));
}

/// An expired payment that has settled without a receipt is served when it is presented again.
#[tokio::test]
async fn expired_payment_that_has_settled_is_served() {
    let server = Server::start().await;
    let fixture = purchaser(|builder| builder);
    server.says(|| with_receipt(refusal("x"), &failed("settlement_failed", "0xabc")));
    match fixture.buyer.get(&server.url).await {
        Err(BuyError::Refused { open, .. }) => {
            assert_eq!(open.transaction.as_deref(), Some("0xabc"))
        }
        other => panic!("{other:?}"),
    }
    fixture.clock.advance(LONG_AFTER_SECS);
    server.says(|| "goods".into_response());
    fixture.buyer.get(&server.url).await.unwrap();
    assert_eq!(server.seen(), (2, 1));
    assert!(fixture.buyer.open_payments().is_empty());
}

/// Refusals of a payment. Once, the buyer believed some of them, because of their reason or of an
/// invalid receipt, and signed another payment although the first one had settled.
fn refusals() -> Vec<(String, Say)> {
    let reasons = [
        "invalid_exact_evm_insufficient_balance",
        "invalid_exact_pebble_authorization_spent",
        "invalid_exact_pebble_nonce_already_used",
        "insufficient_funds",
        "settlement_expired",
        "handler_failed",
        "duplicate_settlement",
        "Payment required",
        "",
    ];
    let mut all: Vec<(String, Say)> = Vec::new();
    for reason in reasons {
        let receipts = [
            json!({ "success": false, "errorReason": reason, "transaction": "", "network": "test:1" }),
            json!({ "success": false, "errorReason": reason, "transaction": null, "network": "test:1" }),
            json!({ "success": false, "errorReason": reason, "transactionHash": "0xabc", "network": "test:1" }),
            json!({ "success": false, "errorReason": reason, "transaction": "0xabc" }),
            json!({ "success": false, "errorReason": { "type": reason }, "transaction": "0xabc", "network": "test:1" }),
            json!({ "success": false, "errorReason": reason }),
            json!("see the body"),
        ];
        all.push((
            format!("{reason}, no receipt"),
            Arc::new(move || refusal(reason)),
        ));
        if !["insufficient_funds", "settlement_expired"].contains(&reason) {
            continue;
        }
        for receipt in receipts {
            let value = header::encode(&receipt);
            let say: Say =
                Arc::new(move || with_header(refusal(reason), header::PAYMENT_RESPONSE, &value));
            all.push((format!("{reason}, {receipt}"), say));
        }
    }
    all
}

/// Buys the same again after a payment expired that the server has refused and may have settled.
async fn bought_again_after_expiry(
    say: Say,
    state: AuthorizationState,
    change: impl FnOnce(BuyerBuilder, &str) -> BuyerBuilder,
) -> (Result<Purchase, BuyError>, usize, Server) {
    let server = Server::start().await;
    let fixture = purchaser(|builder| change(builder, &server.url));
    let own = say.clone();
    server.says(move || own());
    let refused = fixture.buyer.get(&server.url).await;
    assert!(
        matches!(refused, Err(BuyError::Refused { .. })),
        "{refused:?}"
    );
    fixture.clock.advance(LONG_AFTER_SECS);
    fixture.payer.set_state(0, state);
    let ended = fixture.buyer.get(&server.url).await;
    (ended, fixture.payer.signed(), server)
}

/// No reason and no receipt of a server makes a buyer sign a second authorization.
#[tokio::test]
async fn refusal_proves_nothing_about_the_money() {
    for (what, say) in refusals() {
        let (ended, signed, _) =
            bought_again_after_expiry(say.clone(), AuthorizationState::Unknown, |it, _| it).await;
        match ended {
            Err(BuyError::Unresolved { open, .. }) => {
                let named = say().headers().values().any(|value| {
                    let text = header::text("x", value.as_bytes()).unwrap_or_default();
                    String::from_utf8_lossy(&text).contains("0xabc")
                });
                let known = named.then_some("0xabc");
                assert_eq!(open.transaction.as_deref(), known, "{what}");
            }
            other => panic!("{what}: {other:?}"),
        }
        assert_eq!(signed, 1, "{what}");
    }
}

#[tokio::test]
async fn chain_decides_whether_another_payment_is_signed() {
    for (what, say) in refusals() {
        let unused = AuthorizationState::Expired;
        let (ended, signed, server) =
            bought_again_after_expiry(say.clone(), unused, |it, _| it).await;
        // The first payment, which has ended, was not presented again.
        assert!(
            matches!(ended, Err(BuyError::Refused { .. })),
            "{what}: {ended:?}"
        );
        assert_eq!((signed, server.seen()), (2, (2, 2)), "{what}");

        let used = AuthorizationState::Used(Some("0xdef".to_owned()));
        let (ended, signed, _) = bought_again_after_expiry(say.clone(), used, |it, _| it).await;
        match ended {
            Err(BuyError::Used { open, .. }) => assert!(open.transaction.is_some(), "{what}"),
            other => panic!("{what}: {other:?}"),
        }
        assert_eq!(signed, 1, "{what}");

        // The chain's clock is behind the buyer's.
        let usable = AuthorizationState::Usable;
        let (ended, signed, _) = bought_again_after_expiry(say, usable, |it, _| it).await;
        assert!(
            matches!(ended, Err(BuyError::Unresolved { .. })),
            "{what}: {ended:?}"
        );
        assert_eq!(signed, 1, "{what}");
    }
}

/// Other responses to a payment.
fn answers() -> Vec<(String, Say)> {
    let mut all = refusals();
    let denied = header::encode(&json!({ "success": false, "errorReason": "no" }));
    let pending = failed("settlement_pending", "0xabc");
    let more: [(&str, Say); 5] = [
        (
            "500",
            Arc::new(|| StatusCode::INTERNAL_SERVER_ERROR.into_response()),
        ),
        ("404", Arc::new(|| StatusCode::NOT_FOUND.into_response())),
        (
            "303",
            Arc::new(|| axum::response::Redirect::to("/elsewhere").into_response()),
        ),
        (
            "goods, denied",
            Arc::new(move || {
                with_header("goods".into_response(), header::PAYMENT_RESPONSE, &denied)
            }),
        ),
        (
            "pending",
            Arc::new(move || with_receipt(refusal("x"), &pending)),
        ),
    ];
    all.extend(more.map(|(what, say)| (what.to_owned(), say)));
    all
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(48))]

    /// After any responses in any order and at any time, the buyer has signed one authorization,
    /// and one more for each that expired unused on the chain.
    #[test]
    fn buyer_signs_again_only_after_expiry_on_the_chain(
        steps in proptest::collection::vec((0_usize..64, proptest::bool::ANY, proptest::bool::weighted(0.2)), 1..8)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (server, answers) = (Server::start().await, answers());
            // The timeout allows one presentation in a call.
            let fixture = purchaser(|builder| builder.timeout(Duration::from_millis(900)));
            let mut allowed = 1;
            for (answer, is_late, is_given_up) in steps {
                let (what, say) = answers[answer % answers.len()].clone();
                server.says(move || say());
                if is_late {
                    fixture.clock.advance(LONG_AFTER_SECS);
                }
                let last = fixture.payer.signed().saturating_sub(1) as u64;
                if is_late && is_given_up && fixture.payer.signed() > 0 {
                    fixture.payer.set_state(last, AuthorizationState::Expired);
                    allowed = last as usize + 2;
                }
                let _ = fixture.buyer.get(&server.url).await;
                assert!(fixture.payer.signed() <= allowed, "{what}: {} signed", fixture.payer.signed());
                assert_eq!(server.seen().1, fixture.payer.signed());
            }
            // Each signed payment is open, or has ended.
            assert!(!fixture.buyer.open_payments().is_empty());
        });
    }
}

/// A trusted server is believed for the reasons of its seller and of its facilitator's journal, and
/// not if its receipt is unclear or names a transaction.
#[tokio::test]
async fn trusted_server_is_believed_only_for_clear_reasons() {
    let receipt = |reason: &str| json!({ "success": false, "errorReason": reason, "transaction": "", "network": "test:1" });
    let mut unclear = receipt("settlement_expired");
    unclear["transaction"] = json!(null);
    let mut named = receipt("settlement_expired");
    named["txHash"] = json!("0xabc");
    for (reason, receipt, trusted, signed) in [
        ("settlement_expired", None, true, 2),
        (
            "settlement_expired",
            Some(receipt("settlement_expired")),
            true,
            2,
        ),
        ("handler_failed", Some(receipt("handler_failed")), true, 2),
        ("insufficient_funds", None, true, 1),
        ("settlement_expired", Some(unclear), true, 1),
        ("settlement_expired", Some(named), true, 1),
        ("settlement_expired", None, false, 1),
    ] {
        let what = format!("{reason}, {receipt:?}, trusted: {trusted}");
        let value = receipt.map(|receipt| header::encode(&receipt));
        let say: Say = Arc::new(move || match &value {
            Some(value) => with_header(refusal(reason), header::PAYMENT_RESPONSE, value),
            None => refusal(reason),
        });
        let ended = bought_again_after_expiry(say, AuthorizationState::Unknown, |builder, url| {
            builder.trust(if trusted {
                url
            } else {
                "https://other.example"
            })
        });
        assert_eq!(ended.await.1, signed, "{what}");
    }
}

/// A trusted refusal of one presentation does not cover another one, whose response was lost.
#[tokio::test]
async fn trusted_refusal_covers_one_presentation_only() {
    let server = Server::start().await;
    let fixture = purchaser(|builder| builder.trust(&server.url));
    server.says(|| StatusCode::INTERNAL_SERVER_ERROR.into_response());
    fixture.buyer.get(&server.url).await.unwrap();
    server.says(|| refusal("handler_failed"));
    for advanced in [0, LONG_AFTER_SECS] {
        fixture.clock.advance(advanced);
        assert!(fixture.buyer.get(&server.url).await.is_err());
    }
    assert_eq!(fixture.payer.signed(), 1);
    // The journal's reason covers all presentations.
    server.says(|| refusal("settlement_expired"));
    assert!(fixture.buyer.get(&server.url).await.is_err());
    assert_eq!(fixture.payer.signed(), 2);
}

/// Once, a served response with the receipt `success: false` counted as paid, and the payment was
/// forgotten.
#[tokio::test]
async fn served_payment_with_a_failed_receipt_stays_open() {
    for (receipt, is_open) in [
        (
            json!({ "success": false, "errorReason": "insufficient_funds", "transaction": "", "network": "test:1" }),
            true,
        ),
        (json!({ "success": false }), true),
        (json!({ "errorReason": "no" }), true),
        (
            json!({ "success": true, "transaction": "0x1", "network": "test:1" }),
            false,
        ),
        // Older servers send this header.
        (json!({ "txHash": "0x1", "networkId": "1" }), false),
        (json!("thanks"), false),
    ] {
        let server = Server::start().await;
        let fixture = purchaser(|builder| builder);
        let value = header::encode(&receipt);
        server.says(move || with_header("goods".into_response(), header::PAYMENT_RESPONSE, &value));
        let bought = fixture.buyer.get(&server.url).await.unwrap();
        let cost = bought.cost.unwrap();
        assert_eq!(cost.open.is_some(), is_open, "{receipt}");
        assert_eq!(
            fixture.buyer.open_payments().len(),
            usize::from(is_open),
            "{receipt}"
        );
        assert_eq!(cost.receipt.unwrap().json, receipt);
        assert_eq!(bought.response.text().await.unwrap(), "goods");
    }
}

#[tokio::test]
async fn invalid_receipt_does_not_hide_a_valid_one() {
    let server = Server::start().await;
    let fixture = purchaser(|builder| builder);
    server.says(|| {
        let good = header::encode(&SettleResponse::settled("test:1", None, "0x1"));
        let answer = with_header("goods".into_response(), header::PAYMENT_RESPONSE, "nothing");
        with_header(answer, header::X_PAYMENT_RESPONSE, &good)
    });
    let cost = fixture.buyer.get(&server.url).await.unwrap().cost.unwrap();
    let receipt = cost.receipt.unwrap();
    assert!(receipt.success && receipt.transaction == "0x1" && cost.open.is_none());
}

#[tokio::test]
async fn payment_that_was_never_sent_ends_when_it_expires() {
    let fixture = purchaser(|builder| builder);
    // The server sends its payment options, and then stops listening.
    let once = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = once.local_addr().unwrap();
    let responded = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut connection, _) = once.accept().await.unwrap();
        drop(once);
        let _ = connection.read(&mut [0; 4096]).await.unwrap();
        let answer = format!(
            "HTTP/1.1 402 Payment Required\r\n{}: {}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            header::PAYMENT_REQUIRED,
            required_of(&[terms()])
        );
        connection.write_all(answer.as_bytes()).await.unwrap();
    });
    let request = || Request::new(Method::POST, format!("http://{address}/").parse().unwrap());
    let lost = fixture.buyer.execute(request()).await;
    assert!(matches!(lost, Err(BuyError::Lost { .. })), "{lost:?}");
    responded.await.unwrap();
    assert_eq!(fixture.buyer.open_payments().len(), 1);
    fixture.clock.advance(LONG_AFTER_SECS);
    let server = Server::on(tokio::net::TcpListener::bind(address).await.unwrap());
    fixture.buyer.execute(request()).await.unwrap();
    assert_eq!((fixture.payer.signed(), server.seen()), (2, (1, 1)));
}

/// A server that reads a request and closes the connection.
async fn hangs_up_on_payments() -> (String, Arc<std::sync::atomic::AtomicUsize>) {
    let count = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let own = count.clone();
    let app = Router::new().fallback(any(move |headers: HeaderMap| {
        let own = own.clone();
        async move {
            if headers.contains_key(header::PAYMENT_SIGNATURE) {
                own.fetch_add(1, Ordering::SeqCst);
                panic!("the connection breaks");
            }
            refusal("Payment required")
        }
    }));
    (listen(app).await, count)
}

/// The request may have been processed. Only the caller knows whether it may be repeated.
#[tokio::test]
async fn post_with_a_lost_response_is_repeated_only_if_allowed() {
    for (method, allowed, presentations) in [
        (Method::POST, false, 1),
        (Method::PATCH, false, 1),
        (Method::PUT, false, 3),
        (Method::POST, true, 3),
    ] {
        let (url, count) = hangs_up_on_payments().await;
        let fixture = purchaser(|builder| match allowed {
            true => builder.repeat_any_method(),
            false => builder,
        });
        let request = || Request::new(method.clone(), url.parse().unwrap());
        match fixture.buyer.execute(request()).await {
            Err(BuyError::Lost { open, .. }) => assert_eq!(fixture.buyer.open_payments(), [*open]),
            other => panic!("{other:?}"),
        }
        assert_eq!(count.load(Ordering::SeqCst), presentations, "{method}");
        assert_eq!(fixture.payer.signed(), 1);
    }
}

/// Once, a POST was repeated up to three times while its payment was pending.
#[tokio::test]
async fn post_with_a_pending_payment_is_repeated_only_if_allowed() {
    let pending = || with_receipt(refusal("x"), &failed("settlement_pending", "0xabc"));
    for (allowed, presentations) in [(false, 1), (true, 2)] {
        let server = Server::start().await;
        server.says(pending);
        // The timeout allows one pause.
        let fixture = purchaser(|builder| {
            let builder = builder.timeout(Duration::from_millis(3_500));
            match allowed {
                true => builder.repeat_any_method(),
                false => builder,
            }
        });
        let request = Request::new(Method::POST, server.url.parse().unwrap());
        match fixture.buyer.execute(request).await {
            Err(BuyError::Refused { reason, open, .. }) => {
                assert_eq!(reason, "settlement_pending");
                assert_eq!(open.transaction.as_deref(), Some("0xabc"));
                assert_eq!(fixture.buyer.open_payments(), [*open]);
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(server.seen(), (presentations, 1));
    }
}

#[tokio::test]
async fn transaction_of_a_receipt_counts_under_any_status() {
    let statuses = [
        StatusCode::PAYMENT_REQUIRED,
        StatusCode::PRECONDITION_FAILED,
        StatusCode::BAD_GATEWAY,
        StatusCode::SERVICE_UNAVAILABLE,
        StatusCode::GATEWAY_TIMEOUT,
    ];
    // A proxy may replace the status of a response with a receipt.
    let receipts = [
        failed("settlement_pending", "0xabc"),
        failed("duplicate_settlement", "0xabc"),
        SettleResponse::settled("test:1", None, "0xabc"),
    ];
    for (status, receipt) in statuses
        .into_iter()
        .flat_map(|status| receipts.iter().map(move |receipt| (status, receipt)))
    {
        let server = Server::start().await;
        let sent = receipt.clone();
        server.says(move || with_receipt(status.into_response(), &sent));
        let fixture = purchaser(|builder| builder);
        let request = Request::new(Method::POST, server.url.parse().unwrap());
        match fixture.buyer.execute(request).await {
            Err(BuyError::Refused {
                open,
                receipt: Some(received),
                ..
            }) => {
                assert_eq!(open.transaction.as_deref(), Some("0xabc"), "{status}");
                assert_eq!(received.success, receipt.success, "{status}");
                assert_eq!(fixture.buyer.open_payments(), [*open]);
            }
            other => panic!("{status}: {other:?}"),
        }
    }
}

/// A body of two pieces with a pause between them.
fn slowly(pause: Duration) -> axum::body::Body {
    use futures_util::StreamExt;
    let first = futures_util::stream::once(async { Ok::<_, std::io::Error>("go") });
    let second = futures_util::stream::once(async move {
        tokio::time::sleep(pause).await;
        Ok("ods")
    });
    axum::body::Body::from_stream(first.chain(second))
}

/// Once, the timeout included the body: a paid stream was cut off, and the next call paid again.
#[tokio::test]
async fn paid_body_may_take_longer_than_the_timeout() {
    let server = Server::start().await;
    let timeout = Duration::from_secs(2);
    let fixture = purchaser(|builder| builder.timeout(timeout));
    server.says(move || slowly(timeout + Duration::from_millis(500)).into_response());
    let bought = fixture.buyer.get(&server.url).await.unwrap();
    assert_eq!(bought.response.text().await.unwrap(), "goods");
}

#[tokio::test]
async fn response_that_does_not_begin_in_time_is_an_error() {
    let hangs = |paid: bool| async move {
        let app = Router::new().fallback(any(move |headers: HeaderMap| async move {
            if headers.contains_key(header::PAYMENT_SIGNATURE) == paid {
                std::future::pending::<()>().await;
            }
            refusal("Payment required")
        }));
        listen(app).await
    };
    let fixture = || purchaser(|builder| builder.timeout(Duration::from_millis(500))).buyer;
    match fixture().get(&hangs(false).await).await {
        Err(BuyError::Transport(TransportError::Timeout)) => {}
        other => panic!("{other:?}"),
    }
    match fixture().get(&hangs(true).await).await {
        Err(BuyError::Lost { source, .. }) => assert!(matches!(source, TransportError::Timeout)),
        other => panic!("{other:?}"),
    }
    // The timeout includes the body of a 402 response.
    let trickles = || async {
        (
            StatusCode::PAYMENT_REQUIRED,
            slowly(Duration::from_secs(60)),
        )
    };
    let url = listen(Router::new().fallback(any(trickles))).await;
    match fixture().get(&url).await {
        Err(BuyError::Transport(TransportError::Timeout)) => {}
        other => panic!("{other:?}"),
    }
}

/// Once, texts of servers were printed with their control characters.
#[tokio::test]
async fn server_texts_are_safe_for_a_terminal() {
    const NASTY: &str = "\u{1b}[2J\u{9b}H\n\u{202e}no";
    let plain = |text: &str| {
        assert!(!text.contains(char::is_control), "{text:?}");
        assert!(
            !text.contains('\u{202e}') && text.contains("no"),
            "{text:?}"
        );
        assert!(text.len() < 1_000, "{}", text.len());
    };
    let server = Server::start().await;
    server.says(|| refusal(&format!("{NASTY}{}", "x".repeat(10_000))));
    match purchaser(|builder| builder).buyer.get(&server.url).await {
        Err(error @ BuyError::Refused { .. }) => plain(&error.to_string()),
        other => panic!("{other:?}"),
    }
    let mut foreign = terms();
    foreign["network"] = json!(NASTY);
    let unreadable = json!({ "scheme": "exact", NASTY: 1 });
    let value = required_of(&[foreign, unreadable]);
    let url = offering(header::PAYMENT_REQUIRED, value, "").await;
    match purchaser(|builder| builder).buyer.get(&url).await {
        Err(error @ BuyError::NotAcceptable(_)) => plain(&error.to_string()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn debug_of_a_purchase_has_no_query_and_no_payment() {
    let server = Server::start().await;
    let buyer = purchaser(|builder| builder).buyer;
    let bought = buyer.get(&format!("{}/?key=hunter2", server.url)).await;
    let printed = format!("{:?}", bought.unwrap());
    assert!(
        printed.contains("200") && !printed.contains("hunter2"),
        "{printed}"
    );
    let error = buyer.get("a.example/?key=hunter2").await.unwrap_err();
    assert!(
        !format!("{error} {error:?}").contains("hunter2"),
        "{error:?}"
    );
}

/// attacks.md, resource_spoof. Sellers behind proxies may state another origin than the request's,
/// so a foreign URL has no effect. A purchase is identified by the request: a server that states
/// another server's resource does not get that one's payment.
#[tokio::test]
async fn stated_resource_url_has_no_effect() {
    let server = Server::start().await;
    let fixture = purchaser(|builder| builder);
    server.says(|| StatusCode::INTERNAL_SERVER_ERROR.into_response());
    // Every page of this server states the resource `http://a.example/`.
    for page in ["/a", "/b"] {
        fixture
            .buyer
            .get(&format!("{}{page}", server.url))
            .await
            .unwrap();
    }
    assert_eq!(server.seen(), (2, 2));
    let other = Server::start().await;
    fixture
        .buyer
        .get(&format!("{}/a", other.url))
        .await
        .unwrap();
    assert_eq!(fixture.payer.signed(), 3);
}

/// Two spellings of the same requirements are paid once, and share one limit.
#[tokio::test]
async fn respelled_requirements_share_the_purchase_and_the_limit() {
    let spelt = |network: &str, asset: &str, pay_to: &str| {
        let mut terms = terms();
        terms["network"] = json!(network);
        terms["asset"] = json!(asset);
        terms["payTo"] = json!(pay_to);
        terms
    };
    let offers = Arc::new(std::sync::Mutex::new(spelt("test:1", "coin", "seller")));
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (own, log) = (offers.clone(), seen.clone());
    let app = Router::new().fallback(any(move |headers: HeaderMap| {
        let (terms, log) = (own.lock().unwrap().clone(), log.clone());
        async move {
            if let Some(payment) = headers.get(header::PAYMENT_SIGNATURE) {
                log.lock().unwrap().push(payment.clone());
                return StatusCode::INTERNAL_SERVER_ERROR.into_response();
            }
            let value = required_of(&[terms]);
            (
                StatusCode::PAYMENT_REQUIRED,
                [(header::PAYMENT_REQUIRED, value)],
            )
                .into_response()
        }
    }));
    let url = listen(app).await;
    let fixture = purchaser(|builder| builder.limits(Limits::default().in_total("0.02")));
    for (network, asset, pay_to) in [
        ("test:1", "coin", "seller"),
        ("test", "coin", "seller"),
        ("test:1", "COIN", "Seller"),
    ] {
        *offers.lock().unwrap() = spelt(network, asset, pay_to);
        fixture.buyer.get(&url).await.unwrap();
    }
    let seen: std::collections::BTreeSet<_> = seen
        .lock()
        .unwrap()
        .iter()
        .map(|value| value.as_bytes().to_vec())
        .collect();
    assert_eq!(seen.len(), 1);
    // Each request has another page and another spelling.
    *offers.lock().unwrap() = spelt("test", "Coin", "seller");
    fixture.buyer.get(&format!("{url}/2")).await.unwrap();
    *offers.lock().unwrap() = spelt("test:1", "cOIN", "SELLER");
    let over = fixture.buyer.get(&format!("{url}/3")).await;
    assert!(matches!(over, Err(BuyError::OverLimit(_))), "{over:?}");
}

/// attacks.md 200: the amount is reserved before the payment is signed.
#[tokio::test]
async fn concurrent_purchases_stay_within_the_total_limit() {
    let server = Server::start().await;
    let fixture = purchaser(|builder| builder.limits(Limits::default().in_total("0.03")));
    let urls: Vec<_> = (0..10)
        .map(|number| format!("{}/{number}", server.url))
        .collect();
    let buying = urls.iter().map(|url| fixture.buyer.get(url));
    let bought = futures_util::future::join_all(buying).await;
    for outcome in bought.iter().filter(|outcome| outcome.is_err()) {
        assert!(
            matches!(outcome, Err(BuyError::OverLimit(_))),
            "{outcome:?}"
        );
    }
    assert_eq!(bought.iter().filter(|outcome| outcome.is_ok()).count(), 3);
    assert_eq!(fixture.payer.signed(), 3);
}

/// attacks.md, accepts_ordering and rail_switch: the order of the options causes no second payment.
#[tokio::test]
async fn open_payment_is_presented_before_other_options() {
    let dear = |amount: &str| {
        let mut terms = terms();
        terms["amount"] = json!(amount);
        terms
    };
    let offers = Arc::new(std::sync::Mutex::new(vec![terms()]));
    let own = offers.clone();
    let app = Router::new().fallback(any(move |headers: HeaderMap| {
        let accepts = own.lock().unwrap().clone();
        async move {
            if headers.contains_key(header::PAYMENT_SIGNATURE) {
                return StatusCode::INTERNAL_SERVER_ERROR.into_response();
            }
            let value = required_of(&accepts);
            (
                StatusCode::PAYMENT_REQUIRED,
                [(header::PAYMENT_REQUIRED, value)],
            )
                .into_response()
        }
    }));
    let url = listen(app).await;
    let fixture = purchaser(|builder| builder);
    fixture.buyer.get(&url).await.unwrap();
    *offers.lock().unwrap() = vec![dear("10001"), terms()];
    fixture.buyer.get(&url).await.unwrap();
    assert_eq!(fixture.payer.signed(), 1);
}

#[tokio::test]
async fn failed_signature_does_not_use_the_limit() {
    let server = Server::start().await;
    let fixture = purchaser(|builder| builder.limits(Limits::default().in_total("0.01")));
    fixture.payer.set_broken(true);
    for _ in 0..3 {
        let failed = fixture.buyer.get(&server.url).await;
        assert!(matches!(failed, Err(BuyError::Payer(_))), "{failed:?}");
    }
    fixture.payer.set_broken(false);
    fixture.buyer.get(&server.url).await.unwrap();
    let over = fixture.buyer.get(&server.url).await;
    assert!(matches!(over, Err(BuyError::OverLimit(_))), "{over:?}");
}

#[tokio::test]
async fn deadline_covers_the_whole_call() {
    let server = Server::start().await;
    server.says(|| {
        let answer = (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "1")]);
        answer.into_response()
    });
    let fixture = purchaser(|builder| builder.timeout(Duration::from_millis(1_500)));
    let began = std::time::Instant::now();
    let refused = fixture.buyer.get(&server.url).await;
    assert!(
        matches!(refused, Err(BuyError::Refused { .. })),
        "{refused:?}"
    );
    // The buyer waited the server's one second, and a third presentation would be too late.
    assert!((1_000..1_500).contains(&began.elapsed().as_millis()));
    assert_eq!(server.seen(), (2, 1));
}

#[tokio::test]
async fn served_payment_is_not_presented_again() {
    let server = Server::start().await;
    let fixture = purchaser(|builder| builder);
    server.says(|| {
        let receipt = SettleResponse::settled("test:1", None, "0x1");
        with_receipt("goods".into_response(), &receipt)
    });
    let cost = fixture.buyer.get(&server.url).await.unwrap().cost.unwrap();
    assert_eq!(
        (cost.open, fixture.buyer.open_payments()),
        (None, Vec::new())
    );
    fixture.buyer.get(&server.url).await.unwrap();
    assert_eq!(server.seen(), (2, 2));
}

/// A buyer in a new process presents the stored payment instead of signing another one.
#[tokio::test]
async fn open_payment_survives_in_a_private_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data/purchases.json");
    let server = Server::start().await;
    server.says(|| with_receipt(refusal("x"), &failed("settlement_pending", "0xabc")));
    let run = || {
        purchaser(|builder| {
            builder
                .state_file(&path)
                .timeout(Duration::from_millis(500))
        })
    };
    let first = run();
    let open = match first.buyer.get(&server.url).await {
        Err(BuyError::Refused { open, .. }) => *open,
        other => panic!("{other:?}"),
    };
    assert_eq!(open.transaction.as_deref(), Some("0xabc"));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    drop(first);

    let second = run();
    assert_eq!(second.buyer.open_payments(), std::slice::from_ref(&open));
    let request = Request::new(Method::GET, server.url.parse().unwrap());
    let price = second.buyer.quote(&request).await.unwrap().unwrap();
    assert_eq!(price.open, Some(open));
    server.says(|| "goods".into_response());
    second.buyer.get(&server.url).await.unwrap();
    assert_eq!(server.seen(), (2, 1));
    assert_eq!(second.payer.signed(), 0);
    drop(second);
    assert!(run().buyer.open_payments().is_empty());
}

#[tokio::test]
async fn payment_that_cannot_be_stored_is_not_presented() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data/purchases.json");
    let server = Server::start().await;
    let fixture = purchaser(|builder| builder.state_file(&path));
    std::fs::remove_dir_all(folder.path().join("data")).unwrap();
    let refused = fixture.buyer.get(&server.url).await;
    assert!(matches!(refused, Err(BuyError::State(_))), "{refused:?}");
    assert_eq!(server.seen(), (0, 0));
}

#[tokio::test]
async fn price_is_quoted_without_a_signature() {
    let server = Server::start().await;
    let fixture = purchaser(|builder| builder);
    let request = Request::new(Method::GET, server.url.parse().unwrap());
    let price = fixture.buyer.quote(&request).await.unwrap().unwrap();
    assert_eq!(
        (price.amount.to_string().as_str(), price.open),
        ("10000", None)
    );
    assert_eq!((fixture.payer.signed(), server.seen()), (0, (0, 0)));
}

async fn offering(name: &'static str, value: String, body: &'static str) -> String {
    let answer = move |headers: HeaderMap| {
        let value = value.clone();
        async move {
            let paid = headers.contains_key(header::PAYMENT_SIGNATURE);
            if paid || headers.contains_key(header::X_PAYMENT) {
                return "goods".into_response();
            }
            (StatusCode::PAYMENT_REQUIRED, [(name, value)], body).into_response()
        }
    };
    listen(Router::new().fallback(any(answer))).await
}

/// Unknown options may be listed beside known ones.
#[tokio::test]
async fn invalid_option_does_not_affect_the_others() {
    let odd = [
        json!(null),
        json!({ "scheme": "exact" }),
        json!({ "scheme": 1, "network": [], "amount": 5 }),
    ];
    let mut accepts = odd.to_vec();
    accepts.push(terms());
    let url = offering(header::PAYMENT_REQUIRED, required_of(&accepts), "").await;
    purchaser(|builder| builder).buyer.get(&url).await.unwrap();

    let url = offering(header::PAYMENT_REQUIRED, required_of(&odd), "").await;
    match purchaser(|builder| builder).buyer.get(&url).await {
        Err(BuyError::NotAcceptable(why)) => {
            assert_eq!(why.len(), 3);
            assert!(
                why[1]
                    .to_string()
                    .starts_with("payment-required.accepts[1]"),
                "{why:?}"
            );
        }
        other => panic!("{other:?}"),
    }
}

const BODY: &str = r#"{"x402Version":1,"accepts":[{"scheme":"exact","network":"test","maxAmountRequired":"1",
    "resource":"r","payTo":"seller","maxTimeoutSeconds":60,"asset":"coin"},{}]}"#;

/// With version 1 facilitators, sellers send an empty header and options in the body. Some servers
/// use the header for something else. Once, the header hid the body.
#[tokio::test]
async fn header_without_options_does_not_hide_the_body() {
    let version_1: serde_json::Value = serde_json::from_str(BODY).unwrap();
    for value in [
        header::encode(&json!({ "x402Version": 2, "error": "Payment required", "accepts": [] })),
        header::encode(&json!({ "x402Version": 2, "accepts": [{ "scheme": 1 }] })),
        header::encode(&json!({ "x402Version": 3, "other": true })),
        header::encode(&json!([terms()])),
        header::encode(&json!({})),
        "see body".to_owned(),
    ] {
        let url = offering(header::PAYMENT_REQUIRED, value.clone(), BODY).await;
        let bought = purchaser(|builder| builder).buyer.get(&url).await.unwrap();
        assert_eq!(bought.cost.unwrap().amount.to_string(), "1", "{value}");
    }
    // No header, version 1 options in the header, and version 2 options in the body.
    let url = offering("x-other", "x".to_owned(), BODY).await;
    let bought = purchaser(|builder| builder).buyer.get(&url).await.unwrap();
    assert_eq!(bought.cost.unwrap().amount.to_string(), "1");
    let url = offering(
        header::PAYMENT_REQUIRED,
        header::encode(&version_1),
        "not found",
    )
    .await;
    let bought = purchaser(|builder| builder).buyer.get(&url).await.unwrap();
    assert_eq!(bought.cost.unwrap().amount.to_string(), "1");
    let version_2: &str = Box::leak(
        json!({ "x402Version": 2, "resource": { "url": "r" }, "accepts": [terms()] })
            .to_string()
            .into_boxed_str(),
    );
    let url = offering("x-other", "x".to_owned(), version_2).await;
    let bought = purchaser(|builder| builder).buyer.get(&url).await.unwrap();
    assert_eq!(bought.cost.unwrap().amount.to_string(), "10000");
}

/// Once, an informative field made all options invalid: some sellers write the resource as a
/// string.
#[tokio::test]
async fn invalid_informative_fields_are_ignored() {
    for (field, value) in [
        ("resource", json!("http://fixture.example/a")),
        ("resource", json!({ "description": "a" })),
        (
            "resource",
            json!({ "url": "http://fixture.example/a", "tags": "a,b" }),
        ),
        ("extensions", json!(["a"])),
        ("error", json!({ "code": 1 })),
    ] {
        let mut required =
            json!({ "x402Version": 2, "resource": { "url": "r" }, "accepts": [terms()] });
        required[field] = value.clone();
        let url = offering(header::PAYMENT_REQUIRED, header::encode(&required), "").await;
        let fixture = purchaser(|builder| builder);
        let bought = fixture.buyer.get(&url).await;
        assert!(bought.is_ok(), "{field}: {value}: {bought:?}");
    }
}

/// Sellers accept such payments. Once, the buyer did not accept such options.
#[tokio::test]
async fn missing_version_follows_from_header_or_body() {
    for version in [json!(2), json!("2"), serde_json::Value::Null] {
        let required = json!({ "x402Version": version, "accepts": [terms()] });
        let url = offering(header::PAYMENT_REQUIRED, header::encode(&required), "").await;
        let bought = purchaser(|builder| builder).buyer.get(&url).await;
        assert!(bought.is_ok(), "{version}: {bought:?}");
    }
    for version in [json!("02"), json!(3), json!("a")] {
        let required = json!({ "x402Version": version, "accepts": [terms()] });
        let url = offering(header::PAYMENT_REQUIRED, header::encode(&required), "").await;
        let bought = purchaser(|builder| builder).buyer.get(&url).await;
        assert!(
            matches!(bought, Err(BuyError::Requirements(_))),
            "{version}: {bought:?}"
        );
    }
}

/// If the header lists options, the body is ignored.
#[tokio::test]
async fn header_with_options_outranks_the_body() {
    let url = offering(header::PAYMENT_REQUIRED, required_of(&[terms()]), BODY).await;
    let bought = purchaser(|builder| builder).buyer.get(&url).await.unwrap();
    assert_eq!(bought.cost.unwrap().amount.to_string(), "10000");
}

#[tokio::test]
async fn unknown_version_is_an_error_that_names_it() {
    let value = header::encode(&json!({ "x402Version": 3, "other": true }));
    for body in ["", "not found", "{}"] {
        let url = offering(header::PAYMENT_REQUIRED, value.clone(), body).await;
        match purchaser(|builder| builder).buyer.get(&url).await {
            Err(BuyError::Requirements(malformed)) => {
                assert_eq!(malformed.field, "payment-required.x402Version");
                let said = "unsupported version 3; supported: 1 and 2";
                assert_eq!(malformed.problem, said);
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Once, compressed options could not be parsed. A small body may decompress to any length.
#[tokio::test]
async fn compressed_body_is_decompressed_up_to_a_limit() {
    use flate2::{Compression, write::GzEncoder};
    use std::io::Write as _;
    let gzip = |text: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    };
    for (body, is_read) in [
        (gzip(BODY.as_bytes()), true),
        (gzip(&vec![b' '; 64 * 1024 * 1024]), false),
        (b"no gzip".to_vec(), false),
    ] {
        let answer = move |headers: HeaderMap| {
            let body = body.clone();
            async move {
                let accepted = headers["accept-encoding"].to_str().unwrap();
                assert!(
                    accepted.contains("gzip") && accepted.contains("br"),
                    "{accepted}"
                );
                let encoded = [("content-encoding", "gzip")];
                if headers.contains_key(header::X_PAYMENT) {
                    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
                    encoder.write_all(b"goods").unwrap();
                    return (encoded, encoder.finish().unwrap()).into_response();
                }
                (StatusCode::PAYMENT_REQUIRED, encoded, body).into_response()
            }
        };
        let url = listen(Router::new().fallback(any(answer))).await;
        let bought = purchaser(|builder| builder).buyer.get(&url).await;
        match bought {
            Ok(bought) if is_read => assert_eq!(bought.response.text().await.unwrap(), "goods"),
            Err(BuyError::Requirements(_)) if !is_read => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Once, both were paid, although neither delivers anything.
#[tokio::test]
async fn head_and_conditional_requests_are_not_paid() {
    let server = Server::start().await;
    let fixture = purchaser(|builder| builder);
    for method in [Method::HEAD, Method::OPTIONS, Method::TRACE] {
        let request = Request::new(method, server.url.parse().unwrap());
        let refused = fixture.buyer.execute(request).await;
        assert!(matches!(refused, Err(BuyError::Request(_))), "{refused:?}");
    }
    // The price can be quoted.
    let head = Request::new(Method::HEAD, server.url.parse().unwrap());
    let price = fixture.buyer.quote(&head).await.unwrap().unwrap();
    assert_eq!(price.amount.to_string(), "10000");
    assert_eq!((fixture.payer.signed(), server.seen()), (0, (0, 0)));

    let answer = |headers: HeaderMap| async move {
        let conditional = ["if-none-match", "if-modified-since"];
        match headers.contains_key(header::PAYMENT_SIGNATURE) {
            false => refusal("Payment required"),
            true if conditional.iter().any(|name| headers.contains_key(*name)) => {
                StatusCode::NOT_MODIFIED.into_response()
            }
            true => "goods".into_response(),
        }
    };
    let url = listen(Router::new().fallback(any(answer))).await;
    let mut request = Request::new(Method::GET, url.parse().unwrap());
    let headers = request.headers_mut();
    headers.insert("if-none-match", "\"1\"".parse().unwrap());
    headers.insert(
        "if-modified-since",
        "Thu, 26 Nov 2026 00:00:00 GMT".parse().unwrap(),
    );
    let bought = fixture.buyer.execute(request).await.unwrap();
    assert_eq!(bought.response.text().await.unwrap(), "goods");
}

/// Once, a server that redirected each call to another URL got another authorization each time.
#[tokio::test]
async fn redirected_request_is_the_same_purchase() {
    use axum::response::Redirect;
    let count = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (calls, log) = (count.clone(), seen.clone());
    let app = Router::new().fallback(any(move |request: axum::extract::Request| {
        let (calls, log) = (calls.clone(), log.clone());
        async move {
            if request.uri().query().is_none() {
                let session = calls.fetch_add(1, Ordering::SeqCst);
                let to = format!("/report?session={session}");
                return Redirect::temporary(&to).into_response();
            }
            match request.headers().get(header::PAYMENT_SIGNATURE) {
                None => refusal("Payment required"),
                Some(payment) => {
                    log.lock().unwrap().push(payment.clone());
                    StatusCode::INTERNAL_SERVER_ERROR.into_response()
                }
            }
        }
    }));
    let url = format!("{}/report", listen(app).await);
    let fixture = purchaser(|builder| builder);
    for _ in 0..3 {
        fixture.buyer.get(&url).await.unwrap();
    }
    let seen = seen.lock().unwrap();
    assert_eq!((count.load(Ordering::SeqCst), seen.len()), (3, 3));
    assert_eq!(fixture.payer.signed(), 1);
    assert!(seen.iter().all(|payment| *payment == seen[0]));
}

/// Without the rule, a server with another price at each call could collect each of them.
#[tokio::test]
async fn second_payment_for_a_request_needs_permission() {
    let price = Arc::new(std::sync::atomic::AtomicUsize::new(10_000));
    let own = price.clone();
    let app = Router::new().fallback(any(move |headers: HeaderMap| {
        let mut terms = terms();
        terms["amount"] = json!(own.fetch_add(1, Ordering::SeqCst).to_string());
        async move {
            match headers.contains_key(header::PAYMENT_SIGNATURE) {
                true => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
                false => with_header(
                    StatusCode::PAYMENT_REQUIRED.into_response(),
                    header::PAYMENT_REQUIRED,
                    &required_of(&[terms]),
                ),
            }
        }
    }));
    let url = listen(app).await;
    let fixture = purchaser(|builder| builder);
    let first = fixture
        .buyer
        .get(&url)
        .await
        .unwrap()
        .cost
        .unwrap()
        .open
        .unwrap();
    let clear = |advance: u64| {
        fixture.clock.advance(advance);
        fixture.buyer.get(&url)
    };
    for advance in [0, LONG_AFTER_SECS] {
        match clear(advance).await {
            Err(BuyError::AlreadyOpen { open }) => assert_eq!(*open, first),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(fixture.payer.signed(), 1);
    // Another page is another request.
    fixture.buyer.get(&format!("{url}/2")).await.unwrap();
    assert_eq!(fixture.payer.signed(), 2);
    // The first payment has expired on the chain.
    fixture.payer.set_state(0, AuthorizationState::Expired);
    fixture.buyer.get(&url).await.unwrap();
    assert_eq!(fixture.payer.signed(), 3);
    let bold = purchaser(|builder| builder.allow_second_payments());
    for signed in 1..3 {
        bold.buyer.get(&url).await.unwrap();
        assert_eq!(bold.payer.signed(), signed);
    }
}

/// A connection error names the host and the cause, and no other part of the URL.
#[tokio::test]
async fn connection_error_names_host_and_cause() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let buyer = purchaser(|builder| builder).buyer;
    let url = format!("http://{address}/report?key=hunter2");
    let error = buyer.get(&url).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&address.to_string()), "{text}");
    assert!(text.to_lowercase().contains("connection refused"), "{text}");
    assert!(
        !text.contains("hunter2") && !text.contains("report"),
        "{text}"
    );
}

#[tokio::test]
async fn url_credentials_are_sent_as_a_header() {
    let server = Server::start().await;
    let fixture = purchaser(|builder| builder);
    server.says(|| StatusCode::INTERNAL_SERVER_ERROR.into_response());
    let with = server.url.replace("http://", "http://user:hunter2@");
    fixture.buyer.get(&with).await.unwrap();
    fixture.buyer.get(&server.url).await.unwrap();
    assert_eq!(server.seen(), (2, 1));
    let app = Router::new().fallback(any(|headers: HeaderMap| async move {
        let sent = headers
            .get("authorization")
            .map(|value| value.to_str().unwrap().to_owned());
        sent.unwrap_or_default()
    }));
    let url = listen(app).await.replace("http://", "http://user:hunter2@");
    let bought = fixture.buyer.get(&url).await.unwrap();
    assert_eq!(
        bought.response.text().await.unwrap(),
        "Basic dXNlcjpodW50ZXIy"
    );
}

/// A payment goes only to the origin of the request, and only for that request.
#[tokio::test]
async fn redirects_are_followed_within_the_origin() {
    use axum::response::Redirect;
    use axum::routing::MethodRouter;
    let priced = || {
        any(|headers: HeaderMap, body: String| async move {
            match headers.contains_key(header::PAYMENT_SIGNATURE) {
                true => body.into_response(),
                false => refusal("Payment required"),
            }
        })
    };
    let to = |redirect: fn() -> axum::response::Response| -> MethodRouter {
        any(move || async move { redirect() })
    };
    let app = Router::new()
        .route("/new", priced())
        .route("/307", to(|| Redirect::temporary("/new").into_response()))
        .route("/308", to(|| Redirect::permanent("/new").into_response()))
        .route("/303", to(|| Redirect::to("/new").into_response()))
        .route(
            "/round",
            to(|| Redirect::temporary("/round").into_response()),
        )
        .route(
            "/away",
            to(|| Redirect::temporary("http://127.0.0.1:1/x?key=hunter2").into_response()),
        );
    let url = listen(app).await;
    let fixture = purchaser(|builder| builder);
    let call = |method: Method, path: &str| {
        let mut request = Request::new(method, format!("{url}{path}").parse().unwrap());
        *request.body_mut() = Some("body".into());
        fixture.buyer.execute(request)
    };
    for (method, path) in [
        (Method::POST, "/307"),
        (Method::POST, "/308"),
        (Method::PUT, "/307"),
        (Method::GET, "/303"),
    ] {
        let bought = call(method, path).await.unwrap();
        assert_eq!(bought.response.text().await.unwrap(), "body");
    }
    for (method, path) in [
        (Method::POST, "/303"),
        (Method::GET, "/away"),
        (Method::POST, "/away"),
    ] {
        match call(method, path).await {
            Err(error @ BuyError::Redirect { .. }) => {
                let text = error.to_string();
                assert!(
                    text.contains("not followed") && !text.contains("hunter2"),
                    "{text}"
                );
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(
        call(Method::GET, "/round").await,
        Err(BuyError::Request(_))
    ));
    assert_eq!(fixture.payer.signed(), 4);
}

/// 202 is a success of HTTP, but nothing was delivered yet.
#[tokio::test]
async fn accepted_payment_is_presented_again_when_the_server_says() {
    let server = Server::start().await;
    let fixture = purchaser(|builder| builder);
    let accepted = |after: &'static str| {
        let answer = with_receipt(
            StatusCode::ACCEPTED.into_response(),
            &failed("settlement_pending", "0x1"),
        );
        with_header(answer, "retry-after", after)
    };
    // No call waits for an hour.
    server.says(move || accepted("3600"));
    match fixture.buyer.get(&server.url).await {
        Err(BuyError::Refused { receipt, open, .. }) => {
            assert!(receipt.unwrap().is_pending());
            assert_eq!(fixture.buyer.open_payments(), [*open]);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(server.seen(), (1, 1));
    server.says(|| "goods".into_response());
    let purchase = fixture.buyer.get(&server.url).await.unwrap();
    assert_eq!(purchase.response.text().await.unwrap(), "goods");
    assert_eq!(server.seen(), (2, 1));
    assert!(fixture.buyer.open_payments().is_empty());
}
