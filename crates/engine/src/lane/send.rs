//! Signing, recording and sending one batch.

use std::sync::Arc;

use quittance_core::{Chain, Fault, FaultKind, LaneId, Reason, Submission, Transaction};
use quittance_journal::{FencingToken, SettlementStep};
use tracing::{debug, warn};

use crate::context::{Context, Returned};
use crate::in_flight::Progress;
use crate::job::Ready;
use crate::outstanding::SendGuard;
use crate::writer::Journaled;

/// Signs a batch for the reserved sequence number, records the transaction, and sends it. Returns
/// the next sequence number, if it is known then.
pub(super) async fn send<C: Chain>(
    context: Arc<Context<C>>,
    reserved: SendGuard<C>,
    token: FencingToken,
    batch: Vec<Ready<C>>,
) -> Option<u64> {
    let (lane, sequence) = &reserved.key;
    // Time has passed since the lane was chosen, and the number is reserved only now.
    if context.leases.token_to_send(lane) != Some(token) {
        find_other_lane(&context, batch);
        return None;
    }
    let actions: Vec<&C::Action> = batch.iter().map(|ready| &ready.action).collect();
    let signed = match context.chain.prepare(lane, *sequence, &actions).await {
        Ok(signed) => signed,
        Err(fault) => {
            retry_alone(&context, lane, batch, fault).await;
            return Some(*sequence);
        }
    };
    let token = Some(token);
    let journaled = record(&context, &batch, signed, token).await?;
    submit(&context, batch, journaled, token).await
}

/// Hands jobs back that this process cannot send in their lane any more.
pub(super) fn find_other_lane<C: Chain>(context: &Context<C>, batch: Vec<Ready<C>>) {
    for Ready { job, .. } in batch {
        context.hand_back(Returned::Resume(job));
    }
}

/// Records a signed transaction for the settlements of a batch. `None` if this process stops first,
/// or if the lane or a settlement belongs to another replica.
pub(super) async fn record<C: Chain>(
    context: &Context<C>,
    batch: &[Ready<C>],
    signed: Transaction,
    token: Option<FencingToken>,
) -> Option<Journaled> {
    let step = |ready: &Ready<C>| SettlementStep {
        settlement: ready.job.id(),
        step: ready.step,
    };
    let steps: Vec<SettlementStep> = batch.iter().map(step).collect();
    let network = context.network();
    context.writer.record(network, signed, &steps, token).await
}

/// Sends a recorded transaction. Returns the next sequence number of its signer, if it is known
/// then.
pub(super) async fn submit<C: Chain>(
    context: &Arc<Context<C>>,
    batch: Vec<Ready<C>>,
    journaled: Journaled,
    token: Option<FencingToken>,
) -> Option<u64> {
    let report = |progress: &Progress| {
        batch
            .iter()
            .for_each(|ready| ready.job.report(progress.clone()));
    };
    let id = journaled.transaction().id.clone();
    let (lane, sequence) = journaled.key();
    // From here on, a node may have it. Callers may see its id before the node has answered.
    report(&Progress::Sent(id.clone()));
    let submission = journaled.submit(&*context.chain).await;
    debug!(transaction = %id, ?submission, payments = batch.len(), "submitted");
    let network = context.network().to_owned();
    metrics::histogram!("quittance_transaction_payments", "network" => network)
        .record(batch.len() as f64);
    if let Submission::Refused(fault) = submission {
        report(&Progress::Waiting);
        if context.writer.withdraw(&id, token).await.is_some() {
            context.release_all(batch, fault).await;
        }
        return Some(sequence);
    }
    let jobs = batch.into_iter().map(|ready| ready.job).collect();
    context.outstanding.add(jobs, journaled);
    match submission {
        Submission::SequenceUsed => {
            if context.is_own(&lane) {
                warn!(%lane, sequence, "another program sends transactions with this signer");
                context.health.note_rival(&lane);
            }
            None
        }
        _ => Some(sequence + 1),
    }
}

/// Removes the jobs whose authorization expired, or would expire before it could be included. They
/// would cost a transaction and settle nothing. The others do not wait until these are concluded.
pub(super) fn drop_late<C: Chain>(
    context: &Arc<Context<C>>,
    batch: Vec<Ready<C>>,
) -> Vec<Ready<C>> {
    let (late, batch): (Vec<_>, Vec<_>) = batch
        .into_iter()
        .partition(|ready| context.is_too_late_to_send(&ready.job));
    if !late.is_empty() {
        context.spawn(end_late(Arc::clone(context), late));
    }
    batch
}

/// Concludes jobs that are too late. If the clock is in doubt, they may still be valid, and are
/// released instead.
async fn end_late<C: Chain>(context: Arc<Context<C>>, late: Vec<Ready<C>>) {
    if let Some(fault) = context.health.clock_doubt().await {
        return context.release_all(late, fault).await;
    }
    for Ready { job, .. } in late {
        context
            .fail(job, Reason::SETTLEMENT_EXPIRED.into(), None)
            .await;
    }
}

/// Handles a batch that the chain does not sign. The number of its payments may be the cause, or
/// one of them. So each is tried once alone, with the same signer. If the nodes do not answer, this
/// would not help, and all are released.
async fn retry_alone<C: Chain>(
    context: &Arc<Context<C>>,
    lane: &LaneId,
    batch: Vec<Ready<C>>,
    fault: Fault,
) {
    let is_temporary = matches!(fault.kind, FaultKind::ChainUnavailable | FaultKind::Busy);
    if batch.len() == 1 || is_temporary {
        return context.release_all(batch, fault).await;
    }
    warn!(payments = batch.len(), %fault, "this batch could not be signed: each payment is sent alone");
    for ready in batch {
        let job = ready.job.with_alone(true);
        context.hand_back(Returned::Requeue(Ready { job, ..ready }, lane.clone()));
    }
}
