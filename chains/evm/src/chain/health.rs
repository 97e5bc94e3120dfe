//! Checks everything that settling depends on.

use std::sync::atomic::{AtomicBool, Ordering};

use alloy::primitives::{B256, Bytes, U256};
use alloy::sol_types::SolCall;
use quittance_core::{Fault, Health, LaneId, Problem, Scope, Timestamp};
use quittance_nodes::{Nodes, Reply, Request, decode_reply, problem};
use serde_json::{Value, json};

use super::batch;
use super::clock;
use super::config::EvmConfig;
use super::fees::{FeeOracle, Fees};
use super::rpc;
use super::signers::Signers;
use crate::abi::Eip712Token;
use crate::token::{Token, TransferMethod};

/// How many payments a funded signer can pay for.
const PAYMENTS_FUNDED: u64 = 20;

/// The gas of a payment, for that purpose.
const PAYMENT_GAS: u64 = 100_000;

/// A health check, with what it needs of the chain.
pub(super) struct HealthCheck<'a> {
    pub(super) config: &'a EvmConfig,
    pub(super) chain_id: u64,
    pub(super) rpc: &'a Nodes,
    pub(super) signers: &'a Signers,
    pub(super) fees: &'a FeeOracle,
    /// Set to whether the nodes run a batch.
    pub(super) runs_batches: &'a AtomicBool,
}

impl HealthCheck<'_> {
    /// The problems, and why this machine's clock cannot be trusted. It takes three round trips, and one
    /// request to each node.
    pub(super) async fn run(&self, now: Timestamp) -> (Health, Option<Fault>) {
        let age_max = self.config.head_age_max;
        let nodes = rpc::check_nodes(self.rpc, now, age_max).await;
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
        let balance = |(_, address)| Request::new("eth_getBalance", json!([address, "latest"]));
        let mut requests: Vec<Request> = self.signers.addresses().map(balance).collect();
        for token in &self.config.tokens {
            let domain = Bytes::from_static(&Eip712Token::DOMAIN_SEPARATORCall::SELECTOR);
            let call = json!({ "to": token.address, "data": domain });
            requests.push(Request::new(
                "eth_getCode",
                json!([token.address, "latest"]),
            ));
            requests.push(Request::new("eth_call", json!([call, "latest"])));
        }
        let mut replies = self.rpc.ask_many(&requests).await?.into_iter();
        let mut next = || replies.next().unwrap_or(Ok(Value::Null));
        for (lane, _) in self.signers.addresses() {
            problems.extend(self.check_balance(lane, decode_reply(next())?, fees));
        }
        for token in &self.config.tokens {
            problems.extend(self.check_token(token, decode_reply(next())?, next()));
        }
        let excess = self.fees.excess(fees);
        problems.extend(excess.map(|excess| problem(Scope::Network, excess)));
        Ok(())
    }

    /// Checks whether the nodes run a batch. Some chains let only certain accounts create contracts; there every
    /// payment is sent in its own transaction.
    async fn check_batches(&self) -> Result<(), Fault> {
        let sender = self.signers.addresses().next().map(|(_, address)| address);
        let call = json!({ "from": sender, "data": batch::program(&[]) });
        let request = Request::new("eth_estimateGas", json!([call]));
        let estimate = self.rpc.ask_many(&[request]).await?.pop();
        let runs = matches!(estimate, Some(Ok(_)));
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
    fn check_token(&self, token: &Token, code: Bytes, separator: Reply) -> Option<Problem> {
        let found = |what: &str| {
            let address = token.address.to_checksum(None);
            let what = format!("the token {} at {address}: {what}", token.symbol);
            Some(problem(Scope::Asset(address), what))
        };
        if code.is_empty() {
            return found("there is no contract; check that the address is of this network");
        }
        if token.method == TransferMethod::Permit2 {
            return None;
        }
        let expected = token.domain_separator(self.chain_id);
        match decode_reply::<B256>(separator.clone()) {
            Ok(separator) if separator == expected => None,
            Ok(_) => found(&format!(
                "signs with another EIP-712 domain than the configured name {:?}, version {:?}",
                token.name, token.version
            )),
            Err(fault) if is_node_fault(&separator) => {
                let detail = fault.detail;
                found(&format!("its EIP-712 domain cannot be read: {detail}"))
            }
            Err(_) => found("it does not report its EIP-712 domain (DOMAIN_SEPARATOR)"),
        }
    }
}

/// Whether the node failed to make a call, and not the contract to return. Nodes agree on no code for a failed
/// call: geth returns 3 or -32000, others -32015.
fn is_node_fault(reply: &Reply) -> bool {
    const CALL_FAILED: [i64; 2] = [3, -32015];
    const CALL_FAILED_WORDS: [&str; 4] = ["revert", "opcode", "out of gas", "vm execution"];
    let Err(error) = reply else {
        return false;
    };
    let message = error.message.to_ascii_lowercase();
    let says_failed = CALL_FAILED_WORDS
        .iter()
        .any(|words| message.contains(words));
    !CALL_FAILED.contains(&error.code) && !says_failed
}
