//! What a transaction has to offer to be included.

use std::time::Duration;

use alloy::primitives::{U64, U128};
use quittance_cached::{Cached, Lifetimes};
use quittance_core::{Fault, FaultKind};
use quittance_nodes::Nodes;
use serde::Deserialize;
use serde_json::json;

/// The price of gas, in wei.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fees {
    /// On chains with a base fee (EIP-1559).
    Dynamic {
        /// At most this much in all.
        max: u128,
        /// Of which at most this much is the block producer's.
        tip: u128,
    },
    /// On chains without one.
    Legacy {
        /// This much.
        price: u128,
    },
}

impl Fees {
    /// The most that a unit of gas can cost.
    pub(crate) fn max(self) -> u128 {
        match self {
            Self::Dynamic { max, .. } => max,
            Self::Legacy { price } => price,
        }
    }

    /// What nodes take in exchange for a transaction with these fees: a tenth more of everything
    /// (geth's rule, the strictest), or what is asked `now` if that is more, but never over the
    /// `limit`, nor a tip over `tip_max`. `None` where the tenth is over one of them.
    pub(crate) fn raised(self, now: Self, limit: u128, tip_max: u128) -> Option<Self> {
        let tenth_more = |fee: u128| fee.saturating_add(fee / 10).saturating_add(1);
        let least = tenth_more(self.max());
        if least > limit {
            return None;
        }
        let max = least.max(now.max()).min(limit);
        Some(match self {
            Self::Dynamic { tip, .. } => {
                let tip_now = match now {
                    Self::Dynamic { tip, .. } => tip,
                    Self::Legacy { .. } => 0,
                };
                let least = tenth_more(tip);
                if least > tip_max {
                    return None;
                }
                let tip = least.max(tip_now).min(tip_max).min(max);
                Self::Dynamic { max, tip }
            }
            Self::Legacy { .. } => Self::Legacy { price: max },
        })
    }
}

/// Learns fees, and remembers them for a moment.
#[derive(Debug)]
pub(crate) struct FeeOracle {
    /// The highest tip that the operator pays, in wei.
    tip_max: u128,
    latest: Cached<Fees, Fault>,
}

/// How many times the tip that the node itself suggests may be paid. On a chain whose blocks are
/// nearly empty a handful of transactions sets the median.
const TIP_TIMES_MAX: u128 = 5;

/// A tip that is not worth a second look, in wei: a million gas costs a hundred-thousandth of a
/// coin. Some nodes suggest none.
const TIP_TRIFLE: u128 = 10_000_000;

/// The tip to offer, given the `median` of what got into blocks and what the node suggests.
fn bounded_tip(median: u128, suggested: Option<u128>, tip_max: u128) -> u128 {
    let by_node = suggested.map(|tip| tip.saturating_mul(TIP_TIMES_MAX).max(TIP_TRIFLE));
    median.min(by_node.unwrap_or(u128::MAX)).min(tip_max).max(1)
}

/// Fees are learnt again after this long: a base fee moves by an eighth per block at most, and the offer leaves room
/// for it to double.
const KEPT: Duration = Duration::from_secs(3);

/// How many blocks are looked back at.
const BLOCKS: u64 = 5;

/// `eth_feeHistory`, as much of it as is needed.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct History {
    base_fee_per_gas: Vec<U128>,
    #[serde(default)]
    reward: Vec<Vec<U128>>,
}

impl FeeOracle {
    pub(crate) fn new(tip_max: u128) -> Self {
        Self {
            tip_max,
            latest: Cached::new(Lifetimes::fresh(KEPT)),
        }
    }

    /// What to offer now.
    pub(crate) async fn now(&self, rpc: &Nodes) -> Result<Fees, Fault> {
        self.latest.get(|| learn(rpc, self.tip_max)).await
    }
}

async fn learn(rpc: &Nodes, tip_max: u128) -> Result<Fees, Fault> {
    let calls = [
        quittance_nodes::Request::new(
            "eth_feeHistory",
            json!([U64::from(BLOCKS), "latest", [50.0]]),
        ),
        quittance_nodes::Request::new("eth_gasPrice", json!([])),
        quittance_nodes::Request::new("eth_maxPriorityFeePerGas", json!([])),
    ];
    let [history, price, tip] = <[_; 3]>::try_from(rpc.ask_many(&calls).await?)
        .map_err(|_| Fault::new(FaultKind::ChainUnavailable, "fees: too few answers"))?;
    let history = history
        .ok()
        .and_then(|history| serde_json::from_value::<History>(history).ok());
    let suggested = amount(tip);
    if let Some(fees) = history.and_then(|history| history.fees(suggested, tip_max)) {
        return Ok(fees);
    }
    match amount(price) {
        // A little over the asking price, so that the next block takes it as well.
        Some(price) => Ok(Fees::Legacy {
            price: (price / 10).saturating_mul(11).saturating_add(1),
        }),
        None => Err(Fault::new(
            FaultKind::ChainUnavailable,
            "the node does not say what gas costs",
        )),
    }
}

/// An answer that is an amount of wei; nodes without the method have none.
fn amount(answer: quittance_nodes::Reply) -> Option<u128> {
    let amount: U128 = serde_json::from_value(answer.ok()?).ok()?;
    Some(amount.to())
}

impl History {
    /// Twice the next block's base fee and the median of the tips that got into blocks, within
    /// bounds. Chains without a base fee have no answer here.
    fn fees(&self, suggested: Option<u128>, tip_max: u128) -> Option<Fees> {
        let base = self.base_fee_per_gas.last()?.to::<u128>();
        if base == 0 {
            return None;
        }
        let mut tips: Vec<u128> = self
            .reward
            .iter()
            .filter_map(|tips| tips.first())
            .map(|tip| tip.to())
            .collect();
        tips.sort_unstable();
        let median = tips.get(tips.len() / 2).copied().unwrap_or_default();
        let tip = bounded_tip(median, suggested, tip_max);
        Some(Fees::Dynamic {
            max: base.saturating_mul(2).saturating_add(tip),
            tip,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: u128 = u128::MAX;

    #[test]
    fn a_tip_is_bounded_by_the_network_and_by_what_the_node_suggests() {
        const GWEI: u128 = 1_000_000_000;
        // Three transactions in empty blocks set the median.
        assert_eq!(bounded_tip(400 * GWEI, Some(GWEI), 20 * GWEI), 5 * GWEI);
        // The node itself is wrong.
        assert_eq!(
            bounded_tip(400 * GWEI, Some(400 * GWEI), 20 * GWEI),
            20 * GWEI
        );
        assert_eq!(bounded_tip(400 * GWEI, None, 20 * GWEI), 20 * GWEI);
        // An ordinary day.
        assert_eq!(bounded_tip(2 * GWEI, Some(GWEI), 20 * GWEI), 2 * GWEI);
        assert_eq!(bounded_tip(TIP_TRIFLE, Some(0), 20 * GWEI), TIP_TRIFLE);
        assert_eq!(bounded_tip(0, Some(0), 20 * GWEI), 1);
    }

    #[test]
    fn a_replacement_pays_no_tip_over_the_bound() {
        let old = Fees::Dynamic { max: 100, tip: 10 };
        let now = Fees::Dynamic { max: 500, tip: 400 };
        let raised = Fees::Dynamic { max: 500, tip: 20 };
        assert_eq!(old.raised(now, 1000, 20), Some(raised));
        assert_eq!(old.raised(now, 1000, 11), None);
    }

    proptest! {
        #[test]
        fn whatever_nodes_say_no_tip_is_over_the_bound(
            base: u128, rewards: Vec<u128>, suggested: Option<u128>, tip_max in 1..u128::MAX,
        ) {
            let history = History {
                base_fee_per_gas: vec![U128::from(base)],
                reward: rewards.into_iter().map(|tip| vec![U128::from(tip)]).collect(),
            };
            if let Some(Fees::Dynamic { tip, max }) = history.fees(suggested, tip_max) {
                prop_assert!(0 < tip && tip <= tip_max && tip <= max);
            }
        }

        #[test]
        fn no_raise_is_over_a_bound(
            max: u128, tip: u128, now_max: u128, now_tip: u128, limit: u128, tip_max: u128,
        ) {
            let old = Fees::Dynamic { max, tip };
            let now = Fees::Dynamic { max: now_max, tip: now_tip };
            if let Some(Fees::Dynamic { max, tip }) = old.raised(now, limit, tip_max) {
                prop_assert!(max <= limit && tip <= tip_max);
            }
        }
    }

    #[test]
    fn a_raise_is_at_least_a_tenth_of_everything() {
        let old = Fees::Dynamic { max: 100, tip: 10 };
        let now = |max| Fees::Dynamic { max, tip: 1 };
        let raised = |max| Some(Fees::Dynamic { max, tip: 12 });
        assert_eq!(old.raised(now(50), 1000, MAX), raised(111));
        assert_eq!(old.raised(now(500), 1000, MAX), raised(500));
        let free = Fees::Legacy { price: 0 };
        assert_eq!(free.raised(free, 1000, 0), Some(Fees::Legacy { price: 1 }));
    }

    #[test]
    fn a_raise_keeps_under_the_limit_or_is_not_made() {
        let old = Fees::Dynamic { max: 100, tip: 10 };
        let now = Fees::Dynamic { max: 500, tip: 400 };
        let raised = Fees::Dynamic { max: 200, tip: 200 };
        assert_eq!(old.raised(now, 200, MAX), Some(raised));
        assert_eq!(old.raised(now, 110, MAX), None);
    }

    #[test]
    fn the_offer_outlives_a_doubled_base_fee() {
        let history = History {
            base_fee_per_gas: vec![U128::from(7), U128::from(10)],
            reward: vec![
                vec![U128::from(5)],
                vec![U128::from(1)],
                vec![U128::from(3)],
            ],
        };
        assert_eq!(
            history.fees(None, MAX),
            Some(Fees::Dynamic { max: 23, tip: 3 })
        );
        assert_eq!(
            History {
                base_fee_per_gas: vec![U128::ZERO],
                reward: vec![]
            }
            .fees(None, MAX),
            None
        );
    }
}
