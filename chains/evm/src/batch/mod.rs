//! The scheme `batch-settlement`: payments by vouchers of a channel.
//!
//! A payer deposits tokens into a channel of the contract `x402BatchSettlement`, and then signs a
//! voucher for each request: what it owes in total by now. The receiver claims the newest vouchers
//! of many channels in one transaction, and gets the sum of its claims in another one. The payer
//! gets the rest by a refund, or after a delay on its own.
//!
//! The seller keeps the book of its channels, or leaves it to the facilitator.

mod book;
mod channel;
mod channels;
mod claim;
mod consent;
mod deposit;
mod offer;
mod payer;
mod payload;
pub mod reason;
mod refund;
mod required;
mod setup;
mod sweep;
pub(crate) mod units;
mod view;
mod voucher;
mod vouchers;

use std::sync::Arc;

use quittance_core::json::{Object, TEXT_MAX};
use quittance_core::wire::{PaymentPayload, PaymentRequirements, Rest};
use quittance_core::{
    KEPT_MAX, Payment, PaymentRequest, Refusal, Scheme, SchemeState, StateSummary, Timestamp,
    Upkeep,
};
use serde_json::json;

pub use self::book::{ChannelBook, ClaimRules, NotNext, SignedRefund};
pub use self::channel::{
    BATCH_SETTLEMENT, ChannelConfig, ChannelState, EIP3009_COLLECTOR, PERMIT2_COLLECTOR,
    WITHDRAW_DELAY_MAX_SECS, WITHDRAW_DELAY_MIN_SECS, domain_separator, state_id,
};
pub use self::channels::{Channels, UpkeepReport, UpkeepTask};
pub use self::offer::{ChannelOffer, WITHDRAW_DELAY_SECS};
pub use self::payer::{
    BooksError, ChannelPayer, DepositRules, PayerBook, SignedDeposit, read_books,
};
pub use self::setup::{BatchConfig, BatchConfigError};
pub use self::voucher::{ClaimRow, Voucher, claim_digest, refund_digest, voucher_digest};

use self::claim::Claims;
use self::deposit::DepositPayment;
use self::payload::Act;
use self::refund::RefundPayment;
use self::setup::{Setup, Terms};
use self::sweep::Sweep;
use self::vouchers::VoucherPayment;
use crate::chain::Evm;
use crate::exact::sponsoring::{self, SignedApproval};

/// The scheme's name.
pub(crate) const NAME: &str = "batch-settlement";

/// The scheme `batch-settlement` on one EVM chain: the facilitator's side.
#[derive(Debug, Clone)]
pub struct BatchSettlement(Arc<Setup>);

impl BatchSettlement {
    /// The scheme on this chain, for all of its tokens. The facilitator authorizes no claims and no
    /// refunds by itself, and keeps no vouchers: sellers do.
    pub fn new(evm: &Evm) -> Self {
        Self(Arc::new(Setup::new(evm)))
    }

    /// The scheme with these settings.
    ///
    /// # Errors
    /// If the authorizer is no signer of the chain.
    pub fn with_config(self, config: BatchConfig) -> Result<Self, BatchConfigError> {
        let setup = Setup::clone(&self.0).with_config(config)?;
        Ok(Self(Arc::new(setup)))
    }
}

impl Scheme<Evm> for BatchSettlement {
    fn name(&self) -> &str {
        NAME
    }

    /// The account that sellers can name as the authorizer of their channels, if there is one.
    fn extra(&self) -> Option<Object> {
        let authorizer = self.0.authorizer()?;
        let mut extra = json!({ "receiverAuthorizer": authorizer.to_checksum(None) });
        if self.0.keeps_vouchers() {
            extra["voucherManager"] = json!(["server", "facilitator"]);
        }
        Object::of(&extra).ok()
    }

    /// A claim of a hundred channels has 62 KB.
    fn kept_max(&self) -> usize {
        TEXT_MAX
    }

    fn assets(&self) -> Vec<String> {
        self.0.assets()
    }

    fn extensions(&self) -> &[&str] {
        sponsoring::extensions(self.0.tokens(), false)
    }

    fn decode(
        &self,
        request: &PaymentRequest,
        now: Timestamp,
    ) -> Result<Box<dyn Payment<Evm>>, Refusal> {
        request.check_scheme(NAME, reason::SCHEME)?;
        request.check_network(self.0.network(), reason::NETWORK_MISMATCH)?;
        let terms = Terms::read(&self.0, request)?;
        let setup = Arc::clone(&self.0);
        let act = Act::read(&request.payload)?;
        if !matches!(act, Act::Claim(_)) {
            // What payers write is as short as in other schemes.
            request.kept_text(self.extensions(), KEPT_MAX)?;
        }
        Ok(match act {
            Act::Deposit(act) => {
                let act = (*act, SignedApproval::read(request)?);
                Box::new(DepositPayment::new(setup, act, terms, now)?)
            }
            Act::Voucher(act) => Box::new(VoucherPayment::of_voucher(setup, *act, terms, now)?),
            Act::Refund(act) if act.refund_nonce.is_none() => {
                Box::new(VoucherPayment::of_refund(setup, *act, terms, now)?)
            }
            Act::Refund(act) => Box::new(RefundPayment::new(setup, *act, terms, now)?),
            Act::Claim(act) => Box::new(Claims::new(setup, act, terms, now)?),
            Act::Sweep(act) => Box::new(Sweep::new(&setup, act, &terms, now)?),
        })
    }

    fn summary(&self, state: &SchemeState, now: Timestamp) -> Option<StateSummary> {
        let book = ChannelBook::read(state).ok()?;
        Some(book.summary(state.due, now))
    }

    /// Claims what channels owe that the facilitator keeps the vouchers of, and then pays it to
    /// their receivers.
    fn upkeep(&self, due: &[SchemeState], _: Timestamp) -> Upkeep {
        let mut upkeep = Upkeep::default();
        for record in due {
            let Ok(book) = ChannelBook::read(record) else {
                // It stays as it is, for an operator, and must not be read every minute.
                upkeep.seen.push((record.clone(), None));
                continue;
            };
            let payload = match book.claim_row() {
                Some(row) => json!({ "type": "claim", "claims": [row] }),
                None => {
                    // Once. What a failure leaves is in the sum of the next transfer.
                    upkeep.seen.push((record.clone(), None));
                    let config = book.config;
                    json!({ "type": "settle", "receiver": config.receiver, "token": config.token })
                }
            };
            let request = Object::of(&payload).ok();
            let request = request.and_then(|payload| self.own_request(&book.config, payload));
            upkeep.requests.extend(request);
        }
        upkeep
    }
}

impl BatchSettlement {
    /// A request of the scheme itself for a channel.
    fn own_request(&self, config: &ChannelConfig, payload: Object) -> Option<PaymentRequest> {
        let requirements = PaymentRequirements {
            scheme: NAME.to_owned(),
            network: self.0.network().id().to_owned(),
            amount: "0".to_owned(),
            asset: config.token.to_checksum(None),
            pay_to: config.receiver.to_checksum(None),
            max_timeout_seconds: 0,
            extra: None,
            rest: Rest::default(),
        };
        let payload = PaymentPayload::new(requirements.clone(), payload);
        PaymentRequest::new(payload, requirements).ok()
    }
}
