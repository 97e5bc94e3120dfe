//! Several facilitators as one: a payment that one may have is never given to another.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{Puppet, TestOffer, failed, request, request_of};
use quittance_core::wire::SettleResponse;
use quittance_core::{Facilitator, FacilitatorError, Fault, FaultKind, Offer};
use quittance_http::Failover;

fn fault() -> Fault {
    Fault::new(FaultKind::FacilitatorUnreachable, "no answer")
}

fn settled() -> Result<SettleResponse, FacilitatorError> {
    Ok(SettleResponse::settled("test:1", None, "0x1"))
}

fn both(first: &Arc<Puppet>, second: &Arc<Puppet>) -> Failover {
    Failover::new(first.clone()).or(second.clone())
}

#[tokio::test]
async fn any_facilitator_that_answers_verifies() {
    let (first, second) = (Puppet::new(), Puppet::new());
    first.verifies(Err(fault().into()));
    let verdict = both(&first, &second).verify(&request(0)).await.unwrap();
    assert!(verdict.is_valid);
    second.verifies(Err(fault().into()));
    assert!(both(&first, &second).verify(&request(0)).await.is_err());
}

/// One authorization with another unknown field each time was given to two facilitators.
#[tokio::test]
async fn authorization_stays_with_one_facilitator() {
    let offer = TestOffer::new();
    let spelled = |payload: &str| {
        let mut request = request_of(payload);
        request.authorization = offer.authorization(&request.payload);
        request
    };
    let (first, second) = (Puppet::new(), Puppet::new());
    let failover = both(&first, &second);
    first.settles(Err(fault().into()));
    assert!(failover.settle(&spelled(r#"{"number":1}"#)).await.is_err());
    first.settles(Err(fault().not_attempted().into()));
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
    let (first, second) = (Puppet::new(), Puppet::new());
    first.rejects("invalid_exact_evm_insufficient_balance");
    assert!(
        !both(&first, &second)
            .verify(&request(0))
            .await
            .unwrap()
            .is_valid
    );
    // But not one that only says "not mine".
    first.rejects("unsupported_scheme");
    assert!(
        both(&first, &second)
            .verify(&request(0))
            .await
            .unwrap()
            .is_valid
    );
}

/// Both would try to settle it; the chain allows one, and the other would report a failure for a payment that was made.
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
        let (first, second) = (Puppet::new(), Puppet::new());
        let failover = both(&first, &second);
        first.settles(answer.clone());
        for _ in 0..3 {
            assert_eq!(failover.settle(&request(0)).await, answer);
        }
        // Not even when the first turns it away later: it has it.
        first.settles(Err(fault().not_attempted().into()));
        assert!(failover.settle(&request(0)).await.is_err());
        assert_eq!((first.settle_calls(), second.settle_calls()), (4, 0));
        // And it is the one who knows whether it is valid.
        second.rejects("invalid_exact_evm_nonce_already_used");
        assert!(failover.verify(&request(0)).await.unwrap().is_valid);
        // Another payment is not concerned.
        second.settles(settled());
        assert!(failover.settle(&request(1)).await.unwrap().success);
    }
}

#[tokio::test]
async fn unattempted_payment_goes_to_the_next_facilitator() {
    for nothing in [
        Err(fault().not_attempted().into()),
        Ok(failed("unsupported_scheme", "")),
        Ok(failed("invalid_network", "")),
    ] {
        let (first, second) = (Puppet::new(), Puppet::new());
        let failover = both(&first, &second);
        first.settles(nothing);
        second.settles(Ok(failed("settlement_pending", "0x1")));
        assert!(failover.settle(&request(0)).await.unwrap().is_pending());
        // From now on the second has it, although the first is back.
        first.settles(settled());
        second.settles(settled());
        assert!(failover.settle(&request(0)).await.unwrap().success);
        assert_eq!((first.settle_calls(), second.settle_calls()), (1, 2));
    }
}

/// The buyer was told that its payment was for no network, and the sale was lost, because one facilitator started anew.
#[tokio::test]
async fn unsupported_kind_does_not_hide_an_unreachable_member() {
    let unreached = Err(fault().not_attempted().into());
    let foreign = Ok(failed("invalid_network", ""));
    for (one, other) in [(&unreached, &foreign), (&foreign, &unreached)] {
        let (first, second) = (Puppet::new(), Puppet::new());
        first.settles(one.clone());
        second.settles(other.clone());
        assert_eq!(both(&first, &second).settle(&request(0)).await, unreached);
        assert_eq!((first.settle_calls(), second.settle_calls()), (1, 1));
    }
    // Where all say so, there is none that settles it.
    let (first, second) = (Puppet::new(), Puppet::new());
    first.settles(foreign.clone());
    second.settles(foreign.clone());
    assert_eq!(both(&first, &second).settle(&request(0)).await, foreign);
}

/// It was forgotten at once: a replay went to a facilitator that had never seen it, and to which it may still look valid.
#[tokio::test(start_paused = true)]
async fn settled_payment_stays_with_its_facilitator_for_minutes() {
    let (first, second) = (Puppet::new(), Puppet::new());
    let failover = both(&first, &second);
    first.settles(Err(fault().not_attempted().into()));
    second.settles(Ok(failed("settlement_pending", "0x1")));
    for _ in 0..2 {
        assert!(failover.settle(&request(0)).await.unwrap().is_pending());
    }
    assert_eq!(first.settle_calls(), 1);
    second.settles(settled());
    assert!(failover.settle(&request(0)).await.unwrap().success);
    let duplicate = failed("duplicate_settlement", "0x1");
    second.settles(Ok(duplicate.clone()));
    second.rejects("invalid_exact_evm_nonce_already_used");
    first.settles(settled());
    tokio::time::advance(Duration::from_secs(4 * 60)).await;
    assert_eq!(failover.settle(&request(0)).await, Ok(duplicate));
    assert!(!failover.verify(&request(0)).await.unwrap().is_valid);
    assert_eq!((first.settle_calls(), second.settle_calls()), (1, 4));
    // It takes no room for ever.
    tokio::time::advance(Duration::from_secs(5 * 60)).await;
    assert!(failover.settle(&request(0)).await.unwrap().success);
    assert_eq!(first.settle_calls(), 2);
}

/// Each sale waited for it twice, to verify and to settle.
#[tokio::test(start_paused = true)]
async fn unreachable_facilitator_is_asked_last_for_a_while() {
    let (first, second) = (Puppet::new(), Puppet::new());
    let failover = both(&first, &second);
    first.verifies(Err(fault().not_attempted().into()));
    assert!(failover.verify(&request(0)).await.unwrap().is_valid);
    for number in 0..3 {
        assert!(failover.settle(&request(number)).await.unwrap().success);
    }
    assert_eq!((first.settle_calls(), second.settle_calls()), (0, 3));
    tokio::time::advance(Duration::from_secs(11)).await;
    assert!(failover.settle(&request(3)).await.unwrap().success);
    assert_eq!((first.settle_calls(), second.settle_calls()), (1, 3));
    // One that is busy is there, and is asked first the next time.
    let busy = Fault::new(FaultKind::Busy, "busy").not_attempted();
    first.settles_first([Err(busy.into())]);
    for number in 4..6 {
        assert!(failover.settle(&request(number)).await.unwrap().success);
    }
    assert_eq!((first.settle_calls(), second.settle_calls()), (3, 4));
    // Where all rest, they are asked nevertheless.
    for facilitator in [&first, &second] {
        facilitator.settles(Err(fault().not_attempted().into()));
    }
    assert!(failover.settle(&request(6)).await.is_err());
    first.settles(settled());
    assert!(failover.settle(&request(7)).await.unwrap().success);
}

/// A payment was known by its letters: with a space in it, it was given to the other one as well.
#[tokio::test]
async fn respelled_payment_goes_to_the_same_facilitator() {
    let (first, second) = (Puppet::new(), Puppet::new());
    let failover = both(&first, &second);
    let payment = request_of(r#"{"nonce":"0xAB","to":{"a":1,"b":2}}"#);
    first.settles(Err(fault().into()));
    assert!(failover.settle(&payment).await.is_err());
    first.settles(Err(fault().not_attempted().into()));
    for spelling in [
        r#"{ "nonce": "0xAB", "to": {"a":1, "b":2} }"#,
        r#"{"to":{"b":2,"a":1},"nonce":"0xAB"}"#,
        r#"{"nonce":"0xab","to":{"a":1,"b":2}}"#,
    ] {
        assert!(failover.settle(&request_of(spelling)).await.is_err());
    }
    assert_eq!((first.settle_calls(), second.settle_calls()), (4, 0));
}

#[tokio::test]
async fn abandoned_call_may_have_settled() {
    let (first, second) = (Puppet::new(), Puppet::new());
    let failover = both(&first, &second);
    first.hangs();
    let payment = request(0);
    let given_up = tokio::time::timeout(Duration::from_millis(50), failover.settle(&payment));
    assert!(given_up.await.is_err());
    first.settles(Err(fault().not_attempted().into()));
    assert!(failover.settle(&request(0)).await.is_err());
    assert_eq!(second.settle_calls(), 0);
}

/// One call is turned away while another with the same payment is under way at the same facilitator.
#[tokio::test]
async fn concurrent_call_keeps_the_payment_at_its_facilitator() {
    let (first, second) = (Puppet::new(), Puppet::new());
    let failover = Arc::new(both(&first, &second));
    first.hangs();
    let twin = failover.clone();
    let under_way = tokio::spawn(async move { twin.settle(&request(0)).await });
    while first.settle_calls() == 0 {
        tokio::task::yield_now().await;
    }
    first.settles(Err(fault().not_attempted().into()));
    assert!(failover.settle(&request(0)).await.is_err());
    under_way.abort();
    assert_eq!(second.settle_calls(), 0);
}

#[tokio::test]
async fn supported_kinds_of_all_facilitators_are_combined() {
    let (first, second) = (Puppet::new(), Puppet::new());
    first.supports(&[(2, "test:1")]);
    second.supports(&[(2, "test:1"), (2, "test:2")]);
    let kinds = both(&first, &second).supported().await.unwrap().kinds;
    let networks: Vec<_> = kinds.iter().map(|kind| kind.network.as_str()).collect();
    assert_eq!(networks, ["test:1", "test:2"]);
}
