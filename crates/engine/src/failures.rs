//! Limits the failed settlements of a payer and of a recipient. Each one costs the operator a
//! transaction.
//!
//! Most failures are found before a transaction is sent. The others cost gas each time: a contract
//! wallet that changes its answer, or money that leaves between the check and the block. A new
//! authorization costs its payer nothing. So failures are counted, and after too many in an hour
//! the account is refused for the rest of that hour.
//!
//! The counts are in memory and start at zero with the process.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use quittance_core::{Reason, Rejection, Timestamp};

/// How many settlements may fail with a transaction in an hour before further ones are refused. 0
/// is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct FailureLimits {
    /// The limit for one payer.
    pub per_payer: u32,
    /// The limit for one recipient. Above it, only payers that settled a payment in the last hour
    /// can pay this recipient. Any payer can name any recipient, so without this exception an
    /// attacker could block a seller.
    pub per_recipient: u32,
}

impl FailureLimits {
    /// Limits for one payer and for one recipient. 0 is no limit.
    pub const fn new(per_payer: u32, per_recipient: u32) -> Self {
        Self {
            per_payer,
            per_recipient,
        }
    }
}

impl Default for FailureLimits {
    fn default() -> Self {
        Self {
            // An honest payer's settlement fails if it spends its last money twice at once, or
            // moves it. That is rare, and does not happen five times an hour.
            per_payer: 5,
            // As many as six payers at their limit.
            per_recipient: 30,
        }
    }
}

/// For how long a failure counts, in seconds.
const WINDOW_SECS: u64 = 3600;

/// One more failure is allowed for this many settlements since the first failure. An account with
/// thousands of payments an hour has a few failures.
const SETTLED_PER_FAILURE: u32 = 10;

/// How many accounts of each kind are remembered. Each takes about a hundred bytes, and each failed
/// one has cost a transaction. When the memory is full, failures of further accounts are not
/// counted until an hour has passed.
const ACCOUNTS_MAX: usize = 20_000;

/// Counts failures.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    limits: FailureLimits,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    payers: HashMap<String, Account>,
    recipients: HashMap<String, Account>,
    /// When each payer last settled a payment.
    settled: HashMap<String, Timestamp>,
}

/// The counts of an account since its first failure.
#[derive(Debug, Clone, Copy)]
struct Account {
    since: Timestamp,
    failed: u32,
    settled: u32,
}

impl Account {
    fn is_over(&self, limit: u32, now: Timestamp) -> bool {
        let allowed = limit.saturating_add(self.settled / SETTLED_PER_FAILURE);
        limit > 0 && self.failed >= allowed && !is_past(self.since, now)
    }
}

fn is_past(since: Timestamp, now: Timestamp) -> bool {
    now >= since.plus_secs(WINDOW_SECS)
}

impl Failures {
    pub(crate) fn new(limits: FailureLimits) -> Self {
        Self {
            limits,
            known: Mutex::default(),
        }
    }

    /// Whether a payment of this payer to this recipient may be tried.
    ///
    /// # Errors
    /// [`Reason::TOO_MANY_FAILURES`]. The detail says until when.
    pub(crate) fn check(
        &self,
        payer: &str,
        recipient: &str,
        now: Timestamp,
    ) -> Result<(), Rejection> {
        let known = self.known();
        let refused = |whose: &str, account: &Account| {
            let until = account.since.plus_secs(WINDOW_SECS);
            let detail = format!(
                "{} transactions of this {whose} failed within an hour: retry at {until}",
                account.failed
            );
            Err(Rejection::new(Reason::TOO_MANY_FAILURES, detail))
        };
        if let Some(account) = known.payers.get(payer)
            && account.is_over(self.limits.per_payer, now)
        {
            return refused("payer", account);
        }
        let has_settled = |settled: &Timestamp| !is_past(*settled, now);
        if let Some(account) = known.recipients.get(recipient)
            && account.is_over(self.limits.per_recipient, now)
            && !known.settled.get(payer).is_some_and(has_settled)
        {
            return refused("recipient", account);
        }
        Ok(())
    }

    /// Counts a transaction that was included and did not settle its payment.
    pub(crate) fn failed(&self, payer: &str, recipient: &str, now: Timestamp) {
        let mut known = self.known();
        count_failure(&mut known.payers, payer, now);
        count_failure(&mut known.recipients, recipient, now);
    }

    /// Counts a settled payment.
    pub(crate) fn settled(&self, payer: &str, recipient: &str, now: Timestamp) {
        let mut known = self.known();
        if let Some(account) = known.payers.get_mut(payer) {
            account.settled = account.settled.saturating_add(1);
        }
        if let Some(account) = known.recipients.get_mut(recipient) {
            account.settled = account.settled.saturating_add(1);
        }
        make_room(&mut known.settled, |settled| is_past(*settled, now));
        if known.settled.len() < ACCOUNTS_MAX || known.settled.contains_key(payer) {
            known.settled.insert(payer.to_owned(), now);
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // A thread that panicked with the lock left complete values: each change is one count or
        // one insertion.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count_failure(accounts: &mut HashMap<String, Account>, address: &str, now: Timestamp) {
    make_room(accounts, |account| is_past(account.since, now));
    if accounts.len() >= ACCOUNTS_MAX && !accounts.contains_key(address) {
        return;
    }
    let fresh = Account {
        since: now,
        failed: 0,
        settled: 0,
    };
    let account = accounts.entry(address.to_owned()).or_insert(fresh);
    if is_past(account.since, now) {
        *account = fresh;
    }
    account.failed = account.failed.saturating_add(1);
}

/// Removes expired entries if the memory is full.
fn make_room<T>(accounts: &mut HashMap<String, T>, is_over: impl Fn(&T) -> bool) {
    if accounts.len() >= ACCOUNTS_MAX {
        accounts.retain(|_, account| !is_over(account));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    fn is_served(failures: &Failures, payer: &str, recipient: &str, now: Timestamp) -> bool {
        let verdict = failures.check(payer, recipient, now);
        assert!(
            verdict
                .as_ref()
                .err()
                .is_none_or(|rejection| rejection.reason == Reason::TOO_MANY_FAILURES)
        );
        verdict.is_ok()
    }

    #[test]
    fn a_payer_over_its_limit_is_served_after_an_hour() {
        let failures = Failures::new(FailureLimits::default());
        for at in 0..5 {
            assert!(is_served(&failures, "payer", "seller", NOW), "{at}");
            failures.failed("payer", "seller", NOW.plus_secs(at));
        }
        assert!(!is_served(&failures, "payer", "seller", NOW.plus_secs(10)));
        assert!(!is_served(
            &failures,
            "payer",
            "other seller",
            NOW.plus_secs(3599)
        ));
        assert!(is_served(
            &failures,
            "other payer",
            "seller",
            NOW.plus_secs(10)
        ));
        assert!(is_served(&failures, "payer", "seller", NOW.plus_secs(3600)));
        failures.failed("payer", "seller", NOW.plus_secs(3601));
        assert!(is_served(&failures, "payer", "seller", NOW.plus_secs(3602)));
    }

    /// An attacker can name any recipient. The recipient's known payers can still pay it.
    #[test]
    fn a_recipient_over_its_limit_keeps_its_known_payers() {
        let failures = Failures::new(FailureLimits::default());
        failures.settled("regular", "seller", NOW);
        for stranger in 0..6 {
            (0..5).for_each(|_| failures.failed(&format!("stranger {stranger}"), "seller", NOW));
        }
        assert!(is_served(&failures, "regular", "seller", NOW));
        assert!(!is_served(&failures, "new", "seller", NOW));
        assert!(is_served(&failures, "new", "other seller", NOW));
    }

    #[test]
    fn limit_of_zero_allows_every_failure() {
        let failures = Failures::new(FailureLimits {
            per_payer: 0,
            per_recipient: 0,
        });
        (0..100).for_each(|_| failures.failed("payer", "seller", NOW));
        assert!(is_served(&failures, "payer", "seller", NOW));
    }

    #[test]
    fn memory_is_bounded() {
        let failures = Failures::new(FailureLimits::default());
        for at in 0..ACCOUNTS_MAX + 10 {
            failures.failed(&at.to_string(), "seller", NOW);
            failures.settled(&at.to_string(), "seller", NOW);
        }
        assert!(failures.known().payers.len() <= ACCOUNTS_MAX);
        assert!(failures.known().settled.len() <= ACCOUNTS_MAX);
        failures.failed("late", "seller", NOW.plus_secs(WINDOW_SECS));
        assert_eq!(failures.known().payers.len(), 1);
    }

    proptest! {
        /// One payer can cost this many transactions in an hour: the limit and a tenth of its
        /// settlements.
        #[test]
        fn failures_are_bounded_by_limit_and_settlements(outcomes in prop::collection::vec(any::<bool>(), 0..300), limit in 1_u32..8) {
            let failures = Failures::new(FailureLimits { per_payer: limit, per_recipient: 0 });
            let (mut failed, mut settled) = (0, 0);
            for settles in outcomes {
                if !is_served(&failures, "payer", "seller", NOW) {
                    continue;
                }
                match settles {
                    true => (settled, ()) = (settled + 1, failures.settled("payer", "seller", NOW)),
                    false => (failed, ()) = (failed + 1, failures.failed("payer", "seller", NOW)),
                }
                prop_assert!(failed <= limit + settled / SETTLED_PER_FAILURE);
            }
        }
    }
}
