//! Recent blockhashes, for payers and for sellers' offers.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use quittance_cached::{Cached, Lifetimes};
use quittance_core::Fault;
use quittance_nodes::unavailable;
use solana_commitment_config::CommitmentConfig;
use solana_hash::Hash;
use tokio::time::timeout;
use tracing::warn;
use url::Url;

use super::config::SolanaConfigError;
use super::rpc::Rpc;
use super::sender::fault;

/// A blockhash with its lifetime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Latest {
    pub(crate) blockhash: Hash,
    /// The height of the last block that can include a transaction with it.
    pub(crate) last_valid_block_height: u64,
}

/// The newest confirmed blockhash.
pub(crate) async fn latest(rpc: &Rpc) -> Result<Latest, Fault> {
    let confirmed = CommitmentConfig::confirmed();
    let found = rpc.client().get_latest_blockhash_with_commitment(confirmed);
    let (blockhash, last_valid_block_height) = found.await.map_err(fault)?;
    Ok(Latest {
        blockhash,
        last_valid_block_height,
    })
}

/// The age up to which a blockhash is offered without a request: many buyers cost a node one
/// request a second.
const FRESH: Duration = Duration::from_secs(1);

/// The age up to which a blockhash is offered if there is no newer one. It expires after a minute,
/// of which the buyer and the facilitator need some.
const STALE: Duration = Duration::from_secs(10);

/// The time after a failure without further requests, so that no buyer waits for nodes that are
/// down.
const FAILURE: Duration = Duration::from_secs(5);

/// The time limit for one node, so that the next one can be asked.
const RPC_TIMEOUT: Duration = Duration::from_secs(1);

/// The time limit for all nodes together. A buyer waits for them, and can pay without the offered
/// blockhash if it has a node of its own.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The newest blockhash of a cluster, for sellers' offers: with it, a buyer needs no node to make a
/// payment.
///
/// A node is asked when a buyer asks for payment requirements, at most once a second for all
/// buyers. If no node answers within two seconds, the requirements have no blockhash. Clones share
/// the blockhash: use one value for all offers on a cluster.
#[derive(Clone)]
pub struct Blockhashes(Arc<Shared>);

struct Shared {
    rpc: Rpc,
    latest: Cached<Latest, Fault>,
}

impl Blockhashes {
    /// The blockhashes of the cluster of these nodes, which are in order of preference. It must be
    /// the cluster of the offers: a blockhash is valid on its own cluster only.
    ///
    /// # Errors
    /// When there is no node, or no HTTP client can be made.
    pub fn new(nodes: &[Url]) -> Result<Self, SolanaConfigError> {
        if nodes.is_empty() {
            return Err(SolanaConfigError::NoRpc);
        }
        let lifetimes = Lifetimes::fresh(FRESH)
            .stale(STALE)
            .failure(FAILURE)
            .no_wait_after_failure();
        Ok(Self(Arc::new(Shared {
            rpc: Rpc::new("", nodes, RPC_TIMEOUT)?,
            latest: Cached::new(lifetimes),
        })))
    }

    /// A blockhash that is at most [`STALE`] old, if there is one.
    pub(crate) async fn newest(&self) -> Option<Latest> {
        self.0.latest.get(|| self.fetch()).await.ok()
    }

    async fn fetch(&self) -> Result<Latest, Fault> {
        let late = |_| Err(unavailable("no node answered in time"));
        let fetched = timeout(TIMEOUT, latest(&self.0.rpc)).await;
        fetched.unwrap_or_else(late).inspect_err(|fault| {
            warn!(%fault, "the offers have no new blockhash");
        })
    }
}

impl fmt::Debug for Blockhashes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Blockhashes")
    }
}
