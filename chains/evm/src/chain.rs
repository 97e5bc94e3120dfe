//! An EVM chain: nodes, signers, nonces, fees.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use alloy::network::TxSigner;
use alloy::primitives::{Address, B256, Bytes, LogData, Signature, TxKind, U64, U256};
use alloy::sol_types::SolEvent;
use async_trait::async_trait;
use futures_util::future::join_all;
use quittance_core::{
    Chain, Fault, FaultKind, Finality, Found, Health, LaneId, Network, Problem, Scope, Status,
    Submission, Timestamp, Transaction, Watched,
};
use quittance_nodes::{Nodes, decode_reply, unavailable};
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use crate::batch;
use crate::blocks::{BlockTimes, INCLUSION_BLOCKS, inclusion_secs};
use crate::clock;
use crate::eip712::domain_separator;
use crate::fees::{FeeOracle, Fees};
use crate::known::{self, Token};
use crate::probe::{self, Answer, Probe};
use crate::rpc;
use crate::second;
use crate::status::Lookup;
use crate::transaction::{Body, Unsigned};
use crate::used::{self, AuthorizationUse};

/// A key that signs transactions, wherever it lives: in memory, in a key store, with a key service.
pub type Signer = Arc<dyn TxSigner<Signature> + Send + Sync>;

/// How an EVM chain is reached and what it may cost.
#[derive(Clone)]
pub struct EvmConfig {
    /// Which chain: a network of the namespace `eip155`.
    pub network: Network,
    /// Its nodes, in order of preference.
    pub rpc_urls: Vec<Url>,
    /// How long a node may take to answer. Under the time a caller waits, so that a second node can be asked.
    pub rpc_timeout: Duration,
    /// Who sends transactions and pays for them. Each is a lane of its own.
    pub signers: Vec<Signer>,
    /// The tokens that may be settled, and no others.
    pub tokens: Vec<Token>,
    /// How many blocks deep a payment must be to count as settled.
    pub confirmations_required: u64,
    /// How many blocks deep a settled payment must be to need no more watching.
    pub final_confirmations: u64,
    /// How long a settled payment is watched at least.
    pub final_after: Duration,
    /// The most that is paid for a unit of gas, in wei.
    pub gas_price_max: u128,
    /// The most of it that is paid to the producers of blocks, in wei. It is what nodes suggest,
    /// and is paid in full.
    pub tip_max: u128,
    /// The most gas that one payment may take.
    pub gas_per_payment_max: u32,
    /// How the gas limit of a transaction is found.
    pub gas_limit: GasLimit,
    /// How many payments may share a transaction.
    pub max_batch: usize,
    /// Whether accounts with code may pay: contract wallets (ERC-1271), and accounts with a delegation (EIP-7702). Their
    /// code runs in the payment, on the operator's gas.
    pub contract_wallets: bool,
    /// For each token, above which amount a payment counts as settled only once two nodes say so,
    /// in atomic units. For tokens that are not in it one node's word is enough.
    pub two_nodes_above: BTreeMap<Address, U256>,
    /// How old the newest block may be before the nodes count as stuck; `None` for chains that make blocks only when
    /// there is something to put in them.
    pub head_age_max: Option<Duration>,
    /// How much of the chain's own coin a signer must have to count as funded, in wei. `None` for what twenty payments
    /// cost now.
    pub balance_min: Option<U256>,
}

/// How the gas limit of a transaction is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GasLimit {
    /// From what the payments took when they were simulated. Saves a round trip, and lets payments share transactions.
    Measured,
    /// The node is asked. For chains that count more than execution as gas, such as Arbitrum.
    Estimated,
}

impl EvmConfig {
    /// The defaults for a network, with the tokens that ship with the library.
    pub fn new(network: Network, rpc_urls: Vec<Url>, signers: Vec<Signer>) -> Self {
        /// Chains that charge for their parent chain's data in units of gas.
        const ESTIMATED: [&str; 2] = ["eip155:42161", "eip155:421614"];
        let gas_limit = if ESTIMATED.contains(&network.id()) {
            GasLimit::Estimated
        } else {
            GasLimit::Measured
        };
        let fees = known::fee_limits(network.id());
        Self {
            tokens: known::tokens(network.id()).to_vec(),
            network,
            rpc_urls,
            rpc_timeout: Duration::from_secs(8),
            signers,
            confirmations_required: 1,
            // Two epochs of Ethereum, after which a block is finalized as a rule.
            final_confirmations: 64,
            // As long as Ethereum takes to finalize, and with it what rollups with faster blocks have posted there.
            final_after: Duration::from_secs(15 * 60),
            gas_price_max: u128::from(fees.max_gas_price_gwei) * GWEI,
            tip_max: u128::from(fees.max_tip_gwei) * GWEI,
            // USDC takes under 100,000; a contract wallet that checks a passkey in Solidity some 400,000.
            gas_per_payment_max: 600_000,
            gas_limit,
            // 32 transfers are 1.5 million gas, a twentieth of the smallest block limit in use.
            max_batch: 32,
            // Smart accounts, and ordinary accounts that a wallet has delegated, are a good part of those who pay. What they
            // can waste is bounded: they are tried for the block they would be in, and the engine serves no payer whose
            // transactions keep failing.
            contract_wallets: true,
            two_nodes_above: BTreeMap::new(),
            head_age_max: Some(Duration::from_secs(180)),
            balance_min: None,
        }
    }
}

impl fmt::Debug for EvmConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EvmConfig")
            .field("network", &self.network)
            .field(
                "rpc_urls",
                &self
                    .rpc_urls
                    .iter()
                    .map(quittance_nodes::redacted)
                    .collect::<Vec<_>>(),
            )
            .field(
                "signers",
                &self
                    .signers
                    .iter()
                    .map(|signer| signer.address())
                    .collect::<Vec<_>>(),
            )
            .finish_non_exhaustive()
    }
}

/// Why a configuration is not one.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The network is of another family.
    #[error("{0} is not an EIP-155 network")]
    Network(Network),
    /// There is nobody to ask.
    #[error("no RPC URL")]
    NoRpc,
    /// Two nodes are to agree, and there is one.
    #[error("two nodes must agree on large payments, and there is only one RPC URL")]
    OneNode,
    /// There is nobody to sign.
    #[error("no signer")]
    NoSigner,
    /// The same signer twice would use every nonce twice.
    #[error("the signer {0} is given twice")]
    SignerTwice(Address),
    /// Nodes do not remember that far back.
    #[error("confirmations_required is {0}, more than the possible {DEPTH_MAX}")]
    Depth(u64),
    /// The HTTP client could not be built.
    #[error("HTTP: {0}")]
    Http(#[from] reqwest::Error),
}

/// A call that settles something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The contract.
    pub to: Address,
    /// What it is told.
    pub data: Bytes,
    /// How much gas it took when it was tried.
    pub gas: u64,
    /// Whether it may share a transaction: it does not matter who calls, and no contract of the payer's runs in it.
    pub batchable: bool,
    /// What its effect is recognised by. Two calls with one mark never share a transaction, because nobody could say
    /// which of them had the effect.
    pub effect_key: B256,
}

/// What the chain says a transaction did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// Whether it did not revert as a whole.
    pub succeeded: bool,
    /// What contracts logged, in order.
    pub logs: Vec<Log>,
}

/// One entry of a receipt's logs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Log {
    /// The contract.
    pub address: Address,
    /// What it logged.
    #[serde(flatten)]
    pub data: LogData,
}

impl Log {
    /// The entry as an event of this type, if it is one.
    pub fn decode<E: SolEvent>(&self) -> Option<E> {
        E::decode_raw_log(self.data.topics().iter().copied(), &self.data.data).ok()
    }
}

/// An EVM chain.
#[derive(Debug)]
pub struct Evm {
    config: EvmConfig,
    chain_id: u64,
    lanes: Vec<LaneId>,
    rpc: Nodes,
    fees: FeeOracle,
    /// Whether the nodes were seen to run a batch; until then every payment travels alone.
    batches: AtomicBool,
    /// Whether each signer can pay for transactions, as last looked at.
    funded: Vec<AtomicBool>,
    /// Whose turn it is to have a payment tried as its transaction.
    next_sender: AtomicUsize,
    blocks: BlockTimes,
    /// Why this machine's clock is in doubt, by the last look.
    clock_fault: Mutex<Option<Fault>>,
}

impl Evm {
    /// The chain of this configuration. Asks nobody anything yet: a node that is down now may be up later, and
    /// [`health`](Chain::health) says how things are.
    ///
    /// # Errors
    /// When the configuration contradicts itself.
    pub fn new(config: EvmConfig) -> Result<Self, ConfigError> {
        let chain_id =
            known::chain_id(&config.network).ok_or(ConfigError::Network(config.network.clone()))?;
        if config.rpc_urls.is_empty() {
            return Err(ConfigError::NoRpc);
        }
        // One node that is listed twice would agree with itself.
        let nodes: BTreeSet<&Url> = config.rpc_urls.iter().collect();
        if !config.two_nodes_above.is_empty() && nodes.len() < 2 {
            return Err(ConfigError::OneNode);
        }
        if config.confirmations_required > DEPTH_MAX {
            return Err(ConfigError::Depth(config.confirmations_required));
        }
        let addresses: Vec<Address> = config
            .signers
            .iter()
            .map(|signer| signer.address())
            .collect();
        if addresses.is_empty() {
            return Err(ConfigError::NoSigner);
        }
        if let Some(twice) = addresses
            .iter()
            .enumerate()
            .find(|(at, address)| addresses[..*at].contains(address))
        {
            return Err(ConfigError::SignerTwice(*twice.1));
        }
        Ok(Self {
            chain_id,
            lanes: addresses
                .iter()
                .map(|address| LaneId::new(&address.to_checksum(None)))
                .collect(),
            rpc: rpc::connect(chain_id, &config.rpc_urls, config.rpc_timeout)?,
            fees: FeeOracle::new(config.tip_max),
            batches: AtomicBool::new(false),
            funded: addresses.iter().map(|_| AtomicBool::new(true)).collect(),
            next_sender: AtomicUsize::new(0),
            blocks: BlockTimes::default(),
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

    fn signer(&self, lane: &LaneId) -> Result<&Signer, Fault> {
        let at = self.lanes.iter().position(|known| known == lane);
        at.map(|at| &self.config.signers[at]).ok_or_else(|| {
            Fault::new(
                FaultKind::Misconfigured,
                format_args!("there is no key for {lane}"),
            )
        })
    }

    /// Fees as they are now, within what the operator allows.
    async fn affordable_fees(&self) -> Result<Fees, Fault> {
        let fees = self.fees.now(&self.rpc).await?;
        if fees.max() <= self.config.gas_price_max {
            return Ok(fees);
        }
        let problem = format!(
            "gas costs {} wei, more than the allowed {}",
            fees.max(),
            self.config.gas_price_max
        );
        Err(Fault::new(FaultKind::Busy, problem))
    }

    /// Asks a chunk of probes in one call.
    async fn ask(&self, probes: &[&Probe]) -> Vec<Result<Answer, Fault>> {
        let asked = match probes {
            [probe] if probe.as_transaction => {
                let answer = self.ask_as_transaction(probe).await;
                answer.map(|answer| vec![Ok(answer)])
            }
            probes => self.ask_together(probes).await,
        };
        asked.unwrap_or_else(|fault| vec![Err(fault); probes.len()])
    }

    async fn ask_together(&self, probes: &[&Probe]) -> Result<Vec<Result<Answer, Fault>>, Fault> {
        let gas: u64 = PROGRAM_GAS + probes.iter().map(|probe| probe.gas()).sum::<u64>();
        let program = probe::program(probes.iter().copied());
        let call = json!({ "data": program, "gas": U64::from(gas) });
        let data: Bytes = self.rpc.ask("eth_call", json!([call, "latest"])).await?;
        self.answers(&data, probes)
    }

    /// Asks as a transaction of ours would: from a signer that can pay for it, with fees; now, and in the last block that it
    /// is expected in.
    async fn ask_as_transaction(&self, probe: &Probe) -> Result<Answer, Fault> {
        let lane = self.funded_lane();
        let call = self.transaction_call(lane, probe).await?;
        let now: Bytes = self.rpc.ask("eth_call", json!([call, "latest"])).await?;
        let mut answer = self.answer(&now, probe)?;
        // What a node says may be any number.
        let number = answer.block.saturating_add(INCLUSION_BLOCKS);
        let ahead = INCLUSION_BLOCKS.saturating_mul(answer.block_secs.max(1));
        let time = answer.chain_time.secs().saturating_add(ahead);
        let block = json!({ "number": U64::from(number), "time": U64::from(time) });
        let params = json!([call, "latest", {}, block]);
        let later = self
            .rpc
            .ask_many(&[quittance_nodes::Request::new("eth_call", params)])
            .await?
            .pop();
        // Not every node lets a call say which block it is in.
        if let Some(Ok(data)) = later
            && let Ok(data) = serde_json::from_value::<Bytes>(data)
            && let Some((_, answers)) = probe::answers(&data, [probe])
            && let [Some(later)] = answers.as_slice()
            && later.block == number
        {
            answer.later = Some(later.outcomes.clone());
        }
        answer.sender = Some(lane.clone());
        Ok(answer)
    }

    /// A signer with money, each in turn; any, where none has.
    fn funded_lane(&self) -> &LaneId {
        let start = self.next_sender.fetch_add(1, Ordering::Relaxed);
        let count = self.lanes.len();
        let in_turn = (0..count).map(|step| start.wrapping_add(step) % count);
        let mut funded = in_turn.filter(|at| self.funded[*at].load(Ordering::Relaxed));
        &self.lanes[funded.next().unwrap_or(start % count)]
    }

    /// A call that looks like a transaction of ours from the inside: a signer's, with fees.
    async fn transaction_call(&self, lane: &LaneId, probe: &Probe) -> Result<Value, Fault> {
        let fees = self.affordable_fees().await?;
        let mut call = json!({
            "from": lane.address(),
            "data": probe::program([probe]),
            "gas": U64::from(PROGRAM_GAS + probe.gas()),
        });
        match fees {
            Fees::Dynamic { max, tip } => {
                call["maxFeePerGas"] = json!(U256::from(max));
                call["maxPriorityFeePerGas"] = json!(U256::from(tip));
            }
            Fees::Legacy { price } => call["gasPrice"] = json!(U256::from(price)),
        }
        Ok(call)
    }

    fn answer(&self, data: &Bytes, probe: &Probe) -> Result<Answer, Fault> {
        let answer = self.answers(data, &[probe])?.pop();
        answer.unwrap_or_else(|| Err(broken("an answer is missing")))
    }

    fn answers(
        &self,
        data: &Bytes,
        probes: &[&Probe],
    ) -> Result<Vec<Result<Answer, Fault>>, Fault> {
        let (chain_id, answers) =
            probe::answers(data, probes.iter().copied()).ok_or_else(|| {
                broken("the node does not run calls without a recipient as it should")
            })?;
        if chain_id != self.chain_id {
            return Err(broken(&format!(
                "the node answers for chain {chain_id}, not {}",
                self.chain_id
            )));
        }
        if let Some(answer) = answers.iter().flatten().next() {
            self.blocks.saw(answer.block, answer.chain_time.secs());
        }
        let block_secs = self.blocks.secs();
        let lost = || broken("a simulated call ran out of the node's gas limit for calls");
        Ok(answers
            .into_iter()
            .map(|answer| {
                let answer = answer.ok_or_else(lost)?;
                Ok(Answer {
                    block_secs,
                    ..answer
                })
            })
            .collect())
    }
}

fn broken(what: &str) -> Fault {
    Fault::new(FaultKind::ChainUnavailable, what)
}

/// How many places are asked about in one round trip: with a replacement each and the lanes' numbers under the 100 calls
/// that the strictest gateways allow in a batch.
const PLACES_PER_BATCH: usize = 40;

/// How many transactions of one signer may be out at once. Nodes keep 16 to 64 of one account in order (geth: 16 at least,
/// 64 usually); beyond that they drop some.
const IN_FLIGHT_MAX: usize = 16;

/// Wei in a gwei.
const GWEI: u128 = 1_000_000_000;

/// What a transfer of the chain's own coin takes.
const TRANSFER_GAS: u64 = 21_000;

/// The deepest that a payment may be asked to be: ordinary nodes know how things were 128 blocks ago, and no further
/// back.
const DEPTH_MAX: u64 = 100;

/// What the probe itself takes: its own code, creating the frame, memory.
const PROGRAM_GAS: u64 = 1_500_000;

/// How much gas the calls of one `eth_call` may ask for together. Nodes allow 50 million and more, except small ones
/// that allow a block's 30 million.
const CHUNK_GAS_MAX: u64 = 25_000_000;

/// Splits probes into chunks that fit one call each; those that ask as a transaction are alone.
fn chunks(probes: &[Probe]) -> Vec<Vec<&Probe>> {
    let mut chunks: Vec<Vec<&Probe>> = Vec::new();
    let (mut size, mut gas) = (usize::MAX, u64::MAX);
    for probe in probes {
        let (probe_size, probe_gas) = (probe.size(), probe.gas());
        let fits = !probe.as_transaction
            && size.saturating_add(probe_size) <= probe::CODE_MAX
            && gas.saturating_add(probe_gas) <= CHUNK_GAS_MAX;
        match chunks.last_mut() {
            Some(chunk) if fits => {
                chunk.push(probe);
                (size, gas) = (size + probe_size, gas + probe_gas);
            }
            _ => {
                chunks.push(vec![probe]);
                let alone = probe.as_transaction;
                size = if alone {
                    usize::MAX
                } else {
                    probe::program([]).len() + probe_size
                };
                gas = if alone { u64::MAX } else { probe_gas };
            }
        }
    }
    chunks
}

#[async_trait]
impl Chain for Evm {
    type Read = Probe;
    type Answer = Answer;
    type Action = Call;
    type Evidence = Evidence;
    type Search = AuthorizationUse;

    fn network(&self) -> &Network {
        &self.config.network
    }

    fn lanes(&self) -> &[LaneId] {
        &self.lanes
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

    async fn read(&self, reads: &[Probe]) -> Vec<Result<Answer, Fault>> {
        let chunks = chunks(reads);
        join_all(chunks.iter().map(|chunk| self.ask(chunk)))
            .await
            .into_iter()
            .flatten()
            .collect()
    }

    fn can_batch(&self, batch: &[&Call], next: &Call) -> bool {
        self.batches.load(Ordering::Relaxed)
            && self.config.gas_limit == GasLimit::Measured
            && batch.len() < self.config.max_batch
            && next.batchable
            && batch
                .iter()
                .all(|call| call.batchable && call.effect_key != next.effect_key)
            && batch::fits(batch.iter().copied().chain([next]))
    }

    async fn next_sequence(&self, lane: &LaneId) -> Result<Option<u64>, Fault> {
        let call = quittance_nodes::Request::new(
            "eth_getTransactionCount",
            json!([lane.address(), "latest"]),
        );
        // A number too high, which the journal would keep, is a gap that costs gas to fill. One too
        // low costs a second look.
        let mut lowest = Err(unavailable("no node says the signer's next number"));
        for answer in self.rpc.ask_every_current(&call).await {
            lowest = match (lowest, decode_reply::<U64>(answer)) {
                (Ok(lowest), Ok(count)) => Ok(count.min(lowest)),
                (Err(_), answer) => answer,
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
        let signer = self.signer(lane)?;
        let fees = self.affordable_fees().await?;
        let body = Body::of(actions);
        let allowed = u64::from(self.config.gas_per_payment_max) * actions.len() as u64;
        let gas = match self.config.gas_limit {
            GasLimit::Measured => body.gas(actions),
            GasLimit::Estimated => self.estimate(lane, &body).await?,
        };
        if gas > allowed {
            let problem =
                format!("the transaction would take {gas} gas, more than the allowed {allowed}");
            return Err(Fault::new(FaultKind::Misconfigured, problem));
        }
        Unsigned {
            chain_id: self.chain_id,
            nonce: sequence,
            gas,
            fees,
            body,
        }
        .sign(lane, signer.as_ref())
        .await
    }

    async fn submit(&self, transaction: &Transaction) -> Submission {
        rpc::send(&self.rpc, &transaction.bytes).await
    }

    async fn status(&self, watched: &[Watched]) -> Vec<Result<Status<Evidence>, Fault>> {
        let mut statuses = Vec::with_capacity(watched.len());
        let lookup = Lookup::new(&self.rpc, self.confirmations_required()).await;
        for chunk in watched.chunks(PLACES_PER_BATCH) {
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

    async fn find(&self, used: &AuthorizationUse) -> Result<Option<Found<Evidence>>, Fault> {
        used::find(&self.rpc, used).await
    }

    async fn replace(&self, transaction: &Transaction) -> Result<Option<Transaction>, Fault> {
        let unsigned = Unsigned::from_signed(&transaction.bytes)?;
        self.sign_over(unsigned, transaction).await
    }

    async fn noop(
        &self,
        lane: &LaneId,
        sequence: u64,
        over: Option<&Transaction>,
    ) -> Result<Option<Transaction>, Fault> {
        let signer = self.signer(lane)?;
        // A transfer of nothing to oneself.
        let body = Body {
            to: TxKind::Call(signer.address()),
            data: Bytes::new(),
        };
        let gas = match self.config.gas_limit {
            GasLimit::Measured => TRANSFER_GAS,
            GasLimit::Estimated => self.estimate(lane, &body).await?,
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
                self.sign_over(unsigned(fees), over).await
            }
            None => {
                let fees = self.affordable_fees().await?;
                let filler = unsigned(fees).sign(lane, signer.as_ref()).await?;
                Ok(Some(filler))
            }
        }
    }

    async fn health(&self, now: Timestamp) -> Health {
        self.look(now).await
    }

    fn clock_fault(&self) -> Option<Fault> {
        self.known_clock_fault().clone()
    }
}

impl Evm {
    /// A status, once as many nodes have said it as the amount asks for.
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
            second::confirm(&self.rpc, id, evidence).await?;
        }
        Ok(found)
    }

    fn known_clock_fault(&self) -> MutexGuard<'_, Option<Fault>> {
        // It is replaced as a whole.
        self.clock_fault
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Signs for higher fees than `over` has, which are the ones that `unsigned` comes with.
    async fn sign_over(
        &self,
        unsigned: Unsigned,
        over: &Transaction,
    ) -> Result<Option<Transaction>, Fault> {
        if self.rpc.all_stale() {
            // That nothing is included is the nodes' news, not the network's: no fee helps.
            return Ok(None);
        }
        let signer = self.signer(&over.lane)?;
        let now = self.fees.now(&self.rpc).await?;
        let Some(fees) = unsigned
            .fees
            .raised(now, self.config.gas_price_max, self.config.tip_max)
        else {
            return Ok(None);
        };
        Unsigned { fees, ..unsigned }
            .sign(&over.lane, signer.as_ref())
            .await
            .map(Some)
    }

    async fn estimate(&self, lane: &LaneId, body: &Body) -> Result<u64, Fault> {
        let to = body.to.to();
        let call = json!({ "from": lane.address(), "to": to, "data": body.data });
        let gas: U64 = self.rpc.ask("eth_estimateGas", json!([call])).await?;
        // What the parent chain asks for data may rise until the transaction is included.
        Ok(gas.to::<u64>() / 4 * 5)
    }

    /// Everything settling depends on, in three round trips and one per node.
    async fn look(&self, now: Timestamp) -> Health {
        let age_max = self.config.head_age_max;
        let looked = rpc::look(&self.rpc, now, age_max).await;
        let clock_fault = clock::doubt(now, &looked.heads, age_max);
        let clock_problem = clock_fault
            .as_ref()
            .map(|fault| problem(Scope::Advisory, &fault.detail));
        *self.known_clock_fault() = clock_fault;
        let mut problems = looked.nodes.problems;
        problems.extend(clock_problem);
        if looked.nodes.working == 0 {
            return Health { problems };
        }
        if let Err(fault) = self.look_at_state(&mut problems).await {
            problems.push(problem(Scope::Network, fault.detail));
        }
        Health { problems }
    }

    /// Whether the nodes would take a batch. Some chains let only certain accounts create contracts; there every payment
    /// travels alone.
    async fn look_at_batches(&self) -> Result<(), Fault> {
        let batch = json!({ "from": self.lanes[0].address(), "data": batch::program(&[]) });
        let call = quittance_nodes::Request::new("eth_estimateGas", json!([batch]));
        let estimated = self.rpc.ask_many(&[call]).await?.pop();
        let works = matches!(estimated, Some(Ok(_)));
        self.batches.store(works, Ordering::Relaxed);
        Ok(())
    }

    async fn look_at_state(&self, problems: &mut Vec<Problem>) -> Result<(), Fault> {
        let fees = self.fees.now(&self.rpc).await?;
        self.look_at_batches().await?;
        let balance_needed = self
            .config
            .balance_min
            .unwrap_or_else(|| U256::from(fees.max()) * U256::from(20 * 100_000_u64));
        let mut calls = Vec::new();
        for lane in &self.lanes {
            calls.push(quittance_nodes::Request::new(
                "eth_getBalance",
                json!([lane.address(), "latest"]),
            ));
        }
        for token in &self.config.tokens {
            calls.push(quittance_nodes::Request::new(
                "eth_getCode",
                json!([token.address, "latest"]),
            ));
            let separator = Bytes::from_static(&DOMAIN_SEPARATOR_SELECTOR);
            calls.push(quittance_nodes::Request::new(
                "eth_call",
                json!([{ "to": token.address, "data": separator }, "latest"]),
            ));
        }
        let mut answers = self.rpc.ask_many(&calls).await?.into_iter();
        let mut next = || answers.next().unwrap_or(Ok(Value::Null));

        for (lane, funded) in self.lanes.iter().zip(&self.funded) {
            let balance: U256 = decode_reply(next())?;
            funded.store(balance >= balance_needed, Ordering::Relaxed);
            if balance < balance_needed {
                let what = format!(
                    "the signer {lane} has {balance} wei and needs at least {balance_needed}: send it some of the chain's coin"
                );
                problems.push(problem(Scope::Lane(lane.clone()), what));
            }
        }
        for token in &self.config.tokens {
            problems.extend(self.token_problem(token, decode_reply(next())?, next()));
        }
        if fees.max() > self.config.gas_price_max {
            let what = format!(
                "gas costs {} wei, more than the allowed {}",
                fees.max(),
                self.config.gas_price_max
            );
            problems.push(problem(Scope::Network, what));
        }
        Ok(())
    }

    /// Whether the token is there and signs with the domain that is configured.
    fn token_problem(
        &self,
        token: &Token,
        code: Bytes,
        separator: quittance_nodes::Reply,
    ) -> Option<Problem> {
        let found = |what: &str| {
            let address = token.address.to_checksum(None);
            let what = format!("the token {} at {address}: {what}", token.symbol);
            Some(problem(Scope::Asset(address), what))
        };
        if code.is_empty() {
            return found("there is no contract; is the address right for this network?");
        }
        if token.method == known::TransferMethod::Permit2 {
            return None;
        }
        let expected = domain_separator(&token.name, &token.version, self.chain_id, token.address);
        match decode_reply::<B256>(separator.clone()) {
            Ok(separator) if separator == expected => None,
            Ok(_) => found(&format!(
                "signs with another EIP-712 domain than the configured name {:?}, version {:?}",
                token.name, token.version
            )),
            Err(fault) if is_node_fault(&separator) => {
                let what = format!(
                    "could not be asked for its EIP-712 domain: {}",
                    fault.detail
                );
                found(&what)
            }
            Err(_) => found("does not say its EIP-712 domain (DOMAIN_SEPARATOR)"),
        }
    }
}

/// Whether a node failed to make a call, rather than the contract to answer it. Nodes agree on no
/// code for a call that fails: geth says 3 or -32000, others -32015.
fn is_node_fault(answer: &quittance_nodes::Reply) -> bool {
    const CALL_FAILED: [i64; 2] = [3, -32015];
    const CALL_FAILED_WORDS: [&str; 4] = ["revert", "opcode", "out of gas", "vm execution"];
    let Err(error) = answer else {
        return false;
    };
    let message = error.message.to_ascii_lowercase();
    let says_failed = CALL_FAILED_WORDS
        .iter()
        .any(|words| message.contains(words));
    !CALL_FAILED.contains(&error.code) && !says_failed
}

/// `DOMAIN_SEPARATOR()`.
const DOMAIN_SEPARATOR_SELECTOR: [u8; 4] =
    <crate::abi::Eip712Token::DOMAIN_SEPARATORCall as alloy::sol_types::SolCall>::SELECTOR;

fn problem(scope: Scope, what: impl fmt::Display) -> Problem {
    Problem {
        scope,
        what: what.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::{Condition, Step};

    #[test]
    fn probes_are_packed_together_except_those_that_must_be_alone() {
        let step = |gas| Step::Call {
            to: Address::ZERO,
            data: Bytes::from_static(&[0; 400]),
            gas,
            when: Condition::Always,
        };
        let probe = |gas, as_transaction| Probe {
            steps: vec![step(gas)],
            as_transaction,
        };
        let lengths = |probes: &[Probe]| chunks(probes).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(lengths(&[]), Vec::<usize>::new());
        assert_eq!(lengths(&vec![probe(1000, false); 50]), [50]);
        let mixed = [
            probe(1, false),
            probe(1, true),
            probe(1, false),
            probe(1, false),
            probe(1, true),
            probe(1, true),
        ];
        assert_eq!(lengths(&mixed), [1, 1, 2, 1, 1]);
        assert_eq!(lengths(&vec![probe(10_000_000, false); 5]), [2, 2, 1]);
        let many = vec![probe(1000, false); 300];
        assert!(lengths(&many).len() > 2 && lengths(&many).iter().sum::<usize>() == 300);
    }
}
