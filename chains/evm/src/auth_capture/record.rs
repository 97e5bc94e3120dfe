//! The record of a hold: what the facilitator keeps of it, and when it has to look after it.

use std::time::Duration;

use alloy::primitives::{Address, B256};
use quittance_core::{Flow, Malformed, SchemeState, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::deployment::{EscrowDeployment, HoldBalances};
use super::terms::{HoldTerms, units};
use crate::token::TransferMethod;

/// The version of the records' content.
const VERSION: u64 = 1;

/// The shortest time between two warnings of one hold, in seconds. Each comes after half of the
/// time that is left.
const WARN_AGAIN_MIN_SECS: u64 = 600;

/// The shortest time before its deadline at which the facilitator captures or voids a hold by
/// itself, in seconds. Two sweeps find it (15 seconds each), a failed attempt comes again after 60
/// seconds, and a minute is for the inclusion on a slow chain.
pub const ACT_BEFORE_MIN_SECS: u64 = 150;

/// How long after its time an act is overdue, in seconds: a sweep has begun it, and begun it again
/// 60 seconds later.
const OVERDUE_SECS: u64 = 90;

/// What an operator does before a hold can no longer be captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadlineRules {
    /// How long before the deadline the operator is warned first. For a short hold it is half of
    /// its time.
    pub warn_before: Duration,
    /// What the facilitator does by itself.
    pub act: DeadlineAct,
    /// How long before the deadline it does that: at least [`ACT_BEFORE_MIN_SECS`]. For a short
    /// hold it is a quarter of its time, and never less than this minimum. A hold that is shorter
    /// is captured or voided at once.
    pub act_before: Duration,
}

impl DeadlineRules {
    /// Whether a hold could be lost because one attempt fails.
    pub(super) fn acts_too_late(&self) -> bool {
        self.act != DeadlineAct::Wait && self.act_before.as_secs() < ACT_BEFORE_MIN_SECS
    }
}

impl Default for DeadlineRules {
    /// A warning a day before, and nothing else.
    fn default() -> Self {
        Self {
            warn_before: Duration::from_secs(24 * 3600),
            act: DeadlineAct::Wait,
            act_before: Duration::from_secs(3600),
        }
    }
}

/// What happens to a hold before its deadline without its seller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum DeadlineAct {
    /// Nothing. After the deadline the payer can take the tokens back.
    #[default]
    Wait,
    /// All that is held is paid to the receiver.
    Capture,
    /// All that is held is returned to the payer.
    Void,
}

/// What upkeep has to do for a hold now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HoldTask {
    /// Nothing before this time; `None` if nothing any more.
    Rest(Option<Timestamp>),
    /// To warn the operator, and to look again at this time.
    Warn(Timestamp),
    /// To capture or to void it.
    Act(DeadlineAct),
}

/// What the facilitator keeps of a hold.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HoldRecord {
    /// The terms.
    pub terms: HoldTerms,
    /// The contract.
    pub escrow: Address,
    /// The payer's random number, if the salt binds the hold to an authorizer.
    pub salt_nonce: Option<B256>,
    /// Who signs for the receiver.
    pub authorizer: Option<Address>,
    /// How the payer has authorized the tokens.
    pub method: TransferMethod,
    /// Whether the payment was charged at once, so that nothing was ever held.
    pub is_charged: bool,
    /// The caller that has made the hold, by [`RequestCaller::to_text`].
    ///
    /// [`RequestCaller::to_text`]: quittance_core::RequestCaller::to_text
    pub owner: Option<String>,
    /// When it was made.
    pub made_at: Timestamp,
    /// What is held and what can be refunded.
    pub balances: HoldBalances,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct RecordJson {
    payment_info: HoldTerms,
    escrow: Address,
    #[serde(default)]
    salt_nonce: Option<B256>,
    #[serde(default)]
    receiver_authorizer: Option<Address>,
    method: TransferMethod,
    charged: bool,
    #[serde(default)]
    owner: Option<String>,
    made_at: u64,
    capturable: quittance_core::Amount,
    refundable: quittance_core::Amount,
}

#[derive(Deserialize)]
struct Versioned {
    version: u64,
}

impl HoldRecord {
    /// Reads a record.
    ///
    /// # Errors
    /// If the record has no content of this version.
    pub fn read(state: &SchemeState) -> Result<Self, Malformed> {
        let odd = |error: serde_json::Error| Malformed::new("hold", error);
        let versioned: Versioned = serde_json::from_slice(&state.state).map_err(odd)?;
        if versioned.version != VERSION {
            let what = format_args!("version {} is not known", versioned.version);
            return Err(Malformed::new("hold", what));
        }
        let json: RecordJson = serde_json::from_slice(&state.state).map_err(odd)?;
        Ok(Self {
            terms: json.payment_info,
            escrow: json.escrow,
            salt_nonce: json.salt_nonce,
            authorizer: json.receiver_authorizer,
            method: json.method,
            is_charged: json.charged,
            owner: json.owner,
            made_at: Timestamp::from_secs(json.made_at),
            balances: HoldBalances {
                capturable: units("hold.capturable", json.capturable)?,
                refundable: units("hold.refundable", json.refundable)?,
            },
        })
    }

    /// The content of the record.
    pub fn to_content(&self) -> Vec<u8> {
        json!({
            "version": VERSION,
            "paymentInfo": self.terms,
            "escrow": self.escrow,
            "saltNonce": self.salt_nonce,
            "receiverAuthorizer": self.authorizer,
            "method": self.method,
            "charged": self.is_charged,
            "owner": self.owner,
            "madeAt": self.made_at.secs(),
            "capturable": self.balances.capturable.to_string(),
            "refundable": self.balances.refundable.to_string(),
        })
        .to_string()
        .into_bytes()
    }

    /// The deployment of its contract.
    pub fn deployment(&self) -> Option<EscrowDeployment> {
        EscrowDeployment::of(Some(self.escrow))
    }

    /// The flow in which it was made.
    pub fn flow(&self) -> Flow {
        match self.is_charged {
            true => Flow::Authorization,
            false => Flow::Escrow,
        }
    }

    /// The first moment at which it can no longer be captured.
    pub fn deadline(&self) -> Timestamp {
        Timestamp::from_secs(self.terms.authorization_expiry)
    }

    /// When the operator is warned first, and when the facilitator acts by itself if it does.
    fn moments(&self, rules: &DeadlineRules) -> (Timestamp, Option<Timestamp>) {
        let deadline = self.deadline().secs();
        let whole = deadline.saturating_sub(self.made_at.secs());
        let before = |secs: u64| Timestamp::from_secs(deadline.saturating_sub(secs));
        let warn_secs = rules.warn_before.as_secs().min(whole / 2);
        let act_secs = rules.act_before.as_secs().min(whole / 4);
        let acts = rules.act != DeadlineAct::Wait;
        let act = acts.then(|| before(act_secs.max(ACT_BEFORE_MIN_SECS)));
        (before(warn_secs), act)
    }

    /// Whether the facilitator should have captured or voided the hold by now.
    pub(super) fn is_overdue(&self, rules: &DeadlineRules, now: Timestamp) -> bool {
        let (_, act) = self.moments(rules);
        act.is_some_and(|act| now >= act.max(self.made_at).plus_secs(OVERDUE_SECS))
    }

    /// What upkeep has to do for the hold.
    pub fn task(&self, rules: &DeadlineRules, now: Timestamp) -> HoldTask {
        let deadline = self.deadline();
        if self.balances.capturable == 0 || now >= deadline {
            return HoldTask::Rest(None);
        }
        let (warn, act) = self.moments(rules);
        if act.is_some_and(|act| now >= act) {
            return HoldTask::Act(rules.act);
        }
        if now < warn {
            return HoldTask::Rest(Some(act.map_or(warn, |act| act.min(warn))));
        }
        let half = deadline.secs_since(now) / 2;
        let again = now.plus_secs(half.max(WARN_AGAIN_MIN_SECS));
        HoldTask::Warn(act.map_or(again, |act| act.min(again)))
    }

    /// What upkeep does next, as words.
    pub fn next(&self, rules: &DeadlineRules, now: Timestamp) -> String {
        let act = match rules.act {
            DeadlineAct::Wait => None,
            DeadlineAct::Capture => Some("captures it"),
            DeadlineAct::Void => Some("returns it"),
        };
        let (warn, at) = self.moments(rules);
        match (self.task(rules, now), act.zip(at)) {
            (HoldTask::Rest(None), _) => "nothing".to_owned(),
            (HoldTask::Act(_), Some((act, _))) => format!("{act} now"),
            (_, Some((act, at))) => format!("{act} in {} seconds", at.secs_since(now)),
            (HoldTask::Rest(Some(_)), None) => {
                format!("warns in {} seconds", warn.secs_since(now))
            }
            (HoldTask::Warn(_) | HoldTask::Act(_), None) => "warns".to_owned(),
        }
    }

    /// When upkeep has to look after the hold next.
    pub fn due(&self, rules: &DeadlineRules, now: Timestamp) -> Option<Timestamp> {
        match self.task(rules, now) {
            HoldTask::Rest(next) => next,
            HoldTask::Warn(_) | HoldTask::Act(_) => Some(now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::terms::tests::terms;
    use super::*;
    use proptest::prelude::*;

    fn record(terms: HoldTerms) -> HoldRecord {
        HoldRecord {
            terms,
            escrow: super::super::deployment::V1_1.escrow,
            salt_nonce: Some(B256::repeat_byte(3)),
            authorizer: Some(Address::repeat_byte(4)),
            method: TransferMethod::Permit2,
            is_charged: false,
            owner: Some("key:shop".to_owned()),
            made_at: Timestamp::from_secs(1_000),
            balances: HoldBalances {
                capturable: 7,
                refundable: 5,
            },
        }
    }

    fn stored(content: Vec<u8>) -> SchemeState {
        let id = quittance_core::StateId::from_parts(&[]);
        SchemeState::new(id, "eip155:1", "auth-capture", content)
    }

    proptest! {
        #[test]
        fn record_survives_its_content(terms in terms(), bound: bool) {
            let mut record = record(terms);
            if !bound {
                (record.salt_nonce, record.authorizer, record.owner) = (None, None, None);
            }
            let state = stored(record.to_content());
            prop_assert_eq!(HoldRecord::read(&state).unwrap(), record);
        }

        /// Until its deadline, an open hold is always looked after again, and it is never acted
        /// upon or warned of outside of its time.
        #[test]
        fn open_hold_is_never_forgotten(
            terms in terms(), life in 1_u64..100_000_000, passed in 0_u64..110_000_000,
            warn in 0_u64..200_000, early in 0_u64..200_000, act in 0_usize..3,
        ) {
            let act = [DeadlineAct::Wait, DeadlineAct::Capture, DeadlineAct::Void][act];
            let rules = DeadlineRules {
                warn_before: Duration::from_secs(warn), act, act_before: Duration::from_secs(early),
            };
            let mut record = record(terms);
            record.terms.authorization_expiry = 1_000 + life;
            let now = Timestamp::from_secs(1_000 + passed);
            let left = life.saturating_sub(passed);
            match record.task(&rules, now) {
                HoldTask::Rest(None) => prop_assert_eq!(left, 0),
                HoldTask::Rest(Some(next)) => {
                    prop_assert!(next > now && next <= record.deadline());
                    prop_assert!(left > 0);
                }
                HoldTask::Warn(next) => {
                    prop_assert!(next > now && left <= warn.min(life / 2));
                }
                HoldTask::Act(done) => {
                    prop_assert_eq!(done, act);
                    prop_assert!(act != DeadlineAct::Wait);
                    prop_assert!(left <= early.min(life / 4).max(ACT_BEFORE_MIN_SECS));
                }
            }
            // There is always time for a second attempt.
            if act != DeadlineAct::Wait && (1..=ACT_BEFORE_MIN_SECS).contains(&left) {
                prop_assert_eq!(record.task(&rules, now), HoldTask::Act(act));
            }
            record.balances.capturable = 0;
            prop_assert_eq!(record.task(&rules, now), HoldTask::Rest(None));
            prop_assert_eq!(record.due(&rules, now), None);
        }
    }

    #[test]
    fn content_of_another_version_is_not_read() {
        for odd in ["", "{}", "[]", r#"{"version":2}"#, r#"{"version":1}"#] {
            assert!(HoldRecord::read(&stored(odd.into())).is_err(), "{odd}");
        }
    }
}
