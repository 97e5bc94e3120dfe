//! The properties of every scheme's life: of the acts that follow and exclude each other.
//!
//! A life is what one authorization, one channel or one hold goes through. A fixture lists its
//! acts. The suite asks for each of them again and again, for every two of them at once, and ends
//! the process at every write. Each act must succeed at most once, and the books of the chain must
//! show exactly the acts that succeeded. If an act releases nothing, each repeat of it is answered
//! with the same success.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use quittance_core::wire::SettleResponse;
use quittance_core::{
    Amount, Chain, Clock, Facilitator, PaymentRequest, Reason, Scheme, StateStore, SystemClock,
};
use quittance_engine::{
    Engine, EngineBuilder, Journal, Settlement, SqliteJournal, StateKind, Timing,
};
use tempfile::TempDir;

use super::scheme::{Answer, EngineParts, decided, is_busy};
use crate::flaky::{CrashPoint, Failing, FlakyJournal};
use crate::{open_journal, until};

/// The waiting times of the suite's engines: short, because each life starts several engines.
const TIMING: Timing = Timing::new()
    .with_look_every(Duration::from_millis(20))
    .with_resubmit_after(Duration::from_millis(200))
    .with_replace_after(Duration::from_secs(2))
    .with_dropped_after(Duration::from_millis(200))
    .with_sweep_every(Duration::from_millis(200));

/// How long /settle waits: longer than a busy machine needs for an act.
const SETTLE_WAIT: Duration = Duration::from_secs(5);

/// How long the chain includes nothing while acts race, so that they are in progress together.
const OVERLAP: Duration = Duration::from_millis(60);

/// How many requests for one act are made at once.
const COPIES: usize = 3;

/// More writes than any act takes. An act that takes more never ends.
const WRITES_MAX: usize = 40;

/// One act of a life: what one request asks for, at most once.
#[derive(Clone)]
pub struct Act {
    /// Its name, which no other act of the life has.
    pub name: &'static str,
    /// The request for it.
    pub request: PaymentRequest,
    /// The acts that must have succeeded before.
    pub after: Vec<&'static str>,
    /// The acts that cannot succeed any more once this one has. Two acts that name each other
    /// never both succeed.
    pub excludes: Vec<&'static str>,
    /// Whether /verify calls the request valid while the act is possible. It need not for a request
    /// that is only settled, such as a charge of less than what was verified, or a claim.
    pub is_verified: bool,
}

impl Act {
    /// An act that is possible at once, is verified, and excludes no other.
    pub const fn new(name: &'static str, request: PaymentRequest) -> Self {
        Self {
            name,
            request,
            after: Vec::new(),
            excludes: Vec::new(),
            is_verified: true,
        }
    }

    /// The same, by a request that is only settled.
    #[must_use]
    pub fn settled_only(mut self) -> Self {
        self.is_verified = false;
        self
    }

    /// The same, possible only after these acts.
    #[must_use]
    pub fn after(mut self, names: &[&'static str]) -> Self {
        self.after.extend(names);
        self
    }

    /// The same, after which these acts are not possible any more.
    #[must_use]
    pub fn excludes(mut self, names: &[&'static str]) -> Self {
        self.excludes.extend(names);
        self
    }
}

/// A scheme in an environment of its own, with the acts of its lives.
///
/// [`OneAct`] makes one of the fixture of a scheme whose payments are one act each.
#[async_trait]
pub trait LifeFixture: Send + Sync + Sized {
    /// The chain of the scheme.
    type Chain: Chain;

    /// A chain that includes transactions at once.
    async fn new() -> Self;

    /// The clock that the chain's blocks agree with.
    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(SystemClock)
    }

    /// A new chain as an engine uses it, with the scheme on it.
    fn parts(&self) -> (Self::Chain, Arc<dyn Scheme<Self::Chain>>);

    /// A builder for an engine with this journal, and without a chain.
    fn builder(&self, journal: impl Journal) -> EngineBuilder {
        Engine::builder(journal)
            .clock(self.clock())
            .timing(TIMING)
            .settle_wait(SETTLE_WAIT)
    }

    /// The acts of a new life, in an order in which they can succeed. Each is valid for minutes.
    async fn acts(&self) -> Vec<Act>;

    /// How many times each of these acts has taken effect, by the books of the chain. For an act
    /// that sends nothing, by its state record, or `None` if no books show it.
    ///
    /// The engine must not be asked: it is under test. The acts are those of the newest life.
    async fn effects(&self, acts: &[Act], records: &dyn StateStore) -> Vec<Option<u64>>;

    /// From now on the chain includes nothing.
    async fn hold(&self);

    /// The chain includes what waits, and continues as before.
    async fn go_on(&self);
}

super::suite!($ life, life_conformance, LifeFixture:
    every_act_succeeds_once_in_its_turn
    of_concurrent_requests_for_one_act_one_succeeds
    two_acts_at_once_succeed_once_or_exclude_each_other
    a_crash_at_any_write_of_an_act_repeats_nothing
    a_crash_at_any_write_of_a_race_repeats_nothing
);

/// Each act can be the first one that is not needed before, and then the life goes on to its end.
pub async fn every_act_succeeds_once_in_its_turn<F: LifeFixture>() {
    let fixture = F::new().await;
    for name in names(&fixture).await {
        let mut life = Life::begin(&fixture).await;
        let engine = life.engine().await;
        life.reach(&engine, &[name]).await;
        life.ask(&engine, name).await;
        life.finish(engine).await;
    }
}

/// Of all concurrent callers with one request, one gets a success.
pub async fn of_concurrent_requests_for_one_act_one_succeeds<F: LifeFixture>() {
    let fixture = F::new().await;
    for name in names(&fixture).await {
        let mut life = Life::begin(&fixture).await;
        let engine = life.engine().await;
        life.reach(&engine, &[name]).await;
        life.race(&engine, &[name]).await;
        life.finish(engine).await;
    }
}

/// Two acts are in progress at the same time. Both end, and if they exclude each other, at most one
/// of them succeeds.
pub async fn two_acts_at_once_succeed_once_or_exclude_each_other<F: LifeFixture>() {
    let fixture = F::new().await;
    let names = names(&fixture).await;
    for (at, first) in names.iter().enumerate() {
        for second in &names[at + 1..] {
            let pair = [*first, *second];
            let mut life = Life::begin(&fixture).await;
            let engine = life.engine().await;
            life.reach(&engine, &pair).await;
            life.race(&engine, &pair).await;
            life.finish(engine).await;
        }
    }
}

/// The process ends before or after any write of an act. For one of the acts it also ends again at
/// the first write of the next process. Then the act succeeds once, unless only its answer was
/// lost.
pub async fn a_crash_at_any_write_of_an_act_repeats_nothing<F: LifeFixture>() {
    let fixture = F::new().await;
    for (at, name) in names(&fixture).await.into_iter().enumerate() {
        for (is_written, crashes_again) in [(false, false), (true, false), (false, true)] {
            // Recovery is the same for all acts, so one of them is enough for a second crash.
            if crashes_again && at > 0 {
                continue;
            }
            for write in 1..=WRITES_MAX {
                let point = CrashPoint { write, is_written };
                let mut life = Life::begin(&fixture).await;
                let engine = life.engine().await;
                life.reach(&engine, &[name]).await;
                stop(engine).await;
                let is_over = !life.crash(&[name], 1, point).await;
                if crashes_again {
                    let first = CrashPoint {
                        write: 1,
                        is_written: true,
                    };
                    life.crash(&[name], 1, first).await;
                }
                // The others come while the act is being resumed.
                let all = life.names();
                let engine = life.engine().await;
                if !crashes_again {
                    life.race(&engine, &all).await;
                }
                life.finish(engine).await;
                if is_over {
                    break;
                }
                assert!(write < WRITES_MAX, "{name} does not end");
            }
        }
    }
}

/// The process ends while all acts that are possible at a stage of the life are in progress.
pub async fn a_crash_at_any_write_of_a_race_repeats_nothing<F: LifeFixture>() {
    let fixture = F::new().await;
    let mut stages = BTreeSet::new();
    for name in names(&fixture).await {
        for write in 1..=WRITES_MAX {
            let mut is_over = false;
            for is_written in [false, true] {
                let mut life = Life::begin(&fixture).await;
                let engine = life.engine().await;
                life.reach(&engine, &[name]).await;
                stop(engine).await;
                let possible = life.possible();
                // Other acts are possible at the same stage.
                if write == 1 && !is_written && !stages.insert(possible.clone()) {
                    is_over = true;
                    break;
                }
                let point = CrashPoint { write, is_written };
                is_over |= !life.crash(&possible, COPIES, point).await;
                let engine = life.engine().await;
                life.race(&engine, &possible).await;
                life.finish(engine).await;
            }
            if is_over {
                break;
            }
        }
    }
}

/// The names of the acts of each life.
async fn names<F: LifeFixture>(fixture: &F) -> Vec<&'static str> {
    Life::begin(fixture).await.names()
}

/// Ends a process without waiting for its settlements.
async fn stop(engine: Engine) {
    engine.shut_down(Duration::ZERO).await;
}

/// One life, with what has happened in it.
struct Life<'a, F> {
    fixture: &'a F,
    /// Has the journal.
    folder: TempDir,
    acts: Vec<Act>,
    /// The acts that release nothing, so that every repeat of them is answered with success.
    releases_nothing: BTreeSet<&'static str>,
    /// The acts that have succeeded, each with its transaction; `None` if its answer was lost.
    succeeded: BTreeMap<&'static str, Option<String>>,
    /// The acts that a process had claimed when it ended. The next one finishes them.
    claimed: Vec<&'static str>,
}

impl<'a, F: LifeFixture> Life<'a, F> {
    async fn begin(fixture: &'a F) -> Self {
        let acts = fixture.acts().await;
        let (_, scheme) = fixture.parts();
        let now = fixture.clock().now();
        let releases_nothing = |act: &&Act| {
            let payment = scheme.decode(&act.request, now);
            payment.expect("a payment").releases_nothing()
        };
        let nothing = acts.iter().filter(releases_nothing).map(|act| act.name);
        Self {
            fixture,
            folder: tempfile::tempdir().expect("a temporary folder"),
            releases_nothing: nothing.collect(),
            acts,
            succeeded: BTreeMap::new(),
            claimed: Vec::new(),
        }
    }

    fn names(&self) -> Vec<&'static str> {
        self.acts.iter().map(|act| act.name).collect()
    }

    /// The acts that would succeed now.
    fn possible(&self) -> Vec<&'static str> {
        let possible = self.acts.iter().filter(|act| self.is_possible(act));
        possible.map(|act| act.name).collect()
    }

    fn act(&self, name: &str) -> &Act {
        let found = self.acts.iter().find(|act| act.name == name);
        found.unwrap_or_else(|| panic!("the life has no act {name}"))
    }

    /// Whether an act would succeed now.
    fn is_possible(&self, act: &Act) -> bool {
        let has_succeeded = |name: &&str| self.succeeded.contains_key(*name);
        let is_excluded = |done: &&str| self.act(done).excludes.contains(&act.name);
        !has_succeeded(&act.name)
            && act.after.iter().all(has_succeeded)
            && !self.succeeded.keys().any(is_excluded)
    }

    async fn journal(&self, failing: &Arc<Failing>) -> FlakyJournal<SqliteJournal> {
        FlakyJournal {
            inner: open_journal(&self.folder.path().join("journal.db")).await,
            failing: Arc::clone(failing),
        }
    }

    /// A new process.
    async fn engine(&self) -> Engine {
        self.engine_with(&Arc::default()).await
    }

    async fn engine_with(&self, failing: &Arc<Failing>) -> Engine {
        let (chain, scheme) = self.fixture.parts();
        let builder = self.fixture.builder(self.journal(failing).await);
        let engine = builder.chain(chain, vec![scheme]).start().await;
        engine.expect("an engine")
    }

    /// Makes the acts that are needed before these.
    async fn reach(&mut self, engine: &Engine, names: &[&'static str]) {
        let mut needed: Vec<&'static str> = Vec::new();
        for act in self.acts.iter().rev() {
            let is_needed = |name: &&str| self.act(name).after.contains(&act.name);
            if names.iter().chain(&needed).any(is_needed) {
                needed.push(act.name);
            }
        }
        for name in needed.into_iter().rev() {
            if !names.contains(&name) {
                self.ask(engine, name).await;
            }
        }
    }

    /// Asks for one act, which must succeed if it is possible and be refused if it is not.
    async fn ask(&mut self, engine: &Engine, name: &'static str) {
        let act = self.act(name).clone();
        let is_possible = self.is_possible(&act);
        let is_repeat = self.succeeded.contains_key(name) && self.releases_nothing.contains(name);
        let is_expected = is_possible || is_repeat;
        let verdict = engine.verify(&act.request).await.expect("a verdict");
        assert!(
            verdict.is_valid == is_expected || is_expected && !act.is_verified,
            "{name} after {:?}: {verdict:?}",
            self.succeeded
        );
        let answer = decided(engine, &act.request).await.expect("an answer");
        match (is_expected, answer.success) {
            (true, true) => self.succeed(name, Some(&answer)),
            (false, false) => self.assert_refused(name, &answer),
            (true, false) | (false, true) => {
                panic!("{name} after {:?}: {answer:?}", self.succeeded)
            }
        }
    }

    /// Notes that an act has succeeded.
    fn succeed(&mut self, name: &'static str, answer: Option<&SettleResponse>) {
        let transaction = answer.map(|answer| answer.transaction.clone());
        let before = self.succeeded.insert(name, transaction.clone());
        // An answer that was lost named the same transaction.
        let is_same = before
            .as_ref()
            .is_none_or(|before| before.is_none() || *before == transaction);
        let is_first = before.is_none();
        let may_repeat = self.releases_nothing.contains(name) && is_same;
        assert!(is_first || may_repeat, "{name} succeeds again: {answer:?}");
    }

    /// A refusal gives a reason. If the act has succeeded before, it names the same transaction.
    fn assert_refused(&self, name: &str, answer: &SettleResponse) {
        assert!(!answer.is_pending(), "{name}: {answer:?}");
        let reason = answer.error_reason.as_deref();
        assert!(reason.is_some(), "{name}: {answer:?}");
        let is_duplicate = reason == Some(Reason::DUPLICATE_SETTLEMENT.code());
        if let (true, Some(Some(transaction))) = (is_duplicate, self.succeeded.get(name)) {
            assert_eq!(&answer.transaction, transaction, "{name}");
        }
    }

    /// Asks for these acts at the same time, while the chain includes nothing. Those that are not
    /// refused are then included.
    async fn race(&mut self, engine: &Engine, names: &[&'static str]) {
        self.fixture.hold().await;
        let requests = self.requests(names, COPIES);
        let asked = requests
            .iter()
            .map(|(name, request)| async move { (*name, decided(engine, request).await) });
        let go_on = async {
            tokio::time::sleep(OVERLAP).await;
            self.fixture.go_on().await;
        };
        let (answers, ()) = tokio::join!(join_all(asked), go_on);
        self.add_all(answers);
        self.assert_lawful();
    }

    /// Asks for these acts at the same time, in a process that ends at a write. Returns whether it
    /// came so far.
    async fn crash(&mut self, names: &[&'static str], copies: usize, point: CrashPoint) -> bool {
        let failing = Arc::new(Failing::default());
        failing.crash.plan(point);
        let engine = self.engine_with(&failing).await;
        let answers = Mutex::new(Vec::new());
        let requests = self.requests(names, copies);
        let asked = requests.iter().map(|(name, request)| {
            let (engine, answers) = (&engine, &answers);
            async move {
                let answer = decided(engine, request).await;
                let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
                answers.push((*name, answer));
            }
        });
        tokio::select! {
            _ = join_all(asked) => {}
            () = failing.crash.happened() => {}
        }
        stop(engine).await;
        let is_crashed = failing.crash.at().is_some();
        let answers = answers.into_inner().unwrap_or_else(PoisonError::into_inner);
        let answers = answers.into_iter();
        // The process that has ended gives no other answer than it had decided before.
        let answers = answers.filter(|(_, answer)| !is_crashed || is_success(answer));
        let answers: Vec<_> = answers.collect();
        let answered = answers.iter().filter(|(_, answer)| is_success(answer));
        let lost = failing.crash.permitted() - answered.count();
        self.add_all(answers);
        let found = self.read_journal().await;
        let is_exact = self.releases_nothing.is_empty();
        assert!(
            found == lost || found < lost && !is_exact,
            "{found} successes without an answer, of {lost}"
        );
        self.assert_lawful();
        is_crashed
    }

    /// Reads what a process has left: the acts that it had claimed, and those whose success it was
    /// permitted to answer and did not. Returns how many these are.
    async fn read_journal(&mut self) -> usize {
        let journal = self.journal(&Arc::default()).await;
        let effects = self.fixture.effects(&self.acts, &journal).await;
        let (_, scheme) = self.fixture.parts();
        let now = self.fixture.clock().now();
        self.claimed.clear();
        let mut reported = Vec::new();
        for (act, effect) in self.acts.iter().zip(effects) {
            let payment = scheme.decode(&act.request, now).expect("a payment");
            let settlement = journal.settlement(&payment.info().id).await;
            let settlement = settlement.expect("a journal that can be read");
            let own = settlement.filter(|settlement| is_of(&act.request, settlement));
            let is_reported = match own {
                Some(own) if own.success_reported_at.is_some() => true,
                Some(own) => {
                    if matches!(own.state.kind(), StateKind::Open | StateKind::Settled) {
                        self.claimed.push(act.name);
                    }
                    false
                }
                // The write of a state record has settled it.
                None => effect.is_some_and(|effect| effect > 0),
            };
            if is_reported {
                reported.push(act.name);
            }
        }
        let is_new = |name: &&&str| !self.succeeded.contains_key(**name);
        let unanswered: Vec<_> = reported.iter().filter(is_new).copied().collect();
        for name in &unanswered {
            self.succeed(name, None);
        }
        unanswered.len()
    }

    fn requests(
        &self,
        names: &[&'static str],
        copies: usize,
    ) -> Vec<(&'static str, PaymentRequest)> {
        let requests = names
            .iter()
            .map(|name| (*name, self.act(name).request.clone()));
        requests.flat_map(|one| vec![one; copies]).collect()
    }

    /// Adds the successes among the answers to concurrent requests.
    fn add_all(&mut self, answers: impl IntoIterator<Item = (&'static str, Answer)>) {
        for (name, answer) in answers {
            // A busy engine says nothing about the act. It is asked for again later.
            if is_busy(&answer) {
                continue;
            }
            let answer = answer.unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(!answer.is_pending(), "{name}: {answer:?}");
            if answer.success {
                self.succeed(name, Some(&answer));
            }
        }
    }

    /// The acts that have succeeded are possible together.
    fn assert_lawful(&self) {
        let succeeded = &self.succeeded;
        for name in succeeded.keys() {
            let act = self.act(name);
            let is_early = |before: &&&str| !succeeded.contains_key(**before);
            let early = act.after.iter().find(is_early);
            assert!(early.is_none(), "{name} before {early:?}");
            let is_rival = |other: &&&str| {
                let excludes_back = self.act(other).excludes.contains(&act.name);
                **other != act.name && succeeded.contains_key(**other) && excludes_back
            };
            let rival = act.excludes.iter().find(is_rival);
            assert!(rival.is_none(), "{name} and {rival:?} succeed");
        }
    }

    /// Goes on with the life until no act is possible, and compares it with the books.
    async fn finish(mut self, engine: Engine) {
        until("nothing is in progress", || async {
            engine.in_progress() == 0
        })
        .await;
        let claimed: Vec<_> = self.claimed.drain(..).collect();
        for name in claimed {
            if !self.succeeded.contains_key(name) {
                self.ask(&engine, name).await;
            }
        }
        for _ in 0..2 {
            for name in self.names() {
                self.ask(&engine, name).await;
            }
        }
        stop(engine).await;
        let journal = self.journal(&Arc::default()).await;
        let effects = self.fixture.effects(&self.acts, &journal).await;
        assert_eq!(effects.len(), self.acts.len(), "one number for each act");
        for (act, effect) in self.acts.iter().zip(effects) {
            let expected = u64::from(self.succeeded.contains_key(act.name));
            let name = act.name;
            assert!(
                effect.is_none_or(|effect| effect == expected),
                "{name} took effect {effect:?} times, and succeeded {expected} times"
            );
        }
    }
}

/// Whether a settlement was claimed by this very request.
fn is_of(request: &PaymentRequest, settlement: &Settlement) -> bool {
    let claimed = PaymentRequest::decode(settlement.claim.request.as_bytes());
    claimed.is_ok_and(|claimed| {
        claimed.payload == request.payload
            && claimed.requirements.amount == request.requirements.amount
    })
}

fn is_success(answer: &Answer) -> bool {
    answer.as_ref().is_ok_and(|answer| answer.success)
}

/// How many times each amount is in a sum. The amounts of a life can be read from one balance if
/// each of them is much larger than the next.
///
/// # Panics
/// When an amount is zero, or the sum has a rest.
pub fn counts(sum: Amount, amounts: &[Amount]) -> Vec<u64> {
    let mut left = sum;
    let counts = amounts.iter().map(|amount| {
        assert_ne!(*amount, Amount::ZERO, "zero is in every sum");
        let mut count = 0;
        while let Some(rest) = left.checked_sub(*amount) {
            left = rest;
            count += 1;
        }
        count
    });
    let counts = counts.collect();
    assert_eq!(left, Amount::ZERO, "{sum} is not a sum of {amounts:?}");
    counts
}

/// The lives of a scheme whose payments are one act each: to settle it.
pub struct OneAct<F> {
    fixture: F,
    /// What the seller had when the newest life began.
    before: Mutex<Amount>,
}

#[async_trait]
impl<F: EngineParts> LifeFixture for OneAct<F> {
    type Chain = F::Chain;

    async fn new() -> Self {
        Self {
            fixture: F::new().await,
            before: Mutex::default(),
        }
    }

    fn clock(&self) -> Arc<dyn Clock> {
        self.fixture.clock()
    }

    fn parts(&self) -> (F::Chain, Arc<dyn Scheme<F::Chain>>) {
        self.fixture.parts()
    }

    async fn acts(&self) -> Vec<Act> {
        let received = self.fixture.received().await;
        *self.before.lock().unwrap_or_else(PoisonError::into_inner) = received;
        vec![Act::new("settle", self.fixture.request().await)]
    }

    async fn effects(&self, _: &[Act], _: &dyn StateStore) -> Vec<Option<u64>> {
        let received = self.fixture.received().await;
        let before = *self.before.lock().unwrap_or_else(PoisonError::into_inner);
        let moved = received.checked_sub(before).expect("no payment goes back");
        counts(moved, &[F::PRICE]).into_iter().map(Some).collect()
    }

    async fn hold(&self) {
        self.fixture.hold().await;
    }

    async fn go_on(&self) {
        self.fixture.go_on().await;
    }
}
