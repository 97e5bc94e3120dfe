//! Holds whose deadline comes: the operator is warned, and the facilitator captures or voids them
//! if the operator wants it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::U256;
use quittance_core::{
    Amount, Clock, Facilitator, ManualClock, PaymentRequest, RequestCaller, Scheme, SchemeState,
    StateStore, SystemClock, Timestamp,
};
use quittance_engine::{Engine, Journal, SqliteJournal, Timing};
use quittance_evm::Evm;
use quittance_evm::auth_capture::{
    ACT_BEFORE_MIN_SECS, AuthCapture, AuthCaptureConfig, DeadlineAct, HoldRecord, reason, state_id,
};
use quittance_tests::evm::Setting;
use quittance_tests::holds::{Hold, balances, held};
use quittance_tests::until;
use serde_json::Value;

const TIMING: Timing = Timing::new().with_sweep_every(Duration::from_millis(100));

/// The life of a hold in these tests, in seconds.
const LIFE_SECS: u64 = 3600;

/// An engine that does this with holds whose deadline is near, on a chain whose clock can be moved.
struct Facility {
    setting: Setting,
    engine: Engine,
    clock: Arc<ManualClock>,
}

impl Facility {
    async fn new(act: DeadlineAct) -> Self {
        let setting = Setting::start().await;
        let clock = Arc::new(ManualClock::new(SystemClock.now()));
        let (evm, scheme) = parts(&setting, act);
        let builder = setting.builder().await.timing(TIMING);
        let builder = builder.clock(clock.clone()).chain(evm, vec![scheme]);
        let engine = builder.start().await.unwrap();
        Self {
            setting,
            engine,
            clock,
        }
    }

    /// Moves both clocks.
    async fn pass(&self, secs: u64) {
        let local = &self.setting.local;
        let _: Value = local.rpc("evm_increaseTime", (secs,)).await.unwrap();
        local.mine().await.unwrap();
        self.clock.advance(secs);
    }

    async fn settle(&self, request: &PaymentRequest) {
        let answer = self.engine.settle(request).await.unwrap();
        assert!(answer.success, "{answer:?}");
    }

    /// Waits until the hold has these balances.
    async fn has(&self, hold: &Hold, capturable: u128, refundable: u128) {
        let expected = balances(capturable, refundable);
        until("the balances", || async {
            hold.balances(&self.setting).await == expected
        })
        .await;
    }
}

/// The scheme that acts this long before the deadline.
fn acting_before(setting: &Setting, act: DeadlineAct, secs: u64) -> Result<(), String> {
    let evm = Evm::new(setting.config()).unwrap();
    let mut settings = AuthCaptureConfig::default();
    settings.deadlines.act = act;
    settings.deadlines.act_before = Duration::from_secs(secs);
    let scheme = AuthCapture::new(&evm).with_config(settings);
    scheme.map(|_| ()).map_err(|error| error.to_string())
}

fn parts(setting: &Setting, act: DeadlineAct) -> (Evm, Arc<dyn Scheme<Evm>>) {
    let evm = Evm::new(setting.config()).unwrap();
    let mut settings = AuthCaptureConfig::default();
    settings.deadlines.act = act;
    let scheme = AuthCapture::new(&evm).with_config(settings).unwrap();
    (evm, Arc::new(scheme))
}

fn new_hold() -> Hold {
    let now = SystemClock.now().secs();
    Hold::of(&Setting::buyer(), 100).with_deadlines(now + LIFE_SECS, now + 2 * LIFE_SECS)
}

/// All that is still held is captured a quarter of its time before the deadline, and not before.
#[tokio::test(flavor = "multi_thread")]
async fn a_hold_is_captured_before_it_is_lost() {
    let facility = Facility::new(DeadlineAct::Capture).await;
    let (hold, unbound) = (new_hold(), new_hold().unbound());
    facility.settle(&hold.authorize()).await;
    facility.settle(&hold.capture(30, balances(100, 0))).await;
    facility.settle(&unbound.authorize()).await;
    facility.pass(LIFE_SECS / 2).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(hold.balances(&facility.setting).await, balances(70, 30));
    facility.pass(LIFE_SECS / 4 + 10).await;
    facility.has(&hold, 0, 100).await;
    // The operator's own hold, which has no authorizer.
    facility.has(&unbound, 0, 100).await;
    assert_eq!(facility.setting.received().await, Amount::from(200));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_is_returned_before_its_payer_has_to_take_it() {
    let facility = Facility::new(DeadlineAct::Void).await;
    let hold = new_hold();
    facility.settle(&hold.authorize()).await;
    facility.pass(3 * LIFE_SECS / 4 + 10).await;
    facility.has(&hold, 0, 0).await;
    assert_eq!(held(&facility.setting).await, U256::ZERO);
    assert_eq!(facility.setting.received().await, Amount::ZERO);
}

/// Only the engine itself acts without a signature: no text on the wire can name it.
#[tokio::test(flavor = "multi_thread")]
async fn a_facilitator_that_waits_acts_for_no_caller() {
    let facility = Facility::new(DeadlineAct::Wait).await;
    let hold = new_hold();
    facility.settle(&hold.authorize()).await;
    let unsigned = quittance_tests::evm::set(
        &hold.void(),
        "/paymentPayload/payload/authorizerSignature",
        serde_json::json!("0x"),
    );
    for caller in [RequestCaller::Anyone, RequestCaller::Known("engine".into())] {
        let answer = facility.engine.settle(&unsigned.clone().by(caller)).await;
        let reason = answer.unwrap().error_reason;
        let expected = reason::UNAUTHENTICATED_AUTHORIZER_REQUEST;
        assert_eq!(reason.as_deref(), Some(expected.code()));
    }
    facility.pass(LIFE_SECS - 100).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(hold.balances(&facility.setting).await, balances(100, 0));
    // After the deadline a capture comes too late, and the payer has its money.
    facility.pass(101).await;
    let late = facility
        .engine
        .settle(&hold.capture(10, balances(100, 0)))
        .await;
    let expected = reason::CAPTURE_DEADLINE_EXPIRED;
    assert_eq!(late.unwrap().error_reason.as_deref(), Some(expected.code()));
    hold.reclaim(&facility.setting).await;
}

/// The record of a hold as the facilitator has written it.
async fn record_of(facility: Facility, hold: &Hold) -> (Setting, SchemeState) {
    let Facility {
        setting, engine, ..
    } = facility;
    drop(engine);
    let journal = setting.journal().await;
    let record = journal.state(&state_id(&hold.id())).await.unwrap().unwrap();
    drop(journal);
    (setting, record)
}

/// An operator that acts by itself is warned, again and again, until the hold is over.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_is_warned_before_a_hold_is_lost() {
    let facility = Facility::new(DeadlineAct::Wait).await;
    let hold = new_hold();
    facility.settle(&hold.authorize()).await;
    let (setting, record) = record_of(facility, &hold).await;
    let deadline = hold.terms.authorization_expiry;
    let known = HoldRecord::read(&record).unwrap();
    assert_eq!(known.balances, balances(100, 0));
    // A day before the deadline is before the hold was made, so it is half of its time.
    let due = record.due.unwrap().secs();
    assert!(
        due.abs_diff(deadline - LIFE_SECS / 2) <= 5,
        "{due} {deadline}"
    );
    let (_, scheme) = parts(&setting, DeadlineAct::Wait);
    let upkeep = |now: u64| scheme.upkeep(std::slice::from_ref(&record), Timestamp::from_secs(now));
    let mut now = due;
    let mut warnings = 0;
    loop {
        let upkeep = upkeep(now);
        assert!(upkeep.requests.is_empty());
        let (_, next) = upkeep.seen.first().cloned().unwrap();
        let Some(next) = next else { break };
        assert_eq!(upkeep.warnings.len(), 1, "{now}");
        assert!(upkeep.warnings[0].detail.contains("100 atomic units"));
        assert!(next.secs() > now);
        (now, warnings) = (next.secs(), warnings + 1);
    }
    assert!((2..=4).contains(&warnings), "{warnings}");
    assert!(now >= deadline);
    let unreadable = SchemeState {
        state: b"{}".to_vec(),
        ..record.clone()
    };
    let odd = scheme.upkeep(&[unreadable], Timestamp::from_secs(due));
    assert!(odd.requests.is_empty() && odd.seen[0].1.is_none());
}

/// An act that is a try too late loses the hold, and an operator that cannot act must know.
#[tokio::test(flavor = "multi_thread")]
async fn an_act_has_time_for_a_second_try_and_warns_if_it_fails() {
    let facility = Facility::new(DeadlineAct::Wait).await;
    let hold = new_hold();
    facility.settle(&hold.authorize()).await;
    let (setting, record) = record_of(facility, &hold).await;
    for act in [DeadlineAct::Capture, DeadlineAct::Void] {
        assert!(acting_before(&setting, act, ACT_BEFORE_MIN_SECS - 1).is_err());
        assert_eq!(acting_before(&setting, act, ACT_BEFORE_MIN_SECS), Ok(()));
    }
    assert_eq!(acting_before(&setting, DeadlineAct::Wait, 0), Ok(()));

    let deadline = hold.terms.authorization_expiry;
    let (_, scheme) = parts(&setting, DeadlineAct::Capture);
    let upkeep = |state: &SchemeState, now: u64| {
        scheme.upkeep(std::slice::from_ref(state), Timestamp::from_secs(now))
    };
    let first = upkeep(&record, deadline - LIFE_SECS / 4 + 5);
    assert_eq!((first.requests.len(), first.warnings.len()), (1, 0));
    let late = upkeep(&record, deadline - LIFE_SECS / 4 + 120);
    assert_eq!((late.requests.len(), late.warnings.len()), (1, 1));
    assert!(late.warnings[0].detail.contains("earlier attempts"));
    // A hold that is shorter than the time for two tries.
    let mut short = HoldRecord::read(&record).unwrap();
    short.made_at = Timestamp::from_secs(deadline - ACT_BEFORE_MIN_SECS + 10);
    let content = short.to_content();
    let short_state = SchemeState {
        state: content,
        ..record.clone()
    };
    let at_once = upkeep(&short_state, short.made_at.secs());
    assert_eq!((at_once.requests.len(), at_once.warnings.len()), (1, 0));
    // Its token is configured no more.
    short.terms.token = Setting::seller().address;
    let content = short.to_content();
    let foreign = SchemeState {
        state: content,
        ..record
    };
    let unable = upkeep(&foreign, short.made_at.secs());
    assert_eq!((unable.requests.len(), unable.warnings.len()), (0, 1));
    assert!(unable.warnings[0].detail.contains("not configured"));
    assert!(unable.seen.is_empty());
}

/// The capture is in time, and its void comes after the deadline. It was dropped, and the answer
/// said that the capture has failed.
#[tokio::test(flavor = "multi_thread")]
async fn the_void_of_a_capture_has_no_deadline() {
    let facility = Facility::new(DeadlineAct::Wait).await;
    let (setting, hold) = (&facility.setting, new_hold());
    facility.settle(&hold.authorize()).await;
    facility.pass(LIFE_SECS - 120).await;
    setting.hold().await;
    let close = hold.capture_and_void(30, balances(100, 0));
    let answer = facility.engine.settle(&close).await.unwrap();
    assert!(answer.is_pending(), "{answer:?}");
    // The capture is included before the deadline, and seen after it.
    facility.clock.advance(130);
    setting.local.mine().await.unwrap();
    let _: Value = setting.local.rpc("evm_increaseTime", (130,)).await.unwrap();
    setting.go_on().await;
    facility.has(&hold, 0, 30).await;
    until("the answer", || async {
        let answer = facility.engine.settle(&close).await;
        answer.is_ok_and(|answer| answer.success)
    })
    .await;
}

/// `quittance holds` reads the journal while the facilitator has it open.
#[tokio::test(flavor = "multi_thread")]
async fn open_holds_can_be_listed_while_the_facilitator_runs() {
    let facility = Facility::new(DeadlineAct::Capture).await;
    let (first, second) = (new_hold(), new_hold());
    facility.settle(&first.authorize()).await;
    facility.settle(&second.authorize()).await;
    facility.settle(&second.capture(30, balances(100, 0))).await;
    let path = facility.setting.journal_path();
    let (_, scheme) = parts(&facility.setting, DeadlineAct::Capture);
    let journal = SqliteJournal::open_read_only(&path).await.unwrap();
    let (mut open, mut after) = (Vec::new(), None);
    // Page by page.
    loop {
        let page = journal.states(after.as_ref(), 1).await.unwrap();
        let Some(stored) = page.first() else { break };
        assert_eq!((page.len(), &*stored.record.scheme), (1, scheme.name()));
        open.push(scheme.summary(&stored.record, SystemClock.now()).unwrap());
        after = Some(stored.record.id);
    }
    open.sort_by_key(|summary| summary.open);
    let amounts: Vec<_> = open.iter().map(|summary| summary.open).collect();
    assert_eq!(amounts, [Amount::from(70), Amount::from(100)]);
    let until = Timestamp::from_secs(second.terms.authorization_expiry);
    assert_eq!(open[0].until, Some(until));
    assert_eq!(open[0].payer, Setting::buyer().address.to_checksum(None));
    assert!(
        open[0].next.starts_with("captures it in "),
        "{}",
        open[0].next
    );
}
