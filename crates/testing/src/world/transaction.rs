//! What accounts sign: payers sign authorizations, and facilitators sign transactions.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use quittance_core::{Amount, LaneId, Network, PaymentId, Transaction, TransactionId};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::FEE;
use super::address::{Address, hex_text};

/// A payer's permission to move an amount once, before a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authorization {
    /// The name of the asset.
    pub asset: String,
    /// The payer.
    pub from: Address,
    /// The recipient.
    pub to: Address,
    /// The amount in atomic units.
    pub amount: Amount,
    /// A number that the payer uses once. 32 bytes.
    #[serde(with = "hex_text")]
    pub nonce: [u8; 32],
    /// The first second, since the Unix epoch, in which it is no longer valid; or the first height,
    /// in worlds that count heights.
    pub expires: u64,
}

impl Authorization {
    /// The bytes that the payer signs. They name the network, so that no other chain accepts them.
    pub fn message(&self, network: &Network) -> Vec<u8> {
        let text = serde_json::to_string(self).expect("an authorization can be written as JSON");
        format!("transfer on {}: {text}", network.id()).into_bytes()
    }

    /// What makes this authorization unique on its chain: the network, the payer and the nonce. The
    /// signature is not a part of it, because others could write it in another way.
    pub fn id(&self, network: &Network) -> PaymentId {
        PaymentId::from_parts(&[network.id().as_bytes(), &self.from.0, &self.nonce])
    }

    /// Signs it with the payer's key.
    pub fn sign(self, network: &Network, key: &SigningKey) -> Transfer {
        let signature = key.sign(&self.message(network)).to_bytes();
        Transfer {
            authorization: self,
            signature,
            carrier: None,
        }
    }
}

/// A signed authorization: the action of this chain, and the payload of its payments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transfer {
    /// What is permitted.
    pub authorization: Authorization,
    /// The payer's Ed25519 signature.
    #[serde(with = "hex_text")]
    pub signature: [u8; 64],
    /// The payer's own transaction, if the payer sends the transfer and pays the fee.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carrier: Option<Carrier>,
}

/// The payer's own transaction with one transfer, without the transfer: what the payer adds to its
/// authorization if it signs the whole transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carrier {
    /// The payer's number for it. Payers use their numbers in any order, and each once.
    pub number: u64,
    /// In units of the chain's coin.
    pub fee: u64,
    /// The first second in which no block includes it any more; `None` for never.
    pub expires: Option<u64>,
    /// The payer's Ed25519 signature of the transaction.
    #[serde(with = "hex_text")]
    pub signature: [u8; 64],
}

impl Transfer {
    /// The transfer in a transaction of its payer's own. No block includes it from `expires` on.
    pub fn carried(
        self,
        network: &Network,
        key: &SigningKey,
        number: u64,
        expires: Option<u64>,
    ) -> Self {
        let content = self.carrier_content(number, FEE, expires);
        let signature = SignedContent::sign(content, network, key).signature;
        let carrier = Some(Carrier {
            number,
            fee: FEE,
            expires,
            signature,
        });
        Self { carrier, ..self }
    }

    /// The payer's transaction, if the payer has signed one.
    pub(crate) fn carrier_transaction(&self) -> Option<SignedContent> {
        let carrier = self.carrier.as_ref()?;
        Some(SignedContent {
            content: self.carrier_content(carrier.number, carrier.fee, carrier.expires),
            signature: carrier.signature,
        })
    }

    fn carrier_content(&self, number: u64, fee: u64, expires: Option<u64>) -> Content {
        Content {
            signer: self.authorization.from,
            sequence: number,
            in_any_order: true,
            fee,
            expires,
            transfers: vec![Self {
                carrier: None,
                ..self.clone()
            }],
        }
    }

    /// Whether this key signed it.
    pub(crate) fn is_signed(&self, network: &Network, key: &[u8; 32]) -> bool {
        is_signed_by(key, &self.authorization.message(network), &self.signature)
    }
}

/// What a signer signs. A transaction without transfers only uses up its sequence number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Content {
    pub(crate) signer: Address,
    pub(crate) sequence: u64,
    /// Whether the signer uses this number in any order, as payers do. Facilitators use theirs in
    /// order.
    pub(crate) in_any_order: bool,
    /// In units of the chain's coin.
    pub(crate) fee: u64,
    /// The first second in which no block includes it any more; `None` for never.
    pub(crate) expires: Option<u64>,
    pub(crate) transfers: Vec<Transfer>,
}

/// A signed [`Content`], as nodes take it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SignedContent {
    pub(crate) content: Content,
    #[serde(with = "hex_text")]
    pub(crate) signature: [u8; 64],
}

impl SignedContent {
    pub(crate) fn sign(content: Content, network: &Network, key: &SigningKey) -> Self {
        let signature = key.sign(&content_message(&content, network)).to_bytes();
        Self { content, signature }
    }

    pub(crate) fn is_signed(&self, network: &Network) -> bool {
        let message = content_message(&self.content, network);
        is_signed_by(&self.content.signer.0, &message, &self.signature)
    }

    /// The bytes that are sent, the same every time.
    pub(crate) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a transaction can be written as JSON")
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// The transaction as the engine knows it. Its id is the hash of its bytes.
    pub(crate) fn to_transaction(&self) -> Transaction {
        let bytes = self.encode();
        Transaction {
            id: id_of(&bytes),
            lane: LaneId::new(&self.content.signer.to_string()),
            sequence: self.content.sequence,
            bytes: bytes.into(),
        }
    }
}

pub(crate) fn id_of(bytes: &[u8]) -> TransactionId {
    TransactionId::new(&hex::encode(Sha256::digest(bytes)))
}

/// The bytes that a signer signs.
pub(crate) fn content_message(content: &Content, network: &Network) -> Vec<u8> {
    let text = serde_json::to_string(content).expect("a transaction can be written as JSON");
    format!("transaction on {}: {text}", network.id()).into_bytes()
}

pub(crate) fn is_signed_by(key: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> bool {
    VerifyingKey::from_bytes(key).is_ok_and(|key| {
        key.verify_strict(message, &Signature::from_bytes(signature))
            .is_ok()
    })
}
