//! What schemes do by themselves: requests for state records that are due.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use quittance_core::{Chain, Fault, PaymentRequest, RequestCaller, Scheme, StateWarning};
use tracing::{error, info, warn};

use super::Rail;

/// How many records of a scheme are looked after in one sweep. Each may need a transaction, and
/// payments of callers must not wait for hundreds of them.
const AT_ONCE_MAX: u32 = 100;

/// For how long a record is put off whose scheme does not say when it comes again: as long as a
/// transaction usually takes to be confirmed.
const AGAIN_AFTER_SECS: u64 = 60;

impl<C: Chain> Rail<C> {
    /// Asks each scheme what its state records need that are due, and settles that.
    pub(super) async fn look_after_states(self: &Arc<Self>) -> Result<(), Fault> {
        for scheme in self.context.schemes.all() {
            self.look_after(&**scheme).await?;
        }
        Ok(())
    }

    async fn look_after(self: &Arc<Self>, scheme: &dyn Scheme<C>) -> Result<(), Fault> {
        let (network, now) = (self.context.network(), self.context.now());
        let again = now.plus_secs(AGAIN_AFTER_SECS);
        let journal = &self.context.writer.journal;
        let due = journal.due_states(network, scheme.name(), now, again, AT_ONCE_MAX);
        let due = due.await?;
        if due.is_empty() {
            return Ok(());
        }
        // With a clock that is ahead, a scheme would close what is not over.
        if let Some(doubt) = self.context.health.clock_doubt().await {
            let as_before: Vec<_> = due
                .into_iter()
                .map(|state| (state.clone(), state.due))
                .collect();
            journal.put_off_states(&as_before).await?;
            return Err(doubt);
        }
        // A panic in a scheme must not end the sweeps. The records are due again in a minute.
        let upkeep = catch_unwind(AssertUnwindSafe(|| scheme.upkeep(&due, now)));
        let Ok(upkeep) = upkeep else {
            error!(
                network,
                scheme = scheme.name(),
                "a scheme panicked in its upkeep"
            );
            return Ok(());
        };
        for warning in &upkeep.warnings {
            warn_of(network, scheme.name(), warning);
        }
        if !upkeep.seen.is_empty() {
            journal.put_off_states(&upkeep.seen).await?;
        }
        for request in upkeep.requests {
            let rail = Arc::clone(self);
            self.context
                .spawn(rail.settle_own(request.by(RequestCaller::Engine)));
        }
        Ok(())
    }

    /// Settles a request of a scheme. If it fails, its record is due again.
    async fn settle_own(self: Arc<Self>, request: PaymentRequest) {
        let network = self.context.network();
        match self.settle(&request, Box::new(())).await {
            Ok(answer) if answer.success => {
                info!(network, transaction = answer.transaction, "upkeep settled");
            }
            Ok(answer) => {
                let reason = answer.error_reason.as_deref().unwrap_or("failed");
                warn!(network, reason, "upkeep did not settle");
            }
            Err(error) => warn!(network, %error, "upkeep did not settle"),
        }
    }
}

/// Tells operators what a scheme has found about one of its records.
fn warn_of(network: &str, scheme: &str, warning: &StateWarning) {
    let StateWarning { state, detail, .. } = warning;
    warn!(network, scheme, %state, "{detail}");
    let labels = [
        ("network", network.to_owned()),
        ("scheme", scheme.to_owned()),
    ];
    metrics::counter!("quittance_state_warnings_total", &labels).increment(1);
}
