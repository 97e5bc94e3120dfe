//! EVM chains: `[[evm]]` in the configuration.

mod bench;
mod holds;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::{Address, U256};
use alloy::signers::local::PrivateKeySigner;
use async_trait::async_trait;
use quittance_core::{
    Amount, Fault, Network, Offer, OfferError, Payer, PaymentRequest, Scheme, SchemeState,
    StateSummary, Timestamp, printable,
};
use quittance_evm::batch::{
    BatchConfig, BatchSettlement, BooksError, ChannelBook, ChannelPayer, PayerBook, read_books,
};
use quittance_evm::{
    ApprovalGas, AuthCapturePayer, Evm, EvmConfig, Exact, ExactConfig, ExactOffer, ExactPayer,
    Signer, Token, TransferMethod, Upto, UptoPayer, known,
};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use url::Url;

use self::holds::AuthCaptureEntry;
use super::entry::not_an_address;
use super::{
    ChainWithSchemes, Family, Findings, HeldPayment, HoldAct, ListedToken, NetworkEntry, PayError,
    payer_key,
};
use crate::bench::Case;
use crate::commands::data_folder;
use crate::config::{ConfigError, Secret};

/// The family of EVM chains.
#[derive(Debug, Clone, Copy)]
pub struct EvmFamily;

/// The keys of an `[[evm]]` table beside those of [`Common`](super::Common).
#[derive(Debug, Deserialize)]
#[non_exhaustive]
pub struct EvmEntry {
    /// The keys that sign transactions and pay for their gas.
    pub signers: Vec<Secret>,
    /// The number of confirmations after which a payment counts as settled.
    #[serde(default = "default_confirmations")]
    pub confirmations: u64,
    /// The number of confirmations after which a settled payment is no longer watched.
    pub final_confirmations: Option<u64>,
    /// How long a settled payment is watched at least, in seconds.
    pub final_secs: Option<u64>,
    /// The highest price for a unit of gas, in gwei.
    pub max_gas_price_gwei: Option<u64>,
    /// The part of the gas price that goes to block producers at most, in gwei.
    pub max_tip_gwei: Option<u64>,
    /// The most gas that one payment may use.
    pub max_gas_per_payment: Option<u32>,
    /// The most payments in one transaction; 1 sends each payment alone.
    pub max_batch: Option<usize>,
    /// Whether contract wallets and accounts with a delegation (EIP-7702) may pay. Their code runs
    /// on the signer's gas.
    pub contract_wallets: Option<bool>,
    /// The contracts that may deploy a payer's account in its payment (ERC-6492). The payer chooses
    /// the data of the call, and the signer pays for its gas.
    #[serde(default)]
    pub account_factories: Vec<String>,
    /// The delegation managers that redeem payments by ERC-7710. The payer's code runs on the
    /// signer's gas.
    #[serde(default)]
    pub delegation_managers: Vec<String>,
    /// For how long a verified payment of the scheme `upto` is held for its request, in seconds; 0
    /// verifies it for every request.
    #[serde(default)]
    pub upto_hold_secs: u64,
    /// The scheme `batch-settlement`. It is offered if the table is there.
    pub batch_settlement: Option<BatchEntry>,
    /// The scheme `auth-capture`. It is offered if the table is there.
    pub auth_capture: Option<AuthCaptureEntry>,
    /// The largest amount that is settled on the evidence of a single node, by token address or
    /// ticker, in decimal notation: `{ USDC = "100" }`. For a larger amount two nodes must agree.
    #[serde(default)]
    pub two_nodes_above: BTreeMap<String, String>,
    /// What payers get for the gas of their approvals of Permit2. Without it they get none, and no
    /// such approval is sent.
    pub approval_gas: Option<ApprovalGasEntry>,
    /// The age of the newest block, in seconds, above which a node counts as stuck; 0 for a chain
    /// that makes blocks only for transactions.
    pub max_head_age_secs: Option<u64>,
    /// The balance below which a signer is not used, in wei.
    pub min_balance_wei: Option<Amount>,
    /// Tokens that do not ship with the library, or that replace those that do.
    #[serde(default)]
    pub tokens: Vec<EvmToken>,
}

/// The bounds of what payers get for the gas of their approvals.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ApprovalGasEntry {
    /// The most for one approval, in wei.
    pub per_approval_wei: Amount,
    /// The most for one payer within a day, in wei; by default as for one approval.
    pub per_day_wei: Option<Amount>,
}

/// What the facilitator does for sellers with channels.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct BatchEntry {
    /// The address of the signer that sellers can name as the authorizer of their channels.
    pub authorizer: Option<String>,
    /// Whether the facilitator keeps vouchers for sellers.
    #[serde(default)]
    pub keeps_vouchers: bool,
    /// Whether it keeps vouchers of channels without a `payerAuthorizer`, too.
    #[serde(default)]
    pub contract_payers: bool,
    /// After how many seconds a charge by a voucher is claimed at the latest.
    pub claim_after_secs: Option<u64>,
    /// The sum of the charges in a channel from which they are claimed at once, in atomic units.
    pub claim_above: Option<Amount>,
}

/// A token on an EVM chain that does not ship with the library.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct EvmToken {
    /// The address of the contract.
    pub address: String,
    /// The `name` of its EIP-712 domain.
    pub name: String,
    /// The `version` of its EIP-712 domain.
    pub version: String,
    /// The number of decimal places.
    pub decimals: u8,
    /// The ticker.
    pub symbol: String,
    /// Whether the contract logs `AuthorizationUsed` directly before the `Transfer` of the same
    /// payment, as Circle's FiatToken does. Equal payments can then share a transaction. Set it
    /// only if the contract's source shows it.
    #[serde(default)]
    pub logs_authorization_first: bool,
    /// Whether the token accepts signed approvals (EIP-2612), so that payers need not approve
    /// Permit2 by a transaction.
    #[serde(default)]
    pub supports_eip2612: bool,
    /// Whether the token supports EIP-3009 (`eip3009`), or is moved by Permit2 only (`permit2`).
    #[serde(default)]
    pub transfer_method: TransferMethod,
}

const fn default_confirmations() -> u64 {
    1
}

/// The number of wei in a gwei.
const GWEI: u128 = 1_000_000_000;

/// Networks with the public node of their operators. Such a node is only asked for the outcome of
/// an expired payment.
const PUBLIC_NODES: [(&str, &str); 2] = [
    ("base", "https://mainnet.base.org"),
    ("base-sepolia", "https://sepolia.base.org"),
];

/// The options of `quittance pay` for EVM chains.
#[derive(clap::Args)]
#[command(next_help_heading = "EVM chains")]
pub struct EvmPayerArgs {
    /// The environment variable that holds the payer's private key; by default
    /// QUITTANCE_PAYER_KEY.
    #[arg(long, value_name = "NAME", conflicts_with = "key_file")]
    key_env: Option<String>,
    /// The file that holds the payer's private key.
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// A node that is asked for the outcome of an expired payment; can be repeated. By default the
    /// public nodes of Base and Base Sepolia.
    // Parsed later: the parser of the command line would print a value that it cannot read, and a
    // URL may contain a key.
    #[arg(long, value_name = "NETWORK=URL", value_delimiter = ',', env = RPC_VARIABLE, hide_env_values = true)]
    evm_rpc: Vec<String>,
    /// The folder with the books of the payer's channels. By default quittance/channels in your
    /// data folder.
    #[arg(long, value_name = "FOLDER")]
    channels: Option<PathBuf>,
}

impl EvmPayerArgs {
    fn key(&self) -> Result<Option<SecretString>, ConfigError> {
        let (file, variable) = (self.key_file.as_ref(), self.key_env.as_ref());
        payer_key(file, variable, EvmFamily::KEY_VARIABLE, "the payer's key")
    }

    /// The folder with the books of channels. `None` if there is no data folder.
    fn channels(&self) -> Option<PathBuf> {
        let default = || Some(data_folder()?.join("quittance/channels"));
        self.channels.clone().or_else(default)
    }
}

/// The variable with the nodes of `--evm-rpc`.
const RPC_VARIABLE: &str = "QUITTANCE_EVM_RPC";

#[async_trait]
impl Family for EvmFamily {
    const KEY: &'static str = "evm";
    type Entry = EvmEntry;
    type Chain = Evm;
    type PayerArgs = EvmPayerArgs;

    fn network(&self, name: &str) -> Result<Network, String> {
        known::network(name).ok_or_else(|| {
            format!("{name:?} is not an EVM network: write eip155: and the chain id, or a known name such as base")
        })
    }

    fn configure(
        &self,
        entry: &NetworkEntry<'_, EvmEntry>,
        findings: &mut Findings,
    ) -> Option<ChainWithSchemes<Evm>> {
        let settings = findings.take(exact(entry));
        let chain = chain(entry, findings)?;
        let exact = Exact::new(&chain).with_config(settings?);
        let exact = exact.map_err(|error| ConfigError::value(&entry.path, error));
        let exact = Arc::new(findings.take(exact)?);
        let hold = Duration::from_secs(entry.own.upto_hold_secs);
        let upto = Arc::new(Upto::new(&chain).with_hold(hold));
        let mut schemes: Vec<Arc<dyn Scheme<Evm>>> = vec![exact, upto];
        if let Some(own) = &entry.own.batch_settlement {
            let batch = findings.take(batch_settlement(entry, own, &chain));
            schemes.push(Arc::new(batch?));
        }
        if let Some(own) = &entry.own.auth_capture {
            let holds = findings.take(holds::auth_capture(entry, own, &chain));
            schemes.push(Arc::new(holds?));
        }
        let ledger = chain.ledger();
        Some(ChainWithSchemes::new(chain, schemes).with_ledger(ledger))
    }

    const KEY_VARIABLE: &'static str = "QUITTANCE_PAYER_KEY";
    const OTHER_VARIABLES: &'static [&'static str] = &[RPC_VARIABLE];

    fn payers(&self, args: &EvmPayerArgs) -> Result<Vec<Box<dyn Payer>>, PayError> {
        let nodes = nodes(&args.evm_rpc)?;
        let Some(key) = args.key()? else {
            return Ok(Vec::new());
        };
        let mut all = exact_and_upto(&key, &nodes)?;
        if let Some(folder) = args.channels() {
            match channel_payer(&key, &nodes, &folder)? {
                Some(payer) => all.push(Box::new(payer)),
                None => eprintln!("another process pays by channels, so this one does not"),
            }
        }
        Ok(all)
    }

    /// Without the payer of channels, whose books only one process can have open.
    fn refund_payers(&self, args: &EvmPayerArgs) -> Result<Vec<Box<dyn Payer>>, PayError> {
        match args.key()? {
            Some(key) => exact_and_upto(&key, &nodes(&args.evm_rpc)?),
            None => Ok(Vec::new()),
        }
    }

    fn locked(&self, args: &EvmPayerArgs) -> Option<Result<Vec<String>, PayError>> {
        let books = read_books(&args.channels()?).map_err(PayError::payer);
        Some(books.map(|books| books.iter().map(channel_line).collect()))
    }

    fn token(&self, network: &str, asset: &str) -> Option<ListedToken> {
        let tokens = listed(known::tokens(known::network(network)?.id()));
        tokens.into_iter().find(|token| token.address == asset)
    }

    fn refund_offer(
        &self,
        network: &str,
        asset: &str,
        amount: &str,
        pay_to: &str,
    ) -> Option<Result<Box<dyn Offer>, OfferError>> {
        let network = known::network(network)?;
        let token = known::token(network.id(), asset)?.clone();
        let offer = ExactOffer::new(network, token, amount, pay_to);
        Some(offer.map(|offer| Box::new(offer) as Box<dyn Offer>))
    }

    async fn hold_request(
        &self,
        held: &HeldPayment<'_>,
        act: &HoldAct,
    ) -> Option<Result<PaymentRequest, PayError>> {
        holds::request(held, act).await
    }

    fn summary(&self, state: &SchemeState, now: Timestamp) -> Option<StateSummary> {
        let network = Network::new(&state.network).ok()?;
        known::chain_id(&network)?;
        let book = ChannelBook::read(state).ok()?;
        Some(book.summary(state.due, now))
    }

    fn node_option(&self, network: &str) -> Option<String> {
        let network = known::network(network)?;
        Some(format!("--evm-rpc {}=URL", network.id()))
    }

    async fn benchmarks(&self) -> Result<Vec<Case>, Fault> {
        bench::cases().await
    }
}

/// Parses a private key. `field` names it in the error.
fn private_key(
    field: impl Into<String>,
    key: &SecretString,
) -> Result<PrivateKeySigner, ConfigError> {
    // The parser's error may quote the key.
    let unreadable = |_| ConfigError::value(field, "not a private key in hexadecimal");
    key.expose_secret().parse().map_err(unreadable)
}

/// A payer for each scheme, with the public nodes and those of the options.
fn exact_and_upto(
    key: &SecretString,
    nodes: &[(Network, Url)],
) -> Result<Vec<Box<dyn Payer>>, PayError> {
    let key = private_key("the payer's key", key)?;
    let (mut exact, mut upto) = (ExactPayer::new(key.clone()), UptoPayer::new(key.clone()));
    let mut held = AuthCapturePayer::new(key);
    for (network, urls) in nodes_by_network(nodes) {
        exact = exact.with_rpc(&network, &urls).map_err(PayError::payer)?;
        upto = upto.with_rpc(&network, &urls).map_err(PayError::payer)?;
        held = held.with_rpc(&network, &urls).map_err(PayError::payer)?;
    }
    Ok(vec![Box::new(exact), Box::new(upto), Box::new(held)])
}

/// The payer of channels, with its books in this folder. `None` if another process has them open.
fn channel_payer(
    key: &SecretString,
    nodes: &[(Network, Url)],
    folder: &Path,
) -> Result<Option<ChannelPayer>, PayError> {
    let payer = ChannelPayer::new(private_key("the payer's key", key)?);
    let mut payer = match payer.in_folder(folder) {
        Err(BooksError::InUse { .. }) => return Ok(None),
        payer => payer.map_err(PayError::payer)?,
    };
    for (network, urls) in nodes_by_network(nodes) {
        payer = payer.with_rpc(&network, &urls).map_err(PayError::payer)?;
    }
    Ok(Some(payer))
}

/// A channel as a line, with tabs between the fields.
fn channel_line(book: &PayerBook) -> String {
    let coins = |units: u128| Amount::new(U256::from(units)).to_decimal(book.decimals);
    let (id, network) = (book.channel_id, printable(&book.network));
    let (locked, charged) = (coins(book.locked()), coins(book.charged));
    let (symbol, receiver) = (printable(&book.symbol), book.config.receiver);
    let state = match (&book.deposit, book.withdraw_requested_at) {
        (_, 1..) => "a withdrawal is announced",
        (Some(_), _) => "a deposit may not be made yet",
        (None, 0) => "open",
    };
    let delay = book.config.withdraw_delay;
    format!(
        "{id}\t{locked} {symbol} locked up, {charged} charged\tto {receiver} on {network}\twithdrawal takes {delay} seconds\t{state}"
    )
}

/// The nodes of each network: those of the options, or else the public one.
fn nodes_by_network(nodes: &[(Network, Url)]) -> Vec<(Network, Vec<Url>)> {
    let public = PUBLIC_NODES.map(|(name, url)| {
        let network = known::network(name).expect("a constant names a known network");
        (network, url.parse().expect("a constant is a URL"))
    });
    let mut all: Vec<(Network, Vec<Url>)> = Vec::new();
    for (network, url) in nodes {
        match all.iter_mut().find(|(other, _)| other.id() == network.id()) {
            Some((_, urls)) => urls.push(url.clone()),
            None => all.push((network.clone(), vec![url.clone()])),
        }
    }
    for (network, url) in public {
        if all.iter().all(|(other, _)| other.id() != network.id()) {
            all.push((network, vec![url]));
        }
    }
    all
}

/// Parses the values of `--evm-rpc`. No error repeats a value, which may contain a key.
fn nodes(values: &[String]) -> Result<Vec<(Network, Url)>, PayError> {
    let node = |text: &String| {
        let wrong = |problem: String| PayError::option("--evm-rpc", problem);
        let (name, url) = text
            .split_once('=')
            .ok_or_else(|| wrong("a value is not NETWORK=URL".to_owned()))?;
        let network = known::network(name.trim());
        let network = network.ok_or_else(|| {
            wrong("the text before = is not an EVM network: write eip155: and the chain id, or a known name such as base".to_owned())
        })?;
        let url = url.trim().parse();
        let url = url.map_err(|error| wrong(format!("the text after = is not a URL: {error}")))?;
        Ok((network, url))
    };
    values.iter().map(node).collect()
}

fn chain(entry: &NetworkEntry<'_, EvmEntry>, findings: &mut Findings) -> Option<Evm> {
    let own = entry.own;
    let urls = entry.rpc_urls(findings);
    let signers = signers(entry, findings);
    let tokens = findings.take(tokens(entry));
    let mut config = EvmConfig::new(entry.network.clone(), urls?, signers?);
    config.tokens = tokens?;
    config.confirmations_required = own.confirmations;
    config.final_confirmations = own
        .final_confirmations
        .unwrap_or(config.final_confirmations);
    config.final_after = own
        .final_secs
        .map_or(config.final_after, Duration::from_secs);
    if let Some(gwei) = own.max_gas_price_gwei {
        config.gas_price_max = u128::from(gwei) * GWEI;
    }
    if let Some(gwei) = own.max_tip_gwei {
        config.tip_max = u128::from(gwei) * GWEI;
    }
    config.gas_per_payment_max = own
        .max_gas_per_payment
        .unwrap_or(config.gas_per_payment_max);
    config.max_batch = own.max_batch.unwrap_or(config.max_batch).max(1);
    config.contract_wallets = own.contract_wallets.unwrap_or(config.contract_wallets);
    if let Some(secs) = own.max_head_age_secs {
        config.head_age_max = (secs > 0).then(|| Duration::from_secs(secs));
    }
    config.approval_gas = own.approval_gas.as_ref().map(|gas| {
        let per_day = gas.per_day_wei.unwrap_or(gas.per_approval_wei);
        ApprovalGas::new(gas.per_approval_wei.units(), per_day.units())
    });
    config.balance_min = own.min_balance_wei.map(|amount| U256::from(amount.units()));
    let listed = listed(&config.tokens);
    config.two_nodes_above = findings.take(two_nodes_above(entry, &listed))?;
    let restricted = entry.restrict(&listed, canonical, &mut findings.rules);
    let without_min = findings.take(restricted)?;
    if entry.access.anyone && !without_min.is_empty() {
        findings.warn(format!(
            "{}: every caller is allowed, and there is no minimum amount for {}: a payment of one atomic unit costs as much gas \
             as any other. Set {}.min_amounts, such as {{ {} = \"0.001\" }}",
            config.network,
            without_min.join(", "),
            entry.path,
            without_min[0],
        ));
    }
    findings.take(Evm::new(config).map_err(|error| ConfigError::value(&entry.path, error)))
}

/// The settings of the scheme `exact`.
fn exact(entry: &NetworkEntry<'_, EvmEntry>) -> Result<ExactConfig, ConfigError> {
    let EvmEntry {
        account_factories,
        delegation_managers,
        ..
    } = entry.own;
    let mut config = ExactConfig::default();
    config.account_factories = addresses(entry, "account_factories", account_factories)?;
    config.delegation_managers = addresses(entry, "delegation_managers", delegation_managers)?;
    Ok(config)
}

/// The addresses of a list. `key` names it in the error.
fn addresses(
    entry: &NetworkEntry<'_, EvmEntry>,
    key: &str,
    texts: &[String],
) -> Result<BTreeSet<Address>, ConfigError> {
    let address = |(at, text): (usize, &String)| {
        let field = || format!("{}.{key}[{at}]", entry.path);
        text.parse().map_err(|_| not_an_address(field(), text))
    };
    texts.iter().enumerate().map(address).collect()
}

/// The scheme `batch-settlement` with its settings.
fn batch_settlement(
    entry: &NetworkEntry<'_, EvmEntry>,
    own: &BatchEntry,
    chain: &Evm,
) -> Result<BatchSettlement, ConfigError> {
    let path = format!("{}.batch_settlement", entry.path);
    let address = |text: &String| {
        let field = || format!("{path}.authorizer");
        text.parse().map_err(|_| not_an_address(field(), text))
    };
    let mut config = BatchConfig::default();
    config.authorizer = own.authorizer.as_ref().map(address).transpose()?;
    config.keeps_vouchers = own.keeps_vouchers;
    config.contract_payers = own.contract_payers;
    if let Some(secs) = own.claim_after_secs {
        config.claims.after_secs = secs;
    }
    if let Some(above) = own.claim_above {
        // No channel can owe more.
        config.claims.above = above.units().saturating_to();
    }
    let scheme = BatchSettlement::new(chain).with_config(config);
    scheme.map_err(|error| ConfigError::value(&path, error))
}

fn signers(entry: &NetworkEntry<'_, EvmEntry>, findings: &mut Findings) -> Option<Vec<Signer>> {
    let signer = |(at, secret): (usize, &Secret)| {
        let field = format!("{}.signers[{at}]", entry.path);
        let key = secret.read(&field)?;
        Ok(Arc::new(private_key(field, &key)?) as Signer)
    };
    findings.take_all(entry.own.signers.iter().enumerate().map(signer))
}

fn tokens(entry: &NetworkEntry<'_, EvmEntry>) -> Result<Vec<Token>, ConfigError> {
    let id = entry.network.id();
    let described = entry.own.tokens.iter().enumerate();
    let described: Result<_, _> = described
        .map(|(at, described)| token(described, &format!("{}.tokens[{at}]", entry.path)))
        .collect();
    let has_name = |token: &Token, name: &str| known::token(id, name) == Some(token);
    let is_same = |one: &Token, other: &Token| one.address == other.address;
    entry.tokens(described?, known::tokens(id).to_vec(), has_name, is_same)
}

fn token(described: &EvmToken, path: &str) -> Result<Token, ConfigError> {
    let EvmToken {
        address,
        name,
        version,
        decimals,
        symbol,
        logs_authorization_first,
        supports_eip2612,
        transfer_method,
    } = described.clone();
    let parsed = address.parse();
    let parsed = parsed.map_err(|_| not_an_address(format!("{path}.address"), &address))?;
    let token = Token::new(parsed, &name, &version, &symbol, decimals);
    Ok(token
        .with_logs_authorization_first(logs_authorization_first)
        .with_eip2612(supports_eip2612)
        .with_method(transfer_method))
}

fn listed(tokens: &[Token]) -> Vec<ListedToken> {
    let listed = tokens.iter().map(|token| {
        let address = token.address.to_checksum(None);
        ListedToken::new(address, &token.symbol, token.decimals)
    });
    listed.collect()
}

/// An address with the checksum of ERC-55.
fn canonical(text: &str) -> Option<String> {
    let address: Address = text.parse().ok()?;
    Some(address.to_checksum(None))
}

/// The amounts above which two nodes must agree.
fn two_nodes_above(
    entry: &NetworkEntry<'_, EvmEntry>,
    tokens: &[ListedToken],
) -> Result<BTreeMap<Address, U256>, ConfigError> {
    let amounts = &entry.own.two_nodes_above;
    let amounts = entry.amounts("two_nodes_above", amounts, tokens, canonical)?;
    let bound = |(token, amount): (&ListedToken, Amount)| {
        let address = token.address.parse().ok()?;
        Some((address, amount.units()))
    };
    Ok(amounts.into_iter().filter_map(bound).collect())
}

#[cfg(test)]
mod tests {
    use quittance_engine::Rules;

    use super::super::registered::tests::with_entry;
    use super::*;

    /// The amount applied only to the first token with this ticker; the other was settled from one
    /// atomic unit on.
    #[test]
    fn a_min_amount_by_ticker_is_for_every_token_with_it() {
        let other = "0x00000000000000000000000000000000000000aa";
        let rules_of = |more: &str| {
            let text = format!(
                "[[evm]]\nnetwork = \"base-sepolia\"\nrpc = []\nsigners = []\n\
                 tokens = [{{ address = {other:?}, name = \"X\", version = \"1\", decimals = 18, symbol = \"usdc\" }}]\n{more}"
            );
            with_entry(EvmFamily, &text, |entry| {
                let listed = listed(&tokens(entry).unwrap());
                let mut rules = Rules::default();
                let unset = entry.restrict(&listed, canonical, &mut rules).unwrap();
                let id = entry.network.id();
                let usdc = known::token(id, "USDC").unwrap().address;
                let min = |address: Address| {
                    let key = (id.to_owned(), address.to_checksum(None));
                    rules.amounts_min.get(&key).map(ToString::to_string)
                };
                (min(usdc), min(other.parse().unwrap()), unset)
            })
        };
        let (usdc, other_usdc, unset) = rules_of("min_amounts = { USDC = \"0.01\" }");
        assert_eq!(usdc.as_deref(), Some("10000"));
        assert_eq!(other_usdc.as_deref(), Some("10000000000000000"));
        assert!(
            unset
                .iter()
                .all(|ticker| !ticker.eq_ignore_ascii_case("usdc"))
        );
        // An address names one token, and the stricter of two amounts for a token applies.
        let both = format!("min_amounts = {{ {other:?} = \"1\", USDC = \"0.01\" }}");
        assert_eq!(rules_of(&both).1.as_deref(), Some("1000000000000000000"));
        let (usdc, _, unset) = rules_of(&format!("min_amounts = {{ {other:?} = \"1\" }}"));
        assert_eq!(usdc, None);
        assert!(unset.contains(&"USDC".to_owned()), "{unset:?}");
    }

    #[test]
    fn account_factories_and_delegation_managers_are_addresses() {
        let settings = |listed: &str| {
            let text =
                format!("[[evm]]\nnetwork = \"base-sepolia\"\nrpc = []\nsigners = []\n{listed}");
            with_entry(EvmFamily, &text, exact)
        };
        assert_eq!(settings("").unwrap(), ExactConfig::default());
        let good = "0x00000000000000000000000000000000000000aa";
        let mut factories = ExactConfig::default();
        factories.account_factories = [good.parse().unwrap()].into();
        let mut managers = ExactConfig::default();
        managers.delegation_managers = [good.parse().unwrap()].into();
        for (key, expected) in [
            ("account_factories", factories),
            ("delegation_managers", managers),
        ] {
            let listed = settings(&format!("{key} = [{good:?}]")).unwrap();
            assert_eq!(listed, expected);
            let error = settings(&format!("{key} = [{good:?}, \"0x5\"]")).unwrap_err();
            let error = error.to_string();
            assert!(error.contains(&format!(".{key}[1]")), "{error}");
        }
    }

    #[test]
    fn a_node_option_is_a_network_and_a_url() {
        let parse = |text: &str| nodes(&[text.to_owned()]);
        let parsed = parse("base=http://a.example/?key=hunter2").unwrap();
        assert_eq!(parsed[0].0.id(), "eip155:8453");
        for text in [
            "http://a.example/hunter2",
            "hunter2=http://a.example",
            "base=hunter2",
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.starts_with("--evm-rpc: "), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
