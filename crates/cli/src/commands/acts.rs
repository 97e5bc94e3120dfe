//! `quittance capture`, `quittance void` and `quittance refund-hold`: what a seller does with a
//! payment that is held.

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use quittance_core::json::Object;
use quittance_core::wire::SettleResponse;
use quittance_core::{Facilitator, PaymentId, PaymentRequest, printable};
use quittance_http::{RemoteFacilitator, RemoteSettlement};
use secrecy::SecretString;

use super::CommandResult;
use super::pay::amount;
use super::refund::{FACILITATOR, FACILITATOR_KEY};
use crate::families::{Families, HeldPayment, HoldAct, payer_key};

/// The variable with the key that signs for the receiver.
pub(super) const AUTHORIZER_KEY: &str = "QUITTANCE_AUTHORIZER_KEY";

/// How often a pending act is asked for again. Each answer takes as long as the facilitator waits.
const ASKED_MAX: usize = 5;

/// The text below the options in `--help`: examples and exit codes.
const HELP: &str = "\
ID is `settlement` in the receipt's `extra`: of the payment that was held, or of any later act with it. The key of the
receiver's authorizer is in QUITTANCE_AUTHORIZER_KEY or in --key-file. Without it, the facilitator must be the authorizer,
and know you by the key in QUITTANCE_FACILITATOR_KEY. The same command can be repeated: an act never happens twice.

Examples:
  export QUITTANCE_FACILITATOR=https://facilitator.example.com QUITTANCE_AUTHORIZER_KEY=0x...
  quittance capture 4b7f...e1 12.50 --void-rest
  quittance void 4b7f...e1 --yes
  quittance refund-hold 4b7f...e1 2.50

Exit codes:
  0  done
  1  an error on this side, or you did not confirm
  2  the command line is wrong
  3  the facilitator did not answer, or does not have the settlement
  4  the payment is not held, or the act is not possible; nothing was sent
  5  the facilitator refused
  6  the outcome is not known yet; repeat the command";

/// The exit codes. `HELP` lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum End {
    Done = 0,
    Failed = 1,
    Unanswered = 3,
    Impossible = 4,
    Refused = 5,
    Pending = 6,
}

/// Why nothing was done: the exit code, and the message.
struct Failure(End, String);

/// The options of all acts.
#[derive(Debug, Args)]
struct Common {
    /// The id of the settlement: 64 hexadecimal digits.
    #[arg(value_name = "ID")]
    settlement: PaymentId,
    /// The facilitator that holds the payment. Its key, if it needs one, is in
    /// QUITTANCE_FACILITATOR_KEY.
    // The URL may contain a key, so its value is not shown.
    #[arg(long, value_name = "URL", env = FACILITATOR, hide_env_values = true)]
    facilitator: String,
    /// The file with the key of the receiver's authorizer. By default it is in
    /// QUITTANCE_AUTHORIZER_KEY.
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Do not ask before the act.
    #[arg(long, short)]
    yes: bool,
}

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(super) struct Capture {
    #[command(flatten)]
    common: Common,
    /// The amount to capture, in units of the token such as 12.50. By default all that is held.
    #[arg(value_parser = amount)]
    amount: Option<String>,
    /// Return the rest to the payer.
    #[arg(long)]
    void_rest: bool,
}

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(super) struct Void {
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(super) struct RefundHold {
    #[command(flatten)]
    common: Common,
    /// The amount to refund, in units of the token such as 2.50.
    #[arg(value_parser = amount)]
    amount: String,
}

impl Capture {
    pub(super) async fn run(self, families: &Families) -> CommandResult {
        let act = HoldAct::Capture {
            amount: self.amount,
            voids_rest: self.void_rest,
        };
        self.common.run(families, act).await
    }
}

impl Void {
    pub(super) async fn run(self, families: &Families) -> CommandResult {
        self.common.run(families, HoldAct::Void).await
    }
}

impl RefundHold {
    pub(super) async fn run(self, families: &Families) -> CommandResult {
        let act = HoldAct::Refund {
            amount: self.amount,
        };
        self.common.run(families, act).await
    }
}

impl Common {
    /// Prints the outcome to standard output, and everything else to standard error.
    async fn run(self, families: &Families, act: HoldAct) -> CommandResult {
        let facilitator = RemoteFacilitator::new(&self.facilitator)?;
        let facilitator = match std::env::var(FACILITATOR_KEY) {
            Ok(key) => facilitator.with_key(SecretString::from(key)),
            Err(_) => facilitator,
        };
        let name = "the authorizer's key";
        let key = payer_key(self.key_file.as_ref(), None, AUTHORIZER_KEY, name)?;
        let run = Run {
            options: &self,
            facilitator,
            key,
            families,
        };
        Ok(match run.carry_out(&act).await {
            Ok(end) => ExitCode::from(end as u8),
            Err(Failure(end, message)) => {
                eprintln!("quittance: {message}");
                ExitCode::from(end as u8)
            }
        })
    }
}

/// A run of a command.
struct Run<'a> {
    options: &'a Common,
    facilitator: RemoteFacilitator,
    key: Option<SecretString>,
    families: &'a Families,
}

impl Run<'_> {
    async fn carry_out(&self, act: &HoldAct) -> Result<End, Failure> {
        let settlement = self.settlement().await?;
        let receipt = settlement.extra.as_ref().ok_or_else(|| {
            let message = format!(
                "the payment is {} and not held",
                printable(&settlement.state)
            );
            Failure(End::Impossible, message)
        })?;
        let balances = self.balances(&settlement, receipt).await?;
        let request = self
            .request(&settlement, receipt, balances.as_ref(), act)
            .await?;
        self.confirm(&settlement, act)?;
        self.settle(&request).await
    }

    async fn settlement(&self) -> Result<RemoteSettlement, Failure> {
        let found = self.facilitator.settlement(self.options.settlement).await;
        let found = found.map_err(|fault| Failure(End::Unanswered, fault.to_string()))?;
        found.ok_or_else(|| {
            let message = "the facilitator does not have this settlement: check the id";
            Failure(End::Unanswered, message.to_owned())
        })
    }

    /// What the hold has now, by a request that is always rejected. `None` if the rejection does
    /// not say.
    async fn balances(
        &self,
        settlement: &RemoteSettlement,
        receipt: &Object,
    ) -> Result<Option<Object>, Failure> {
        let inquiry = self.request(settlement, receipt, None, &HoldAct::Inquire);
        let verdict = self.facilitator.verify(&inquiry.await?).await;
        let verdict = verdict.map_err(|error| Failure(End::Unanswered, error.to_string()))?;
        Ok(verdict.extra)
    }

    async fn request(
        &self,
        settlement: &RemoteSettlement,
        receipt: &Object,
        balances: Option<&Object>,
        act: &HoldAct,
    ) -> Result<PaymentRequest, Failure> {
        let held = HeldPayment {
            network: &settlement.network,
            asset: &settlement.asset,
            receipt,
            balances,
            key: self.key.as_ref(),
        };
        for family in self.families.iter() {
            if let Some(request) = family.hold_request(&held, act).await {
                return request.map_err(|error| Failure(End::Impossible, error.to_string()));
            }
        }
        let (network, asset) = (printable(held.network), printable(held.asset));
        let message = format!("the token {asset} on {network} is not known to this program");
        Err(Failure(End::Impossible, message))
    }

    /// Asks on the terminal, unless the caller has said yes.
    fn confirm(&self, settlement: &RemoteSettlement, act: &HoldAct) -> Result<(), Failure> {
        let (payer, pay_to) = (printable(&settlement.payer), printable(&settlement.pay_to));
        let what = match act {
            HoldAct::Inquire => return Ok(()),
            HoldAct::Capture { amount: None, .. } => format!("capture all for {pay_to}"),
            HoldAct::Capture {
                amount: Some(amount),
                ..
            } => format!("capture {amount} for {pay_to}"),
            HoldAct::Void => format!("return all that is held to {payer}"),
            HoldAct::Refund { amount } => format!("refund {amount} to {payer}"),
        };
        if self.options.yes {
            eprintln!("{what}");
            return Ok(());
        }
        eprint!("{what}? [y/N] ");
        let unreadable = |error: std::io::Error| Failure(End::Failed, error.to_string());
        std::io::stderr().flush().map_err(unreadable)?;
        let mut answer = String::new();
        let read = std::io::stdin().lock().read_line(&mut answer);
        read.map_err(unreadable)?;
        match answer.trim().to_ascii_lowercase().as_str() {
            "y" | "yes" => Ok(()),
            _ => Err(Failure(
                End::Failed,
                "not confirmed: nothing was sent".to_owned(),
            )),
        }
    }

    async fn settle(&self, request: &PaymentRequest) -> Result<End, Failure> {
        let mut last = None;
        for _ in 0..ASKED_MAX {
            match self.facilitator.settle(request).await {
                Ok(answer) if answer.is_pending() => last = Some(answer.transaction),
                Ok(answer) => return Ok(report(&answer)),
                Err(error) => {
                    let message = format!("{error}; repeat the command");
                    return Err(Failure(End::Pending, message));
                }
            }
        }
        let transaction = printable(&last.unwrap_or_default());
        let message = format!("the transaction {transaction} is pending; repeat the command");
        Err(Failure(End::Pending, message))
    }
}

/// Prints the outcome.
fn report(answer: &SettleResponse) -> End {
    if answer.success {
        println!("{}", printable(&answer.transaction));
        return End::Done;
    }
    let reason = answer.error_reason.as_deref().unwrap_or("refused");
    let message = answer.error_message.as_deref().unwrap_or_default();
    eprintln!("quittance: {}: {}", printable(reason), printable(message));
    End::Refused
}
