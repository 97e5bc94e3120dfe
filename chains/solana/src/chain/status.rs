//! The status of submitted transactions.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use quittance_core::{Fault, Status, Transaction, TransactionId, Watched};
use quittance_nodes::{Nodes, Object, Reply, Request, decode_reply, unavailable};
use serde_json::{Value, json};
use solana_commitment_config::CommitmentConfig;
use solana_epoch_info::EpochInfo;
use solana_rpc_client_api::config::{RpcSignatureStatusConfig, RpcTransactionConfig};
use solana_rpc_client_api::request::{MAX_GET_SIGNATURE_STATUSES_QUERY_ITEMS, RpcRequest};
use solana_transaction_status_client_types::{
    TransactionConfirmationStatus, UiTransactionEncoding,
};

use super::meta;
use super::results::{IncludedTransaction, SignatureStatus, decode_response};
use super::rpc::request;
use crate::evidence::Evidence;
use crate::transaction::PaymentTransaction;

/// The confirmations of a finalized transaction: its own block and the 31 that a vote is locked out
/// for.
pub(super) const FINALIZED_CONFIRMATIONS: u64 = 32;

/// The number of blocks for which a blockhash is valid: `MAX_PROCESSING_AGE` of the runtime.
const BLOCKHASH_BLOCKS: u64 = 150;

/// The most blocks that the node which knew a blockhash first may be ahead of the node that is
/// asked about the transaction. It is a minute's worth; a node further behind counts as stuck and
/// is asked last.
const BLOCKS_APART: u64 = 150;

/// The most signatures in one request.
pub(crate) const SIGNATURES_PER_CALL: usize = MAX_GET_SIGNATURE_STATUSES_QUERY_ITEMS;

/// The number of remembered transactions above which expired ones are forgotten: some hours of work
/// and a few megabytes.
const REMEMBERED_MAX: usize = 20_000;

/// The most included transactions in one batch: each may have ten kilobytes with its logs.
const FETCHES_PER_BATCH: usize = 40;

/// The last block height at which each pending transaction can still be included.
///
/// A blockhash does not show its age. But it existed when this program first saw it, so it expires
/// at most 150 blocks after the height of that moment. Another node may have been ahead of the one
/// that is asked. The heights need not survive a restart: then they only become certain two minutes
/// later.
#[derive(Debug, Default)]
pub(crate) struct LastValidHeights(Mutex<HashMap<TransactionId, u64>>);

impl LastValidHeights {
    fn get_or_insert(&self, id: &TransactionId, height_now: u64) -> u64 {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED_MAX {
            // Expired transactions. If one of them is asked about again, it only becomes certain
            // later.
            known.retain(|_, last_valid| *last_valid > height_now);
        }
        *known
            .entry(id.clone())
            .or_insert(height_now + BLOCKHASH_BLOCKS + BLOCKS_APART)
    }
}

impl SignatureStatus {
    /// 1 once a supermajority has voted for its block, [`FINALIZED_CONFIRMATIONS`] once that cannot
    /// be undone; `None` before.
    fn confirmations(&self) -> Option<u64> {
        match self.confirmation_status.as_ref()? {
            TransactionConfirmationStatus::Finalized => Some(FINALIZED_CONFIRMATIONS),
            TransactionConfirmationStatus::Confirmed => Some(1),
            TransactionConfirmationStatus::Processed => None,
        }
    }
}

/// Two block heights and many signatures, as one node reported them at one moment.
struct Snapshot {
    /// The newest block's height.
    newest: u64,
    /// The newest finalized block's height.
    finalized: u64,
    by_id: BTreeMap<String, Result<Option<SignatureStatus>, Fault>>,
}

/// The status of each transaction.
pub(crate) async fn fetch(
    rpc: &Nodes,
    last_valid_heights: &LastValidHeights,
    confirmations_required: u64,
    watched: &[Watched],
) -> Vec<Result<Status<Evidence>, Fault>> {
    if watched.is_empty() {
        return Vec::new();
    }
    let snapshot = match Snapshot::take(rpc, watched).await {
        Ok(snapshot) => snapshot,
        Err(fault) => return watched.iter().map(|_| Err(fault.clone())).collect(),
    };
    let deep = snapshot.deep_enough(confirmations_required);
    let mut evidence = fetch_evidence(rpc, &deep).await;
    watched
        .iter()
        .map(|watched| {
            snapshot.status(
                watched,
                last_valid_heights,
                confirmations_required,
                &mut evidence,
            )
        })
        .collect()
}

impl Snapshot {
    /// One round trip to one node for up to 256 signatures. The heights come first, so that a
    /// signature that is not found was not found at those heights.
    async fn take(rpc: &Nodes, watched: &[Watched]) -> Result<Self, Fault> {
        let mut ids: Vec<&str> = watched
            .iter()
            .flat_map(|watched| &watched.transactions)
            .map(|transaction| transaction.id.as_str())
            .collect();
        ids.sort_unstable();
        ids.dedup();
        let (processed, finalized) = (CommitmentConfig::processed(), CommitmentConfig::finalized());
        let mut requests: Vec<Request> = vec![
            request(RpcRequest::GetBlockHeight, json!([processed])),
            request(RpcRequest::GetEpochInfo, json!([finalized])),
        ];
        let options = RpcSignatureStatusConfig {
            search_transaction_history: true,
        };
        let statuses_of = |chunk: &[&str]| {
            let params = json!([chunk, options]);
            request(RpcRequest::GetSignatureStatuses, params)
        };
        requests.extend(ids.chunks(SIGNATURES_PER_CALL).map(statuses_of));
        let answers = rpc.ask_one_node_in_doubt(&requests, knows_not_all).await?;
        let mut answers = answers.into_iter();
        let mut next = || answers.next().unwrap_or(Ok(Value::Null));
        let newest: u64 = decode_reply(next())?;
        let finalized: EpochInfo = decode_reply(next())?;
        let mut by_id = BTreeMap::new();
        for chunk in ids.chunks(SIGNATURES_PER_CALL) {
            let found = statuses(next(), chunk.len(), finalized.absolute_slot);
            by_id.extend(chunk.iter().map(|id| (*id).to_owned()).zip(found));
        }
        Ok(Self {
            newest,
            finalized: finalized.block_height,
            by_id,
        })
    }

    /// The transactions whose evidence is needed.
    fn deep_enough(&self, confirmations_required: u64) -> Vec<String> {
        let deep = |status: &SignatureStatus| {
            status.err.is_null()
                && status
                    .confirmations()
                    .is_some_and(|confirmations| confirmations >= confirmations_required)
        };
        self.by_id
            .iter()
            .filter(|(_, found)| matches!(found, Ok(Some(status)) if deep(status)))
            .map(|(id, _)| id.clone())
            .collect()
    }

    fn status(
        &self,
        watched: &Watched,
        last_valid_heights: &LastValidHeights,
        confirmations_required: u64,
        evidence: &mut BTreeMap<String, Result<Evidence, Fault>>,
    ) -> Result<Status<Evidence>, Fault> {
        let mut is_dropped = true;
        for transaction in &watched.transactions {
            let id = &transaction.id;
            // Remembered at the first request, whatever its result is.
            let last_valid = last_valid_heights.get_or_insert(id, self.newest);
            let found = self.by_id.get(id.as_str()).cloned();
            let found = found.unwrap_or_else(|| Err(unavailable("the node left out a status")))?;
            let Some(status) = found else {
                is_dropped &= self.finalized > last_valid;
                continue;
            };
            // Its block is not confirmed yet.
            let Some(confirmations) = status.confirmations() else {
                is_dropped = false;
                continue;
            };
            let evidence = match evidence.get(id.as_str()) {
                _ if !status.err.is_null() => Evidence::failed(&status.err),
                _ if confirmations < confirmations_required => Evidence::default(),
                Some(found) => whole(found.clone()?, transaction)?,
                None => {
                    return Err(unavailable(
                        "the evidence of an included transaction is missing",
                    ));
                }
            };
            return Ok(Status::Included {
                id: id.clone(),
                confirmations,
                evidence,
            });
        }
        Ok(if is_dropped {
            Status::Dropped
        } else {
            Status::Pending
        })
    }
}

/// Whether a signature is unknown. A node of another cluster would report this for every signature,
/// and its block heights would end the payment.
fn knows_not_all(answers: &[Reply]) -> bool {
    let lists = answers.iter().flatten().map(|answer| &answer["value"]);
    let mut statuses = lists.filter_map(Value::as_array).flatten();
    statuses.any(Value::is_null)
}

/// Rejects evidence that omits loaded addresses: a payment whose money moved would look as if it
/// had not.
fn whole(evidence: Evidence, transaction: &Transaction) -> Result<Evidence, Fault> {
    let parsed = PaymentTransaction::parse(&transaction.bytes);
    match parsed.is_ok_and(|parsed| !parsed.is_all_loaded(&evidence.loaded)) {
        true => Err(unavailable(
            "the node does not report the addresses that a transaction loaded from lookup tables",
        )),
        false => Ok(evidence),
    }
}

fn statuses(
    answer: Reply,
    count: usize,
    finalized_slot: u64,
) -> Vec<Result<Option<SignatureStatus>, Fault>> {
    let read = || {
        let found = decode_response::<Vec<Value>>(answer)?;
        if found.value.len() != count {
            return Err(unavailable(
                "the node returned a wrong number of signature statuses",
            ));
        }
        // There may be several nodes behind one URL.
        if found.context.slot < finalized_slot {
            return Err(unavailable(
                "the node that reported signatures is behind the one that reported block heights",
            ));
        }
        Ok(found.value)
    };
    match read() {
        Ok(found) => found.into_iter().map(status).collect(),
        Err(fault) => vec![Err(fault); count],
    }
}

/// Each status is read by itself, so that one unreadable status does not hide the others.
fn status(found: Value) -> Result<Option<SignatureStatus>, Fault> {
    let found: Option<Object<SignatureStatus>> = decode_reply(Ok(found))?;
    Ok(found.map(|Object(status)| status))
}

/// The evidence of these transactions, all of which succeeded.
async fn fetch_evidence(rpc: &Nodes, ids: &[String]) -> BTreeMap<String, Result<Evidence, Fault>> {
    let mut evidence = BTreeMap::new();
    for chunk in ids.chunks(FETCHES_PER_BATCH) {
        let requests: Vec<Request> = chunk.iter().map(|id| evidence_request(id)).collect();
        let found = match rpc.ask_many(&requests).await {
            Ok(answers) => answers.into_iter().map(evidence_of).collect(),
            Err(fault) => vec![Err(fault); chunk.len()],
        };
        evidence.extend(chunk.iter().cloned().zip(found));
    }
    evidence
}

/// The request for a transaction's evidence.
pub(crate) fn evidence_request(id: &str) -> Request {
    let options = RpcTransactionConfig {
        encoding: Some(UiTransactionEncoding::Base64),
        commitment: Some(CommitmentConfig::confirmed()),
        max_supported_transaction_version: Some(0),
    };
    request(RpcRequest::GetTransaction, json!([id, options]))
}

pub(crate) fn evidence_of(answer: Reply) -> Result<Evidence, Fault> {
    let IncludedTransaction {
        meta: Object(reply),
    } = decode_reply::<Option<IncludedTransaction>>(answer)?
        // A node can know a signature before it has the transaction.
        .ok_or_else(|| unavailable("the node does not have an included transaction yet"))?;
    if !reply.err.is_null() {
        return Ok(Evidence::failed(&reply.err));
    }
    Ok(Evidence {
        error: None,
        balances: Some(meta::balances(
            reply.pre_token_balances,
            reply.post_token_balances,
        )?),
        inner_instructions: reply
            .inner_instructions
            .map(meta::inner_instructions)
            .transpose()?,
        loaded: match reply.loaded_addresses {
            Some(found) => meta::loaded(found)?,
            None => Vec::new(),
        },
    })
}

#[cfg(test)]
mod tests {
    use quittance_core::LaneId;
    use solana_message::v0::MessageAddressTableLookup;
    use solana_message::{VersionedMessage, v0};
    use solana_pubkey::Pubkey;
    use solana_signature::Signature;
    use solana_transaction::versioned::VersionedTransaction;

    use super::*;

    const ID: &str = "signature";

    fn watched() -> Watched {
        let lane = LaneId::new("fee payer");
        let transaction = Transaction {
            id: TransactionId::new(ID),
            lane: lane.clone(),
            sequence: 0,
            bytes: [].into(),
        };
        Watched {
            lane,
            sequence: 0,
            transactions: vec![transaction],
        }
    }

    /// The status of a transaction at these heights, when its signature is known like this.
    fn status_at(
        last_valid_heights: &LastValidHeights,
        newest: u64,
        finalized: u64,
        known: Option<(TransactionConfirmationStatus, Value)>,
    ) -> Status<Evidence> {
        let status = known.map(|(commitment, err)| SignatureStatus {
            err,
            confirmation_status: Some(commitment),
        });
        let snapshot = Snapshot {
            newest,
            finalized,
            by_id: [(ID.to_owned(), Ok(status))].into(),
        };
        let mut evidence = [(ID.to_owned(), Ok(Evidence::default()))].into();
        snapshot
            .status(&watched(), last_valid_heights, 1, &mut evidence)
            .unwrap()
    }

    /// attacks.md 149: only by finalized heights, and long after the first request.
    #[test]
    fn unincluded_transaction_is_dropped_after_its_last_valid_block() {
        let last_valid_heights = LastValidHeights::default();
        let dead = 1000 + BLOCKHASH_BLOCKS + BLOCKS_APART;
        assert!(matches!(
            status_at(&last_valid_heights, 1000, 968, None),
            Status::Pending
        ));
        let far = dead + 500;
        assert!(matches!(
            status_at(&last_valid_heights, far, dead, None),
            Status::Pending
        ));
        assert!(matches!(
            status_at(&last_valid_heights, far, dead + 1, None),
            Status::Dropped
        ));
        // After a restart the first request is a later one.
        let anew = LastValidHeights::default();
        assert!(matches!(
            status_at(&anew, far, dead + 1, None),
            Status::Pending
        ));
    }

    /// attacks.md 104 and 149.
    #[test]
    fn included_transaction_counts_once_its_block_is_confirmed() {
        let last_valid_heights = LastValidHeights::default();
        let at =
            |commitment, err| status_at(&last_valid_heights, 9_999, 9_900, Some((commitment, err)));
        status_at(&last_valid_heights, 1, 0, None);
        assert!(matches!(
            at(TransactionConfirmationStatus::Processed, Value::Null),
            Status::Pending
        ));
        let Status::Included { confirmations, .. } =
            at(TransactionConfirmationStatus::Confirmed, Value::Null)
        else {
            panic!("confirmed is included");
        };
        assert_eq!(confirmations, 1);
        let error = json!({ "InstructionError": [2, { "Custom": 1 }] });
        let Status::Included {
            confirmations,
            evidence,
            ..
        } = at(TransactionConfirmationStatus::Finalized, error)
        else {
            panic!("what failed is included, too");
        };
        assert_eq!(confirmations, FINALIZED_CONFIRMATIONS);
        assert!(evidence.error.is_some() && evidence.balances.is_none());
    }

    /// Regression: a node that omitted loaded addresses made a payment look as if its money had not
    /// moved.
    #[test]
    fn evidence_without_loaded_addresses_is_a_fault() {
        let table = MessageAddressTableLookup {
            account_key: Pubkey::new_from_array([1; 32]),
            writable_indexes: vec![0],
            readonly_indexes: vec![],
        };
        let mut message = v0::Message {
            account_keys: vec![Pubkey::new_from_array([2; 32])],
            address_table_lookups: vec![table],
            ..v0::Message::default()
        };
        message.header.num_required_signatures = 1;
        let transaction = VersionedTransaction {
            signatures: vec![Signature::default()],
            message: VersionedMessage::V0(message),
        };
        let [mut sent] = watched().transactions.try_into().unwrap();
        let evidence = |loaded| Evidence {
            loaded,
            ..Evidence::default()
        };
        sent.bytes = wincode::serialize(&transaction).unwrap().into();
        assert!(whole(evidence(vec![]), &sent).is_err());
        assert!(whole(evidence(vec![Pubkey::default()]), &sent).is_ok());
    }

    /// attacks.md 149: a node behind the one that reported the heights cannot prove that a
    /// signature is unknown.
    #[test]
    fn statuses_of_a_lagging_node_are_faults() {
        let answer = |slot: u64| json!({ "context": { "slot": slot }, "value": [null] });
        assert!(statuses(Ok(answer(100)), 1, 100)[0].is_ok());
        assert!(statuses(Ok(answer(99)), 1, 100)[0].is_err());
        assert!(statuses(Ok(answer(100)), 2, 100).iter().all(Result::is_err));
    }

    #[test]
    fn unreadable_status_does_not_hide_the_others() {
        let unreadable = json!({ "err": null, "confirmationStatus": "of a later version" });
        let value = json!([null, unreadable, [null, null], { "err": null }]);
        let answer = json!({ "context": { "slot": 100 }, "value": value });
        let found = statuses(Ok(answer), 4, 100);
        assert!(matches!(found[0], Ok(None)));
        assert!(found[1].is_err() && found[2].is_err());
        assert!(matches!(found[3], Ok(Some(_))));
    }
}
