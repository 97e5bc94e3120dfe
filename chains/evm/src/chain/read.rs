//! Runs probes on the nodes.

use alloy::eips::BlockId;
use alloy::network::AnyNetwork;
use alloy::primitives::{Bytes, U256};
use alloy::providers::{EthCall, Provider};
use alloy::rpc::client::Waiter;
use alloy::rpc::types::state::StateOverride;
use alloy::rpc::types::{BlockOverrides, TransactionRequest};
use alloy::serde::WithOtherFields;
use futures_util::future::join_all;
use quittance_core::Fault;
use quittance_nodes::unavailable;

use super::blocks::{BlockTimes, INCLUSION_BLOCKS};
use super::fees::{FeeOracle, Fees};
use super::probe::{self, Probe, ProbeResult};
use super::rpc::{Rpc, call};
use super::signers::Signers;
use super::transport::fault;

/// The gas of the probe's program itself: its code, the creation of the frame, and memory.
const PROGRAM_GAS: u64 = 1_500_000;

/// The highest sum of the gas limits in one `eth_call`. Most nodes allow 50 million and more; small
/// nodes allow a block's 30 million.
const CHUNK_GAS_MAX: u64 = 25_000_000;

/// Runs probes, with what that needs of the chain.
pub(super) struct Reader<'a> {
    pub(super) rpc: &'a Rpc,
    pub(super) chain_id: u64,
    pub(super) signers: &'a Signers,
    pub(super) fees: &'a FeeOracle,
    pub(super) blocks: &'a BlockTimes,
}

impl Reader<'_> {
    /// The results, in the order of the probes.
    pub(super) async fn read(&self, probes: &[Probe]) -> Vec<Result<ProbeResult, Fault>> {
        let chunks = chunks(probes);
        let results = join_all(chunks.iter().map(|chunk| self.run_chunk(chunk))).await;
        results.into_iter().flatten().collect()
    }

    /// Runs a chunk of probes in one call.
    async fn run_chunk(&self, probes: &[&Probe]) -> Vec<Result<ProbeResult, Fault>> {
        let results = match probes {
            [probe] if probe.as_transaction => {
                let result = self.run_as_transaction(probe).await;
                result.map(|result| vec![Ok(result)])
            }
            probes => self.run_together(probes).await,
        };
        results.unwrap_or_else(|fault| vec![Err(fault); probes.len()])
    }

    async fn run_together(
        &self,
        probes: &[&Probe],
    ) -> Result<Vec<Result<ProbeResult, Fault>>, Fault> {
        let gas = PROGRAM_GAS + probes.iter().map(|probe| probe.gas()).sum::<u64>();
        let program = probe::program(probes.iter().copied());
        let call = TransactionRequest {
            gas: Some(gas),
            ..call(None, program)
        };
        let data = self.call(call).await.map_err(fault)?;
        self.decode(&data, probes)
    }

    /// Runs a probe as a transaction: from a funded signer, with fees. It runs on the newest block,
    /// and on the last block in which a transaction sent now is expected.
    async fn run_as_transaction(&self, probe: &Probe) -> Result<ProbeResult, Fault> {
        let (lane, sender) = self.signers.next_funded();
        let fees = self.fees.affordable(self.rpc).await?;
        let mut call = TransactionRequest {
            from: Some(sender),
            gas: Some(PROGRAM_GAS + probe.gas()),
            ..call(None, probe::program([probe]))
        };
        match fees {
            Fees::Dynamic { max, tip } => {
                call.max_fee_per_gas = Some(max);
                call.max_priority_fee_per_gas = Some(tip);
            }
            Fees::Legacy { price } => call.gas_price = Some(price),
        }
        let data = self.call(call.clone()).await.map_err(fault)?;
        let result = self.decode(&data, &[probe])?.pop();
        let mut result = result.unwrap_or_else(|| Err(unavailable("a result is missing")))?;
        result.later = self.run_later(probe, &result, call).await?;
        result.sender = Some(lane.clone());
        Ok(result)
    }

    /// The outcomes in the last block in which a transaction sent now is expected. `None` if the
    /// node cannot simulate a call with another block number and time.
    async fn run_later(
        &self,
        probe: &Probe,
        now: &ProbeResult,
        call: TransactionRequest,
    ) -> Result<Option<Vec<probe::StepOutcome>>, Fault> {
        // The numbers are the node's statement and may have any value.
        let number = now.block.saturating_add(INCLUSION_BLOCKS);
        let ahead = INCLUSION_BLOCKS.saturating_mul(now.block_secs.max(1));
        let time = now.chain_time.secs().saturating_add(ahead);
        let block = BlockOverrides {
            number: Some(U256::from(number)),
            time: Some(time),
            ..BlockOverrides::default()
        };
        // A batch of one: its result is taken as it is, and no node rests for one that is not
        // bytes.
        let mut batch = self.rpc.batch();
        let params = (call, BlockId::latest(), StateOverride::default(), block);
        let later: Waiter<Bytes> = batch.add("eth_call", &params)?;
        batch.send().await?;
        let Ok(data) = later.await else {
            return Ok(None);
        };
        let results = probe::decode_results(&data, [probe]);
        let result = results.and_then(|(_, mut results)| results.pop().flatten());
        Ok(result
            .filter(|result| result.block == number)
            .map(|result| result.outcomes))
    }

    /// A call on the state of the newest block.
    fn call(&self, call: TransactionRequest) -> EthCall<AnyNetwork, Bytes> {
        let call = self.rpc.provider().call(WithOtherFields::new(call));
        call.block(BlockId::latest())
    }

    fn decode(
        &self,
        data: &Bytes,
        probes: &[&Probe],
    ) -> Result<Vec<Result<ProbeResult, Fault>>, Fault> {
        let results = probe::decode_results(data, probes.iter().copied());
        let (chain_id, results) = results.ok_or_else(|| {
            unavailable("the node did not run the code of a call without a recipient")
        })?;
        if chain_id != self.chain_id {
            let expected = self.chain_id;
            let detail = format_args!("the node replied for chain {chain_id}, not {expected}");
            return Err(unavailable(detail));
        }
        if let Some(result) = results.iter().flatten().next() {
            self.blocks.record(result.block, result.chain_time.secs());
        }
        let block_secs = self.blocks.secs();
        let lost = || unavailable("a simulated call ran out of the node's gas limit for calls");
        Ok(results
            .into_iter()
            .map(|result| {
                let result = result.ok_or_else(lost)?;
                Ok(ProbeResult {
                    block_secs,
                    ..result
                })
            })
            .collect())
    }
}

/// Splits probes into chunks that fit one call each. A probe that runs as a transaction is alone.
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

#[cfg(test)]
mod tests {
    use alloy::primitives::Address;

    use super::super::probe::{Condition, Step};
    use super::*;

    #[test]
    fn probes_share_a_call_unless_they_must_run_alone() {
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
