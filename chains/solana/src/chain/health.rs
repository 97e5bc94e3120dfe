//! Checks everything that settling depends on.

use quittance_core::{Fault, Health, LaneId, Problem, Scope};
use quittance_nodes::{Nodes, Request, problem, unavailable};
use serde_json::{Value, json};
use solana_commitment_config::CommitmentConfig;
use solana_rpc_client_api::request::RpcRequest;

use super::config::SolanaConfig;
use super::read::{self, Query};
use super::results::decode_response;
use super::rpc::{Heads, request};
use crate::account::Account;
use crate::fee_payers::FeePayerRotation;
use crate::mint;
use crate::token::Token;

/// A health check, with what it needs of the chain.
pub(super) struct HealthCheck<'a> {
    pub(super) config: &'a SolanaConfig,
    pub(super) lanes: &'a [LaneId],
    pub(super) rotation: &'a FeePayerRotation,
    pub(super) rpc: &'a Nodes,
    pub(super) heads: &'a Heads,
}

impl HealthCheck<'_> {
    /// The problems. It takes two round trips, and one request to each node.
    pub(super) async fn run(&self) -> Health {
        let nodes = self.heads.check(self.rpc, self.config.head_age_max).await;
        let mut problems = nodes.problems;
        if nodes.working > 0
            && let Err(fault) = self.check_state(&mut problems).await
        {
            problems.push(problem(Scope::Network, fault.detail));
        }
        Health { problems }
    }

    /// Checks balances in one round trip, and mints in another.
    async fn check_state(&self, problems: &mut Vec<Problem>) -> Result<(), Fault> {
        let confirmed = CommitmentConfig::confirmed();
        let balance = |lane: &LaneId| {
            let params = json!([lane.address(), confirmed]);
            request(RpcRequest::GetBalance, params)
        };
        let balances: Vec<Request> = self.lanes.iter().map(balance).collect();
        let mut answers = self.rpc.ask_many(&balances).await?.into_iter();
        for (at, lane) in self.lanes.iter().enumerate() {
            let balance = decode_response::<u64>(answers.next().unwrap_or(Ok(Value::Null)))?;
            let is_unfunded = balance.value < self.config.balance_min;
            self.rotation.set_unfunded(at, is_unfunded);
            if is_unfunded {
                let what = format!(
                    "the fee payer {lane} has {} lamports and needs at least {}: send SOL to it",
                    balance.value, self.config.balance_min
                );
                problems.push(problem(Scope::Lane(lane.clone()), what));
            }
        }
        let mints = Query {
            accounts: self.config.tokens.iter().map(|token| token.mint).collect(),
            simulate: None,
            with_inner_instructions: false,
        };
        let found = read::ask(self.rpc, &[mints]).await.pop();
        let found = found.unwrap_or_else(|| Err(unavailable("the node left out a reply")))?;
        let tokens = self.config.tokens.iter().zip(&found.accounts);
        problems
            .extend(tokens.filter_map(|(token, account)| token_problem(token, account.as_ref())));
        Ok(())
    }
}

/// Checks that the mint exists, matches the configuration and cannot break payments.
fn token_problem(token: &Token, account: Option<&Account>) -> Option<Problem> {
    let what = match account {
        None => "the mint does not exist; check the address and the cluster".to_owned(),
        Some(account) => match mint::judge(account, token.program, &token.allowed) {
            Ok(found) if found.decimals == token.decimals => return None,
            Ok(found) => format!(
                "has {} decimal places, not the configured {}",
                found.decimals, token.decimals
            ),
            Err(problem) => format!("payments are rejected: {problem}"),
        },
    };
    let what = format!("the token {} at {}: {what}", token.symbol, token.mint);
    Some(problem(Scope::Asset(token.mint.to_string()), what))
}
