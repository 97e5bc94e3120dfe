//! What a request requires of a channel: the terms of a sale, for the facilitator and the seller.

use alloy::primitives::{Address, B256, U256};
use quittance_core::json::text_or_integer;
use quittance_core::{Amount, Malformed, PaymentRequest, Reason, Refusal, Rejection};
use serde::Deserialize;

use super::channel::{ChannelConfig, WITHDRAW_DELAY_MAX_SECS, WITHDRAW_DELAY_MIN_SECS};
use super::reason;
use super::voucher::Voucher;
use crate::hex::{Hex, address};
use crate::token::TransferMethod;

/// The requirements' `extra`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Extra {
    #[serde(default)]
    pub(super) name: Option<String>,
    #[serde(default, deserialize_with = "text_or_integer")]
    pub(super) version: Option<String>,
    #[serde(default)]
    pub(super) asset_transfer_method: Option<String>,
    #[serde(default)]
    receiver_authorizer: Option<Hex<20>>,
    #[serde(default, deserialize_with = "text_or_integer")]
    withdraw_delay: Option<String>,
    #[serde(default)]
    voucher_manager: Option<String>,
}

/// The value of `extra.voucherManager` if the facilitator keeps the vouchers.
pub(super) const MANAGED: &str = "facilitator";

/// What a request requires.
#[derive(Debug, Clone)]
pub(super) struct Required {
    pub(super) asset: Address,
    pub(super) pay_to: Address,
    /// The price. At /settle what is charged of it.
    pub(super) amount: u128,
    /// The price that the payer accepted.
    pub(super) price: u128,
    pub(super) max_timeout_secs: u64,
    pub(super) extra: Extra,
}

impl Required {
    /// Reads what a request requires.
    ///
    /// # Errors
    /// If a field cannot be read, or if the payer accepted other requirements.
    pub(super) fn read(request: &PaymentRequest) -> Result<Self, Refusal> {
        let required = &request.requirements;
        let asset = address("paymentRequirements.asset", &required.asset)?;
        let pay_to = address("paymentRequirements.payTo", &required.pay_to)?;
        let accepted = request.accepted.requirements.as_ref();
        if let Some(accepted) = accepted {
            // The amount is not compared: a settle request has the charge, and not the price.
            accepted.check(address, &asset, &pay_to, accepted.amount)?;
        }
        let price = accepted.map_or(required.amount, |accepted| accepted.amount);
        Ok(Self {
            asset,
            pay_to,
            amount: units("paymentRequirements.amount", required.amount)?,
            price: units("paymentPayload.accepted.amount", price)?,
            max_timeout_secs: required.max_timeout_secs,
            extra: request.extra()?,
        })
    }

    /// Whether the seller leaves the vouchers to its facilitator.
    pub(super) fn is_managed(&self) -> bool {
        self.extra.voucher_manager.as_deref() == Some(MANAGED)
    }

    /// Checks a channel against the voucher and the requirements, in the order of the reference
    /// implementation. `id` is the channel's identity by its terms.
    pub(super) fn check_channel(
        &self,
        config: &ChannelConfig,
        id: &B256,
        voucher: &Voucher,
    ) -> Result<(), Rejection> {
        let reject = |reason, detail: String| Err(Rejection::new(reason, detail));
        if voucher.channel_id != *id {
            let named = voucher.channel_id;
            let detail = format!("the voucher is for channel {named}, and channelConfig is {id}");
            return reject(reason::CHANNEL_ID_MISMATCH, detail);
        }
        self.check_receiver(config)?;
        let named = self.extra.receiver_authorizer.map(|named| named.0.into());
        let authorizer = config.receiver_authorizer;
        if authorizer.is_zero() || named != Some(authorizer) {
            let detail = format!(
                "the channel's authorizer is {authorizer}, and extra.receiverAuthorizer is {named:?}"
            );
            return reject(reason::RECEIVER_AUTHORIZER_MISMATCH, detail);
        }
        self.check_token(config)?;
        let delay = config.withdraw_delay;
        if let Some(required) = &self.extra.withdraw_delay
            && *required != delay.to_string()
        {
            let detail = format!(
                "the channel's withdrawDelay is {delay}, and extra.withdrawDelay is {required}"
            );
            return reject(reason::WITHDRAW_DELAY_MISMATCH, detail);
        }
        if !(WITHDRAW_DELAY_MIN_SECS..=WITHDRAW_DELAY_MAX_SECS).contains(&delay) {
            let detail = format!(
                "the channel's withdrawDelay is {delay}, and must be {WITHDRAW_DELAY_MIN_SECS} to {WITHDRAW_DELAY_MAX_SECS} seconds"
            );
            return reject(reason::WITHDRAW_DELAY_OUT_OF_RANGE, detail);
        }
        Ok(())
    }

    /// Checks the required amount: the accepted price, of which at most all is charged at /settle.
    pub(super) fn check_amount(&self, settling: bool) -> Result<(), Rejection> {
        if settling {
            return self.check_charge(Amount::new(U256::from(self.amount)));
        }
        if self.amount == self.price {
            return Ok(());
        }
        let detail = "the accepted amount differs from the required";
        let reason = Reason::INVALID_PAYMENT_REQUIREMENTS;
        Err(Rejection::new(reason, detail))
    }

    /// Checks that no more is charged than the payer accepted for this request.
    pub(super) fn check_charge(&self, charged: Amount) -> Result<(), Rejection> {
        if charged.units() <= U256::from(self.price) {
            return Ok(());
        }
        let price = self.price;
        let detail = format!("{charged} is charged, and the payer accepted {price}");
        let reason = reason::CHARGE_EXCEEDS_SIGNED_CUMULATIVE;
        Err(Rejection::new(reason, detail))
    }

    /// Checks that a channel pays the recipient of the requirements.
    pub(super) fn check_receiver(&self, config: &ChannelConfig) -> Result<(), Rejection> {
        if config.receiver == self.pay_to {
            return Ok(());
        }
        let (receiver, pay_to) = (config.receiver, self.pay_to);
        let detail = format!("the channel pays {receiver}, but payTo is {pay_to}");
        Err(Rejection::new(reason::RECEIVER_MISMATCH, detail))
    }

    /// Checks that a channel is for the asset of the requirements.
    pub(super) fn check_token(&self, config: &ChannelConfig) -> Result<(), Rejection> {
        if config.token == self.asset {
            return Ok(());
        }
        let (token, asset) = (config.token, self.asset);
        let detail = format!("the channel is for token {token}, but the asset is {asset}");
        Err(Rejection::new(reason::TOKEN_MISMATCH, detail))
    }

    /// The method by which the deposit is made, as the requirements ask for it or else as the
    /// payload has it.
    pub(super) fn deposit_method(&self, has_permit: bool) -> Result<TransferMethod, Rejection> {
        match self.extra.asset_transfer_method.as_deref() {
            None if has_permit => Ok(TransferMethod::Permit2),
            None => Ok(TransferMethod::Eip3009),
            Some(name) => TransferMethod::from_name(name).ok_or_else(|| {
                let detail = format!("extra.assetTransferMethod is {name:?}, which is not known");
                Rejection::new(reason::PAYLOAD_TYPE, detail)
            }),
        }
    }
}

/// An amount that the contract of channels can represent.
fn units(field: &str, amount: Amount) -> Result<u128, Malformed> {
    let wide = |_| Malformed::new(field, "channels have amounts of 128 bits");
    u128::try_from(amount.units()).map_err(wide)
}
