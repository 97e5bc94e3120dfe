//! An EVM chain: its nodes, signers, nonces and fees.

mod batch;
mod blocks;
mod clock;
mod config;
mod fees;
mod health;
mod ledger;
mod named;
mod probe;
mod read;
pub(crate) mod results;
pub(crate) mod rpc;
mod second;
pub(crate) mod signers;
mod status;
mod submission;
mod transaction;
pub(crate) mod transport;
pub(crate) mod used;
mod used_in;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use alloy::eips::BlockId;
use alloy::primitives::{Address, Bytes, TxKind, U64, U256};
use alloy::providers::Provider;
use alloy::rpc::types::TransactionRequest;
use alloy::serde::WithOtherFields;
use async_trait::async_trait;
use futures_util::future::join_all;
use quittance_core::{
    Chain, Fault, FaultKind, Finality, Found, Health, LaneId, Network, Status, Submission,
    Timestamp, Transaction, Watched,
};
use quittance_nodes::{Request, decode_reply, unavailable};
use serde_json::json;

use self::blocks::BlockTimes;
pub(crate) use self::blocks::{INCLUSION_MIN_SECS, inclusion_secs};
pub use self::config::{ApprovalGas, EvmConfig, EvmConfigError, GasLimit, Signer};
use self::fees::FeeOracle;
use self::health::HealthCheck;
pub use self::ledger::EvmLedger;
pub use self::probe::{Condition, Probe, ProbeResult, Step, StepOutcome};
use self::read::Reader;
use self::rpc::Rpc;
use self::signers::Signers;
use self::status::Lookup;
pub(crate) use self::transaction::intrinsic_gas;
use self::transaction::{Body, Unsigned};
use self::transport::fault;
pub use self::used::AuthorizationSearch;
use crate::call::Call;
use crate::evidence::Evidence;

/// How many sequence numbers are looked up in one round trip. With a replacement each, and the
/// lanes' nonces, they need fewer than the 100 requests that the strictest gateways allow in a
/// batch.
const SEQUENCES_PER_BATCH: usize = 40;

/// How many transactions of one signer may be in flight. Nodes keep at least 16 of one account in
/// order (geth: usually 64), and drop some beyond that.
const IN_FLIGHT_MAX: usize = 16;

/// How many calls of a function with a list are joined. The reference implementation of channels
/// claims as many in one transaction: 48 KiB, and some 5 million gas.
const JOINED_MAX: usize = 100;

/// The most gas of joined calls. Since Osaka, chains accept no transaction above 16,777,216
/// (EIP-7825).
const JOINED_GAS_MAX: u64 = 10_000_000;

/// The most bytes of joined calls. Nodes accept no transaction above 128 KiB (geth).
const JOINED_BYTES_MAX: usize = 100 * 1024;

/// The gas of a transfer of the chain's own coin.
const TRANSFER_GAS: u64 = 21_000;

/// An EVM chain.
#[derive(Debug)]
pub struct Evm {
    config: EvmConfig,
    chain_id: u64,
    rpc: Rpc,
    signers: Arc<Signers>,
    fees: FeeOracle,
    blocks: BlockTimes,
    /// Whether the nodes run a batch, by the last health check. Until the first one every payment
    /// is sent in its own transaction.
    runs_batches: AtomicBool,
    /// Why this machine's clock cannot be trusted, by the last health check.
    clock_fault: Mutex<Option<Fault>>,
}

impl Evm {
    /// The chain with this configuration. Nothing is sent: a node that is down now may be up later,
    /// and [`health`](Chain::health) reports it.
    ///
    /// # Errors
    /// If the configuration is incomplete or contradictory.
    pub fn new(config: EvmConfig) -> Result<Self, EvmConfigError> {
        let chain_id = config.check()?;
        Ok(Self {
            chain_id,
            rpc: Rpc::new(chain_id, &config.rpc_urls, config.rpc_timeout)?,
            signers: Arc::new(Signers::new(&config.signers)?),
            fees: FeeOracle::new(config.gas_price_max, config.tip_max),
            blocks: BlockTimes::default(),
            runs_batches: AtomicBool::new(false),
            clock_fault: Mutex::new(None),
            config,
        })
    }

    /// The EIP-155 chain id.
    pub fn chain_id(&self) -> u64 {
        self.chain_id
    }

    /// The configuration.
    pub fn config(&self) -> &EvmConfig {
        &self.config
    }

    /// The chain's records, for a comparison with the books. It shares the nodes of this chain, and
    /// nothing else.
    pub fn ledger(&self) -> EvmLedger {
        EvmLedger::new(self)
    }

    /// The signers, which a scheme may name in its `extra`.
    pub(crate) fn signers(&self) -> Arc<Signers> {
        Arc::clone(&self.signers)
    }

    /// A status, after as many nodes have confirmed it as the amount requires.
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

    fn last_clock_fault(&self) -> MutexGuard<'_, Option<Fault>> {
        // It is replaced as a whole.
        self.clock_fault
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Signs `unsigned`, which has the fees of `over`, with fees that replace `over`.
    async fn sign_replacement(
        &self,
        unsigned: Unsigned,
        over: &Transaction,
    ) -> Result<Option<Transaction>, Fault> {
        if self.rpc.nodes().all_stale() {
            // No node shows new blocks, so the transaction may be included already. A higher fee
            // does not help.
            return Ok(None);
        }
        let signer = self.signers.signer(&over.lane)?;
        let now = self.fees.now(&self.rpc).await?;
        let Some(fees) = self.fees.raise(unsigned.fees, now) else {
            return Ok(None);
        };
        let replacement = Unsigned { fees, ..unsigned };
        replacement
            .sign(&over.lane, signer.as_ref())
            .await
            .map(Some)
    }

    async fn estimate(&self, sender: Address, body: &Body) -> Result<u64, Fault> {
        let call = TransactionRequest {
            from: Some(sender),
            value: Some(body.value),
            ..rpc::call(body.to.to().copied(), body.data.clone())
        };
        let gas = self.rpc.provider().estimate_gas(WithOtherFields::new(call));
        let gas = gas.block(BlockId::latest()).await.map_err(fault)?;
        // The parent chain's price of data may rise until the transaction is included.
        Ok(gas / 4 * 5)
    }
}

#[async_trait]
impl Chain for Evm {
    type Read = Probe;
    type Answer = ProbeResult;
    type Action = Call;
    type Evidence = Evidence;
    type Search = AuthorizationSearch;

    fn network(&self) -> &Network {
        &self.config.network
    }

    fn lanes(&self) -> &[LaneId] {
        self.signers.lanes()
    }

    fn confirmations_required(&self) -> u64 {
        self.config.confirmations_required.max(1)
    }

    fn finality(&self) -> Finality {
        Finality {
            confirmations: self
                .config
                .final_confirmations
                .max(self.confirmations_required()),
            age: self.config.final_after,
        }
    }

    fn in_flight_max(&self) -> usize {
        IN_FLIGHT_MAX
    }

    fn inclusion_time(&self) -> Duration {
        Duration::from_secs(inclusion_secs(self.blocks.secs()))
    }

    async fn read(&self, probes: &[Probe]) -> Vec<Result<ProbeResult, Fault>> {
        let reader = Reader {
            rpc: &self.rpc,
            chain_id: self.chain_id,
            signers: &self.signers,
            fees: &self.fees,
            blocks: &self.blocks,
        };
        reader.read(probes).await
    }

    /// The transaction of another account.
    fn signed(&self, action: &Call) -> Option<Transaction> {
        action.signed.clone()
    }

    fn can_batch(&self, batch: &[&Call], next: &Call) -> bool {
        if next.item.is_some() {
            return self.config.max_batch > 1 && can_join(batch, next);
        }
        self.runs_batches.load(Ordering::Relaxed)
            && self.config.gas_limit == GasLimit::Measured
            && batch.len() < self.config.max_batch
            && next.batchable
            && batch
                .iter()
                .all(|call| call.batchable && call.effect_key != next.effect_key)
            && batch::fits(batch.iter().copied().chain([next]))
    }

    async fn next_sequence(&self, lane: &LaneId) -> Result<Option<u64>, Fault> {
        let request = Request::new("eth_getTransactionCount", json!([lane.address(), "latest"]));
        // The lowest count is used. One that is too high would be kept by the journal and leave a
        // nonce gap, which costs gas to fill. One that is too low costs another request.
        let mut lowest = Err(unavailable("no node reported the signer's next nonce"));
        for reply in self.rpc.nodes().ask_every_current(&request).await {
            lowest = match (lowest, decode_reply::<U64>(reply)) {
                (Ok(lowest), Ok(count)) => Ok(count.min(lowest)),
                (Err(_), count) => count,
                (lowest, Err(_)) => lowest,
            };
        }
        lowest.map(|count| Some(count.to()))
    }

    async fn prepare(
        &self,
        lane: &LaneId,
        sequence: u64,
        actions: &[&Call],
    ) -> Result<Transaction, Fault> {
        let signer = self.signers.signer(lane)?;
        let fees = self.fees.affordable(&self.rpc).await?;
        let body = Body::new(actions);
        let payments: u64 = actions.iter().map(|call| u64::from(call.payments)).sum();
        let allowed = u64::from(self.config.gas_per_payment_max) * payments;
        let gas = match self.config.gas_limit {
            GasLimit::Measured => body.gas(actions),
            GasLimit::Estimated => self.estimate(signer.address(), &body).await?,
        };
        if gas > allowed {
            let detail = format!(
                "the transaction would use {gas} gas, more than the allowed maximum of {allowed}"
            );
            return Err(Fault::new(FaultKind::Misconfigured, detail));
        }
        let unsigned = Unsigned {
            chain_id: self.chain_id,
            nonce: sequence,
            gas,
            fees,
            body,
        };
        unsigned.sign(lane, signer.as_ref()).await
    }

    async fn submit(&self, transaction: &Transaction) -> Submission {
        self.rpc.send(&transaction.bytes).await
    }

    async fn status(&self, watched: &[Watched]) -> Vec<Result<Status<Evidence>, Fault>> {
        let mut statuses = Vec::with_capacity(watched.len());
        let lookup = Lookup::new(&self.rpc, self.confirmations_required()).await;
        for chunk in watched.chunks(SEQUENCES_PER_BATCH) {
            let found = match &lookup {
                Ok(lookup) => lookup.sequences(chunk).await,
                Err(fault) => Err(fault.clone()),
            };
            match found {
                Ok(found) => {
                    let confirmed = found.into_iter().map(|status| self.confirmed(status));
                    statuses.extend(join_all(confirmed).await);
                }
                Err(fault) => statuses.extend(chunk.iter().map(|_| Err(fault.clone()))),
            }
        }
        statuses
    }

    async fn find(&self, used: &AuthorizationSearch) -> Result<Option<Found<Evidence>>, Fault> {
        used::find(&self.rpc, used).await
    }

    async fn replace(&self, transaction: &Transaction) -> Result<Option<Transaction>, Fault> {
        let unsigned = Unsigned::from_signed(&transaction.bytes)?;
        self.sign_replacement(unsigned, transaction).await
    }

    async fn noop(
        &self,
        lane: &LaneId,
        sequence: u64,
        over: Option<&Transaction>,
    ) -> Result<Option<Transaction>, Fault> {
        let signer = self.signers.signer(lane)?;
        // The signer sends itself an amount of zero.
        let body = Body {
            to: TxKind::Call(signer.address()),
            data: Bytes::new(),
            value: U256::ZERO,
        };
        let gas = match self.config.gas_limit {
            GasLimit::Measured => TRANSFER_GAS,
            GasLimit::Estimated => self.estimate(signer.address(), &body).await?,
        };
        let unsigned = |fees| Unsigned {
            chain_id: self.chain_id,
            nonce: sequence,
            gas,
            fees,
            body,
        };
        match over {
            Some(over) => {
                let fees = Unsigned::from_signed(&over.bytes)?.fees;
                self.sign_replacement(unsigned(fees), over).await
            }
            None => {
                let fees = self.fees.affordable(&self.rpc).await?;
                let noop = unsigned(fees).sign(lane, signer.as_ref()).await?;
                Ok(Some(noop))
            }
        }
    }

    async fn health(&self, now: Timestamp) -> Health {
        let check = HealthCheck {
            config: &self.config,
            chain_id: self.chain_id,
            rpc: &self.rpc,
            signers: &self.signers,
            fees: &self.fees,
            runs_batches: &self.runs_batches,
        };
        let (health, clock_fault) = check.run(now).await;
        *self.last_clock_fault() = clock_fault;
        health
    }

    fn clock_fault(&self) -> Option<Fault> {
        self.last_clock_fault().clone()
    }
}

/// Whether a call of a function with a list can be joined with these calls.
fn can_join(batch: &[&Call], next: &Call) -> bool {
    let all = || batch.iter().copied().chain([next]);
    let gas: u64 = all().map(|call| call.gas).sum();
    let bytes: usize = all().map(|call| call.data.len()).sum();
    let fits = |call: &&Call| call.is_joinable(next) && call.effect_key != next.effect_key;
    batch.len() < JOINED_MAX
        && gas <= JOINED_GAS_MAX
        && bytes <= JOINED_BYTES_MAX
        && batch.iter().all(fits)
}
