//! `quittance payments`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use quittance_buyer::{Buyer, Open};
use quittance_http::printable;

use super::Ended;
use super::pay::{state_file, validity};

/// How to use it, under `--help`.
const EXAMPLES: &str = "\
A payment is kept when its answer was lost, when the server refused it, or when the server delivered and said that it was not
paid. Running the same `pay` again presents it again. Forgetting one means that the next `pay` signs another payment, and so
perhaps pays twice: look up first what became of it.

Examples:
  quittance payments
  quittance payments forget 3f0c5a1b9d2e4c77";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Payments {
    /// The file that `pay` keeps payments in. Without it, quittance/purchases.json in your data folder.
    #[arg(long, value_name = "FILE", global = true)]
    state: Option<PathBuf>,
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List them: the default.
    List,
    /// Forget these, and so perhaps pay twice.
    Forget {
        /// Which, by the ids in the list.
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
    },
}

impl Payments {
    /// Prints the list to standard output, one payment a line.
    pub(super) async fn run(self) -> Ended {
        let file = state_file(self.state.as_ref())?;
        let buyer = Buyer::builder().state_file(file).build()?;
        match self.what.unwrap_or(What::List) {
            What::List => {
                let mut open = buyer.open();
                open.sort_by_key(|open| open.expires);
                for open in &open {
                    println!("{}", line(open));
                }
                if open.is_empty() {
                    eprintln!("no payment is open");
                }
            }
            What::Forget { ids } => {
                // First all are looked for: half of a list is worse than none.
                let open = buyer.open();
                let unknown = ids
                    .iter()
                    .find(|id| open.iter().all(|open| open.id != **id));
                if let Some(id) = unknown {
                    return Err(format!("no open payment {}", printable(id)).into());
                }
                for id in &ids {
                    buyer.abandon(id).await;
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// One payment, for people and for `cut`: fields with tabs between.
fn line(open: &Open) -> String {
    let transaction = open.transaction.as_deref().map(printable);
    let transaction = transaction.map_or_else(
        || "no transaction is known".to_owned(),
        |transaction| format!("transaction {transaction}"),
    );
    // The file may be of another program's making.
    let [id, sum, pay_to, network, origin] = [
        &open.id,
        &open.sum(),
        &open.pay_to,
        &open.network,
        &open.origin,
    ]
    .map(|text| printable(text));
    let validity = validity(open);
    format!("{id}\t{sum}\tto {pay_to} on {network}\tfor {origin}\t{validity}\t{transaction}")
}
