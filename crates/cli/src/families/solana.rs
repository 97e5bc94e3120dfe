//! Solana clusters: `[[solana]]` in the configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use quittance_core::{Amount, Network, Offer, OfferError, Payer};
use quittance_solana::{
    Commitment, Exact, ExactConfig, ExactOffer, ExactPayer, Extension, Keypair, Pubkey, Signer,
    SmartWallets, Solana, SolanaConfig, Token, TokenProgram, known,
};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use url::Url;

use super::entry::not_an_address;
use super::{ChainWithSchemes, Family, Findings, ListedToken, NetworkEntry, PayError, payer_key};
use crate::config::{ConfigError, Secret};

/// The family of Solana clusters.
#[derive(Debug, Clone, Copy)]
pub struct SolanaFamily;

/// The keys of a `[[solana]]` table beside those of [`Common`](super::Common).
#[derive(Debug, Deserialize)]
#[non_exhaustive]
pub struct SolanaEntry {
    /// The keypairs that sign as fee payers and pay for transactions.
    pub fee_payers: Vec<Secret>,
    /// The commitment level at which a payment counts as settled.
    #[serde(default)]
    pub commitment: CommitmentLevel,
    /// The beginning of the nodes' genesis hash, for clusters of your own. By default the reference
    /// of the network's CAIP-2 identifier.
    pub genesis: Option<String>,
    /// The most compute units that a payment may request.
    pub max_compute_units: Option<u32>,
    /// The highest price for a compute unit, in millionths of a lamport.
    pub max_compute_unit_price: Option<u64>,
    /// The most that a payment may cost a fee payer, in lamports, with all signatures.
    pub max_fee_lamports: Option<u64>,
    /// Whether assertions of the Lighthouse program may be about a fee payer, as some wallets add
    /// them.
    #[serde(default)]
    pub allow_lighthouse_on_fee_payer: bool,
    /// The largest amount that is settled on the evidence of a single node, by mint or ticker, in
    /// decimal notation: `{ USDC = "100" }`. For a larger amount two nodes must agree.
    #[serde(default)]
    pub two_nodes_above: BTreeMap<String, String>,
    /// The smart wallets that may pay. Without this table none may; an empty table allows those of
    /// the specification.
    pub smart_wallets: Option<SmartWalletEntry>,
    /// The age of the newest block, in seconds, above which a node counts as stuck.
    pub max_head_age_secs: Option<u64>,
    /// The balance below which a fee payer is not used, in lamports.
    pub min_balance_lamports: Option<u64>,
    /// Tokens that do not ship with the library, or that replace those that do.
    #[serde(default)]
    pub tokens: Vec<SolanaToken>,
}

/// Smart wallets that may pay on a Solana cluster. A missing key has the specification's value.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct SmartWalletEntry {
    /// The programs that a payment of a smart wallet may call, by address.
    pub programs: Option<Vec<String>>,
    /// The most compute units that such a payment may request.
    pub max_compute_units: Option<u32>,
    /// The highest price for a compute unit, in millionths of a lamport.
    pub max_compute_unit_price: Option<u64>,
}

/// A commitment level at which a payment can count as settled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum CommitmentLevel {
    /// A supermajority has voted for the block.
    #[default]
    Confirmed,
    /// The block cannot be undone.
    Finalized,
}

impl From<CommitmentLevel> for Commitment {
    fn from(level: CommitmentLevel) -> Self {
        match level {
            CommitmentLevel::Confirmed => Self::Confirmed,
            CommitmentLevel::Finalized => Self::Finalized,
        }
    }
}

/// A token on a Solana cluster that does not ship with the library, or is handled differently.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct SolanaToken {
    /// The address of the mint.
    pub mint: String,
    /// The ticker.
    pub symbol: String,
    /// The number of decimal places.
    pub decimals: u8,
    /// The token program that owns the mint.
    pub program: TokenProgram,
    /// The extensions of the mint that are accepted although they can break a payment.
    #[serde(default)]
    pub allow: BTreeSet<Extension>,
}

/// Clusters with the public node of their operators. Such a node is asked for a blockhash and
/// its genesis hash, at most once for each payment, and for nothing else.
const PUBLIC_NODES: [(&str, &str); 3] = [
    ("solana", "https://api.mainnet-beta.solana.com"),
    ("solana-devnet", "https://api.devnet.solana.com"),
    ("solana-testnet", "https://api.testnet.solana.com"),
];

/// The options of `quittance pay` for Solana.
#[derive(clap::Args)]
#[command(next_help_heading = "Solana")]
pub struct SolanaPayerArgs {
    /// The environment variable that holds the payer's keypair; by default
    /// QUITTANCE_SOLANA_PAYER_KEY.
    #[arg(long, value_name = "NAME", conflicts_with = "solana_key_file")]
    solana_key_env: Option<String>,
    /// The file that holds the payer's keypair, such as ~/.config/solana/id.json.
    #[arg(long, value_name = "FILE")]
    solana_key_file: Option<PathBuf>,
    /// The node that is asked for a blockhash; by default the public node of the cluster.
    // Parsed later: the parser of the command line would print a value that it cannot read, and a
    // URL may contain a key.
    #[arg(long, value_name = "URL", env = RPC_VARIABLE, hide_env_values = true)]
    solana_rpc: Option<String>,
}

/// The variable with the node of `--solana-rpc`.
const RPC_VARIABLE: &str = "QUITTANCE_SOLANA_RPC";

impl Family for SolanaFamily {
    const KEY: &'static str = "solana";
    type Entry = SolanaEntry;
    type Chain = Solana;
    type PayerArgs = SolanaPayerArgs;

    fn network(&self, name: &str) -> Result<Network, String> {
        known::network(name).ok_or_else(|| {
            format!(
                "{name:?} is not a Solana cluster: write solana, solana-devnet, solana-testnet, or a CAIP-2 identifier"
            )
        })
    }

    fn configure(
        &self,
        entry: &NetworkEntry<'_, SolanaEntry>,
        findings: &mut Findings,
    ) -> Option<ChainWithSchemes<Solana>> {
        let exact = exact(entry, findings);
        let chain = chain(entry, findings);
        let (chain, config) = (chain?, exact?);
        let listed = listed(&chain.config().tokens);
        restrict(entry, &listed, &config, findings)?;
        let exact = Exact::new(&chain).with_config(config);
        let exact = exact.map_err(|error| ConfigError::value(&entry.path, error));
        let exact = Arc::new(findings.take(exact)?);
        let ledger = chain.ledger();
        let ledger = ledger.map_err(|error| ConfigError::value(&entry.path, error));
        let ledger = findings.take(ledger)?;
        Some(ChainWithSchemes::new(chain, vec![exact]).with_ledger(ledger))
    }

    const KEY_VARIABLE: &'static str = "QUITTANCE_SOLANA_PAYER_KEY";
    const OTHER_VARIABLES: &'static [&'static str] = &[RPC_VARIABLE];

    fn payers(&self, args: &SolanaPayerArgs) -> Result<Vec<Box<dyn Payer>>, PayError> {
        let (file, variable) = (args.solana_key_file.as_ref(), args.solana_key_env.as_ref());
        let node = args.solana_rpc.as_deref().map(node).transpose()?;
        let key = payer_key(file, variable, Self::KEY_VARIABLE, KEYPAIR)?;
        match key {
            Some(key) => Ok(vec![Box::new(payer(&key, node.as_ref())?)]),
            None => Ok(Vec::new()),
        }
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
}

/// The name of the payer's key in errors.
const KEYPAIR: &str = "the payer's keypair on Solana";

fn node(text: &str) -> Result<Url, PayError> {
    let url = text.trim().parse();
    url.map_err(|error| PayError::option("--solana-rpc", format!("not a URL: {error}")))
}

/// A payer that has `node` for every cluster. It asks the node only about the cluster whose genesis
/// hash the node reports.
fn payer(key: &SecretString, node: Option<&Url>) -> Result<ExactPayer, PayError> {
    let keypair = keypair(key.expose_secret());
    let keypair = keypair.ok_or_else(|| ConfigError::value(KEYPAIR, NOT_A_KEYPAIR))?;
    let mut payer = ExactPayer::new(keypair);
    for (name, public) in PUBLIC_NODES {
        let network = known::network(name).expect("a constant names a known cluster");
        let public = || public.parse().expect("a constant is a URL");
        let url = node.cloned().unwrap_or_else(public);
        payer = payer.with_rpc(&network, &[url]).map_err(PayError::payer)?;
    }
    Ok(payer)
}

/// The error for a text that is not a keypair. It contains no part of the text, which may be a key
/// with a letter missing.
const NOT_A_KEYPAIR: &str =
    "not a keypair: 64 bytes in base58, or the JSON array that solana-keygen writes";

/// A keypair of 64 bytes, in base58 as wallets export it, or as the JSON array of `solana-keygen`.
/// `None` for anything else, and when the public half does not belong to the private one.
fn keypair(text: &str) -> Option<Keypair> {
    if text.trim_start().starts_with('[') {
        let bytes: Vec<u8> = serde_json::from_str(text).ok()?;
        return Keypair::try_from(bytes.as_slice()).ok();
    }
    Keypair::try_from_base58_string(text).ok()
}

fn chain(entry: &NetworkEntry<'_, SolanaEntry>, findings: &mut Findings) -> Option<Solana> {
    let own = entry.own;
    let urls = entry.rpc_urls(findings);
    let fee_payers = fee_payers(entry, findings);
    let tokens = findings.take(tokens(entry));
    let head_age_max = findings.take(head_age_max(entry));
    let mut config = SolanaConfig::new(entry.network.clone(), urls?, fee_payers?);
    config.tokens = tokens?;
    config.commitment = own.commitment.into();
    config.head_age_max = head_age_max?.unwrap_or(config.head_age_max);
    if let Some(genesis) = &own.genesis {
        config.genesis.clone_from(genesis);
    }
    config.balance_min = own.min_balance_lamports.unwrap_or(config.balance_min);
    let listed = listed(&config.tokens);
    config.two_nodes_above = findings.take(two_nodes_above(entry, &listed))?;
    findings.take(Solana::new(config).map_err(|error| ConfigError::value(&entry.path, error)))
}

/// The settings of the scheme `exact`.
fn exact(entry: &NetworkEntry<'_, SolanaEntry>, findings: &mut Findings) -> Option<ExactConfig> {
    let own = entry.own;
    let wallets = own.smart_wallets.as_ref();
    let wallets = wallets.map(|wallets| smart_wallets(wallets, &entry.path));
    let mut config = ExactConfig::default();
    config.smart_wallets = findings.take(wallets.transpose())?;
    config.allow_lighthouse_on_fee_payer = own.allow_lighthouse_on_fee_payer;
    config.compute_units_max = own.max_compute_units.unwrap_or(config.compute_units_max);
    config.compute_unit_price_max = own
        .max_compute_unit_price
        .unwrap_or(config.compute_unit_price_max);
    config.fee_max = own.max_fee_lamports.unwrap_or(config.fee_max);
    Some(config)
}

/// Adds the entry's rules, and warns of tokens without a minimum amount.
fn restrict(
    entry: &NetworkEntry<'_, SolanaEntry>,
    listed: &[ListedToken],
    config: &ExactConfig,
    findings: &mut Findings,
) -> Option<()> {
    let restricted = entry.restrict(listed, canonical, &mut findings.rules);
    let without_min = findings.take(restricted)?;
    if !without_min.is_empty() {
        let path = &entry.path;
        findings.warn(format!(
            "{}: there is no minimum amount for {}: a payment of one atomic unit may cost up to {} lamports in fees. Set \
             {path}.min_amounts, such as {{ {} = \"0.01\" }}, or lower {path}.max_fee_lamports",
            entry.network,
            without_min.join(", "),
            config.fee_highest(),
            without_min[0],
        ));
    }
    Some(())
}

fn smart_wallets(entry: &SmartWalletEntry, path: &str) -> Result<SmartWallets, ConfigError> {
    let mut wallets = SmartWallets::default();
    if let Some(programs) = &entry.programs {
        let address = |(at, text): (usize, &String)| {
            let field = || format!("{path}.smart_wallets.programs[{at}]");
            text.parse().map_err(|_| not_an_address(field(), text))
        };
        let programs = programs.iter().enumerate().map(address);
        wallets.programs = programs.collect::<Result<_, _>>()?;
    }
    wallets.compute_units_max = entry.max_compute_units.unwrap_or(wallets.compute_units_max);
    wallets.compute_unit_price_max = entry
        .max_compute_unit_price
        .unwrap_or(wallets.compute_unit_price_max);
    Ok(wallets)
}

fn fee_payers(
    entry: &NetworkEntry<'_, SolanaEntry>,
    findings: &mut Findings,
) -> Option<Vec<Signer>> {
    let fee_payer = |(at, secret): (usize, &Secret)| {
        let field = format!("{}.fee_payers[{at}]", entry.path);
        let key = secret.read(&field)?;
        let keypair = keypair(key.expose_secret());
        let keypair = keypair.ok_or_else(|| ConfigError::value(field, NOT_A_KEYPAIR))?;
        Ok(Arc::new(keypair) as Signer)
    };
    findings.take_all(entry.own.fee_payers.iter().enumerate().map(fee_payer))
}

/// Unlike on an EVM chain, 0 is an error: a cluster makes a block every half second, so its head is
/// always recent.
fn head_age_max(entry: &NetworkEntry<'_, SolanaEntry>) -> Result<Option<Duration>, ConfigError> {
    match entry.own.max_head_age_secs {
        Some(0) => Err(ConfigError::value(
            entry.field("max_head_age_secs"),
            "must be at least 1",
        )),
        secs => Ok(secs.map(Duration::from_secs)),
    }
}

/// Without `assets`, only tokens of SPL Token are settled: the mints of Token-2022 can have
/// extensions that break payments, so they must be listed explicitly.
fn tokens(entry: &NetworkEntry<'_, SolanaEntry>) -> Result<Vec<Token>, ConfigError> {
    let described = entry.own.tokens.iter().enumerate();
    let described: Result<_, _> = described
        .map(|(at, described)| token(described, &format!("{}.tokens[{at}]", entry.path)))
        .collect();
    let has_name = |token: &Token, name: &str| {
        token.symbol.eq_ignore_ascii_case(name) || name.parse() == Ok(token.mint)
    };
    let is_same = |one: &Token, other: &Token| one.mint == other.mint;
    let lists_assets = entry.common.assets.is_some();
    let mut shipped: Vec<Token> = known::tokens(entry.network.id()).to_vec();
    shipped.retain(|token| lists_assets || token.program == TokenProgram::SplToken);
    entry.tokens(described?, shipped, has_name, is_same)
}

fn token(described: &SolanaToken, path: &str) -> Result<Token, ConfigError> {
    let SolanaToken {
        mint,
        symbol,
        decimals,
        program,
        allow,
    } = described;
    let parsed = mint.parse();
    let mint = parsed.map_err(|_| not_an_address(format!("{path}.mint"), mint))?;
    let mut token = Token::new(mint, symbol, *decimals, *program);
    token.allowed.clone_from(allow);
    Ok(token)
}

fn listed(tokens: &[Token]) -> Vec<ListedToken> {
    let listed = tokens
        .iter()
        .map(|token| ListedToken::new(token.mint.to_string(), &token.symbol, token.decimals));
    listed.collect()
}

/// An address in base58.
fn canonical(text: &str) -> Option<String> {
    Some(text.parse::<Pubkey>().ok()?.to_string())
}

/// The amounts above which two nodes must agree.
fn two_nodes_above(
    entry: &NetworkEntry<'_, SolanaEntry>,
    tokens: &[ListedToken],
) -> Result<BTreeMap<Pubkey, u64>, ConfigError> {
    let amounts = &entry.own.two_nodes_above;
    let amounts = entry.amounts("two_nodes_above", amounts, tokens, canonical)?;
    let bound = |(token, amount): (&ListedToken, Amount)| {
        // The token programs count in u64, so a larger bound has the same effect.
        Some((token.address.parse().ok()?, amount.units().saturating_to()))
    };
    Ok(amounts.into_iter().filter_map(bound).collect())
}

#[cfg(test)]
mod tests {
    use quittance_engine::Rules;

    use super::super::registered::tests::with_entry;
    use super::*;

    #[test]
    fn a_keypair_is_read_in_base58_and_as_a_json_array() {
        let key = Keypair::new_from_array([7; 32]);
        let base58 = key.to_base58_string();
        let json = serde_json::to_string(key.to_bytes().as_slice()).unwrap();
        for text in [&base58, &json] {
            assert_eq!(keypair(text).as_ref(), Some(&key));
        }
        let mut torn = key.to_bytes();
        torn[63] ^= 1;
        let torn = serde_json::to_string(torn.as_slice()).unwrap();
        for text in ["", "[]", "[1,2]", "0xac09", &base58[..80], torn.as_str()] {
            assert!(keypair(text).is_none(), "{text:?}");
        }
    }

    fn mainnet<T>(more: &str, test: impl FnOnce(&NetworkEntry<'_, SolanaEntry>) -> T) -> T {
        let text = format!("[[solana]]\nnetwork = \"solana\"\nrpc = []\nfee_payers = []\n{more}");
        with_entry(SolanaFamily, &text, test)
    }

    #[test]
    fn tokens_of_token_2022_are_settled_only_when_named() {
        let symbols = |more: &str| -> Vec<String> {
            let tokens = mainnet(more, |entry| tokens(entry).unwrap());
            tokens.into_iter().map(|token| token.symbol).collect()
        };
        assert_eq!(symbols(""), ["USDC", "USDT"]);
        assert_eq!(symbols("assets = [\"pyusd\"]"), ["PYUSD"]);
        let described = "tokens = [{ mint = \"2b1kV6DkPAnxd5ixfnxCpjxmKwqjjaYmCZfHsFu24GXo\", symbol = \"P\", decimals = 6, program = \"token-2022\" }]";
        assert_eq!(symbols(described), ["P", "USDC", "USDT"]);
    }

    #[test]
    fn smart_wallets_default_to_those_of_the_specification() {
        let wallets = |more: &str| {
            mainnet(more, |entry| {
                let wallets = entry.own.smart_wallets.as_ref();
                wallets.map(|wallets| smart_wallets(wallets, &entry.path))
            })
        };
        assert!(wallets("").is_none());
        let all = wallets("smart_wallets = {}").unwrap().unwrap();
        assert_eq!(all, SmartWallets::default());
        let squads = "SQDS4ep65T869zMMBKyuUq6aD6EgTu8psMjkvj52pCf";
        let one = format!("smart_wallets = {{ programs = [\"{squads}\"], max_compute_units = 7 }}");
        let one = wallets(&one).unwrap().unwrap();
        assert_eq!(one.programs, [squads.parse().unwrap()]);
        assert_eq!(one.compute_units_max, 7);
        assert_eq!(one.compute_unit_price_max, all.compute_unit_price_max);
        let wrong = wallets("smart_wallets = { programs = [\"0xaa\"] }").unwrap();
        let wrong = wrong.unwrap_err().to_string();
        assert!(
            wrong.starts_with("solana[0].smart_wallets.programs[0]"),
            "{wrong}"
        );
    }

    #[test]
    fn entry_sets_the_limits_of_the_scheme() {
        let exact = |more: &str| {
            mainnet(more, |entry| exact(entry, &mut Findings::default())).expect("valid settings")
        };
        assert_eq!(exact(""), ExactConfig::default());
        let config = exact(
            "allow_lighthouse_on_fee_payer = true\nmax_compute_units = 1\nmax_compute_unit_price = 2\n\
             max_fee_lamports = 3\nsmart_wallets = {}",
        );
        let mut expected = ExactConfig::default();
        expected.allow_lighthouse_on_fee_payer = true;
        expected.compute_units_max = 1;
        expected.compute_unit_price_max = 2;
        expected.fee_max = 3;
        expected.smart_wallets = Some(SmartWallets::default());
        assert_eq!(config, expected);
    }

    #[test]
    fn restrictions_have_canonical_addresses() {
        let restrict = |more: &str| {
            mainnet(more, |entry| {
                let listed = listed(&tokens(entry).unwrap());
                let mut rules = Rules::default();
                let restricted = entry.restrict(&listed, canonical, &mut rules);
                restricted.map(|_| rules)
            })
        };
        let network = known::network("solana").unwrap();
        let recipient = "2wKupLR9q6wXYppw8Gr2NvWxKBUqm4PPJKkQfoxHDBg4";
        let more = format!("recipients = [\"{recipient}\"]\nmin_amounts = {{ usdc = \"0.001\" }}");
        let rules = restrict(&more).unwrap();
        assert!(rules.recipients[network.id()].contains(recipient));
        let usdc = known::token(network.id(), "USDC").unwrap().mint.to_string();
        let key = (network.id().to_owned(), usdc);
        assert_eq!(rules.amounts_min[&key].to_string(), "1000");
        for (more, field) in [
            ("recipients = [\"0xaa\"]", "solana[0].recipients"),
            (
                "min_amounts = { DOGE = \"1\" }",
                "solana[0].min_amounts.DOGE",
            ),
            (
                "min_amounts = { USDC = \"0.0000001\" }",
                "solana[0].min_amounts.USDC",
            ),
        ] {
            let error = restrict(more).unwrap_err();
            assert!(error.to_string().starts_with(field), "{error}");
        }
    }

    #[test]
    fn an_unreadable_node_is_not_repeated() {
        let error = node("hunter2").unwrap_err().to_string();
        assert!(error.starts_with("--solana-rpc: "), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}
