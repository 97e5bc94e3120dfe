//! Recent blockhashes: what a transaction is made with, and what a seller can tell its buyers.

use std::fmt;
use std::sync::{Arc, Mutex as Cell, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use quittance_core::Fault;
use quittance_nodes::{Nodes, unavailable};
use serde::Deserialize;
use serde_json::json;
use solana_hash::Hash;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tracing::warn;
use url::Url;

use super::config::SolanaConfigError;
use super::read::InContext;
use super::rpc;

/// A blockhash, and until when it can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Latest {
    pub(crate) blockhash: Hash,
    /// The height of the last block that takes a transaction made with it.
    pub(crate) last_valid_block_height: u64,
}

/// The newest confirmed blockhash.
pub(crate) async fn latest(nodes: &Nodes) -> Result<Latest, Fault> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Found {
        blockhash: String,
        last_valid_block_height: u64,
    }
    let options = json!([{ "commitment": "confirmed" }]);
    let found: InContext<Found> = nodes.ask("getLatestBlockhash", options).await?;
    let unreadable = |_| unavailable("the node answered nonsense about the newest blockhash");
    Ok(Latest {
        blockhash: found.value.blockhash.parse().map_err(unreadable)?,
        last_valid_block_height: found.value.last_valid_block_height,
    })
}

/// For how long a blockhash counts as the newest: a crowd of buyers costs a node one call a second.
const FRESH: Duration = Duration::from_secs(1);

/// How old a blockhash that is told to a buyer may be when there is no newer one. It lives for a minute, of which the buyer
/// and the facilitator need some.
const USABLE: Duration = Duration::from_secs(10);

/// For how long nodes that did not answer are left alone: nobody waits for them meanwhile.
const FAILURE_KEPT: Duration = Duration::from_secs(5);

/// How long one node may take, so that the next one gets its turn.
const RPC_TIMEOUT: Duration = Duration::from_secs(1);

/// How long all of them may take together. A buyer waits for this, and a blockhash is only a help.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The newest blockhash of a cluster, for a seller's offers: buyers that are told it need no node to make a payment.
///
/// A node is asked when a buyer asks for the terms, by one for all, and at most once a second. One that does not answer keeps
/// nobody waiting for more than two seconds, and spoils no offer: the terms are told without a blockhash. Clones share what
/// is known; make one for all the offers on a cluster.
#[derive(Clone)]
pub struct Blockhashes(Arc<Shared>);

struct Shared {
    nodes: Nodes,
    known: Cell<Known>,
    /// Held by who asks the nodes. No lock on what is known is held meanwhile.
    asking: Mutex<()>,
}

#[derive(Default)]
struct Known {
    /// With when it was asked for.
    latest: Option<(Instant, Latest)>,
    /// When the nodes failed, if they have not answered since.
    failed: Option<Instant>,
}

impl Known {
    /// What can be told without asking; `None` where somebody must ask. `asked` says that somebody does already.
    fn answer(&self, asked: bool) -> Option<Option<Latest>> {
        let younger_than = |age: Duration| {
            let latest = self.latest.as_ref();
            let latest = latest.filter(|(asked, _)| asked.elapsed() < age);
            latest.map(|(_, latest)| latest.clone())
        };
        let usable = younger_than(USABLE);
        let is_down = |failed: Instant| asked || failed.elapsed() < FAILURE_KEPT;
        let known = younger_than(FRESH).is_some()
            || self.failed.is_some_and(is_down)
            || asked && usable.is_some();
        known.then_some(usable)
    }
}

impl Blockhashes {
    /// The blockhashes of the cluster that these nodes are of, in order of preference. It is the cluster of the offers, or
    /// nobody can pay with them: a blockhash is worth nothing anywhere else.
    ///
    /// # Errors
    /// When no node is named, or no HTTP client can be made.
    pub fn of(nodes: &[Url]) -> Result<Self, SolanaConfigError> {
        if nodes.is_empty() {
            return Err(SolanaConfigError::NoRpc);
        }
        Ok(Self(Arc::new(Shared {
            nodes: rpc::connect("", nodes, RPC_TIMEOUT)?,
            known: Cell::default(),
            asking: Mutex::default(),
        })))
    }

    /// A blockhash that is a few seconds old at most, if there is one.
    pub(crate) async fn newest(&self) -> Option<Latest> {
        if let Some(answer) = self.known().answer(false) {
            return answer;
        }
        let _asking = match self.0.asking.try_lock() {
            Ok(asking) => asking,
            Err(_) => {
                if let Some(answer) = self.known().answer(true) {
                    return answer;
                }
                self.0.asking.lock().await
            }
        };
        // Somebody else may have asked in the meantime.
        if let Some(answer) = self.known().answer(false) {
            return answer;
        }
        self.ask().await
    }

    async fn ask(&self) -> Option<Latest> {
        let now = Instant::now();
        let late = |_| Err(unavailable("no answer in time"));
        let answer = timeout(TIMEOUT, latest(&self.0.nodes)).await;
        let mut known = self.known();
        match answer.unwrap_or_else(late) {
            Ok(latest) => {
                *known = Known {
                    latest: Some((now, latest)),
                    failed: None,
                }
            }
            Err(fault) => {
                warn!(%fault, "buyers are told no blockhash");
                known.failed = Some(Instant::now());
            }
        }
        known.answer(true).flatten()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Each change is one assignment; whoever panicked with the lock left it whole.
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Blockhashes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Blockhashes")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATEST: Latest = Latest {
        blockhash: Hash::new_from_array([9; 32]),
        last_valid_block_height: 150,
    };

    fn ago(time: Duration) -> Instant {
        Instant::now().checked_sub(time).unwrap()
    }

    fn known(age: Option<Duration>, failed: Option<Duration>) -> Known {
        Known {
            latest: age.map(|age| (ago(age), LATEST)),
            failed: failed.map(ago),
        }
    }

    #[test]
    fn one_asks_and_the_others_are_told_what_is_known() {
        let young = Some(Duration::ZERO);
        assert_eq!(known(None, None).answer(false), None);
        assert_eq!(known(young, None).answer(false), Some(Some(LATEST)));
        assert_eq!(known(Some(FRESH), None).answer(false), None);
        assert_eq!(known(Some(FRESH), None).answer(true), Some(Some(LATEST)));
        // There is nothing to tell yet: the others wait for the one who asks.
        assert_eq!(known(None, None).answer(true), None);
    }

    #[test]
    fn a_blockhash_that_is_too_old_is_told_to_nobody() {
        assert_eq!(known(Some(USABLE), None).answer(true), None);
        let down = known(Some(USABLE), Some(Duration::ZERO));
        assert_eq!(down.answer(false), Some(None));
    }

    #[test]
    fn nobody_waits_for_nodes_that_just_failed_and_one_at_a_time_afterwards() {
        let just = known(None, Some(Duration::ZERO));
        assert_eq!(just.answer(false), Some(None));
        let before = known(None, Some(FAILURE_KEPT));
        assert_eq!(before.answer(false), None);
        assert_eq!(before.answer(true), Some(None));
        let still_good = known(Some(FRESH), Some(Duration::ZERO));
        assert_eq!(still_good.answer(false), Some(Some(LATEST)));
    }
}
