//! The judge: it reads the chains, and compares them with every answer.

use std::collections::BTreeSet;
use std::fmt;

use alloy::primitives::{B256, U256, b256};
use alloy::rpc::types::Filter;
use quittance_core::Amount;
use quittance_devnet::{Evm, SOLANA_USDC, Solana, USDC};
use reqwest::Client;
use serde_json::Value;

use crate::clients::{Answer, Chain, Named, Record};
use crate::stage::Stage;

/// `AuthorizationUsed(address indexed authorizer, bytes32 indexed nonce)` of EIP-3009.
const AUTHORIZATION_USED: B256 =
    b256!("98de503528ee59b575ef0c0a2576a82497bfc029a5685b209e9ec333479b10a5");

/// The first balance of each development account, in atomic units.
const TOKENS_EACH: u64 = 1_000_000_000_000;

/// Refusals of a Solana payment that are right if it has not moved: its blockhash is too old.
const EXPIRED: [&str; 2] = ["settlement_expired", "invalid_exact_svm_payload_blockhash"];

/// What the judge found.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    payments: usize,
    moved: usize,
    succeeded: usize,
    unreported: usize,
    expired: usize,
    pub(crate) violations: Vec<String>,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} payments: {} moved, {} with an answer of success, {} whose success was lost with a \
             connection, {} expired; {} violations",
            self.payments,
            self.moved,
            self.succeeded,
            self.unreported,
            self.expired,
            self.violations.len()
        )
    }
}

pub(crate) async fn judge(stage: &Stage, (records, named): &(Vec<Record>, Named)) -> Verdict {
    let mut verdict = Verdict {
        payments: records.len(),
        ..Verdict::default()
    };
    let used = used_nonces(&stage.evm).await;
    for record in records {
        let moved = match &record.nonce {
            Some(nonce) => used.contains(&nonce.parse::<B256>().unwrap()),
            // The sum below shows whether this was true.
            None => record.answers.iter().any(says_moved),
        };
        judge_record(&mut verdict, record, moved);
    }
    check_sums(&mut verdict, stage, records, &used).await;
    check_journal(&mut verdict, stage, named).await;
    if stage.logs().contains("panicked") {
        verdict.violations.push("a facilitator panicked".to_owned());
    }
    verdict
}

/// Whether an answer means that the money has moved.
fn says_moved(answer: &Answer) -> bool {
    match answer {
        Answer::Success | Answer::SuccessAgain => true,
        Answer::Refused(reason) => reason == "duplicate_settlement",
        Answer::Undecided(_) | Answer::None => false,
    }
}

fn judge_record(verdict: &mut Verdict, record: &Record, moved: bool) {
    let count = |wanted: &Answer| record.answers.iter().filter(|one| *one == wanted).count();
    let successes = count(&Answer::Success);
    let reported = successes + count(&Answer::SuccessAgain) > 0;
    let mut violation = |what: &str| verdict.violations.push(format!("{what}: {record:?}"));
    if successes > 1 {
        violation("success was answered twice");
    }
    if !moved && record.answers.iter().any(says_moved) {
        violation("success was answered, and the money has not moved");
    }
    if moved && !reported && !record.lost_an_answer() {
        violation("the money has moved, and no answer said so");
    }
    let refused: Vec<&str> = record
        .answers
        .iter()
        .filter_map(|answer| match answer {
            Answer::Refused(reason) if !says_moved(answer) => Some(&**reason),
            _ => None,
        })
        .collect();
    let is_expired = record.chain == Chain::Solana
        && !moved
        && refused.iter().all(|reason| EXPIRED.contains(reason));
    if !refused.is_empty() && !is_expired {
        violation("a valid payment was refused");
    }
    if !record.answers.last().is_some_and(Answer::is_final) {
        violation("the payment was not decided in time");
    }
    verdict.moved += usize::from(moved);
    verdict.succeeded += usize::from(reported);
    verdict.unreported += usize::from(moved && !reported);
    verdict.expired += usize::from(!refused.is_empty() && is_expired);
}

/// The nonces of all authorizations that the chain has used.
async fn used_nonces(evm: &Evm) -> BTreeSet<B256> {
    let filter = Filter::new()
        .from_block(0)
        .address(USDC)
        .event_signature(AUTHORIZATION_USED);
    let logs: Vec<alloy::rpc::types::Log> = evm.rpc("eth_getLogs", (filter,)).await.unwrap();
    let nonces: Vec<B256> = logs.iter().map(|log| log.topics()[2]).collect();
    let distinct: BTreeSet<B256> = nonces.iter().copied().collect();
    assert_eq!(nonces.len(), distinct.len(), "the token uses a nonce once");
    distinct
}

/// The seller's money on each chain is the sum of the payments that have moved.
async fn check_sums(
    verdict: &mut Verdict,
    stage: &Stage,
    records: &[Record],
    used: &BTreeSet<B256>,
) {
    let sum = |chain: Chain, moved: &dyn Fn(&Record) -> bool| -> Amount {
        let amounts = records
            .iter()
            .filter(|record| record.chain == chain && moved(record))
            .map(|record| record.amount.units());
        Amount::new(amounts.fold(U256::ZERO, |sum, amount| sum + amount))
    };
    let is_used = |record: &Record| {
        let nonce = record.nonce.as_ref().map(|nonce| nonce.parse::<B256>());
        nonce.is_some_and(|nonce| used.contains(&nonce.unwrap()))
    };
    let seller = Evm::accounts()[1].address;
    let balance = stage.evm.balance(USDC, seller).await.unwrap();
    let received = Amount::new(balance - U256::from(TOKENS_EACH));
    let expected = sum(Chain::Evm, &is_used);
    if received != expected {
        let what = format!("the EVM seller has {received}, and {expected} have moved");
        verdict.violations.push(what);
    }
    let seller = Solana::accounts()[2].address;
    let program = quittance_solana::TokenProgram::SplToken.id();
    let balance = stage.solana.balance(&seller, &SOLANA_USDC, &program);
    let received = Amount::from(balance.await.unwrap() - TOKENS_EACH);
    let expected = sum(Chain::Solana, &|record| {
        record.answers.iter().any(says_moved)
    });
    if received != expected {
        let what = format!("the Solana seller has {received}, and answers say {expected}");
        verdict.violations.push(what);
    }
}

/// The journal knows every id that an answer has named, and nothing is open any more.
async fn check_journal(verdict: &mut Verdict, stage: &Stage, named: &Named) {
    let client = Client::new();
    let url = &stage.facilitators[0].url;
    for id in &named.settlements {
        let get = client.get(format!("{url}/settlements/{id}"));
        let settlement: Value = get.send().await.unwrap().json().await.unwrap();
        let state = settlement["state"].as_str().unwrap_or("unknown").to_owned();
        if state != "settled" && state != "failed" {
            let what = format!("settlement {id} is {state} at the end");
            verdict.violations.push(what);
        }
    }
    for id in &named.transactions {
        let get = client.get(format!("{url}/settlements?transaction={id}"));
        let found: Value = get.send().await.unwrap().json().await.unwrap();
        if found["settlements"].as_array().is_none_or(Vec::is_empty) {
            let what = format!("the journal does not know transaction {id}");
            verdict.violations.push(what);
        }
    }
}
