//! What a payer reads in the requirements of a payment by a channel.

use alloy::primitives::{Address, B256};
use quittance_core::json::text_or_integer;
use quittance_core::wire::PaymentRequirements;
use quittance_core::{Flow, QuoteError};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::super::NAME;
use super::super::channel::{
    ChannelConfig, WITHDRAW_DELAY_MAX_SECS, WITHDRAW_DELAY_MIN_SECS, domain_separator,
};
use super::super::units;
use crate::exact::ExactPayer;
use crate::exact::payer::{Transfer, transfer_method};
use crate::hex::Hex;
use crate::token::TransferMethod;

/// What one payer pays by, for all sellers.
#[derive(Debug, Clone, Copy)]
pub(super) struct OwnTerms {
    /// The payer, whose key signs the vouchers, too.
    pub(super) payer: Address,
    /// The salt of its channels.
    pub(super) salt: B256,
    /// The longest delay of withdrawals that it accepts, in seconds.
    pub(super) withdraw_delay_max: u64,
}

/// A payment by a channel, as requirements ask for it.
pub(super) struct Terms<'a> {
    /// The token, the price and the recipient.
    pub(super) transfer: Transfer<'a>,
    /// How a deposit is made.
    pub(super) method: TransferMethod,
    /// The channel's terms.
    pub(super) config: ChannelConfig,
    /// The separator of the EIP-712 domain of the contract of channels.
    pub(super) separator: B256,
    /// The channel's identity.
    pub(super) id: B256,
    /// The price, in atomic units.
    pub(super) price: u128,
    /// The deposit that the seller asks for, in atomic units; zero if it asks for none.
    pub(super) asked: u128,
}

/// The fields of `extra` that are the scheme's own.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExtraJson {
    #[serde(default)]
    receiver_authorizer: Option<Hex<20>>,
    #[serde(default, deserialize_with = "text_or_integer")]
    withdraw_delay: Option<String>,
    #[serde(default)]
    voucher_manager: Option<String>,
    #[serde(default)]
    min_deposit: Option<MinDeposit>,
}

/// A deposit that the seller asks for: atomic units, or another notation that is not binding.
#[derive(Deserialize)]
#[serde(untagged)]
enum MinDeposit {
    Units(#[serde(with = "units")] u128),
    Other(IgnoredAny),
}

/// The delay of withdrawals if the requirements name none, in seconds: that of the reference
/// implementation.
const WITHDRAW_DELAY_SECS: u64 = WITHDRAW_DELAY_MIN_SECS;

impl<'a> Terms<'a> {
    /// Reads requirements.
    ///
    /// # Errors
    /// If this payer cannot pay them, or does not accept their channel.
    pub(super) fn read(
        key: &'a ExactPayer,
        own: &OwnTerms,
        requirements: &PaymentRequirements,
    ) -> Result<Self, QuoteError> {
        let method = |token: &_| transfer_method(requirements, token);
        let (transfer, method) = key.transfer_by(NAME, requirements, method)?;
        check_flow(requirements)?;
        let extra = requirements.extra.as_ref();
        let extra = extra.ok_or_else(|| QuoteError::unpayable("extra is missing"))?;
        let extra: ExtraJson = extra
            .read("extra")
            .map_err(|error| QuoteError::unpayable(error.to_string()))?;
        check_manager(extra.voucher_manager.as_deref())?;
        let config = ChannelConfig {
            payer: own.payer,
            payer_authorizer: own.payer,
            receiver: transfer.pay_to,
            receiver_authorizer: receiver_authorizer(extra.receiver_authorizer)?,
            token: transfer.token.address,
            withdraw_delay: withdraw_delay(extra.withdraw_delay, own.withdraw_delay_max)?,
            salt: own.salt,
        };
        if config.receiver == own.payer {
            return Err(QuoteError::unpayable("payTo is the payer itself"));
        }
        let price = u128::try_from(transfer.amount.units());
        let price =
            price.map_err(|_| QuoteError::unpayable("channels have amounts of 128 bits"))?;
        if price == 0 {
            return Err(QuoteError::unpayable("a voucher for nothing pays nothing"));
        }
        let separator = domain_separator(transfer.chain_id);
        Ok(Self {
            id: config.id(&separator),
            transfer,
            method,
            config,
            separator,
            price,
            asked: match extra.min_deposit {
                Some(MinDeposit::Units(units)) => units,
                Some(MinDeposit::Other(_)) | None => 0,
            },
        })
    }
}

/// A channel is charged after the handler. Another order of the sale is not defined for it.
fn check_flow(requirements: &PaymentRequirements) -> Result<(), QuoteError> {
    match Flow::stated(requirements.extra.as_ref()) {
        Ok(None | Some(Flow::Authorization)) => Ok(()),
        _ => Err(QuoteError::unpayable(
            "extra.paymentFlow: channels are charged after the handler",
        )),
    }
}

fn check_manager(named: Option<&str>) -> Result<(), QuoteError> {
    match named {
        None | Some("server" | "facilitator") => Ok(()),
        Some(other) => Err(QuoteError::unpayable(format!(
            "extra.voucherManager is {other:?}, which is not known"
        ))),
    }
}

/// The account that can claim and refund. Without one, anyone could not, and the payer would get
/// nothing back before the delay of withdrawals.
fn receiver_authorizer(named: Option<Hex<20>>) -> Result<Address, QuoteError> {
    let named = named.map(|named| Address::from(named.0));
    named
        .filter(|named| !named.is_zero())
        .ok_or_else(|| QuoteError::unpayable("extra.receiverAuthorizer is missing"))
}

/// The delay of withdrawals, if this payer accepts it: the payer may have to wait as long for what
/// the seller does not pay back.
fn withdraw_delay(named: Option<String>, longest: u64) -> Result<u64, QuoteError> {
    let longest = longest.min(WITHDRAW_DELAY_MAX_SECS);
    let delay = match named {
        None => Some(WITHDRAW_DELAY_SECS),
        Some(named) => named.parse().ok(),
    };
    delay
        .filter(|delay| (WITHDRAW_DELAY_MIN_SECS..=longest).contains(delay))
        .ok_or_else(|| {
            QuoteError::unpayable(format!(
                "extra.withdrawDelay must be {WITHDRAW_DELAY_MIN_SECS} to {longest} seconds"
            ))
        })
}
