//! Settling: vouchers are charged here, deposits and refunds by the facilitator behind.

use alloy::primitives::B256;
use quittance_core::json::Object;
use quittance_core::wire::SettleResponse;
use quittance_core::{Amount, FacilitatorError, Fault, PaymentRequest, Rejection};

use super::super::book::{ChannelBook, SignedRefund};
use super::super::channel::ChannelState;
use super::super::reason;
use super::books::KnownBook;
use super::payment::{ChannelPayment, Purpose, add_state, channel_state};
use super::{NotPaid, Parts, ROUNDS_MAX, busy, contended};

impl Parts {
    /// Settles a payment of this seller.
    pub(super) async fn settle(
        &self,
        request: &PaymentRequest,
        payment: &ChannelPayment,
    ) -> Result<SettleResponse, NotPaid> {
        if payment.cancel {
            return self.cancel(request, payment).await;
        }
        let by_key = self.check(payment, true).await?;
        let (id, own) = (payment.id(), payment.pending_id.as_deref());
        if self.holds.is_taken(&id, own, self.clock.now()) {
            return Err(busy().into());
        }
        match payment.purpose {
            Purpose::Charge => self.charge(request, payment, by_key).await,
            Purpose::Deposit(_) => self.deposit(request, payment).await,
            Purpose::Refund(asked) => self.refund(request, payment, by_key, asked).await,
        }
    }

    /// Ends the hold of a payment whose request was not served.
    async fn cancel(
        &self,
        request: &PaymentRequest,
        payment: &ChannelPayment,
    ) -> Result<SettleResponse, NotPaid> {
        self.end_hold(payment);
        let network = &request.requirements.network;
        let known = self.books.get(&payment.id()).await?;
        let known = known.map_or_else(
            || {
                ChannelBook::new(
                    payment.signed.config,
                    ChannelState::default(),
                    self.clock.now(),
                )
            },
            |known| known.book,
        );
        Ok(payment.charged(network, 0, &known))
    }

    /// Ends the hold of a payment.
    pub(super) fn end_hold(&self, payment: &ChannelPayment) {
        if let Some(pending) = &payment.pending_id {
            self.holds.end(&payment.id(), pending);
        }
    }

    /// Notes that the settlement of a payment has ended without an outcome.
    pub(super) fn leave_open(&self, payment: &ChannelPayment) {
        if let Some(pending) = &payment.pending_id {
            self.holds.leave_open(&payment.id(), pending);
        }
    }

    /// Whether the payment still has the hold of its verification.
    fn has_hold(&self, payment: &ChannelPayment) -> bool {
        let signed = &payment.signed;
        let pending = payment.pending_id.as_deref();
        self.holds.has(&signed.id, pending, &signed.voucher)
    }

    /// Charges a voucher.
    async fn charge(
        &self,
        request: &PaymentRequest,
        payment: &ChannelPayment,
        by_key: bool,
    ) -> Result<SettleResponse, NotPaid> {
        let (id, network) = (payment.id(), &request.requirements.network);
        let (key, amount) = (payment.key(request), payment.required.amount);
        for _ in 0..ROUNDS_MAX {
            let now = self.clock.now();
            let known = match self.books.get(&id).await? {
                // The answer to the write was lost.
                Some(known) if key.is_some() && known.book.charged_by == key => {
                    self.end_hold(payment);
                    return Ok(payment.charged(network, amount, &known.book));
                }
                // The payer may have announced a withdrawal while its request was served for long.
                Some(known)
                    if self.has_hold(payment)
                        && known.book.is_fresh(now)
                        && payment.check_book(&known.book, now).is_ok() =>
                {
                    known
                }
                _ => self.judge(request, payment, by_key, now).await?,
            };
            let mut book = known.book.clone();
            book.charge(amount, &payment.signed.voucher, now);
            book.charged_by.clone_from(&key);
            if amount > 0 {
                let due = book.claim_due(&self.rules);
                let Some(written) = self.books.write(&id, &known, book, due).await? else {
                    continue;
                };
                book = written;
            }
            self.end_hold(payment);
            return Ok(payment.charged(network, amount, &book));
        }
        Err(contended().into())
    }

    /// Has a deposit made, and then charges its voucher.
    async fn deposit(
        &self,
        request: &PaymentRequest,
        payment: &ChannelPayment,
    ) -> Result<SettleResponse, NotPaid> {
        let asked = ChannelPayment::of_payer(request, request.requirements.amount)?;
        let response = self.behind.settle(&asked).await?;
        if response.is_pending() {
            return Ok(response);
        }
        if !response.success {
            self.end_hold(payment);
            return Ok(response);
        }
        let (id, amount) = (payment.id(), payment.required.amount);
        for _ in 0..ROUNDS_MAX {
            let now = self.clock.now();
            // What the verification has seen of the chain, if the channel has no record yet.
            let seen = self.books.get(&id).await?;
            let seen = seen.filter(|known| !known.has_record());
            let known = self.books.reload(&id).await?;
            let mut known = known.or(seen).unwrap_or_else(|| {
                KnownBook::new(ChannelBook::new(
                    payment.signed.config,
                    ChannelState::default(),
                    now,
                ))
            });
            payment.sync_deposit(&mut known.book, response.extra.as_ref(), now);
            let mut book = known.book.clone();
            let charge = payment.charge_deposit(&mut book, payment.key(request), amount, now);
            let due = book.claim_due(&self.rules);
            let Some(book) = self.books.write(&id, &known, book, due).await? else {
                continue;
            };
            self.end_hold(payment);
            return Ok(match charge {
                Ok(()) => payment.deposited(response, amount, &book),
                Err(rejection) => {
                    let network = &request.requirements.network;
                    let (payer, transaction) = (Some(payment.payer()), &response.transaction);
                    SettleResponse::failed(network, &rejection, payer, transaction)
                }
            });
        }
        Err(contended().into())
    }

    /// Completes a payer's request for a refund, and has it made.
    async fn refund(
        &self,
        request: &PaymentRequest,
        payment: &ChannelPayment,
        by_key: bool,
        asked: Option<Amount>,
    ) -> Result<SettleResponse, NotPaid> {
        let id = payment.id();
        let (book, refund) = self.sign_refund(request, payment, by_key, asked).await?;
        let asked = ChannelPayment::of_payer(request, request.requirements.amount)?;
        let completed = self.authority.refund(&asked, &book, refund);
        let completed = completed.map_err(FacilitatorError::from)?;
        let mut response = self.behind.settle(&completed).await?;
        if response.is_pending() {
            return Ok(response);
        }
        self.end_hold(payment);
        if response.success {
            let book = self.refunded(&id, response.extra.as_ref()).await?;
            add_state(&mut response, &id, &book, None);
        }
        Ok(response)
    }

    /// The refund that is to be signed, and the book that knows it. The book is durable first: the
    /// signature can be used at any time, so no voucher may count on this part of the balance.
    async fn sign_refund(
        &self,
        request: &PaymentRequest,
        payment: &ChannelPayment,
        by_key: bool,
        asked: Option<Amount>,
    ) -> Result<(ChannelBook, SignedRefund), NotPaid> {
        for _ in 0..ROUNDS_MAX {
            if let Some(again) = self.refund_again(payment, asked).await? {
                return Ok(again);
            }
            let now = self.clock.now();
            let known = self.judge(request, payment, by_key, now).await?;
            let left = known.book.refundable();
            if left == 0 {
                let detail = "everything in the channel is charged";
                return Err(Rejection::new(reason::REFUND_NO_BALANCE, detail).into());
            }
            // More than is left would pay back what is charged, if the last claim came later.
            let mut book = known.book.clone();
            let refund = book.sign_refund(at_most(asked, left));
            let due = book.claim_due(&self.rules);
            if let Some(book) = self.books.write(&payment.id(), &known, book, due).await? {
                return Ok((book, refund));
            }
        }
        Err(contended().into())
    }

    /// A refund of the same hold that was signed before, and whose outcome is not known yet.
    async fn refund_again(
        &self,
        payment: &ChannelPayment,
        asked: Option<Amount>,
    ) -> Result<Option<(ChannelBook, SignedRefund)>, Fault> {
        if !self.has_hold(payment) {
            return Ok(None);
        }
        let known = self.books.get(&payment.id()).await?;
        Ok(known.and_then(|known| {
            let asked = at_most(asked, known.book.refundable());
            let refund = known.book.refund.filter(|refund| refund.amount >= asked)?;
            Some((known.book, refund))
        }))
    }

    /// Takes over what the chain has after a refund.
    async fn refunded(&self, id: &B256, extra: Option<&Object>) -> Result<ChannelBook, NotPaid> {
        let state = extra.and_then(channel_state);
        for _ in 0..ROUNDS_MAX {
            let now = self.clock.now();
            let known = self.books.reload(id).await?.ok_or_else(contended)?;
            let mut book = known.book.clone();
            match state {
                Some(state) => book.sync(state, now),
                // The chain is asked before the next charge.
                None => book.synced_at = 0,
            }
            let due = book.next_due(&self.rules, now);
            if let Some(book) = self.books.write(id, &known, book, due).await? {
                return Ok(book);
            }
        }
        Err(contended().into())
    }
}

/// What is asked for, or all that is left if that is less.
fn at_most(asked: Option<Amount>, left: u128) -> u128 {
    asked.map_or(left, |asked| {
        asked.units().saturating_to::<u128>().min(left)
    })
}
