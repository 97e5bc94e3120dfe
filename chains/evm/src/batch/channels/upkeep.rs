//! Upkeep: what is charged is claimed in time, and the receivers are paid.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use alloy::primitives::{Address, B256};
use quittance_core::{FacilitatorError, Fault, FaultKind, SchemeState, Timestamp};
use tracing::{error, info, warn};

use super::super::book::ChannelBook;
use super::super::claim::ROWS_MAX;
use super::super::reason;
use super::super::voucher::ClaimRow;
use super::authority::ActError;
use super::books::{Books, KnownBook};
use super::{Channels, Parts, ROUNDS_MAX};

/// How many records of channels are read at first. If there are more, twice as many are read.
const CHANNELS_MAX: u32 = 1_000;

/// After how many faults the other claims for a payee wait for the next call. A facilitator that
/// does not answer costs a timeout each time, and one claim alone may be what it cannot answer.
const FAULTS_MAX: usize = 3;

/// When a channel is looked after again whose claim has failed, in seconds.
pub(super) const AGAIN_SECS: u64 = 60;

/// What a call of [`Channels::upkeep`] has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct UpkeepReport {
    /// How many channels were claimed.
    pub claimed: usize,
    /// How many channels could not be claimed. They are tried again after a minute.
    pub failed: usize,
    /// For how many channels a claim was sent that is not confirmed yet. It is asked for again
    /// after a minute, which is safe.
    pub pending: usize,
    /// How many receivers were paid what was claimed for them, each in one token.
    pub paid: usize,
}

/// Who is paid, and in which token.
type Payee = (Address, Address);

/// What is to be done for a payee.
struct Work {
    payee: Payee,
    claims: Vec<Claimable>,
    /// The records of channels in which everything is claimed.
    claimed: Vec<SchemeState>,
    /// Whether a claim was made now.
    has_claimed: bool,
}

impl Work {
    fn of(payee: Payee) -> Self {
        Self {
            payee,
            claims: Vec::new(),
            claimed: Vec::new(),
            has_claimed: false,
        }
    }

    /// When the first claim must be made.
    fn due(&self) -> Timestamp {
        let dues = self.claims.iter().map(|claim| claim.due);
        dues.min().unwrap_or(Timestamp::NEVER)
    }
}

/// Whether a receiver was paid.
enum Paid {
    All,
    /// It had been before.
    Before,
    No,
}

/// What became of a claim.
enum Claimed {
    Yes,
    /// It was sent.
    Pending,
    /// Why not.
    Refused(String),
}

/// A channel that is claimed.
struct Claimable {
    id: B256,
    row: ClaimRow,
    /// When it must be claimed.
    due: Timestamp,
    /// How many claims in a row have ended with a fault that were of this channel, too.
    faults: u32,
}

/// The claims in the order and in the parts in which they are made: at most a hundred rows, and
/// half of that for each fault before.
fn parts(claims: &[Claimable]) -> impl DoubleEndedIterator<Item = &[Claimable]> {
    let groups: Vec<_> = claims.chunk_by(|a, b| a.faults == b.faults).collect();
    groups.into_iter().flat_map(|group| {
        let faults = group.first().map_or(0, |claim| claim.faults);
        let rows = ROWS_MAX.checked_shr(faults).unwrap_or_default();
        group.chunks(rows.max(1))
    })
}

/// The channels whose last claim ended with a fault, although the facilitator answers: one of the
/// rows may be what it cannot answer. In memory: another process finds it again.
#[derive(Default)]
pub(super) struct Doubts(Mutex<HashMap<B256, u32>>);

impl Doubts {
    fn faults(&self, channel: &B256) -> u32 {
        self.locked().get(channel).copied().unwrap_or_default()
    }

    fn add(&self, claims: &[Claimable]) {
        let mut faults = self.locked();
        for claim in claims {
            *faults.entry(claim.id).or_default() += 1;
        }
    }

    fn remove(&self, claims: &[Claimable]) {
        let mut faults = self.locked();
        for claim in claims {
            faults.remove(&claim.id);
        }
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<B256, u32>> {
        // Each change is of one number, so the map is complete after a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was done so far, and the first fault.
#[derive(Default)]
struct Course {
    report: UpkeepReport,
    fault: Option<Fault>,
}

impl Course {
    /// Notes a fault. The upkeep goes on with what is left.
    fn note(&mut self, fault: Fault) {
        warn!(error = %fault, "a step of the upkeep of channels has failed");
        self.fault.get_or_insert(fault);
    }

    fn end(self) -> Result<UpkeepReport, Fault> {
        let report = self.report;
        match self.fault {
            None => Ok(report),
            Some(fault) => {
                warn!(?report, "the upkeep of channels is not complete");
                Err(fault)
            }
        }
    }
}

impl Channels {
    /// Claims the channels for which it is time, up to a hundred in one transaction, and has their
    /// receivers paid. [`spawn_upkeep`](Self::spawn_upkeep) calls it every minute. A process that
    /// is started again finds what the one before has left.
    ///
    /// # Errors
    /// The first fault of the store or the facilitator, after everything else was done. The log has
    /// the report. What is left is done by the next call.
    pub async fn upkeep(&self) -> Result<UpkeepReport, Fault> {
        self.0.upkeep(self.0.clock.now()).await
    }

    /// Claims all channels in which something is charged, and has their receivers paid: before a
    /// seller stops for longer than its channels' delay of withdrawals.
    ///
    /// # Errors
    /// As [`upkeep`](Self::upkeep).
    pub async fn claim_all(&self) -> Result<UpkeepReport, Fault> {
        self.0.upkeep(Timestamp::NEVER).await
    }
}

impl Parts {
    async fn upkeep(&self, until: Timestamp) -> Result<UpkeepReport, Fault> {
        let mut course = Course::default();
        let records = self.due(until, &mut course).await;
        let mut works = self.works(records, &mut course);
        for work in &mut works {
            let before = course.report.claimed;
            self.claim(&work.claims, &mut course).await;
            work.has_claimed = course.report.claimed > before;
        }
        for work in &works {
            if let Err(fault) = self.finish(work, &mut course).await {
                course.note(fault);
            }
        }
        course.end()
    }

    /// All records that are due. They come again in a minute.
    async fn due(&self, until: Timestamp, course: &mut Course) -> Vec<SchemeState> {
        let again = self.clock.now().plus_secs(AGAIN_SECS);
        let mut all = BTreeMap::new();
        let mut limit = CHANNELS_MAX;
        loop {
            let due = match self.books.due(until, again, limit).await {
                Ok(due) => due,
                Err(fault) => {
                    course.note(fault);
                    break;
                }
            };
            let is_last = u32::try_from(due.len()).is_ok_and(|count| count < limit);
            all.extend(
                due.into_iter()
                    .map(|record| (record.id.to_string(), record)),
            );
            if is_last || limit == u32::MAX {
                break;
            }
            // If `until` is later than `again`, those that have come stand first again.
            limit = limit.saturating_mul(2);
        }
        all.into_values().collect()
    }

    /// What is to be done for each payee, the most urgent first.
    fn works(&self, records: Vec<SchemeState>, course: &mut Course) -> Vec<Work> {
        let mut works: BTreeMap<Payee, Work> = BTreeMap::new();
        for record in records {
            let Ok(KnownBook { book, .. }) = Books::read(record.clone()) else {
                error!(record = %record.id, "the book of a channel cannot be read");
                course.report.failed += 1;
                continue;
            };
            let config = &book.config;
            let payee = (config.receiver, config.token);
            let work = works.entry(payee).or_insert_with(|| Work::of(payee));
            match book.claim_row() {
                Some(row) => {
                    let id = config.id(&self.authority.separator);
                    work.claims.push(Claimable {
                        row,
                        // The record's own time is that of the last try.
                        due: book.claim_due(&self.rules).unwrap_or(Timestamp::NEVER),
                        faults: self.doubts.faults(&id),
                        id,
                    });
                }
                None => work.claimed.push(record),
            }
        }
        let mut works: Vec<Work> = works.into_values().collect();
        for work in &mut works {
            // Those that may be what the facilitator cannot answer keep no others waiting.
            work.claims.sort_by_key(|claim| (claim.faults, claim.due));
        }
        works.sort_by_key(Work::due);
        works
    }

    /// Claims channels of one receiver and token. A row that spoils its claim is found by halves:
    /// at once if the claim is refused, and in the next calls if it has no answer.
    async fn claim(&self, claims: &[Claimable], course: &mut Course) {
        let mut faults = 0;
        let mut waiting: Vec<&[Claimable]> = parts(claims).rev().collect();
        while let Some(chunk) = waiting.pop() {
            if faults == FAULTS_MAX {
                course.report.failed += chunk.len();
                continue;
            }
            match self.claim_once(chunk).await {
                Ok(Claimed::Yes) => {
                    self.doubts.remove(chunk);
                    course.report.claimed += chunk.len();
                }
                // It may be included at any time: halves of it would be paid for as well.
                Ok(Claimed::Pending) => course.report.pending += chunk.len(),
                Ok(Claimed::Refused(refused)) => match chunk.split_at(chunk.len() / 2) {
                    ([], _) => {
                        let channel = chunk.first().map(|claim| claim.id);
                        warn!(?channel, refused, "a channel is not claimed");
                        course.report.failed += 1;
                    }
                    (first, second) => waiting.extend([second, first]),
                },
                Err(fault) => {
                    faults += 1;
                    course.report.failed += chunk.len();
                    course.note(fault);
                    // The claim may still be included, so it is not split at once. A facilitator
                    // that answers nothing has no problem with these rows.
                    if self.behind.supported().await.is_ok() {
                        self.doubts.add(chunk);
                    }
                }
            }
        }
    }

    /// Claims channels in one transaction.
    async fn claim_once(&self, claims: &[Claimable]) -> Result<Claimed, Fault> {
        let rows: Vec<ClaimRow> = claims.iter().map(|claim| claim.row.clone()).collect();
        let request = match self.authority.claim(&rows) {
            Ok(request) => request,
            // More rows than a request can have, because of long signatures.
            Err(ActError::Malformed(malformed)) => {
                return Ok(Claimed::Refused(malformed.to_string()));
            }
            Err(ActError::Fault(fault)) => return Err(fault),
        };
        Ok(match self.behind.settle(&request).await {
            Ok(response) if response.success => {
                self.note_claims(claims).await?;
                Claimed::Yes
            }
            Ok(response) if response.is_pending() => {
                let transaction = &response.transaction;
                warn!(%transaction, channels = claims.len(), "a claim is not confirmed yet");
                Claimed::Pending
            }
            Ok(response) => Claimed::Refused(format!("{response:?}")),
            Err(FacilitatorError::Malformed(malformed)) => Claimed::Refused(malformed.to_string()),
            Err(FacilitatorError::Fault(fault)) => return Err(fault),
        })
    }

    /// Writes what was claimed into the books.
    async fn note_claims(&self, claims: &[Claimable]) -> Result<(), Fault> {
        let noted = claims
            .iter()
            .map(|claim| self.note_claim(&claim.id, claim.row.total_claimed));
        futures_util::future::try_join_all(noted).await?;
        info!(channels = claims.len(), "channels are claimed");
        Ok(())
    }

    async fn note_claim(&self, id: &B256, total: u128) -> Result<(), Fault> {
        for _ in 0..ROUNDS_MAX {
            let Some(known) = self.books.reload(id).await? else {
                return Ok(());
            };
            let now = self.clock.now();
            let mut book: ChannelBook = known.book.clone();
            book.claimed(total, now);
            let due = book.next_due(&self.rules, now);
            if self.books.write(id, &known, book, due).await?.is_some() {
                return Ok(());
            }
        }
        // It is claimed again, which changes nothing.
        Ok(())
    }

    /// Has a payee paid, if anything is claimed for it.
    async fn finish(&self, work: &Work, course: &mut Course) -> Result<(), Fault> {
        if !work.has_claimed && work.claimed.is_empty() {
            return Ok(());
        }
        match self.pay(work.payee).await? {
            Paid::All => course.report.paid += 1,
            Paid::Before => {}
            // It comes again in a minute.
            Paid::No => return Ok(()),
        }
        self.books.leave(&work.claimed).await
    }

    /// Has a receiver paid what was claimed for it.
    async fn pay(&self, (receiver, token): Payee) -> Result<Paid, Fault> {
        let request = match self.authority.sweep(receiver, token) {
            Ok(request) => request,
            Err(ActError::Fault(fault)) => return Err(fault),
            Err(ActError::Malformed(malformed)) => {
                return Err(Fault::new(FaultKind::Internal, malformed));
            }
        };
        let response = match self.behind.settle(&request).await {
            Ok(response) => response,
            Err(FacilitatorError::Fault(fault)) => return Err(fault),
            Err(FacilitatorError::Malformed(malformed)) => {
                warn!(%receiver, %token, %malformed, "a receiver is not paid");
                return Ok(Paid::No);
            }
        };
        if response.success {
            return Ok(Paid::All);
        }
        if response.error_reason.as_deref() == Some(reason::NOTHING_TO_SETTLE.code()) {
            return Ok(Paid::Before);
        }
        warn!(%receiver, %token, ?response, "a receiver is not paid");
        Ok(Paid::No)
    }
}
