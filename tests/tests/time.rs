//! Payments that open with the next block, and machines whose clock is wrong.

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

/// Wallets sign their own time as `validAfter`, and the token wants the block to be later. It was
/// told that the simulation failed, for good, of a payment that the next block takes.
#[tokio::test(flavor = "multi_thread")]
async fn a_payment_that_opens_with_the_next_block_is_waited_for() {
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
    // The first to ask may be /settle.
    let request = Setting::request_within(now(), now() + 60);
    let answer = engine.settle(&request).await.unwrap();
    assert!(answer.success, "{answer:?}");
}

/// A caller does not wait longer than for two blocks, and is told when to come back.
#[tokio::test(flavor = "multi_thread")]
async fn a_payment_that_opens_later_is_not_yet_valid_and_no_verdict() {
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

    // Nobody waits for what opens in ten seconds; the caller is told to.
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

/// What else speaks against it is told at once, and by its own code.
#[tokio::test(flavor = "multi_thread")]
async fn a_payment_that_is_not_valid_yet_and_never_will_be_is_refused_at_once() {
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

/// An engine on a machine whose clock says this.
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

/// Two hours ahead, every payment was told that it had expired; 400 days behind, that it is not
/// valid yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_clock_is_our_fault_and_not_the_payers() {
    const LIVE: Option<Duration> = Some(Duration::from_secs(180));
    let setting = Setting::start().await;
    setting.local.mine().await.unwrap();
    let request = Setting::request_within(now() - 600, now() + 60);

    let ahead = engine_at(&setting, now() + 7200, LIVE).await;
    fault(ahead.verify(&request).await);
    fault(ahead.settle(&request).await);
    assert!(says(&ahead, "clock is ahead"));
    drop(ahead);

    // Not far enough for the nodes to count as stuck.
    let little = engine_at(&setting, now() + 100, LIVE).await;
    fault(little.verify(&request).await);
    assert!(says(&little, "clock is ahead"));
    drop(little);

    for age_max in [LIVE, None] {
        let behind = engine_at(&setting, now() - 400 * 24 * 3600, age_max).await;
        let told = fault(behind.verify(&request).await);
        assert_eq!(told.kind, FaultKind::Misconfigured);
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

/// While a payment waited in its lane the clock jumped: it was told `settlement_expired`, after which buyers sign another
/// payment, and its authorization was good for minutes.
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
    let (mut settled, mut given_back) = (0, Vec::new());
    for (asking, request) in asking.into_iter().zip(requests) {
        match asking.await.unwrap() {
            Ok(answer) if answer.success => settled += 1,
            Ok(verdict) => panic!("{verdict:?}"),
            Err(_) => given_back.push(request),
        }
    }
    assert_eq!((settled, given_back.len()), (OUT, 1));
}

/// Any payer can sign any number of payments that open in a moment; each that was waited for held a place of its caller's
/// for five seconds.
#[tokio::test(flavor = "multi_thread")]
async fn only_so_many_payments_are_waited_for_at_once() {
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
                let told = fault(engine.verify(&request).await);
                assert_eq!(told.kind, FaultKind::NotYetValid);
                assert!(told.retry_after.is_some());
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
