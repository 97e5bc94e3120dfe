//! Settled payments that the chain could still take back. They are checked until they are final.
//!
//! A reorganisation can take back a payment whose success was reported. If its sequence number is
//! free again, the gap filler sends the same bytes again. The settlement is reopened if another
//! transaction used the number, or if the same one was included again without effect. The
//! authorization is then sent in a new transaction.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use quittance_core::{
    Chain, Effect, Fault, LaneId, Payment, PaymentId, Status, TransactionId, Watched,
};
use quittance_journal::{Settlement, SignedFor, StateKind};
use tokio::time::Instant;
use tracing::{error, warn};

use crate::context::{Context, Returned};
use crate::event::Event;

/// The number of settlements that are checked together. Each takes about ten kilobytes of memory.
const AT_ONCE_MAX: usize = 256;

/// The longest pause between two checks of one settlement. Most reorganisations are a few blocks
/// deep, so the first checks find them, and their pauses are short. Authorizations that are sent
/// again are often valid for an hour.
const PAUSE_MAX: Duration = Duration::from_secs(240);

/// After this time a settled payment is final whatever the nodes report: they may not remember it.
/// Sending again cannot repair a reorganisation of a day.
const WATCHED_MAX: Duration = Duration::from_secs(24 * 3600);

/// The settled payments that are not final yet.
#[derive(Default)]
pub(crate) struct SettledPayments {
    looks: HashMap<PaymentId, Look>,
}

/// The last check of a settlement.
struct Look {
    at: Instant,
    /// The pause until the next check.
    pause: Duration,
    /// Since when the chain has not had the payment.
    missing_since: Option<Instant>,
}

/// The result of a check.
enum Found {
    /// The money was transferred, by this transaction.
    Included {
        id: TransactionId,
        confirmations: u64,
    },
    /// None of its transactions has transferred the money.
    Missing,
    /// The nodes give no certain answer.
    Unknown,
}

/// The statuses of sequence numbers.
type Statuses<C> = BTreeMap<(LaneId, u64), Result<Status<<C as Chain>::Evidence>, Fault>>;

impl SettledPayments {
    /// Checks every settlement that is due, or `all` of them. After a start, all are due.
    pub(crate) async fn search<C: Chain>(
        &mut self,
        context: &Arc<Context<C>>,
        all: bool,
    ) -> Result<(), Fault> {
        let network = context.network();
        let ids = context.writer.journal.not_final(network).await?;
        metrics::gauge!("quittance_settlements_not_final", "network" => network.to_owned())
            .set(ids.len() as f64);
        let listed: HashSet<&PaymentId> = ids.iter().collect();
        self.looks.retain(|id, _| listed.contains(id));
        let due: Vec<PaymentId> = ids
            .into_iter()
            .filter(|id| all || self.is_due(id))
            .collect();
        for ids in due.chunks(AT_ONCE_MAX) {
            self.look_at(context, ids).await?;
        }
        Ok(())
    }

    fn is_due(&self, id: &PaymentId) -> bool {
        let look = self.looks.get(id);
        look.is_none_or(|look| look.missing_since.is_some() || look.at.elapsed() >= look.pause)
    }

    async fn look_at<C: Chain>(
        &mut self,
        context: &Arc<Context<C>>,
        ids: &[PaymentId],
    ) -> Result<(), Fault> {
        let settled = load(context, ids).await?;
        let watched = sequences(&settled);
        let key = |watched: &Watched| (watched.lane.clone(), watched.sequence);
        let keys: Vec<(LaneId, u64)> = watched.iter().map(key).collect();
        let statuses = context.chain.status(&watched).await;
        let statuses: Statuses<C> = keys.into_iter().zip(statuses).collect();
        let mut finals = Vec::new();
        for settlement in settled {
            let id = settlement.claim.id;
            if is_old(context, &settlement) {
                finals.push(id);
                continue;
            }
            let Some(payment) = context.schemes.decode_again(&settlement) else {
                error!(settlement = %id,
                    "a settled payment in the journal cannot be decoded and is not watched");
                finals.push(id);
                continue;
            };
            let found = find(context, &settlement, &*payment, &statuses);
            if self.judge(context, settlement, payment, found).await? {
                finals.push(id);
            }
        }
        match finals.is_empty() {
            true => Ok(()),
            false => Ok(context.writer.finalize(&finals).await?),
        }
    }

    /// Acts on the result of a check. Returns whether the settlement is final.
    async fn judge<C: Chain>(
        &mut self,
        context: &Arc<Context<C>>,
        settlement: Settlement,
        payment: Arc<dyn Payment<C>>,
        found: Found,
    ) -> Result<bool, Fault> {
        let first_pause = context.timing.sweep_every;
        let look = self.looks.entry(settlement.claim.id).or_insert(Look {
            at: Instant::now(),
            pause: first_pause,
            missing_since: None,
        });
        match found {
            Found::Unknown => return Ok(false),
            Found::Included { id, confirmations } => {
                look.missing_since = None;
                look.pause = (look.pause * 2).min(PAUSE_MAX);
                look.at = Instant::now();
                if settlement.evidence() == Some(&id) {
                    let required = context.confirmations_required(&*payment);
                    return Ok(is_final(context, &settlement, confirmations, required));
                }
                // The chain has chosen another of its transactions. Reopening corrects the journal.
            }
            Found::Missing => {
                let since = *look.missing_since.get_or_insert_with(Instant::now);
                if since.elapsed() < context.timing.dropped_after {
                    return Ok(false);
                }
            }
        }
        reopen(context, settlement, payment).await?;
        Ok(false)
    }
}

/// Loads those of these settlements that have settled. A damaged one must not keep the others from
/// being watched.
async fn load<C: Chain>(context: &Context<C>, ids: &[PaymentId]) -> Result<Vec<Settlement>, Fault> {
    let mut settled = Vec::new();
    for id in ids {
        let found = context.load(*id).await?;
        settled.extend(found.filter(|settlement| settlement.state.kind() == StateKind::Settled));
    }
    Ok(settled)
}

/// Every sequence number that a transaction of these settlements was signed for, once.
fn sequences(settled: &[Settlement]) -> Vec<Watched> {
    let mut sequences: BTreeMap<(LaneId, u64), Watched> = BTreeMap::new();
    for transaction in settled.iter().flat_map(Settlement::all_transactions) {
        let key = (transaction.lane.clone(), transaction.sequence);
        let watched = sequences.entry(key).or_insert_with(|| Watched {
            lane: transaction.lane.clone(),
            sequence: transaction.sequence,
            transactions: Vec::new(),
        });
        if !watched.transactions.contains(transaction) {
            watched.transactions.push(transaction.clone());
        }
    }
    sequences.into_values().collect()
}

/// Whether one of a settlement's transactions has transferred the money, according to these
/// statuses.
fn find<C: Chain>(
    context: &Context<C>,
    settlement: &Settlement,
    payment: &dyn Payment<C>,
    statuses: &Statuses<C>,
) -> Found {
    let mut found = Found::Missing;
    for signed in settlement.all_signed() {
        let transaction = &signed.transaction;
        let status = statuses.get(&(transaction.lane.clone(), transaction.sequence));
        match status {
            Some(Ok(Status::Included {
                id,
                confirmations,
                evidence,
            })) if *id == transaction.id => {
                if *confirmations < context.confirmations_required(payment) {
                    found = Found::Unknown;
                    continue;
                }
                match settles(settlement, signed, payment, evidence) {
                    Some(true) => {
                        return Found::Included {
                            id: id.clone(),
                            confirmations: *confirmations,
                        };
                    }
                    Some(false) => {}
                    None => found = Found::Unknown,
                }
            }
            Some(Ok(Status::Included { .. } | Status::Dropped | Status::Pending)) => {}
            Some(Ok(Status::Executing { .. }) | Err(_)) | None => found = Found::Unknown,
        }
    }
    found
}

/// Whether an included transaction has settled the payment. A step has if nothing more was sent
/// after it. `None` if the scheme panics.
fn settles<C: Chain>(
    settlement: &Settlement,
    signed: &SignedFor,
    payment: &dyn Payment<C>,
    evidence: &C::Evidence,
) -> Option<bool> {
    if signed.step > 0 {
        return Some(settlement.evidence() == Some(&signed.transaction.id));
    }
    let amount = settlement.claim.amount;
    let effect = catch_unwind(AssertUnwindSafe(|| payment.effect(amount, evidence)));
    effect
        .ok()
        .map(|effect| matches!(effect, Effect::Transferred(_)))
}

/// How long ago a payment settled.
fn age<C: Chain>(context: &Context<C>, settlement: &Settlement) -> Duration {
    let since = settlement.concluded_at.unwrap_or(settlement.claimed_at);
    Duration::from_secs(context.now().secs_since(since))
}

/// Whether a payment with these confirmations, of those that it requires, is final.
fn is_final<C: Chain>(
    context: &Context<C>,
    settlement: &Settlement,
    confirmations: u64,
    required: u64,
) -> bool {
    let finality = context.chain.finality();
    let needed = finality.confirmations.max(required);
    confirmations >= needed && age(context, settlement) >= finality.age
}

/// Whether a payment settled so long ago that nodes may not remember it.
fn is_old<C: Chain>(context: &Context<C>, settlement: &Settlement) -> bool {
    age(context, settlement) >= WATCHED_MAX.max(context.chain.finality().age * 2)
}

/// Opens a settlement again, and hands it to recovery.
async fn reopen<C: Chain>(
    context: &Arc<Context<C>>,
    settlement: Settlement,
    payment: Arc<dyn Payment<C>>,
) -> Result<(), Fault> {
    let id = settlement.claim.id;
    // Another task works on it. The next look finds its result.
    let Ok(guard) = context.in_flight.guard(id) else {
        return Ok(());
    };
    let journal = &context.writer.journal;
    let now = context.writer.clock.now();
    if !journal.reopen(&id, settlement.attempt, now).await? {
        return Ok(());
    }
    let network = context.network().to_owned();
    let transaction = settlement.evidence().cloned();
    warn!(settlement = %id, ?transaction,
        "the chain no longer has a settled payment: it is sent again");
    metrics::counter!("quittance_undone_settlements_total", "network" => network.clone())
        .increment(1);
    // Success may have been reported since the settlement was loaded. It cannot be from here on.
    let Some(settlement) = journal.settlement(&id).await? else {
        return Ok(());
    };
    if let (Some(transaction), true) = (transaction, settlement.success_reported_at.is_some()) {
        context.report(Event::Undone {
            network,
            settlement: id,
            transaction,
        });
    }
    let job = context.resume(&settlement, payment, guard);
    context.hand_back(Returned::Resume(job));
    Ok(())
}
