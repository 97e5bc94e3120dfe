//! Transactions of payments: bytes are parsed into a structure that means what the runtime takes it
//! to mean.

use std::fmt;
use std::sync::Arc;

use quittance_core::{Fault, FaultKind, Network, PaymentId};
use solana_hash::Hash;
use solana_message::VersionedMessage;
use solana_message::compiled_instruction::CompiledInstruction;
use solana_message::v0::MessageAddressTableLookup;
use solana_pubkey::Pubkey;
use solana_signature::Signature;
use solana_signer::Signer;
use solana_transaction::versioned::VersionedTransaction;

use crate::fee_payers::FeePayers;
use crate::instruction::Instruction;

/// The longest transaction in bytes: what fits into one IPv6 packet (`PACKET_DATA_SIZE` of the
/// runtime).
pub(crate) const SIZE_MAX: usize = 1232;

/// A transaction that was parsed from bytes and serializes to the same bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct PaymentTransaction {
    transaction: VersionedTransaction,
    message: Arc<[u8]>,
}

/// Why bytes are not a transaction.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PaymentTransactionError {
    /// The bytes do not fit into a packet.
    #[error("{0} bytes, more than the maximum of {SIZE_MAX}")]
    TooLong(usize),
    /// The bytes are not the encoding of a transaction, or are longer.
    #[error("not a transaction: {0}")]
    Unreadable(String),
    /// A lenient parser reads a transaction, but the runtime would encode it differently.
    #[error("not in canonical form")]
    NotCanonical,
    /// The version is unknown, so its meaning is too.
    #[error("the version is neither legacy nor 0")]
    Version,
    /// An index is out of bounds, the signers do not match the header, or an account is listed
    /// twice.
    #[error("inconsistent: {0}")]
    NotSane(&'static str),
}

impl PaymentTransaction {
    /// Parses a transaction: every byte, and only the canonical encoding.
    ///
    /// # Errors
    /// When the bytes are not a transaction.
    pub fn parse(bytes: &[u8]) -> Result<Self, PaymentTransactionError> {
        if bytes.len() > SIZE_MAX {
            return Err(PaymentTransactionError::TooLong(bytes.len()));
        }
        let transaction: VersionedTransaction = wincode::deserialize_exact(bytes)
            .map_err(|error| PaymentTransactionError::Unreadable(error.to_string()))?;
        let again = wincode::serialize(&transaction);
        if again.ok().as_deref() != Some(bytes) {
            return Err(PaymentTransactionError::NotCanonical);
        }
        Self::new(transaction)
    }

    /// Checks a transaction.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub fn new(transaction: VersionedTransaction) -> Result<Self, PaymentTransactionError> {
        if matches!(transaction.message, VersionedMessage::V1(_)) {
            return Err(PaymentTransactionError::Version);
        }
        if transaction.sanitize().is_err() {
            return Err(PaymentTransactionError::NotSane(
                "an index or a count is out of bounds",
            ));
        }
        let keys = transaction.message.static_account_keys();
        let twice = keys
            .iter()
            .enumerate()
            .any(|(at, key)| keys.iter().take(at).any(|earlier| earlier == key));
        if twice {
            return Err(PaymentTransactionError::NotSane(
                "an account is listed twice",
            ));
        }
        Ok(Self {
            message: transaction.message.serialize().into(),
            transaction,
        })
    }

    /// The bytes that the signers sign.
    pub fn message(&self) -> &Arc<[u8]> {
        &self.message
    }

    /// The transaction as it is submitted.
    pub fn bytes(&self) -> Vec<u8> {
        // A parsed transaction always serializes; every node would refuse an empty one.
        wincode::serialize(&self.transaction).unwrap_or_default()
    }

    /// The fee payer: the first account.
    pub fn fee_payer(&self) -> Option<&Pubkey> {
        self.keys().first()
    }

    /// The signers, the fee payer first, each with its signature.
    pub fn signers(&self) -> impl Iterator<Item = (&Pubkey, &Signature)> {
        self.keys().iter().zip(&self.transaction.signatures)
    }

    /// The accounts listed in the transaction itself, signers first.
    pub fn keys(&self) -> &[Pubkey] {
        self.transaction.message.static_account_keys()
    }

    /// The recent blockhash. It bounds the time until inclusion.
    pub fn blockhash(&self) -> &Hash {
        self.transaction.message.recent_blockhash()
    }

    /// The lookup tables that it uses.
    pub fn lookups(&self) -> &[MessageAddressTableLookup] {
        self.transaction
            .message
            .address_table_lookups()
            .unwrap_or_default()
    }

    /// Whether `loaded` has as many addresses as the transaction loads from lookup tables.
    pub(crate) fn is_all_loaded(&self, loaded: &[Pubkey]) -> bool {
        let taken = |lookup: &MessageAddressTableLookup| {
            lookup.writable_indexes.len() + lookup.readonly_indexes.len()
        };
        self.lookups().iter().map(taken).sum::<usize>() == loaded.len()
    }

    /// All its accounts: those listed in the transaction itself, then those `loaded` from lookup
    /// tables. Instructions refer to them by index.
    pub fn accounts<'a>(&'a self, loaded: &'a [Pubkey]) -> impl Iterator<Item = &'a Pubkey> {
        self.keys().iter().chain(loaded)
    }

    /// The instructions with addresses, given the addresses `loaded` from lookup tables; `None` if
    /// an index is out of bounds.
    pub fn instructions(&self, loaded: &[Pubkey]) -> Option<Vec<Instruction>> {
        let compiled = self.transaction.message.instructions();
        let whole = compiled.iter().map(|found| self.instruction(found, loaded));
        whole.collect()
    }

    /// One instruction with addresses, top-level or inner.
    pub(crate) fn instruction(
        &self,
        compiled: &CompiledInstruction,
        loaded: &[Pubkey],
    ) -> Option<Instruction> {
        let key = |index: &u8| self.accounts(loaded).nth(usize::from(*index)).copied();
        Some(Instruction {
            program: key(&compiled.program_id_index)?,
            accounts: compiled.accounts.iter().map(key).collect::<Option<_>>()?,
            data: compiled.data.clone(),
        })
    }

    /// The instructions without the accounts that only a lookup table has. `None` if a program
    /// would be in a table, which the runtime does not allow.
    pub(crate) fn instructions_shown(&self) -> Option<Vec<Instruction>> {
        let key = |index: &u8| self.keys().get(usize::from(*index)).copied();
        let compiled = self.transaction.message.instructions().iter();
        let shown = compiled.map(|found| {
            Some(Instruction {
                program: key(&found.program_id_index)?,
                accounts: found.accounts.iter().filter_map(key).collect(),
                data: found.data.clone(),
            })
        });
        shown.collect()
    }

    /// Signs as the fee payer. This is the only place where a key of this program signs a
    /// transaction. It is also the last check that no instruction mentions any of the `fee_payers`:
    /// they only pay the fee.
    ///
    /// # Errors
    /// When the signer is not the transaction's fee payer; an instruction mentions one of the
    /// `fee_payers`; `loaded` is incomplete, so a lookup table could hide one; or the key does not
    /// sign.
    pub(crate) fn sign(
        &self,
        signer: &dyn Signer,
        fee_payers: &FeePayers,
        loaded: &[Pubkey],
        allow_lighthouse: bool,
    ) -> Result<(Signature, Vec<u8>), Fault> {
        let broken = |what: &str| Fault::new(FaultKind::Internal, what);
        if !self.is_all_loaded(loaded) {
            return Err(broken(
                "not signed: the addresses of lookup tables are incomplete",
            ));
        }
        let instructions = self
            .instructions(loaded)
            .ok_or_else(|| broken("not signed: an instruction refers to a missing account"))?;
        if fee_payers
            .mentioned_in(&instructions, allow_lighthouse)
            .is_some()
        {
            return Err(broken("not signed: an instruction mentions a fee payer"));
        }
        if self.fee_payer() != Some(&signer.pubkey()) {
            return Err(broken(
                "not signed: the signer is not the fee payer of the transaction",
            ));
        }
        let signature = signer
            .try_sign_message(&self.message)
            .map_err(|error| broken(&format!("the fee payer's signer failed: {error}")))?;
        let mut signed = self.clone();
        match signed.transaction.signatures.first_mut() {
            Some(first) => *first = signature,
            None => {
                return Err(broken(
                    "the transaction has no slot for the fee payer's signature",
                ));
            }
        }
        Ok((signature, signed.bytes()))
    }
}

/// The identity of a payment by the transaction with this message: the runtime includes a message
/// once, whatever its signatures are.
pub(crate) fn payment_id(network: &Network, message: &[u8]) -> PaymentId {
    PaymentId::from_parts(&[b"exact svm", network.id().as_bytes(), message])
}

impl fmt::Debug for PaymentTransaction {
    /// Omits the bytes: a signed transaction is worth money until it is included.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire")
            .field("keys", &self.keys())
            .field("blockhash", self.blockhash())
            .finish_non_exhaustive()
    }
}
