//! Confirms by several nodes what one node reported of a transaction.

use quittance_core::{Fault, TransactionId};

use crate::failure::unavailable;
use crate::nodes::Nodes;
use crate::request::{Reply, Request};

/// How many nodes must agree. With two, a single wrong node settles nothing.
const NODES: usize = 2;

impl Nodes {
    /// Asks every node that is up to date, and checks that at least two of the replies agree.
    ///
    /// # Errors
    /// While fewer than two replies agree. This is not a verdict: a node may be a block behind.
    pub async fn confirm(
        &self,
        transaction: &TransactionId,
        request: &Request,
        agrees: impl Fn(Reply) -> bool,
    ) -> Result<(), Fault> {
        let replies = self.ask_every_current(request).await.into_iter();
        if replies.map(agrees).filter(|agrees| *agrees).count() >= NODES {
            return Ok(());
        }
        let detail = format!(
            "the payment in {transaction} is large and needs two nodes that confirm it; fewer do so far"
        );
        Err(unavailable(detail))
    }
}
