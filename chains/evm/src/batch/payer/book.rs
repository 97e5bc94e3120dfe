//! The payer's book of a channel: what it deposited, what it signed, and what was charged.
//!
//! A voucher is for everything that was charged before and the next price, and a server accepts no
//! other one. So the payer must know what was charged. It knows it from receipts, and from the
//! corrections in refusals. It believes a correction only up to an amount that it has signed for:
//! more can never be claimed, whatever a server says. Every method is pure.

use alloy::primitives::{B256, U256};
use quittance_core::json::Object;
use quittance_core::{AuthorizationState, Malformed, Next};
use serde::{Deserialize, Serialize};

use super::super::channel::{ChannelConfig, ChannelState};
use super::super::units::{self, number};
use super::correction::Correction;

/// The version of the format, which is its first field.
const FORMAT: u8 = 1;

/// The most payments with an unknown outcome that a book remembers. The oldest is forgotten first.
/// Its voucher then counts as charged if it is refused.
const OPEN_MAX: usize = 64;

/// A channel, as its payer knows it.
///
/// In JSON it is a file of the payer's books.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct PayerBook {
    format: u8,
    /// The network's CAIP-2 identifier.
    pub network: String,
    /// The channel's identity, by its terms.
    pub channel_id: B256,
    /// The channel's terms.
    #[serde(rename = "channelConfig")]
    pub config: ChannelConfig,
    /// The token's ticker.
    pub symbol: String,
    /// How many decimal places the token's amounts have for people.
    pub decimals: u8,
    /// What was charged in total, in atomic units, as far as is known. The next voucher is for this
    /// and the price.
    #[serde(with = "units")]
    pub charged: u128,
    /// The most that was ever signed for, in atomic units. No more can be claimed.
    #[serde(with = "units")]
    pub signed: u128,
    /// What its payments cost together, in atomic units: those that were charged, and those whose
    /// outcome is unknown. A payment that another one replaces does not count.
    #[serde(with = "units")]
    accounted: u128,
    /// What the chain shows was claimed, in atomic units. As much was charged, whatever a seller
    /// says.
    #[serde(with = "units")]
    claimed: u128,
    /// What is known to be in the channel, in atomic units: the deposits without what was paid
    /// back.
    #[serde(with = "units")]
    pub balance: u128,
    /// What the seller says is in the channel besides, in atomic units: deposits of a lost book.
    /// Vouchers are signed for it, and worth nothing if it is not there.
    #[serde(with = "units")]
    pub credited: u128,
    /// What the seller says is no longer in the channel, in atomic units. It counts against the
    /// limits until the chain proves it.
    #[serde(with = "units")]
    pub unproven: u128,
    /// The number of refunds that the chain has had, as far as is known.
    #[serde(default, with = "number")]
    pub refund_nonce: U256,
    /// A smaller balance that the chain has shown once, in atomic units.
    #[serde(skip)]
    seen_balance: Option<u128>,
    /// A deposit that was signed, and may or may not have been made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deposit: Option<SignedDeposit>,
    /// When the payer announced a withdrawal, in seconds since 1970; 0 if it did not. The channel
    /// pays nothing from then on.
    #[serde(default)]
    pub withdraw_requested_at: u64,
    /// The payments whose outcome is unknown, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    open: Vec<OpenVoucher>,
}

/// A deposit with its signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SignedDeposit {
    /// The amount, in atomic units.
    #[serde(with = "units")]
    pub amount: u128,
    /// The first block time at which it cannot be made any more, in seconds since 1970.
    pub expires: u64,
    /// The `authorization` of a payload.
    pub(super) authorization: Object,
    /// The extensions of a payment with it, such as an approval of Permit2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) extensions: Option<Object>,
}

/// The part of a channel that one payment can be charged, in atomic units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Increment {
    /// What was charged before it.
    #[serde(with = "units")]
    pub(super) base: u128,
    /// What its voucher is for: the base and the price.
    #[serde(with = "units")]
    pub(super) max: u128,
}

impl Increment {
    /// The increment of a payment of this price by a voucher for `max`.
    pub(super) fn new(max: u128, price: u128) -> Self {
        let base = max.saturating_sub(price);
        Self { base, max }
    }

    /// The price of the payment.
    pub(super) fn price(self) -> u128 {
        self.max - self.base
    }
}

/// A payment whose outcome is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct OpenVoucher {
    #[serde(flatten)]
    increment: Increment,
    /// Whether another payment was charged in its place, so that it was not.
    #[serde(default)]
    passed: bool,
}

impl PayerBook {
    /// The book of a channel without a deposit.
    pub(super) fn new(
        network: &str,
        channel_id: B256,
        config: ChannelConfig,
        (symbol, decimals): (&str, u8),
    ) -> Self {
        Self {
            format: FORMAT,
            network: network.to_owned(),
            channel_id,
            config,
            symbol: symbol.to_owned(),
            decimals,
            charged: 0,
            signed: 0,
            accounted: 0,
            claimed: 0,
            balance: 0,
            credited: 0,
            unproven: 0,
            refund_nonce: U256::ZERO,
            seen_balance: None,
            deposit: None,
            withdraw_requested_at: 0,
            open: Vec::new(),
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// If it is not a book, or has a format that this version does not know.
    pub(super) fn read(text: &[u8]) -> Result<Self, Malformed> {
        let unreadable = |problem: &dyn std::fmt::Display| Malformed::new("channel", problem);
        let book: Self = serde_json::from_slice(text).map_err(|error| unreadable(&error))?;
        match book.format {
            FORMAT => Ok(book),
            other => Err(unreadable(&format_args!("format {other} is not known"))),
        }
    }

    /// The content of a file.
    pub(super) fn to_text(&self) -> Result<Vec<u8>, Malformed> {
        serde_json::to_vec_pretty(self).map_err(|error| Malformed::new("channel", error))
    }

    /// What the next voucher is for. `None` if it is more than the contract can represent.
    pub(super) fn next(&self, price: u128) -> Option<u128> {
        self.charged.checked_add(price)
    }

    /// What the channel lacks for a payment of this price.
    pub(super) fn shortage(&self, price: u128) -> u128 {
        let next = self.next(price).unwrap_or(u128::MAX);
        next.saturating_sub(self.spendable())
    }

    /// What vouchers can be paid from in total.
    fn spendable(&self) -> u128 {
        self.balance.saturating_add(self.credited)
    }

    /// What is locked up: all that was deposited, or may have been, and is not charged.
    pub fn locked(&self) -> u128 {
        let deposit = self.deposit.as_ref().map_or(0, |deposit| deposit.amount);
        let deposited = self.balance.saturating_add(self.unproven);
        let deposited = deposited.saturating_add(deposit);
        deposited.saturating_sub(self.charged)
    }

    /// What can be paid back at most, as far as is known.
    pub fn refundable(&self) -> u128 {
        self.spendable().saturating_sub(self.charged)
    }

    /// The next voucher for a payment of this price. `None` if it is for more than the contract can
    /// represent.
    pub(super) fn increment(&self, price: u128) -> Option<Increment> {
        Some(Increment::new(self.next(price)?, price))
    }

    /// Notes that a voucher is signed.
    pub(super) fn sign(&mut self, increment: Increment) {
        self.signed = self.signed.max(increment.max);
        self.accounted = self.accounted.saturating_add(increment.price());
        let passed = false;
        self.open.push(OpenVoucher { increment, passed });
        if self.open.len() > OPEN_MAX {
            self.open.remove(0);
        }
    }

    /// Notes that a payment was not charged and never will be.
    pub(super) fn forget(&mut self, increment: Increment) {
        self.take(increment);
        self.accounted = self.accounted.saturating_sub(increment.price());
    }

    /// Notes what a receipt says was charged by a voucher.
    pub(super) fn served(&mut self, increment: Increment, charged: u128) {
        if self.take(increment).is_none() {
            // Its outcome was known before.
            return;
        }
        let charged = charged.min(increment.price());
        if charged > 0 {
            self.pass(increment.base);
        }
        self.accounted = (self.accounted.saturating_sub(increment.price())).saturating_add(charged);
        self.charged = self.charged.max(increment.base + charged);
    }

    /// Notes the correction in the refusal of a voucher, and returns what follows for its payment.
    ///
    /// A channel that was not charged beyond the payment's base has not charged the payment. If it
    /// was, another payment may be the one: one that a server has served, or, if the server sees
    /// this payment for the first time, one with an unknown outcome. The other payments together
    /// must cost as much. Otherwise the payment itself counts as charged.
    pub(super) fn corrected(
        &mut self,
        increment: Increment,
        correction: &Correction,
        presented_before: bool,
    ) -> Next {
        let is_of_another_book = self.note_proof(increment.price(), correction.proven);
        if correction.charged > self.signed {
            return Next::Keep;
        }
        self.charged = correction.charged.max(self.claimed);
        if self.charged <= increment.base {
            return self.not_charged(increment, self.charged < increment.base);
        }
        let Some(open) = self.find(increment) else {
            return Next::Used;
        };
        let is_passed = open.passed;
        let other = self.other_at(increment);
        let was_another = is_passed || !presented_before && (is_of_another_book || other.is_some());
        let of_others = self.accounted.saturating_sub(increment.price());
        if !was_another || self.charged > of_others {
            // From now on it is no other payment's explanation.
            self.take(increment);
            return Next::Used;
        }
        if !is_passed && let Some(other) = other {
            // It was the one, and is the explanation of no other refusal.
            self.open.remove(other);
        }
        self.not_charged(increment, true)
    }

    /// Notes that the payer has signed for `proven` in total. If this book did not, another one
    /// has, beside a payment of this price. Returns whether it has.
    fn note_proof(&mut self, price: u128, proven: u128) -> bool {
        if proven <= self.signed {
            return false;
        }
        self.signed = proven;
        self.accounted = self.accounted.max(proven.saturating_add(price));
        true
    }

    /// Another payment with an unknown outcome that was signed on the same base.
    fn other_at(&self, increment: Increment) -> Option<usize> {
        let at_base = |it: &OpenVoucher| it.increment.base == increment.base;
        let own = self.position(increment)?;
        let mut open = self.open.iter().enumerate();
        open.find(|(at, it)| *at != own && at_base(it))
            .map(|(at, _)| at)
    }

    /// The refused payment was not charged. Another one takes its place if it has another voucher,
    /// or a deposit that was missing.
    fn not_charged(&mut self, increment: Increment, has_other_voucher: bool) -> Next {
        let lacks_deposit = self.spendable() < increment.max && self.deposit.is_none();
        if !has_other_voucher && !lacks_deposit {
            return Next::Keep;
        }
        self.forget(increment);
        Next::Replace
    }

    /// The state of a payment by a voucher for `max`. It is expired once another payment was
    /// charged in its place.
    pub(super) fn state_of(&self, max: u128) -> AuthorizationState {
        let vouchers = || self.open.iter().filter(|it| it.increment.max == max);
        if vouchers().next().is_none() {
            AuthorizationState::Unknown
        } else if vouchers().all(|it| it.passed) {
            AuthorizationState::Expired
        } else if vouchers().all(|it| self.charged > it.increment.base) {
            AuthorizationState::Used(None)
        } else {
            AuthorizationState::Usable
        }
    }

    /// Notes the correction in the refusal of a refund by a voucher for `max`, and returns whether
    /// another refund can take its place.
    pub(super) fn corrected_refund(&mut self, max: u128, correction: &Correction) -> Next {
        self.note_proof(0, correction.proven);
        if correction.charged > self.signed {
            return Next::Keep;
        }
        self.charged = correction.charged.max(self.claimed);
        match self.charged != max && self.refundable() > 0 {
            true => Next::Replace,
            false => Next::Keep,
        }
    }

    /// Notes that no payment by a voucher for `max` was charged, nor ever will be.
    pub(super) fn forget_all(&mut self, max: u128) {
        let vouchers = self.open.iter().filter(|it| it.increment.max == max);
        let increments: Vec<Increment> = vouchers.map(|it| it.increment).collect();
        for increment in increments {
            self.forget(increment);
        }
    }

    /// Notes that the signed deposit was made.
    pub(super) fn deposit_made(&mut self) {
        if let Some(deposit) = self.deposit.take() {
            self.balance = self.balance.saturating_add(deposit.amount);
            self.credited = self.credited.saturating_sub(deposit.amount);
        }
    }

    /// Takes over what the chain has. What was claimed was signed for, and charged.
    ///
    /// A node can be behind. So the balance becomes less only if the chain has had a refund since,
    /// if an announced withdrawal is over, or if the chain says the same a second time.
    pub(super) fn sync(&mut self, chain: &ChannelState) {
        let was_refunded = chain.refund_nonce > self.refund_nonce;
        let was_withdrawn = self.withdraw_requested_at != 0 && chain.withdraw_requested_at == 0;
        let is_seen_again = self.seen_balance == Some(chain.balance);
        let is_known = was_refunded || was_withdrawn || is_seen_again;
        if is_known || chain.balance >= self.balance {
            self.balance = chain.balance;
            (self.unproven, self.credited) = (0, 0);
            self.refund_nonce = self.refund_nonce.max(chain.refund_nonce);
            self.seen_balance = None;
        } else {
            self.seen_balance = Some(chain.balance);
        }
        self.claimed = self.claimed.max(chain.total_claimed);
        self.charged = self.charged.max(self.claimed);
        self.note_proof(0, self.claimed);
        self.withdraw_requested_at = chain.withdraw_requested_at;
    }

    /// Takes over the balance that a seller names.
    pub(super) fn set_balance(&mut self, named: u128) {
        self.credited = named.saturating_sub(self.balance);
        if let Some(gone) = self.balance.checked_sub(named) {
            self.balance = named;
            self.unproven = self.unproven.saturating_add(gone);
        }
    }

    /// Another payment was charged from this base on.
    fn pass(&mut self, base: u128) {
        for voucher in self.open.iter_mut().filter(|it| it.increment.base == base) {
            voucher.passed = true;
        }
    }

    fn position(&self, increment: Increment) -> Option<usize> {
        self.open.iter().position(|it| it.increment == increment)
    }

    fn find(&self, increment: Increment) -> Option<&OpenVoucher> {
        self.open.get(self.position(increment)?)
    }

    fn take(&mut self, increment: Increment) -> Option<OpenVoucher> {
        let at = self.position(increment)?;
        Some(self.open.remove(at))
    }
}

#[cfg(test)]
mod tests;
