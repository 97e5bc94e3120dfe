//! Holds: from its verification to its settlement, a payment has its channel for itself.
//!
//! A hold is in memory. Losing one costs no money, because the channel's record decides what is
//! charged.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use alloy::primitives::{B256, hex};
use quittance_core::Timestamp;

use super::super::voucher::Voucher;

/// How many holds there may be at least before those that have run out are removed.
const SWEEP_ABOVE: usize = 1024;

/// The payment that has a channel.
#[derive(Debug, Clone)]
struct Hold {
    pending_id: String,
    /// The voucher whose signature is verified.
    voucher: Voucher,
    until: Timestamp,
    /// Whether its settlement has ended without an outcome. Its payer may ask again.
    is_open: bool,
}

/// Which channels are held, by the channel's identity.
#[derive(Debug, Clone, Default)]
pub(super) struct Holds(Arc<Mutex<Held>>);

#[derive(Debug, Default)]
struct Held {
    holds: HashMap<B256, Hold>,
    /// How many holds remained when those that had run out were removed. With twice as many, it is
    /// done again: each hold pays a constant share of it.
    remained: usize,
}

impl Held {
    fn remove_ended(&mut self, now: Timestamp) {
        if self.holds.len() >= SWEEP_ABOVE.max(2 * self.remained) {
            self.holds.retain(|_, hold| now < hold.until);
            self.remained = self.holds.len();
        }
    }
}

/// A hold that ends when it is dropped, unless it is [kept](Self::keep).
#[derive(Debug)]
pub(super) struct HeldChannel {
    holds: Holds,
    channel: B256,
    pending_id: String,
    /// Whether the hold is that of a payment without an outcome, which is made again.
    is_again: bool,
}

impl Holds {
    /// Holds a channel for this voucher until a time. `None` while another payment has it. A
    /// payment without an outcome gives its hold to the same voucher, under another name: of the
    /// two requests, only the later one can be charged.
    pub(super) fn take(
        &self,
        channel: B256,
        voucher: &Voucher,
        now: Timestamp,
        until: Timestamp,
    ) -> Option<HeldChannel> {
        let pending_id = hex::encode(rand::random::<[u8; 16]>());
        let hold = Hold {
            pending_id: pending_id.clone(),
            voucher: voucher.clone(),
            until,
            is_open: false,
        };
        let mut held = self.locked();
        held.remove_ended(now);
        let mut is_again = false;
        match held.holds.entry(channel) {
            Entry::Occupied(mut other) => {
                let has_ended = other.get().until <= now;
                is_again = !has_ended && other.get().is_open && other.get().voucher == *voucher;
                if !has_ended && !is_again {
                    return None;
                }
                other.insert(hold);
            }
            Entry::Vacant(free) => drop(free.insert(hold)),
        }
        Some(HeldChannel {
            holds: self.clone(),
            channel,
            pending_id,
            is_again,
        })
    }

    /// Notes that the settlement of the payment with this hold has ended without an outcome. It
    /// still has its channel.
    pub(super) fn leave_open(&self, channel: &B256, pending_id: &str) {
        let mut held = self.locked();
        if let Some(hold) = held.holds.get_mut(channel)
            && hold.pending_id == pending_id
        {
            hold.is_open = true;
        }
    }

    /// Whether the hold with this name has the channel for this voucher. It may have run out, as
    /// long as no other payment has taken the channel since.
    pub(super) fn has(&self, channel: &B256, pending_id: Option<&str>, voucher: &Voucher) -> bool {
        let held = self.locked();
        held.holds.get(channel).is_some_and(|hold| {
            Some(hold.pending_id.as_str()) == pending_id && hold.voucher == *voucher
        })
    }

    /// Whether another payment than the one with this hold has the channel.
    pub(super) fn is_taken(&self, channel: &B256, own: Option<&str>, now: Timestamp) -> bool {
        let held = self.locked();
        let hold = held.holds.get(channel).filter(|hold| now < hold.until);
        hold.is_some_and(|hold| Some(hold.pending_id.as_str()) != own)
    }

    /// Ends the hold with this name.
    pub(super) fn end(&self, channel: &B256, pending_id: &str) {
        let mut held = self.locked();
        if let Some(hold) = held.holds.get(channel)
            && hold.pending_id == pending_id
        {
            held.holds.remove(channel);
        }
    }

    fn locked(&self) -> MutexGuard<'_, Held> {
        // Each change is one insertion, removal or flag, so the map is complete after a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HeldChannel {
    /// Leaves the hold until it is ended or runs out. Returns its name.
    pub(super) fn keep(mut self) -> String {
        std::mem::take(&mut self.pending_id)
    }
}

impl Drop for HeldChannel {
    fn drop(&mut self) {
        if self.pending_id.is_empty() {
            return;
        }
        match self.is_again {
            // The payment still has no outcome.
            true => self.holds.leave_open(&self.channel, &self.pending_id),
            false => self.holds.end(&self.channel, &self.pending_id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn voucher(max_claimable: u128) -> Voucher {
        Voucher {
            channel_id: B256::ZERO,
            max_claimable,
            signature: vec![1; 65].into(),
        }
    }

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_secs(secs)
    }

    fn take(holds: &Holds, channel: u8, now: u64) -> Option<HeldChannel> {
        holds.take(
            B256::repeat_byte(channel),
            &voucher(1),
            at(now),
            at(now + 5),
        )
    }

    #[test]
    fn a_channel_has_one_hold_until_it_ends_or_runs_out() {
        let holds = Holds::default();
        let channel = B256::repeat_byte(1);
        let first = take(&holds, 1, 10).unwrap().keep();
        assert!(take(&holds, 1, 14).is_none() && take(&holds, 2, 14).is_some());
        assert!(holds.has(&channel, Some(&first), &voucher(1)));
        assert!(!holds.has(&channel, Some(&first), &voucher(2)));
        assert!(!holds.has(&channel, None, &voucher(1)));
        assert!(holds.is_taken(&channel, None, at(14)));
        assert!(!holds.is_taken(&channel, Some(&first), at(14)));
        holds.end(&channel, "another");
        assert!(take(&holds, 1, 14).is_none());
        let second = take(&holds, 1, 15).unwrap().keep();
        assert_ne!(first, second);
        holds.end(&channel, &first);
        assert!(holds.is_taken(&channel, None, at(16)));
        holds.end(&channel, &second);
        assert!(!holds.is_taken(&channel, None, at(16)));
        // A verification that is cancelled or fails leaves nothing.
        drop(take(&holds, 1, 16));
        assert!(take(&holds, 1, 16).is_some());
    }

    #[test]
    fn a_payment_without_an_outcome_lends_its_hold_again_once() {
        let holds = Holds::default();
        let channel = B256::repeat_byte(1);
        let again = |max| holds.take(channel, &voucher(max), at(11), at(16));
        let first = take(&holds, 1, 10).unwrap().keep();
        assert!(again(1).is_none());
        holds.leave_open(&channel, "another");
        assert!(again(1).is_none());
        holds.leave_open(&channel, &first);
        assert!(again(2).is_none());
        // A verification that fails leaves it as it was.
        drop(again(1).unwrap());
        assert!(again(2).is_none());
        let second = again(1).unwrap().keep();
        assert!(again(1).is_none());
        assert!(!holds.has(&channel, Some(&first), &voucher(1)));
        assert!(holds.is_taken(&channel, Some(&first), at(12)));
        assert!(holds.has(&channel, Some(&second), &voucher(1)));
    }

    #[test]
    fn holds_that_have_run_out_take_no_memory() {
        let holds = Holds::default();
        for count in 0..5_000_u64 {
            let channel = B256::from(alloy::primitives::U256::from(count));
            let held = holds.take(channel, &voucher(1), at(count), at(count + 5));
            held.unwrap().keep();
        }
        assert!(holds.locked().holds.len() <= SWEEP_ABOVE);
    }
}
