//! `quittance pay`.

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use alloy::signers::local::PrivateKeySigner;
use clap::Args;
use quittance_core::wire::{PaymentRequirements, SettleResponse};
use quittance_core::{Amount, Clock, SystemClock};
use quittance_facilitator::assemble::solana_keypair;
use quittance_facilitator::config::{PAYER_KEY, SOLANA_PAYER_KEY, SOLANA_RPC, Secret};
use quittance_http::{BuyError, Buyer, Cost, Limits, Open, Price, printable};
use reqwest::Request;
use reqwest::header::{HeaderName, HeaderValue};
use secrecy::ExposeSecret;
use serde_json::Value;
use url::Url;

use super::Ended;

#[derive(Debug, Args)]
pub(super) struct Pay {
    /// What to pay for.
    url: String,
    /// The most to pay, in whole coins.
    #[arg(long, default_value = "0.10")]
    max: String,
    /// The environment variable that holds the payer's private key on EVM chains; without it, QUITTANCE_PAYER_KEY.
    #[arg(long, value_name = "NAME", conflicts_with = "key_file")]
    key_env: Option<String>,
    /// The file that holds the payer's private key on EVM chains.
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
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
}

impl Pay {
    /// Prints the answer to standard output and what it cost to standard error.
    pub(super) async fn run(self) -> Ended {
        let request = self.request()?;
        let buyer = self.buyer()?;
        if let Some(id) = &self.abandon
            && !buyer.abandon(id).await
        {
            return Err(format!("no open payment {id}").into());
        }
        if self.dry_run {
            let price = buyer.price(&request).await?;
            match price {
                Some(price) => println!("{}", would_pay(&price)),
                None => println!("nothing to pay"),
            }
            return Ok(ExitCode::SUCCESS);
        }
        let bought = buyer.execute(request).await.map_err(explain)?;
        let status = bought.response.status();
        match &bought.cost {
            Some(cost) => eprintln!("{}", describe(cost)),
            None => eprintln!("nothing to pay"),
        }
        std::io::stdout().write_all(&bought.response.bytes().await?)?;
        println!();
        Ok(if status.is_success() {
            ExitCode::SUCCESS
        } else {
            eprintln!("the server answered HTTP {}", status.as_u16());
            ExitCode::FAILURE
        })
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

    fn buyer(&self) -> Result<Buyer, Box<dyn Error>> {
        let state = match &self.state {
            Some(file) => file.clone(),
            None => data_folder()
                .ok_or("there is no data folder: say with --state FILE where to keep payments")?
                .join("quittance/purchases.json"),
        };
        let mut buyer = Buyer::builder()
            .limits(Limits::default().per_payment(&self.max))
            .state_file(state);
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
            buyer = buyer.payer(evm_payer(&secret)?);
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

fn evm_payer(secret: &Secret) -> Result<quittance_evm::ExactPayer, Box<dyn Error>> {
    let key = secret.read("the payer's key")?;
    let signer: PrivateKeySigner = key
        .expose_secret()
        .parse()
        .map_err(|_| "the payer's key is not a private key in hexadecimal")?;
    Ok(quittance_evm::ExactPayer::new(signer))
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

fn would_pay(price: &Price) -> String {
    let sum = sum(price.amount, &price.requirements);
    match &price.open {
        Some(open) => format!("would present again the payment of {sum}: {}", state(open)),
        None => format!("would pay {sum}"),
    }
}

fn describe(cost: &Cost) -> String {
    let sum = sum(cost.amount, &cost.requirements);
    let answer = cost
        .receipt
        .as_ref()
        .map_or_else(|| "the server gave no receipt".to_owned(), settlement);
    match (&cost.open, &cost.receipt) {
        (Some(open), _) => format!("signed for {sum}; {answer}\n{}", state(open)),
        (None, Some(receipt)) => {
            let transaction = printable(&receipt.transaction);
            format!("paid {sum} in transaction {transaction}; {answer}")
        }
        (None, None) => format!("paid {sum}; {answer}"),
    }
}

/// What is paid to whom, in the server's words.
fn sum(amount: Amount, terms: &PaymentRequirements) -> String {
    let [asset, network, pay_to] =
        [&terms.asset, &terms.network, &terms.pay_to].map(|text| printable(text));
    format!("{amount} atomic units of {asset} on {network} to {pay_to}")
}

/// A receipt, as it came, but fit for a terminal.
fn settlement(receipt: &SettleResponse) -> String {
    let tree = serde_json::to_value(receipt).unwrap_or_default();
    format!("settlement: {}", plain(tree))
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
    let left = open.expires.secs_since(SystemClock.now());
    let transaction = open.transaction.as_deref().map(printable);
    let transaction = transaction.unwrap_or_else(|| "none known".to_owned());
    format!(
        "open payment {}: transaction {transaction}; expires at {} (in {left} seconds)",
        open.id, open.expires
    )
}

/// An error with what is open, and what to do about it.
fn explain(error: BuyError) -> String {
    let Some(open) = error.open() else {
        return error.to_string();
    };
    let advice = match &error {
        BuyError::Unresolved { .. } => format!(
            "look up what became of it; to pay again all the same, add --abandon {}",
            open.id
        ),
        _ => "run the same command again: the same payment is presented".to_owned(),
    };
    let answer = match &error {
        BuyError::Refused {
            receipt: Some(receipt),
            ..
        } => format!("\n{}", settlement(receipt)),
        _ => String::new(),
    };
    format!("{error}{answer}\n{}\n{advice}", state(open))
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use quittance_core::Reason;

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

    /// A receipt's words went to the terminal as the server wrote them, in JSON, which lets through what begins with U+009B.
    #[test]
    fn a_receipt_moves_no_cursor_and_fills_no_screen() {
        let rejection = Reason::read("\u{9b}2J\u{1b}[Hno".to_owned()).into();
        let receipt = SettleResponse::failed("a:1", &rejection, None, &"x".repeat(10_000));
        let text = settlement(&receipt);
        assert!(text.contains("2J[Hno") && text.len() < 1_000, "{text}");
        assert!(!text.contains(char::is_control), "{text}");
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
