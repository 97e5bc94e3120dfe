//! `quittance pay`.

use std::error::Error;
use std::fmt;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgMatches, Args};
use quittance_buyer::{BuyError, Buyer, Cost, Limits, OpenPayment, PurchaseQuote};
use quittance_core::{Amount, Asset, Clock, SystemClock, printable};
use reqwest::header::{HeaderName, HeaderValue};
use reqwest::{Request, Response};
use serde_json::Value;
use url::Url;

use super::CommandResult;
use crate::families::{Families, PayError};

/// The text below the options in `--help`: examples and exit codes.
const HELP: &str = "\
Examples:
  export QUITTANCE_PAYER_KEY=0x...
  quittance pay https://api.example.com/forecast --max 0.05
  quittance pay https://api.example.com/forecast --dry-run
  quittance pay https://api.example.com/forecast --max 0.001 --max-deposit 0.05
  quittance pay https://api.example.com/forecast --reclaim
  quittance pay https://api.example.com/orders --method POST --data '{\"item\":1}' --header content-type:application/json

Exit codes:
  0  served, and paid if there was a price
  1  an error on this side: no key, an unusable state file, a closed output
  2  the command line is wrong
  3  the server could not be reached or did not answer; nothing was signed
  4  the price cannot be paid: over the limit, no matching payer, unreadable requirements; nothing was signed
  5  the server refused the payment; it is kept, and the same command presents it again
  6  the response was lost or the payment is pending; it is kept, and the same command presents it again
  7  an earlier payment for this purchase settled or may have settled; nothing new was signed
  8  the server answered with an error; the message says whether a payment was made
  9  served, but the receipt says that the payment did not settle; it is kept
  10 the response broke off; the payment is complete";

/// The exit codes. `HELP` and docs/buying.md list them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum End {
    Served = 0,
    Failed = 1,
    BadUsage = 2,
    Unanswered = 3,
    NotPayable = 4,
    Refused = 5,
    Lost = 6,
    InDoubt = 7,
    ServerError = 8,
    Denied = 9,
    BrokenOff = 10,
}

impl End {
    fn of(error: &BuyError) -> Self {
        match error {
            BuyError::Transport(_) => Self::Unanswered,
            BuyError::Request(_)
            | BuyError::Requirements(_)
            | BuyError::Redirect { .. }
            | BuyError::NotAcceptable(_)
            | BuyError::OverLimit(_)
            | BuyError::TooManyOpen { .. }
            | BuyError::Payer(_) => Self::NotPayable,
            BuyError::Refused {
                receipt: Some(receipt),
                ..
            } if receipt.is_pending() => Self::Lost,
            BuyError::Refused { .. } | BuyError::NotPaidBack { .. } => Self::Refused,
            BuyError::Lost { .. } => Self::Lost,
            BuyError::Unresolved { .. } | BuyError::Used { .. } | BuyError::AlreadyOpen { .. } => {
                Self::InDoubt
            }
            _ => Self::Failed,
        }
    }
}

impl From<End> for ExitCode {
    fn from(end: End) -> Self {
        Self::from(end as u8)
    }
}

// No `Debug`: a header may have a credential.
#[derive(Args)]
#[command(after_help = HELP)]
pub(super) struct Pay {
    /// The URL to pay for.
    url: String,
    /// The highest price to pay, in units of the token such as 0.05.
    #[arg(long, default_value = "0.10", value_parser = amount)]
    max: String,
    /// The most to lock up besides, such as the deposit into a channel, in units of the token. By
    /// default, price and deposit together are at most --max.
    #[arg(long, value_name = "AMOUNT", value_parser = amount)]
    max_deposit: Option<String>,
    /// Ask the seller to pay back what is left of a deposit, and buy nothing.
    #[arg(long, conflicts_with_all = ["dry_run", "abandon", "data", "method", "headers"])]
    reclaim: bool,
    /// The HTTP method.
    #[arg(long, default_value = "GET")]
    method: String,
    /// The body of the request.
    #[arg(long)]
    data: Option<String>,
    /// A header of the request; can be repeated.
    // Parsed later: the parser of the command line would print a value that it cannot read, and a
    // header may contain a credential.
    #[arg(long = "header", value_name = "NAME:VALUE")]
    headers: Vec<String>,
    /// Print the price, and do not pay.
    #[arg(long, conflicts_with = "abandon")]
    dry_run: bool,
    /// The file in which payments are kept until their end is known. Only you can read it. The same
    /// command presents a kept payment again. By default quittance/purchases.json in your data
    /// folder.
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Forget this open payment first. You may then pay twice.
    #[arg(long, value_name = "ID")]
    abandon: Option<String>,
    /// Sign another payment although an earlier one for this request, with other requirements, may
    /// still settle.
    #[arg(long)]
    second_payment: bool,
    /// Trust this server when it says that a payment was never settled. Only for your own servers.
    #[arg(long)]
    trust: bool,
}

impl Pay {
    /// Prints the response to standard output, and its cost to standard error.
    pub(super) async fn run(self, families: &Families, matches: &ArgMatches) -> CommandResult {
        let request = match self.request() {
            Ok(request) => request,
            Err(problem) => {
                eprintln!("quittance: {problem}");
                return Ok(End::BadUsage.into());
            }
        };
        let buyer = match self.buyer(request.url(), families, matches) {
            Err(error) if is_bad_usage(error.as_ref()) => {
                eprintln!("quittance: {error}");
                return Ok(End::BadUsage.into());
            }
            buyer => buyer?,
        };
        if let Some(id) = &self.abandon
            && !buyer.abandon(id).await
        {
            return Err(format!("no open payment {}", printable(id)).into());
        }
        if self.reclaim {
            return Ok(reclaim(&buyer, &self.url).await.into());
        }
        let ended = match self.dry_run {
            true => buyer.quote(&request).await.map(|price| {
                match price {
                    Some(price) => println!("{}", would_pay(&price)),
                    None => println!("nothing to pay"),
                }
                End::Served
            }),
            false => match buyer.execute(request).await {
                Ok(bought) => {
                    match &bought.cost {
                        Some(cost) => eprintln!("{}", describe(cost)),
                        None => eprintln!("nothing to pay"),
                    }
                    let end = end(bought.response.status().is_success(), bought.cost.as_ref());
                    return print(bought.response, end).await;
                }
                Err(error) => Err(error),
            },
        };
        Ok(ended
            .unwrap_or_else(|error| {
                let end = End::of(&error);
                eprintln!("quittance: {}", explain(error, families));
                end
            })
            .into())
    }

    fn request(&self) -> Result<Request, String> {
        let method = self.method.parse();
        let method = method.map_err(|_| format!("{:?} is not an HTTP method", self.method))?;
        let url = self.url.parse();
        // The error does not repeat the URL: it may contain a key.
        let url = url.map_err(|error| format!("the argument is not a URL: {error}"))?;
        let mut request = Request::new(method, url);
        for text in &self.headers {
            let (name, value) = header(text).map_err(|problem| format!("--header: {problem}"))?;
            request.headers_mut().append(name, value);
        }
        *request.body_mut() = self.data.clone().map(Into::into);
        Ok(request)
    }

    fn buyer(
        &self,
        url: &Url,
        families: &Families,
        matches: &ArgMatches,
    ) -> Result<Buyer, Box<dyn Error>> {
        let mut limits = Limits::default().per_payment(&self.max);
        if let Some(most) = &self.max_deposit {
            limits = limits.locked(most);
        }
        let mut buyer = Buyer::builder()
            .limits(limits)
            .state_file(state_file(self.state.as_ref())?);
        if self.second_payment {
            buyer = buyer.allow_second_payments();
        }
        if self.trust {
            buyer = buyer.trust(url.as_str());
        }
        let mut has_payer = false;
        for family in families.iter() {
            for payer in family.payers(matches)? {
                (buyer, has_payer) = (buyer.payer(payer), true);
            }
        }
        if !has_payer {
            let variables = families.iter().map(|family| family.key_variable());
            let variables = Vec::from_iter(variables).join(" nor ");
            return Err(format!("there is no key to pay with: neither {variables} is set").into());
        }
        Ok(buyer.build()?)
    }
}

/// Asks a seller for what is left of a deposit, and prints its receipt to standard error.
async fn reclaim(buyer: &Buyer, url: &str) -> End {
    match buyer.reclaim(url).await {
        Ok(None) => {
            eprintln!("nothing is locked up with this seller");
            End::Served
        }
        Ok(Some(receipt)) => {
            eprintln!("paid back; {}", settlement(&receipt.json, receipt.unclear));
            End::Served
        }
        Err(error) => {
            eprintln!("quittance: {error}");
            End::of(&error)
        }
    }
}

/// Whether the command line is wrong, as opposed to a key or a file that it names.
fn is_bad_usage(error: &(dyn Error + 'static)) -> bool {
    matches!(error.downcast_ref(), Some(PayError::Option { .. }))
}

/// Prints the response as it arrives: it may be larger than the memory of this machine.
async fn print(mut answer: Response, end: End) -> CommandResult {
    let status = answer.status();
    let mut out = std::io::stdout();
    let mut last = None;
    loop {
        match answer.chunk().await {
            Ok(Some(chunk)) => {
                last = chunk.last().copied().or(last);
                out.write_all(&chunk)?;
            }
            Ok(None) => break,
            Err(error) => {
                out.flush()?;
                eprintln!(
                    "quittance: the response broke off: {}",
                    causes(&error.without_url())
                );
                return Ok(broken_off(end).into());
            }
        }
    }
    // Files and other programs get the response without an added line break.
    if out.is_terminal() && last != Some(b'\n') {
        writeln!(out)?;
    }
    out.flush()?;
    if !status.is_success() {
        eprintln!("the server answered HTTP {}", status.as_u16());
    }
    Ok(end.into())
}

fn causes(error: &dyn Error) -> String {
    let cause = error.source().map(causes);
    let text = cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"));
    printable(&text)
}

/// The exit code of a purchase whose response broke off. An open payment has precedence, because
/// the same command presents it again.
fn broken_off(end: End) -> End {
    match end {
        End::Served => End::BrokenOff,
        open => open,
    }
}

/// The exit code of a purchase with a complete response.
fn end(is_success: bool, cost: Option<&Cost>) -> End {
    let open = cost.and_then(|cost| cost.open.as_ref());
    match (is_success, open) {
        (false, _) => End::ServerError,
        (true, Some(_)) => End::Denied,
        (true, None) => End::Served,
    }
}

/// The file in which payments are kept: the one of the option, or the one in the data folder.
pub(super) fn state_file(said: Option<&PathBuf>) -> Result<PathBuf, &'static str> {
    let missing =
        "there is no data folder: set HOME, or name a file for payments with --state FILE";
    match said {
        Some(file) => Ok(file.clone()),
        None => Ok(data_folder()
            .ok_or(missing)?
            .join("quittance/purchases.json")),
    }
}

/// The folder for the user's data.
pub(crate) fn data_folder() -> Option<PathBuf> {
    let folder = |name: &str| {
        let found = std::env::var_os(name).map(PathBuf::from);
        found.filter(|folder| folder.is_absolute())
    };
    folder("XDG_DATA_HOME")
        .or_else(|| folder("LOCALAPPDATA"))
        .or_else(|| Some(folder("HOME")?.join(".local/share")))
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("a value is not NAME:VALUE")?;
    let name = name
        .trim()
        .parse()
        .map_err(|_| "the text before : is not a header name")?;
    let mut value: HeaderValue = value
        .trim()
        .parse()
        .map_err(|_| "the text after : is not a header value")?;
    // The value may be a credential.
    value.set_sensitive(true);
    Ok((name, value))
}

/// The limit as it was written. No token has more than eighteen decimal places.
pub(super) fn amount(text: &str) -> Result<String, String> {
    let parsed = Amount::from_decimal(text, 18);
    parsed
        .map_err(|error| format!("not an amount in units of the token, such as 0.05: {error}"))?;
    Ok(text.to_owned())
}

fn would_pay(price: &PurchaseQuote) -> String {
    let sum = sum(
        price.amount,
        &price.asset,
        &price.requirements.network,
        &price.requirements.pay_to,
    );
    let would_pay = match &price.open {
        Some(open) => format!("would present again the payment of {sum}: {}", state(open)),
        // Only this scheme always charges its price.
        None if price.requirements.scheme == "exact" => format!("would pay {sum}"),
        None => format!("would pay at most {sum}"),
    };
    if price.locks.is_zero() {
        return would_pay;
    }
    let (locks, symbol) = (
        price.locks.to_decimal(price.asset.decimals),
        &price.asset.symbol,
    );
    format!("{would_pay}, and lock up at most {locks} {symbol}")
}

fn describe(cost: &Cost) -> String {
    let sum = sum(
        cost.amount,
        &cost.asset,
        &cost.requirements.network,
        &cost.requirements.pay_to,
    );
    // A scheme such as `upto` charges at most what was signed.
    let paid = match cost.charged {
        Some(charged) if charged < cost.amount => {
            let charged = charged.to_decimal(cost.asset.decimals);
            format!("{charged} of at most {sum}")
        }
        _ => sum.clone(),
    };
    let said = match &cost.receipt {
        Some(receipt) => settlement(&receipt.json, receipt.unclear),
        None => "the server sent no receipt".to_owned(),
    };
    match (&cost.open, &cost.receipt) {
        (Some(open), Some(receipt)) if receipt.denies() => format!(
            "signed for {sum}, and the receipt says that it was not paid; {said}\n{}",
            state(open)
        ),
        (Some(open), _) => format!("signed for {sum}; {said}\n{}", state(open)),
        (None, Some(receipt)) if !receipt.transaction.is_empty() => {
            let transaction = printable(&receipt.transaction);
            format!("paid {paid} in transaction {transaction}; {said}")
        }
        (None, _) => format!("paid {paid}; {said}"),
    }
}

/// The amount in the notation of the payer's token list, with the network and the recipient that
/// the server named.
fn sum(amount: Amount, asset: &Asset, network: &str, pay_to: &str) -> String {
    let (amount, symbol) = (amount.to_decimal(asset.decimals), &asset.symbol);
    format!(
        "{amount} {symbol} on {} to {}",
        printable(network),
        printable(pay_to)
    )
}

/// A receipt as the server sent it, without control characters.
fn settlement(receipt: &Value, unclear: Option<&str>) -> String {
    let text = format!("settlement: {}", plain(receipt.clone()));
    match unclear {
        Some(unclear) => format!("{text} (the receipt is unclear: {unclear})"),
        None => text,
    }
}

/// The same JSON without control characters in its texts.
fn plain(tree: Value) -> Value {
    match tree {
        Value::String(text) => printable(&text).into(),
        Value::Array(values) => values.into_iter().map(plain).collect(),
        Value::Object(fields) => {
            let field = |(name, value): (String, Value)| (printable(&name), plain(value));
            fields.into_iter().map(field).collect()
        }
        other => other,
    }
}

/// The state of an open payment.
fn state(open: &OpenPayment) -> String {
    let transaction = open.transaction.as_deref().map(printable);
    let transaction = transaction.unwrap_or_else(|| "unknown".to_owned());
    format!(
        "open payment {} of {}: transaction {transaction}; {}",
        open.id,
        printable(&open.display_amount()),
        validity(open)
    )
}

/// How long an open payment can still settle.
pub(super) fn validity(open: &OpenPayment) -> String {
    if open.never_expires() {
        return "it never expires".to_owned();
    }
    match open.expires.secs_since(SystemClock.now()) {
        0 => "it has expired".to_owned(),
        left => format!("it expires in {left} seconds"),
    }
}

/// An error with the state of the open payment, and with advice.
fn explain(error: BuyError, families: &Families) -> String {
    let Some(open) = error.open_payment() else {
        return error.to_string();
    };
    let answer = match &error {
        BuyError::Refused {
            receipt: Some(receipt),
            ..
        } => format!("\n{}", settlement(&receipt.json, receipt.unclear)),
        _ => String::new(),
    };
    format!(
        "{error}{answer}\n{}\n{}",
        state(open),
        Advice {
            error: &error,
            open,
            families
        }
    )
}

/// The advice for an error.
struct Advice<'a> {
    error: &'a BuyError,
    open: &'a OpenPayment,
    families: &'a Families,
}

impl fmt::Display for Advice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            error,
            open,
            families,
        } = self;
        let OpenPayment { id, network, .. } = open;
        let is_pending = End::of(error) == End::Lost;
        match error {
            BuyError::Unresolved { .. } => {
                let mut options = families.iter().filter_map(|it| it.node_option(network));
                let node = options.next().map_or_else(String::new, |option| {
                    format!(", or name a node that knows: {option}")
                });
                write!(
                    f,
                    "look up its outcome on the chain{node}. To pay again, and perhaps twice, add --abandon {id}"
                )
            }
            BuyError::Used { .. } => write!(
                f,
                "ask the seller for your purchase and show the transaction; to pay again, add --abandon {id}"
            ),
            BuyError::AlreadyOpen { .. } if open.never_expires() => write!(
                f,
                "look up its channel; to pay again, and perhaps twice, add --second-payment, or --abandon {id} to forget it"
            ),
            BuyError::AlreadyOpen { .. } => write!(
                f,
                "wait until it has expired; to pay again, and perhaps twice, add --second-payment, or --abandon {id} to forget it"
            ),
            // It may have settled already, and the response was lost.
            _ if open.transaction.is_some() && !is_pending => write!(
                f,
                "look up the transaction: if it transferred the money, ask the seller for your purchase and show it. \
                 The same command presents the same payment again, and pays nothing more"
            ),
            _ => write!(
                f,
                "run the same command again: it presents the same payment"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        pay: Pay,
    }

    fn line(arguments: &[&str]) -> Result<Pay, clap::Error> {
        let line = Line::try_parse_from([&["pay", "http://a.example/"], arguments].concat());
        line.map(|line| line.pay)
    }

    /// A dry run forgot the payment that `--abandon` named.
    #[test]
    fn a_dry_run_abandons_nothing() {
        assert!(line(&["--dry-run"]).is_ok() && line(&["--abandon", "1"]).is_ok());
        assert!(line(&["--dry-run", "--abandon", "1"]).is_err());
    }

    #[test]
    fn an_unreadable_url_is_not_repeated() {
        let mut pay = line(&[]).unwrap();
        pay.url = "a.example/?key=hunter2".to_owned();
        let error = pay.request().unwrap_err();
        assert!(!error.contains("hunter2"), "{error}");
    }

    /// A receipt was printed as the server wrote it, and JSON passes control sequences that begin
    /// with U+009B.
    #[test]
    fn a_receipt_is_printed_short_and_without_control_characters() {
        let said =
            json!({ "errorReason": "\u{9b}2J\u{1b}[Hno", "transaction": "x".repeat(10_000) });
        let text = settlement(&said, None);
        assert!(text.contains("2J[Hno") && text.len() < 1_000, "{text}");
        assert!(!text.contains(char::is_control), "{text}");
    }

    /// The help and docs/buying.md list every code.
    #[test]
    fn every_exit_code_is_documented() {
        let manual = include_str!("../../../../docs/buying.md");
        let (_, codes) = HELP.split_once("Exit codes:\n").unwrap();
        assert_eq!(codes.lines().count(), End::BrokenOff as usize + 1);
        for (code, line) in codes.lines().enumerate() {
            let meaning = line.trim_start().strip_prefix(&code.to_string()).unwrap();
            let row = format!("| {code} | {} |", meaning.trim_start());
            assert!(manual.contains(&row), "docs/buying.md lacks {row}");
        }
    }

    /// The exit code said that the payment was complete, although it was kept.
    #[test]
    fn a_broken_response_with_a_kept_payment_says_kept() {
        assert_eq!(broken_off(End::Served), End::BrokenOff);
        for kept in [End::Denied, End::ServerError] {
            assert_eq!(broken_off(kept), kept);
        }
    }

    #[test]
    fn a_limit_that_is_not_an_amount_is_an_error() {
        for text in ["abc", "-1", "1,5", "", "0x1", "1.0000000000000000001"] {
            let error = line(&[&format!("--max={text}")]).err().unwrap().to_string();
            assert!(error.contains("not an amount"), "{error}");
        }
        assert!(line(&["--max", "0.05"]).is_ok());
    }

    #[test]
    fn a_header_is_a_name_a_colon_and_a_value() {
        let (name, value) = header("X-Key: a:b").unwrap();
        assert_eq!((name.as_str(), value.to_str().unwrap()), ("x-key", "a:b"));
        for text in ["", "name", ": value", "a b: c", "a: b\nc"] {
            assert!(header(text).is_err(), "{text:?}");
        }
    }
}
