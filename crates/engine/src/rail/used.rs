//! Finds the transaction that used an authorization: one of this facilitator's, or another
//! sender's.
//!
//! Anyone who has seen an authorization can submit it. So the verdict "used" is not final before
//! the transaction is known. It may be one of ours whose receipt the nodes do not have yet, or one
//! that a node accepted and reported as refused. If another sender was faster, the recipient is
//! paid too.

use quittance_core::{
    Amount, Chain, Effect, Fault, FaultKind, Payment, Reason, Rejection, TransactionId,
};
use quittance_journal::{Outcome, Settlement, SettlementStep, State};
use tracing::debug;

use super::Rail;
use super::decoded::Decoded;
use super::history::{History, Transferred};

/// Which transaction used an authorization.
pub(super) enum UsedBy<C: Chain> {
    /// The verdict is not about a used authorization.
    Unused,
    /// This transaction, which was signed for the payment. It transferred the money.
    Ours(Transferred<C>),
    /// This transaction of another sender, with the verdict that follows from it.
    Other(TransactionId, Rejection),
    /// No transfer: the payer cancelled the authorization. The verdict names the cancelling
    /// transaction.
    Cancelled(Rejection),
    /// A transaction that the nodes do not know.
    Unknown,
}

/// The explanation of a verdict against a payment.
pub(super) enum Explained {
    /// The verdict does not count: one of our transactions `may_have_moved` the money, or steps
    /// were included that the verdict does not know of.
    Unfinished { may_have_moved: bool },
    /// The verdict is right. This is the transaction to look up, if there is one.
    Rejected(Rejection, Option<TransactionId>),
}

impl<C: Chain> Rail<C> {
    /// Which transaction used an authorization, if `rejection` says that it is used. `signed` are
    /// all transactions that were ever signed for it.
    ///
    /// # Errors
    /// When the nodes know the transaction and do not yet know what it did.
    pub(super) async fn find_user(
        &self,
        payment: &dyn Payment<C>,
        amount: Amount,
        rejection: &Rejection,
        signed: &[TransactionId],
    ) -> Result<UsedBy<C>, Fault> {
        let Some(search) = payment.used_by(rejection) else {
            return Ok(UsedBy::Unused);
        };
        let found = match self.chain().find(&search).await {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(UsedBy::Unknown),
            Err(fault) => {
                debug!(%fault, "the search for the user of an authorization failed");
                return Ok(UsedBy::Unknown);
            }
        };
        let id = found.id;
        if found.confirmations < self.context.confirmations_required(payment) {
            let what = format_args!(
                "the transaction {id} used the authorization and needs more confirmations"
            );
            return Err(Fault::new(FaultKind::ChainUnavailable, what));
        }
        // Another replica may have replaced our transaction since `signed` was read.
        let is_ours = signed.contains(&id) || self.is_made_for(&id, payment).await?;
        Ok(match payment.effect(amount, &found.evidence) {
            Effect::Transferred(moved) if is_ours => UsedBy::Ours(Transferred {
                transaction: id,
                amount: moved,
                evidence: found.evidence,
            }),
            Effect::Transferred(_) => {
                let detail =
                    format!("the transaction {id} paid, and this facilitator did not send it");
                let reason = Reason::SETTLED_BY_OTHER_TRANSACTION;
                UsedBy::Other(id, Rejection::new(reason, detail))
            }
            Effect::Mismatch(_) => {
                let detail = format!(
                    "the transaction {id} used the authorization, and did not pay the recipient the amount"
                );
                let rejection = Rejection::new(rejection.reason.clone(), detail);
                UsedBy::Other(id, rejection)
            }
            Effect::None(_) => {
                let detail =
                    format!("the authorization was cancelled by its payer in the transaction {id}");
                UsedBy::Cancelled(Rejection::new(rejection.reason.clone(), detail))
            }
        })
    }

    /// Whether the journal has a transaction as made to settle a payment.
    async fn is_made_for(
        &self,
        transaction: &TransactionId,
        payment: &dyn Payment<C>,
    ) -> Result<bool, Fault> {
        let journal = &self.context.writer.journal;
        let made_for = journal.settlements_of(transaction).await?;
        Ok(made_for.contains(&SettlementStep::settling(payment.info().id)))
    }

    /// Checks a verdict against a payment of which `amount` was required, and of which the journal
    /// may have an attempt that `failed`. A scheme may settle less than what is authorized, so the
    /// transactions of that attempt are compared with its own amount.
    ///
    /// # Errors
    /// When it is not certain that the verdict is right.
    pub(super) async fn explain(
        &self,
        decoded: &Decoded<C>,
        amount: Amount,
        rejection: Rejection,
        failed: Option<&Settlement>,
    ) -> Result<Explained, Fault> {
        let (info, payment) = (decoded.info(), &*decoded.payment);
        let Some(failed) = failed else {
            return Ok(self.explain_unclaimed(payment, amount, rejection).await);
        };
        let amount = failed.claim.amount;
        let signed = match self.history(&info.id, payment, amount).await? {
            History::Settled(..) | History::InFlight(_) => {
                return Ok(Explained::Unfinished {
                    may_have_moved: true,
                });
            }
            History::NoEffect(no_effect) if !no_effect.completed.is_empty() => {
                return Ok(Explained::Unfinished {
                    may_have_moved: false,
                });
            }
            History::NoEffect(no_effect) => no_effect.signed,
        };
        let used = self.find_user(payment, amount, &rejection, &signed).await?;
        let evidence = || failed.evidence().cloned();
        Ok(match (used, &failed.state) {
            (UsedBy::Ours(..), _) => Explained::Unfinished {
                may_have_moved: true,
            },
            (UsedBy::Other(id, rejection), _) => Explained::Rejected(rejection, Some(id)),
            (UsedBy::Cancelled(rejection), _) => Explained::Rejected(rejection, evidence()),
            // An earlier search found it, when the nodes still knew it.
            (
                UsedBy::Unknown,
                State::Concluded(Outcome::Failed {
                    reason,
                    detail,
                    transaction,
                }),
            ) if *reason == Reason::SETTLED_BY_OTHER_TRANSACTION => {
                let rejection = Rejection::new(reason.clone(), detail);
                Explained::Rejected(rejection, transaction.clone())
            }
            // It was released as never sent, and used since then. A transaction that a node refused
            // may have used it.
            (UsedBy::Unknown, State::Concluded(Outcome::Released { .. })) if !signed.is_empty() => {
                let what = "the authorization is used, and no node knows by which transaction";
                return Err(Fault::new(FaultKind::ChainUnavailable, what));
            }
            (UsedBy::Unused | UsedBy::Unknown, _) => Explained::Rejected(rejection, evidence()),
        })
    }

    /// As [`explain`](Self::explain), for a payment for which nothing was ever signed here. The
    /// verdict is right, and the search only adds the transaction.
    async fn explain_unclaimed(
        &self,
        payment: &dyn Payment<C>,
        amount: Amount,
        rejection: Rejection,
    ) -> Explained {
        let Ok(_permit) = self.searches.try_acquire() else {
            return Explained::Rejected(rejection, None);
        };
        match self.find_user(payment, amount, &rejection, &[]).await {
            Ok(UsedBy::Other(id, rejection)) => Explained::Rejected(rejection, Some(id)),
            Ok(UsedBy::Cancelled(rejection)) => Explained::Rejected(rejection, None),
            Ok(UsedBy::Unused | UsedBy::Unknown | UsedBy::Ours(..)) | Err(_) => {
                Explained::Rejected(rejection, None)
            }
        }
    }
}
