//! The parts of nodes' results that decide something.
//!
//! Alloy's types require every field of the specification. Chains and gateways leave some out, or
//! write them in their own way: IoTeX reports status codes above 1 for failed transactions. A field
//! that decides nothing must not leave a payment undecided for ever, so these types have the needed
//! fields only.

use alloy::primitives::{B256, Bytes, Log, U64, U128};
use serde::Deserialize;

use crate::evidence::Evidence;

/// A result of `eth_getTransactionReceipt`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Receipt {
    pub(super) transaction_hash: B256,
    /// Missing or zero while the transaction is only expected to be in a block.
    pub(super) block_hash: Option<B256>,
    pub(super) block_number: Option<U64>,
    /// 1 is a success (EIP-658). Every other value is a failure.
    status: U64,
    logs: Vec<Log>,
}

impl Receipt {
    pub(super) fn into_evidence(self) -> Evidence {
        Evidence::new(self.status == U64::from(1), self.logs)
    }
}

/// A result of `eth_getBlockByNumber`, of a block that may have been replaced.
#[derive(Debug, Deserialize)]
pub(super) struct Block {
    /// `null` while the block is being built.
    pub(super) hash: Option<B256>,
}

/// A result of `eth_getBlockByNumber` for the newest block.
#[derive(Debug, Deserialize)]
pub(crate) struct Head {
    pub(crate) number: U64,
    /// Seconds since the Unix epoch.
    pub(crate) timestamp: U64,
}

/// An entry of a result of `eth_getLogs`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FoundLog {
    pub(super) transaction_hash: B256,
    #[serde(flatten)]
    pub(super) log: Log,
    /// Whether the log's block was replaced.
    #[serde(default)]
    pub(super) removed: bool,
}

/// A result of `eth_getTransactionByHash`.
#[derive(Debug, Deserialize)]
pub(super) struct Sent {
    pub(super) input: Bytes,
}

/// A result of `eth_feeHistory`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FeeHistory {
    /// In wei, of each block and of the next one.
    pub(super) base_fee_per_gas: Vec<U128>,
    /// The tips of each block at the requested percentiles, in wei.
    #[serde(default)]
    pub(super) reward: Vec<Vec<U128>>,
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{address, b256};
    use serde_json::json;

    use super::*;

    /// IoTeX reports its own codes for reverts: such a payment was never decided.
    #[test]
    fn any_status_but_one_is_a_failure() {
        let receipt = |status: &str| {
            let receipt = json!({
                "transactionHash": B256::repeat_byte(9), "blockHash": B256::repeat_byte(1), "blockNumber": "0x5",
                "status": status, "logs": [],
            });
            serde_json::from_value::<Receipt>(receipt).unwrap()
        };
        assert!(receipt("0x1").into_evidence().succeeded);
        for failure in ["0x0", "0x2", "0x6a"] {
            assert!(!receipt(failure).into_evidence().succeeded, "{failure}");
        }
    }

    #[test]
    fn fields_that_decide_nothing_may_be_missing_or_odd() {
        let token = address!("036CbD53842c5426634e7929541eC2318f3dCF7e");
        let topic = b256!("ddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef");
        let receipt = json!({
            "transactionHash": B256::repeat_byte(9), "blockHash": null, "blockNumber": null, "status": "0x1",
            "type": "unknown", "effectiveGasPrice": null,
            "logs": [{ "address": token, "topics": [topic], "data": "0x01", "logIndex": "first" }],
        });
        let receipt: Receipt = serde_json::from_value(receipt).unwrap();
        assert!(receipt.block_hash.is_none() && receipt.block_number.is_none());
        let evidence = receipt.into_evidence();
        assert_eq!(evidence.logs_of(token).count(), 1);
        let block: Block = serde_json::from_value(json!({ "hash": null, "miner": 5 })).unwrap();
        assert_eq!(block.hash, None);
        let head = json!({ "number": "0x5", "timestamp": "0x6" });
        let head: Head = serde_json::from_value(head).unwrap();
        assert_eq!((head.number, head.timestamp), (U64::from(5), U64::from(6)));
    }

    #[test]
    fn a_receipt_without_a_status_is_not_one() {
        let receipt = json!({ "transactionHash": B256::ZERO, "logs": [] });
        assert!(serde_json::from_value::<Receipt>(receipt).is_err());
        assert!(serde_json::from_value::<Head>(json!({ "number": "0x5" })).is_err());
    }
}
