//! The verification of signatures: by the verifier's queue, and by rules that were added.

use std::sync::Arc;

use async_trait::async_trait;
use quittance_core::{Fault, SignatureClaim, SignatureVerifier};
use quittance_verify::{VerifierQueue, holds};

use crate::rules::{Rules, no_verdict};

/// Checks claims that need no rule. The verdicts have the order of the claims.
pub(crate) type Check = dyn Fn(&[&SignatureClaim]) -> Vec<bool> + Send + Sync;

/// Verifies signatures. Clones share the verifier.
#[derive(Clone)]
pub(crate) struct Signatures {
    verifier: Arc<dyn SignatureVerifier>,
    rules: Rules,
}

/// Verifies claims in the task that asks, without threads.
struct Inline(Rules);

#[async_trait]
impl SignatureVerifier for Inline {
    async fn verify(&self, claims: &[SignatureClaim]) -> Result<Vec<bool>, Fault> {
        let claims: Vec<&SignatureClaim> = claims.iter().collect();
        let known = |known: &[&SignatureClaim]| known.iter().map(|claim| holds(claim)).collect();
        let verdicts = self.0.verify(&claims, known).into_iter();
        verdicts
            .collect::<Option<Vec<bool>>>()
            .ok_or_else(no_verdict)
    }
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
        let verifier = Arc::new(queue);
        Ok(Self { verifier, rules })
    }

    /// Verification in the task that asks, without threads.
    pub(crate) fn inline(rules: Rules) -> Self {
        let verifier = Arc::new(Inline(rules.clone()));
        Self { verifier, rules }
    }

    /// Checks these claims. Returns whether each is valid.
    ///
    /// # Errors
    /// As the queue, and when a claim has an unknown rule.
    pub(crate) async fn check(&self, claims: &[SignatureClaim]) -> Result<Vec<bool>, Fault> {
        self.rules.check(claims)?;
        self.verifier.verify(claims).await
    }
}
