//! The buyer before servers that refuse, lie, lose answers and come back: it signs once for one purchase.
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

/// The defect: after the kept payment had expired the buyer signed another one, although the first had been presented, the
/// answer was lost, and the chain had not been asked.
#[tokio::test]
async fn a_payment_whose_answer_was_lost_is_never_signed_anew_though_it_has_expired() {
    let server = Server::start().await;
    let shop = purchaser(|builder| builder);
    server.says(|| StatusCode::INTERNAL_SERVER_ERROR.into_response());
    let broken = shop.buyer.get(&server.url).await.unwrap();
    let open = broken.cost.unwrap().open.unwrap();
    assert_eq!(open.expires, common::START.plus_secs(VALID_SECS));

    shop.clock.advance(LONG_AFTER_SECS);
    // What a facilitator says of any expired payment, settled or not.
    server.says(|| refusal("invalid_exact_evm_payload_authorization_valid_before"));
    for _ in 0..2 {
        match shop.buyer.get(&server.url).await {
            Err(BuyError::Unresolved { open: same, .. }) => assert_eq!(*same, open),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(server.seen(), (3, 1));

    // Who knows better says so.
    assert!(shop.buyer.abandon(&open.id).await && shop.buyer.open_payments().is_empty());
    server.says(|| "goods".into_response());
    shop.buyer.get(&server.url).await.unwrap();
    assert_eq!(server.seen(), (4, 2));
}

/// An expired payment that has settled and was not told is served when it is presented again.
#[tokio::test]
async fn an_expired_payment_that_settled_after_all_is_served() {
    let server = Server::start().await;
    let shop = purchaser(|builder| builder);
    server.says(|| with_receipt(refusal("x"), &failed("settlement_failed", "0xabc")));
    match shop.buyer.get(&server.url).await {
        Err(BuyError::Refused { open, .. }) => {
            assert_eq!(open.transaction.as_deref(), Some("0xabc"))
        }
        other => panic!("{other:?}"),
    }
    shop.clock.advance(LONG_AFTER_SECS);
    server.says(|| "goods".into_response());
    shop.buyer.get(&server.url).await.unwrap();
    assert_eq!(server.seen(), (2, 1));
    assert!(shop.buyer.open_payments().is_empty());
}

/// What a server may say of a payment that it does not serve. Some of these were believed, for their first words or for a
/// receipt that could not be read, and another payment was signed while the first one's money had moved.
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

/// A payment that a server has seen, refused and may have settled runs out, and the same is bought again.
async fn bought_again_after_expiry(
    say: Say,
    state: AuthorizationState,
    change: impl FnOnce(BuyerBuilder, &str) -> BuyerBuilder,
) -> (Result<Purchase, BuyError>, usize, Server) {
    let server = Server::start().await;
    let shop = purchaser(|builder| change(builder, &server.url));
    let own = say.clone();
    server.says(move || own());
    let refused = shop.buyer.get(&server.url).await;
    assert!(
        matches!(refused, Err(BuyError::Refused { .. })),
        "{refused:?}"
    );
    shop.clock.advance(LONG_AFTER_SECS);
    shop.payer.set_state(0, state);
    let ended = shop.buyer.get(&server.url).await;
    (ended, shop.payer.signed(), server)
}

/// No words and no receipt of a server, in whatever spelling, make a buyer sign a second authorization.
#[tokio::test]
async fn no_refusal_proves_that_nothing_moved() {
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
async fn the_chain_decides_whether_another_payment_is_signed() {
    for (what, say) in refusals() {
        let unused = AuthorizationState::Expired;
        let (ended, signed, server) =
            bought_again_after_expiry(say.clone(), unused, |it, _| it).await;
        // The first one, which is over, was not presented again.
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

        // The chain's clock is behind ours.
        let usable = AuthorizationState::Usable;
        let (ended, signed, _) = bought_again_after_expiry(say, usable, |it, _| it).await;
        assert!(
            matches!(ended, Err(BuyError::Unresolved { .. })),
            "{what}: {ended:?}"
        );
        assert_eq!(signed, 1, "{what}");
    }
}

/// What else a server may answer to a payment.
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

    /// The rule about money: whatever a server answers, in whatever order, and however much time passes, the buyer has signed
    /// one authorization, and one more for each that the chain said to have run out unused.
    #[test]
    fn a_buyer_signs_one_authorization_and_one_more_for_each_that_the_chain_gives_up(
        steps in proptest::collection::vec((0_usize..64, proptest::bool::ANY, proptest::bool::weighted(0.2)), 1..8)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (server, answers) = (Server::start().await, answers());
            // No time for a second presentation in one call.
            let shop = purchaser(|builder| builder.timeout(Duration::from_millis(900)));
            let mut allowed = 1;
            for (answer, is_late, is_given_up) in steps {
                let (what, say) = answers[answer % answers.len()].clone();
                server.says(move || say());
                if is_late {
                    shop.clock.advance(LONG_AFTER_SECS);
                }
                let last = shop.payer.signed().saturating_sub(1) as u64;
                if is_late && is_given_up && shop.payer.signed() > 0 {
                    shop.payer.set_state(last, AuthorizationState::Expired);
                    allowed = last as usize + 2;
                }
                let _ = shop.buyer.get(&server.url).await;
                assert!(shop.payer.signed() <= allowed, "{what}: {} signed", shop.payer.signed());
                assert_eq!(server.seen().1, shop.payer.signed());
            }
            // Each that was signed is known, or was given up.
            assert!(!shop.buyer.open_payments().is_empty());
        });
    }
}

/// A server of one's own may be trusted, with what its seller and its facilitator's journal say, and with no receipt that is
/// unclear or names a transaction.
#[tokio::test]
async fn a_trusted_server_is_believed_what_its_journal_says_and_no_more() {
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

/// A payment in doubt stays in doubt: a trusted word about one presentation says nothing of another, whose answer was lost.
#[tokio::test]
async fn a_trusted_word_about_one_presentation_says_nothing_of_another() {
    let server = Server::start().await;
    let shop = purchaser(|builder| builder.trust(&server.url));
    server.says(|| StatusCode::INTERNAL_SERVER_ERROR.into_response());
    shop.buyer.get(&server.url).await.unwrap();
    server.says(|| refusal("handler_failed"));
    for advanced in [0, LONG_AFTER_SECS] {
        shop.clock.advance(advanced);
        assert!(shop.buyer.get(&server.url).await.is_err());
    }
    assert_eq!(shop.payer.signed(), 1);
    // The journal's word is about all of them.
    server.says(|| refusal("settlement_expired"));
    assert!(shop.buyer.get(&server.url).await.is_err());
    assert_eq!(shop.payer.signed(), 2);
}

/// Goods that come with a receipt that says `success: false` were told as paid, and the payment was forgotten.
#[tokio::test]
async fn goods_whose_receipt_denies_the_payment_leave_it_open() {
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
        // Older servers.
        (json!({ "txHash": "0x1", "networkId": "1" }), false),
        (json!("thanks"), false),
    ] {
        let server = Server::start().await;
        let shop = purchaser(|builder| builder);
        let value = header::encode(&receipt);
        server.says(move || with_header("goods".into_response(), header::PAYMENT_RESPONSE, &value));
        let bought = shop.buyer.get(&server.url).await.unwrap();
        let cost = bought.cost.unwrap();
        assert_eq!(cost.open.is_some(), is_open, "{receipt}");
        assert_eq!(
            shop.buyer.open_payments().len(),
            usize::from(is_open),
            "{receipt}"
        );
        assert_eq!(cost.receipt.unwrap().json, receipt);
        assert_eq!(bought.response.text().await.unwrap(), "goods");
    }
}

#[tokio::test]
async fn an_unreadable_receipt_does_not_hide_a_good_one() {
    let server = Server::start().await;
    let shop = purchaser(|builder| builder);
    server.says(|| {
        let good = header::encode(&SettleResponse::settled("test:1", None, "0x1"));
        let answer = with_header("goods".into_response(), header::PAYMENT_RESPONSE, "nothing");
        with_header(answer, header::X_PAYMENT_RESPONSE, &good)
    });
    let cost = shop.buyer.get(&server.url).await.unwrap().cost.unwrap();
    let receipt = cost.receipt.unwrap();
    assert!(receipt.success && receipt.transaction == "0x1" && cost.open.is_none());
}

#[tokio::test]
async fn a_payment_that_never_left_is_over_when_it_expires() {
    let shop = purchaser(|builder| builder);
    // The price is told, and then nobody listens any more.
    let once = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = once.local_addr().unwrap();
    let told = tokio::spawn(async move {
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
    let lost = shop.buyer.execute(request()).await;
    assert!(matches!(lost, Err(BuyError::Lost { .. })), "{lost:?}");
    told.await.unwrap();
    assert_eq!(shop.buyer.open_payments().len(), 1);
    shop.clock.advance(LONG_AFTER_SECS);
    let server = Server::on(tokio::net::TcpListener::bind(address).await.unwrap());
    shop.buyer.execute(request()).await.unwrap();
    assert_eq!((shop.payer.signed(), server.seen()), (2, (1, 1)));
}

/// A server that reads a request and hangs up.
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

/// The deed may be done; only the caller can know whether twice is as good as once.
#[tokio::test]
async fn a_post_whose_answer_was_lost_is_not_repeated_unless_the_caller_allows_it() {
    for (method, allowed, presentations) in [
        (Method::POST, false, 1),
        (Method::PATCH, false, 1),
        (Method::PUT, false, 3),
        (Method::POST, true, 3),
    ] {
        let (url, count) = hangs_up_on_payments().await;
        let shop = purchaser(|builder| match allowed {
            true => builder.repeat_any_method(),
            false => builder,
        });
        let request = || Request::new(method.clone(), url.parse().unwrap());
        match shop.buyer.execute(request()).await {
            Err(BuyError::Lost { open, .. }) => assert_eq!(shop.buyer.open_payments(), [*open]),
            other => panic!("{other:?}"),
        }
        assert_eq!(count.load(Ordering::SeqCst), presentations, "{method}");
        assert_eq!(shop.payer.signed(), 1);
    }
}

/// While its payment was pending, a POST was repeated by itself up to three times.
#[tokio::test]
async fn a_post_whose_payment_is_pending_is_not_repeated_unless_the_caller_allows_it() {
    let pending = || with_receipt(refusal("x"), &failed("settlement_pending", "0xabc"));
    for (allowed, presentations) in [(false, 1), (true, 2)] {
        let server = Server::start().await;
        server.says(pending);
        // Time for one pause.
        let shop = purchaser(|builder| {
            let builder = builder.timeout(Duration::from_millis(3_500));
            match allowed {
                true => builder.repeat_any_method(),
                false => builder,
            }
        });
        let request = Request::new(Method::POST, server.url.parse().unwrap());
        match shop.buyer.execute(request).await {
            Err(BuyError::Refused { reason, open, .. }) => {
                assert_eq!(reason, "settlement_pending");
                assert_eq!(open.transaction.as_deref(), Some("0xabc"));
                assert_eq!(shop.buyer.open_payments(), [*open]);
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(server.seen(), (presentations, 1));
    }
}

#[tokio::test]
async fn a_transaction_is_taken_down_from_a_receipt_of_any_status() {
    let statuses = [
        StatusCode::PAYMENT_REQUIRED,
        StatusCode::PRECONDITION_FAILED,
        StatusCode::BAD_GATEWAY,
        StatusCode::SERVICE_UNAVAILABLE,
        StatusCode::GATEWAY_TIMEOUT,
    ];
    // A proxy may put its own status over a receipt of any kind.
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
        let told = receipt.clone();
        server.says(move || with_receipt(status.into_response(), &told));
        let shop = purchaser(|builder| builder);
        let request = Request::new(Method::POST, server.url.parse().unwrap());
        match shop.buyer.execute(request).await {
            Err(BuyError::Refused {
                open,
                receipt: Some(told),
                ..
            }) => {
                assert_eq!(open.transaction.as_deref(), Some("0xabc"), "{status}");
                assert_eq!(told.success, receipt.success, "{status}");
                assert_eq!(shop.buyer.open_payments(), [*open]);
            }
            other => panic!("{status}: {other:?}"),
        }
    }
}

/// An answer in two pieces with a pause between them.
fn slowly(pause: Duration) -> axum::body::Body {
    use futures_util::StreamExt;
    let first = futures_util::stream::once(async { Ok::<_, std::io::Error>("go") });
    let second = futures_util::stream::once(async move {
        tokio::time::sleep(pause).await;
        Ok("ods")
    });
    axum::body::Body::from_stream(first.chain(second))
}

/// The call's deadline ran on through the body: a stream that was paid for was cut, and the next call paid again.
#[tokio::test]
async fn a_body_that_was_paid_for_may_take_longer_than_the_call() {
    let server = Server::start().await;
    let timeout = Duration::from_secs(2);
    let shop = purchaser(|builder| builder.timeout(timeout));
    server.says(move || slowly(timeout + Duration::from_millis(500)).into_response());
    let bought = shop.buyer.get(&server.url).await.unwrap();
    assert_eq!(bought.response.text().await.unwrap(), "goods");
}

#[tokio::test]
async fn an_answer_that_does_not_begin_in_time_is_given_up() {
    let hangs = |paid: bool| async move {
        let app = Router::new().fallback(any(move |headers: HeaderMap| async move {
            if headers.contains_key(header::PAYMENT_SIGNATURE) == paid {
                std::future::pending::<()>().await;
            }
            refusal("Payment required")
        }));
        listen(app).await
    };
    let shop = || purchaser(|builder| builder.timeout(Duration::from_millis(500))).buyer;
    match shop().get(&hangs(false).await).await {
        Err(BuyError::Transport(TransportError::Timeout)) => {}
        other => panic!("{other:?}"),
    }
    match shop().get(&hangs(true).await).await {
        Err(BuyError::Lost { source, .. }) => assert!(matches!(source, TransportError::Timeout)),
        other => panic!("{other:?}"),
    }
    // Terms are a part of what must come in time.
    let trickles = || async {
        (
            StatusCode::PAYMENT_REQUIRED,
            slowly(Duration::from_secs(60)),
        )
    };
    let url = listen(Router::new().fallback(any(trickles))).await;
    match shop().get(&url).await {
        Err(BuyError::Transport(TransportError::Timeout)) => {}
        other => panic!("{other:?}"),
    }
}

/// What a server writes went to terminals as it was.
#[tokio::test]
async fn a_servers_words_are_fit_for_a_terminal() {
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
async fn what_is_printed_of_a_purchase_holds_no_query_and_no_payment() {
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

/// attacks.md, resource_spoof. Sellers behind proxies name themselves by other origins than they are asked by, so a foreign
/// name is no reason not to pay; it is no reason for anything. A purchase is what was asked for, and whoever names another
/// one's resource is not shown that one's payment.
#[tokio::test]
async fn the_resource_that_a_server_names_decides_nothing() {
    let server = Server::start().await;
    let shop = purchaser(|builder| builder);
    server.says(|| StatusCode::INTERNAL_SERVER_ERROR.into_response());
    // Every page of this server says that it is `http://a.example/`.
    for page in ["/a", "/b"] {
        shop.buyer
            .get(&format!("{}{page}", server.url))
            .await
            .unwrap();
    }
    assert_eq!(server.seen(), (2, 2));
    let other = Server::start().await;
    shop.buyer.get(&format!("{}/a", other.url)).await.unwrap();
    assert_eq!(shop.payer.signed(), 3);
}

/// A seller that spells one thing in two ways is paid once, and one limit holds for both.
#[tokio::test]
async fn another_spelling_of_the_same_terms_is_the_same_purchase_and_the_same_limit() {
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
    let shop = purchaser(|builder| builder.limits(Limits::default().in_total("0.02")));
    for (network, asset, pay_to) in [
        ("test:1", "coin", "seller"),
        ("test", "coin", "seller"),
        ("test:1", "COIN", "Seller"),
    ] {
        *offers.lock().unwrap() = spelt(network, asset, pay_to);
        shop.buyer.get(&url).await.unwrap();
    }
    let seen: std::collections::BTreeSet<_> = seen
        .lock()
        .unwrap()
        .iter()
        .map(|value| value.as_bytes().to_vec())
        .collect();
    assert_eq!(seen.len(), 1);
    // Another page each time, another spelling each time.
    *offers.lock().unwrap() = spelt("test", "Coin", "seller");
    shop.buyer.get(&format!("{url}/2")).await.unwrap();
    *offers.lock().unwrap() = spelt("test:1", "cOIN", "SELLER");
    let over = shop.buyer.get(&format!("{url}/3")).await;
    assert!(matches!(over, Err(BuyError::OverLimit(_))), "{over:?}");
}

/// attacks.md 200: the amount is reserved before the payment is signed.
#[tokio::test]
async fn concurrent_purchases_do_not_pass_the_total_limit_together() {
    let server = Server::start().await;
    let shop = purchaser(|builder| builder.limits(Limits::default().in_total("0.03")));
    let urls: Vec<_> = (0..10)
        .map(|number| format!("{}/{number}", server.url))
        .collect();
    let buying = urls.iter().map(|url| shop.buyer.get(url));
    let bought = futures_util::future::join_all(buying).await;
    for outcome in bought.iter().filter(|outcome| outcome.is_err()) {
        assert!(
            matches!(outcome, Err(BuyError::OverLimit(_))),
            "{outcome:?}"
        );
    }
    assert_eq!(bought.iter().filter(|outcome| outcome.is_ok()).count(), 3);
    assert_eq!(shop.payer.signed(), 3);
}

/// attacks.md, accepts_ordering and rail_switch: the order of the offers makes no second payment.
#[tokio::test]
async fn an_open_payment_is_presented_whatever_is_offered_before_it() {
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
    let shop = purchaser(|builder| builder);
    shop.buyer.get(&url).await.unwrap();
    *offers.lock().unwrap() = vec![dear("10001"), terms()];
    shop.buyer.get(&url).await.unwrap();
    assert_eq!(shop.payer.signed(), 1);
}

#[tokio::test]
async fn a_signer_that_fails_costs_nothing_of_the_limit() {
    let server = Server::start().await;
    let shop = purchaser(|builder| builder.limits(Limits::default().in_total("0.01")));
    shop.payer.set_broken(true);
    for _ in 0..3 {
        let failed = shop.buyer.get(&server.url).await;
        assert!(matches!(failed, Err(BuyError::Payer(_))), "{failed:?}");
    }
    shop.payer.set_broken(false);
    shop.buyer.get(&server.url).await.unwrap();
    let over = shop.buyer.get(&server.url).await;
    assert!(matches!(over, Err(BuyError::OverLimit(_))), "{over:?}");
}

#[tokio::test]
async fn one_deadline_holds_for_the_whole_call() {
    let server = Server::start().await;
    server.says(|| {
        let answer = (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "1")]);
        answer.into_response()
    });
    let shop = purchaser(|builder| builder.timeout(Duration::from_millis(1_500)));
    let began = std::time::Instant::now();
    let refused = shop.buyer.get(&server.url).await;
    assert!(
        matches!(refused, Err(BuyError::Refused { .. })),
        "{refused:?}"
    );
    // The server's own second was kept, and the third presentation would have come too late.
    assert!((1_000..1_500).contains(&began.elapsed().as_millis()));
    assert_eq!(server.seen(), (2, 1));
}

#[tokio::test]
async fn a_served_payment_is_done_with() {
    let server = Server::start().await;
    let shop = purchaser(|builder| builder);
    server.says(|| {
        let receipt = SettleResponse::settled("test:1", None, "0x1");
        with_receipt("goods".into_response(), &receipt)
    });
    let cost = shop.buyer.get(&server.url).await.unwrap().cost.unwrap();
    assert_eq!((cost.open, shop.buyer.open_payments()), (None, Vec::new()));
    shop.buyer.get(&server.url).await.unwrap();
    assert_eq!(server.seen(), (2, 2));
}

/// A buyer that does not live long signs once for one purchase, too.
#[tokio::test]
async fn an_open_payment_outlives_its_buyer_in_a_file_that_only_its_owner_can_read() {
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
async fn a_payment_that_cannot_be_written_down_is_not_presented() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data/purchases.json");
    let server = Server::start().await;
    let shop = purchaser(|builder| builder.state_file(&path));
    std::fs::remove_dir_all(folder.path().join("data")).unwrap();
    let refused = shop.buyer.get(&server.url).await;
    assert!(matches!(refused, Err(BuyError::State(_))), "{refused:?}");
    assert_eq!(server.seen(), (0, 0));
}

#[tokio::test]
async fn a_price_is_told_and_nothing_is_signed() {
    let server = Server::start().await;
    let shop = purchaser(|builder| builder);
    let request = Request::new(Method::GET, server.url.parse().unwrap());
    let price = shop.buyer.quote(&request).await.unwrap().unwrap();
    assert_eq!(
        (price.amount.to_string().as_str(), price.open),
        ("10000", None)
    );
    assert_eq!((shop.payer.signed(), server.seen()), (0, (0, 0)));
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

/// What this version does not know may stand beside what it does.
#[tokio::test]
async fn one_way_to_pay_that_cannot_be_read_does_not_spoil_the_others() {
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

/// Facilitators of version 1 make sellers send an empty header over good terms, and some servers use the header for something
/// else. The header hid the body.
#[tokio::test]
async fn a_header_without_terms_does_not_hide_those_in_the_body() {
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
    // No header at all, terms of version 1 in the header, and those of version 2 in the body.
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

/// What decides nothing made whole terms unreadable: sellers that came from version 1 write the resource as a text.
#[tokio::test]
async fn fields_that_decide_nothing_make_no_terms_unreadable() {
    for (field, value) in [
        ("resource", json!("http://shop.example/a")),
        ("resource", json!({ "description": "a" })),
        (
            "resource",
            json!({ "url": "http://shop.example/a", "tags": "a,b" }),
        ),
        ("extensions", json!(["a"])),
        ("error", json!({ "code": 1 })),
    ] {
        let mut required =
            json!({ "x402Version": 2, "resource": { "url": "r" }, "accepts": [terms()] });
        required[field] = value.clone();
        let url = offering(header::PAYMENT_REQUIRED, header::encode(&required), "").await;
        let shop = purchaser(|builder| builder);
        let bought = shop.buyer.get(&url).await;
        assert!(bought.is_ok(), "{field}: {value}: {bought:?}");
    }
}

/// Sellers read payments like these, and the buyer did not read such terms.
#[tokio::test]
async fn terms_without_a_version_are_of_the_version_of_their_place_and_a_text_says_one_too() {
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

/// A header with terms is the server's word, whatever stands in the body.
#[tokio::test]
async fn a_header_with_terms_wins_over_the_body() {
    let url = offering(header::PAYMENT_REQUIRED, required_of(&[terms()]), BODY).await;
    let bought = purchaser(|builder| builder).buyer.get(&url).await.unwrap();
    assert_eq!(bought.cost.unwrap().amount.to_string(), "10000");
}

#[tokio::test]
async fn terms_of_an_unknown_version_are_refused_by_that_name() {
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

/// Terms that are sent compressed could not be read; and what comes out of a small answer may be endless.
#[tokio::test]
async fn compressed_terms_are_read_and_what_they_unpack_to_is_bounded() {
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

/// Neither delivers anything, and both were paid for.
#[tokio::test]
async fn nothing_is_paid_for_a_head_request_or_for_what_is_not_modified() {
    let server = Server::start().await;
    let shop = purchaser(|builder| builder);
    for method in [Method::HEAD, Method::OPTIONS, Method::TRACE] {
        let request = Request::new(method, server.url.parse().unwrap());
        let refused = shop.buyer.execute(request).await;
        assert!(matches!(refused, Err(BuyError::Request(_))), "{refused:?}");
    }
    // The price can be asked for.
    let head = Request::new(Method::HEAD, server.url.parse().unwrap());
    let price = shop.buyer.quote(&head).await.unwrap().unwrap();
    assert_eq!(price.amount.to_string(), "10000");
    assert_eq!((shop.payer.signed(), server.seen()), (0, (0, 0)));

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
    let bought = shop.buyer.execute(request).await.unwrap();
    assert_eq!(bought.response.text().await.unwrap(), "goods");
}

/// A server that sent each call elsewhere got another authorization for the same thing each time.
#[tokio::test]
async fn a_redirect_makes_no_other_purchase_of_a_request() {
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
    let shop = purchaser(|builder| builder);
    for _ in 0..3 {
        shop.buyer.get(&url).await.unwrap();
    }
    let seen = seen.lock().unwrap();
    assert_eq!((count.load(Ordering::SeqCst), seen.len()), (3, 3));
    assert_eq!(shop.payer.signed(), 1);
    assert!(seen.iter().all(|payment| *payment == seen[0]));
}

/// A server whose price is another one at each call could collect each of them.
#[tokio::test]
async fn a_second_payment_for_one_request_needs_the_callers_word_while_the_first_is_in_doubt() {
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
    let shop = purchaser(|builder| builder);
    let first = shop
        .buyer
        .get(&url)
        .await
        .unwrap()
        .cost
        .unwrap()
        .open
        .unwrap();
    let clear = |advance: u64| {
        shop.clock.advance(advance);
        shop.buyer.get(&url)
    };
    for advance in [0, LONG_AFTER_SECS] {
        match clear(advance).await {
            Err(BuyError::AlreadyOpen { open }) => assert_eq!(*open, first),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(shop.payer.signed(), 1);
    // Another page is another request.
    shop.buyer.get(&format!("{url}/2")).await.unwrap();
    assert_eq!(shop.payer.signed(), 2);
    // The chain says that the first is over.
    shop.payer.set_state(0, AuthorizationState::Expired);
    shop.buyer.get(&url).await.unwrap();
    assert_eq!(shop.payer.signed(), 3);
    let bold = purchaser(|builder| builder.allow_second_payments());
    for signed in 1..3 {
        bold.buyer.get(&url).await.unwrap();
        assert_eq!(bold.payer.signed(), signed);
    }
}

/// Where a connection fails, the host and the cause are told, and no more of the URL.
#[tokio::test]
async fn a_server_that_is_not_there_is_named_with_the_cause() {
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
async fn credentials_in_a_url_are_sent_as_a_header_and_are_no_part_of_the_purchase() {
    let server = Server::start().await;
    let shop = purchaser(|builder| builder);
    server.says(|| StatusCode::INTERNAL_SERVER_ERROR.into_response());
    let with = server.url.replace("http://", "http://user:hunter2@");
    shop.buyer.get(&with).await.unwrap();
    shop.buyer.get(&server.url).await.unwrap();
    assert_eq!(server.seen(), (2, 1));
    let app = Router::new().fallback(any(|headers: HeaderMap| async move {
        let sent = headers
            .get("authorization")
            .map(|value| value.to_str().unwrap().to_owned());
        sent.unwrap_or_default()
    }));
    let url = listen(app).await.replace("http://", "http://user:hunter2@");
    let bought = shop.buyer.get(&url).await.unwrap();
    assert_eq!(
        bought.response.text().await.unwrap(),
        "Basic dXNlcjpodW50ZXIy"
    );
}

/// A payment goes only to the origin that was asked, and for the request that was made.
#[tokio::test]
async fn redirects_are_followed_within_the_origin_and_where_the_request_stays_what_it_is() {
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
    let shop = purchaser(|builder| builder);
    let call = |method: Method, path: &str| {
        let mut request = Request::new(method, format!("{url}{path}").parse().unwrap());
        *request.body_mut() = Some("body".into());
        shop.buyer.execute(request)
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
    assert_eq!(shop.payer.signed(), 4);
}
