//! Upkeep: what is charged is claimed in time, and the receivers are paid.

use std::collections::{BTreeMap, BTreeSet};

use alloy::primitives::{Address, B256};
use quittance_core::wire::SettleResponse;
use quittance_core::{FacilitatorError, Fault, FaultKind, PaymentRequest, SchemeState, Timestamp};
use tracing::{error, info, warn};

use super::super::book::ChannelBook;
use super::super::claim::ROWS_MAX;
use super::super::reason;
use super::super::voucher::ClaimRow;
use super::authority::ActError;
use super::books::Books;
use super::{Channels, Parts, ROUNDS_MAX};

/// How many channels one call looks after. A claim of a hundred takes a transaction.
const CHANNELS_MAX: u32 = 1_000;

/// When a channel is looked after again whose claim has failed, in seconds.
const AGAIN_SECS: u64 = 60;

/// What a call of [`Channels::upkeep`] has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct UpkeepReport {
    /// How many channels were claimed.
    pub claimed: usize,
    /// How many claims failed. They are tried again after a minute.
    pub failed: usize,
    /// How many receivers were paid what was claimed for them, each in one token.
    pub paid: usize,
}

/// Who is paid, and in which token.
type Payee = (Address, Address);

/// Whether a receiver was paid.
enum Paid {
    All,
    /// It had been before.
    Before,
    No,
}

/// A channel that is claimed.
#[derive(Clone)]
struct Claimable {
    id: B256,
    row: ClaimRow,
}

impl Channels {
    /// Claims the channels for which it is time, up to a hundred in one transaction, and has their
    /// receivers paid. Call it every minute. A process that is started again finds what the one
    /// before has left.
    ///
    /// # Errors
    /// If the store or the facilitator fails. What is left is done by the next call.
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
        let now = self.clock.now();
        let again = now.plus_secs(AGAIN_SECS);
        let due = self.books.due(until, again, CHANNELS_MAX).await?;
        let mut report = UpkeepReport::default();
        let mut payees: BTreeMap<Payee, Vec<SchemeState>> = BTreeMap::new();
        let mut claims: BTreeMap<Payee, Vec<Claimable>> = BTreeMap::new();
        for record in due {
            let Ok(known) = Books::read(record.clone()) else {
                error!(record = %record.id, "the book of a channel cannot be read");
                report.failed += 1;
                continue;
            };
            let config = &known.book.config;
            let payee = (config.receiver, config.token);
            match known.book.claim_row() {
                Some(row) => {
                    let id = config.id(&self.authority.separator);
                    let claim = Claimable { id, row };
                    claims.entry(payee).or_default().push(claim);
                }
                None => payees.entry(payee).or_default().push(record),
            }
        }
        for (payee, claims) in claims {
            let done = self.claim(claims).await?;
            report.claimed += done.claimed;
            report.failed += done.failed;
            if done.claimed > 0 {
                payees.entry(payee).or_default();
            }
        }
        for ((receiver, token), records) in payees {
            match self.pay(receiver, token).await? {
                Paid::All => report.paid += 1,
                Paid::Before => {}
                // They come again in a minute.
                Paid::No => continue,
            }
            self.books.leave(&records).await?;
        }
        Ok(report)
    }

    /// Claims channels of one receiver and token. A row that spoils its claim is found by halves.
    async fn claim(&self, claims: Vec<Claimable>) -> Result<UpkeepReport, Fault> {
        let mut report = UpkeepReport::default();
        let mut waiting: Vec<Vec<Claimable>> =
            claims.chunks(ROWS_MAX).rev().map(<[_]>::to_vec).collect();
        while let Some(chunk) = waiting.pop() {
            let rows: Vec<ClaimRow> = chunk.iter().map(|claim| claim.row.clone()).collect();
            let refused = match self.authority.claim(&rows) {
                Ok(request) => match self.ask_to_settle(&request).await? {
                    response if response.success => {
                        report.claimed += self.note_claims(&chunk).await?;
                        continue;
                    }
                    response => format!("{response:?}"),
                },
                // More rows than a request can have, because of long signatures.
                Err(ActError::Malformed(malformed)) => malformed.to_string(),
                Err(ActError::Fault(fault)) => return Err(fault),
            };
            match chunk.split_at(chunk.len() / 2) {
                ([], _) => {
                    let channel = chunk.first().map(|claim| claim.id);
                    warn!(?channel, refused, "a channel is not claimed");
                    report.failed += 1;
                }
                (first, second) => waiting.extend([second.to_vec(), first.to_vec()]),
            }
        }
        Ok(report)
    }

    async fn ask_to_settle(&self, request: &PaymentRequest) -> Result<SettleResponse, Fault> {
        self.behind
            .settle(request)
            .await
            .map_err(|error| match error {
                FacilitatorError::Fault(fault) => fault,
                FacilitatorError::Malformed(malformed) => {
                    Fault::new(FaultKind::FacilitatorUnreachable, malformed)
                }
            })
    }

    /// Writes what was claimed into the books. Returns how many channels these are.
    async fn note_claims(&self, claims: &[Claimable]) -> Result<usize, Fault> {
        let ids: BTreeSet<B256> = claims.iter().map(|claim| claim.id).collect();
        let noted = claims
            .iter()
            .map(|claim| self.note_claim(&claim.id, claim.row.total_claimed));
        futures_util::future::try_join_all(noted).await?;
        info!(channels = ids.len(), "channels are claimed");
        Ok(ids.len())
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

    /// Has a receiver paid what was claimed for it.
    async fn pay(&self, receiver: Address, token: Address) -> Result<Paid, Fault> {
        let request = match self.authority.sweep(receiver, token) {
            Ok(request) => request,
            Err(ActError::Fault(fault)) => return Err(fault),
            Err(ActError::Malformed(malformed)) => {
                return Err(Fault::new(FaultKind::Internal, malformed));
            }
        };
        let response = self.ask_to_settle(&request).await?;
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
