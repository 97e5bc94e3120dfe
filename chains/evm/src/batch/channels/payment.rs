//! A payer's payment by a channel, as its seller judges it. Nothing here waits.

use alloy::primitives::B256;
use quittance_core::json::Object;
use quittance_core::wire::SettleResponse;
use quittance_core::{Amount, PaymentRequest, Refusal, Rejection, Timestamp};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::super::book::ChannelBook;
use super::super::channel::ChannelState;
use super::super::payload::Act;
use super::super::reason;
use super::super::required::Required;
use super::super::vouchers::{SignedVoucher, check_next, mismatch};

/// What a payer presents a voucher for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To pay a request.
    Charge,
    /// To pay a request, with a deposit of this much before.
    Deposit(u128),
    /// To get back what is left, or this much of it.
    Refund(Option<Amount>),
}

impl Purpose {
    /// Whether the voucher is worth something only once it is claimed.
    pub(super) fn needs_claim(self) -> bool {
        !matches!(self, Self::Refund(_))
    }
}

/// The fields that the seller itself has added to the payload.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SellerFields {
    #[serde(default)]
    pending_id: Option<String>,
    #[serde(default)]
    cancel: bool,
}

/// A payment by a channel.
pub(super) struct ChannelPayment {
    pub(super) required: Required,
    pub(super) signed: SignedVoucher,
    pub(super) purpose: Purpose,
    /// The hold of the verified payment, in a request to settle.
    pub(super) pending_id: Option<String>,
    /// Whether the request was not served, and only its hold ends.
    pub(super) cancel: bool,
}

impl ChannelPayment {
    /// Reads a request. The separator is that of the contract.
    ///
    /// # Errors
    /// If a field cannot be read, or the payload is an act of sellers.
    pub(super) fn decode(request: &PaymentRequest, separator: &B256) -> Result<Self, Refusal> {
        let required = Required::read(request)?;
        let seller: SellerFields = request.payload.read("paymentPayload.payload")?;
        let (config, voucher, purpose) = match Act::read(&request.payload)? {
            Act::Voucher(act) => (act.config, act.voucher, Purpose::Charge),
            Act::Deposit(act) => {
                let purpose = Purpose::Deposit(act.deposit.amount);
                (act.config, act.voucher, purpose)
            }
            Act::Refund(act) => (act.config, act.voucher, Purpose::Refund(act.amount)),
            Act::Claim(_) | Act::Sweep(_) => {
                let detail =
                    "the seller claims by itself: payload.type must be deposit, voucher or refund";
                return Err(Rejection::new(reason::PAYLOAD_TYPE, detail).into());
            }
        };
        Ok(Self {
            required,
            signed: SignedVoucher::new(separator, config, voucher),
            purpose,
            pending_id: seller.pending_id,
            cancel: seller.cancel,
        })
    }

    /// The channel's identity.
    pub(super) fn id(&self) -> B256 {
        self.signed.id
    }

    /// The payer, as answers name it.
    pub(super) fn payer(&self) -> String {
        self.signed.config.payer.to_checksum(None)
    }

    /// Checks what the request alone shows.
    pub(super) fn check_request(&self, settling: bool) -> Result<(), Rejection> {
        let signed = &self.signed;
        self.required
            .check_channel(&signed.config, &signed.id, &signed.voucher)?;
        self.required.check_amount(settling)?;
        match self.purpose {
            Purpose::Refund(Some(amount)) if amount.is_zero() => {
                let detail = "the amount of the refund is zero";
                Err(Rejection::new(reason::REFUND_AMOUNT_INVALID, detail))
            }
            Purpose::Refund(_) => Ok(()),
            Purpose::Charge | Purpose::Deposit(_) => signed.check_price(&self.required),
        }
    }

    /// Checks the payment against the book of its channel. The rejection has the channel's state.
    pub(super) fn check_book(&self, book: &ChannelBook, now: Timestamp) -> Result<(), Rejection> {
        self.judge(book, now)
            .map_err(|rejection| corrected(rejection, book, &self.id()))
    }

    fn judge(&self, book: &ChannelBook, now: Timestamp) -> Result<(), Rejection> {
        if let Purpose::Refund(_) = self.purpose {
            return match self.signed.voucher.max_claimable == book.charged {
                true => Ok(()),
                false => Err(mismatch(book, &self.signed, 0)),
            };
        }
        let mut book = book.clone();
        if let Purpose::Deposit(amount) = self.purpose {
            book.chain.balance = book.chain.balance.saturating_add(amount);
        }
        if book.chain.balance == 0 {
            let detail = "the channel has no balance";
            return Err(Rejection::new(reason::CHANNEL_NOT_FOUND, detail));
        }
        if book.is_leaving(now) {
            let detail = "the payer has announced a withdrawal of the channel's balance";
            return Err(Rejection::new(reason::CUMULATIVE_EXCEEDS_BALANCE, detail));
        }
        check_next(&book, &self.signed, self.required.price)
    }

    /// Which request this is, for the book: its hold, or its deposit, which is made once. `None` if
    /// it has neither.
    pub(super) fn key(&self, request: &PaymentRequest) -> Option<String> {
        match self.purpose {
            Purpose::Deposit(_) => Some(request.origin().to_string()),
            Purpose::Charge | Purpose::Refund(_) => self.pending_id.clone(),
        }
    }

    /// The payload as the payer sent it, without what the seller has added.
    ///
    /// # Errors
    /// When the request cannot be written.
    pub(super) fn of_payer(
        request: &PaymentRequest,
        amount: Amount,
    ) -> Result<PaymentRequest, quittance_core::Malformed> {
        let mut payload = request.payload.tree();
        let added = ["pendingId", "cancel"].map(|field| payload.remove(field).is_some());
        match added.contains(&true) {
            false => request.charging(amount),
            true => request.completed(Object::of(&payload)?, amount),
        }
    }

    /// The success of a charge, with the book after it.
    pub(super) fn charged(
        &self,
        network: &str,
        amount: u128,
        book: &ChannelBook,
    ) -> SettleResponse {
        let mut response = SettleResponse::settled(network, Some(self.payer()), "");
        response.amount = Some(String::new());
        let extra = json!({
            "chargedAmount": amount.to_string(),
            "chargeCount": book.charge_count,
            "channelState": book.channel_state(&self.id()),
        });
        response.extra = Object::of(&extra).ok();
        response
    }
}

impl ChannelPayment {
    /// Takes over what the chain has after the deposit, by the facilitator's answer.
    pub(super) fn sync_deposit(
        &self,
        book: &mut ChannelBook,
        extra: Option<&Object>,
        now: Timestamp,
    ) {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Settled {
            channel_state: Partial,
        }
        #[derive(Deserialize)]
        struct Partial {
            balance: Amount,
        }
        if let Some(state) = extra.and_then(channel_state) {
            return book.sync(state, now);
        }
        // An answer after a restart of the facilitator has the balance at most. The chain is asked
        // before the next charge.
        let settled = extra.and_then(|extra| extra.read::<Settled>("extra").ok());
        let balance = settled.map(|settled| settled.channel_state.balance);
        let deposit = match self.purpose {
            Purpose::Deposit(amount) => amount,
            Purpose::Charge | Purpose::Refund(_) => 0,
        };
        book.chain.balance = match balance {
            Some(balance) => balance.units().saturating_to(),
            None => book.chain.balance.saturating_add(deposit),
        };
        book.synced_at = 0;
    }

    /// Charges the voucher of a deposit that was made. A deposit that another answer has reported
    /// was charged already.
    ///
    /// # Errors
    /// If the voucher does not cover the charge any more, because the channel was charged
    /// meanwhile.
    pub(super) fn charge_deposit(
        &self,
        book: &mut ChannelBook,
        key: Option<String>,
        amount: u128,
        now: Timestamp,
    ) -> Result<(), Rejection> {
        if key.is_some() && key == book.charged_by {
            return Ok(());
        }
        let voucher = &self.signed.voucher;
        let total = book.charged.saturating_add(amount);
        if total > voucher.max_claimable || voucher.max_claimable > book.covered() {
            let rejection = mismatch(book, &self.signed, self.required.price);
            return Err(corrected(rejection, book, &self.id()));
        }
        book.charge(amount, voucher, now);
        book.charged_by = key;
        Ok(())
    }

    /// The facilitator's answer to a deposit, with the book after its charge.
    pub(super) fn deposited(
        &self,
        mut response: SettleResponse,
        amount: u128,
        book: &ChannelBook,
    ) -> SettleResponse {
        add_state(&mut response, &self.id(), book, Some(amount));
        response
    }
}

/// The rejection with the channel's state, by which the payer can go on.
pub(super) fn corrected(rejection: Rejection, book: &ChannelBook, id: &B256) -> Rejection {
    match book.correction(id) {
        Ok(extra) => rejection.with_extra(extra),
        Err(_) => rejection,
    }
}

/// The state of a channel in the `extra` of an answer, if it is complete.
pub(super) fn channel_state(extra: &Object) -> Option<ChannelState> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Settled {
        channel_state: ChannelState,
    }
    let settled: Settled = extra.read("extra").ok()?;
    Some(settled.channel_state)
}

/// Adds the state of a channel to the facilitator's answer, and what was charged.
pub(super) fn add_state(
    response: &mut SettleResponse,
    id: &B256,
    book: &ChannelBook,
    charged: Option<u128>,
) {
    let extra = response.extra.as_ref().map(Object::tree);
    let mut extra: Map<String, Value> = extra.unwrap_or_default();
    extra.insert("channelState".to_owned(), book.channel_state(id));
    if let Some(charged) = charged {
        extra.insert("chargedAmount".to_owned(), json!(charged.to_string()));
        extra.insert("chargeCount".to_owned(), json!(book.charge_count));
    }
    response.extra = Object::of(&extra).ok();
}
