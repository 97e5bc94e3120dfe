//! Results of Solana's nodes that decide about a payment.
//!
//! Their parts are the library's types, and all other results are wholly the library's. These are
//! not, because the library's type refuses what some nodes send, or accepts what proves nothing:
//!
//! * It reads a result without the field `err` as a success.
//! * It knows a fixed list of errors. A payment that fails with a newer error would stay undecided.
//! * It requires the deprecated field `status`, which some gateways send as `{}`
//!   (solana-labs/solana#9297).
//! * It requires that an account's `rentEpoch` is an exact 64-bit integer. Some gateways round it
//!   (anza-xyz/agave#2950).

use quittance_core::Fault;
use quittance_nodes::{Object, Reply, decode_reply};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use solana_account_decoder_client_types::{UiAccountData, UiAccountEncoding};
use solana_rpc_client_api::response::Response;
use solana_transaction::versioned::VersionedTransaction;
use solana_transaction_status_client_types::{
    EncodedTransaction, TransactionBinaryEncoding, TransactionConfirmationStatus,
    UiInnerInstructions, UiLoadedAddresses, UiTransactionTokenBalance,
};

use crate::account::Account;

/// An account of `getMultipleAccounts`.
#[derive(Debug, Deserialize)]
pub(super) struct FoundAccount {
    owner: String,
    data: UiAccountData,
}

impl FoundAccount {
    /// The account; `None` if it is unreadable or not in the encoding that was requested. Another
    /// encoding takes quadratic time, or expands to more than the reply.
    pub(super) fn account(&self) -> Option<Account> {
        let UiAccountData::Binary(_, UiAccountEncoding::Base64) = &self.data else {
            return None;
        };
        Some(Account {
            owner: self.owner.parse().ok()?,
            data: self.data.decode()?,
        })
    }
}

/// The result of `simulateTransaction`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Simulation {
    pub(super) err: Value,
    pub(super) inner_instructions: Option<Vec<UiInnerInstructions>>,
    /// Nodes before version 3 do not report balances.
    pub(super) pre_token_balances: Option<Vec<UiTransactionTokenBalance>>,
    pub(super) post_token_balances: Option<Vec<UiTransactionTokenBalance>>,
}

/// The status of a signature.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SignatureStatus {
    /// A missing error counts as none: before a payment counts as settled, `getTransaction` must
    /// report its error, and that one decides.
    #[serde(default)]
    pub(super) err: Value,
    pub(super) confirmation_status: Option<TransactionConfirmationStatus>,
}

/// The result of `getTransaction` for an included transaction. A reply without one of its fields is
/// a fault.
#[derive(Debug, Deserialize)]
pub(super) struct IncludedTransaction {
    pub(super) meta: Object<IncludedMeta>,
}

/// What an included transaction did.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct IncludedMeta {
    pub(super) err: Value,
    pub(super) pre_token_balances: Vec<UiTransactionTokenBalance>,
    pub(super) post_token_balances: Vec<UiTransactionTokenBalance>,
    /// Missing if the node does not store them.
    pub(super) inner_instructions: Option<Vec<UiInnerInstructions>>,
    /// Missing if the transaction has no lookup tables.
    pub(super) loaded_addresses: Option<UiLoadedAddresses>,
}

/// A transaction in the result of `getSignaturesForAddress`. Its error is not read, because other
/// accounts can make failed transactions that name the payer's account.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ListedTransaction {
    pub(crate) signature: String,
    pub(crate) slot: u64,
    pub(crate) block_time: Option<u64>,
    /// The transaction's memos, each after its length; missing if the node does not store them.
    pub(crate) memo: Option<String>,
}

/// The result of `getTransaction` for a transaction that may be a payment.
#[derive(Debug, Deserialize)]
pub(crate) struct FetchedTransaction {
    transaction: EncodedTransaction,
    /// Missing if the node does not store it.
    pub(crate) meta: Option<Object<FetchedMeta>>,
}

/// What became of a transaction that may be a payment.
#[derive(Debug, Deserialize)]
pub(crate) struct FetchedMeta {
    pub(crate) err: Value,
}

impl FetchedTransaction {
    /// The transaction; `None` if it is unreadable or not in the encoding that was requested, as in
    /// [`FoundAccount::account`].
    pub(crate) fn transaction(&self) -> Option<VersionedTransaction> {
        let EncodedTransaction::Binary(_, TransactionBinaryEncoding::Base64) = self.transaction
        else {
            return None;
        };
        self.transaction.decode()
    }
}

/// Decodes a result that names the slot at which the node answered.
///
/// # Errors
/// If the node replied with an error, or with a result of another type.
pub(crate) fn decode_response<T: DeserializeOwned>(reply: Reply) -> Result<Response<T>, Fault> {
    decode_reply(reply.map(without_version))
}

/// The result without the version of the node's software. It decides nothing, and the library
/// refuses a whole result if the version is not one. One provider sends an empty version
/// (hyperlane-xyz/hyperlane-monorepo#9547).
pub(super) fn without_version(mut result: Value) -> Value {
    let context = result.get_mut("context").and_then(Value::as_object_mut);
    if let Some(context) = context {
        context.remove("apiVersion");
    }
    result
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD as BASE64;
    use serde_json::{from_value, json};
    use solana_account_decoder_client_types::UiAccount;
    use solana_message::{MessageHeader, VersionedMessage, v0};
    use solana_pubkey::Pubkey;
    use solana_rpc_client_api::response::RpcSimulateTransactionResult;
    use solana_signature::Signature;
    use solana_transaction_status_client_types::{
        TransactionStatus, UiTransactionError, UiTransactionStatusMeta,
    };

    use super::*;

    /// The library reads a result that does not say whether the transaction failed as a success.
    #[test]
    fn result_without_an_error_field_proves_nothing() {
        let simulated = json!({ "logs": [] });
        let simulation: RpcSimulateTransactionResult = from_value(simulated.clone()).unwrap();
        assert!(simulation.err.is_none());
        assert!(from_value::<Simulation>(simulated).is_err());

        let included = json!({
            "status": { "Ok": null }, "fee": 5000, "preBalances": [], "postBalances": [],
            "preTokenBalances": [], "postTokenBalances": [],
        });
        let meta: UiTransactionStatusMeta = from_value(included.clone()).unwrap();
        assert!(meta.err.is_none());
        assert!(from_value::<IncludedMeta>(included.clone()).is_err());

        let fetched = |meta: &Value| {
            let text = json!({ "transaction": ["", "base64"], "meta": meta });
            from_value::<FetchedTransaction>(text)
        };
        for meta in [included, json!({}), json!([null]), json!([])] {
            assert!(fetched(&meta).is_err(), "{meta}");
        }
        assert!(fetched(&Value::Null).unwrap().meta.is_none());
        let without = json!({ "transaction": ["", "base64"] });
        let without: FetchedTransaction = from_value(without).unwrap();
        assert!(without.meta.is_none());
    }

    /// A payment that failed with an error of a newer runtime has failed.
    #[test]
    fn unknown_error_is_an_error() {
        let err = json!({ "ErrorOfALaterVersion": 1 });
        assert!(from_value::<UiTransactionError>(err.clone()).is_err());
        let simulated = json!({ "err": err });
        assert!(from_value::<RpcSimulateTransactionResult>(simulated.clone()).is_err());
        assert_eq!(from_value::<Simulation>(simulated).unwrap().err, err);
        let status = json!({
            "slot": 1, "confirmations": null, "err": err, "status": { "Err": err },
            "confirmationStatus": "finalized",
        });
        assert!(from_value::<TransactionStatus>(status.clone()).is_err());
        assert_eq!(from_value::<SignatureStatus>(status).unwrap().err, err);
    }

    #[test]
    fn deprecated_status_field_is_not_required() {
        for status in [json!({}), Value::Null] {
            let found = json!({
                "slot": 1, "confirmations": null, "err": null, "status": status,
                "confirmationStatus": "confirmed",
            });
            assert!(from_value::<TransactionStatus>(found.clone()).is_err());
            assert!(from_value::<SignatureStatus>(found).is_ok());
        }
    }

    #[test]
    fn rounded_rent_epoch_is_accepted() {
        let account = json!({
            "lamports": 1, "data": ["AQI=", "base64"], "executable": false, "space": 2,
            "owner": "TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA",
            "rentEpoch": 18_446_744_073_709_552_000_f64,
        });
        assert!(from_value::<UiAccount>(account.clone()).is_err());
        let found: FoundAccount = from_value(account).unwrap();
        assert_eq!(found.account().unwrap().data, [1, 2]);
    }

    #[test]
    fn account_in_another_encoding_is_unreadable() {
        let owner = "TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA";
        for data in [
            json!("2VfUX"),
            json!(["2VfUX", "base58"]),
            json!(["KLUv/SAAAQAA", "base64+zstd"]),
            json!(["not base64", "base64"]),
            json!({ "program": "spl-token", "parsed": {}, "space": 165 }),
        ] {
            let found: FoundAccount = from_value(json!({ "owner": owner, "data": data })).unwrap();
            assert_eq!(found.account(), None, "{data}");
        }
    }

    #[test]
    fn transaction_in_another_encoding_is_unreadable() {
        let transaction = VersionedTransaction {
            signatures: vec![Signature::default()],
            message: VersionedMessage::V0(v0::Message {
                header: MessageHeader {
                    num_required_signatures: 1,
                    ..MessageHeader::default()
                },
                account_keys: vec![Pubkey::default()],
                ..v0::Message::default()
            }),
        };
        let bytes = wincode::serialize(&transaction).unwrap();
        let (in_64, in_58) = (BASE64.encode(&bytes), bs58::encode(&bytes).into_string());
        let read = |text: &Value| {
            let found = json!({ "transaction": text, "meta": null });
            from_value::<FetchedTransaction>(found)
                .unwrap()
                .transaction()
        };
        assert_eq!(read(&json!([in_64, "base64"])), Some(transaction));
        for text in [
            json!(in_58),
            json!([in_58, "base58"]),
            json!(["not base64", "base64"]),
            json!({ "signatures": [], "message": { "accountKeys": [], "recentBlockhash": "",
                "header": { "numRequiredSignatures": 1, "numReadonlySignedAccounts": 0,
                    "numReadonlyUnsignedAccounts": 0 }, "instructions": [] } }),
        ] {
            assert_eq!(read(&text), None, "{text}");
        }
    }

    #[test]
    fn version_of_a_node_decides_nothing() {
        for version in ["", "mainnet", "4.2.2"] {
            let context = json!({ "slot": 7, "apiVersion": version });
            let reply = Ok(json!({ "context": context, "value": true }));
            let found = decode_response::<bool>(reply).unwrap();
            assert!(found.value && found.context.slot == 7, "{version}");
        }
        assert!(decode_response::<bool>(Ok(json!({ "value": true }))).is_err());
    }
}
