//! `quittance pay`.

use std::error::Error;
use std::fmt;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use alloy::signers::local::PrivateKeySigner;
use clap::Args;
use quittance_buyer::{BuyError, Buyer, Cost, Limits, Open, Price, Receipt};
use quittance_cli::assemble::solana_keypair;
use quittance_cli::config::{EVM_RPC, PAYER_KEY, SOLANA_PAYER_KEY, SOLANA_RPC, Secret};
use quittance_core::{Amount, Asset, Clock, Network, SystemClock};
use quittance_http::printable;
use reqwest::header::{HeaderName, HeaderValue};
use reqwest::{Request, Response};
use secrecy::ExposeSecret;
use serde_json::Value;
use url::Url;

use super::Ended;

/// What `--help` says after the options: examples and exit codes.
const HELP: &str = "\
Examples:
  export QUITTANCE_PAYER_KEY=0x...
  quittance pay https://api.example.com/forecast --max 0.05
  quittance pay https://api.example.com/forecast --dry-run
  quittance pay https://api.example.com/orders --method POST --data '{\"item\":1}' --header content-type:application/json

Exit codes:
  0  served, and paid where a price was asked for
  1  a mistake on this side: no key, an unusable state file, an output that was closed
  2  the command line is wrong
  3  the server could not be reached or did not answer; nothing was signed
  4  the price cannot or may not be paid: over the limit, no payer, unreadable terms; nothing was signed
  5  the server refused the payment; it is kept, and the same command presents it again
  6  the answer was lost or the payment is pending; it is kept, and the same command presents it again
  7  an earlier payment for this may have moved money, or has; nothing new was signed
  8  the server answered with an error; what became of a payment is said
  9  served, but the receipt says that the payment did not settle; it is kept
  10 the answer broke off; the payment is over";

/// How the program ends, one code for each kind of end. `HELP` and README.md list them.
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
            BuyError::Unanswered(_) => Self::Unanswered,
            BuyError::Request(_)
            | BuyError::Terms(_)
            | BuyError::Redirect { .. }
            | BuyError::NotAcceptable(_)
            | BuyError::OverLimit(_)
            | BuyError::TooManyOpen { .. }
            | BuyError::Payer(_) => Self::NotPayable,
            BuyError::Refused {
                receipt: Some(receipt),
                ..
            } if receipt.is_pending() => Self::Lost,
            BuyError::Refused { .. } => Self::Refused,
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

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(super) struct Pay {
    /// What to pay for.
    url: String,
    /// The most to pay, in whole coins.
    #[arg(long, default_value = "0.10", value_parser = amount)]
    max: String,
    /// The environment variable that holds the payer's private key on EVM chains; without it, QUITTANCE_PAYER_KEY.
    #[arg(long, value_name = "NAME", conflicts_with = "key_file")]
    key_env: Option<String>,
    /// The file that holds the payer's private key on EVM chains.
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// A node to ask what became of an earlier payment that has run out; may be given again. Without it, the public ones of
    /// Base and Base Sepolia.
    #[arg(long, value_name = "NETWORK=URL", value_parser = evm_node, value_delimiter = ',', env = EVM_RPC, hide_env_values = true)]
    evm_rpc: Vec<(Network, Url)>,
    /// The environment variable that holds the payer's keypair on Solana; without it, QUITTANCE_SOLANA_PAYER_KEY.
    #[arg(long, value_name = "NAME", conflicts_with = "solana_key_file")]
    solana_key_env: Option<String>,
    /// The file that holds the payer's keypair on Solana, such as ~/.config/solana/id.json.
    #[arg(long, value_name = "FILE")]
    solana_key_file: Option<PathBuf>,
    /// The node of Solana to ask for a blockhash; without it, the public one of the cluster.
    #[arg(long, value_name = "URL", env = SOLANA_RPC, hide_env_values = true)]
    solana_rpc: Option<Url>,
    /// Ask with this method.
    #[arg(long, default_value = "GET")]
    method: String,
    /// Send this body.
    #[arg(long)]
    data: Option<String>,
    /// Send this header; may be given again.
    #[arg(long = "header", value_name = "NAME:VALUE", value_parser = header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Say what would be paid, and stop.
    #[arg(long, conflicts_with = "abandon")]
    dry_run: bool,
    /// Keep payments that are not delivered for in this file, which only you can read; the next run with the same purchase
    /// presents them again. Without it, quittance/purchases.json in your data folder.
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Forget this open payment first, and so perhaps pay twice.
    #[arg(long, value_name = "ID")]
    abandon: Option<String>,
    /// Sign another payment though an earlier one for this request, on other terms, may still move money.
    #[arg(long)]
    second_payment: bool,
    /// Trust this server when it says that a payment was never settled. For servers of your own.
    #[arg(long)]
    trust: bool,
}

impl Pay {
    /// Prints the answer to standard output and what it cost to standard error.
    pub(super) async fn run(self) -> Ended {
        let request = match self.request() {
            Ok(request) => request,
            Err(problem) => {
                eprintln!("quittance: {problem}");
                return Ok(End::BadUsage.into());
            }
        };
        let buyer = self.buyer(request.url())?;
        if let Some(id) = &self.abandon
            && !buyer.abandon(id).await
        {
            return Err(format!("no open payment {}", printable(id)).into());
        }
        let ended = match self.dry_run {
            true => buyer.price(&request).await.map(|price| {
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
                eprintln!("quittance: {}", explain(error));
                end
            })
            .into())
    }

    fn request(&self) -> Result<Request, String> {
        let method = self.method.parse();
        let method = method.map_err(|_| format!("{:?} is no HTTP method", self.method))?;
        let url = self.url.parse();
        // It may hold a secret, such as a key in its query.
        let url = url.map_err(|error| format!("that is no URL: {error}"))?;
        let mut request = Request::new(method, url);
        for (name, value) in &self.headers {
            request.headers_mut().append(name, value.clone());
        }
        *request.body_mut() = self.data.clone().map(Into::into);
        Ok(request)
    }

    fn buyer(&self, url: &Url) -> Result<Buyer, Box<dyn Error>> {
        let mut buyer = Buyer::builder()
            .limits(Limits::default().per_payment(&self.max))
            .state_file(state_file(self.state.as_ref())?);
        if self.second_payment {
            buyer = buyer.allow_second_payments();
        }
        if self.trust {
            buyer = buyer.trust(url.as_str());
        }
        let evm = secret(self.key_file.as_ref(), self.key_env.as_ref(), PAYER_KEY);
        let solana = secret(
            self.solana_key_file.as_ref(),
            self.solana_key_env.as_ref(),
            SOLANA_PAYER_KEY,
        );
        if evm.is_none() && solana.is_none() {
            let what = format!(
                "there is no key to pay with: neither {PAYER_KEY} nor {SOLANA_PAYER_KEY} is set"
            );
            return Err(what.into());
        }
        if let Some(secret) = evm {
            buyer = buyer.payer(evm_payer(&secret, &self.evm_rpc)?);
        }
        if let Some(secret) = solana {
            buyer = buyer.payer(solana_payer(&secret, self.solana_rpc.as_ref())?);
        }
        Ok(buyer.build()?)
    }
}

/// Where a key is: where the user says, else in this variable, if there is one.
fn secret(file: Option<&PathBuf>, variable: Option<&String>, default: &str) -> Option<Secret> {
    let said = file
        .map(|file| Secret::File(file.clone()))
        .or_else(|| variable.map(|name| Secret::Env(name.clone())));
    said.or_else(|| {
        let is_set = std::env::var_os(default).is_some();
        is_set.then(|| Secret::Env(default.to_owned()))
    })
}

/// Where the answer goes, piece by piece: it may be longer than the memory of this machine.
async fn print(mut answer: Response, end: End) -> Ended {
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
                    "quittance: the answer broke off: {}",
                    causes(&error.without_url())
                );
                return Ok(broken_off(end).into());
            }
        }
    }
    // What goes to a file or a program is left as it is.
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

/// How a call ended whose answer broke off. Where the payment is open, that matters more: it is presented again.
fn broken_off(end: End) -> End {
    match end {
        End::Served => End::BrokenOff,
        open => open,
    }
}

/// How a call ended that was answered.
fn end(is_success: bool, cost: Option<&Cost>) -> End {
    let open = cost.and_then(|cost| cost.open.as_ref());
    match (is_success, open) {
        (false, _) => End::ServerError,
        (true, Some(_)) => End::Denied,
        (true, None) => End::Served,
    }
}

/// The file that payments are kept in: this one, or the one in the data folder.
pub(super) fn state_file(said: Option<&PathBuf>) -> Result<PathBuf, &'static str> {
    let missing = "there is no data folder: say with --state FILE where to keep payments";
    match said {
        Some(file) => Ok(file.clone()),
        None => Ok(data_folder()
            .ok_or(missing)?
            .join("quittance/purchases.json")),
    }
}

/// Networks with the node that their makers run for everyone. It is asked what became of a payment that has run out, and
/// nothing else.
const EVM_NODES: [(&str, &str); 2] = [
    ("base", "https://mainnet.base.org"),
    ("base-sepolia", "https://sepolia.base.org"),
];

fn evm_payer(
    secret: &Secret,
    nodes: &[(Network, Url)],
) -> Result<quittance_evm::ExactPayer, Box<dyn Error>> {
    let key = secret.read("the payer's key")?;
    let signer: PrivateKeySigner = key
        .expose_secret()
        .parse()
        .map_err(|_| "the payer's key is not a private key in hexadecimal")?;
    let mut payer = quittance_evm::ExactPayer::new(signer);
    for (name, public) in EVM_NODES {
        let network = quittance_evm::known::network(name).ok_or("a network is not known")?;
        payer = payer.with_rpc(&network, &[public.parse()?])?;
    }
    for (network, _) in nodes {
        let urls = nodes.iter().filter(|(other, _)| other.id() == network.id());
        let urls: Vec<Url> = urls.map(|(_, url)| url.clone()).collect();
        payer = payer.with_rpc(network, &urls)?;
    }
    Ok(payer)
}

fn evm_node(text: &str) -> Result<(Network, Url), String> {
    let (name, url) = text.split_once('=').ok_or("not NETWORK=URL")?;
    let network = quittance_evm::known::network(name.trim());
    let network = network.ok_or_else(|| format!("{name:?} is no EVM network"))?;
    // It may hold a key.
    let url = url.trim().parse();
    Ok((
        network,
        url.map_err(|error| format!("that is no URL: {error}"))?,
    ))
}

/// Clusters with the node that their makers run for everybody. It is asked for a blockhash and nothing else, at most once
/// a payment.
const SOLANA_NODES: [(&str, &str); 3] = [
    ("solana", "https://api.mainnet-beta.solana.com"),
    ("solana-devnet", "https://api.devnet.solana.com"),
    ("solana-testnet", "https://api.testnet.solana.com"),
];

/// A payer that asks `node`, whichever cluster it is of: a blockhash of another one can be used on none.
fn solana_payer(
    secret: &Secret,
    node: Option<&Url>,
) -> Result<quittance_solana::ExactPayer, Box<dyn Error>> {
    let key = secret.read("the payer's keypair on Solana")?;
    let keypair = solana_keypair(key.expose_secret())
        .ok_or("the payer's keypair on Solana is neither 64 bytes in base58 nor a JSON list")?;
    let mut payer = quittance_solana::ExactPayer::new(keypair);
    for (name, public) in SOLANA_NODES {
        let network = quittance_solana::known::network(name).ok_or("a cluster is not known")?;
        let node = match node {
            Some(node) => node.clone(),
            None => public.parse()?,
        };
        payer = payer.with_rpc(&network, &[node])?;
    }
    Ok(payer)
}

/// Where programs keep what is the user's own.
fn data_folder() -> Option<PathBuf> {
    let folder = |name: &str| {
        let found = std::env::var_os(name).map(PathBuf::from);
        found.filter(|folder| folder.is_absolute())
    };
    folder("XDG_DATA_HOME")
        .or_else(|| folder("LOCALAPPDATA"))
        .or_else(|| Some(folder("HOME")?.join(".local/share")))
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("not NAME:VALUE")?;
    let name = name
        .trim()
        .parse()
        .map_err(|_| format!("{name:?} is no header name"))?;
    let mut value: HeaderValue = value
        .trim()
        .parse()
        .map_err(|_| "the value is none for a header")?;
    // It may be a credential.
    value.set_sensitive(true);
    Ok((name, value))
}

/// The limit, as it was written. Finer than eighteen decimal places is no coin.
fn amount(text: &str) -> Result<String, String> {
    let parsed = Amount::from_decimal(text, 18);
    parsed.map_err(|error| format!("not an amount in whole coins, such as 0.05: {error}"))?;
    Ok(text.to_owned())
}

fn would_pay(price: &Price) -> String {
    let sum = sum(
        price.amount,
        &price.asset,
        &price.requirements.network,
        &price.requirements.pay_to,
    );
    match &price.open {
        Some(open) => format!("would present again the payment of {sum}: {}", state(open)),
        None => format!("would pay {sum}"),
    }
}

fn describe(cost: &Cost) -> String {
    let sum = sum(
        cost.amount,
        &cost.asset,
        &cost.requirements.network,
        &cost.requirements.pay_to,
    );
    let said = match &cost.receipt {
        Some(receipt) => settlement(receipt),
        None => "the server gave no receipt".to_owned(),
    };
    match (&cost.open, &cost.receipt) {
        (Some(open), Some(receipt)) if receipt.denies() => format!(
            "signed for {sum}, and the receipt says that it was not paid; {said}\n{}",
            state(open)
        ),
        (Some(open), _) => format!("signed for {sum}; {said}\n{}", state(open)),
        (None, Some(receipt)) if !receipt.transaction.is_empty() => {
            let transaction = printable(&receipt.transaction);
            format!("paid {sum} in transaction {transaction}; {said}")
        }
        (None, _) => format!("paid {sum}; {said}"),
    }
}

/// What is paid to whom: the amount as the payer knows the asset, the rest in the server's words.
fn sum(amount: Amount, asset: &Asset, network: &str, pay_to: &str) -> String {
    let (amount, symbol) = (amount.to_decimal(asset.decimals), &asset.symbol);
    format!(
        "{amount} {symbol} on {} to {}",
        printable(network),
        printable(pay_to)
    )
}

/// A receipt, as it came, but fit for a terminal.
fn settlement(receipt: &Receipt) -> String {
    let text = format!("settlement: {}", plain(receipt.said.clone()));
    match receipt.unclear {
        Some(unclear) => format!("{text} (the receipt is unclear: {unclear})"),
        None => text,
    }
}

/// The same JSON with texts that can be printed.
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

/// What is known of an open payment.
fn state(open: &Open) -> String {
    let transaction = open.transaction.as_deref().map(printable);
    let transaction = transaction.unwrap_or_else(|| "none known".to_owned());
    format!(
        "open payment {} of {}: transaction {transaction}; {}",
        open.id,
        printable(&open.sum()),
        validity(open)
    )
}

/// How long an open payment can still be taken.
pub(super) fn validity(open: &Open) -> String {
    match open.expires.secs_since(SystemClock.now()) {
        0 => "it has run out".to_owned(),
        left => format!("it runs out in {left} seconds"),
    }
}

/// An error with what is open, and what to do about it.
fn explain(error: BuyError) -> String {
    let Some(open) = error.open() else {
        return error.to_string();
    };
    let answer = match &error {
        BuyError::Refused {
            receipt: Some(receipt),
            ..
        } => format!("\n{}", settlement(receipt)),
        _ => String::new(),
    };
    format!("{error}{answer}\n{}\n{}", state(open), Advice(&error, open))
}

/// What to do about an error.
struct Advice<'a>(&'a BuyError, &'a Open);

impl fmt::Display for Advice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(error, Open { id, network, .. }) = self;
        let is_pending = End::of(error) == End::Lost;
        match error {
            BuyError::Unresolved { .. } => write!(
                f,
                "look up what became of it; on EVM chains a node knows: add --evm-rpc {}=URL. To pay again and perhaps twice, \
                 add --abandon {id}",
                printable(network)
            ),
            BuyError::Used { .. } => write!(
                f,
                "ask the seller for what you paid for and show the transaction; to pay again, add --abandon {id}"
            ),
            BuyError::AlreadyOpen { .. } => write!(
                f,
                "wait until it has run out; to pay again and perhaps twice, add --second-payment, or --abandon {id} to forget it"
            ),
            // It may have settled already, and its answer was lost.
            _ if self.1.transaction.is_some() && !is_pending => write!(
                f,
                "look the transaction up: if it moved the money, ask the seller for what you paid for and show it. \
                 The same command presents the same payment, and pays nothing more"
            ),
            _ => write!(
                f,
                "run the same command again: the same payment is presented"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        pay: Pay,
    }

    fn line(arguments: &[&str]) -> Result<Pay, clap::Error> {
        let line = Line::try_parse_from([&["pay", "http://a.example/"], arguments].concat());
        line.map(|line| line.pay)
    }

    /// Asked only to say what it would do, it forgot the payment all the same.
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

    fn receipt(said: Value) -> Receipt {
        Receipt {
            success: false,
            error_reason: None,
            error_message: None,
            payer: None,
            transaction: String::new(),
            network: String::new(),
            said,
            unclear: None,
        }
    }

    /// A receipt's words went to the terminal as the server wrote them, in JSON, which lets through what begins with U+009B.
    #[test]
    fn a_receipt_moves_no_cursor_and_fills_no_screen() {
        let said =
            json!({ "errorReason": "\u{9b}2J\u{1b}[Hno", "transaction": "x".repeat(10_000) });
        let text = settlement(&receipt(said));
        assert!(text.contains("2J[Hno") && text.len() < 1_000, "{text}");
        assert!(!text.contains(char::is_control), "{text}");
    }

    /// The help and README.md list every code.
    #[test]
    fn every_exit_code_is_documented() {
        let readme = include_str!("../../../../README.md");
        for code in 0..=End::BrokenOff as u8 {
            assert!(HELP.contains(&format!("\n  {code} ")), "{code} in --help");
            assert!(
                readme.contains(&format!("| {code} |")),
                "{code} in README.md"
            );
        }
    }

    /// The code said that the payment was over, though it was kept.
    #[test]
    fn a_payment_that_is_kept_is_not_said_to_be_over_where_the_answer_broke_off() {
        assert_eq!(broken_off(End::Served), End::BrokenOff);
        for kept in [End::Denied, End::ServerError] {
            assert_eq!(broken_off(kept), kept);
        }
    }

    #[test]
    fn a_limit_that_is_no_amount_is_told_as_that() {
        for text in ["abc", "-1", "1,5", "", "0x1", "1.0000000000000000001"] {
            let error = line(&[&format!("--max={text}")]).unwrap_err().to_string();
            assert!(error.contains("not an amount"), "{error}");
        }
        assert!(line(&["--max", "0.05"]).is_ok());
    }

    #[test]
    fn a_node_is_a_network_and_a_url() {
        let pay = line(&["--evm-rpc", "base=http://a.example/?key=hunter2"]).unwrap();
        assert_eq!(pay.evm_rpc[0].0.id(), "eip155:8453");
        for text in [
            "http://a.example",
            "nowhere=http://a.example",
            "base=hunter2",
        ] {
            let error = line(&["--evm-rpc", text]).unwrap_err().to_string();
            assert!(error.contains("--evm-rpc"), "{error}");
        }
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
