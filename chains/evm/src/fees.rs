//! What a transaction has to offer to be included.

use std::time::{Duration, Instant};

use alloy::primitives::{U64, U128};
use quittance_core::{Fault, FaultKind};
use quittance_nodes::Nodes;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Mutex;

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

    /// What nodes take in exchange for a transaction with these fees: a tenth more of everything (geth's rule, the
    /// strictest), or what is asked `now` if that is more, but never over `limit`. `None` where the tenth is over it.
    pub(crate) fn raised(self, now: Self, limit: u128) -> Option<Self> {
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
                let tip = tenth_more(tip).max(tip_now).min(max);
                Self::Dynamic { max, tip }
            }
            Self::Legacy { .. } => Self::Legacy { price: max },
        })
    }
}

/// Learns fees, and remembers them for a moment.
#[derive(Debug, Default)]
pub(crate) struct FeeOracle {
    latest: Mutex<Option<(Instant, Fees)>>,
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
    /// What to offer now.
    pub(crate) async fn now(&self, rpc: &Nodes) -> Result<Fees, Fault> {
        let mut latest = self.latest.lock().await;
        if let Some((learnt, fees)) = *latest
            && learnt.elapsed() < KEPT
        {
            return Ok(fees);
        }
        let fees = learn(rpc).await?;
        *latest = Some((Instant::now(), fees));
        Ok(fees)
    }
}

async fn learn(rpc: &Nodes) -> Result<Fees, Fault> {
    let calls = [
        (
            "eth_feeHistory",
            json!([U64::from(BLOCKS), "latest", [50.0]]),
        ),
        ("eth_gasPrice", json!([])),
    ];
    let [history, price] = <[_; 2]>::try_from(rpc.ask_many(&calls).await?)
        .map_err(|_| Fault::new(FaultKind::ChainUnavailable, "fees: too few answers"))?;
    let history = history
        .ok()
        .and_then(|history| serde_json::from_value::<History>(history).ok());
    if let Some(fees) = history.and_then(|history| history.fees()) {
        return Ok(fees);
    }
    let price: Option<U128> = price
        .ok()
        .and_then(|price| serde_json::from_value(price).ok());
    match price {
        // A little over the asking price, so that the next block takes it as well.
        Some(price) => Ok(Fees::Legacy {
            price: price.to::<u128>() / 10 * 11 + 1,
        }),
        None => Err(Fault::new(
            FaultKind::ChainUnavailable,
            "the node does not say what gas costs",
        )),
    }
}

impl History {
    /// Twice the next block's base fee and the median of the tips that got into blocks. Chains without a base fee have
    /// no answer here.
    fn fees(&self) -> Option<Fees> {
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
        let tip = tips.get(tips.len() / 2).copied().unwrap_or_default().max(1);
        Some(Fees::Dynamic {
            max: base.saturating_mul(2).saturating_add(tip),
            tip,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raise_is_at_least_a_tenth_of_everything() {
        let old = Fees::Dynamic { max: 100, tip: 10 };
        let now = |max| Fees::Dynamic { max, tip: 1 };
        let raised = |max| Some(Fees::Dynamic { max, tip: 12 });
        assert_eq!(old.raised(now(50), 1000), raised(111));
        assert_eq!(old.raised(now(500), 1000), raised(500));
        let free = Fees::Legacy { price: 0 };
        assert_eq!(free.raised(free, 1000), Some(Fees::Legacy { price: 1 }));
    }

    #[test]
    fn a_raise_keeps_under_the_limit_or_is_not_made() {
        let old = Fees::Dynamic { max: 100, tip: 10 };
        let now = Fees::Dynamic { max: 500, tip: 400 };
        let raised = Fees::Dynamic { max: 200, tip: 200 };
        assert_eq!(old.raised(now, 200), Some(raised));
        assert_eq!(old.raised(now, 110), None);
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
        assert_eq!(history.fees(), Some(Fees::Dynamic { max: 23, tip: 3 }));
        assert_eq!(
            History {
                base_fee_per_gas: vec![U128::ZERO],
                reward: vec![]
            }
            .fees(),
            None
        );
    }
}
