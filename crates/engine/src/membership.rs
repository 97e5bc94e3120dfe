//! This process among the replicas of its journal: how long it may act, and what it holds.
//!
//! A process that was paused or cut off must not act on what it held before. So it counts its own
//! membership from before the renewal was sent, by a monotonic clock, and ends it earlier than the
//! journal does. Nothing is signed after that moment. If this clock stood still with the machine,
//! the journal refuses what was signed: it compares the token in the same write.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quittance_journal::{FencingToken, Journal, JournalError, LeaseName, Members, ReplicaId};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::warn;

/// The part of its duration by which a membership ends earlier here than in the journal: a tenth.
/// Two clocks of working machines differ by less than a thousandth.
const MARGIN: u32 = 10;

/// How many renewals may fail before a membership is over. The next one is in time.
const FAILURES_MAX: u32 = 2;

/// The membership of this process.
pub(crate) struct Membership {
    journal: Arc<dyn Journal>,
    duration: Duration,
    view: Mutex<View>,
    /// Locked while the journal is asked: an older answer must not replace a newer one.
    asking: tokio::sync::Mutex<()>,
    /// Whether this process takes no new work from others, because it is about to stop.
    is_retiring: AtomicBool,
    /// Changes with every renewal.
    renewed: watch::Sender<()>,
}

/// What is known of the members.
#[derive(Default)]
struct View {
    /// Until when this process is certainly a member.
    until: Option<Instant>,
    members: Members,
}

impl Membership {
    /// A membership that was not renewed yet.
    pub(crate) fn new(journal: Arc<dyn Journal>, duration: Duration) -> Self {
        Self {
            journal,
            duration,
            view: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
            is_retiring: AtomicBool::new(false),
            renewed: watch::Sender::new(()),
        }
    }

    /// Renews the membership once.
    pub(crate) async fn renew(&self) -> Result<(), JournalError> {
        let asking = self.asking.lock().await;
        let began = Instant::now();
        let members = self.journal.renew(self.duration).await?;
        let mut view = self.view();
        view.until = Some(began + self.duration - self.duration / MARGIN);
        view.members = members;
        let count = view.members.replicas.len();
        drop((view, asking));
        metrics::gauge!("quittance_replicas").set(count as f64);
        self.renewed.send_replace(());
        Ok(())
    }

    /// Renews the membership as long as this process runs.
    pub(crate) async fn run(&self) {
        let pause = self.duration / (FAILURES_MAX + 2);
        loop {
            sleep(pause).await;
            if let Err(error) = self.renew().await {
                warn!(%error, "the membership of this replica could not be renewed");
            }
        }
    }

    /// Follows the renewals.
    pub(crate) fn renewals(&self) -> watch::Receiver<()> {
        self.renewed.subscribe()
    }

    /// From now on, takes no new work from others.
    pub(crate) fn retire(&self) {
        self.is_retiring.store(true, Ordering::Relaxed);
    }

    /// Whether this process takes no new work from others.
    pub(crate) fn is_retiring(&self) -> bool {
        self.is_retiring.load(Ordering::Relaxed)
    }

    /// Ends the membership. Nothing is written by this process after that.
    pub(crate) async fn leave(&self) {
        self.view().until = None;
        if let Err(error) = self.journal.leave().await {
            warn!(%error, "other replicas must wait until the membership of this one is over");
        }
    }

    /// This process.
    pub(crate) fn replica(&self) -> ReplicaId {
        self.journal.replica()
    }

    /// The members at the last renewal.
    pub(crate) fn members(&self) -> Members {
        self.view().members.clone()
    }

    /// How many members there were at the last renewal.
    pub(crate) fn count(&self) -> usize {
        self.view().members.replicas.len()
    }

    /// Whether there were other members at the last renewal.
    pub(crate) fn has_others(&self) -> bool {
        self.count() > 1
    }

    /// The token of a lease that this process certainly holds now.
    pub(crate) fn token(&self, name: &LeaseName) -> Option<FencingToken> {
        let (me, view) = (self.replica(), self.view());
        let is_member = view.until.is_some_and(|until| Instant::now() < until);
        let held = view.members.leases.iter().find(|lease| lease.name == *name);
        let held = held.filter(|lease| is_member && lease.holder == me);
        held.map(|lease| lease.token)
    }

    /// Whether another member holds a lease, as of the last renewal.
    pub(crate) fn is_elsewhere(&self, name: &LeaseName) -> bool {
        let (me, view) = (self.replica(), self.view());
        let mut leases = view.members.leases.iter();
        leases.any(|lease| lease.name == *name && lease.holder != me)
    }

    /// Acquires a lease, if no member holds it. Returns whether this process holds it now.
    pub(crate) async fn acquire(&self, name: &LeaseName) -> Result<bool, JournalError> {
        let _asking = self.asking.lock().await;
        let Some(lease) = self.journal.acquire(name).await? else {
            return Ok(false);
        };
        let mut view = self.view();
        view.members.leases.retain(|known| known.name != *name);
        view.members.leases.push(lease);
        Ok(true)
    }

    /// Releases a lease. Nothing is done under it after that.
    pub(crate) async fn release(&self, name: &LeaseName) -> Result<(), JournalError> {
        let _asking = self.asking.lock().await;
        self.view()
            .members
            .leases
            .retain(|known| known.name != *name);
        self.journal.release(name).await
    }

    fn view(&self) -> MutexGuard<'_, View> {
        // A thread that panicked with the lock left complete values.
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
