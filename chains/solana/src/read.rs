//! What a payment asks of the chain: accounts, and how a transaction would end.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use quittance_core::{Fault, FaultKind};
use quittance_nodes::{Call, Nodes, read_answer, unavailable};
use serde::Deserialize;
use serde_json::{Value, json};
use solana_pubkey::Pubkey;

use crate::transaction::Wire;

/// How many accounts a node looks up in one call (`MAX_MULTIPLE_ACCOUNTS` of the RPC interface).
const ACCOUNTS_PER_CALL: usize = 100;

/// How many calls travel together: the strictest gateways allow 100 in a batch, and simulations are long.
const CALLS_PER_BATCH: usize = 40;

/// A question: accounts, and how a transaction would end.
#[derive(Debug, Clone)]
pub struct Inquiry {
    /// The accounts to look up.
    pub accounts: Vec<Pubkey>,
    /// The transaction to try, signed or not.
    pub simulate: Option<Wire>,
}

/// The answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The accounts, in the order asked; `None` where there is none.
    pub accounts: Vec<Option<Account>>,
    /// How the transaction would end, where one was to be tried.
    pub simulated: Option<Simulated>,
}

/// An account as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The program it belongs to.
    pub owner: Pubkey,
    /// What it holds.
    pub data: Vec<u8>,
}

/// How a transaction would end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Simulated {
    /// What it would fail with, as the runtime writes it; `None` where it would succeed.
    pub error: Option<String>,
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
struct SimulationJson {
    err: Value,
}

/// Asks everything in as few round trips as can be.
pub(crate) async fn ask(rpc: &Nodes, inquiries: &[Inquiry]) -> Vec<Result<Answer, Fault>> {
    let mut keys: Vec<Pubkey> = inquiries
        .iter()
        .flat_map(|inquiry| inquiry.accounts.clone())
        .collect();
    keys.sort_unstable();
    keys.dedup();
    let lookups = keys.chunks(ACCOUNTS_PER_CALL).map(look_up);
    let trials = inquiries
        .iter()
        .filter_map(|inquiry| inquiry.simulate.as_ref())
        .map(simulate);
    let calls: Vec<Call> = lookups.chain(trials).collect();
    let mut answers = Vec::with_capacity(calls.len());
    for batch in calls.chunks(CALLS_PER_BATCH) {
        match rpc.ask_many(batch).await {
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
    let mut whole = Vec::with_capacity(inquiries.len());
    for inquiry in inquiries {
        let simulated = match &inquiry.simulate {
            None => Ok(None),
            Some(trial) => {
                let found = answers
                    .next()
                    .unwrap_or_else(|| Err(unavailable("an answer is missing")));
                simulation_of(rpc, trial, found).await.map(Some)
            }
        };
        let found = inquiry.accounts.iter().map(|key| {
            let found = accounts.get(key).cloned();
            found.unwrap_or_else(|| Err(unavailable("an account is missing")))
        });
        let found: Result<Vec<_>, Fault> = found.collect();
        whole.push(found.and_then(|accounts| {
            Ok(Answer {
                accounts,
                simulated: simulated?,
            })
        }));
    }
    whole
}

fn look_up(keys: &[Pubkey]) -> Call {
    let keys: Vec<String> = keys.iter().map(Pubkey::to_string).collect();
    let options = json!({ "encoding": "base64", "commitment": "confirmed" });
    ("getMultipleAccounts", json!([keys, options]))
}

fn simulate(transaction: &Wire) -> Call {
    let options = json!({
        "encoding": "base64",
        "commitment": "confirmed",
        // Ours is not there yet; the others were checked here, by stricter rules.
        "sigVerify": false,
    });
    (
        "simulateTransaction",
        json!([BASE64.encode(transaction.bytes()), options]),
    )
}

fn accounts_of(
    found: Result<quittance_nodes::Answer, Fault>,
    count: usize,
) -> Vec<Result<Option<Account>, Fault>> {
    let read = || {
        let found: InContext<Vec<Option<AccountJson>>> = read_answer(found?)?;
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
    trial: &Wire,
    found: Result<quittance_nodes::Answer, Fault>,
) -> Result<Simulated, Fault> {
    let mut found: InContext<SimulationJson> = read_answer(found?)?;
    if found.value.err == json!("BlockhashNotFound") {
        // A node that is a block behind does not know a new blockhash yet. The payment is at fault only if no node does.
        for other in rpc.ask_every(&simulate(trial)).await {
            if let Ok(other) = read_answer::<InContext<SimulationJson>>(other)
                && other.value.err != found.value.err
            {
                found = other;
            }
        }
    }
    let SimulationJson { err } = found.value;
    if let Some(kind) = ours(&err) {
        return Err(Fault::new(kind, format_args!("a simulation says {err}")));
    }
    Ok(Simulated {
        error: (!err.is_null()).then(|| err.to_string()),
    })
}

/// Whose fault a transaction's error is, when it is not the payment's: the fee payer is out of money, or the node cannot
/// say now.
pub(crate) fn ours(err: &Value) -> Option<FaultKind> {
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
        | "TooManyAccountLocks"
        | "CommitCancelled"
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
    fn what_the_fee_payer_lacks_is_not_the_payers_fault() {
        for err in [
            json!("InsufficientFundsForFee"),
            json!({ "InsufficientFundsForRent": { "account_index": 0 } }),
        ] {
            assert_eq!(ours(&err), Some(FaultKind::FacilitatorFunds), "{err}");
        }
        for err in [
            json!(null),
            json!("BlockhashNotFound"),
            json!({ "InsufficientFundsForRent": { "account_index": 1 } }),
            json!({ "InstructionError": [2, { "Custom": 1 }] }),
        ] {
            assert_eq!(ours(&err), None, "{err}");
        }
    }
}
