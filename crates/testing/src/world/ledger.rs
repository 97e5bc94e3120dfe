//! The chain's own rules: balances, nonces, sequence numbers, blocks and reorganisations.

use std::collections::{BTreeMap, BTreeSet};

use quittance_core::{Amount, Network, TransactionId};

use super::address::Address;
use super::transaction::{Authorization, Content, SignedContent, Transfer, id_of};

/// The asset in which fees are paid.
pub const COIN: &str = "coin";

/// What a block did with one transfer of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransferEvent {
    /// The transfer's authorization.
    pub authorization: Authorization,
    /// Why nothing was moved; `None` when the amount was moved.
    pub failure: Option<String>,
}

/// Balances and numbers after a block.
#[derive(Debug, Clone, Default)]
pub(crate) struct Accounts {
    balances: BTreeMap<(Address, String), Amount>,
    used_nonces: BTreeSet<(Address, [u8; 32])>,
    sequences: BTreeMap<Address, u64>,
    /// The numbers that payers have used in any order.
    used_numbers: BTreeSet<(Address, u64)>,
    /// The keys of accounts that are not their addresses.
    keys: BTreeMap<Address, [u8; 32]>,
}

impl Accounts {
    pub(crate) fn balance(&self, address: &Address, asset: &str) -> Amount {
        let key = (*address, asset.to_owned());
        self.balances.get(&key).copied().unwrap_or_default()
    }

    pub(crate) fn set_balance(&mut self, address: Address, asset: &str, amount: Amount) {
        self.balances.insert((address, asset.to_owned()), amount);
    }

    pub(crate) fn is_used(&self, from: &Address, nonce: &[u8; 32]) -> bool {
        self.used_nonces.contains(&(*from, *nonce))
    }

    pub(crate) fn next_sequence(&self, signer: &Address) -> u64 {
        self.sequences.get(signer).copied().unwrap_or_default()
    }

    /// The key that signs for an account: its address, unless the account has another one.
    pub(crate) fn key(&self, address: &Address) -> [u8; 32] {
        self.keys.get(address).copied().unwrap_or(address.0)
    }

    pub(crate) fn set_key(&mut self, address: Address, key: [u8; 32]) {
        self.keys.insert(address, key);
    }

    /// Whether no transaction at this one's number can be included any more.
    pub(crate) fn is_number_used(&self, content: &Content) -> bool {
        match content.in_any_order {
            true => self
                .used_numbers
                .contains(&(content.signer, content.sequence)),
            false => content.sequence < self.next_sequence(&content.signer),
        }
    }

    /// Whether it is this transaction's turn.
    fn is_next(&self, content: &Content) -> bool {
        content.in_any_order || content.sequence == self.next_sequence(&content.signer)
    }

    fn use_number(&mut self, content: &Content) {
        let key = (content.signer, content.sequence);
        match content.in_any_order {
            true => drop(self.used_numbers.insert(key)),
            false => drop(self.sequences.insert(key.0, key.1 + 1)),
        }
    }

    fn transfer(&mut self, network: &Network, transfer: &Transfer, now: u64) -> Result<(), String> {
        let authorization = &transfer.authorization;
        let (from, to) = (authorization.from, authorization.to);
        if !transfer.is_signed(network, &self.key(&from)) {
            return Err("the payer did not sign".to_owned());
        }
        if now >= authorization.expires {
            return Err("the authorization has expired".to_owned());
        }
        if self.is_used(&from, &authorization.nonce) {
            return Err("the nonce was already used".to_owned());
        }
        let (asset, amount) = (authorization.asset.as_str(), authorization.amount);
        let Some(rest) = self.balance(&from, asset).checked_sub(amount) else {
            return Err("the payer's balance is too low".to_owned());
        };
        self.set_balance(from, asset, rest);
        let sum = self.balance(&to, asset).checked_add(amount);
        self.set_balance(to, asset, sum.ok_or("the recipient's balance is too high")?);
        self.used_nonces.insert((from, authorization.nonce));
        Ok(())
    }
}

/// A transaction in a block.
#[derive(Debug, Clone)]
pub(crate) struct Included {
    pub(crate) id: TransactionId,
    pub(crate) transaction: SignedContent,
    pub(crate) events: Vec<TransferEvent>,
}

#[derive(Debug, Clone)]
struct Block {
    time: u64,
    /// The accounts before this block, to take it back.
    before: Accounts,
    transactions: Vec<Included>,
}

/// Why the chain does not take a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Another transaction is in a block or waits at this sequence number.
    SequenceUsed,
    /// The signer cannot pay the fee.
    Funds,
    /// No later block includes it.
    Expired,
    /// The bytes are not a transaction of this chain.
    Invalid,
}

/// The whole state of the chain: its blocks, and the transactions that wait.
#[derive(Debug)]
pub(crate) struct Ledger {
    network: Network,
    pub(crate) accounts: Accounts,
    blocks: Vec<Block>,
    waiting: BTreeMap<(Address, u64), SignedContent>,
    /// Whether authorizations expire at a height, and not at a time.
    pub(crate) counts_heights: bool,
}

impl Ledger {
    pub(crate) fn new(network: Network) -> Self {
        Self {
            network,
            accounts: Accounts::default(),
            blocks: Vec::new(),
            waiting: BTreeMap::new(),
            counts_heights: false,
        }
    }

    /// The height of the next block.
    pub(crate) fn height(&self) -> u64 {
        self.blocks.len() as u64
    }

    /// Takes a transaction, which then waits for a block. It replaces a waiting transaction of the
    /// same sequence number when its fee is at least a tenth higher.
    pub(crate) fn submit(&mut self, bytes: &[u8], now: u64) -> Result<(), Refused> {
        let signed = SignedContent::decode(bytes).ok_or(Refused::Invalid)?;
        if !signed.is_signed(&self.network) {
            return Err(Refused::Invalid);
        }
        let (signer, sequence, fee) = {
            let content = &signed.content;
            (content.signer, content.sequence, content.fee)
        };
        if self.find(&id_of(bytes)).is_some() {
            return Ok(());
        }
        if self.accounts.is_number_used(&signed.content) {
            return Err(Refused::SequenceUsed);
        }
        if signed.content.expires.is_some_and(|expires| now >= expires) {
            return Err(Refused::Expired);
        }
        match self.waiting.get(&(signer, sequence)) {
            Some(known) if *known == signed => return Ok(()),
            Some(known) if fee < minimum_replacement_fee(known.content.fee) => {
                return Err(Refused::SequenceUsed);
            }
            _ => {}
        }
        if self.accounts.balance(&signer, COIN) < Amount::from(fee) {
            return Err(Refused::Funds);
        }
        self.waiting.insert((signer, sequence), signed);
        Ok(())
    }

    /// Makes a block of all waiting transactions whose turn it is.
    pub(crate) fn include(&mut self, time: u64) {
        let before = self.accounts.clone();
        let moment = match self.counts_heights {
            true => self.height(),
            false => time,
        };
        let mut transactions = Vec::new();
        // Sorted by signer and sequence number, so that each signer's transactions are in order.
        for (key, signed) in std::mem::take(&mut self.waiting) {
            let content = &signed.content;
            let has_expired = content.expires.is_some_and(|expires| time >= expires);
            if has_expired || self.accounts.is_number_used(content) {
                continue;
            }
            let coins = self.accounts.balance(&content.signer, COIN);
            let rest = coins.checked_sub(Amount::from(content.fee));
            let (true, Some(rest)) = (self.accounts.is_next(content), rest) else {
                self.waiting.insert(key, signed);
                continue;
            };
            self.accounts.set_balance(content.signer, COIN, rest);
            self.accounts.use_number(content);
            let transfers = content.transfers.clone();
            let events = transfers
                .iter()
                .map(|transfer| TransferEvent {
                    authorization: transfer.authorization.clone(),
                    failure: self
                        .accounts
                        .transfer(&self.network, transfer, moment)
                        .err(),
                })
                .collect();
            transactions.push(Included {
                id: id_of(&signed.encode()),
                transaction: signed,
                events,
            });
        }
        self.blocks.push(Block {
            time,
            before,
            transactions,
        });
    }

    /// Takes back the newest `depth` blocks. Their transactions wait again, unless nodes forget
    /// them.
    pub(crate) fn take_back(&mut self, depth: usize, forget: bool) {
        let start = self.blocks.len().saturating_sub(depth);
        let undone = self.blocks.split_off(start);
        if let Some(first) = undone.first() {
            self.accounts = first.before.clone();
        }
        if forget {
            return;
        }
        for included in undone.into_iter().flat_map(|block| block.transactions) {
            let content = &included.transaction.content;
            let key = (content.signer, content.sequence);
            self.waiting.insert(key, included.transaction);
        }
    }

    /// Drops everything that waits, as nodes do that are restarted.
    pub(crate) fn forget_waiting(&mut self) {
        self.waiting.clear();
    }

    /// How many transactions wait.
    pub(crate) fn waiting_count(&self) -> usize {
        self.waiting.len()
    }

    /// All included transactions, with how many blocks deep each is.
    pub(crate) fn included(&self) -> impl Iterator<Item = (u64, &Included)> {
        let height = self.blocks.len() as u64;
        (0..height).zip(&self.blocks).flat_map(move |(at, block)| {
            block.transactions.iter().map(move |one| (height - at, one))
        })
    }

    /// An included transaction, with how many blocks deep it is.
    pub(crate) fn find(&self, id: &TransactionId) -> Option<(u64, &Included)> {
        self.included().find(|(_, included)| included.id == *id)
    }

    /// Whether no block can include this transaction any more, by the state as it was when the
    /// newest `confirmations - 1` blocks were not there yet.
    pub(crate) fn is_dropped(&self, content: &Content, confirmations: u64) -> bool {
        let newer = usize::try_from(confirmations.saturating_sub(1)).unwrap_or(usize::MAX);
        let start = self.blocks.len().saturating_sub(newer);
        let accounts = self
            .blocks
            .get(start)
            .map_or(&self.accounts, |block| &block.before);
        let newest = start.checked_sub(1).and_then(|at| self.blocks.get(at));
        let has_expired = |expires| newest.is_some_and(|block| block.time >= expires);
        accounts.is_number_used(content) || content.expires.is_some_and(has_expired)
    }

    /// The time of the newest block.
    pub(crate) fn block_time(&self) -> Option<u64> {
        self.blocks.last().map(|block| block.time)
    }
}

/// The lowest fee that replaces a waiting transaction: a tenth more, as many chains ask.
pub(crate) const fn minimum_replacement_fee(fee: u64) -> u64 {
    fee + fee.div_ceil(10)
}
