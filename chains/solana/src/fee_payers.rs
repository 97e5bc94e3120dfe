//! The fee payers of a facilitator. They sign last, and only pay the fee.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use solana_pubkey::Pubkey;

use crate::instruction::{Instruction, is_guard};

/// The fee payers of a facilitator, which no instruction of a payer may mention.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeePayers(Vec<Pubkey>);

impl FeePayers {
    pub(crate) fn new(keys: Vec<Pubkey>) -> Self {
        Self(keys)
    }

    /// Their addresses.
    pub fn keys(&self) -> &[Pubkey] {
        &self.0
    }

    /// The first of them that an instruction mentions, as its program or among its accounts.
    /// Assertions of Lighthouse are ignored if `allow_lighthouse` is set.
    pub fn mentioned_in(
        &self,
        instructions: &[Instruction],
        allow_lighthouse: bool,
    ) -> Option<&Pubkey> {
        let is_ignored = |found: &&Instruction| allow_lighthouse && is_guard(found);
        self.0.iter().find(|key| {
            let mut checked = instructions.iter().filter(|found| !is_ignored(found));
            checked.any(|found| found.program == **key || found.accounts.contains(key))
        })
    }
}

/// The fee payers that offers name in turn. Unfunded ones are skipped.
#[derive(Debug)]
pub struct FeePayerRotation {
    fee_payers: FeePayers,
    /// One bit for each unfunded fee payer. Those after the 64th are never skipped.
    unfunded: AtomicU64,
    next: AtomicUsize,
}

impl FeePayerRotation {
    pub(crate) fn new(fee_payers: FeePayers) -> Self {
        Self {
            fee_payers,
            unfunded: AtomicU64::new(0),
            next: AtomicUsize::new(0),
        }
    }

    /// All fee payers.
    pub fn fee_payers(&self) -> &FeePayers {
        &self.fee_payers
    }

    /// The next funded fee payer; if none is funded, the next of all.
    pub fn next(&self) -> Option<&Pubkey> {
        let (start, unfunded) = (
            self.next.fetch_add(1, Ordering::Relaxed),
            self.unfunded.load(Ordering::Relaxed),
        );
        let keys = self.fee_payers.keys();
        let count = keys.len();
        let in_turn = (0..count).map(|step| start.wrapping_add(step) % count);
        let is_unfunded = |at: &usize| *at < 64 && unfunded >> at & 1 == 1;
        let mut funded = in_turn.clone().filter(|at| !is_unfunded(at));
        keys.get(funded.next().or(in_turn.clone().next())?)
    }

    pub(crate) fn set_unfunded(&self, at: usize, is_unfunded: bool) {
        let bit = 1_u64.checked_shl(at as u32).unwrap_or(0);
        if is_unfunded {
            self.unfunded.fetch_or(bit, Ordering::Relaxed);
        } else {
            self.unfunded.fetch_and(!bit, Ordering::Relaxed);
        }
    }
}
