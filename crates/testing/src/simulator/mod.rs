//! Engines in a world of faults, which all follow from one seed.
//!
//! [`simulate`] runs a [`Scenario`]: real engines with a [`SimulatedJournal`] and the simulated
//! chain, in one thread and on paused time. Callers send payments, while the network, the chain and
//! the engines suffer the faults of the plan. Then the faults stop, and a judge compares the chain
//! with the answers. The same plan always does the same, which [`Report::trace`] shows.
//!
//! To add a fault: add it to [`Trouble`], and let the link or the weather of the world cause and
//! count it. To test that the judge sees a bug: add it to [`Mutation`].
//!
//! It simulates the scheme `exact` only.

mod disk;
mod journal;
mod mutation;
mod random;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quittance_core::wire::SettleResponse;
use quittance_core::{Amount, Facilitator, FacilitatorError, PaymentRequest, Reason};
use quittance_engine::{Engine, Journal, Timing};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use crate::world::{PRICE, SimulatedExact, USD, World};

pub use journal::SimulatedJournal;
pub use mutation::Mutation;

use random::Random;
use wire::Wire;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Trouble {
    Delay,
    CallLost,
    AnswerLost,
    Duplicate,
    Refusal,
    StaleNode,
    MempoolDrop,
    Reorganisation,
    ReorganisationWithLoss,
    Crash,
}

impl Trouble {
    /// All kinds.
    pub const ALL: [Self; 10] = [
        Self::Delay,
        Self::CallLost,
        Self::AnswerLost,
        Self::Duplicate,
        Self::Refusal,
        Self::StaleNode,
        Self::MempoolDrop,
        Self::Reorganisation,
        Self::ReorganisationWithLoss,
        Self::Crash,
    ];
}

/// What a simulation does.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Where all random numbers come from.
    pub seed: u64,
    /// How many payments are made.
    pub payments: usize,
    /// How many engines share the journal.
    pub replicas: usize,
    /// The kinds of faults.
    pub troubles: BTreeSet<Trouble>,
    /// The planted bug.
    pub mutation: Option<Mutation>,
}

impl Scenario {
    /// The plan of a seed, without a planted bug.
    pub fn of(seed: u64) -> Self {
        let mut random = Random::new(seed);
        Self {
            seed,
            payments: 5 + random.below(12) as usize,
            replicas: 1 + random.below(3) as usize,
            troubles: Trouble::ALL.into_iter().collect(),
            mutation: None,
        }
    }
}

/// What a simulation did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// A digest of every step. Two runs of one plan have the same one.
    pub trace: u64,
    /// How many faults of each kind happened.
    pub troubles: BTreeMap<Trouble, u64>,
    /// How many payments were made.
    pub payments: usize,
    /// The simulated time.
    pub time: Duration,
    /// What the judge found.
    pub problems: Vec<String>,
}

/// How long the engines wait before they act: some blocks.
const TIMING: Timing = Timing::new()
    .with_look_every(Duration::from_millis(200))
    .with_resubmit_after(Duration::from_secs(1))
    .with_replace_after(Duration::from_secs(3))
    .with_dropped_after(Duration::from_secs(1))
    .with_sweep_every(Duration::from_secs(2))
    .with_lease(Duration::from_secs(3));

/// How long there are faults.
const STORM: Duration = Duration::from_secs(8);

/// How long everything may take after the faults. Authorizations are valid for sixty seconds.
const CALM_MAX: Duration = Duration::from_secs(40);

/// How often the chain makes a block.
const BLOCK: Duration = Duration::from_millis(400);

/// How long a caller waits before it asks again.
const ASK_AGAIN: Duration = Duration::from_millis(300);

/// The deepest reorganisation, in blocks: less than what makes a payment final.
const REORGANISED_MAX: u64 = 3;

/// What happened until now.
#[derive(Default)]
struct Log {
    trace: u64,
    troubles: BTreeMap<Trouble, u64>,
}

/// What all parts of a simulation share.
#[derive(Clone)]
struct Shared {
    plan: Arc<Scenario>,
    world: World,
    began: Instant,
    is_stormy: Arc<AtomicBool>,
    random: Arc<Mutex<Random>>,
    log: Arc<Mutex<Log>>,
}

impl Shared {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn below(&self, end: u64) -> u64 {
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        random.below(end)
    }

    /// Adds a step to the trace: FNV-1a of the time and the text.
    fn note(&self, what: &str) {
        let at = self.began.elapsed().as_millis();
        let mut log = self.log();
        for byte in format!("{at} {what}").bytes() {
            log.trace = (log.trace ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// Whether a fault of this kind happens now, which it does this many times in a hundred.
    fn strikes(&self, trouble: Trouble, chance: u64) -> bool {
        let strikes = self.below(100) < chance
            && self.is_stormy.load(Ordering::SeqCst)
            && self.plan.troubles.contains(&trouble);
        if strikes {
            *self.log().troubles.entry(trouble).or_default() += 1;
            self.note(&format!("{trouble:?}"));
        }
        strikes
    }
}

/// One engine of now, and what tells its callers that its process has ended.
#[derive(Clone)]
struct Running {
    engine: Engine,
    /// Wakes in the order of waiting. A `watch` would wake in a random order.
    ended: Arc<Notify>,
}

type Slot = Arc<Mutex<Option<Running>>>;

fn running(slot: &Slot) -> Option<Running> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// What the callers of one payment were heard.
#[derive(Default)]
struct Heard {
    successes: u64,
    /// How many answers a crash took away.
    cut: u64,
    others: Vec<String>,
}

impl Heard {
    /// Notes an answer; `None` if a crash took it away. Returns whether it was the last one.
    fn hear(&mut self, answer: Option<Result<SettleResponse, FacilitatorError>>) -> bool {
        match answer {
            None => self.cut += 1,
            Some(Ok(answer)) if answer.success => {
                self.successes += 1;
                return true;
            }
            Some(Ok(answer)) if !answer.is_pending() => {
                self.others.push(answer.error_reason.unwrap_or_default());
                return true;
            }
            Some(_) => {}
        }
        false
    }
}

/// Runs a plan in this thread.
///
/// # Panics
/// When the runtime cannot be made.
pub fn simulate(plan: &Scenario) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(run(Arc::new(plan.clone())))
}

async fn run(plan: Arc<Scenario>) -> Report {
    let shared = Shared {
        world: World::new(),
        began: Instant::now(),
        is_stormy: Arc::new(AtomicBool::new(true)),
        random: Arc::new(Mutex::new(Random::new(plan.seed ^ 0x5157))),
        log: Arc::default(),
        plan: Arc::clone(&plan),
    };
    let journal = SimulatedJournal::with(plan.seed, plan.mutation);
    tokio::spawn(weather(shared.clone()));
    let slots: Vec<Slot> = (0..plan.replicas).map(|_| Slot::default()).collect();
    for slot in &slots {
        tokio::spawn(process(
            shared.clone(),
            journal.another_replica(),
            Arc::clone(slot),
        ));
    }
    let mut heard = Vec::new();
    let mut callers = tokio::task::JoinSet::new();
    let mut requests = Vec::new();
    for at in 0..plan.payments {
        let request = shared
            .world
            .request(&shared.world.payer(at as u8 % 4))
            .await;
        let one: Arc<Mutex<Heard>> = Arc::default();
        for _ in 0..=shared.below(2) {
            let start = Duration::from_millis(shared.below(6_000));
            let call = caller(
                shared.clone(),
                slots.clone(),
                (at, request.clone(), start),
                Arc::clone(&one),
            );
            callers.spawn(call);
        }
        heard.push(one);
        requests.push(request);
    }
    sleep(STORM).await;
    shared.is_stormy.store(false, Ordering::SeqCst);
    let ended = timeout(CALM_MAX, async {
        while callers.join_next().await.is_some() {}
        while !is_over(&shared, &slots, &requests) {
            sleep(ASK_AGAIN).await;
        }
        // What still runs may do something wrong.
        sleep(Duration::from_secs(5)).await;
    });
    let mut problems = Vec::new();
    if ended.await.is_err() {
        problems.push("not everything ended in time".to_owned());
    }
    judge(&shared, &journal, &requests, &heard, &mut problems).await;
    let log = shared.log();
    Report {
        trace: log.trace,
        troubles: log.troubles.clone(),
        payments: plan.payments,
        time: shared.began.elapsed(),
        problems,
    }
}

/// How many times a payment has moved money.
fn moved(world: &World, request: &PaymentRequest) -> u64 {
    let authorization = World::transfer_of(request).authorization;
    world.transfers(&authorization.from, &authorization.nonce)
}

fn is_over(shared: &Shared, slots: &[Slot], requests: &[PaymentRequest]) -> bool {
    let is_idle = |slot| running(slot).is_some_and(|one| one.engine.in_progress() == 0);
    slots.iter().all(is_idle) && requests.iter().all(|one| moved(&shared.world, one) == 1)
}

/// Moves the clock, makes blocks, and troubles the chain.
async fn weather(shared: Shared) {
    let world = &shared.world;
    let clock = world.clock();
    let start = world.now();
    loop {
        sleep(BLOCK).await;
        clock.set(start.plus_secs(shared.began.elapsed().as_secs()));
        if shared.strikes(Trouble::MempoolDrop, 8) {
            world.forget_waiting();
        }
        let depth = 1 + shared.below(REORGANISED_MAX) as usize;
        if shared.strikes(Trouble::Reorganisation, 8) {
            world.reorganize(depth);
        } else if shared.strikes(Trouble::ReorganisationWithLoss, 5) {
            world.reorganize_and_forget(depth);
        }
        world.include();
    }
}

/// A process that crashes, and starts again as another replica.
async fn process(shared: Shared, first: SimulatedJournal, slot: Slot) {
    loop {
        let journal = first.another_replica();
        let has_crashed = journal.crash_switch();
        let wire = Wire::new(shared.clone(), Arc::clone(&has_crashed));
        let chain = shared.world.chain().over(Arc::new(wire));
        let exact = Arc::new(SimulatedExact::new(&chain));
        let starting = Engine::builder(journal)
            .chain(chain, vec![exact])
            .clock(shared.world.clock())
            .timing(TIMING)
            .settle_wait(Duration::from_secs(3))
            .verify_inline()
            .start();
        let Ok(engine) = starting.await else {
            sleep(ASK_AGAIN).await;
            continue;
        };
        let ended = Arc::new(Notify::new());
        let end = Arc::clone(&ended);
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(Running { engine, ended });
        // At any millisecond, so at any await point.
        loop {
            sleep(Duration::from_millis(500 + shared.below(1_000))).await;
            if shared.strikes(Trouble::Crash, 15) {
                break;
            }
        }
        has_crashed.store(true, Ordering::SeqCst);
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = None;
        end.notify_waiters();
        sleep(Duration::from_millis(shared.below(1_500))).await;
    }
}

/// Asks for one payment until the answer is final.
async fn caller(
    shared: Shared,
    slots: Vec<Slot>,
    (at, request, start): (usize, PaymentRequest, Duration),
    heard: Arc<Mutex<Heard>>,
) {
    sleep(start).await;
    loop {
        let slot = &slots[shared.below(slots.len() as u64) as usize];
        let Some(Running { engine, ended }) = running(slot) else {
            sleep(ASK_AGAIN).await;
            continue;
        };
        let answer = tokio::select! {
            biased;
            () = ended.notified() => None,
            answer = engine.settle(&request) => Some(answer),
        };
        drop(engine);
        shared.note(&format!("{at} {answer:?}"));
        if heard
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .hear(answer)
        {
            return;
        }
        sleep(ASK_AGAIN).await;
    }
}

/// Compares the chain with the answers.
async fn judge(
    shared: &Shared,
    journal: &SimulatedJournal,
    requests: &[PaymentRequest],
    heard: &[Arc<Mutex<Heard>>],
    problems: &mut Vec<String>,
) {
    let world = &shared.world;
    judge_payments(world, requests, heard, problems);
    for id in world.included_ids() {
        let steps = journal.settlements_of(&id).await;
        if !steps.is_ok_and(|steps| !steps.is_empty()) {
            problems.push(format!("the transaction {id} was lost"));
        }
    }
}

/// Every payment moved once, and succeeded once unless a crash took its answer away.
fn judge_payments(
    world: &World,
    requests: &[PaymentRequest],
    heard: &[Arc<Mutex<Heard>>],
    problems: &mut Vec<String>,
) {
    let mut sum = 0;
    for (at, (request, heard)) in requests.iter().zip(heard).enumerate() {
        let moved = moved(world, request);
        sum += moved * PRICE;
        let heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
        let (successes, others) = (heard.successes, &heard.others);
        if moved != 1 {
            problems.push(format!("payment {at} moved {moved} times"));
        }
        if successes > 1 {
            problems.push(format!("payment {at} succeeded {successes} times"));
        }
        if successes == 0 && heard.cut == 0 {
            problems.push(format!("payment {at} has no success: {others:?}"));
        }
        let duplicate = Reason::DUPLICATE_SETTLEMENT;
        if others.iter().any(|reason| reason != duplicate.code()) {
            problems.push(format!("payment {at} was refused: {others:?}"));
        }
    }
    if world.balance(&world.seller(), USD) != Amount::from(sum) {
        problems.push("the seller has another sum".to_owned());
    }
}

/// The smallest plan that still fails, starting from a plan that fails.
pub fn minimise(plan: &Scenario) -> Scenario {
    let mut smallest = plan.clone();
    let fails = |plan: &Scenario| !simulate(plan).problems.is_empty();
    for trouble in Trouble::ALL {
        let mut smaller = smallest.clone();
        if smaller.troubles.remove(&trouble) && fails(&smaller) {
            smallest = smaller;
        }
    }
    while smallest.replicas > 1 {
        let replicas = smallest.replicas - 1;
        let smaller = Scenario {
            replicas,
            ..smallest.clone()
        };
        if !fails(&smaller) {
            break;
        }
        smallest = smaller;
    }
    while smallest.payments > 1 {
        let payments = smallest.payments - 1;
        let smaller = Scenario {
            payments,
            ..smallest.clone()
        };
        if !fails(&smaller) {
            break;
        }
        smallest = smaller;
    }
    smallest
}
