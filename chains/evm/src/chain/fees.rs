//! The fees that a transaction needs to be included.

use std::time::Duration;

use alloy::eips::BlockNumberOrTag;
use alloy::primitives::{U64, U128};
use alloy::rpc::client::Waiter;
use alloy::rpc::types::TransactionRequest;
use quittance_cached::{Cached, Lifetimes};
use quittance_core::{Fault, FaultKind};
use quittance_nodes::unavailable;

use super::results::FeeHistory;
use super::rpc::Rpc;

/// The price of gas, in wei.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fees {
    /// Fees of a chain with a base fee (EIP-1559).
    Dynamic {
        /// The highest price, tip included.
        max: u128,
        /// The highest tip to the block's producer.
        tip: u128,
    },
    /// The price on a chain without a base fee.
    Legacy {
        /// The price.
        price: u128,
    },
}

impl Fees {
    /// The most that a unit of gas can cost.
    pub(super) fn max(self) -> u128 {
        match self {
            Self::Dynamic { max, .. } => max,
            Self::Legacy { price } => price,
        }
    }

    /// Sets the fees of a simulated call.
    pub(super) fn put(self, call: &mut TransactionRequest) {
        match self {
            Self::Dynamic { max, tip } => {
                call.max_fee_per_gas = Some(max);
                call.max_priority_fee_per_gas = Some(tip);
            }
            Self::Legacy { price } => call.gas_price = Some(price),
        }
    }

    /// The fees of a replacement for a transaction with these fees.
    ///
    /// Nodes require a tenth more of everything (geth's rule, the strictest). The fees of `now`
    /// count if they are higher. `None` if the tenth exceeds `limit`, or that of the tip `tip_max`.
    pub(super) fn raised(self, now: Self, limit: u128, tip_max: u128) -> Option<Self> {
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

/// Fetches fees, and keeps them for a moment.
#[derive(Debug)]
pub(super) struct FeeOracle {
    /// The highest price that the operator pays for a unit of gas, in wei.
    gas_price_max: u128,
    /// The highest tip that the operator pays, in wei.
    tip_max: u128,
    latest: Cached<Fees, Fault>,
}

/// How many times the node's suggested tip is paid at most. On a chain with nearly empty blocks, a
/// few transactions set the median.
const TIP_TIMES_MAX: u128 = 5;

/// A negligible tip, in wei: a million gas costs a hundred-thousandth of a coin. Some nodes suggest
/// a tip of zero.
const TIP_NEGLIGIBLE: u128 = 10_000_000;

/// The tip to pay, given the `median` of the included tips and the node's suggestion.
fn bounded_tip(median: u128, suggested: Option<u128>, tip_max: u128) -> u128 {
    let by_node = suggested.map(|tip| tip.saturating_mul(TIP_TIMES_MAX).max(TIP_NEGLIGIBLE));
    median.min(by_node.unwrap_or(u128::MAX)).min(tip_max).max(1)
}

/// For how long fees are kept. A base fee changes by at most an eighth per block, and the maximum
/// price leaves room for twice the base fee.
const LIFETIME: Duration = Duration::from_secs(3);

/// How many past blocks the median tip is from.
const BLOCKS: u64 = 5;

impl FeeOracle {
    pub(super) fn new(gas_price_max: u128, tip_max: u128) -> Self {
        Self {
            gas_price_max,
            tip_max,
            latest: Cached::new(Lifetimes::fresh(LIFETIME)),
        }
    }

    /// The present fees, whatever the operator allows.
    pub(super) async fn now(&self, rpc: &Rpc) -> Result<Fees, Fault> {
        self.latest.get(|| fetch(rpc, self.tip_max)).await
    }

    /// The present fees.
    ///
    /// # Errors
    /// If they are above the operator's limit, or no node reports them.
    pub(super) async fn affordable(&self, rpc: &Rpc) -> Result<Fees, Fault> {
        let fees = self.now(rpc).await?;
        match self.excess(fees) {
            Some(excess) => Err(Fault::new(FaultKind::Busy, excess)),
            None => Ok(fees),
        }
    }

    /// By how much these fees exceed the operator's limit, for people; `None` if they do not.
    pub(super) fn excess(&self, fees: Fees) -> Option<String> {
        let (price, max) = (fees.max(), self.gas_price_max);
        (price > max)
            .then(|| format!("gas costs {price} wei, more than the allowed maximum of {max}"))
    }

    /// The fees of a replacement, within the operator's limits; `None` if they are not enough.
    pub(super) fn raise(&self, fees: Fees, now: Fees) -> Option<Fees> {
        fees.raised(now, self.gas_price_max, self.tip_max)
    }
}

async fn fetch(rpc: &Rpc, tip_max: u128) -> Result<Fees, Fault> {
    /// The percentile of the tips in each block: the median.
    const PERCENTILES: [f64; 1] = [50.0];
    let mut batch = rpc.batch();
    let newest = BlockNumberOrTag::Latest;
    let history: Waiter<FeeHistory> =
        batch.add("eth_feeHistory", &(U64::from(BLOCKS), newest, PERCENTILES))?;
    let price: Waiter<U128> = batch.add("eth_gasPrice", &())?;
    let tip: Waiter<U128> = batch.add("eth_maxPriorityFeePerGas", &())?;
    batch.send().await?;
    // Not every node supports every one of these methods.
    let (history, price, tip) = (history.await.ok(), price.await.ok(), tip.await.ok());
    let suggested = tip.map(|tip| tip.to());
    if let Some(fees) = history.and_then(|history| dynamic_fees(&history, suggested, tip_max)) {
        return Ok(fees);
    }
    let price: u128 = price
        .ok_or_else(|| unavailable("the node reported no gas price"))?
        .to();
    // A tenth above the price, so that the transaction is still accepted in the next block.
    Ok(Fees::Legacy {
        price: (price / 10).saturating_mul(11).saturating_add(1),
    })
}

/// Twice the next block's base fee, and the bounded median of the included tips. `None` on a chain
/// without a base fee.
fn dynamic_fees(history: &FeeHistory, suggested: Option<u128>, tip_max: u128) -> Option<Fees> {
    let base: u128 = history.base_fee_per_gas.last()?.to();
    if base == 0 {
        return None;
    }
    let first = history.reward.iter().filter_map(|tips| tips.first());
    let mut tips: Vec<u128> = first.map(|tip| tip.to()).collect();
    tips.sort_unstable();
    let median = tips.get(tips.len() / 2).copied().unwrap_or_default();
    let tip = bounded_tip(median, suggested, tip_max);
    Some(Fees::Dynamic {
        max: base.saturating_mul(2).saturating_add(tip),
        tip,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: u128 = u128::MAX;

    fn history(base_fee_per_gas: Vec<u128>, tips: Vec<u128>) -> FeeHistory {
        FeeHistory {
            base_fee_per_gas: base_fee_per_gas.into_iter().map(U128::from).collect(),
            reward: tips.into_iter().map(|tip| vec![U128::from(tip)]).collect(),
        }
    }

    #[test]
    fn tip_is_bounded_by_the_operator_and_by_the_suggestion() {
        const GWEI: u128 = 1_000_000_000;
        // Three transactions in empty blocks set the median.
        assert_eq!(bounded_tip(400 * GWEI, Some(GWEI), 20 * GWEI), 5 * GWEI);
        // The node's suggestion is wrong.
        assert_eq!(
            bounded_tip(400 * GWEI, Some(400 * GWEI), 20 * GWEI),
            20 * GWEI
        );
        assert_eq!(bounded_tip(400 * GWEI, None, 20 * GWEI), 20 * GWEI);
        // An ordinary day.
        assert_eq!(bounded_tip(2 * GWEI, Some(GWEI), 20 * GWEI), 2 * GWEI);
        assert_eq!(
            bounded_tip(TIP_NEGLIGIBLE, Some(0), 20 * GWEI),
            TIP_NEGLIGIBLE
        );
        assert_eq!(bounded_tip(0, Some(0), 20 * GWEI), 1);
    }

    #[test]
    fn replacement_pays_no_tip_over_the_bound() {
        let old = Fees::Dynamic { max: 100, tip: 10 };
        let now = Fees::Dynamic { max: 500, tip: 400 };
        let raised = Fees::Dynamic { max: 500, tip: 20 };
        assert_eq!(old.raised(now, 1000, 20), Some(raised));
        assert_eq!(old.raised(now, 1000, 11), None);
    }

    proptest! {
        #[test]
        fn no_history_leads_to_a_tip_over_the_bound(
            base: u128, rewards: Vec<u128>, suggested: Option<u128>, tip_max in 1..u128::MAX,
        ) {
            let history = history(vec![base], rewards);
            if let Some(Fees::Dynamic { tip, max }) = dynamic_fees(&history, suggested, tip_max) {
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
    fn raise_is_at_least_a_tenth_of_everything() {
        let old = Fees::Dynamic { max: 100, tip: 10 };
        let now = |max| Fees::Dynamic { max, tip: 1 };
        let raised = |max| Some(Fees::Dynamic { max, tip: 12 });
        assert_eq!(old.raised(now(50), 1000, MAX), raised(111));
        assert_eq!(old.raised(now(500), 1000, MAX), raised(500));
        let free = Fees::Legacy { price: 0 };
        assert_eq!(free.raised(free, 1000, 0), Some(Fees::Legacy { price: 1 }));
    }

    #[test]
    fn raise_over_the_limit_is_not_made() {
        let old = Fees::Dynamic { max: 100, tip: 10 };
        let now = Fees::Dynamic { max: 500, tip: 400 };
        let raised = Fees::Dynamic { max: 200, tip: 200 };
        assert_eq!(old.raised(now, 200, MAX), Some(raised));
        assert_eq!(old.raised(now, 110, MAX), None);
    }

    #[test]
    fn fees_cover_a_doubled_base_fee() {
        let fees = dynamic_fees(&history(vec![7, 10], vec![5, 1, 3]), None, MAX);
        assert_eq!(fees, Some(Fees::Dynamic { max: 23, tip: 3 }));
        assert_eq!(dynamic_fees(&history(vec![0], vec![]), None, MAX), None);
    }
}
