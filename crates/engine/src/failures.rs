//! Failed settlements: each cost the operator a transaction and brought nothing. A payer, or a recipient, for whom too
//! many fail in an hour is not served for the rest of it.
//!
//! What can be known before a transaction is sent is checked before. What is left (a contract wallet that changes its
//! mind, money that leaves between look and block) costs gas each time, and a fresh authorization costs its payer
//! nothing. So failures are counted.
//!
//! The count is kept in memory and starts anew with the process.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use quittance_core::{Reason, Rejection, Timestamp};

/// How many settlements may fail in an hour, each at the cost of a transaction, before no more are tried. 0: any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailureLimits {
    /// Of one payer.
    pub per_payer: u32,
    /// For one recipient. Beyond it, only payers are served for it that have settled something in the last hour: a
    /// recipient is named by its payers, so a stranger could use up the count of a seller.
    pub per_recipient: u32,
}

impl Default for FailureLimits {
    fn default() -> Self {
        Self {
            // An honest payer's fails when it spends its last money in two places at once, or moves it: rare, and not five
            // times an hour.
            per_payer: 5,
            // Six payers at their limit.
            per_recipient: 30,
        }
    }
}

/// For how long a failure counts, in seconds.
const WINDOW_SECS: u64 = 3600;

/// One more failure is allowed for this many settlements that succeeded since the first one: who pays thousands of times
/// an hour fails a few times.
const SETTLED_PER_FAILURE: u32 = 10;

/// How many accounts are remembered of each kind. Each is some hundred bytes; each that has failed has cost a transaction.
/// When it is full, the failures of further accounts are not counted until an hour has passed.
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
    /// Payers that have settled something, and when.
    settled: HashMap<String, Timestamp>,
}

/// What happened to an account since its first failure.
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
    /// [`Reason::TOO_MANY_FAILURES`], and until when.
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
                "{} transactions of this {whose} failed within an hour: it is served again at {until}",
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

    /// A transaction was included, and did not settle the payment.
    pub(crate) fn failed(&self, payer: &str, recipient: &str, now: Timestamp) {
        let mut known = self.known();
        count_failure(&mut known.payers, payer, now);
        count_failure(&mut known.recipients, recipient, now);
    }

    /// A payment has settled.
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
        // A panic with the lock left whole values: each change is a count or an insertion.
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

/// Forgets what is over, where the memory is full.
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
    fn a_payer_whose_transactions_keep_failing_is_served_again_after_an_hour() {
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

    /// A stranger can name any recipient: the recipient's known payers must not suffer for it.
    #[test]
    fn a_recipient_that_strangers_make_fail_keeps_the_payers_it_has() {
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
    fn zero_is_no_limit() {
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
        /// What can be wasted on one payer in an hour: the limit, and a tenth of what it has settled.
        #[test]
        fn failures_are_bounded_by_the_limit_and_by_what_settles(outcomes in prop::collection::vec(any::<bool>(), 0..300), limit in 1_u32..8) {
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
