//! Transactions as they travel: bytes in, a structure out that can be trusted to mean what the runtime takes it to mean.

use std::fmt;
use std::sync::Arc;

use quittance_core::{Fault, FaultKind};
use solana_hash::Hash;
use solana_message::VersionedMessage;
use solana_message::compiled_instruction::CompiledInstruction;
use solana_message::v0::MessageAddressTableLookup;
use solana_pubkey::Pubkey;
use solana_signature::Signature;
use solana_signer::Signer;
use solana_transaction::versioned::VersionedTransaction;

use crate::instruction::is_guard;

/// The longest a transaction may be: what fits one packet of IPv6 (`PACKET_DATA_SIZE` of the runtime).
pub(crate) const SIZE_MAX: usize = 1232;

/// A transaction that was read from bytes, and would be written as the same bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct PaymentTransaction {
    transaction: VersionedTransaction,
    message: Arc<[u8]>,
}

/// Why bytes are no transaction.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PaymentTransactionError {
    /// More than a packet holds.
    #[error("{0} bytes, more than the possible {SIZE_MAX}")]
    TooLong(usize),
    /// Not the encoding of a transaction, or not to the last byte.
    #[error("not a transaction: {0}")]
    Unreadable(String),
    /// Read leniently it is a transaction, but it is not written as the runtime writes it.
    #[error("not in canonical form")]
    NotCanonical,
    /// A version of which it is not known what it means.
    #[error("neither a legacy transaction nor one of version 0")]
    Version,
    /// Indexes out of bounds, signers that do not fit the header, an account named twice.
    #[error("contradicts itself: {0}")]
    NotSane(&'static str),
}

/// One instruction with its accounts in full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    /// Who runs.
    pub program: Pubkey,
    /// On what.
    pub accounts: Vec<Pubkey>,
    /// With what.
    pub data: Vec<u8>,
}

impl PaymentTransaction {
    /// Reads a transaction: every byte, and nothing but what is written the one way there is.
    ///
    /// # Errors
    /// What keeps the bytes from being one.
    pub fn read(bytes: &[u8]) -> Result<Self, PaymentTransactionError> {
        if bytes.len() > SIZE_MAX {
            return Err(PaymentTransactionError::TooLong(bytes.len()));
        }
        let transaction: VersionedTransaction = wincode::deserialize_exact(bytes)
            .map_err(|error| PaymentTransactionError::Unreadable(error.to_string()))?;
        let again = wincode::serialize(&transaction);
        if again.ok().as_deref() != Some(bytes) {
            return Err(PaymentTransactionError::NotCanonical);
        }
        Self::of(transaction)
    }

    /// The transaction in the form that is checked and sent.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn of(transaction: VersionedTransaction) -> Result<Self, PaymentTransactionError> {
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
                "an account is named twice",
            ));
        }
        Ok(Self {
            message: transaction.message.serialize().into(),
            transaction,
        })
    }

    /// The bytes that are signed.
    pub fn message(&self) -> &Arc<[u8]> {
        &self.message
    }

    /// The whole, as it is sent.
    pub fn bytes(&self) -> Vec<u8> {
        // What was read from bytes can be written to bytes; an empty transaction would be refused by every node.
        wincode::serialize(&self.transaction).unwrap_or_default()
    }

    /// Who pays the fee: the first account.
    pub fn fee_payer(&self) -> Option<&Pubkey> {
        self.keys().first()
    }

    /// Who must sign, the fee payer first, each with the signature that is there.
    pub fn signers(&self) -> impl Iterator<Item = (&Pubkey, &Signature)> {
        self.keys().iter().zip(&self.transaction.signatures)
    }

    /// The accounts named in the transaction itself, those that sign first.
    pub fn keys(&self) -> &[Pubkey] {
        self.transaction.message.static_account_keys()
    }

    /// The blockhash that bounds how long it can be included.
    pub fn blockhash(&self) -> &Hash {
        self.transaction.message.recent_blockhash()
    }

    /// The lookup tables it takes addresses from.
    pub fn lookups(&self) -> &[MessageAddressTableLookup] {
        self.transaction
            .message
            .address_table_lookups()
            .unwrap_or_default()
    }

    /// Whether these are as many addresses as it takes from lookup tables.
    pub(crate) fn is_all_loaded(&self, loaded: &[Pubkey]) -> bool {
        let taken = |lookup: &MessageAddressTableLookup| {
            lookup.writable_indexes.len() + lookup.readonly_indexes.len()
        };
        self.lookups().iter().map(taken).sum::<usize>() == loaded.len()
    }

    /// All its accounts: those named in the transaction itself, then those `loaded` from lookup tables. Instructions name them
    /// by their indexes here.
    pub fn accounts<'a>(&'a self, loaded: &'a [Pubkey]) -> impl Iterator<Item = &'a Pubkey> {
        self.keys().iter().chain(loaded)
    }

    /// The instructions in full, given what is `loaded` from lookup tables; `None` where an account is in neither.
    pub fn instructions(&self, loaded: &[Pubkey]) -> Option<Vec<Instruction>> {
        let compiled = self.transaction.message.instructions();
        let whole = compiled.iter().map(|found| self.instruction(found, loaded));
        whole.collect()
    }

    /// One instruction in full, the transaction's own or one that was called.
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

    /// The instructions as they show before any lookup table is read: without the accounts that stand there. `None` where a
    /// program would, which the runtime does not allow.
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

    /// Signs as the fee payer. This is the only place where a key of ours touches a transaction, and the last check that
    /// the transaction can do nothing to any of `ours`: paying the fee is all an account of ours is in it for.
    ///
    /// # Errors
    /// When it is not this signer's to pay for, any of `ours` is mentioned in an instruction or could hide in a lookup table
    /// because not everything is `loaded` that it takes from there, or the key does not sign.
    pub(crate) fn sign(
        &self,
        signer: &dyn Signer,
        fee_payers: &FeePayers,
        loaded: &[Pubkey],
    ) -> Result<(Signature, Vec<u8>), Fault> {
        let broken = |what: &str| Fault::new(FaultKind::Internal, what);
        if !self.is_all_loaded(loaded) {
            return Err(broken(
                "a transaction is never signed before all of its lookup tables are read",
            ));
        }
        let instructions = self
            .instructions(loaded)
            .ok_or_else(|| broken("an instruction names an account that is not there"))?;
        if fee_payers.mentioned_in(&instructions).is_some() {
            return Err(broken(
                "a transaction that mentions a fee payer of ours is never signed",
            ));
        }
        if self.fee_payer() != Some(&signer.pubkey()) {
            return Err(broken("the transaction is not this signer's to pay for"));
        }
        let signature = signer
            .try_sign_message(&self.message)
            .map_err(|error| broken(&format!("the signer does not sign: {error}")))?;
        let mut signed = self.clone();
        match signed.transaction.signatures.first_mut() {
            Some(first) => *first = signature,
            None => return Err(broken("a transaction without a place for the signature")),
        }
        Ok((signature, signed.bytes()))
    }
}

/// The accounts of ours that no instruction may mention.
#[derive(Debug)]
pub(crate) struct FeePayers {
    pub(crate) keys: Vec<Pubkey>,
    /// Whether Lighthouse's assertions may, all the same.
    pub(crate) allow_lighthouse: bool,
}

impl FeePayers {
    /// The first of them that any instruction mentions, as its program or among its accounts.
    pub(crate) fn mentioned_in(&self, instructions: &[Instruction]) -> Option<&Pubkey> {
        let spared = |found: &&Instruction| self.allow_lighthouse && is_guard(found);
        self.keys.iter().find(|key| {
            let mut held = instructions.iter().filter(|found| !spared(found));
            held.any(|found| found.program == **key || found.accounts.contains(key))
        })
    }
}

impl fmt::Debug for PaymentTransaction {
    /// Leaves the bytes out: a signed transaction is worth money until it is included.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire")
            .field("keys", &self.keys())
            .field("blockhash", self.blockhash())
            .finish_non_exhaustive()
    }
}
