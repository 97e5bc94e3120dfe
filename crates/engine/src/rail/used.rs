//! Who used an authorization that the chain says is used: a transaction of ours, or another sender's.
//!
//! Anyone who has seen an authorization can use it. A verdict "used" is therefore not given before it is known by which
//! transaction: it may be one of ours whose receipt the nodes do not have yet, or one that a node took and said it refused;
//! and where an outsider was faster, the recipient is paid too.

use quittance_core::{
    Amount, Chain, Effect, Fault, FaultKind, Payment, Reason, Rejection, TransactionId,
};

use tracing::debug;

use super::Rail;
use super::recover::Trail;
use super::verify::Decoded;
use quittance_journal::{Outcome, Settlement, State};

/// How many searches are made at once for requests that were never claimed here. Each costs the nodes more than other
/// questions, and whoever owns a used authorization can present it as often as the limits allow.
pub(super) const SEARCHES_MAX: usize = 8;

/// Who used an authorization.
pub(super) enum Use {
    /// No transaction, as far as the verdict says.
    Unused,
    /// This one, of those signed for the payment: it moved the money.
    Ours(TransactionId),
    /// This one, with the verdict that follows from it.
    Other(TransactionId, Rejection),
    /// No transfer: its payer cancelled it. This is the verdict, with that transaction in its words.
    Cancelled(Rejection),
    /// A transaction that the nodes do not know.
    Unknown,
}

/// What a verdict against a payment comes to, once it was looked at more closely.
pub(super) enum Closer {
    /// It does not stand: one of ours has moved the money, or may still do so.
    Unfinished,
    /// It stands, with the transaction to look at.
    Rejected(Rejection, Option<TransactionId>),
}

impl<C: Chain> Rail<C> {
    /// Who used an authorization, if that is what this `rejection` says. `signed` are all transactions that were ever signed
    /// for it.
    ///
    /// # Errors
    /// When the nodes know the transaction, and not yet what it did.
    pub(super) async fn who_used(
        &self,
        payment: &dyn Payment<C>,
        amount: Amount,
        rejection: &Rejection,
        signed: &[TransactionId],
    ) -> Result<Use, Fault> {
        let Some(search) = payment.used_by(rejection) else {
            return Ok(Use::Unused);
        };
        let found = match self.chain.find(&search).await {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(Use::Unknown),
            Err(fault) => {
                debug!(%fault, "the nodes cannot be searched for who used an authorization");
                return Ok(Use::Unknown);
            }
        };
        let id = found.id;
        if found.confirmations < self.chain.confirmations_required() {
            let what = format_args!("{id} used the authorization, and is not deep enough yet");
            return Err(Fault::new(FaultKind::ChainUnavailable, what));
        }
        Ok(match payment.effect(amount, &found.evidence) {
            Effect::Transferred(moved) if moved == amount && signed.contains(&id) => Use::Ours(id),
            Effect::Transferred(moved) if moved == amount => {
                let detail = format!("paid by {id}, which this facilitator did not send");
                let reason = Reason::SETTLED_BY_OTHER_TRANSACTION;
                Use::Other(id, Rejection::new(reason, detail))
            }
            Effect::Transferred(_) | Effect::Mismatch(_) => {
                let detail = format!("used by {id}, which did not pay the recipient the amount");
                let rejection = Rejection::new(rejection.reason.clone(), detail);
                Use::Other(id, rejection)
            }
            Effect::None(_) => {
                let detail = format!("cancelled by its payer in {id}");
                Use::Cancelled(Rejection::new(rejection.reason.clone(), detail))
            }
        })
    }

    /// Looks more closely at a verdict against a payment of which the journal may know an attempt that `failed`.
    ///
    /// # Errors
    /// When it is not certain that the verdict stands.
    pub(super) async fn look_closer(
        &self,
        decoded: &Decoded<C>,
        rejection: Rejection,
        failed: Option<&Settlement>,
    ) -> Result<Closer, Fault> {
        let (info, payment) = (decoded.info(), &*decoded.payment);
        let Some(failed) = failed else {
            return Ok(self.look_at_stranger(payment, info.amount, rejection).await);
        };
        let signed = match self.trail(&info.id, payment, info.amount).await? {
            Trail::Moved(_) | Trail::Out(_) => return Ok(Closer::Unfinished),
            Trail::Cold(cold) => cold.signed,
        };
        let used = self
            .who_used(payment, info.amount, &rejection, &signed)
            .await?;
        Ok(match (used, &failed.state) {
            (Use::Ours(_), _) => Closer::Unfinished,
            (Use::Other(id, rejection), _) => Closer::Rejected(rejection, Some(id)),
            (Use::Cancelled(rejection), _) => {
                Closer::Rejected(rejection, failed.evidence().cloned())
            }
            // Found out before, when the nodes still knew.
            (
                Use::Unknown,
                State::Concluded(Outcome::Failed {
                    reason,
                    detail,
                    transaction,
                }),
            ) if *reason == Reason::SETTLED_BY_OTHER_TRANSACTION => {
                let rejection = Rejection::new(reason.clone(), detail);
                Closer::Rejected(rejection, transaction.clone())
            }
            // It was given back as never sent, and used since then. One that a node refused may be the one that used it.
            (Use::Unknown, State::Concluded(Outcome::Released { .. })) if !signed.is_empty() => {
                let what = "the authorization is used, and no node says by which transaction";
                return Err(Fault::new(FaultKind::ChainUnavailable, what));
            }
            (Use::Unused | Use::Unknown, _) => {
                Closer::Rejected(rejection, failed.evidence().cloned())
            }
        })
    }

    /// As [`look_closer`](Self::look_closer), of a payment for which nothing was ever signed here: the verdict stands, and it
    /// is only a question of what to say with it.
    async fn look_at_stranger(
        &self,
        payment: &dyn Payment<C>,
        amount: Amount,
        rejection: Rejection,
    ) -> Closer {
        let Ok(_turn) = self.searches.try_acquire() else {
            return Closer::Rejected(rejection, None);
        };
        match self.who_used(payment, amount, &rejection, &[]).await {
            Ok(Use::Other(id, rejection)) => Closer::Rejected(rejection, Some(id)),
            Ok(Use::Cancelled(rejection)) => Closer::Rejected(rejection, None),
            Ok(Use::Unused | Use::Unknown | Use::Ours(_)) | Err(_) => {
                Closer::Rejected(rejection, None)
            }
        }
    }
}
