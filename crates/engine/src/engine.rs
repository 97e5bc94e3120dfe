//! The engine: every network behind one [`Facilitator`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use quittance_core::wire::{Rest, SettleResponse, SupportedResponse, VerifyResponse};
use quittance_core::{
    Chain, Clock, Facilitator, FacilitatorError, Fault, FaultKind, Health, Network, PaymentId,
    PaymentRequest, Reason, Rejection, Scheme, SignatureClaim, SystemClock, TransactionId,
};
use tokio::sync::broadcast;
use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::event::{EVENTS_MAX, Event};
use crate::failures::FailureLimits;
use crate::policy::{AllowAll, Policy};
use crate::rail::{Rail, Shared, Unheard};
use crate::signatures::Signatures;
use crate::watch::Timing;
use quittance_journal::{Journal, Settlement};

/// How long a /settle waits for its outcome before it answers `settlement_pending`, unless told otherwise. Sellers wait
/// 30 to 90 seconds for their facilitator; blocks come every 0.2 to 12 seconds.
pub const SETTLE_WAIT: Duration = Duration::from_secs(20);

/// The longest time that a /settle may wait: no client waits longer, and the clock has an end.
const SETTLE_WAIT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// How long stopping may take once everything was told to stop: one round trip to a node that does not answer.
const STOP_MAX: Duration = Duration::from_secs(10);

/// Verifies and settles payments on every network it was given.
///
/// Cheap to clone; all clones are one engine, which stops when the last is dropped. It works in tasks of its own, so a
/// caller that goes away cancels nothing.
#[derive(Clone)]
pub struct Engine {
    rails: Arc<Vec<Arc<dyn AnyRail>>>,
    journal: Arc<dyn Journal>,
    events: broadcast::Sender<Event>,
    unheard: Unheard,
    stopping: CancellationToken,
    tasks: TaskTracker,
    /// Stops the tasks when the last clone is dropped.
    _stop: Arc<DropGuard>,
}

/// A rail of any chain.
#[async_trait]
trait AnyRail: Send + Sync {
    fn network(&self) -> &Network;
    fn kinds(&self) -> Vec<quittance_core::wire::SupportedKind>;
    fn signers(&self) -> Vec<String>;
    fn health(&self) -> Health;
    fn live(&self) -> usize;
    async fn look(&self);
    async fn recover(&self) -> Result<(), Fault>;
    async fn verify(&self, request: &PaymentRequest) -> Result<VerifyResponse, FacilitatorError>;
    async fn settle(
        &self,
        request: &PaymentRequest,
        sequence: HeldPlace,
    ) -> Result<SettleResponse, FacilitatorError>;
}

/// Something that a caller holds while its payment is worked on. The engine only drops it.
pub(crate) type HeldPlace = Box<dyn Send>;

/// The handle through which the engine holds a rail of whatever chain.
struct Handle<C: Chain>(Arc<Rail<C>>);

#[async_trait]
impl<C: Chain> AnyRail for Handle<C> {
    fn network(&self) -> &Network {
        self.0.chain.network()
    }
    fn kinds(&self) -> Vec<quittance_core::wire::SupportedKind> {
        self.0.kinds()
    }
    fn signers(&self) -> Vec<String> {
        self.0.signers()
    }
    fn health(&self) -> Health {
        self.0.health()
    }
    fn live(&self) -> usize {
        self.0.live()
    }
    async fn look(&self) {
        self.0.look().await;
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
        sequence: HeldPlace,
    ) -> Result<SettleResponse, FacilitatorError> {
        self.0.settle(request, sequence).await
    }
}

/// Puts an engine together.
pub struct EngineBuilder {
    journal: Arc<dyn Journal>,
    clock: Arc<dyn Clock>,
    policy: Arc<dyn Policy>,
    settle_wait: Duration,
    timing: Timing,
    failure_limits: FailureLimits,
    #[expect(
        clippy::type_complexity,
        reason = "a list of constructors, used in one place"
    )]
    rails: Vec<Box<dyn FnOnce(Shared) -> Arc<dyn AnyRail> + Send>>,
}

impl EngineBuilder {
    /// Adds a chain with the schemes that are settled on it.
    #[must_use]
    pub fn chain<C: Chain>(mut self, chain: C, schemes: Vec<Arc<dyn Scheme<C>>>) -> Self {
        self.rails.push(Box::new(move |shared| {
            Arc::new(Handle(Rail::start(Arc::new(chain), schemes, shared)))
        }));
        self
    }

    /// Says which payments are settled; without it, all that are valid.
    #[must_use]
    pub fn policy(mut self, policy: impl Policy) -> Self {
        self.policy = Arc::new(policy);
        self
    }

    /// Says what time it is; without it, the operating system does.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Says how long a /settle waits for its outcome, at most a day; without it, [`SETTLE_WAIT`].
    #[must_use]
    pub fn settle_wait(mut self, wait: Duration) -> Self {
        self.settle_wait = wait.min(SETTLE_WAIT_MAX);
        self
    }

    /// Says how long to wait before something is done about what was sent; without it, [`Timing::default`].
    #[must_use]
    pub fn timing(mut self, timing: Timing) -> Self {
        self.timing = timing;
        self
    }

    /// Says how many transactions may fail for one payer or recipient in an hour; without it,
    /// [`FailureLimits::default`].
    #[must_use]
    pub fn failure_limits(mut self, limits: FailureLimits) -> Self {
        self.failure_limits = limits;
        self
    }

    /// Starts: looks at every chain, and takes up every settlement that the journal has open.
    ///
    /// A chain that cannot be reached now is no error; it is left out of [`supported`](Facilitator::supported) until it
    /// can.
    ///
    /// # Errors
    /// When the journal cannot be read, or one network was added twice: two rails would use each signer's places twice.
    pub async fn start(self) -> Result<Engine, Fault> {
        let threads = available_parallelism().map_or(1, usize::from);
        let verifier = quittance_verify::Verifier::new(quittance_verify::Config::default())
            .map_err(|error| Fault::new(FaultKind::Internal, error))?;
        let check = move |claims: &[&SignatureClaim]| verifier.verify(claims);
        let shared = Shared {
            journal: self.journal,
            clock: self.clock,
            policy: self.policy,
            signatures: Signatures::start(threads, Box::new(check))?,
            settle_wait: self.settle_wait,
            timing: self.timing,
            failure_limits: self.failure_limits,
            events: broadcast::Sender::new(EVENTS_MAX),
            unheard: Unheard::default(),
            stopping: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let rails: Vec<_> = self
            .rails
            .into_iter()
            .map(|rail| rail(shared.clone()))
            .collect();
        let mut networks = BTreeSet::new();
        if let Some(twice) = rails
            .iter()
            .find(|rail| !networks.insert(rail.network().id()))
        {
            shared.stopping.cancel();
            let what = format_args!("the network {} is given twice", twice.network());
            return Err(Fault::new(FaultKind::Misconfigured, what));
        }
        join_all(rails.iter().map(|rail| rail.look())).await;
        for rail in &rails {
            rail.recover().await?;
        }
        let Shared {
            journal,
            events,
            unheard,
            stopping,
            tasks,
            ..
        } = shared;
        Ok(Engine {
            rails: Arc::new(rails),
            journal,
            events,
            unheard,
            _stop: Arc::new(stopping.clone().drop_guard()),
            stopping,
            tasks,
        })
    }
}

impl Engine {
    /// An engine without networks yet, with this journal.
    pub fn builder(journal: impl Journal) -> EngineBuilder {
        EngineBuilder {
            journal: Arc::new(journal),
            clock: Arc::new(SystemClock),
            policy: Arc::new(AllowAll),
            settle_wait: SETTLE_WAIT,
            timing: Timing::default(),
            failure_limits: FailureLimits::default(),
            rails: Vec::new(),
        }
    }

    /// Settles, as [`Facilitator::settle`] does, and drops `place` as soon as the payment is in a lane and only its outcome is
    /// waited for. A server bounds by it what is worked on at once: waiting costs next to nothing and takes up to
    /// [`settle_wait`](EngineBuilder::settle_wait). A caller that goes away does not free its place before.
    ///
    /// # Errors
    /// As [`Facilitator::settle`].
    pub async fn settle_with_place(
        &self,
        request: &PaymentRequest,
        sequence: impl Send + 'static,
    ) -> Result<SettleResponse, FacilitatorError> {
        match self.rail(&request.requirements.network) {
            Ok(rail) => rail.settle(request, Box::new(sequence)).await,
            Err(rejection) => Ok(SettleResponse::failed(
                &request.requirements.network,
                &rejection,
                None,
                "",
            )),
        }
    }

    /// What is known of a settlement, by its identity.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub async fn settlement(&self, id: &PaymentId) -> Result<Option<Settlement>, Fault> {
        Ok(self.journal.settlement(id).await?)
    }

    /// The settlements a transaction was made for.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub async fn settlements_of(
        &self,
        transaction: &TransactionId,
    ) -> Result<Vec<Settlement>, Fault> {
        let mut settlements = Vec::new();
        for id in self.journal.settlements_of(transaction).await? {
            settlements.extend(self.journal.settlement(&id).await?);
        }
        Ok(settlements)
    }

    /// Notes that an answer which reported the success of a settlement was lost on its way to the caller: for a minute, the next
    /// who asks with the same request hears success again. For servers whose connection broke before the answer was handed to
    /// it. A caller that says so of an answer that did arrive lets one payment be reported twice.
    pub fn answer_was_lost(&self, settlement: PaymentId) {
        self.unheard.note(settlement);
    }

    /// What happens to payments after they were settled, from now on. A subscriber that is more than a thousand events behind
    /// loses the oldest; [`settlement`](Self::settlement) has the state of each.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// How every network is, as last looked at.
    pub fn health(&self) -> Vec<(Network, Health)> {
        self.rails
            .iter()
            .map(|rail| (rail.network().clone(), rail.health()))
            .collect()
    }

    /// What is wrong with the journal; `None` while it can be written. Nothing is settled on any network until then.
    pub fn journal_problem(&self) -> Option<String> {
        self.journal.problem()
    }

    /// How many settlements are under way.
    pub fn in_progress(&self) -> usize {
        self.rails.iter().map(|rail| rail.live()).sum()
    }

    /// Waits until nothing is under way, but no longer than `wait`, and stops. What is not finished stands in the
    /// journal and is taken up at the next start.
    pub async fn shut_down(&self, wait: Duration) {
        let deadline = Instant::now() + wait.min(SETTLE_WAIT_MAX);
        while self.in_progress() > 0 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        match self.in_progress() {
            0 => info!("stopped; nothing was under way"),
            left => warn!(
                left,
                "stopped with settlements under way; the next start takes them up"
            ),
        }
        self.stopping.cancel();
        self.tasks.close();
        if timeout(STOP_MAX, self.tasks.wait()).await.is_err() {
            warn!("some work did not stop");
        }
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
        self.settle_with_place(request, ()).await
    }

    async fn supported(&self) -> Result<SupportedResponse, FacilitatorError> {
        let mut kinds = Vec::new();
        let mut signers: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for rail in self.rails.iter() {
            kinds.extend(rail.kinds());
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
            extensions: Some(Vec::new()),
            signers: Some(signers),
            rest: Rest::default(),
        })
    }
}
