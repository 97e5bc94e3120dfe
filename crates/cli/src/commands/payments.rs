//! `quittance payments`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgMatches, Args, Subcommand};
use quittance_buyer::{Buyer, OpenPayment};
use quittance_core::printable;

use super::CommandResult;
use super::pay::{state_file, validity};
use crate::families::Families;

/// The explanation and the examples below the options in `--help`.
const EXAMPLES: &str = "\
`pay` keeps a payment when its response was lost, when the server refused it, or when the receipt says that it did not settle.
The same `pay` command presents it again. After a payment is forgotten, the next `pay` signs another one and may pay twice:
look up the earlier payment on the chain first.

Examples:
  quittance payments
  quittance payments locked
  quittance payments forget 3f0c5a1b9d2e4c77";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Payments {
    /// The file in which `pay` keeps payments. By default quittance/purchases.json in your data
    /// folder.
    #[arg(long, value_name = "FILE", global = true)]
    state: Option<PathBuf>,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the open payments. The default.
    List,
    /// List what is locked up in channels.
    Locked,
    /// Forget payments. The next `pay` may then pay twice.
    Forget {
        /// The ids of the payments, as the list shows them.
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
    },
}

impl Payments {
    /// Prints the list to standard output, one payment a line.
    pub(super) async fn run(self, families: &Families, matches: &ArgMatches) -> CommandResult {
        if let (Some(Action::Locked), Some((_, matches))) = (&self.action, matches.subcommand()) {
            return locked(families, matches);
        }
        let file = state_file(self.state.as_ref())?;
        let buyer = Buyer::builder().state_file(file).build()?;
        match self.action.unwrap_or(Action::List) {
            Action::List | Action::Locked => {
                let mut open = buyer.open_payments();
                open.sort_by_key(|open| open.expires);
                for open in &open {
                    println!("{}", line(open));
                }
                if open.is_empty() {
                    eprintln!("there is no open payment");
                }
            }
            Action::Forget { ids } => {
                // All ids are checked first, so that either all payments are forgotten or none.
                let open = buyer.open_payments();
                let unknown = ids
                    .iter()
                    .find(|id| open.iter().all(|open| open.id != **id));
                if let Some(id) = unknown {
                    return Err(format!("there is no open payment {}", printable(id)).into());
                }
                for id in &ids {
                    buyer.abandon(id).await;
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Prints what is locked up, one channel a line. It asks no chain.
fn locked(families: &Families, matches: &ArgMatches) -> CommandResult {
    let mut is_empty = true;
    for lines in families.iter().filter_map(|family| family.locked(matches)) {
        for line in lines? {
            println!("{line}");
            is_empty = false;
        }
    }
    if is_empty {
        eprintln!("nothing is locked up");
    }
    Ok(ExitCode::SUCCESS)
}

/// One payment as a line, with tabs between the fields.
fn line(open: &OpenPayment) -> String {
    let transaction = open.transaction.as_deref().map(printable);
    let transaction = transaction.map_or_else(
        || "transaction unknown".to_owned(),
        |transaction| format!("transaction {transaction}"),
    );
    // Another program may have written the file.
    let [id, sum, pay_to, network, origin] = [
        &open.id,
        &open.display_amount(),
        &open.pay_to,
        &open.network,
        &open.origin,
    ]
    .map(|text| printable(text));
    let validity = validity(open);
    format!("{id}\t{sum}\tto {pay_to} on {network}\tfor {origin}\t{validity}\t{transaction}")
}
