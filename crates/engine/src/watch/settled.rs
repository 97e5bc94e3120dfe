//! What has settled and could still be undone: looked at until its block is final.
//!
//! A reorganisation can take back a payment whose success was reported. Where its place in the lane is free again, the same
//! bytes are sent again ([`GapFiller`](super::GapFiller)). Where another transaction has the place, or the same one was included
//! anew and had no effect, the settlement is opened again, and the authorization is sent in a new transaction.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use quittance_core::{
    Chain, Effect, Fault, LaneId, Payment, PaymentId, Status, TransactionId, Watched,
};
use tokio::time::Instant;
use tracing::{error, warn};

use crate::event::Event;
use crate::rail::Rail;
use quittance_journal::{JournalError, Outcome, Settlement, State};

/// How many settlements are looked at in one go: what is held in memory of them is some ten kilobytes each.
const AT_ONCE_MAX: usize = 256;

/// The longest pause between two looks at one settlement. Most reorganisations are a few blocks deep and found by the first
/// looks, which come close together; authorizations that are sent again are often valid for an hour.
const PAUSE_MAX: Duration = Duration::from_secs(240);

/// How long after it settled a payment is final whatever the nodes say: they may not remember it. Reorganisations of a day
/// are not repaired by sending things again.
const WATCHED_MAX: Duration = Duration::from_secs(24 * 3600);

/// The settlements that could still be undone.
#[derive(Default)]
pub(crate) struct Settled {
    looks: HashMap<PaymentId, Look>,
}

/// The last look at a settlement.
struct Look {
    at: Instant,
    /// Until the next one.
    pause: Duration,
    /// Since when the chain has not had it.
    missing_since: Option<Instant>,
}

/// What a look found.
enum Found {
    /// The money has moved, in this transaction.
    There {
        id: TransactionId,
        confirmations: u64,
    },
    /// None of its transactions has moved the money.
    Missing,
    /// Nothing is certain.
    Unknown,
}

/// Where places stand, by place.
type Statuses<C> = BTreeMap<(LaneId, u64), Result<Status<<C as Chain>::Evidence>, Fault>>;

impl Settled {
    /// Looks at every settlement whose time has come, or at `all` of them. After a start the time of all has come.
    pub(crate) async fn search<C: Chain>(
        &mut self,
        rail: &Arc<Rail<C>>,
        all: bool,
    ) -> Result<(), Fault> {
        let ids = rail.writer.journal.not_final(rail.network()).await?;
        metrics::gauge!("quittance_settlements_not_final", "network" => rail.network().to_owned())
            .set(ids.len() as f64);
        let listed: HashSet<&PaymentId> = ids.iter().collect();
        self.looks.retain(|id, _| listed.contains(id));
        let due: Vec<PaymentId> = ids
            .into_iter()
            .filter(|id| all || self.is_due(id))
            .collect();
        for ids in due.chunks(AT_ONCE_MAX) {
            self.look_at(rail, ids).await?;
        }
        Ok(())
    }

    fn is_due(&self, id: &PaymentId) -> bool {
        let look = self.looks.get(id);
        look.is_none_or(|look| look.missing_since.is_some() || look.at.elapsed() >= look.pause)
    }

    async fn look_at<C: Chain>(
        &mut self,
        rail: &Arc<Rail<C>>,
        ids: &[PaymentId],
    ) -> Result<(), Fault> {
        let mut settled = Vec::new();
        for id in ids {
            match rail.writer.journal.settlement(id).await {
                Ok(found) => settled.extend(found.filter(has_settled)),
                // One that is damaged must not keep the others from being watched.
                Err(error @ JournalError::Unreadable { .. }) => {
                    rail.pass_over(*id, &error.to_string());
                }
                Err(error) => return Err(error.into()),
            }
        }
        let watched = sequences(&settled);
        let keys = watched
            .iter()
            .map(|sequence| (sequence.lane.clone(), sequence.sequence));
        let keys: Vec<(LaneId, u64)> = keys.collect();
        let statuses = rail.chain.status(&watched).await;
        let statuses: Statuses<C> = keys.into_iter().zip(statuses).collect();
        let mut finals = Vec::new();
        for settlement in settled {
            let id = settlement.claim.id;
            if is_old(rail, &settlement) {
                finals.push(id);
                continue;
            }
            let Some(payment) = rail.decode_again(&settlement) else {
                error!(settlement = %id, "a settled payment in the journal cannot be read and is not watched");
                finals.push(id);
                continue;
            };
            let found = look_at_one(rail, &settlement, &*payment, &statuses);
            if self.judge(rail, settlement, payment, found).await? {
                finals.push(id);
            }
        }
        match finals.is_empty() {
            true => Ok(()),
            false => Ok(rail.writer.finalize(&finals).await?),
        }
    }

    /// Does what a look calls for; says whether the settlement is final.
    async fn judge<C: Chain>(
        &mut self,
        rail: &Arc<Rail<C>>,
        settlement: Settlement,
        payment: Arc<dyn Payment<C>>,
        found: Found,
    ) -> Result<bool, Fault> {
        let first_pause = rail.timing.sweep_every;
        let look = self.looks.entry(settlement.claim.id).or_insert(Look {
            at: Instant::now(),
            pause: first_pause,
            missing_since: None,
        });
        match found {
            Found::Unknown => return Ok(false),
            Found::There { id, confirmations } => {
                let moved_there = settlement.evidence() == Some(&id);
                look.missing_since = None;
                look.pause = (look.pause * 2).min(PAUSE_MAX);
                look.at = Instant::now();
                if moved_there {
                    return Ok(is_final(rail, &settlement, confirmations));
                }
                // The chain has chosen another of its transactions: the books are corrected.
            }
            Found::Missing => {
                let since = *look.missing_since.get_or_insert_with(Instant::now);
                if since.elapsed() < rail.timing.gone_for {
                    return Ok(false);
                }
            }
        }
        reopen(rail, settlement, payment).await?;
        Ok(false)
    }
}

fn has_settled(settlement: &Settlement) -> bool {
    matches!(settlement.state, State::Concluded(Outcome::Settled { .. }))
}

/// Every place that a transaction of these settlements was signed for, once.
fn sequences(settled: &[Settlement]) -> Vec<Watched> {
    let mut sequences: BTreeMap<(LaneId, u64), Watched> = BTreeMap::new();
    for transaction in settled.iter().flat_map(Settlement::all_transactions) {
        let key = (transaction.lane.clone(), transaction.sequence);
        let sequence = sequences.entry(key).or_insert_with(|| Watched {
            lane: transaction.lane.clone(),
            sequence: transaction.sequence,
            transactions: Vec::new(),
        });
        if !sequence.transactions.contains(transaction) {
            sequence.transactions.push(transaction.clone());
        }
    }
    sequences.into_values().collect()
}

/// Whether one of a settlement's own transactions has moved the money, as far as these statuses say.
fn look_at_one<C: Chain>(
    rail: &Rail<C>,
    settlement: &Settlement,
    payment: &dyn Payment<C>,
    statuses: &Statuses<C>,
) -> Found {
    let mut found = Found::Missing;
    for transaction in settlement.all_transactions() {
        let status = statuses.get(&(transaction.lane.clone(), transaction.sequence));
        match status {
            Some(Ok(Status::Included {
                id,
                confirmations,
                evidence,
            })) if *id == transaction.id => {
                if *confirmations < rail.chain.confirmations_required() {
                    found = Found::Unknown;
                    continue;
                }
                let amount = settlement.claim.amount;
                let effect = catch_unwind(AssertUnwindSafe(|| payment.effect(amount, evidence)));
                match effect {
                    Ok(Effect::Transferred(moved)) if moved == amount => {
                        return Found::There {
                            id: id.clone(),
                            confirmations: *confirmations,
                        };
                    }
                    Ok(_) => {}
                    Err(_) => found = Found::Unknown,
                }
            }
            Some(Ok(_)) => {}
            Some(Err(_)) | None => found = Found::Unknown,
        }
    }
    found
}

/// How long ago it settled.
fn age<C: Chain>(rail: &Rail<C>, settlement: &Settlement) -> Duration {
    let since = settlement.concluded_at.unwrap_or(settlement.claimed_at);
    Duration::from_secs(rail.writer.clock.now().secs_since(since))
}

fn is_final<C: Chain>(rail: &Rail<C>, settlement: &Settlement, confirmations: u64) -> bool {
    let finality = rail.chain.finality();
    confirmations >= finality.confirmations && age(rail, settlement) >= finality.age
}

/// Whether it settled so long ago that nodes may not remember it.
fn is_old<C: Chain>(rail: &Rail<C>, settlement: &Settlement) -> bool {
    age(rail, settlement) >= WATCHED_MAX.max(rail.chain.finality().age * 2)
}

/// Opens a settlement again, and takes it up.
async fn reopen<C: Chain>(
    rail: &Arc<Rail<C>>,
    settlement: Settlement,
    payment: Arc<dyn Payment<C>>,
) -> Result<(), Fault> {
    let id = settlement.claim.id;
    // A task works on it: the next look finds the result.
    let Ok(hold) = rail.live.hold(id) else {
        return Ok(());
    };
    let journal = &rail.writer.journal;
    if !journal.reopen(&id, settlement.attempt).await? {
        return Ok(());
    }
    let network = rail.network().to_owned();
    let transaction = settlement.evidence().cloned();
    warn!(settlement = %id, ?transaction, "the chain no longer has a settled payment: it is sent again");
    metrics::counter!("quittance_undone_settlements_total", "network" => network.clone())
        .increment(1);
    // Success may have been reported since it was read; from here on it cannot be.
    let Some(settlement) = journal.settlement(&id).await? else {
        return Ok(());
    };
    if let (Some(transaction), true) = (transaction, settlement.success_reported_at.is_some()) {
        rail.report(Event::Undone {
            network,
            settlement: id,
            transaction,
        });
    }
    let job = rail.job_of(&settlement, payment, hold);
    rail.spawn(Arc::clone(rail).take_up(job));
    Ok(())
}
