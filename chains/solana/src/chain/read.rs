//! Reads for the verification of payments: accounts, and the simulation of a transaction.

use std::collections::BTreeMap;
use std::iter;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::future::join_all;
use quittance_core::{Fault, FaultKind};
use quittance_nodes::{NodeError, Nodes, Object, Request, unavailable};
use serde::Deserialize;
use serde_json::{Value, json};
use solana_account_decoder_client_types::{UiAccountEncoding, UiDataSliceConfig};
use solana_commitment_config::CommitmentConfig;
use solana_pubkey::Pubkey;
use solana_rpc_client_api::client_error::TransactionError;
use solana_rpc_client_api::config::{RpcAccountInfoConfig, RpcSimulateTransactionConfig};
use solana_rpc_client_api::request::{MAX_MULTIPLE_ACCOUNTS, RpcRequest};
use solana_transaction_status_client_types::{UiTransactionEncoding, UiTransactionError};

use super::meta;
use super::results::{FoundAccount, Simulation, decode_response};
use super::rpc::request;
use crate::account::{Account, DATA_MAX};
use crate::evidence::Evidence;
use crate::transaction::PaymentTransaction;

/// The most accounts in one request.
const ACCOUNTS_PER_CALL: usize = MAX_MULTIPLE_ACCOUNTS;

/// The most requests in a batch: the strictest gateways allow 100, and simulations are long.
const CALLS_PER_BATCH: usize = 40;

/// The most simulations with inner instructions in a batch: a payer can make a reply almost a
/// megabyte long.
const LONG_PER_BATCH: usize = 8;

/// A question: accounts, and the simulation of a transaction.
#[derive(Debug, Clone)]
pub struct Query {
    /// The accounts to read.
    pub accounts: Vec<Pubkey>,
    /// The transaction to simulate, signed or not.
    pub simulate: Option<PaymentTransaction>,
    /// Whether the simulation must report inner instructions.
    pub with_inner_instructions: bool,
}

/// The answer to a [`Query`].
#[derive(Debug, Clone)]
pub struct Answer {
    /// The accounts, in the order of the query; `None` for one that does not exist.
    pub accounts: Vec<Option<Account>>,
    /// The result of the simulation, if there was one.
    pub simulated: Option<Evidence>,
}

impl Simulation {
    /// Whether another node may know more. A node that is a block behind does not know a new
    /// blockhash yet; the payment is at fault only if no node does. Some nodes do not report inner
    /// instructions.
    fn is_inconclusive(&self, query: &Query) -> bool {
        let lacks_inner_instructions =
            || query.with_inner_instructions && self.inner_instructions.is_none();
        transaction_error(&self.err) == Some(TransactionError::BlockhashNotFound)
            || self.err.is_null() && lacks_inner_instructions()
    }
}

/// Answers the queries in as few round trips as possible.
pub(crate) async fn ask(rpc: &Nodes, queries: &[Query]) -> Vec<Result<Answer, Fault>> {
    let mut keys: Vec<Pubkey> = queries
        .iter()
        .flat_map(|query| query.accounts.clone())
        .collect();
    keys.sort_unstable();
    keys.dedup();
    let account_requests = keys.chunks(ACCOUNTS_PER_CALL).map(account_request);
    let simulations = queries.iter().filter_map(simulation_request);
    let calls: Vec<Request> = account_requests.chain(simulations).collect();
    let account_requests = keys.chunks(ACCOUNTS_PER_CALL).len();
    let long = queries.iter().filter(|it| it.simulate.is_some());
    let long = long.map(|query| query.with_inner_instructions);
    let long: Vec<bool> = iter::repeat_n(false, account_requests)
        .chain(long)
        .collect();
    let mut answers = Vec::with_capacity(calls.len());
    for batch in batches(&calls, &long) {
        match rpc.ask_many_in_doubt(batch, count_against).await {
            Ok(found) => answers.extend(found.into_iter().map(Ok)),
            Err(fault) => answers.extend(batch.iter().map(|_| Err(fault.clone()))),
        }
    }
    let mut answers = answers.into_iter();
    let mut accounts = BTreeMap::new();
    for chunk in keys.chunks(ACCOUNTS_PER_CALL) {
        let found = answers
            .next()
            .unwrap_or_else(|| Err(unavailable("the node left out a reply")));
        accounts.extend(chunk.iter().copied().zip(accounts_of(found, chunk.len())));
    }
    let mut tried = calls.iter().skip(account_requests).zip(answers);
    let answers = queries.iter().map(|query| {
        let tried = query.simulate.as_ref().and_then(|_| tried.next());
        answer_of(rpc, query, tried, &accounts)
    });
    join_all(answers).await
}

/// Whether the replies count against a payment: an account does not exist, or a transaction fails.
/// A node of another cluster would report this for every payment, and its replies do not name the
/// cluster.
fn count_against(answers: &[quittance_nodes::Reply]) -> bool {
    let mut values = answers.iter().flatten().map(|answer| &answer["value"]);
    values.any(|value| match value {
        Value::Array(accounts) => accounts.iter().any(Value::is_null),
        value => value.get("err").is_some_and(|err| !err.is_null()),
    })
}

/// Splits the requests into batches with a bounded number of requests and of long replies.
fn batches<'c>(calls: &'c [Request], long: &[bool]) -> Vec<&'c [Request]> {
    let mut batches = Vec::new();
    let (mut begin, mut long_ones) = (0, 0);
    for at in 0..calls.len() {
        let is_long = usize::from(long.get(at) == Some(&true));
        if at - begin == CALLS_PER_BATCH || long_ones + is_long > LONG_PER_BATCH {
            batches.extend(calls.get(begin..at));
            (begin, long_ones) = (at, 0);
        }
        long_ones += is_long;
    }
    batches.extend(calls.get(begin..).filter(|rest| !rest.is_empty()));
    batches
}

/// The answer to one query, from its accounts and the reply to its simulation, if it has one.
async fn answer_of(
    rpc: &Nodes,
    query: &Query,
    tried: Option<(&Request, Result<quittance_nodes::Reply, Fault>)>,
    accounts: &BTreeMap<Pubkey, Result<Option<Account>, Fault>>,
) -> Result<Answer, Fault> {
    let found = query.accounts.iter().map(|key| {
        let found = accounts.get(key).cloned();
        found.unwrap_or_else(|| Err(unavailable("the node left out an account")))
    });
    let accounts = found.collect::<Result<Vec<_>, Fault>>()?;
    let simulated = match (&query.simulate, tried) {
        (None, _) => None,
        (Some(_), Some((trial, found))) => Some(simulation_of(rpc, trial, query, found).await?),
        (Some(_), None) => return Err(unavailable("the node left out a reply")),
    };
    Ok(Answer {
        accounts,
        simulated,
    })
}

fn account_request(keys: &[Pubkey]) -> Request {
    let keys: Vec<String> = keys.iter().map(Pubkey::to_string).collect();
    let options = RpcAccountInfoConfig {
        encoding: Some(UiAccountEncoding::Base64),
        data_slice: Some(UiDataSliceConfig {
            offset: 0,
            length: DATA_MAX,
        }),
        commitment: Some(CommitmentConfig::confirmed()),
        min_context_slot: None,
    };
    request(RpcRequest::GetMultipleAccounts, json!([keys, options]))
}

fn simulation_request(query: &Query) -> Option<Request> {
    let transaction = BASE64.encode(query.simulate.as_ref()?.bytes());
    let options = RpcSimulateTransactionConfig {
        encoding: Some(UiTransactionEncoding::Base64),
        commitment: Some(CommitmentConfig::confirmed()),
        // The fee payer's signature does not exist yet. The engine verifies the others, by stricter
        // rules.
        sig_verify: false,
        inner_instructions: query.with_inner_instructions,
        ..RpcSimulateTransactionConfig::default()
    };
    let params = json!([transaction, options]);
    Some(request(RpcRequest::SimulateTransaction, params))
}

fn accounts_of(
    found: Result<quittance_nodes::Reply, Fault>,
    count: usize,
) -> Vec<Result<Option<Account>, Fault>> {
    let read = || {
        let found = decode_response::<Vec<Option<FoundAccount>>>(found?)?;
        let accounts: Option<Vec<_>> = found
            .value
            .into_iter()
            .map(|found| match found {
                None => Some(None),
                Some(found) => found.account().map(Some),
            })
            .collect();
        accounts
            .filter(|accounts| accounts.len() == count)
            .ok_or_else(|| unavailable("the node returned unreadable accounts"))
    };
    match read() {
        Ok(accounts) => accounts.into_iter().map(Ok).collect(),
        Err(fault) => vec![Err(fault); count],
    }
}

async fn simulation_of(
    rpc: &Nodes,
    trial: &Request,
    query: &Query,
    found: Result<quittance_nodes::Reply, Fault>,
) -> Result<Evidence, Fault> {
    let found = found?;
    if let Err(error) = &found
        && is_about_lookup_tables(query, error)
    {
        return Ok(Evidence::failed(&json!(error.message)));
    }
    let mut found = decode_response::<Object<Simulation>>(found)?.value.0;
    if found.is_inconclusive(query) {
        for other in rpc.ask_every(trial).await {
            if let Ok(other) = decode_response::<Object<Simulation>>(other)
                && !other.value.0.is_inconclusive(query)
            {
                found = other.value.0;
            }
        }
    }
    let err = &found.err;
    if let Some(kind) = not_of_payment(err) {
        return Err(Fault::new(
            kind,
            format_args!("the simulation failed with {err}"),
        ));
    }
    if !err.is_null() {
        return Ok(Evidence::failed(err));
    }
    if found.is_inconclusive(query) {
        return Err(unavailable("the node does not report inner instructions"));
    }
    let balances = found.pre_token_balances.zip(found.post_token_balances);
    let balances = balances.map(|(before, after)| meta::balances(before, after));
    Ok(Evidence {
        error: None,
        balances: balances.transpose()?,
        inner_instructions: found
            .inner_instructions
            .map(meta::inner_instructions)
            .transpose()?,
        // The query reads the lookup tables themselves.
        loaded: Vec::new(),
    })
}

/// Whether a node rejects a transaction because of its lookup tables. Nodes load them before the
/// simulation and then report invalid parameters with a message about the transaction. The decoder
/// has checked everything else that they could reject. Another message means that the node does not
/// support the request, which is not the payment's fault.
fn is_about_lookup_tables(query: &Query, error: &NodeError) -> bool {
    const INVALID_PARAMS: i64 = -32602;
    let has_tables = |transaction: &PaymentTransaction| !transaction.lookups().is_empty();
    let names_it = error
        .message
        .to_ascii_lowercase()
        .contains("invalid transaction");
    error.code == INVALID_PARAMS && names_it && query.simulate.as_ref().is_some_and(has_tables)
}

/// The kind of fault for an error that is not the payment's: the fee payer is unfunded, or the node
/// cannot simulate now.
pub(crate) fn not_of_payment(err: &Value) -> Option<FaultKind> {
    match transaction_error(err)? {
        // The runtime reports the last three of the fee payer only.
        TransactionError::InsufficientFundsForRent { account_index: 0 }
        | TransactionError::InsufficientFundsForFee
        | TransactionError::InvalidAccountForFee
        | TransactionError::AccountNotFound => Some(FaultKind::FacilitatorFunds),
        TransactionError::AccountInUse
        | TransactionError::ClusterMaintenance
        | TransactionError::CommitCancelled
        | TransactionError::ProgramCacheHitMaxLimit
        | TransactionError::WouldExceedMaxBlockCostLimit
        | TransactionError::WouldExceedMaxAccountCostLimit
        | TransactionError::WouldExceedMaxVoteCostLimit
        | TransactionError::WouldExceedAccountDataBlockLimit => Some(FaultKind::ChainUnavailable),
        _ => None,
    }
}

/// The runtime's error; `None` if there is none, or if the library does not know it.
fn transaction_error(err: &Value) -> Option<TransactionError> {
    let found = UiTransactionError::deserialize(err).ok()?;
    Some(found.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_bounded_in_requests_and_in_long_replies() {
        let calls = vec![request(RpcRequest::GetHealth, json!([])); 100];
        let sizes = |long: &[bool]| -> Vec<usize> {
            let batches = batches(&calls[..long.len()], long);
            batches.iter().map(|batch| batch.len()).collect()
        };
        assert_eq!(sizes(&[]), [0; 0]);
        assert_eq!(sizes(&[false; 40]), [40]);
        assert_eq!(sizes(&[false; 100]), [40, 40, 20]);
        assert_eq!(sizes(&[true; 17]), [8, 8, 1]);
        let mixed: Vec<bool> = (0..30).map(|at| at >= 20).collect();
        assert_eq!(sizes(&mixed), [28, 2]);
    }

    #[test]
    fn unfunded_fee_payer_is_a_fault_of_the_facilitator() {
        for err in [
            json!("InsufficientFundsForFee"),
            json!({ "InsufficientFundsForRent": { "account_index": 0 } }),
        ] {
            assert_eq!(
                not_of_payment(&err),
                Some(FaultKind::FacilitatorFunds),
                "{err}"
            );
        }
        for err in [
            json!(null),
            json!("BlockhashNotFound"),
            json!({ "InsufficientFundsForRent": { "account_index": 1 } }),
            // With lookup tables a transaction can lock too many accounts.
            json!("TooManyAccountLocks"),
            json!({ "InstructionError": [2, { "Custom": 1 }] }),
        ] {
            assert_eq!(not_of_payment(&err), None, "{err}");
        }
    }
}
