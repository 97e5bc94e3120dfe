//! The families of chains that the program knows, and all that it asks of one.
//!
//! A new family is a folder in `chains/`, a file beside this one, and a line in
//! [`Families::shipped`]. No other part of the program names a chain.

mod entry;
mod evm;
mod payer;
mod registered;
mod solana;

use std::sync::Arc;

use async_trait::async_trait;
use quittance_books::Ledger;
use quittance_core::json::Object;
use quittance_core::{
    Chain, Fault, Network, Offer, OfferError, Payer, PaymentRequest, Scheme, SchemeState,
    StateSummary, Timestamp,
};
use secrecy::SecretString;
use serde::de::DeserializeOwned;

use crate::bench::Case;

pub use entry::{Common, Findings, ListedToken, NetworkEntry};
pub use evm::{EvmEntry, EvmFamily, EvmPayerArgs, EvmToken};
pub use payer::{PayError, payer_key};
pub use registered::ConfiguredChain;
pub use solana::{
    CommitmentLevel, SmartWalletEntry, SolanaEntry, SolanaFamily, SolanaPayerArgs, SolanaToken,
};

pub(crate) use registered::AnyFamily;

/// A family of chains: how the program reads its configuration and pays on it.
///
/// The program calls `network` and then `configure` once for each table of the list
/// [`KEY`](Self::KEY). It does so in the order of the file and never concurrently. `payers` is
/// called once in a run of `quittance pay`, and `refund_payers` in one of `quittance refund`.
#[async_trait]
pub trait Family: Send + Sync + 'static {
    /// The key of the family's list in the configuration: `evm` for `[[evm]]`. Lower case.
    const KEY: &'static str;

    /// The keys of a table beside those of [`Common`]. The program reports unknown keys by itself:
    /// `#[serde(deny_unknown_fields)]` is only needed on tables inside of this one.
    type Entry: DeserializeOwned + Send + Sync;

    /// The chain that is made from a table.
    type Chain: Chain;

    /// The command line options of `quittance pay` and `quittance refund` for this family.
    type PayerArgs: clap::Args;

    /// The network with this name, which is its CAIP-2 identifier or an alias.
    ///
    /// # Errors
    /// What is wrong with the name, and what to write instead.
    fn network(&self, name: &str) -> Result<Network, String>;

    /// Makes a chain from a table of the configuration. Reads secrets, asks no node.
    ///
    /// Every problem goes to `findings`, not only the first. `None` when there was one.
    fn configure(
        &self,
        entry: &NetworkEntry<'_, Self::Entry>,
        findings: &mut Findings,
    ) -> Option<ChainWithSchemes<Self::Chain>>;

    /// The variable in which `quittance pay` looks for a key when no option names another place.
    const KEY_VARIABLE: &'static str;

    /// Other environment variables that the options of [`PayerArgs`](Self::PayerArgs) read.
    const OTHER_VARIABLES: &'static [&'static str] = &[];

    /// The payers for these options: one for each scheme, all with one key. None when there is no
    /// key for this family.
    ///
    /// # Errors
    /// When an option, the key or a payer's books cannot be used.
    fn payers(&self, args: &Self::PayerArgs) -> Result<Vec<Box<dyn Payer>>, PayError>;

    /// The payers of refunds, which are payments by the scheme `exact`.
    ///
    /// # Errors
    /// As [`payers`](Self::payers).
    fn refund_payers(&self, args: &Self::PayerArgs) -> Result<Vec<Box<dyn Payer>>, PayError> {
        self.payers(args)
    }

    /// What the payer of these options has locked up, a line for each channel. `None` for a family
    /// whose payers lock nothing up.
    ///
    /// # Errors
    /// When the books cannot be read.
    fn locked(&self, _args: &Self::PayerArgs) -> Option<Result<Vec<String>, PayError>> {
        None
    }

    /// The token of a network with this address, for refunds. `None` for an unknown token, and for
    /// a network of another family.
    fn token(&self, _network: &str, _asset: &str) -> Option<ListedToken> {
        None
    }

    /// An offer by the scheme `exact` of this amount of a [`token`](Self::token), in whole coins,
    /// to this account. A refund is the payment for it. `None` where `token` returns none.
    ///
    /// # Errors
    /// When the amount or the account cannot be used.
    fn refund_offer(
        &self,
        _network: &str,
        _asset: &str,
        _amount: &str,
        _pay_to: &str,
    ) -> Option<Result<Box<dyn Offer>, OfferError>> {
        None
    }

    /// The seller's request for an act with a payment that is held. `None` for a network of another
    /// family, and for an unknown token.
    ///
    /// # Errors
    /// When the receipt is not that of a hold, the amount or the key cannot be used, or nothing is
    /// left.
    async fn hold_request(
        &self,
        _held: &HeldPayment<'_>,
        _act: &HoldAct,
    ) -> Option<Result<PaymentRequest, PayError>> {
        None
    }

    /// What a list says of a state record that needs no configuration, such as a channel in a
    /// seller's own store. `None` for a network of another family, and for a record that cannot be
    /// read without one.
    fn summary(&self, _state: &SchemeState, _now: Timestamp) -> Option<StateSummary> {
        None
    }

    /// The option of `quittance pay` that names a node of this network. The node is asked about the
    /// outcome of an earlier payment. `None` for a network of another family.
    fn node_option(&self, _network: &str) -> Option<String> {
        None
    }

    /// The cases of `quittance bench` for this family.
    ///
    /// # Errors
    /// When the inputs cannot be made.
    async fn benchmarks(&self) -> Result<Vec<Case>, Fault> {
        Ok(Vec::new())
    }
}

/// A payment that is held, as a facilitator describes it.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct HeldPayment<'a> {
    /// The network's CAIP-2 identifier.
    pub network: &'a str,
    /// The token, in the chain's own spelling.
    pub asset: &'a str,
    /// The `extra` of a receipt of the hold.
    pub receipt: &'a Object,
    /// The `extra` of a later rejection, which has newer balances.
    pub balances: Option<&'a Object>,
    /// The key of the receiver's authorizer. Without it, the facilitator is the authorizer.
    pub key: Option<&'a SecretString>,
}

/// What a seller does with a payment that is held. Amounts are in units of the token.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum HoldAct {
    /// Asks for the balances: a request for `/verify`, which is always rejected.
    Inquire,
    /// Captures this much, or all.
    Capture {
        /// The amount; all that is held by default.
        amount: Option<String>,
        /// Whether the rest is returned to the payer.
        voids_rest: bool,
    },
    /// Returns all that is held.
    Void,
    /// Refunds this much.
    Refund {
        /// The amount.
        amount: String,
    },
}

/// A chain with the schemes that are settled on it.
#[non_exhaustive]
pub struct ChainWithSchemes<C: Chain> {
    /// The chain.
    pub chain: C,
    /// Its schemes.
    pub schemes: Vec<Arc<dyn Scheme<C>>>,
    /// The chain's records, for `quittance reconcile`. `None` if they cannot be compared.
    pub ledger: Option<Box<dyn Ledger>>,
}

impl<C: Chain> ChainWithSchemes<C> {
    /// A chain with these schemes.
    pub fn new(chain: C, schemes: Vec<Arc<dyn Scheme<C>>>) -> Self {
        Self {
            chain,
            schemes,
            ledger: None,
        }
    }

    /// With the chain's records.
    #[must_use]
    pub fn with_ledger(mut self, ledger: impl Ledger + 'static) -> Self {
        self.ledger = Some(Box::new(ledger));
        self
    }
}

/// The families of a program, in the order in which their networks are configured.
#[derive(Default)]
pub struct Families {
    all: Vec<Box<dyn AnyFamily>>,
}

impl Families {
    /// The families that the program ships with.
    pub fn shipped() -> Self {
        Self::default().with(EvmFamily).with(SolanaFamily)
    }

    /// Adds a family.
    ///
    /// # Panics
    /// When there is already a family with this key.
    #[must_use]
    pub fn with<F: Family>(mut self, family: F) -> Self {
        let is_new = self.keys().all(|key| key != F::KEY);
        assert!(is_new, "two families have the key {}", F::KEY);
        self.all.push(Box::new(family));
        self
    }

    /// The keys of the families in the configuration.
    pub fn keys(&self) -> impl Iterator<Item = &'static str> {
        self.all.iter().map(|family| family.key())
    }

    /// The environment variables that `quittance pay` and `quittance refund` read for families.
    pub(crate) fn variables(&self) -> Vec<&'static str> {
        self.all
            .iter()
            .flat_map(|family| family.variables())
            .collect()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &dyn AnyFamily> {
        self.all.iter().map(Box::as_ref)
    }

    /// The cases of `quittance bench` of all families.
    ///
    /// # Errors
    /// When the inputs of a case cannot be made.
    pub async fn benchmarks(&self) -> Result<Vec<Case>, Fault> {
        let mut cases = Vec::new();
        for family in &self.all {
            cases.extend(family.benchmarks().await?);
        }
        Ok(cases)
    }
}
