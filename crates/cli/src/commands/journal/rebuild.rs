//! `quittance journal rebuild`.

use std::error::Error;
use std::process::ExitCode;

use clap::Args;
use quittance_books::{Bound, KnownTransactions, Ledger, Seen, Sent, Sorter, UsedAuthorization};
use quittance_core::{
    Clock, PaymentInfo, SchemeReceipt, SystemClock, Timestamp, Transaction, printable,
};
use quittance_engine::{
    Claim, Entry, Journal, JournalError, Outcome, RecordedTransaction, Restored, Settlement,
    SignedRef, State,
};

use super::Configured;
use crate::commands::CommandResult;
use crate::commands::reconcile::bound;
use crate::config::Config;
use crate::families::Families;
use crate::startup::Startup;

/// The examples below the options in `--help`.
const EXAMPLE: &str = "\
Stop the facilitator first. Restore the newest copy of the journal before, if there is one: what it has stays as it is.

Every authorization that a configured signer has used becomes a settlement that has settled and whose success was reported.
So a replay of it is answered with duplicate_settlement. The chains do not have the requests, the callers, vouchers, holds,
payments that were not sent, and what was reported to whom.

Examples:
  quittance journal rebuild --from 2026-11-01
  quittance journal rebuild --from 0

Exit codes: 0 everything was read, 1 a chain could not be read, or an entry was refused.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct Rebuild {
    #[command(flatten)]
    configured: Configured,
    /// The first block, or the time of the first block.
    #[arg(long, value_name = "TIME|BLOCK", value_parser = bound)]
    from: Bound,
}

impl Rebuild {
    pub(super) async fn run(self, families: &Families) -> CommandResult {
        let config = Config::read(&self.configured.config, families)?;
        let chains = Startup::read(&config, families)?.into_chains();
        let journal = config.journal.open().await?;
        let mut is_whole = true;
        for chain in &chains {
            let network = chain.network();
            let rebuilt = match chain.ledger() {
                Some(ledger) => rebuild(&*journal, ledger, self.from).await,
                None => Err("the records of this chain cannot be read".into()),
            };
            match rebuilt {
                Ok(count) => eprintln!("{network}: {count} settlements rebuilt"),
                Err(problem) => {
                    is_whole = false;
                    eprintln!("{network}: {}", printable(&problem.to_string()));
                }
            }
        }
        Ok(match is_whole {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        })
    }
}

/// Adds the settlements of a network that the journal does not have. Returns how many.
async fn rebuild(
    journal: &dyn Journal,
    ledger: &dyn Ledger,
    from: Bound,
) -> Result<u64, Box<dyn Error>> {
    let blocks = ledger.blocks(from, Bound::Final).await?;
    // The transactions of years do not fit in memory.
    let mut all = Sorter::new(|seen: &Seen| seen.transaction().as_str());
    for lane in ledger.lanes() {
        let mut written = Ok(());
        let mut found = |sent| {
            if written.is_ok() {
                written = all.push(Seen::Included(sent));
            }
        };
        let known = KnownTransactions::default();
        ledger
            .others(lane, &blocks.numbers, &known, &mut found)
            .await?;
        written?;
    }
    let mut count = 0;
    for seen in all.sorted()? {
        let Seen::Included(sent) = seen? else {
            continue;
        };
        if !blocks.numbers.contains(&sent.block) || sent.transfers.is_empty() {
            continue;
        }
        for used in ledger.used(&sent.transaction).await? {
            count += u64::from(add(journal, ledger, &sent, &used).await?);
        }
    }
    Ok(count)
}

/// Adds one settlement, unless the journal has it. Returns whether it was added.
async fn add(
    journal: &dyn Journal,
    ledger: &dyn Ledger,
    sent: &Sent,
    used: &UsedAuthorization,
) -> Result<bool, JournalError> {
    // An open one is resumed by the next start, which asks the chain by itself.
    if journal.settlement(&used.id).await?.is_some() {
        return Ok(false);
    }
    let network = ledger.network().id();
    let transaction = RecordedTransaction {
        network: network.to_owned(),
        transaction: Transaction {
            id: sent.transaction.clone(),
            lane: sent.lane.clone(),
            sequence: sent.sequence.unwrap_or_default(),
            bytes: [].into(),
        },
        signed_at: sent.time(),
        is_withdrawn: false,
    };
    journal.restore(&Entry::Transaction(transaction)).await?;
    let settlement = settlement(network, sent, used, SystemClock.now());
    let signed = vec![SignedRef {
        transaction: sent.transaction.clone(),
        attempt: 1,
        step: 0,
    }];
    let entry = Entry::Settlement {
        settlement: Box::new(settlement),
        signed,
    };
    Ok(journal.restore(&entry).await? == Restored::Added)
}

/// A settlement that has settled, as far as the chain knows it. It has no request, like a pruned
/// one. Its success may have been reported, so it must not be reported again.
fn settlement(network: &str, sent: &Sent, used: &UsedAuthorization, now: Timestamp) -> Settlement {
    let info = PaymentInfo {
        id: used.id,
        payer: used.payer.clone(),
        pay_to: used.pay_to.clone(),
        asset: used.asset.clone(),
        amount: used.amount,
        // The chain does not keep it. An authorization that was used needs none.
        expires: Timestamp::NEVER,
    };
    let claim = Claim::new(network, used.scheme, &info, String::new(), sent.time());
    let settled = State::Concluded(Outcome::Settled {
        transaction: Some(sent.transaction.clone()),
        amount: used.amount,
        receipt: SchemeReceipt::default(),
    });
    let mut settlement = Settlement::new(claim, settled, sent.time());
    settlement.concluded_at = Some(sent.time());
    settlement.success_reported_at = Some(sent.time());
    settlement.final_at = Some(now);
    settlement
}
