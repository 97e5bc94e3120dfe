//! Several facilitators as one: a payment that one may have is never given to another one.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::sync::Arc;
use std::time::Duration;

use quittance_core::wire::SettleResponse;
use quittance_core::{Amount, Facilitator, FacilitatorError, Fault, FaultKind, Offer, PaymentId};
use quittance_http::Failover;
use quittance_testing::scripted::{
    ScriptedFacilitator, TestOffer, failed, request, request_with_payload,
};

fn fault() -> Fault {
    Fault::new(FaultKind::FacilitatorUnreachable, "no answer")
}

fn settled() -> Result<SettleResponse, FacilitatorError> {
    Ok(SettleResponse::settled("test:1", None, "0x1"))
}

fn both(first: &Arc<ScriptedFacilitator>, second: &Arc<ScriptedFacilitator>) -> Failover {
    Failover::new(first.clone()).or(second.clone())
}

/// In an escrow flow the seller settles a deposit first and a claim with another payload later.
/// Only the facilitator that has the deposit can settle the claim.
#[tokio::test(start_paused = true)]
async fn second_request_of_a_payment_goes_where_the_first_went() {
    let (first, second) = (ScriptedFacilitator::new(), ScriptedFacilitator::new());
    let failover = both(&first, &second);
    let unreached = fault().not_attempted();
    first.set_settle(Err(unreached.clone().into()));
    let deposit = request(1);
    let followed = deposit.clone().with_successor();
    assert_eq!(failover.settle(&followed).await, settled());
    // The handler takes longer than a settled payment is remembered.
    tokio::time::advance(Duration::from_secs(3600)).await;
    first.set_settle(settled());
    let payload = serde_json::from_str(r#"{"number":1,"type":"claim"}"#).unwrap();
    let claim = deposit.completed(payload, Amount::from(7)).unwrap();
    assert_ne!(claim.payload, deposit.payload);
    assert_eq!(failover.settle(&claim).await, settled());
    assert_eq!((first.settle_calls(), second.settle_calls()), (1, 2));
    // The payment is over, and is forgotten like any other.
    tokio::time::advance(Duration::from_secs(600)).await;
    assert_eq!(failover.settle(&deposit).await, settled());
    assert_eq!((first.settle_calls(), second.settle_calls()), (2, 2));
}

#[tokio::test]
async fn any_facilitator_that_answers_verifies() {
    let (first, second) = (ScriptedFacilitator::new(), ScriptedFacilitator::new());
    first.set_verify(Err(fault().into()));
    let verdict = both(&first, &second).verify(&request(0)).await.unwrap();
    assert!(verdict.is_valid);
    second.set_verify(Err(fault().into()));
    assert!(both(&first, &second).verify(&request(0)).await.is_err());
}

/// Once, one authorization with different unknown fields was given to two facilitators.
#[tokio::test]
async fn authorization_stays_with_one_facilitator() {
    let offer = TestOffer::new();
    let spelled = |payload: &str| {
        let mut request = request_with_payload(payload);
        request.authorization = offer.authorization(&request.payload);
        request
    };
    let (first, second) = (ScriptedFacilitator::new(), ScriptedFacilitator::new());
    let failover = both(&first, &second);
    first.set_settle(Err(fault().into()));
    assert!(failover.settle(&spelled(r#"{"number":1}"#)).await.is_err());
    first.set_settle(Err(fault().not_attempted().into()));
    for same in [r#"{"number":1,"x":1}"#, r#"{"x":{"y":2},"number":1}"#] {
        assert!(failover.settle(&spelled(same)).await.is_err());
    }
    assert_eq!((first.settle_calls(), second.settle_calls()), (3, 0));
    assert_eq!(
        failover.settle(&spelled(r#"{"number":2}"#)).await,
        settled()
    );
}

#[tokio::test]
async fn first_verdict_counts_unless_the_kind_is_unsupported() {
    let (first, second) = (ScriptedFacilitator::new(), ScriptedFacilitator::new());
    first.reject("invalid_exact_evm_insufficient_balance");
    assert!(
        !both(&first, &second)
            .verify(&request(0))
            .await
            .unwrap()
            .is_valid
    );
    // A reason that names an unsupported scheme is not a verdict on the payment.
    first.reject("unsupported_scheme");
    assert!(
        both(&first, &second)
            .verify(&request(0))
            .await
            .unwrap()
            .is_valid
    );
}

/// Both would try to settle it. The chain accepts one, and the other would report a failure for a
/// payment that was made.
#[tokio::test]
async fn unknown_outcome_stays_with_its_facilitator() {
    let unknown = [
        Err(fault().into()),
        Err(Fault::new(FaultKind::Busy, "it waits to be sent").into()),
        Ok(failed("settlement_pending", "0x1")),
        Ok(failed("unexpected_settle_error", "")),
        Ok(failed("unsupported_scheme", "0x1")),
    ];
    for answer in unknown {
        let (first, second) = (ScriptedFacilitator::new(), ScriptedFacilitator::new());
        let failover = both(&first, &second);
        first.set_settle(answer.clone());
        for _ in 0..3 {
            assert_eq!(failover.settle(&request(0)).await, answer);
        }
        // Even if the first refuses it later, the first has it.
        first.set_settle(Err(fault().not_attempted().into()));
        assert!(failover.settle(&request(0)).await.is_err());
        assert_eq!((first.settle_calls(), second.settle_calls()), (4, 0));
        // The first one also verifies it.
        second.reject("invalid_exact_evm_nonce_already_used");
        assert!(failover.verify(&request(0)).await.unwrap().is_valid);
        // Other payments are not affected.
        second.set_settle(settled());
        assert!(failover.settle(&request(1)).await.unwrap().success);
    }
}

#[tokio::test]
async fn unattempted_payment_goes_to_the_next_facilitator() {
    for result in [
        Err(fault().not_attempted().into()),
        Ok(failed("unsupported_scheme", "")),
        Ok(failed("invalid_network", "")),
    ] {
        let (first, second) = (ScriptedFacilitator::new(), ScriptedFacilitator::new());
        let failover = both(&first, &second);
        first.set_settle(result);
        second.set_settle(Ok(failed("settlement_pending", "0x1")));
        assert!(failover.settle(&request(0)).await.unwrap().is_pending());
        // From now on the second has it, although the first is available again.
        first.set_settle(settled());
        second.set_settle(settled());
        assert!(failover.settle(&request(0)).await.unwrap().success);
        assert_eq!((first.settle_calls(), second.settle_calls()), (1, 2));
    }
}

/// Once, the buyer got "invalid network" because one facilitator was restarting, and the sale was
/// lost.
#[tokio::test]
async fn unsupported_kind_does_not_hide_an_unreachable_member() {
    let unreached = Err(fault().not_attempted().into());
    let unsupported = Ok(failed("invalid_network", ""));
    for (one, other) in [(&unreached, &unsupported), (&unsupported, &unreached)] {
        let (first, second) = (ScriptedFacilitator::new(), ScriptedFacilitator::new());
        first.set_settle(one.clone());
        second.set_settle(other.clone());
        assert_eq!(both(&first, &second).settle(&request(0)).await, unreached);
        assert_eq!((first.settle_calls(), second.settle_calls()), (1, 1));
    }
    // If none supports the kind, the response says so.
    let (first, second) = (ScriptedFacilitator::new(), ScriptedFacilitator::new());
    first.set_settle(unsupported.clone());
    second.set_settle(unsupported.clone());
    assert_eq!(both(&first, &second).settle(&request(0)).await, unsupported);
}

/// Once, it was forgotten immediately, and a replay went to a facilitator that had never seen it.
#[tokio::test(start_paused = true)]
async fn settled_payment_stays_with_its_facilitator_for_minutes() {
    let (first, second) = (ScriptedFacilitator::new(), ScriptedFacilitator::new());
    let failover = both(&first, &second);
    first.set_settle(Err(fault().not_attempted().into()));
    second.set_settle(Ok(failed("settlement_pending", "0x1")));
    for _ in 0..2 {
        assert!(failover.settle(&request(0)).await.unwrap().is_pending());
    }
    assert_eq!(first.settle_calls(), 1);
    second.set_settle(settled());
    assert!(failover.settle(&request(0)).await.unwrap().success);
    let duplicate = failed("duplicate_settlement", "0x1");
    second.set_settle(Ok(duplicate.clone()));
    second.reject("invalid_exact_evm_nonce_already_used");
    first.set_settle(settled());
    tokio::time::advance(Duration::from_secs(4 * 60)).await;
    assert_eq!(failover.settle(&request(0)).await, Ok(duplicate));
    assert!(!failover.verify(&request(0)).await.unwrap().is_valid);
    assert_eq!((first.settle_calls(), second.settle_calls()), (1, 4));
    // It is not remembered for ever.
    tokio::time::advance(Duration::from_secs(5 * 60)).await;
    assert!(failover.settle(&request(0)).await.unwrap().success);
    assert_eq!(first.settle_calls(), 2);
}

/// Once, each sale waited for it twice, for verification and for settlement.
#[tokio::test(start_paused = true)]
async fn unreachable_facilitator_is_asked_last_for_a_while() {
    let (first, second) = (ScriptedFacilitator::new(), ScriptedFacilitator::new());
    let failover = both(&first, &second);
    first.set_verify(Err(fault().not_attempted().into()));
    assert!(failover.verify(&request(0)).await.unwrap().is_valid);
    for number in 0..3 {
        assert!(failover.settle(&request(number)).await.unwrap().success);
    }
    assert_eq!((first.settle_calls(), second.settle_calls()), (0, 3));
    tokio::time::advance(Duration::from_secs(11)).await;
    assert!(failover.settle(&request(3)).await.unwrap().success);
    assert_eq!((first.settle_calls(), second.settle_calls()), (1, 3));
    // A busy facilitator is reachable, and is asked first the next time.
    let busy = Fault::new(FaultKind::Busy, "busy").not_attempted();
    first.queue_settle([Err(busy.into())]);
    for number in 4..6 {
        assert!(failover.settle(&request(number)).await.unwrap().success);
    }
    assert_eq!((first.settle_calls(), second.settle_calls()), (3, 4));
    // If all back off, they are asked anyway.
    for facilitator in [&first, &second] {
        facilitator.set_settle(Err(fault().not_attempted().into()));
    }
    assert!(failover.settle(&request(6)).await.is_err());
    first.set_settle(settled());
    assert!(failover.settle(&request(7)).await.unwrap().success);
}

/// Once, a payment was identified by its text, and with another space it went to the other
/// facilitator.
#[tokio::test]
async fn respelled_payment_goes_to_the_same_facilitator() {
    let (first, second) = (ScriptedFacilitator::new(), ScriptedFacilitator::new());
    let failover = both(&first, &second);
    let payment = request_with_payload(r#"{"nonce":"0xAB","to":{"a":1,"b":2}}"#);
    first.set_settle(Err(fault().into()));
    assert!(failover.settle(&payment).await.is_err());
    first.set_settle(Err(fault().not_attempted().into()));
    for spelling in [
        r#"{ "nonce": "0xAB", "to": {"a":1, "b":2} }"#,
        r#"{"to":{"b":2,"a":1},"nonce":"0xAB"}"#,
        r#"{"nonce":"0xab","to":{"a":1,"b":2}}"#,
    ] {
        assert!(
            failover
                .settle(&request_with_payload(spelling))
                .await
                .is_err()
        );
    }
    assert_eq!((first.settle_calls(), second.settle_calls()), (4, 0));
}

#[tokio::test]
async fn abandoned_call_may_have_settled() {
    let (first, second) = (ScriptedFacilitator::new(), ScriptedFacilitator::new());
    let failover = both(&first, &second);
    first.hang_settle();
    let payment = request(0);
    let abandoned = tokio::time::timeout(Duration::from_millis(50), failover.settle(&payment));
    assert!(abandoned.await.is_err());
    first.set_settle(Err(fault().not_attempted().into()));
    assert!(failover.settle(&request(0)).await.is_err());
    assert_eq!(second.settle_calls(), 0);
}

/// One call is refused while another one with the same payment is in progress at the same
/// facilitator.
#[tokio::test]
async fn concurrent_call_keeps_the_payment_at_its_facilitator() {
    let (first, second) = (ScriptedFacilitator::new(), ScriptedFacilitator::new());
    let failover = Arc::new(both(&first, &second));
    first.hang_settle();
    let other = failover.clone();
    let in_progress = tokio::spawn(async move { other.settle(&request(0)).await });
    while first.settle_calls() == 0 {
        tokio::task::yield_now().await;
    }
    first.set_settle(Err(fault().not_attempted().into()));
    assert!(failover.settle(&request(0)).await.is_err());
    in_progress.abort();
    assert_eq!(second.settle_calls(), 0);
}

#[tokio::test]
async fn supported_kinds_of_all_facilitators_are_combined() {
    let (first, second) = (ScriptedFacilitator::new(), ScriptedFacilitator::new());
    first.set_kinds(&[(2, "test:1")]);
    second.set_kinds(&[(2, "test:1"), (2, "test:2")]);
    let kinds = both(&first, &second).supported().await.unwrap().kinds;
    let networks: Vec<_> = kinds.iter().map(|kind| kind.network.as_str()).collect();
    assert_eq!(networks, ["test:1", "test:2"]);
}

/// An extension may reach any of them, so a buyer must not sign one that only some support.
#[tokio::test]
async fn extension_is_supported_if_all_facilitators_support_it() {
    for (of_first, of_second, expected) in [
        (Some(vec!["a", "b"]), Some(vec!["c", "b"]), Some(vec!["b"])),
        (Some(vec!["a"]), Some(vec!["b"]), Some(vec![])),
        (Some(vec!["a"]), None, Some(vec![])),
        (None, Some(vec!["a"]), None),
    ] {
        let (first, second) = (ScriptedFacilitator::new(), ScriptedFacilitator::new());
        for (facilitator, extensions) in [(&first, of_first), (&second, of_second)] {
            if let Some(extensions) = extensions {
                facilitator.set_extensions(extensions);
            }
        }
        let supported = both(&first, &second).supported().await.unwrap();
        let expected = expected.map(|all| all.into_iter().map(str::to_owned).collect());
        assert_eq!(supported.extensions, expected);
    }
}

/// A refund comes days after its payment, when its facilitator is no longer remembered.
#[tokio::test]
async fn refund_reaches_the_facilitator_that_has_the_payment() {
    let (first, second) = (ScriptedFacilitator::new(), ScriptedFacilitator::new());
    let failover = both(&first, &second);
    let refund = |number| request(number).as_refund_of(PaymentId::from_parts(&[b"original"]));
    first.set_settle(Ok(failed("unknown_settlement", "")));
    assert_eq!(failover.settle(&refund(1)).await, settled());
    // If none has it, the response says so.
    second.set_settle(Ok(failed("unknown_settlement", "")));
    let unknown = failed("unknown_settlement", "");
    assert_eq!(failover.settle(&refund(2)).await, Ok(unknown));
    // A verdict on the refund counts.
    first.set_settle(Ok(failed("invalid_refund", "")));
    let invalid = failed("invalid_refund", "");
    assert_eq!(failover.settle(&refund(3)).await, Ok(invalid));
    assert_eq!((first.settle_calls(), second.settle_calls()), (3, 2));
}
