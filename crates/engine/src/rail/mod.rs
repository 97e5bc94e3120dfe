//! One network: its chain, the schemes on it, and every payment that is verified or settled there.

mod recover;
mod settle;
mod told;
mod used;
mod verify;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use quittance_core::wire::{Rest, SupportedKind};
use quittance_core::{
    Chain, Clock, Fault, FaultKind, Health, PaymentId, PaymentRequest, Reason, Rejection, Scheme,
    Version,
};
use tokio::sync::{Semaphore, broadcast};
use tokio::time::{Instant, MissedTickBehavior, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

pub(crate) use self::told::Unheard;
use crate::event::Event;
use crate::failures::{FailureLimits, Failures};
use crate::job::InFlight;
use crate::lane::{self, Lane};
use crate::ledger::Ledger;
use crate::policy::Policy;
use crate::reader::{self, Reads, Statuses};
use crate::signatures::Signatures;
use crate::watch::{self, GapFiller, Settled, Timing, Watch};
use crate::writer::JournalWriter;
use quittance_journal::Journal;

/// How often the chain's health is looked at: often enough that /supported is true, seldom enough to cost nothing.
const HEALTH_EVERY: Duration = Duration::from_secs(10);

/// Between two looks at a network that does not work: payments are turned away until one finds that it does again.
const RECOVERY_EVERY: Duration = Duration::from_secs(2);

/// How many settlements of an earlier run are looked at side by side: as many as travel in one batch of questions. After a
/// crash there may be thousands.
const RECOVERING_MAX: usize = 256;

/// One network.
pub(crate) struct Rail<C: Chain> {
    pub(crate) chain: Arc<C>,
    pub(crate) writer: JournalWriter,
    pub(crate) watch: Arc<Watch<C>>,
    pub(crate) timing: Timing,
    clock: Arc<dyn Clock>,
    tasks: TaskTracker,
    ledger: Ledger,
    failures: Failures,
    pub(crate) live: InFlight,
    events: broadcast::Sender<Event>,
    unheard: Unheard,
    /// How many searches for requests that were never claimed here may be made at once.
    searches: Semaphore,
    schemes: Vec<Arc<dyn Scheme<C>>>,
    policy: Arc<dyn Policy>,
    signatures: Signatures,
    reads: Reads<C>,
    /// What has become of transactions that are not watched.
    statuses: Statuses<C>,
    /// How many payments may be waited for until they open.
    waiting_to_open: Semaphore,
    /// How many settlements may be taken up at once.
    recovering: Semaphore,
    /// Those in the journal that this program cannot read.
    unreadable: Mutex<BTreeSet<PaymentId>>,
    lanes: Vec<Lane<C>>,
    health: RwLock<Health>,
    /// When the last look began that was made because of the time; held during one.
    looked_at_clock: tokio::sync::Mutex<Option<Instant>>,
    settle_wait: Duration,
}

/// What the rails of an engine share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) policy: Arc<dyn Policy>,
    pub(crate) signatures: Signatures,
    pub(crate) settle_wait: Duration,
    pub(crate) timing: Timing,
    pub(crate) failure_limits: FailureLimits,
    pub(crate) events: broadcast::Sender<Event>,
    pub(crate) unheard: Unheard,
    pub(crate) stopping: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

impl<C: Chain> Rail<C> {
    /// A rail with its tasks running.
    pub(crate) fn start(
        chain: Arc<C>,
        schemes: Vec<Arc<dyn Scheme<C>>>,
        shared: Shared,
    ) -> Arc<Self> {
        let (lanes, workers): (Vec<_>, Vec<_>) =
            chain.lanes().iter().map(|id| lane::new(id.clone())).unzip();
        let rail = Arc::new(Self {
            writer: JournalWriter {
                journal: shared.journal,
                clock: Arc::clone(&shared.clock),
                stopping: shared.stopping,
            },
            watch: Arc::default(),
            timing: shared.timing,
            clock: shared.clock,
            tasks: shared.tasks,
            live: InFlight::default(),
            ledger: Ledger::default(),
            failures: Failures::new(shared.failure_limits),
            events: shared.events,
            unheard: shared.unheard,
            searches: Semaphore::new(used::SEARCHES_MAX),
            schemes,
            policy: shared.policy,
            signatures: shared.signatures,
            reads: reader::reads(Arc::clone(&chain)),
            statuses: reader::statuses(Arc::clone(&chain)),
            waiting_to_open: Semaphore::new(verify::NOT_YET_WAITING_MAX),
            recovering: Semaphore::new(RECOVERING_MAX),
            unreadable: Mutex::default(),
            lanes,
            health: RwLock::default(),
            looked_at_clock: tokio::sync::Mutex::default(),
            settle_wait: shared.settle_wait,
            chain,
        });
        for worker in workers {
            rail.spawn(worker.run(Arc::clone(&rail)));
        }
        rail.spawn(watch::run(Arc::clone(&rail)));
        rail.spawn(Arc::clone(&rail).look_after());
        rail.spawn(Arc::clone(&rail).sweep_up());
        rail
    }

    /// Runs a task until it ends or this process stops.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stopping = self.writer.stopping.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = stopping.cancelled() => {}
                () = task => {}
            }
        });
    }

    pub(crate) fn network(&self) -> &str {
        self.chain.network().id()
    }

    /// How many settlements are under way.
    pub(crate) fn live(&self) -> usize {
        self.live.len()
    }

    /// How the chain is, as last looked at.
    pub(crate) fn health(&self) -> Health {
        // A thread that panicked with the lock left a whole value: it is replaced at once.
        self.health
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// What can be settled now: what has a working asset and a working signer. Nothing, while the journal cannot be written.
    pub(crate) fn kinds(&self) -> Vec<SupportedKind> {
        let health = self.health();
        if self.writer.journal.problem().is_some() {
            return Vec::new();
        }
        if !self
            .chain
            .lanes()
            .iter()
            .any(|lane| health.lane_works(lane))
        {
            return Vec::new();
        }
        let works = |scheme: &&Arc<dyn Scheme<C>>| {
            scheme
                .assets()
                .iter()
                .any(|asset| health.asset_works(asset))
        };
        self.schemes
            .iter()
            .filter(works)
            .flat_map(|scheme| self.kinds_of(scheme.as_ref()))
            .collect()
    }

    fn kinds_of(&self, scheme: &dyn Scheme<C>) -> Vec<SupportedKind> {
        let network = self.chain.network();
        let kind = |version: &Version| {
            let name = match version {
                Version::V1 => network.alias()?,
                Version::V2 => network.id(),
            };
            Some(SupportedKind {
                x402_version: version.number(),
                scheme: scheme.name().to_owned(),
                network: name.to_owned(),
                extra: scheme.extra(),
                rest: Rest::default(),
            })
        };
        scheme.versions().iter().filter_map(kind).collect()
    }

    /// The scheme that reads a request.
    fn scheme_of(&self, request: &PaymentRequest) -> Option<&Arc<dyn Scheme<C>>> {
        let reads = |scheme: &&Arc<dyn Scheme<C>>| {
            scheme.name() == request.requirements.scheme
                && scheme.versions().contains(&request.version)
        };
        self.schemes.iter().find(reads)
    }

    /// The verdict against a request that no scheme reads, with what there is instead.
    fn unsupported(&self, request: &PaymentRequest) -> Rejection {
        let reads = |scheme: &&Arc<dyn Scheme<C>>| scheme.versions().contains(&request.version);
        let schemes = self.schemes.iter().filter(reads);
        let names: Vec<&str> = schemes.map(|scheme| scheme.name()).collect();
        let (network, version) = (self.network(), request.version.number());
        let names = match names.is_empty() {
            true => "none".to_owned(),
            false => names.join(", "),
        };
        let detail = format_args!("schemes supported on {network} in version {version}: {names}");
        Rejection::new(Reason::UNSUPPORTED_SCHEME, detail)
    }

    /// The addresses transactions are signed with.
    pub(crate) fn signers(&self) -> Vec<String> {
        self.chain
            .lanes()
            .iter()
            .map(|lane| lane.address().to_owned())
            .collect()
    }

    /// Reports an event to the subscribers.
    pub(crate) fn report(&self, event: Event) {
        // An error means that there are none.
        drop(self.events.send(event));
    }

    /// Looks at the chain's health, every so often.
    async fn look_after(self: Arc<Self>) {
        loop {
            let works = self.health().network_works();
            sleep(if works { HEALTH_EVERY } else { RECOVERY_EVERY }).await;
            self.look().await;
        }
    }

    /// Searches for what was left, every so often; the first time at once, because what the process before left
    /// unrepaired may not wait. A task of its own: a long search must not keep anyone from seeing that the network is
    /// down.
    async fn sweep_up(self: Arc<Self>) {
        let mut sweep = tokio::time::interval(self.timing.sweep_every);
        // After a long one the next is not at once.
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut mender, mut settled) = (GapFiller::default(), Settled::default());
        loop {
            sweep.tick().await;
            if let Err(fault) = self.sweep(&mut mender, &mut settled).await {
                warn!(network = self.network(), %fault, "what was left cannot be searched for");
            }
        }
    }

    /// Searches for what was left. There is nothing, unless something went wrong.
    async fn sweep(
        self: &Arc<Self>,
        mender: &mut GapFiller,
        settled: &mut Settled,
    ) -> Result<(), Fault> {
        self.recover().await?;
        // A hole says that the chain has taken something back, and perhaps more than the hole shows.
        let found_holes = mender.search(self).await?;
        settled.search(self, found_holes).await
    }

    /// Why nothing may be concluded from the time now, by a look at the chain that began after this call. The clock may
    /// have jumped since the last regular look. However many ask, one look is under way.
    pub(crate) async fn doubts_time(&self) -> Option<Fault> {
        let asked = Instant::now();
        let mut looked_at = self.looked_at_clock.lock().await;
        if looked_at.is_none_or(|began| began < asked) {
            *looked_at = Some(Instant::now());
            self.look().await;
        }
        drop(looked_at);
        if !self.health().network_works() {
            let what = "while the network cannot be used, nothing says that the clock is right";
            return Some(Fault::new(FaultKind::ChainUnavailable, what));
        }
        self.chain.clock_fault()
    }

    /// Looks at the chain's health once.
    pub(crate) async fn look(&self) {
        let mut found = self.chain.health(self.clock.now()).await;
        found.problems.extend(self.watch.stuck());
        found.problems.extend(self.unreadable_problem());
        let mut known = self.health.write().unwrap_or_else(PoisonError::into_inner);
        for problem in found
            .problems
            .iter()
            .filter(|problem| !known.problems.contains(problem))
        {
            warn!(
                network = self.network(),
                problem = problem.what,
                "health problem"
            );
        }
        let up = if found.network_works() { 1.0 } else { 0.0 };
        metrics::gauge!("quittance_network_up", "network" => self.network().to_owned()).set(up);
        *known = found;
    }
}
