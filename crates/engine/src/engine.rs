//! The engine: all networks behind one [`Facilitator`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use quittance_core::wire::{
    Rest, SettleResponse, SupportedKind, SupportedResponse, VerifyResponse,
};
use quittance_core::{
    Amount, Chain, Clock, Facilitator, FacilitatorError, Fault, FaultKind, Health, LaneId, Network,
    PaymentId, PaymentRequest, Reason, Rejection, Scheme, SignatureClaim, SignatureRule,
    SystemClock, TransactionId,
};
use quittance_journal::{Filter, Journal, Outcome, PAGE_MAX, ReplicaId, Settlement, State};
use tokio::sync::broadcast;
use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::event::{EVENTS_MAX, Event};
use crate::failures::FailureLimits;
use crate::feed::Feed;
use crate::membership::Membership;
use crate::policy::{AllowAll, Policy};
use crate::rail::{LostAnswers, Permit, Rail, Services};
use crate::rules::Rules;
use crate::signatures::Signatures;
use crate::timing::Timing;

/// How long /settle waits for an outcome by default before it answers `settlement_pending`. Sellers
/// wait 30 to 90 seconds for their facilitator, and blocks take 0.2 to 12 seconds.
pub const SETTLE_WAIT: Duration = Duration::from_secs(20);

/// The longest time that /settle may wait. No client waits longer, and a deadline must be a valid
/// time.
const SETTLE_WAIT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// How long the tasks may take to stop: one round trip to a node that does not answer.
const STOP_MAX: Duration = Duration::from_secs(10);

/// Verifies and settles payments on the networks that it was built with.
///
/// Cheap to clone. All clones are one engine, which stops when the last clone is dropped. The
/// engine works in its own tasks, so a caller that disconnects cancels nothing.
#[derive(Clone)]
pub struct Engine {
    rails: Arc<Vec<Arc<dyn AnyRail>>>,
    journal: Arc<dyn Journal>,
    feed: Feed,
    events: broadcast::Sender<Event>,
    lost_answers: LostAnswers,
    membership: Arc<Membership>,
    stopping: CancellationToken,
    tasks: TaskTracker,
    /// Stops the tasks when the last clone is dropped.
    _stop: Arc<DropGuard>,
}

/// A rail of any chain type.
#[async_trait]
trait AnyRail: Send + Sync {
    fn network(&self) -> &Network;
    fn kinds(&self) -> Vec<SupportedKind>;
    fn signers(&self) -> Vec<String>;
    fn extensions(&self) -> Vec<String>;
    fn health(&self) -> Health;
    fn in_progress(&self) -> usize;
    async fn look(&self);
    async fn begin(&self);
    fn lanes_held(&self) -> Vec<LaneId>;
    async fn recover(&self) -> Result<(), Fault>;
    async fn verify(&self, request: &PaymentRequest) -> Result<VerifyResponse, FacilitatorError>;
    async fn settle(
        &self,
        request: &PaymentRequest,
        permit: Permit,
    ) -> Result<SettleResponse, FacilitatorError>;
}

/// A rail of one chain type, as an [`AnyRail`].
struct ErasedRail<C: Chain>(Arc<Rail<C>>);

#[async_trait]
impl<C: Chain> AnyRail for ErasedRail<C> {
    fn network(&self) -> &Network {
        self.0.chain().network()
    }
    fn kinds(&self) -> Vec<SupportedKind> {
        self.0.kinds()
    }
    fn signers(&self) -> Vec<String> {
        self.0.signers()
    }
    fn extensions(&self) -> Vec<String> {
        self.0.extensions()
    }
    fn health(&self) -> Health {
        self.0.health()
    }
    fn in_progress(&self) -> usize {
        self.0.in_progress()
    }
    async fn look(&self) {
        self.0.look().await;
    }
    async fn begin(&self) {
        self.0.begin().await;
    }
    fn lanes_held(&self) -> Vec<LaneId> {
        self.0.lanes_held()
    }
    async fn recover(&self) -> Result<(), Fault> {
        self.0.recover().await
    }
    async fn verify(&self, request: &PaymentRequest) -> Result<VerifyResponse, FacilitatorError> {
        self.0.verify(request).await
    }
    async fn settle(
        &self,
        request: &PaymentRequest,
        permit: Permit,
    ) -> Result<SettleResponse, FacilitatorError> {
        self.0.settle(request, permit).await
    }
}

/// Builds an [`Engine`].
pub struct EngineBuilder {
    journal: Arc<dyn Journal>,
    clock: Arc<dyn Clock>,
    policy: Arc<dyn Policy>,
    settle_wait: Duration,
    timing: Timing,
    failure_limits: FailureLimits,
    signature_rules: Vec<Arc<dyn SignatureRule>>,
    verifies_inline: bool,
    #[expect(
        clippy::type_complexity,
        reason = "a list of constructors, used in one place"
    )]
    rails: Vec<Box<dyn FnOnce(Services) -> Arc<dyn AnyRail> + Send>>,
}

impl EngineBuilder {
    /// Adds a chain, and the schemes that are settled on it.
    #[must_use]
    pub fn chain<C: Chain>(mut self, chain: C, schemes: Vec<Arc<dyn Scheme<C>>>) -> Self {
        self.rails.push(Box::new(move |services| {
            Arc::new(ErasedRail(Rail::start(Arc::new(chain), schemes, services)))
        }));
        self
    }

    /// Adds a rule for signatures that the engine does not know. Schemes refer to it by its name.
    #[must_use]
    pub fn signature_rule(mut self, rule: impl SignatureRule) -> Self {
        self.signature_rules.push(Arc::new(rule));
        self
    }

    /// Verifies signatures in the task that asks, without threads. An engine in a single-threaded
    /// runtime is then deterministic, which simulations need. A busy facilitator needs the threads:
    /// a signature takes tens of microseconds, in which the task's thread does nothing else.
    #[must_use]
    pub fn verify_inline(mut self) -> Self {
        self.verifies_inline = true;
        self
    }

    /// Sets which payments are settled. The default settles all valid payments.
    #[must_use]
    pub fn policy(mut self, policy: impl Policy) -> Self {
        self.policy = Arc::new(policy);
        self
    }

    /// Sets the clock. The default is the clock of the operating system.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Sets how long /settle waits for an outcome, at most a day. The default is [`SETTLE_WAIT`].
    #[must_use]
    pub fn settle_wait(mut self, wait: Duration) -> Self {
        self.settle_wait = wait.min(SETTLE_WAIT_MAX);
        self
    }

    /// Sets how long the engine waits before it acts on a sent transaction. The default is
    /// [`Timing::default`].
    #[must_use]
    pub fn timing(mut self, timing: Timing) -> Self {
        self.timing = timing;
        self
    }

    /// Sets how many transactions may fail for one payer or recipient in an hour. The default is
    /// [`FailureLimits::default`].
    #[must_use]
    pub fn failure_limits(mut self, limits: FailureLimits) -> Self {
        self.failure_limits = limits;
        self
    }

    /// Starts the engine. Looks at every chain, and resumes the open settlements of the journal.
    ///
    /// A chain that cannot be reached now is not an error. [`supported`](Facilitator::supported)
    /// omits it until it can be reached.
    ///
    /// # Errors
    /// When the journal cannot be read, or a signature rule was added twice, or a network was: two
    /// rails would use the same sequence numbers of each signer.
    pub async fn start(self) -> Result<Engine, Fault> {
        let rules = Rules::new(self.signature_rules)?;
        let membership = Membership::new(Arc::clone(&self.journal), self.timing.lease);
        let membership = Arc::new(membership);
        let signatures = match self.verifies_inline {
            true => Signatures::inline(rules),
            false => queue(rules)?,
        };
        let services = Services {
            journal: self.journal,
            clock: self.clock,
            policy: self.policy,
            signatures,
            settle_wait: self.settle_wait,
            timing: self.timing,
            failure_limits: self.failure_limits,
            events: broadcast::Sender::new(EVENTS_MAX),
            lost_answers: LostAnswers::default(),
            membership: Arc::clone(&membership),
            stopping: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        // A start that fails, or is cancelled, stops the tasks of the rails.
        let stop = services.stopping.clone().drop_guard();
        // If the journal cannot be written now, this is repeated, and nothing is sent before.
        if let Err(error) = membership.renew().await {
            warn!(%error, "this process is not a member of the journal yet");
        }
        let (renewing, stopping) = (Arc::clone(&membership), services.stopping.clone());
        services.tasks.spawn(async move {
            stopping.run_until_cancelled(renewing.run()).await;
        });
        let rails: Vec<_> = self
            .rails
            .into_iter()
            .map(|rail| rail(services.clone()))
            .collect();
        check_names(&rails)?;
        join_all(rails.iter().map(|rail| rail.look())).await;
        for rail in &rails {
            rail.begin().await;
            rail.recover().await?;
        }
        let Services {
            journal,
            clock,
            events,
            lost_answers,
            stopping,
            tasks,
            ..
        } = services;
        Ok(Engine {
            rails: Arc::new(rails),
            feed: Feed::new(Arc::clone(&journal), clock),
            journal,
            events,
            lost_answers,
            _stop: Arc::new(stop),
            membership,
            stopping,
            tasks,
        })
    }
}

/// A queue of signatures with a thread for each core.
fn queue(rules: Rules) -> Result<Signatures, Fault> {
    let threads = available_parallelism().map_or(1, usize::from);
    let verifier = quittance_verify::Verifier::new(quittance_verify::VerifierConfig::default())
        .map_err(|error| Fault::new(FaultKind::Internal, error))?;
    let check = move |claims: &[&SignatureClaim]| verifier.verify(claims);
    Signatures::start(threads, Box::new(check), rules)
}

/// Checks that no name belongs to two networks.
///
/// # Errors
/// When one does: a request could then be for either.
fn check_names(rails: &[Arc<dyn AnyRail>]) -> Result<(), Fault> {
    let mut names = BTreeSet::new();
    for network in rails.iter().map(|rail| rail.network()) {
        let own: BTreeSet<&str> = network.aliases().chain([network.id()]).collect();
        if let Some(twice) = own.into_iter().find(|name| !names.insert(name.to_owned())) {
            let what = format_args!("the network {twice} was added twice: remove one");
            return Err(Fault::new(FaultKind::Misconfigured, what));
        }
    }
    Ok(())
}

/// A process among those that use the same journal.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Replica {
    /// The process.
    pub id: ReplicaId,
    /// How many processes used the journal at the last renewal, this one included.
    pub members: usize,
    /// The lanes that this process may send with now, each with its network (CAIP-2).
    pub lanes: Vec<(String, LaneId)>,
}

impl Engine {
    /// A builder for an engine with this journal, and no networks yet.
    pub fn builder(journal: impl Journal) -> EngineBuilder {
        Self::builder_on(Arc::new(journal))
    }

    /// As [`builder`](Self::builder), for a journal that is chosen at run time or shared.
    pub fn builder_on(journal: Arc<dyn Journal>) -> EngineBuilder {
        EngineBuilder {
            journal,
            clock: Arc::new(SystemClock),
            policy: Arc::new(AllowAll),
            settle_wait: SETTLE_WAIT,
            timing: Timing::default(),
            failure_limits: FailureLimits::default(),
            signature_rules: Vec::new(),
            verifies_inline: false,
            rails: Vec::new(),
        }
    }

    /// As [`Facilitator::settle`], with a permit. The engine drops the permit as soon as the
    /// payment waits in a lane. A server can so limit how many payments are worked on at once.
    /// Waiting for the outcome costs almost nothing and takes up to
    /// [`settle_wait`](EngineBuilder::settle_wait). A caller that disconnects does not free its
    /// permit earlier.
    ///
    /// # Errors
    /// As [`Facilitator::settle`].
    pub async fn settle_with_permit(
        &self,
        request: &PaymentRequest,
        permit: impl Send + 'static,
    ) -> Result<SettleResponse, FacilitatorError> {
        match self.rail(&request.requirements.network) {
            Ok(rail) => rail.settle(request, Box::new(permit)).await,
            Err(rejection) => Ok(SettleResponse::failed(
                &request.requirements.network,
                &rejection,
                None,
                "",
            )),
        }
    }

    /// A settlement, by its identity. `None` if the authorization was never claimed.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub async fn settlement(&self, id: &PaymentId) -> Result<Option<Settlement>, Fault> {
        Ok(self.journal.settlement(id).await?)
    }

    /// What can still be refunded of a settlement, in atomic units: what settled, less all its open
    /// and settled refunds. `None` if it has not settled, or is a refund itself.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub async fn refundable(&self, settlement: &Settlement) -> Result<Option<Amount>, Fault> {
        let State::Concluded(Outcome::Settled { amount, .. }) = &settlement.state else {
            return Ok(None);
        };
        if settlement.claim.refund_of.is_some() {
            return Ok(None);
        }
        let filter = Filter::new().refund_of(settlement.claim.id).limit(PAGE_MAX);
        let (mut left, mut after) = (*amount, None);
        loop {
            let page = self.journal.page(&filter, after).await?;
            for refund in &page.settlements {
                let counted = match &refund.state {
                    State::Open => refund.claim.amount,
                    State::Concluded(Outcome::Settled { amount, .. }) => *amount,
                    State::Concluded(_) => Amount::ZERO,
                };
                left = left.checked_sub(counted).unwrap_or(Amount::ZERO);
            }
            after = page.next;
            if after.is_none() {
                return Ok(Some(left));
            }
        }
    }

    /// The settlements that a transaction was made for.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub async fn settlements_of(
        &self,
        transaction: &TransactionId,
    ) -> Result<Vec<Settlement>, Fault> {
        let mut settlements = Vec::new();
        for made_for in self.journal.settlements_of(transaction).await? {
            let settlement = self.journal.settlement(&made_for.settlement).await?;
            settlements.extend(settlement);
        }
        Ok(settlements)
    }

    /// Notes that an answer which reported success did not reach its caller. For a minute, the next
    /// caller with the same request gets success again. Servers call this if the connection broke
    /// before the answer was handed to it. Called for an answer that did arrive, it lets one
    /// payment be reported twice.
    pub fn answer_was_lost(&self, settlement: PaymentId) {
        self.lost_answers.note(settlement);
    }

    /// The events of settled payments from now on. A subscriber that is more than a thousand events
    /// behind loses the oldest. [`settlement`](Self::settlement) has the state of each payment.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// The journal's feed of every change of a settlement, which survives restarts.
    pub fn feed(&self) -> &Feed {
        &self.feed
    }

    /// The health of every network at its last look.
    pub fn health(&self) -> Vec<(Network, Health)> {
        self.rails
            .iter()
            .map(|rail| (rail.network().clone(), rail.health()))
            .collect()
    }

    /// What is wrong with the journal; `None` while it can be written. While there is a problem,
    /// nothing is settled on any network.
    pub fn journal_problem(&self) -> Option<String> {
        self.journal.problem()
    }

    /// This process among those that use the same journal.
    pub fn replica(&self) -> Replica {
        let lanes = self.rails.iter().flat_map(|rail| {
            let network = rail.network().id().to_owned();
            let held = rail.lanes_held().into_iter();
            held.map(move |lane| (network.clone(), lane))
        });
        Replica {
            id: self.membership.replica(),
            members: self.members(),
            lanes: lanes.collect(),
        }
    }

    /// How many processes used the journal at the last renewal, this one included.
    pub fn members(&self) -> usize {
        self.membership.count()
    }

    /// The number of settlements in progress.
    pub fn in_progress(&self) -> usize {
        self.rails.iter().map(|rail| rail.in_progress()).sum()
    }

    /// Waits until no settlement is in progress, but not longer than `wait`. Then stops the engine,
    /// and gives what it holds to the other replicas.
    /// Unfinished settlements are in the journal, and the next start resumes them.
    pub async fn shut_down(&self, wait: Duration) {
        self.membership.retire();
        let deadline = Instant::now() + wait.min(SETTLE_WAIT_MAX);
        while self.in_progress() > 0 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        match self.in_progress() {
            0 => info!("stopped; no settlement was in progress"),
            left => warn!(
                left,
                "stopped with settlements in progress; the next start resumes them"
            ),
        }
        self.stopping.cancel();
        self.tasks.close();
        if timeout(STOP_MAX, self.tasks.wait()).await.is_err() {
            warn!("some tasks did not stop");
        }
        // Now other replicas can go on at once.
        self.membership.leave().await;
    }

    fn rail(&self, name: &str) -> Result<&Arc<dyn AnyRail>, Rejection> {
        self.rails
            .iter()
            .find(|rail| rail.network().is(name))
            .ok_or_else(|| {
                let known: Vec<&str> = self.rails.iter().map(|rail| rail.network().id()).collect();
                Rejection::new(
                    Reason::INVALID_NETWORK,
                    format_args!("supported networks: {}", known.join(", ")),
                )
            })
    }
}

#[async_trait]
impl Facilitator for Engine {
    async fn verify(&self, request: &PaymentRequest) -> Result<VerifyResponse, FacilitatorError> {
        match self.rail(&request.requirements.network) {
            Ok(rail) => rail.verify(request).await,
            Err(rejection) => Ok(VerifyResponse::invalid(&rejection, None)),
        }
    }

    async fn settle(&self, request: &PaymentRequest) -> Result<SettleResponse, FacilitatorError> {
        self.settle_with_permit(request, ()).await
    }

    async fn supported(&self) -> Result<SupportedResponse, FacilitatorError> {
        let mut kinds = Vec::new();
        let mut signers: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut extensions = BTreeSet::new();
        for rail in self.rails.iter() {
            kinds.extend(rail.kinds());
            extensions.extend(rail.extensions());
            let family = signers
                .entry(format!("{}:*", rail.network().namespace()))
                .or_default();
            for signer in rail.signers() {
                if !family.contains(&signer) {
                    family.push(signer);
                }
            }
        }
        Ok(SupportedResponse {
            kinds,
            extensions: Some(extensions.into_iter().collect()),
            signers: Some(signers),
            rest: Rest::default(),
        })
    }
}
