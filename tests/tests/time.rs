//! Payments that become valid with the next block, and machines whose clock is wrong.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use quittance_core::{
    Clock, Facilitator, FacilitatorError, Fault, FaultKind, ManualClock, PaymentRequest,
    SystemClock,
};
use quittance_devnet::Mining;
use quittance_engine::Engine;
use quittance_evm::reason;
use quittance_tests::evm::Setting;
use quittance_tests::until;

fn now() -> u64 {
    SystemClock.now().secs()
}

fn fault<T: std::fmt::Debug>(answer: Result<T, FacilitatorError>) -> Fault {
    match answer {
        Err(FacilitatorError::Fault(fault)) => fault,
        other => panic!("{other:?}"),
    }
}

/// Wallets sign their own time as `validAfter`, and the token requires a later block. Such a
/// payment was rejected for a failed simulation, although the next block accepts it.
#[tokio::test(flavor = "multi_thread")]
async fn payment_valid_from_the_next_block_is_waited_for() {
    let setting = Setting::with_mining(Mining::Every(Duration::from_secs(1))).await;
    let engine = setting.engine().await;
    for ahead in [0, 1] {
        let opens = setting.block_time().await + ahead;
        let request = Setting::request_within(opens, now() + 60);
        let verdict = engine.verify(&request).await.unwrap();
        assert!(verdict.is_valid, "{ahead}: {verdict:?}");
        let answer = engine.settle(&request).await.unwrap();
        assert!(answer.success, "{ahead}: {answer:?}");
    }
    // The first request may be /settle.
    let request = Setting::request_within(now(), now() + 60);
    let answer = engine.settle(&request).await.unwrap();
    assert!(answer.success, "{answer:?}");
}

/// A caller waits for two blocks at most, and then gets a time to retry.
#[tokio::test(flavor = "multi_thread")]
async fn payment_valid_much_later_is_not_yet_valid_without_a_verdict() {
    let setting = Setting::with_mining(Mining::Manual).await;
    setting.local.mine().await.unwrap();
    let engine = setting.engine().await;
    let request = Setting::request_within(setting.block_time().await, now() + 60);
    let started = Instant::now();
    let verified = fault(engine.verify(&request).await);
    assert_eq!(verified.kind, FaultKind::NotYetValid);
    assert!(verified.retry_after.is_some());
    assert!(started.elapsed() < Duration::from_secs(15));
    assert_eq!(
        fault(engine.settle(&request).await).kind,
        FaultKind::NotYetValid
    );
    tokio::time::sleep(Duration::from_secs(1)).await;
    setting.local.mine().await.unwrap();
    assert!(engine.verify(&request).await.unwrap().is_valid);

    // The engine does not wait for a payment that becomes valid in ten seconds. The caller is asked
    // to retry.
    let request = Setting::request_within(now() + 10, now() + 60);
    let started = Instant::now();
    let later = fault(engine.verify(&request).await);
    assert_eq!(later.kind, FaultKind::NotYetValid);
    assert!(
        later.retry_after.unwrap() > Duration::from_secs(7),
        "{later:?}"
    );
    assert!(started.elapsed() < Duration::from_secs(4));
}

/// Another reason against the payment is reported at once, with its own code.
#[tokio::test(flavor = "multi_thread")]
async fn payment_with_another_fault_is_refused_before_it_is_valid() {
    let setting = Setting::with_mining(Mining::Manual).await;
    let engine = setting.engine().await;
    let far = Setting::request_within(now() + 60, now() + 120);
    let verdict = engine.verify(&far).await.unwrap();
    assert_eq!(
        verdict.invalid_reason.as_deref(),
        Some(reason::VALID_AFTER.code())
    );
    let head = setting.block_time().await;
    let expired = Setting::request_within(head, now() + 2);
    let verdict = engine.verify(&expired).await.unwrap();
    assert_eq!(
        verdict.invalid_reason.as_deref(),
        Some(reason::VALID_BEFORE.code())
    );
}

/// An engine on a machine with this time.
async fn engine_at(setting: &Setting, clock: u64, head_age_max: Option<Duration>) -> Engine {
    let clock = Arc::new(ManualClock::new(quittance_core::Timestamp::from_secs(
        clock,
    )));
    let mut config = setting.config();
    config.head_age_max = head_age_max;
    setting
        .engine_with(config, |builder| builder.clock(clock))
        .await
}

fn says(engine: &Engine, words: &str) -> bool {
    let health = engine.health();
    let mut problems = health.iter().flat_map(|(_, health)| &health.problems);
    problems.any(|problem| problem.what.contains(words))
}

/// With a clock two hours ahead, every payment was reported as expired. With a clock 400 days
/// behind, none was valid yet.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_clock_is_a_fault_and_not_a_verdict() {
    const LIVE: Option<Duration> = Some(Duration::from_secs(180));
    let setting = Setting::start().await;
    setting.local.mine().await.unwrap();
    let request = Setting::request_within(now() - 600, now() + 60);

    let ahead = engine_at(&setting, now() + 7200, LIVE).await;
    fault(ahead.verify(&request).await);
    fault(ahead.settle(&request).await);
    assert!(says(&ahead, "clock is ahead"));
    drop(ahead);

    // Not enough for the nodes to count as stale.
    let little = engine_at(&setting, now() + 100, LIVE).await;
    fault(little.verify(&request).await);
    assert!(says(&little, "clock is ahead"));
    drop(little);

    for age_max in [LIVE, None] {
        let behind = engine_at(&setting, now() - 400 * 24 * 3600, age_max).await;
        let fault_answer = fault(behind.verify(&request).await);
        assert_eq!(fault_answer.kind, FaultKind::Misconfigured);
        assert!(says(&behind, "behind the chain's newest block"));
        drop(behind);
    }

    setting.local.mine().await.unwrap();
    let right = engine_at(&setting, now(), LIVE).await;
    assert!(right.verify(&request).await.unwrap().is_valid);
    let expired = Setting::request_within(0, now() - 5);
    let verdict = right.verify(&expired).await.unwrap();
    assert_eq!(
        verdict.invalid_reason.as_deref(),
        Some(reason::VALID_BEFORE.code())
    );
    assert!(!says(&right, "clock"));
}

/// The clock jumped while a payment waited in its lane. The answer was `settlement_expired`, after
/// which buyers sign another payment, although the authorization was valid for minutes.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_while_a_payment_waits_expires_nothing() {
    const OUT: usize = 16;
    let setting = Setting::with_mining(Mining::Manual).await;
    setting.local.mine().await.unwrap();
    let clock = Arc::new(ManualClock::new(SystemClock.now()));
    let mut config = setting.config();
    config.head_age_max = Some(Duration::from_secs(24 * 3600));
    config.max_batch = 1;
    let engine = setting
        .engine_with(config, |builder| builder.clock(Arc::clone(&clock) as _))
        .await;
    let settle = |request: &PaymentRequest| {
        let (engine, request) = (engine.clone(), request.clone());
        tokio::spawn(async move { engine.settle(&request).await })
    };
    let requests: Vec<PaymentRequest> = (0..=OUT)
        .map(|_| Setting::request_within(0, now() + 600))
        .collect();
    let asking: Vec<_> = requests.iter().map(settle).collect();
    until("all that have room are out", || async {
        setting.node.calls("eth_sendRawTransaction") == OUT && engine.in_progress() == OUT + 1
    })
    .await;
    clock.advance(7200);
    setting.local.mine().await.unwrap();
    let (mut settled, mut released) = (0, Vec::new());
    for (asking, request) in asking.into_iter().zip(requests) {
        match asking.await.unwrap() {
            Ok(answer) if answer.success => settled += 1,
            Ok(verdict) => panic!("{verdict:?}"),
            Err(_) => released.push(request),
        }
    }
    assert_eq!((settled, released.len()), (OUT, 1));
}

/// A payer can sign any number of payments that become valid in a moment. Each waiting one held its
/// caller's permit for five seconds.
#[tokio::test(flavor = "multi_thread")]
async fn payments_waited_for_are_limited() {
    const COUNT: usize = 80;
    const WAITED_FOR_MAX: usize = 64;
    let setting = Setting::with_mining(Mining::Manual).await;
    setting.local.mine().await.unwrap();
    let engine = setting.engine().await;
    let opens = setting.block_time().await;
    let asking: Vec<_> = (0..COUNT)
        .map(|_| {
            let (engine, request) = (engine.clone(), Setting::request_within(opens, now() + 60));
            tokio::spawn(async move {
                let started = Instant::now();
                let fault_answer = fault(engine.verify(&request).await);
                assert_eq!(fault_answer.kind, FaultKind::NotYetValid);
                assert!(fault_answer.retry_after.is_some());
                started.elapsed()
            })
        })
        .collect();
    let mut waited_for = 0;
    for asking in asking {
        waited_for += usize::from(asking.await.unwrap() > Duration::from_millis(4400));
    }
    assert_eq!(waited_for, WAITED_FOR_MAX);
}
