//! The verification of signatures: by the verifier's queue, and by rules that were added.

use quittance_core::{Fault, SignatureClaim, SignatureVerifier};
use quittance_verify::VerifierQueue;

use crate::rules::Rules;

/// Checks claims that need no rule. The verdicts have the order of the claims.
pub(crate) type Check = dyn Fn(&[&SignatureClaim]) -> Vec<bool> + Send + Sync;

/// Verifies signatures. Clones share the queue.
#[derive(Clone)]
pub(crate) struct Signatures {
    queue: VerifierQueue,
    rules: Rules,
}

impl Signatures {
    /// A queue with this many threads.
    ///
    /// # Errors
    /// When the operating system gives no threads.
    pub(crate) fn start(threads: usize, check: Box<Check>, rules: Rules) -> Result<Self, Fault> {
        let shared = rules.clone();
        let queue = VerifierQueue::with_check(threads, move |claims| {
            metrics::histogram!("quittance_signature_batch_size").record(claims.len() as f64);
            shared.verify(claims, &*check)
        })?;
        Ok(Self { queue, rules })
    }

    /// Checks these claims. Returns whether each is valid.
    ///
    /// # Errors
    /// As the queue, and when a claim has an unknown rule.
    pub(crate) async fn check(&self, claims: &[SignatureClaim]) -> Result<Vec<bool>, Fault> {
        self.rules.check(claims)?;
        self.queue.verify(claims).await
    }
}
