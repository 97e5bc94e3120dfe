//! Checks everything that settling depends on.

use std::sync::atomic::{AtomicBool, Ordering};

use alloy::eips::BlockId;
use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::providers::Provider;
use alloy::rpc::client::Waiter;
use alloy::rpc::types::TransactionRequest;
use alloy::serde::WithOtherFields;
use alloy::sol_types::SolCall;
use alloy::transports::{RpcError, TransportError, TransportResult};
use quittance_core::{Fault, Health, LaneId, Problem, Scope, Timestamp};
use quittance_nodes::problem;

use super::batch;
use super::clock;
use super::config::EvmConfig;
use super::fees::{FeeOracle, Fees};
use super::rpc::{Rpc, call};
use super::signers::Signers;
use super::transport::fault;
use crate::abi::Eip712Token;
use crate::permit2::{EXACT_PERMIT2_PROXY, PERMIT2};
use crate::token::{Token, TransferMethod};

/// How many payments a funded signer can pay for.
const PAYMENTS_FUNDED: u64 = 20;

/// The gas of a payment, for that purpose.
const PAYMENT_GAS: u64 = 100_000;

/// A health check, with what it needs of the chain.
pub(super) struct HealthCheck<'a> {
    pub(super) config: &'a EvmConfig,
    pub(super) chain_id: u64,
    pub(super) rpc: &'a Rpc,
    pub(super) signers: &'a Signers,
    pub(super) fees: &'a FeeOracle,
    /// Set to whether the nodes run a batch.
    pub(super) runs_batches: &'a AtomicBool,
}

impl HealthCheck<'_> {
    /// The problems, and why this machine's clock cannot be trusted. It takes three round trips,
    /// and one request to each node.
    pub(super) async fn run(&self, now: Timestamp) -> (Health, Option<Fault>) {
        let age_max = self.config.head_age_max;
        let nodes = self.rpc.check_nodes(now, age_max).await;
        let clock_fault = clock::doubt(now, &nodes.heads, age_max);
        let mut problems = nodes.health.problems;
        if let Some(fault) = &clock_fault {
            problems.push(problem(Scope::Advisory, &fault.detail));
        }
        if nodes.health.working > 0
            && let Err(fault) = self.check_state(&mut problems).await
        {
            problems.push(problem(Scope::Network, fault.detail));
        }
        (Health { problems }, clock_fault)
    }

    async fn check_state(&self, problems: &mut Vec<Problem>) -> Result<(), Fault> {
        let fees = self.fees.now(self.rpc).await?;
        self.check_batches().await?;
        let newest = BlockId::latest();
        let mut batch = self.rpc.batch();
        let mut balances = Vec::new();
        for (lane, address) in self.signers.addresses() {
            let balance: Waiter<U256> = batch.add("eth_getBalance", &(address, newest))?;
            balances.push((lane, balance));
        }
        let mut tokens = Vec::new();
        for token in &self.config.tokens {
            let domain = Bytes::from_static(&Eip712Token::DOMAIN_SEPARATORCall::SELECTOR);
            let domain = call(Some(token.address), domain);
            let code: Waiter<Bytes> = batch.add("eth_getCode", &(token.address, newest))?;
            let separator: Waiter<B256> = batch.add("eth_call", &(domain, newest))?;
            tokens.push((token, code, separator));
        }
        let mut permit2 = Vec::new();
        for contract in [PERMIT2, EXACT_PERMIT2_PROXY] {
            let code: Waiter<Bytes> = batch.add("eth_getCode", &(contract, newest))?;
            permit2.push((contract, code));
        }
        batch.send().await?;
        let mut missing = None;
        for (contract, code) in permit2 {
            if code.await.map_err(fault)?.is_empty() {
                missing.get_or_insert(contract);
            }
        }
        for (lane, balance) in balances {
            let balance = balance.await.map_err(fault)?;
            problems.extend(self.check_balance(lane, balance, fees));
        }
        for (token, code, separator) in tokens {
            let code = code.await.map_err(fault)?;
            problems.extend(match token.method {
                TransferMethod::Eip3009 => self.check_token(token, &code, separator.await),
                TransferMethod::Permit2 => check_permit2_token(token, &code, missing),
            });
        }
        let excess = self.fees.excess(fees);
        problems.extend(excess.map(|excess| problem(Scope::Network, excess)));
        Ok(())
    }

    /// Checks whether the nodes run a batch. Some chains let only certain accounts create
    /// contracts; there every payment is sent in its own transaction.
    async fn check_batches(&self) -> Result<(), Fault> {
        let sender: Option<Address> = self.signers.addresses().next().map(|(_, address)| address);
        let call = TransactionRequest {
            from: sender,
            ..call(None, batch::program(&[]))
        };
        let estimate = self.rpc.provider().estimate_gas(WithOtherFields::new(call));
        let runs = match estimate.block(BlockId::latest()).await {
            Ok(_) => true,
            Err(RpcError::ErrorResp(_)) => false,
            Err(error) => return Err(fault(error)),
        };
        self.runs_batches.store(runs, Ordering::Relaxed);
        Ok(())
    }

    fn check_balance(&self, lane: &LaneId, balance: U256, fees: Fees) -> Option<Problem> {
        let needed = self
            .config
            .balance_min
            .unwrap_or_else(|| U256::from(fees.max()) * U256::from(PAYMENTS_FUNDED * PAYMENT_GAS));
        let is_funded = balance >= needed;
        self.signers.set_funded(lane, is_funded);
        (!is_funded).then(|| {
            let what = format_args!(
                "the signer {lane} has {balance} wei and needs at least {needed}: send it some of the chain's coin"
            );
            problem(Scope::Lane(lane.clone()), what)
        })
    }

    /// Checks that the token exists and signs with the configured EIP-712 domain.
    fn check_token(
        &self,
        token: &Token,
        code: &Bytes,
        separator: TransportResult<B256>,
    ) -> Option<Problem> {
        let found = |what: &str| Some(token_problem(token, what));
        if code.is_empty() {
            return found(NO_CONTRACT);
        }
        let expected = token.domain_separator(self.chain_id);
        match separator {
            Ok(separator) if separator == expected => None,
            Ok(_) => found(&format!(
                "signs with another EIP-712 domain than the configured name {:?}, version {:?}",
                token.name, token.version
            )),
            Err(error) if is_node_fault(&error) => {
                let detail = fault(error).detail;
                found(&format!("its EIP-712 domain cannot be read: {detail}"))
            }
            Err(_) => found("it does not report its EIP-712 domain (DOMAIN_SEPARATOR)"),
        }
    }
}

const NO_CONTRACT: &str = "there is no contract; check that the address is of this network";

/// Checks that a token exists, and the contracts that move it. `missing` is one of them that is not
/// on this network.
fn check_permit2_token(token: &Token, code: &Bytes, missing: Option<Address>) -> Option<Problem> {
    if code.is_empty() {
        return Some(token_problem(token, NO_CONTRACT));
    }
    let missing = missing?;
    let what = format!("its payments need the contract {missing}, which is not on this network");
    Some(token_problem(token, &what))
}

fn token_problem(token: &Token, what: &str) -> Problem {
    let address = token.address.to_checksum(None);
    let what = format!("the token {} at {address}: {what}", token.symbol);
    problem(Scope::Asset(address), what)
}

/// Whether the node failed to make a call, and not the contract to return. Nodes agree on no code
/// for a failed call: geth returns 3 or -32000, others -32015.
fn is_node_fault(error: &TransportError) -> bool {
    const CALL_FAILED: [i64; 2] = [3, -32015];
    const CALL_FAILED_WORDS: [&str; 4] = ["revert", "opcode", "out of gas", "vm execution"];
    let RpcError::ErrorResp(error) = error else {
        return false;
    };
    let message = error.message.to_ascii_lowercase();
    let says_failed = CALL_FAILED_WORDS
        .iter()
        .any(|words| message.contains(words));
    !CALL_FAILED.contains(&error.code) && !says_failed
}
