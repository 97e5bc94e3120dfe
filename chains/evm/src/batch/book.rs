//! The book of a channel: what was charged by vouchers, and what the chain has about it.
//!
//! It is the content of the channel's state record, at a facilitator that keeps the vouchers or at
//! a seller that does. The book decides what the next voucher must be.

use alloy::primitives::{B256, U256};
use quittance_core::json::Object;
use quittance_core::{Amount, Malformed, SchemeState, StateSummary, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::channel::{ChannelConfig, ChannelState};
use super::units::{self, number};
use super::voucher::{ClaimRow, Voucher};

/// The version of the record's format, which is its first field.
const FORMAT: u8 = 1;

/// How often a receiver is paid what it has claimed, in seconds. The same sweep is asked for again
/// and again over the life of a channel: within this time it is a retry of the same one.
pub(super) const SWEEP_EVERY_SECS: u64 = 60;

/// The shortest and the longest time for which what the chain has is taken as known, in seconds.
/// Between them it is a third of the channel's delay of withdrawals, so that a withdrawal is seen
/// while there is time for a claim.
const FRESH_SECS: (u64, u64) = (30, 300);

/// What was charged by the vouchers of a channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChannelBook {
    /// The version of this format.
    format: u8,
    /// The channel's terms.
    pub config: ChannelConfig,
    /// Who made the deposit, as the journal writes callers: only this caller may ask for acts that
    /// need the facilitator's authority. `None` if the caller had no key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// What was charged in total, in atomic units. At least what was claimed.
    #[serde(with = "units")]
    pub charged: u128,
    /// How many requests were charged.
    pub charge_count: u64,
    /// The newest voucher. It covers everything that was charged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub voucher: Option<Voucher>,
    /// Which request was charged last: its hold or its deposit. The same voucher can pay two
    /// requests, if the first one was charged less than the price.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub charged_by: Option<String>,
    /// What the chain had, when it was asked last.
    pub chain: ChannelState,
    /// When that was, in seconds since 1970.
    pub synced_at: u64,
    /// Since when something is charged that is not claimed, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unclaimed_since: Option<u64>,
    /// The refund that the seller has signed, until the chain shows it. The signature can be used
    /// at any time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refund: Option<SignedRefund>,
}

/// A refund that is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SignedRefund {
    /// The number of the refund.
    #[serde(with = "number")]
    pub nonce: U256,
    /// The most that was signed for this number, in atomic units.
    #[serde(with = "units")]
    pub amount: u128,
}

/// When the vouchers of a channel are claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClaimRules {
    /// How long a charge may stay unclaimed, in seconds. Never longer than a third of the channel's
    /// delay of withdrawals: an announced withdrawal must not outrun the claim.
    pub after_secs: u64,
    /// How much may stay unclaimed in a channel, in atomic units.
    pub above: u128,
}

impl ClaimRules {
    /// Claims charges of this age, or of this sum in a channel.
    pub const fn new(after_secs: u64, above: u128) -> Self {
        Self { after_secs, above }
    }
}

impl Default for ClaimRules {
    /// After a day at most, whatever the amount.
    fn default() -> Self {
        Self::new(24 * 3600, u128::MAX)
    }
}

/// Why a voucher is not the next one of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotNext {
    /// It is not for exactly what was charged and the price: the payer has another book.
    Mismatch,
    /// It is for more than the channel has.
    ExceedsBalance,
    /// It is for no more than was claimed.
    BelowClaimed,
}

impl ChannelBook {
    /// The book of a channel that was never charged here. What was claimed of it counts as charged.
    pub fn new(config: ChannelConfig, chain: ChannelState, now: Timestamp) -> Self {
        Self {
            format: FORMAT,
            config,
            owner: None,
            charged: chain.total_claimed,
            charge_count: 0,
            voucher: None,
            charged_by: None,
            chain,
            synced_at: now.secs(),
            unclaimed_since: None,
            refund: None,
        }
    }

    /// Reads the book in a state record.
    ///
    /// # Errors
    /// If it is not a book, or has a format that this version does not know.
    pub fn read(record: &SchemeState) -> Result<Self, Malformed> {
        let unreadable = |problem: &dyn std::fmt::Display| Malformed::new("state record", problem);
        let book: Self =
            serde_json::from_slice(&record.state).map_err(|error| unreadable(&error))?;
        match book.format {
            FORMAT => Ok(book),
            other => Err(unreadable(&format_args!("format {other} is not known"))),
        }
    }

    /// The book as the content of a state record.
    ///
    /// # Errors
    /// Never: it is JSON of numbers and texts.
    pub fn to_content(&self) -> Result<Vec<u8>, Malformed> {
        serde_json::to_vec(self).map_err(|error| Malformed::new("state record", error))
    }

    /// Whether the chain was asked a short time ago. Otherwise it must be asked again before the
    /// next charge.
    pub fn is_fresh(&self, now: Timestamp) -> bool {
        let (least, most) = FRESH_SECS;
        let age = now.secs_since(Timestamp::from_secs(self.synced_at));
        age <= (self.config.withdraw_delay / 3).clamp(least, most)
    }

    /// Takes over what the chain has now. What was claimed counts as charged.
    pub fn sync(&mut self, chain: ChannelState, now: Timestamp) {
        (self.chain, self.synced_at) = (chain, now.secs());
        self.charged = self.charged.max(chain.total_claimed);
        if self.charged == chain.total_claimed {
            self.unclaimed_since = None;
        }
        // The chain has counted it, so its signature is used up.
        let is_open = |refund: &SignedRefund| chain.refund_nonce <= refund.nonce;
        self.refund = self.refund.filter(is_open);
    }

    /// What vouchers can be for: the balance without what the payer can have refunded at any time.
    pub(super) fn covered(&self) -> u128 {
        let refund = self.refund.map_or(0, |refund| refund.amount);
        self.chain.balance.saturating_sub(refund)
    }

    /// What the payer can get back: the balance without what was charged.
    pub fn refundable(&self) -> u128 {
        self.chain.balance.saturating_sub(self.charged)
    }

    /// Notes that the seller signs a refund of at most this much, as the channel's next one.
    pub fn sign_refund(&mut self, amount: u128) -> SignedRefund {
        let nonce = self.chain.refund_nonce;
        let earlier = self.refund.filter(|refund| refund.nonce == nonce);
        let amount = earlier.map_or(0, |refund| refund.amount).max(amount);
        let refund = SignedRefund { nonce, amount };
        self.refund = Some(refund);
        refund
    }

    /// Whether the payer announced a withdrawal so long ago that a charge of now may be claimed too
    /// late: before less than two thirds of the delay are left.
    pub fn is_leaving(&self, now: Timestamp) -> bool {
        let since = self.chain.withdraw_requested_at;
        let age = now.secs_since(Timestamp::from_secs(since));
        since != 0 && age > self.config.withdraw_delay / 3
    }

    /// Takes over what was claimed by now. The rest of the chain's state stays as it is known.
    pub fn claimed(&mut self, total: u128, now: Timestamp) {
        let chain = ChannelState {
            total_claimed: total.max(self.chain.total_claimed),
            ..self.chain
        };
        let synced_at = self.synced_at;
        self.sync(chain, now);
        self.synced_at = synced_at;
        // What was charged since the claim was signed is younger than now.
        if self.unclaimed_since.is_some() {
            self.unclaimed_since = Some(now.secs());
        }
    }

    /// Checks that a voucher pays this price next.
    ///
    /// # Errors
    /// Why it does not.
    pub fn check(&self, voucher: &Voucher, price: u128) -> Result<(), NotNext> {
        if self.charged.checked_add(price) != Some(voucher.max_claimable) {
            return Err(NotNext::Mismatch);
        }
        if voucher.max_claimable > self.covered() {
            return Err(NotNext::ExceedsBalance);
        }
        if voucher.max_claimable <= self.chain.total_claimed {
            return Err(NotNext::BelowClaimed);
        }
        Ok(())
    }

    /// Charges this much by a voucher. A charge of nothing keeps the voucher before.
    pub fn charge(&mut self, amount: u128, voucher: &Voucher, now: Timestamp) {
        if amount == 0 {
            return;
        }
        self.charged = self.charged.saturating_add(amount);
        self.charge_count += 1;
        self.voucher = Some(voucher.clone());
        self.unclaimed_since.get_or_insert(now.secs());
    }

    /// The row that claims everything that was charged. `None` if everything is claimed.
    pub fn claim_row(&self) -> Option<ClaimRow> {
        let voucher = self.voucher.as_ref()?;
        let is_open = self.charged > self.chain.total_claimed;
        is_open.then(|| ClaimRow::new(self.config, voucher, self.charged))
    }

    /// When the charges must be claimed by these rules. `None` if everything is claimed.
    pub fn claim_due(&self, rules: &ClaimRules) -> Option<Timestamp> {
        let since = Timestamp::from_secs(self.unclaimed_since?);
        let unclaimed = self.charged.saturating_sub(self.chain.total_claimed);
        if unclaimed >= rules.above || self.chain.withdraw_requested_at != 0 {
            return Some(since);
        }
        let age = rules.after_secs.min(self.config.withdraw_delay / 3);
        Some(since.plus_secs(age))
    }

    /// When the channel must be looked after once something was claimed of it: for its next claim,
    /// or to pay the receiver. `None` for a channel whose vouchers are not kept here.
    pub(super) fn next_due(&self, rules: &ClaimRules, now: Timestamp) -> Option<Timestamp> {
        self.voucher.as_ref()?;
        // One payment for all claims of this minute.
        let paid = now.plus_secs(SWEEP_EVERY_SECS);
        Some(self.claim_due(rules).unwrap_or(paid))
    }

    /// What operators can know of a channel, for a list: as the chain was when it was asked last.
    /// `due` is that of the channel's record.
    pub fn summary(&self, due: Option<Timestamp>, now: Timestamp) -> StateSummary {
        let ChannelConfig {
            payer,
            receiver,
            token,
            withdraw_delay,
            ..
        } = &self.config;
        let [payer, receiver, token] =
            [payer, receiver, token].map(|account| account.to_checksum(None));
        let units = |amount: u128| Amount::new(U256::from(amount));
        let ChannelState {
            balance,
            total_claimed,
            withdraw_requested_at: requested_at,
            ..
        } = self.chain;
        let leaves_at = Timestamp::from_secs(requested_at).plus_secs(*withdraw_delay);
        let mut summary = StateSummary::new(payer, receiver, token);
        summary.open = units(self.chain.unclaimed());
        summary.amounts = vec![
            ("deposited", units(balance)),
            ("charged", units(self.charged)),
            ("claimed", units(total_claimed)),
        ];
        summary.until = (requested_at != 0).then_some(leaves_at);
        summary.next = self.next(due, now);
        summary
    }

    /// What upkeep does next.
    fn next(&self, due: Option<Timestamp>, now: Timestamp) -> String {
        let act = match self.claim_row() {
            Some(_) => "claims",
            None => "pays the receiver",
        };
        match due.map(|due| due.secs_since(now)) {
            None => "nothing".to_owned(),
            Some(0) => format!("{act} now"),
            Some(secs) => format!("{act} in {secs} seconds"),
        }
    }

    /// The `channelState` of an answer.
    pub fn channel_state(&self, channel_id: &B256) -> Value {
        let mut state = self.chain.to_json(channel_id);
        state["chargedCumulativeAmount"] = json!(self.charged.to_string());
        state
    }

    /// What a rejection says in `extra`, so that a payer with another book can go on by this one.
    /// The payer checks the signature of the voucher.
    ///
    /// # Errors
    /// Never: it is JSON of numbers and texts.
    pub fn correction(&self, channel_id: &B256) -> Result<Object, Malformed> {
        let mut extra = json!({ "channelState": self.channel_state(channel_id) });
        if let Some(voucher) = &self.voucher {
            extra["voucherState"] = json!({
                "signedMaxClaimable": voucher.max_claimable.to_string(),
                "signature": voucher.signature,
            });
        }
        Object::of(&extra)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy::primitives::{Address, Bytes};
    use proptest::prelude::*;

    fn config(withdraw_delay: u64) -> ChannelConfig {
        ChannelConfig {
            payer: Address::repeat_byte(1),
            payer_authorizer: Address::repeat_byte(2),
            receiver: Address::repeat_byte(3),
            receiver_authorizer: Address::repeat_byte(4),
            token: Address::repeat_byte(5),
            withdraw_delay,
            salt: B256::ZERO,
        }
    }

    fn book(balance: u128, total_claimed: u128) -> ChannelBook {
        let chain = ChannelState {
            balance,
            total_claimed,
            ..ChannelState::default()
        };
        ChannelBook::new(config(900), chain, Timestamp::from_secs(1_000))
    }

    fn voucher(max_claimable: u128) -> Voucher {
        Voucher {
            channel_id: B256::ZERO,
            max_claimable,
            signature: Bytes::from_static(&[1; 65]),
        }
    }

    proptest! {
        /// Whatever is charged, the newest voucher covers it, and the claim takes no more.
        #[test]
        fn claims_are_of_all_charges_and_within_the_voucher(
            prices in prop::collection::vec((1_u128..1_000, 0_u128..1_000), 1..20),
        ) {
            let mut book = book(1_000_000, 5);
            let mut charged = 5;
            for (step, (price, part)) in prices.iter().enumerate() {
                let next = voucher(book.charged + price);
                prop_assert_eq!(book.check(&next, *price), Ok(()));
                let amount = price * part / 1_000;
                book.charge(amount, &next, Timestamp::from_secs(2_000 + step as u64));
                charged += amount;
            }
            prop_assert_eq!(book.charged, charged);
            match book.claim_row() {
                None => prop_assert_eq!(charged, 5),
                Some(row) => {
                    prop_assert_eq!(row.total_claimed, charged);
                    prop_assert!(row.total_claimed <= row.max_claimable);
                }
            }
            let record = SchemeState::new(
                super::super::state_id(&B256::ZERO), "eip155:1", "batch-settlement",
                book.to_content().unwrap(),
            );
            prop_assert_eq!(ChannelBook::read(&record).unwrap(), book);
        }
    }

    #[test]
    fn a_summary_says_what_is_left_until_when_and_what_is_next() {
        let now = Timestamp::from_secs(2_000);
        let mut book = book(100, 10);
        book.charge(20, &voucher(30), now);
        let due = book.claim_due(&ClaimRules::default());
        let summary = book.summary(due, now);
        let units = |amount: u64| Amount::from(amount);
        assert_eq!(summary.open, units(90));
        let amounts = [("deposited", 100), ("charged", 30), ("claimed", 10)];
        assert_eq!(summary.amounts, amounts.map(|(name, it)| (name, units(it))));
        assert_eq!(
            (summary.until, summary.next.as_str()),
            (None, "claims in 300 seconds")
        );
        book.chain.withdraw_requested_at = 1_950;
        let due = book.claim_due(&ClaimRules::default());
        let summary = book.summary(due, now);
        assert_eq!(summary.until, Some(Timestamp::from_secs(1_950 + 900)));
        assert_eq!(summary.next, "claims now");
        book.claimed(30, now);
        let due = book.next_due(&ClaimRules::default(), now);
        assert_eq!(
            book.summary(due, now).next,
            "pays the receiver in 60 seconds"
        );
        assert_eq!(book.summary(None, now).next, "nothing");
    }

    #[test]
    fn only_the_next_voucher_is_accepted() {
        let book = book(100, 10);
        assert_eq!(book.check(&voucher(30), 20), Ok(()));
        for odd in [29, 31, 10, 0] {
            assert_eq!(book.check(&voucher(odd), 20), Err(NotNext::Mismatch));
        }
        assert_eq!(book.check(&voucher(10), 0), Err(NotNext::BelowClaimed));
        assert_eq!(book.check(&voucher(101), 91), Err(NotNext::ExceedsBalance));
        assert_eq!(book.check(&voucher(5), u128::MAX), Err(NotNext::Mismatch));
    }

    #[test]
    fn a_charged_voucher_is_never_charged_again() {
        let mut book = book(100, 0);
        let first = voucher(10);
        book.charge(10, &first, Timestamp::from_secs(1_000));
        assert_eq!(book.check(&first, 10), Err(NotNext::Mismatch));
        // Less was charged than the voucher allows: the next one begins there.
        let second = voucher(20);
        assert_eq!(book.check(&second, 10), Ok(()));
        book.charge(3, &second, Timestamp::from_secs(1_001));
        assert_eq!(book.check(&second, 10), Err(NotNext::Mismatch));
        assert_eq!(book.check(&voucher(23), 10), Ok(()));
    }

    #[test]
    fn claims_are_due_by_age_sum_and_withdrawal() {
        let rules = ClaimRules::new(3_600, 50);
        let mut book = book(100, 0);
        let due = |book: &ChannelBook| book.claim_due(&rules).map(Timestamp::secs);
        assert_eq!(due(&book), None);
        book.charge(10, &voucher(10), Timestamp::from_secs(1_000));
        book.charge(10, &voucher(20), Timestamp::from_secs(1_100));
        // A third of the delay of withdrawals, since the first charge.
        assert_eq!(due(&book), Some(1_300));
        let mut patient = book.clone();
        patient.config.withdraw_delay = 30 * 24 * 3600;
        assert_eq!(due(&patient), Some(4_600));
        patient.charge(30, &voucher(50), Timestamp::from_secs(1_200));
        assert_eq!(due(&patient), Some(1_000));
        book.chain.withdraw_requested_at = 1_150;
        assert_eq!(due(&book), Some(1_000));
        let claimed = ChannelState {
            total_claimed: 20,
            ..book.chain
        };
        book.sync(claimed, Timestamp::from_secs(1_400));
        assert_eq!((due(&book), book.claim_row()), (None, None));
    }

    /// The receiver itself can claim more than was charged here.
    #[test]
    fn what_was_claimed_counts_as_charged() {
        let mut book = book(100, 0);
        book.charge(10, &voucher(10), Timestamp::from_secs(1_000));
        let claimed = ChannelState {
            total_claimed: 40,
            ..book.chain
        };
        book.sync(claimed, Timestamp::from_secs(1_001));
        assert_eq!((book.charged, book.claim_row()), (40, None));
        assert_eq!(book.check(&voucher(50), 10), Ok(()));
    }

    #[test]
    fn the_chain_is_asked_again_in_time_for_a_claim() {
        let mut book = book(100, 0);
        for (delay, fresh) in [(900, 300), (30 * 24 * 3600, 300), (300, 100), (1, 30)] {
            book.config.withdraw_delay = delay;
            assert!(
                book.is_fresh(Timestamp::from_secs(1_000 + fresh)),
                "{delay}"
            );
            assert!(
                !book.is_fresh(Timestamp::from_secs(1_001 + fresh)),
                "{delay}"
            );
        }
    }

    #[test]
    fn a_record_of_another_format_is_not_read() {
        let book = ChannelBook {
            format: 2,
            ..book(1, 0)
        };
        let content =
            |state| SchemeState::new(super::super::state_id(&B256::ZERO), "eip155:1", "x", state);
        assert!(ChannelBook::read(&content(book.to_content().unwrap())).is_err());
        assert!(ChannelBook::read(&content(b"{}".to_vec())).is_err());
        assert!(ChannelBook::read(&content(vec![0xff])).is_err());
    }
}
