//! Runs probes on the nodes.

use alloy::eips::BlockId;
use alloy::network::AnyNetwork;
use alloy::primitives::{Bytes, U256};
use alloy::providers::{EthCall, Provider};
use alloy::rpc::types::{BlockOverrides, TransactionRequest};
use alloy::serde::WithOtherFields;
use futures_util::future::join_all;
use quittance_core::Fault;
use quittance_nodes::{Reply, decode_reply, unavailable};

use super::blocks::{BlockTimes, INCLUSION_BLOCKS};
use super::fees::FeeOracle;
use super::named::{self, NamedCall};
use super::probe::{self, Probe, ProbeResult, StepOutcome};
use super::rpc::{Rpc, call};
use super::signers::Signers;
use super::transport::fault;

/// The gas of the probe's program itself: its code, the creation of the frame, and memory.
const PROGRAM_GAS: u64 = 1_500_000;

/// The highest sum of the gas limits in one `eth_call`. Most nodes allow 50 million and more; small
/// nodes allow a block's 30 million.
const CHUNK_GAS_MAX: u64 = 25_000_000;

/// The most calls by a named sender in one batch. Some nodes answer a batch's requests one after
/// another, and each estimates gas by several runs of the call, so the other probes would wait for
/// more of them. Batches are sent at the same time. Nodes allow more requests in one (geth 1000,
/// Polygon's bor 100). A gateway that allows fewer gets the batch in parts, as `quittance_nodes`
/// learns its limit.
const CHUNK_CALLS_MAX: usize = 50;

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
        let calls: Vec<NamedCall> = probes
            .iter()
            .flat_map(|probe| NamedCall::all(probe, None))
            .collect();
        let (data, replies) = self.run(call, &calls).await?;
        let outcomes = calls.iter().zip(replies);
        let mut outcomes = outcomes.map(|(call, reply)| call.outcome(reply));
        let results = self.decode(&data, probes)?.into_iter().zip(probes);
        let merged = results.map(|(result, probe)| {
            let named: Vec<_> = outcomes.by_ref().take(probe.named_calls()).collect();
            merged(probe, result?, named)
        });
        Ok(merged.collect())
    }

    /// Runs a program and calls by a named sender in one round trip. One node replies to all, and
    /// the program's result proves which chain it is on. The next node is asked if a node's reply
    /// to any of them says nothing about it.
    async fn run(
        &self,
        program: TransactionRequest,
        calls: &[NamedCall],
    ) -> Result<(Bytes, Vec<Reply>), Fault> {
        if calls.is_empty() {
            let data = self.call(program).await.map_err(fault)?;
            return Ok((data, Vec::new()));
        }
        let requests = named::batch(&program, None, calls);
        let complete = |replies: &[Reply]| named::is_complete(calls, replies);
        let replies = self.rpc.nodes().ask_one_node_until(&requests, complete);
        let mut replies = replies.await?.into_iter();
        let program = replies.next().ok_or_else(missing)?;
        Ok((decode_reply(program)?, replies.collect()))
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
        fees.put(&mut call);
        let calls: Vec<NamedCall> = NamedCall::all(probe, Some(fees)).collect();
        let (data, replies) = self.run(call.clone(), &calls).await?;
        let named = calls.iter().zip(replies);
        let named = named.map(|(call, reply)| call.outcome(reply));
        let named: Vec<StepOutcome> = named.collect::<Result<_, _>>()?;
        let result = self.decode(&data, &[probe])?.pop();
        let mut result = result.unwrap_or_else(|| Err(missing()))?;
        result.later = self
            .run_later(probe, &result, call, (&calls, &named))
            .await?;
        let mut result = merged(probe, result, named.into_iter().map(Ok))?;
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
        (calls, named): (&[NamedCall], &[StepOutcome]),
    ) -> Result<Option<Vec<StepOutcome>>, Fault> {
        // The numbers are the node's statement and may have any value.
        let number = now.block.saturating_add(INCLUSION_BLOCKS);
        let ahead = INCLUSION_BLOCKS.saturating_mul(now.block_secs.max(1));
        let time = now.chain_time.secs().saturating_add(ahead);
        let block = BlockOverrides {
            number: Some(U256::from(number)),
            time: Some(time),
            ..BlockOverrides::default()
        };
        // A batch, even of one request: its results are taken as they are, and no node rests for
        // one that is not bytes.
        let requests = named::batch(&call, Some(&block), calls);
        let nodes = self.rpc.nodes();
        let replies = match calls {
            [] => nodes.ask_many(&requests).await?,
            // A revert is a verdict: the replies of another node must not replace it.
            calls => {
                let complete = |replies: &[Reply]| named::is_complete(calls, replies);
                nodes.ask_one_node_until(&requests, complete).await?
            }
        };
        let mut replies = replies.into_iter();
        let Some(Ok(data)) = replies.next().map(decode_reply::<Bytes>) else {
            return Ok(None);
        };
        let results = probe::decode_results(&data, [probe]);
        let result = results.and_then(|(_, mut results)| results.pop().flatten());
        let Some(result) = result.filter(|result| result.block == number) else {
            return Ok(None);
        };
        let replies = calls.iter().zip(named).zip(replies);
        let later = replies.map(|((call, now), reply)| call.later_outcome(reply, now));
        named::merge(probe, result.outcomes, later).map(Some)
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

/// A result with the outcomes of the calls by a named sender.
fn merged(
    probe: &Probe,
    result: ProbeResult,
    named: impl IntoIterator<Item = Result<StepOutcome, Fault>>,
) -> Result<ProbeResult, Fault> {
    let outcomes = named::merge(probe, result.outcomes, named)?;
    Ok(ProbeResult { outcomes, ..result })
}

fn missing() -> Fault {
    unavailable("a result is missing")
}

/// Splits probes into chunks that fit one call each. A probe that runs as a transaction is alone.
fn chunks(probes: &[Probe]) -> Vec<Vec<&Probe>> {
    let mut chunks: Vec<Vec<&Probe>> = Vec::new();
    let (mut size, mut gas, mut calls) = (usize::MAX, u64::MAX, 0);
    for probe in probes {
        let (probe_size, probe_gas, probe_calls) = (probe.size(), probe.gas(), probe.named_calls());
        let fits = !probe.as_transaction
            && size.saturating_add(probe_size) <= probe::CODE_MAX
            && gas.saturating_add(probe_gas) <= CHUNK_GAS_MAX
            && calls + probe_calls <= CHUNK_CALLS_MAX;
        match chunks.last_mut() {
            Some(chunk) if fits => {
                chunk.push(probe);
                (size, gas) = (size + probe_size, gas + probe_gas);
                calls += probe_calls;
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
                calls = probe_calls;
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
        let named = Step::CallAs {
            from: Address::ZERO,
            to: Address::ZERO,
            data: Bytes::new(),
            gas: 1000,
        };
        let named = Probe::new(vec![named; 20]);
        assert_eq!(lengths(&vec![named; 5]), [2, 2, 1]);
        let many = vec![probe(1000, false); 300];
        assert!(lengths(&many).len() > 2 && lengths(&many).iter().sum::<usize>() == 300);
    }
}
