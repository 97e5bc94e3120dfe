//! `quittance refund`.

use std::error::Error;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgMatches, Args};
use quittance_core::wire::{PaymentPayload, PaymentRequirements, SettleResponse, SupportedKind};
use quittance_core::{
    Amount, AuthorizationState, Clock, Facilitator, FacilitatorError, Payer, PaymentId,
    PaymentRequest, Reason, Requirements, SaleId, SystemClock, Timestamp, Version, printable,
};
use quittance_http::{RemoteFacilitator, RemoteSettlement};
use secrecy::SecretString;

use super::CommandResult;
use super::acts::AUTHORIZER_KEY;
use super::pay::amount;
use super::refunds::{KeptRefund, RefundFile};
use crate::families::{AnyFamily, Families, ListedToken};

/// The text below the options in `--help`: examples and exit codes.
const HELP: &str = "\
The id of a settlement is `settlement` in the receipt's `extra`. The key is the one of the account that received the payment,
and is given as to `quittance pay`. The facilitator sends the refund and pays its fees. All refunds of a payment together never
exceed it.

Examples:
  export QUITTANCE_FACILITATOR=https://facilitator.example.com QUITTANCE_FACILITATOR_KEY=...
  export QUITTANCE_PAYER_KEY=0x...
  quittance refund 4b7f...e1 --amount 0.004
  quittance refund 4b7f...e1 --to 0x3C44...93BC --yes

Exit codes:
  0  refunded
  1  an error on this side: no key, a file that cannot be used; or you did not confirm
  2  the command line is wrong
  3  the facilitator did not answer, or does not have the settlement; nothing was signed
  4  the payment cannot be refunded like this: not settled, too much, another key; nothing was signed
  5  the facilitator refused the refund; it is kept, and the same command sends it again
  6  the answer was lost, or the refund is pending; it is kept, and the same command sends it again
  7  an earlier refund may have been sent; nothing new was signed";

/// The exit codes. `HELP` lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum End {
    Refunded = 0,
    Failed = 1,
    Unanswered = 3,
    NotRefundable = 4,
    Refused = 5,
    Lost = 6,
    InDoubt = 7,
}

impl From<End> for ExitCode {
    fn from(end: End) -> Self {
        Self::from(end as u8)
    }
}

/// The variable with the URL of the facilitator.
pub(super) const FACILITATOR: &str = "QUITTANCE_FACILITATOR";

/// The variable with the key for the facilitator.
pub(super) const FACILITATOR_KEY: &str = "QUITTANCE_FACILITATOR_KEY";

/// The environment variables of this command and of the acts with holds, without those of the
/// payers.
pub(crate) const VARIABLES: [&str; 3] = [FACILITATOR, FACILITATOR_KEY, AUTHORIZER_KEY];

/// The scheme of every refund. A payment of any scheme can be refunded by it.
const SCHEME: &str = "exact";

/// How long after its expiry a refund may still be included, in seconds: block times can lag behind
/// all clocks.
const INCLUDED_AFTER_EXPIRY_SECS: u64 = 60;

#[derive(Args)]
#[command(after_help = HELP)]
pub(super) struct Refund {
    /// The id of the settlement to refund: 64 hexadecimal digits.
    #[arg(value_name = "ID")]
    settlement: PaymentId,
    /// The facilitator that settled the payment. Its key, if it needs one, is in
    /// QUITTANCE_FACILITATOR_KEY.
    // The URL may contain a key, so its value is not shown.
    #[arg(long, value_name = "URL", env = FACILITATOR, hide_env_values = true)]
    facilitator: String,
    /// The amount to refund, in units of the token such as 0.004. By default all that can still be
    /// refunded.
    #[arg(long, value_parser = amount)]
    amount: Option<String>,
    /// Refund only if this account made the payment. Without it, the facilitator's journal names
    /// the account.
    #[arg(long, value_name = "ADDRESS")]
    to: Option<String>,
    /// Do not ask before the refund is sent.
    #[arg(long, short)]
    yes: bool,
    /// The folder in which refunds are kept until their end is known. Only you can read them. By
    /// default quittance/refunds in your data folder.
    #[arg(long, value_name = "FOLDER")]
    state: Option<PathBuf>,
    /// Forget the kept refund of this settlement, and do nothing else. You may then refund twice.
    #[arg(long, conflicts_with_all = ["amount", "to", "yes"])]
    forget: bool,
}

/// Why nothing was refunded: the exit code, and the message.
struct Failure(End, String);

impl Failure {
    fn new(end: End, message: impl Into<String>) -> Self {
        Self(end, message.into())
    }
}

impl<E: Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(End::Failed, error.to_string())
    }
}

/// The payment that is refunded, its token, and who can refund it.
struct Original<'a> {
    settlement: RemoteSettlement,
    token: ListedToken,
    family: &'a dyn AnyFamily,
}

impl Original<'_> {
    /// An amount for people, with its way.
    fn describe(&self, amount: Amount) -> String {
        let RemoteSettlement {
            network,
            payer,
            pay_to,
            ..
        } = &self.settlement;
        format!(
            "{} on {} from {} to {}",
            self.display(amount),
            printable(network),
            printable(pay_to),
            printable(payer)
        )
    }

    fn display(&self, amount: Amount) -> String {
        let ListedToken {
            symbol, decimals, ..
        } = &self.token;
        format!("{} {symbol}", amount.to_decimal(*decimals))
    }

    /// The amount that the caller names, or all that is left.
    fn amount(&self, named: Option<&String>) -> Result<Amount, Failure> {
        let refused = |message: String| Failure::new(End::NotRefundable, message);
        let state = printable(&self.settlement.state);
        let left = match (self.settlement.refundable, state.as_str()) {
            (Some(left), _) => left,
            (None, "settled") => return Err(refused("a refund cannot be refunded".to_owned())),
            (None, "pending") => {
                let message = "the payment is pending: refund it once it has settled";
                return Err(refused(message.to_owned()));
            }
            (None, _) => {
                let message = format!("the payment is {state}: there is nothing to refund");
                return Err(refused(message));
            }
        };
        if left.is_zero() {
            let message = "the payment is refunded as a whole: nothing is left to refund";
            return Err(refused(message.to_owned()));
        }
        let Some(named) = named else {
            return Ok(left);
        };
        let amount = Amount::from_decimal(named, self.token.decimals);
        let amount = amount.map_err(|error| refused(format!("--amount: {error}")))?;
        match amount {
            amount if amount.is_zero() => {
                Err(refused("--amount: more than zero is refunded".to_owned()))
            }
            amount if amount > left => Err(refused(format!(
                "{} exceeds what can still be refunded: {}",
                self.display(amount),
                self.display(left)
            ))),
            amount => Ok(amount),
        }
    }
}

impl Refund {
    /// Prints the outcome to standard output, and everything else to standard error.
    pub(super) async fn run(self, families: &Families, matches: &ArgMatches) -> CommandResult {
        let file = RefundFile::new(self.state.as_ref(), self.settlement)?;
        if self.forget {
            return match file.forget()? {
                true => Ok(ExitCode::SUCCESS),
                false => Err("there is no kept refund of this settlement".into()),
            };
        }
        let facilitator = RemoteFacilitator::new(&self.facilitator)?;
        let facilitator = match std::env::var(FACILITATOR_KEY) {
            Ok(key) => facilitator.with_key(SecretString::from(key)),
            Err(_) => facilitator,
        };
        let payers = self.payers(families, matches)?;
        let run = Run {
            refund: &self,
            facilitator,
            payers,
            file,
        };
        Ok(match run.refund(families).await {
            Ok(end) => end.into(),
            Err(Failure(end, message)) => {
                eprintln!("quittance: {message}");
                end.into()
            }
        })
    }

    fn payers(
        &self,
        families: &Families,
        matches: &ArgMatches,
    ) -> Result<Vec<Box<dyn Payer>>, Box<dyn Error>> {
        let mut payers = Vec::new();
        for family in families.iter() {
            payers.extend(family.refund_payers(matches)?);
        }
        if payers.is_empty() {
            let variables = families.iter().map(|family| family.key_variable());
            let variables = Vec::from_iter(variables).join(" nor ");
            return Err(
                format!("there is no key to refund with: neither {variables} is set").into(),
            );
        }
        Ok(payers)
    }
}

/// A run of the command.
struct Run<'a> {
    refund: &'a Refund,
    facilitator: RemoteFacilitator,
    payers: Vec<Box<dyn Payer>>,
    file: RefundFile,
}

impl Run<'_> {
    async fn refund(&self, families: &Families) -> Result<End, Failure> {
        let original = self.original(families).await?;
        if let Some(kept) = self.file.load()? {
            if !self.is_over(&kept).await {
                return self.send_again(&original, &kept).await;
            }
            eprintln!("an earlier refund has expired unused");
            self.file.forget()?;
        }
        let amount = original.amount(self.refund.amount.as_ref())?;
        let requirements = self.requirements(&original, amount).await?;
        let payer = self.payer(&original, &requirements)?;
        self.confirm(&format!("refund {}", original.describe(amount)))?;
        let kept = sign(payer, &requirements).await?;
        self.file.keep(&kept)?;
        self.send(&original, &kept).await
    }

    /// The settlement to refund, as the facilitator has it.
    async fn original<'f>(&self, families: &'f Families) -> Result<Original<'f>, Failure> {
        let found = self.facilitator.settlement(self.refund.settlement).await;
        let found = found.map_err(|fault| {
            let message = format!("{fault}; nothing was signed");
            Failure::new(End::Unanswered, message)
        })?;
        let settlement = found.ok_or_else(|| {
            let message = "the facilitator does not have this settlement: check the id, and whether it is the facilitator \
                that settled the payment";
            Failure::new(End::Unanswered, message)
        })?;
        let RemoteSettlement {
            network,
            asset,
            payer,
            ..
        } = &settlement;
        if self.refund.to.as_ref().is_some_and(|to| to != payer) {
            let message = format!("--to: {} made the payment", printable(payer));
            return Err(Failure::new(End::NotRefundable, message));
        }
        let mut known = families.iter().filter_map(|family| {
            let token = family.token(network, asset)?;
            Some((token, family))
        });
        let (token, family) = known.next().ok_or_else(|| {
            let (network, asset) = (printable(network), printable(asset));
            let message = format!("the token {asset} on {network} is not known to this program");
            Failure::new(End::NotRefundable, message)
        })?;
        Ok(Original {
            settlement,
            token,
            family,
        })
    }

    /// What the refund must meet: as a seller asks for it.
    async fn requirements(
        &self,
        original: &Original<'_>,
        amount: Amount,
    ) -> Result<PaymentRequirements, Failure> {
        let RemoteSettlement {
            network,
            asset,
            payer,
            ..
        } = &original.settlement;
        let refused = |message: String| Failure::new(End::NotRefundable, message);
        let whole = amount.to_decimal(original.token.decimals);
        let offer = original
            .family
            .refund_offer(network, asset, &whole, payer)
            .ok_or_else(|| refused(format!("{asset} cannot be refunded by this program")))?;
        let offer = offer.map_err(|error| refused(error.to_string()))?;
        let supported = self.facilitator.supported().await.map_err(|error| {
            Failure::new(End::Unanswered, format!("{error}; nothing was signed"))
        })?;
        let is_it = |kind: &&SupportedKind| {
            kind.x402_version == Version::V2.number()
                && kind.scheme == SCHEME
                && kind.network == *network
        };
        let kind = supported.kinds.iter().find(is_it).ok_or_else(|| {
            refused(format!(
                "the facilitator does not settle {SCHEME} on {} now",
                printable(network)
            ))
        })?;
        let requirements = offer.requirements(kind);
        requirements.map_err(|error| refused(error.to_string()))
    }

    /// The payer with the key of the account that received the payment.
    fn payer(
        &self,
        original: &Original<'_>,
        requirements: &PaymentRequirements,
    ) -> Result<&dyn Payer, Failure> {
        let received = &original.settlement.pay_to;
        let mut problem = "there is no key for this network".to_owned();
        for payer in &self.payers {
            match payer.quote(requirements) {
                Err(quittance_core::QuoteError::NotSupported) => {}
                Err(error) => problem = error.to_string(),
                Ok(_) if payer.address() == received => return Ok(payer.as_ref()),
                Ok(_) => {
                    problem = format!(
                        "the key is that of {}, and {} received the payment",
                        payer.address(),
                        printable(received)
                    );
                }
            }
        }
        Err(Failure::new(End::NotRefundable, problem))
    }

    /// Asks on the terminal, unless the caller has said yes.
    fn confirm(&self, what: &str) -> Result<(), Failure> {
        if self.refund.yes {
            eprintln!("{what}");
            return Ok(());
        }
        eprint!("{what}? [y/N] ");
        std::io::stderr().flush()?;
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer)?;
        match answer.trim().to_ascii_lowercase().as_str() {
            "y" | "yes" => Ok(()),
            _ => {
                let message = "not confirmed: nothing was sent. --yes refunds without a question";
                Err(Failure::new(End::Failed, message))
            }
        }
    }

    /// Whether a kept refund has expired, and the chain shows that it was not used.
    async fn is_over(&self, kept: &KeptRefund) -> bool {
        has_expired(kept) && self.state(kept).await == AuthorizationState::Expired
    }

    /// The state of a kept refund on the chain.
    async fn state(&self, kept: &KeptRefund) -> AuthorizationState {
        let Requirements { network, asset, .. } = &kept.request.requirements;
        for payer in &self.payers {
            let payload = &kept.request.payload;
            let asking = payer.authorization_state(network, asset, payload, kept.expires);
            match asking.await {
                AuthorizationState::Unknown => {}
                state => return state,
            }
        }
        AuthorizationState::Unknown
    }

    /// Sends a refund of an earlier run again.
    async fn send_again(&self, original: &Original<'_>, kept: &KeptRefund) -> Result<End, Failure> {
        let amount = kept.request.requirements.amount;
        if let Some(named) = &self.refund.amount
            && Amount::from_decimal(named, original.token.decimals) != Ok(amount)
        {
            let message = format!(
                "an earlier refund of {} is not known to be over: run the command without --amount to send it again",
                original.display(amount)
            );
            return Err(Failure::new(End::InDoubt, message));
        }
        let what = format!("send again the refund of {}", original.describe(amount));
        self.confirm(&what)?;
        self.send(original, kept).await
    }

    /// Sends a kept refund, and prints what became of it.
    async fn send(&self, original: &Original<'_>, kept: &KeptRefund) -> Result<End, Failure> {
        let sale = PaymentId::from_parts(&[b"refund", kept.request.text().as_bytes()]);
        let request = kept
            .request
            .clone()
            .with_sale(SaleId::new(&sale.to_string())?);
        let request = request.as_refund_of(self.refund.settlement);
        match self.facilitator.settle(&request).await {
            Ok(settled) if settled.success => {
                self.file.forget()?;
                let amount = kept.request.requirements.amount;
                let transaction = printable(&settled.transaction);
                println!(
                    "refunded {} in transaction {transaction}",
                    original.describe(amount)
                );
                self.print_left(original).await;
                Ok(End::Refunded)
            }
            Ok(refused) => self.refused(kept, &refused).await,
            Err(fault) => Err(lost(&fault)),
        }
    }

    /// Prints what can still be refunded, if the facilitator says so.
    async fn print_left(&self, original: &Original<'_>) {
        let now = self.facilitator.settlement(self.refund.settlement).await;
        if let Ok(Some(RemoteSettlement {
            refundable: Some(left),
            ..
        })) = now
        {
            println!("{} can still be refunded", original.display(left));
        }
    }

    /// What a refusal means. The refund is kept: the facilitator has it, and can still send it.
    async fn refused(&self, kept: &KeptRefund, refused: &SettleResponse) -> Result<End, Failure> {
        let code = printable(refused.error_reason.as_deref().unwrap_or("no reason"));
        let detail = refused.error_message.as_deref().map(printable);
        let detail = detail.map_or_else(String::new, |detail| format!(" ({detail})"));
        let named = match refused.transaction.as_str() {
            "" => String::new(),
            transaction => format!(" in transaction {}", printable(transaction)),
        };
        if code == Reason::SETTLEMENT_PENDING.code() {
            let message = format!(
                "the refund is pending{named}; run the same command again: it sends the same refund"
            );
            return Err(Failure::new(End::Lost, message));
        }
        if has_expired(kept) {
            let message = format!(
                "an earlier refund has expired, and may have been sent{named}: {code}{detail}. Look up its outcome on the chain; \
                 to refund again, and perhaps twice, add --forget first"
            );
            return Err(Failure::new(End::InDoubt, message));
        }
        let message = format!(
            "the facilitator refused the refund{named}: {code}{detail}. It is kept: the same command sends the same refund \
             again, until it expires"
        );
        Err(Failure::new(End::Refused, message))
    }
}

/// A signed refund for these requirements.
async fn sign(
    payer: &dyn Payer,
    requirements: &PaymentRequirements,
) -> Result<KeptRefund, Failure> {
    let signed = payer.pay(requirements, None, SystemClock.now()).await?;
    let payment = PaymentPayload::new(requirements.clone(), signed.payload);
    Ok(KeptRefund {
        request: PaymentRequest::new(payment, requirements.clone())?,
        expires: signed.expires,
    })
}

/// Whether no block may include the refund any more.
fn has_expired(kept: &KeptRefund) -> bool {
    let end: Timestamp = kept.expires.plus_secs(INCLUDED_AFTER_EXPIRY_SECS);
    SystemClock.now() >= end
}

/// The failure of a request whose answer was lost.
fn lost(fault: &FacilitatorError) -> Failure {
    let message = format!(
        "{fault}; the refund is kept: run the same command again, and it sends the same refund"
    );
    Failure::new(End::Lost, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The help lists every code.
    #[test]
    fn every_exit_code_is_in_the_help() {
        let (_, codes) = HELP.split_once("Exit codes:\n").unwrap();
        for (code, line) in codes.lines().enumerate() {
            assert!(line.trim_start().starts_with(&code.to_string()), "{line}");
        }
        assert_eq!(codes.lines().count(), End::InDoubt as usize + 1);
    }
}
