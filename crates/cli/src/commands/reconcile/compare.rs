//! Reads the journal and a chain, and compares them.

use std::collections::BTreeMap;
use std::io;

use quittance_books::{
    Blocks, Booked, Bound, CompareScope, Compared, KnownTransactions, Ledger, Seen, Sorter,
    compare_all,
};
use quittance_core::{LaneId, TransactionId};
use quittance_engine::{Filter, Journal, PAGE_MAX};

use super::output::Output;
use super::rows::lines;

/// How many transactions are looked up at once: a few round trips, and some megabytes of receipts.
const LOOKED_UP: usize = 500;

/// How long before the first block a row may have been written whose transaction is looked up, in
/// seconds. A transaction that is included later than this after its row was written is found in
/// the blocks.
const WRITTEN_BEFORE: u64 = 24 * 3600;

/// Compares the rows of a chain's network with the chain. Every difference goes to `output`.
///
/// # Errors
/// What could not be read, in a sentence. Nothing is known then.
pub(super) async fn compare(
    journal: &dyn Journal,
    ledger: &dyn Ledger,
    from: Bound,
    to: Bound,
    output: &mut Output<'_>,
) -> Result<Compared, String> {
    let blocks = ledger.blocks(from, to).await.map_err(text)?;
    let mut booked = read_journal(journal, ledger, output).await?;
    let mut seen = Chain::new(ledger, &blocks);
    seen.look_up(&mut booked).await.map_err(text)?;
    let problems = seen.search().await.map_err(text)?;
    for problem in problems {
        output.unknown(ledger.network(), &problem);
    }
    let lanes = ledger.lanes().iter().cloned();
    let scope = CompareScope::new(lanes, ledger.assets(), blocks.numbers.clone())
        .times(blocks.from, blocks.to);
    let sorted = (
        booked.sorted().map_err(text)?,
        seen.seen.sorted().map_err(text)?,
    );
    compare_all(&scope, sorted.0, sorted.1, |finding| {
        output.found(ledger.network(), finding);
    })
    .map_err(text)
}

fn text(problem: impl ToString) -> String {
    problem.to_string()
}

/// The lines of a network, to be sorted.
async fn read_journal(
    journal: &dyn Journal,
    ledger: &dyn Ledger,
    output: &mut Output<'_>,
) -> Result<Sorter<Booked>, String> {
    let mut booked = Sorter::new(|line: &Booked| line.transaction.as_str());
    let (network, mut unreadable) = (ledger.network(), 0);
    // A transaction is recorded after its settlement is claimed, so every transaction of a
    // settlement below is among these.
    let filter = Filter::new().network(network.id()).limit(PAGE_MAX);
    let mut after = None;
    loop {
        let page = journal.page(&filter, after).await.map_err(text)?;
        unreadable += page.unreadable;
        for settlement in &page.settlements {
            let is_held = ledger.holds(&settlement.claim.scheme);
            for line in lines(settlement, is_held) {
                booked.push(line).map_err(text)?;
            }
        }
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    let mut after = None;
    loop {
        let page = journal.transactions(after, PAGE_MAX).await.map_err(text)?;
        unreadable += page.unreadable;
        for recorded in page.transactions {
            if recorded.network == network.id() {
                let line = Booked::signed(recorded.transaction.id.as_str());
                booked.push(line.at(recorded.signed_at)).map_err(text)?;
            }
        }
        match page.last {
            Some(last) => after = Some(last),
            None => break,
        }
    }
    if unreadable > 0 {
        let problem = format!("{unreadable} entries of the journal cannot be read");
        output.unknown(network, &problem);
    }
    Ok(booked)
}

/// What a chain shows.
struct Chain<'a> {
    ledger: &'a dyn Ledger,
    blocks: &'a Blocks,
    seen: Sorter<Seen>,
    known: BTreeMap<LaneId, KnownTransactions>,
}

impl<'a> Chain<'a> {
    fn new(ledger: &'a dyn Ledger, blocks: &'a Blocks) -> Self {
        Self {
            ledger,
            blocks,
            seen: Sorter::new(|seen: &Seen| seen.transaction().as_str()),
            known: BTreeMap::new(),
        }
    }

    /// Looks up the transactions of the books, as far as their blocks may be compared.
    async fn look_up(&mut self, booked: &mut Sorter<Booked>) -> io::Result<()> {
        let mut ids: Vec<TransactionId> = Vec::new();
        for line in booked.sorted()? {
            let line = line?;
            let is_early = line.written_at().plus_secs(WRITTEN_BEFORE) < self.blocks.from;
            if is_early || ids.last() == Some(&line.transaction) {
                continue;
            }
            if ids.len() == LOOKED_UP {
                self.add(&ids).await?;
                ids.clear();
            }
            ids.push(line.transaction);
        }
        self.add(&ids).await
    }

    async fn add(&mut self, ids: &[TransactionId]) -> io::Result<()> {
        for (id, found) in ids.iter().zip(self.ledger.look_up(ids).await) {
            let transaction = id.clone();
            self.seen.push(match found {
                Ok(Some(sent)) => {
                    let known = self.known.entry(sent.lane.clone()).or_default();
                    known.add(&sent);
                    Seen::Included(sent)
                }
                Ok(None) => Seen::Absent { transaction },
                Err(fault) => Seen::Unknown {
                    transaction,
                    why: fault.detail,
                },
            })?;
        }
        Ok(())
    }

    /// Searches for transactions of our signers that the look-up has not found. Returns why the
    /// search of a signer failed.
    async fn search(&mut self) -> io::Result<Vec<String>> {
        let mut problems = Vec::new();
        for lane in self.ledger.lanes() {
            let known = self.known.remove(lane).unwrap_or_default();
            let (seen, mut written) = (&mut self.seen, Ok(()));
            let mut found = |sent| {
                if written.is_ok() {
                    written = seen.push(Seen::Included(sent));
                }
            };
            let numbers = &self.blocks.numbers;
            let searched = self.ledger.others(lane, numbers, &known, &mut found).await;
            if let Err(fault) = searched {
                problems.push(format!(
                    "transactions of the signer {lane} that the journal does not have: {}",
                    fault.detail
                ));
            }
            written?;
        }
        Ok(problems)
    }
}
