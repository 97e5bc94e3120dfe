//! One network: its chain, the schemes on it, and every payment that is verified or settled there.

mod answer;
mod claim;
mod decoded;
mod dispatch;
mod handed_over;
mod history;
mod judge;
mod lost_answers;
mod prior;
mod recover;
mod upkeep;
mod used;
mod verify;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use quittance_core::wire::SupportedKind;
use quittance_core::{Chain, Clock, Fault, Health, LaneId, Scheme};
use quittance_journal::Journal;
use tokio::sync::{Notify, Semaphore, broadcast, mpsc};
use tokio::time::{MissedTickBehavior, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

pub(crate) use self::lost_answers::LostAnswers;
use crate::context::{Context, Returned};
use crate::event::Event;
use crate::failures::{FailureLimits, Failures};
use crate::health::Monitor;
use crate::in_flight::InFlight;
use crate::lane::{self, Lane};
use crate::leases::{self, Leases};
use crate::ledger::Ledger;
use crate::membership::Membership;
use crate::outstanding::Outstanding;
use crate::policy::Policy;
use crate::reader::{self, Reads, Statuses};
use crate::schemes::Schemes;
use crate::signatures::Signatures;
use crate::timing::Timing;
use crate::watch::{self, GapFiller, SettledPayments};
use crate::writer::JournalWriter;

/// The pause between two health checks of a working network: short enough that /supported is right,
/// and long enough to cost nothing.
const HEALTH_EVERY: Duration = Duration::from_secs(10);

/// The pause between two health checks of a network that does not work. Its payments are refused
/// until a look finds that it works again.
const HEALTH_EVERY_DOWN: Duration = Duration::from_secs(2);

/// How many open settlements are examined concurrently: as many as share one batch of questions.
/// After a crash there may be thousands.
const RECOVERING_MAX: usize = 256;

/// How many payments may be waited for on one network because they are not valid yet. Each keeps
/// its caller's permit, and a payer can sign any number of them. The callers of further ones are
/// asked to retry.
const NOT_YET_WAITING_MAX: usize = 64;

/// How many searches run at once for requests that were never claimed here. Each costs the nodes
/// more than other questions, and the owner of a used authorization can present it as often as the
/// rate limits allow.
const SEARCHES_MAX: usize = 8;

/// What a caller keeps while its payment is worked on. The engine only drops it.
pub(crate) type Permit = Box<dyn Send>;

/// One network.
pub(crate) struct Rail<C: Chain> {
    context: Arc<Context<C>>,
    lanes: Vec<Lane<C>>,
    policy: Arc<dyn Policy>,
    signatures: Signatures,
    reads: Reads<C>,
    /// The statuses of transactions that are not outstanding.
    statuses: Statuses<C>,
    lost_answers: LostAnswers,
    settle_wait: Duration,
    /// Limits the payments that are waited for because they are not valid yet.
    waiting_to_open: Semaphore,
    /// Limits the settlements that are examined by recovery.
    recovering: Semaphore,
    /// Limits the searches for requests that were never claimed here.
    searches: Semaphore,
}

/// What the rails of an engine share.
#[derive(Clone)]
pub(crate) struct Services {
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) policy: Arc<dyn Policy>,
    pub(crate) signatures: Signatures,
    pub(crate) settle_wait: Duration,
    pub(crate) timing: Timing,
    pub(crate) failure_limits: FailureLimits,
    pub(crate) events: broadcast::Sender<Event>,
    pub(crate) lost_answers: LostAnswers,
    pub(crate) membership: Arc<Membership>,
    pub(crate) stopping: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

impl<C: Chain> Rail<C> {
    /// A rail with its tasks running.
    pub(crate) fn start(
        chain: Arc<C>,
        schemes: Vec<Arc<dyn Scheme<C>>>,
        services: Services,
    ) -> Arc<Self> {
        let (lanes, workers): (Vec<_>, Vec<_>) =
            chain.lanes().iter().map(|id| lane::new(id.clone())).unzip();
        let (returned, jobs) = mpsc::unbounded_channel();
        let context = Arc::new(context(&chain, schemes, &services, returned));
        let rail = Arc::new(Self {
            lanes,
            policy: services.policy,
            signatures: services.signatures,
            reads: reader::reads(Arc::clone(&chain)),
            statuses: reader::statuses(chain),
            lost_answers: services.lost_answers,
            settle_wait: services.settle_wait,
            waiting_to_open: Semaphore::new(NOT_YET_WAITING_MAX),
            recovering: Semaphore::new(RECOVERING_MAX),
            searches: Semaphore::new(SEARCHES_MAX),
            context: Arc::clone(&context),
        });
        for worker in workers {
            context.spawn(worker.run(Arc::clone(&context)));
        }
        context.spawn(watch::run(Arc::clone(&context)));
        context.spawn(Arc::clone(&rail).take_returned(jobs));
        context.spawn(Arc::clone(&rail).maintain());
        context.spawn(keep_leases(Arc::clone(&context)));
        context.spawn(Arc::clone(&rail).take_handed_over());
        rail
    }

    /// The chain.
    pub(crate) fn chain(&self) -> &C {
        &self.context.chain
    }

    /// The number of settlements in progress.
    pub(crate) fn in_progress(&self) -> usize {
        self.context.in_flight.len()
    }

    /// The chain's health at the last look.
    pub(crate) fn health(&self) -> Health {
        self.context.health.known()
    }

    /// Acquires this process's share of the lanes, and begins to sweep. The first sweep needs the
    /// lanes: what the chain has taken back is sent again at once. A lane that cannot be acquired
    /// now is acquired later.
    pub(crate) async fn begin(self: &Arc<Self>) {
        let balanced = self.context.leases.balance(&self.context.outstanding);
        if let Err(error) = balanced.await {
            warn!(%error, "the lanes could not be acquired yet");
        }
        self.context.spawn(Arc::clone(self).sweep_regularly());
    }

    /// The lanes that this process may send with now.
    pub(crate) fn lanes_held(&self) -> Vec<LaneId> {
        self.context.leases.held()
    }

    /// Looks at the chain's health.
    pub(crate) async fn look(&self) {
        self.context.health.look().await;
    }

    /// What can be settled now: the kinds with a working asset, if transactions can be sent.
    /// Nothing while the journal cannot be written.
    pub(crate) fn kinds(&self) -> Vec<SupportedKind> {
        let health = self.health();
        let can_send = health.can_send(self.chain().lanes());
        match self.context.writer.journal.problem() {
            None if can_send => self.context.schemes.kinds(&health),
            _ => Vec::new(),
        }
    }

    /// The protocol extensions of the schemes that can be used now.
    pub(crate) fn extensions(&self) -> Vec<String> {
        let health = self.health();
        let usable = self.context.schemes.usable(&health);
        usable
            .flat_map(|scheme| scheme.extensions())
            .map(ToString::to_string)
            .collect()
    }

    /// The addresses that transactions are signed with.
    pub(crate) fn signers(&self) -> Vec<String> {
        let lanes = self.chain().lanes().iter();
        lanes.map(|lane| lane.address().to_owned()).collect()
    }

    /// Looks at the chain's health regularly.
    async fn maintain(self: Arc<Self>) {
        loop {
            let works = self.health().network_works();
            sleep(if works {
                HEALTH_EVERY
            } else {
                HEALTH_EVERY_DOWN
            })
            .await;
            self.look().await;
        }
    }

    /// Takes the jobs that lanes and the watcher hand back.
    async fn take_returned(self: Arc<Self>, mut jobs: mpsc::UnboundedReceiver<Returned<C>>) {
        while let Some(returned) = jobs.recv().await {
            let rail = Arc::clone(&self);
            match returned {
                Returned::Resume(job) => self.context.spawn(rail.resume(job)),
                Returned::Requeue(ready, lane) => {
                    let queued = async move { rail.queue(ready, Some(lane)).await };
                    self.context.spawn(queued);
                }
            }
        }
    }

    /// Sweeps regularly. The first sweep is at once: what an earlier process left must not wait.
    /// This is a separate task, because a long search must not delay the health check.
    async fn sweep_regularly(self: Arc<Self>) {
        let mut sweep = tokio::time::interval(self.context.timing.sweep_every);
        // After a long sweep the next one is not at once.
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut gaps, mut settled) = (GapFiller::default(), SettledPayments::default());
        loop {
            let swept = tokio::select! {
                _ = sweep.tick() => self.sweep(&mut gaps, &mut settled).await,
                // Gaps are searched at the usual pace: a number is filled if two searches find it.
                () = self.context.recover_now.notified() => self.recover().await,
            };
            if let Err(fault) = swept {
                let network = self.context.network();
                warn!(network, %fault, "the sweep could not be completed");
            }
        }
    }

    /// Searches for open settlements without a task, for gaps, and for payments that were taken
    /// back. Finds nothing unless something went wrong. One replica does the last two for all.
    async fn sweep(
        self: &Arc<Self>,
        gaps: &mut GapFiller,
        settled: &mut SettledPayments,
    ) -> Result<(), Fault> {
        self.recover().await?;
        // A gap shows that the chain has taken something back, and perhaps more than the gap.
        let was_taken_back = gaps.search(&self.context).await?;
        if !self.context.leases.has_duty() {
            return Ok(());
        }
        settled.search(&self.context, was_taken_back).await?;
        self.look_after_states().await
    }
}

/// Keeps this process's share of the lanes. What an earlier holder of a lane left is resumed at
/// once.
async fn keep_leases<C: Chain>(context: Arc<Context<C>>) {
    let acquired = || context.recover_now.notify_one();
    leases::keep(&context.leases, &context.outstanding, acquired).await;
}

/// The context of a rail.
fn context<C: Chain>(
    chain: &Arc<C>,
    schemes: Vec<Arc<dyn Scheme<C>>>,
    services: &Services,
    returned: mpsc::UnboundedSender<Returned<C>>,
) -> Context<C> {
    let outstanding = Arc::<Outstanding<C>>::default();
    let clock = Arc::clone(&services.clock);
    Context {
        chain: Arc::clone(chain),
        health: Monitor::new(
            Arc::clone(chain),
            schemes.clone(),
            Arc::clone(&clock),
            Arc::clone(&outstanding),
        ),
        schemes: Schemes::new(chain.network().clone(), schemes),
        writer: JournalWriter {
            journal: Arc::clone(&services.journal),
            clock,
            stopping: services.stopping.clone(),
        },
        timing: services.timing,
        in_flight: InFlight::default(),
        outstanding,
        ledger: Ledger::default(),
        leases: Leases::new(Arc::clone(&services.membership), &**chain),
        has_handed_over: AtomicBool::new(false),
        recover_now: Notify::new(),
        failures: Failures::new(services.failure_limits),
        relaying: Semaphore::new(lane::RELAYING_MAX),
        events: services.events.clone(),
        tasks: services.tasks.clone(),
        returned,
    }
}
