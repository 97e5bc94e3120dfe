//! What a payment asks of the chain: accounts, and how a transaction would end.

use std::collections::BTreeMap;
use std::iter;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::future::join_all;
use quittance_core::{Fault, FaultKind};
use quittance_nodes::{NodeError, Nodes, Object, Request, decode_reply, unavailable};
use serde::Deserialize;
use serde_json::{Value, json};
use solana_pubkey::Pubkey;

use crate::evidence::{self, BalanceJson, Evidence, InnerInstructionsJson};
use crate::transaction::PaymentTransaction;

/// How many accounts a node looks up in one call (`MAX_MULTIPLE_ACCOUNTS` of the RPC interface).
const ACCOUNTS_PER_CALL: usize = 100;

/// How much of an account is read. A lookup table has 8,248 bytes at most, and a mint with extensions some hundred. What is
/// longer is cut off, and then it is neither: the payer says which accounts are tables, and could name one of ten megabytes.
const ACCOUNT_BYTES_MAX: usize = 8_248;

/// How many calls travel together: the strictest gateways allow 100 in a batch, and simulations are long.
const CALLS_PER_BATCH: usize = 40;

/// How many of them may be simulations that tell what is called: each answer may be close to a megabyte, and payers make them
/// so long.
const LONG_PER_BATCH: usize = 8;

/// A question: accounts, and how a transaction would end.
#[derive(Debug, Clone)]
pub struct Query {
    /// The accounts to look up.
    pub accounts: Vec<Pubkey>,
    /// The transaction to try, signed or not.
    pub simulate: Option<PaymentTransaction>,
    /// Whether to be told what the transaction's instructions would call.
    pub with_inner_instructions: bool,
}

/// The answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The accounts, in the order asked; `None` where there is none.
    pub accounts: Vec<Option<Account>>,
    /// How the transaction would end, where one was to be tried.
    pub simulated: Option<Evidence>,
}

/// An account as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The program it belongs to.
    pub owner: Pubkey,
    /// What it holds.
    pub data: Vec<u8>,
}

/// An answer with the block it is from.
#[derive(Deserialize)]
pub(crate) struct InContext<T> {
    pub(crate) value: T,
}

#[derive(Deserialize)]
struct AccountJson {
    owner: String,
    data: (String, String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SimulationJson {
    err: Value,
    #[serde(default)]
    inner_instructions: Option<Vec<InnerInstructionsJson>>,
    /// Nodes before version 3 do not tell them.
    #[serde(default)]
    pre_token_balances: Option<Vec<BalanceJson>>,
    #[serde(default)]
    post_token_balances: Option<Vec<BalanceJson>>,
}

impl SimulationJson {
    /// Whether another node may know better. One that is a block behind does not know a new blockhash yet, and the payment is at
    /// fault only if no node does; some do not tell which instructions are called.
    fn is_inconclusive(&self, query: &Query) -> bool {
        let lacks_inner_instructions =
            || query.with_inner_instructions && self.inner_instructions.is_none();
        self.err == json!("BlockhashNotFound") || self.err.is_null() && lacks_inner_instructions()
    }
}

/// Asks everything in as few round trips as can be.
pub(crate) async fn ask(rpc: &Nodes, queries: &[Query]) -> Vec<Result<Answer, Fault>> {
    let mut keys: Vec<Pubkey> = queries
        .iter()
        .flat_map(|query| query.accounts.clone())
        .collect();
    keys.sort_unstable();
    keys.dedup();
    let look_ups = keys.chunks(ACCOUNTS_PER_CALL).map(look_up);
    let trials = queries.iter().filter_map(simulate);
    let calls: Vec<Request> = look_ups.chain(trials).collect();
    let look_ups = keys.chunks(ACCOUNTS_PER_CALL).len();
    let long = queries.iter().filter(|it| it.simulate.is_some());
    let long = long.map(|query| query.with_inner_instructions);
    let long: Vec<bool> = iter::repeat_n(false, look_ups).chain(long).collect();
    let mut answers = Vec::with_capacity(calls.len());
    for batch in batches(&calls, &long) {
        match rpc.ask_many_in_doubt(batch, speak_against).await {
            Ok(found) => answers.extend(found.into_iter().map(Ok)),
            Err(fault) => answers.extend(batch.iter().map(|_| Err(fault.clone()))),
        }
    }
    let mut answers = answers.into_iter();
    let mut accounts = BTreeMap::new();
    for chunk in keys.chunks(ACCOUNTS_PER_CALL) {
        let found = answers
            .next()
            .unwrap_or_else(|| Err(unavailable("an answer is missing")));
        accounts.extend(chunk.iter().copied().zip(accounts_of(found, chunk.len())));
    }
    let mut tried = calls.iter().skip(look_ups).zip(answers);
    let answers = queries.iter().map(|query| {
        let tried = query.simulate.as_ref().and_then(|_| tried.next());
        answer_of(rpc, query, tried, &accounts)
    });
    join_all(answers).await
}

/// Whether the answers speak against a payment: an account is not there, or a transaction fails. A
/// node of another cluster would say so of every payment, and nothing in its answers names the
/// cluster.
fn speak_against(answers: &[quittance_nodes::Reply]) -> bool {
    let mut values = answers.iter().flatten().map(|answer| &answer["value"]);
    values.any(|value| match value {
        Value::Array(accounts) => accounts.iter().any(Value::is_null),
        value => value.get("err").is_some_and(|err| !err.is_null()),
    })
}

/// The calls by batches, none of which has more calls, or more with long answers, than a round trip can take.
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

/// The answer to one inquiry, given what was found: its accounts, and the answer to its trial, where there is one.
async fn answer_of(
    rpc: &Nodes,
    query: &Query,
    tried: Option<(&Request, Result<quittance_nodes::Reply, Fault>)>,
    accounts: &BTreeMap<Pubkey, Result<Option<Account>, Fault>>,
) -> Result<Answer, Fault> {
    let found = query.accounts.iter().map(|key| {
        let found = accounts.get(key).cloned();
        found.unwrap_or_else(|| Err(unavailable("an account is missing")))
    });
    let accounts = found.collect::<Result<Vec<_>, Fault>>()?;
    let simulated = match (&query.simulate, tried) {
        (None, _) => None,
        (Some(_), Some((trial, found))) => Some(simulation_of(rpc, trial, query, found).await?),
        (Some(_), None) => return Err(unavailable("an answer is missing")),
    };
    Ok(Answer {
        accounts,
        simulated,
    })
}

fn look_up(keys: &[Pubkey]) -> Request {
    let keys: Vec<String> = keys.iter().map(Pubkey::to_string).collect();
    let options = json!({
        "encoding": "base64",
        "commitment": "confirmed",
        "dataSlice": { "offset": 0, "length": ACCOUNT_BYTES_MAX },
    });
    Request::new("getMultipleAccounts", json!([keys, options]))
}

fn simulate(query: &Query) -> Option<Request> {
    let transaction = BASE64.encode(query.simulate.as_ref()?.bytes());
    let mut options = json!({
        "encoding": "base64",
        "commitment": "confirmed",
        // Ours is not there yet; the others were checked here, by stricter rules.
        "sigVerify": false,
    });
    if query.with_inner_instructions {
        options["innerInstructions"] = json!(true);
    }
    Some(Request::new(
        "simulateTransaction",
        json!([transaction, options]),
    ))
}

fn accounts_of(
    found: Result<quittance_nodes::Reply, Fault>,
    count: usize,
) -> Vec<Result<Option<Account>, Fault>> {
    let read = || {
        let found: InContext<Vec<Option<AccountJson>>> = decode_reply(found?)?;
        let accounts: Option<Vec<_>> = found
            .value
            .into_iter()
            .map(|found| match found {
                None => Some(None),
                Some(found) => account(&found).map(Some),
            })
            .collect();
        accounts
            .filter(|accounts| accounts.len() == count)
            .ok_or_else(|| unavailable("the node answered nonsense about accounts"))
    };
    match read() {
        Ok(accounts) => accounts.into_iter().map(Ok).collect(),
        Err(fault) => vec![Err(fault); count],
    }
}

fn account(json: &AccountJson) -> Option<Account> {
    let (data, encoding) = &json.data;
    Some(Account {
        owner: json.owner.parse().ok()?,
        data: (encoding == "base64").then(|| BASE64.decode(data).ok())??,
    })
}

async fn simulation_of(
    rpc: &Nodes,
    trial: &Request,
    query: &Query,
    found: Result<quittance_nodes::Reply, Fault>,
) -> Result<Evidence, Fault> {
    let found = found?;
    if let Err(error) = &found
        && lacks_tables(query, error)
    {
        return Ok(Evidence::failed(&json!(error.message)));
    }
    let found: InContext<Object<SimulationJson>> = decode_reply(found)?;
    let mut found = found.value.0;
    if found.is_inconclusive(query) {
        for other in rpc.ask_every(trial).await {
            if let Ok(other) = decode_reply::<InContext<Object<SimulationJson>>>(other)
                && !other.value.0.is_inconclusive(query)
            {
                found = other.value.0;
            }
        }
    }
    let err = &found.err;
    if let Some(kind) = not_of_payment(err) {
        return Err(Fault::new(kind, format_args!("a simulation says {err}")));
    }
    if !err.is_null() {
        return Ok(Evidence::failed(err));
    }
    if found.is_inconclusive(query) {
        return Err(unavailable(
            "the node does not tell which instructions are called",
        ));
    }
    let balances = found.pre_token_balances.zip(found.post_token_balances);
    let balances = balances.map(|(before, after)| evidence::balances(before, after));
    Ok(Evidence {
        error: None,
        balances: balances.transpose()?,
        inner_instructions: found
            .inner_instructions
            .map(evidence::inner_instructions)
            .transpose()?,
        // The tables themselves are asked.
        loaded: Vec::new(),
    })
}

/// Whether a node says of a transaction that it cannot take from lookup tables what it wants. Nodes look for that before they try
/// it, and answer as to a question that makes no sense, but that they name the transaction; what else they may find wrong with
/// that was checked here. Where they name something else, they do not understand the question, which is no payment's fault.
fn lacks_tables(query: &Query, error: &NodeError) -> bool {
    const INVALID_PARAMS: i64 = -32602;
    let has_tables = |transaction: &PaymentTransaction| !transaction.lookups().is_empty();
    let names_it = error
        .message
        .to_ascii_lowercase()
        .contains("invalid transaction");
    error.code == INVALID_PARAMS && names_it && query.simulate.as_ref().is_some_and(has_tables)
}

/// Whose fault a transaction's error is, when it is not the payment's: the fee payer is out of money, or the node cannot
/// say now.
pub(crate) fn not_of_payment(err: &Value) -> Option<FaultKind> {
    let of_fee_payer = err
        .pointer("/InsufficientFundsForRent/account_index")
        .is_some_and(|index| *index == 0);
    if of_fee_payer {
        return Some(FaultKind::FacilitatorFunds);
    }
    match err.as_str()? {
        // All three are said of the fee payer only.
        "InsufficientFundsForFee" | "InvalidAccountForFee" | "AccountNotFound" => {
            Some(FaultKind::FacilitatorFunds)
        }
        "AccountInUse"
        | "ClusterMaintenance"
        | "CommitCancelled"
        | "ProgramCacheHitMaxLimit"
        | "WouldExceedMaxBlockCostLimit"
        | "WouldExceedMaxAccountCostLimit"
        | "WouldExceedMaxVoteCostLimit"
        | "WouldExceedAccountDataBlockLimit" => Some(FaultKind::ChainUnavailable),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_bounded_in_requests_and_in_long_replies() {
        let calls = vec![Request::new("getHealth", json!([])); 100];
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
            // With lookup tables a transaction can name more accounts than may be locked.
            json!("TooManyAccountLocks"),
            json!({ "InstructionError": [2, { "Custom": 1 }] }),
        ] {
            assert_eq!(not_of_payment(&err), None, "{err}");
        }
    }
}
