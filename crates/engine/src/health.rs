//! The health of one network, and whether its clock can be trusted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use quittance_core::{
    Chain, Clock, Fault, FaultKind, Health, LaneId, PaymentId, Problem, Scheme, Scope,
};
use tokio::time::Instant;
use tracing::{error, warn};

use crate::outstanding::Outstanding;

/// How long another program's use of a signer is reported: until an operator has seen it.
const RIVAL_REPORTED: Duration = Duration::from_secs(3600);

/// Looks at a chain's health and remembers the result.
pub(crate) struct Monitor<C: Chain> {
    chain: Arc<C>,
    schemes: Vec<Arc<dyn Scheme<C>>>,
    clock: Arc<dyn Clock>,
    outstanding: Arc<Outstanding<C>>,
    known: RwLock<Health>,
    /// Settlements in the journal that this program cannot read.
    unreadable: Mutex<BTreeSet<PaymentId>>,
    /// When another program was last seen to send transactions with a signer.
    rivals: Mutex<BTreeMap<LaneId, Instant>>,
    /// When the last health check because of the clock began. Locked during such a check.
    looked_at_clock: tokio::sync::Mutex<Option<Instant>>,
}

impl<C: Chain> Monitor<C> {
    pub(crate) fn new(
        chain: Arc<C>,
        schemes: Vec<Arc<dyn Scheme<C>>>,
        clock: Arc<dyn Clock>,
        outstanding: Arc<Outstanding<C>>,
    ) -> Self {
        Self {
            chain,
            schemes,
            clock,
            outstanding,
            known: RwLock::default(),
            unreadable: Mutex::default(),
            rivals: Mutex::default(),
            looked_at_clock: tokio::sync::Mutex::default(),
        }
    }

    /// The result of the last look.
    pub(crate) fn known(&self) -> Health {
        // A thread that panicked with the lock left a complete value: it is replaced in one step.
        self.known
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Looks at the chain's health once, and logs new problems.
    pub(crate) async fn look(&self) {
        let mut found = self.chain.health(self.clock.now()).await;
        if found.network_works() {
            let known = self.known();
            let problems = scheme_problems(&*self.chain, &self.schemes, &known).await;
            found.problems.extend(problems);
        }
        found
            .problems
            .extend(self.outstanding.stuck(self.chain.lanes()));
        found.problems.extend(self.unreadable_problem());
        found.problems.extend(self.rival_problems());
        let network = self.chain.network().id();
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let is_new = |problem: &&Problem| !known.problems.contains(problem);
        for problem in found.problems.iter().filter(is_new) {
            warn!(network, problem = problem.what, "health problem");
        }
        let up = if found.network_works() { 1.0 } else { 0.0 };
        metrics::gauge!("quittance_network_up", "network" => network.to_owned()).set(up);
        *known = found;
    }

    /// Why no conclusion may be drawn from the current time. Looks at the chain for this, because
    /// the clock may have jumped since the last regular look. Concurrent callers share one look.
    pub(crate) async fn clock_doubt(&self) -> Option<Fault> {
        let asked = Instant::now();
        let mut looked_at = self.looked_at_clock.lock().await;
        if looked_at.is_none_or(|began| began < asked) {
            *looked_at = Some(Instant::now());
            self.look().await;
        }
        drop(looked_at);
        if !self.known().network_works() {
            let what = "the clock cannot be compared with the chain while the network is unusable";
            return Some(Fault::new(FaultKind::ChainUnavailable, what));
        }
        self.chain.clock_fault()
    }

    /// Skips a settlement that another program wrote, or that is damaged. Reports it once.
    pub(crate) fn skip_unreadable(&self, id: PaymentId, problem: &str) {
        if self.unreadable().insert(id) {
            error!(settlement = %id, problem, "a settlement in the journal cannot be read");
            metrics::counter!("quittance_unreadable_settlements_total").increment(1);
        }
    }

    /// Notes that a number of this signer was used by a transaction that the journal does not have.
    pub(crate) fn note_rival(&self, lane: &LaneId) {
        self.rivals().insert(lane.clone(), Instant::now());
    }

    /// The problems of signers that another program uses, too.
    fn rival_problems(&self) -> Vec<Problem> {
        let mut rivals = self.rivals();
        rivals.retain(|_, seen| seen.elapsed() < RIVAL_REPORTED);
        let problem = |lane: &LaneId| Problem {
            scope: Scope::Advisory,
            what: format!(
                "another program sends transactions with the signer {lane}: give each facilitator \
                 signers of its own, or all of them one journal"
            ),
        };
        rivals.keys().map(problem).collect()
    }

    fn rivals(&self) -> MutexGuard<'_, BTreeMap<LaneId, Instant>> {
        self.rivals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The problem of the skipped settlements, for operators.
    fn unreadable_problem(&self) -> Option<Problem> {
        let skipped = self.unreadable();
        let first = skipped.first()?;
        let what = format!(
            "{} settlements in the journal cannot be read and were skipped; the first is {first}",
            skipped.len()
        );
        let scope = Scope::Advisory;
        Some(Problem { scope, what })
    }

    fn unreadable(&self) -> MutexGuard<'_, BTreeSet<PaymentId>> {
        self.unreadable
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the schemes need on the chain ([`Scheme::prerequisite`]) and it does not have. If no node
/// answers for a scheme, its problem in `known` stays.
pub async fn scheme_problems<C: Chain>(
    chain: &C,
    schemes: &[Arc<dyn Scheme<C>>],
    known: &Health,
) -> Vec<Problem> {
    let asked = schemes
        .iter()
        .filter_map(|scheme| Some((scheme, scheme.prerequisite()?)));
    let (schemes, questions): (Vec<_>, Vec<_>) = asked.unzip();
    if questions.is_empty() {
        return Vec::new();
    }
    let answers = chain.read(&questions).await.into_iter();
    let problem = |(scheme, answer): (&Arc<dyn Scheme<C>>, Result<C::Answer, Fault>)| {
        let scope = Scope::Scheme(scheme.name().to_owned());
        match answer {
            Ok(answer) => scheme.missing(&answer).map(|what| Problem { scope, what }),
            Err(_) => known.problems.iter().find(|it| it.scope == scope).cloned(),
        }
    };
    schemes
        .into_iter()
        .zip(answers)
        .filter_map(problem)
        .collect()
}
