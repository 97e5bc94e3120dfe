//! Payments that share a state record: vouchers of a channel, and the deposits into it.
#![allow(clippy::unwrap_used, reason = "a test that cannot continue panics")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use quittance_core::json::Object;
use quittance_core::wire::SettleResponse;
use quittance_core::{
    Amount, Check, Effect, Facilitator, Observed, Payment, PaymentInfo, PaymentRequest, Plan,
    Reason, Refusal, Rejection, RequestCaller, Scheme, SchemeReceipt, SchemeState, SignatureClaim,
    StateAccess, StateChange, StateId, StateStore, Timestamp, Upkeep,
};
use quittance_engine::{Engine, StateKind};
use quittance_testing::until;
use quittance_testing::world::{
    Environment, Evidence, PRICE, SimulatedChain, SimulatedExact, Transfer, USD, World,
};
use serde_json::{Value, json};

const BUSY: Reason = Reason::new("invalid_channel_busy");
const NOT_OURS: Reason = Reason::new("invalid_channel_sweep_by_another_caller");
const MISMATCH: Reason = Reason::new("invalid_channel_ceiling_mismatch");

/// Channels without a contract: a voucher charges the price off chain if its ceiling is all that
/// was charged before and the price; a deposit pays the seller on the chain.
struct Channels {
    exact: SimulatedExact,
    hold: Duration,
    /// What to settle once a voucher was charged.
    sweep: Option<PaymentRequest>,
    /// How many times `upkeep` was called.
    upkeeps: Arc<AtomicUsize>,
}

struct Act {
    payment: Box<dyn Payment<SimulatedChain>>,
    access: StateAccess,
    /// `None` for a deposit.
    ceiling: Option<u64>,
    /// Whether its channel is swept next.
    is_swept: bool,
}

/// The content of a channel's record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Channel {
    deposited: u64,
    charged: u64,
}

impl Channel {
    fn read(state: Option<&SchemeState>) -> Self {
        let fields =
            |state: &SchemeState| -> Value { serde_json::from_slice(&state.state).unwrap() };
        state.map(fields).map_or_else(Self::default, |fields| Self {
            deposited: fields["deposited"].as_u64().unwrap(),
            charged: fields["charged"].as_u64().unwrap(),
        })
    }

    fn json(self) -> Value {
        json!({ "deposited": self.deposited, "charged": self.charged })
    }
}

fn channel_of(payer: &str) -> StateId {
    StateId::from_parts(&[b"channel", payer.as_bytes()])
}

impl Scheme<SimulatedChain> for Channels {
    fn name(&self) -> &str {
        "exact"
    }

    fn assets(&self) -> Vec<String> {
        self.exact.assets()
    }

    fn extensions(&self) -> &[&str] {
        &["channels"]
    }

    fn upkeep(&self, due: &[SchemeState], _: Timestamp) -> Upkeep {
        self.upkeeps.fetch_add(1, Ordering::Relaxed);
        Upkeep {
            requests: self.sweep.iter().cloned().collect(),
            seen: due.iter().cloned().map(|state| (state, None)).collect(),
            ..Upkeep::default()
        }
    }

    fn decode(
        &self,
        request: &PaymentRequest,
        now: Timestamp,
    ) -> Result<Box<dyn Payment<SimulatedChain>>, Refusal> {
        let payment = self.exact.decode(request, now)?;
        let nonce = World::transfer_of(request).authorization.nonce;
        if nonce[0] == SWEEP && *request.caller() != RequestCaller::Engine {
            return Err(NOT_OURS.into());
        }
        let ceiling =
            (nonce[0] == VOUCHER).then(|| u64::from_be_bytes(nonce[1..9].try_into().unwrap()));
        let access = StateAccess::new(channel_of(&payment.info().payer), BUSY);
        let access = access.held_for(self.hold);
        let access = match ceiling {
            Some(_) => access,
            None => access.exclusive(),
        };
        Ok(Box::new(Act {
            payment,
            access,
            ceiling,
            is_swept: self.sweep.is_some(),
        }))
    }
}

impl Payment<SimulatedChain> for Act {
    fn info(&self) -> &PaymentInfo {
        self.payment.info()
    }

    fn signatures(&self) -> &[SignatureClaim] {
        self.payment.signatures()
    }

    fn state_access(&self) -> Option<&StateAccess> {
        Some(&self.access)
    }

    fn check(
        &self,
        observed: &Observed<'_, SimulatedChain>,
    ) -> Result<Check<SimulatedChain>, Rejection> {
        let Some(ceiling) = self.ceiling else {
            return self.payment.check(observed);
        };
        assert_eq!(observed.signatures, [true]);
        let charged = Channel::read(observed.state).charged;
        match ceiling == charged + PRICE {
            true => Ok(Check::Valid),
            false => {
                let rejection = Rejection::new(MISMATCH, format_args!("{charged} were charged"));
                let state = Object::of(&json!({ "charged": charged })).unwrap();
                Err(rejection.with_extra(state))
            }
        }
    }

    fn plan(
        &self,
        amount: Amount,
        observed: &Observed<'_, SimulatedChain>,
    ) -> Result<Plan<Transfer>, Rejection> {
        match self.ceiling {
            Some(_) => Ok(Plan::OffChain),
            None => self.payment.plan(amount, observed),
        }
    }

    fn state_after(
        &self,
        _: Amount,
        observed: &Observed<'_, SimulatedChain>,
        evidence: Option<&Evidence>,
    ) -> StateChange {
        assert_eq!(evidence.is_some(), self.ceiling.is_none());
        let mut channel = Channel::read(observed.state);
        match self.ceiling {
            Some(_) => channel.charged += PRICE,
            None => channel.deposited += PRICE,
        }
        let due = (self.is_swept && self.ceiling.is_some()).then_some(observed.now);
        let mut extra = channel.json();
        extra["answers"] = observed.answers.len().into();
        StateChange {
            state: Some((channel.json().to_string().into_bytes(), due)),
            receipt: SchemeReceipt {
                amount: Some(String::new()),
                extra: Some(Object::of(&extra).unwrap()),
            },
        }
    }

    fn verify_extra(&self, observed: &Observed<'_, SimulatedChain>) -> Option<Object> {
        Object::of(&Channel::read(observed.state).json()).ok()
    }

    fn effect(&self, amount: Amount, evidence: &Evidence) -> Effect {
        self.payment.effect(amount, evidence)
    }
}

const VOUCHER: u8 = 0;
const DEPOSIT: u8 = 1;
const SWEEP: u8 = 2;

/// An act of payer 0. The number makes it different from others of its kind.
async fn act(setting: &Environment, kind: u8, ceiling: u64, number: u8) -> PaymentRequest {
    let request = setting.request().await;
    let mut authorization = World::transfer_of(&request).authorization;
    authorization.nonce = [number; 32];
    authorization.nonce[0] = kind;
    authorization.nonce[1..9].copy_from_slice(&ceiling.to_be_bytes());
    let transfer = authorization.sign(setting.world.network(), &World::payer_key(0));
    let mut text: Value = serde_json::from_str(request.text()).unwrap();
    text["paymentPayload"]["payload"] = serde_json::to_value(&transfer).unwrap();
    PaymentRequest::decode(text.to_string().as_bytes()).unwrap()
}

async fn voucher(setting: &Environment, ceiling: u64, number: u8) -> PaymentRequest {
    act(setting, VOUCHER, ceiling * PRICE, number).await
}

async fn engine(setting: &Environment, hold: Duration) -> Engine {
    let chain = setting.world.chain();
    let exact = SimulatedExact::new(&chain);
    let scheme = Arc::new(Channels {
        exact,
        hold,
        sweep: None,
        upkeeps: Arc::default(),
    });
    let builder = setting.builder().await.chain(chain, vec![scheme]);
    builder.start().await.unwrap()
}

async fn stop(engine: Engine) {
    engine.shut_down(Duration::ZERO).await;
}

/// The channel of payer 0 in the journal, once no engine has the journal open.
async fn channel(setting: &Environment) -> (Channel, u64) {
    let id = channel_of(&setting.world.payer(0).account().to_string());
    let state = setting.journal().await.state(&id).await.unwrap();
    let revision = state.as_ref().map_or(0, |state| state.revision);
    (Channel::read(state.as_ref()), revision)
}

fn reason(answer: &SettleResponse) -> Option<&str> {
    answer.error_reason.as_deref()
}

#[tokio::test]
async fn each_voucher_is_charged_once_without_a_transaction() {
    let setting = Environment::new();
    for (run, number) in [(0, 1), (1, 2)] {
        let engine = engine(&setting, Duration::ZERO).await;
        for ceiling in run * 3 + 1..=run * 3 + 3 {
            let voucher = voucher(&setting, ceiling, number).await;
            let verdict = engine.verify(&voucher).await.unwrap();
            let before = json!({ "deposited": 0, "charged": (ceiling - 1) * PRICE });
            assert!(verdict.is_valid, "{verdict:?}");
            assert_eq!(Value::from(verdict.extra.unwrap().tree()), before);
            let answer = engine.settle(&voucher).await.unwrap();
            assert!(answer.success, "{answer:?}");
            assert_eq!(
                (answer.transaction.as_str(), answer.amount.as_deref()),
                ("", Some(""))
            );
            assert_eq!(answer.extra.unwrap().tree()["charged"], ceiling * PRICE);
            let again = engine.settle(&voucher).await.unwrap();
            assert_eq!(reason(&again), Some(MISMATCH.code()));
            let verdict = engine.verify(&voucher).await.unwrap();
            for rejection in [again.rejection(), verdict.rejection()] {
                let corrected = rejection.unwrap().extra.unwrap().tree();
                assert_eq!(corrected["charged"], ceiling * PRICE);
            }
        }
        stop(engine).await;
    }
    let charged = Channel {
        deposited: 0,
        charged: 6 * PRICE,
    };
    assert_eq!(channel(&setting).await, (charged, 6));
    assert_eq!(setting.world.included_count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_concurrent_vouchers_with_one_ceiling_one_is_charged() {
    let setting = Environment::new();
    let engine = engine(&setting, Duration::ZERO).await;
    let vouchers = join_all((0..20).map(|number| voucher(&setting, 1, number))).await;
    let answers = join_all(vouchers.iter().map(|voucher| engine.settle(voucher))).await;
    let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
    let charged = answers.iter().filter(|answer| answer.success).count();
    let refused = answers
        .iter()
        .filter(|answer| reason(answer) == Some(MISMATCH.code()));
    assert_eq!((charged, refused.count()), (1, 19), "{answers:?}");
    stop(engine).await;
    assert_eq!(channel(&setting).await.0.charged, PRICE);
}

#[tokio::test]
async fn a_deposit_has_its_channel_for_itself_until_it_ends() {
    let setting = Environment::new();
    setting.world.includes_at_once(false);
    let first = engine(&setting, Duration::ZERO).await;
    let deposit = act(&setting, DEPOSIT, 0, 1).await;
    assert!(first.settle(&deposit).await.unwrap().is_pending());
    stop(first).await;
    // Over a restart too.
    let engine = engine(&setting, Duration::ZERO).await;
    for other in [
        voucher(&setting, 1, 1).await,
        act(&setting, DEPOSIT, 0, 2).await,
    ] {
        let answer = engine.settle(&other).await.unwrap();
        assert_eq!(reason(&answer), Some(BUSY.code()), "{answer:?}");
    }
    setting.world.includes_at_once(true);
    setting.world.include();
    let answer = engine.settle(&deposit).await.unwrap();
    assert!(answer.success, "{answer:?}");
    let extra = answer.extra.unwrap().tree();
    assert_eq!(extra["deposited"], PRICE);
    assert!(extra["settlement"].is_string());
    // What the chain answered before the deposit was sent is not kept over a restart.
    assert_eq!(extra["answers"], 0);
    assert!(
        engine
            .settle(&voucher(&setting, 1, 1).await)
            .await
            .unwrap()
            .success
    );
    stop(engine).await;
    let expected = Channel {
        deposited: PRICE,
        charged: PRICE,
    };
    assert_eq!(channel(&setting).await, (expected, 2));
    assert_eq!(setting.received(), Amount::from(PRICE));
}

/// A deposit that fails gives its channel back, and changes nothing.
#[tokio::test]
async fn a_failed_deposit_frees_its_channel() {
    let setting = Environment::new();
    setting.world.includes_at_once(false);
    let engine = engine(&setting, Duration::ZERO).await;
    let deposit = act(&setting, DEPOSIT, 0, 1).await;
    assert!(engine.settle(&deposit).await.unwrap().is_pending());
    let payer = setting.world.payer(0).account();
    setting.world.set_balance(payer, USD, Amount::ZERO);
    setting.world.includes_at_once(true);
    setting.world.include();
    let answer = engine.settle(&deposit).await.unwrap();
    assert!(!answer.success && !answer.is_pending(), "{answer:?}");
    assert!(
        engine
            .settle(&voucher(&setting, 1, 1).await)
            .await
            .unwrap()
            .success
    );
    stop(engine).await;
    assert_eq!(channel(&setting).await.0.deposited, 0);
}

#[tokio::test]
async fn a_verified_voucher_holds_its_channel_until_it_settles() {
    let setting = Environment::new();
    let engine = engine(&setting, Duration::from_secs(60)).await;
    let [first, second] = [voucher(&setting, 1, 1).await, voucher(&setting, 1, 2).await];
    assert!(engine.verify(&first).await.unwrap().is_valid);
    for other in [&second, &first] {
        let verdict = engine.verify(other).await.unwrap();
        assert_eq!(verdict.invalid_reason.as_deref(), Some(BUSY.code()));
    }
    assert!(engine.settle(&first).await.unwrap().success);
    // A payment with a transaction too.
    let deposit = act(&setting, DEPOSIT, 0, 1).await;
    assert!(engine.verify(&deposit).await.unwrap().is_valid);
    let answer = engine.settle(&deposit).await.unwrap();
    assert!(answer.success);
    assert_eq!(answer.extra.unwrap().tree()["answers"], 1);
    let next = voucher(&setting, 2, 1).await;
    assert!(engine.verify(&next).await.unwrap().is_valid);
}

async fn sweeping(
    setting: &Environment,
    sweep: &PaymentRequest,
    upkeeps: &Arc<AtomicUsize>,
) -> Engine {
    let chain = setting.world.chain();
    let scheme = Arc::new(Channels {
        exact: SimulatedExact::new(&chain),
        hold: Duration::ZERO,
        sweep: Some(sweep.clone()),
        upkeeps: Arc::clone(upkeeps),
    });
    let builder = setting.builder().await.chain(chain, vec![scheme]);
    builder.start().await.unwrap()
}

/// A scheme asks for its own acts when a record is due, and no other caller can.
#[tokio::test]
async fn a_due_record_is_looked_after_by_its_scheme_alone() {
    let setting = Environment::new();
    let sweep = act(&setting, SWEEP, 0, 1).await;
    let upkeeps = Arc::default();
    let engine = sweeping(&setting, &sweep, &upkeeps).await;
    let supported = engine.supported().await.unwrap();
    assert_eq!(supported.extensions, Some(vec!["channels".to_owned()]));
    for caller in [RequestCaller::Anyone, RequestCaller::Known("engine".into())] {
        let answer = engine.settle(&sweep.clone().by(caller)).await.unwrap();
        assert_eq!(reason(&answer), Some(NOT_OURS.code()));
    }
    let voucher = voucher(&setting, 1, 1).await;
    assert!(engine.settle(&voucher).await.unwrap().success);
    until("the channel was swept", || async {
        setting.received() == Amount::from(PRICE)
    })
    .await;
    // Once: the record is not due any more.
    setting.world.clock().advance(100);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(upkeeps.load(Ordering::Relaxed), 1);
    assert_eq!(setting.world.included_count(), 1);
    stop(engine).await;
}

/// With a clock that is ahead, every record is due, and would not be due again for years.
#[tokio::test]
async fn no_record_is_looked_after_while_the_clock_is_in_doubt() {
    let setting = Environment::new();
    let sweep = act(&setting, SWEEP, 0, 1).await;
    let upkeeps = Arc::default();
    let engine = sweeping(&setting, &sweep, &upkeeps).await;
    setting.world.contradict_clock(true);
    let start = setting.world.now();
    setting.world.clock().set(start.plus_secs(1_000_000_000));
    let voucher = voucher(&setting, 1, 1).await;
    assert!(engine.settle(&voucher).await.unwrap().success);
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(upkeeps.load(Ordering::Relaxed), 0);
    setting.world.contradict_clock(false);
    until("the channel is looked after", || async {
        upkeeps.load(Ordering::Relaxed) == 1
    })
    .await;
    stop(engine).await;
}

/// Who asked is known after a crash: else the sweep could not be read again.
#[tokio::test]
async fn an_act_of_the_engine_is_finished_after_a_crash() {
    let setting = Environment::new();
    setting.world.includes_at_once(false);
    let sweep = act(&setting, SWEEP, 0, 1).await;
    let first = sweeping(&setting, &sweep, &Arc::default()).await;
    let voucher = voucher(&setting, 1, 1).await;
    assert!(first.settle(&voucher).await.unwrap().success);
    until("the sweep was sent", || async {
        setting.world.waiting_count() == 1
    })
    .await;
    stop(first).await;
    setting.world.forget_waiting();
    setting.world.includes_at_once(true);
    let second = sweeping(&setting, &sweep, &Arc::default()).await;
    let authorization = World::transfer_of(&sweep).authorization;
    let id = authorization.id(setting.world.network());
    until("the sweep has settled", || async {
        let settlement = second.settlement(&id).await.unwrap().unwrap();
        settlement.state.kind() == StateKind::Settled
    })
    .await;
    assert_eq!(setting.received(), Amount::from(PRICE));
    stop(second).await;
}

#[test]
fn a_caller_is_read_as_it_was_written() {
    for caller in [
        RequestCaller::Anyone,
        RequestCaller::Known("a".into()),
        RequestCaller::Engine,
    ] {
        assert_eq!(
            RequestCaller::from_text(caller.to_text().as_deref()),
            caller
        );
    }
    assert_ne!(
        RequestCaller::Known("engine".into()).to_text(),
        RequestCaller::Engine.to_text()
    );
}
