//! Solana: nodes, fee payers and blockhashes.
//!
//! The payer makes and signs the transaction of a payment. This program adds the fee payer's
//! signature and submits the transaction until it is included or its blockhash has expired. So
//! transactions have no sequence numbers, are never batched, and cannot be replaced or cancelled. A
//! transaction is included once, or it expires within two minutes.

pub(crate) mod blockhash;
mod config;
mod health;
mod ledger;
pub(crate) mod meta;
pub(crate) mod read;
pub(crate) mod results;
pub(crate) mod rpc;
mod second;
pub(crate) mod sender;
mod status;
mod submission;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use quittance_core::{
    Chain, Fault, FaultKind, Finality, Found, Health, LaneId, Network, Status, Submission,
    Timestamp, Transaction, TransactionId, Watched,
};
use solana_pubkey::Pubkey;
use solana_signer::Signer as _;
use url::Url;

pub use self::blockhash::Blockhashes;
pub use self::config::{Commitment, Signer, SolanaConfig, SolanaConfigError};
use self::health::HealthCheck;
pub use self::ledger::SolanaLedger;
pub use self::read::{Answer, Query};
use self::rpc::{Heads, Rpc};
use self::sender::fault;
use self::status::{FINALIZED_CONFIRMATIONS, LastValidHeights};
use crate::action::PartiallySigned;
use crate::evidence::Evidence;
use crate::fee_payers::{FeePayerRotation, FeePayers};
use crate::known;

/// The most transactions of one fee payer in flight at once. Nodes have no limit of their own. One
/// request returns the status of this many signatures. A transaction is confirmed within one or two
/// seconds, so this allows more than a hundred payments a second.
const IN_FLIGHT_MAX: usize = status::SIGNATURES_PER_CALL;

/// A Solana cluster.
#[derive(Debug)]
pub struct Solana {
    config: SolanaConfig,
    lanes: Vec<LaneId>,
    rotation: Arc<FeePayerRotation>,
    rpc: Rpc,
    heads: Heads,
    last_valid_heights: LastValidHeights,
}

impl Solana {
    /// The cluster of this configuration. It asks no node yet: a node that is down now may be up
    /// later, and [`health`](Chain::health) reports it.
    ///
    /// # Errors
    /// When the configuration contradicts itself.
    pub fn new(config: SolanaConfig) -> Result<Self, SolanaConfigError> {
        if config.network.namespace() != known::NAMESPACE {
            return Err(SolanaConfigError::Network(config.network.clone()));
        }
        if config.genesis.is_empty() {
            return Err(SolanaConfigError::NoGenesis);
        }
        if config.rpc_urls.is_empty() {
            return Err(SolanaConfigError::NoRpc);
        }
        // A node that is listed twice would only agree with itself.
        let nodes: BTreeSet<&Url> = config.rpc_urls.iter().collect();
        if !config.two_nodes_above.is_empty() && nodes.len() < 2 {
            return Err(SolanaConfigError::OneNode);
        }
        let fee_payers: Vec<Pubkey> = config
            .fee_payers
            .iter()
            .map(|payer| payer.pubkey())
            .collect();
        if fee_payers.is_empty() {
            return Err(SolanaConfigError::NoFeePayer);
        }
        let twice = fee_payers
            .iter()
            .enumerate()
            .find(|(at, key)| fee_payers.iter().take(*at).any(|earlier| earlier == *key));
        if let Some((_, twice)) = twice {
            return Err(SolanaConfigError::FeePayerTwice(*twice));
        }
        Ok(Self {
            lanes: fee_payers
                .iter()
                .map(|key| LaneId::new(&key.to_string()))
                .collect(),
            rotation: Arc::new(FeePayerRotation::new(FeePayers::new(fee_payers))),
            rpc: Rpc::new(&config.genesis, &config.rpc_urls, config.rpc_timeout)?,
            heads: Heads::default(),
            last_valid_heights: LastValidHeights::default(),
            config,
        })
    }

    /// The configuration.
    pub fn config(&self) -> &SolanaConfig {
        &self.config
    }

    /// The cluster's records, for a comparison with the books.
    ///
    /// # Errors
    /// When this machine cannot make an HTTP client.
    pub fn ledger(&self) -> Result<SolanaLedger, SolanaConfigError> {
        Ok(SolanaLedger::new(&self.config, &self.lanes)?)
    }

    /// The fee payers, for schemes to name in turn.
    pub fn rotation(&self) -> &Arc<FeePayerRotation> {
        &self.rotation
    }

    fn fee_payer(&self, lane: &LaneId) -> Result<&Signer, Fault> {
        let at = self.lanes.iter().position(|known| known == lane);
        at.and_then(|at| self.config.fee_payers.get(at))
            .ok_or_else(|| {
                Fault::new(
                    FaultKind::Misconfigured,
                    format_args!("no fee payer is configured with the address {lane}"),
                )
            })
    }
}

#[async_trait]
impl Chain for Solana {
    type Read = Query;
    type Answer = Answer;
    type Action = PartiallySigned;
    type Evidence = Evidence;
    /// A payment is one transaction with one id, so its status says everything and there is nothing
    /// to search for.
    type Search = Infallible;

    fn network(&self) -> &Network {
        &self.config.network
    }

    fn lanes(&self) -> &[LaneId] {
        &self.lanes
    }

    /// 1 for `confirmed`, 32 for `finalized`: nodes report nothing between the two.
    fn confirmations_required(&self) -> u64 {
        match self.config.commitment {
            Commitment::Confirmed => 1,
            Commitment::Finalized => FINALIZED_CONFIRMATIONS,
        }
    }

    /// A finalized block cannot be undone, however recent it is.
    fn finality(&self) -> Finality {
        Finality {
            confirmations: FINALIZED_CONFIRMATIONS,
            age: Duration::ZERO,
        }
    }

    fn in_flight_max(&self) -> usize {
        IN_FLIGHT_MAX
    }

    async fn read(&self, reads: &[Query]) -> Vec<Result<Answer, Fault>> {
        read::ask(self.rpc.nodes(), reads).await
    }

    fn can_batch(&self, _: &[&PartiallySigned], _: &PartiallySigned) -> bool {
        false
    }

    async fn next_sequence(&self, _: &LaneId) -> Result<Option<u64>, Fault> {
        // There are no sequence numbers. The request tells the lane before it signs whether a node
        // answers.
        let height = self.rpc.client().get_block_height().await;
        height.map(|_| None).map_err(fault)
    }

    async fn prepare(
        &self,
        lane: &LaneId,
        sequence: u64,
        actions: &[&PartiallySigned],
    ) -> Result<Transaction, Fault> {
        let [action] = actions else {
            let what = "a Solana transaction settles exactly one payment";
            return Err(Fault::new(FaultKind::Internal, what));
        };
        let signer = self.fee_payer(lane)?;
        let (id, bytes) = action.transaction.sign(
            signer.as_ref(),
            self.rotation.fee_payers(),
            &action.loaded,
            action.allow_lighthouse_on_fee_payer,
        )?;
        Ok(Transaction {
            id: TransactionId::new(&id.to_string()),
            lane: lane.clone(),
            sequence,
            bytes: bytes.into(),
        })
    }

    async fn submit(&self, transaction: &Transaction) -> Submission {
        self.rpc.submit(&transaction.bytes).await
    }

    async fn status(&self, watched: &[Watched]) -> Vec<Result<Status<Evidence>, Fault>> {
        let found = status::fetch(
            self.rpc.nodes(),
            &self.last_valid_heights,
            self.confirmations_required(),
            watched,
        )
        .await;
        join_all(found.into_iter().map(|found| self.confirmed(found))).await
    }

    async fn find(&self, search: &Infallible) -> Result<Option<Found<Evidence>>, Fault> {
        match *search {}
    }

    async fn replace(&self, _: &Transaction) -> Result<Option<Transaction>, Fault> {
        Ok(None)
    }

    async fn noop(
        &self,
        _: &LaneId,
        _: u64,
        _: Option<&Transaction>,
    ) -> Result<Option<Transaction>, Fault> {
        Ok(None)
    }

    async fn health(&self, _: Timestamp) -> Health {
        let check = HealthCheck {
            config: &self.config,
            lanes: &self.lanes,
            rotation: &self.rotation,
            rpc: self.rpc.nodes(),
            heads: &self.heads,
        };
        check.run().await
    }
}

impl Solana {
    /// The status, confirmed by a second node if the amount requires it.
    async fn confirmed(
        &self,
        found: Result<Status<Evidence>, Fault>,
    ) -> Result<Status<Evidence>, Fault> {
        let found = found?;
        if let Status::Included {
            id,
            confirmations,
            evidence,
        } = &found
            && *confirmations >= self.confirmations_required()
            && second::is_needed(&self.config.two_nodes_above, evidence)
        {
            second::confirm(self.rpc.nodes(), id, evidence).await?;
        }
        Ok(found)
    }
}
