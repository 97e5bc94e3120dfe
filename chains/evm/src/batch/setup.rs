//! What all payments of the scheme share, and what a request requires.

use alloy::primitives::{Address, B256, U256};
use quittance_core::json::text_or_integer;
use quittance_core::{
    Amount, LaneId, Malformed, Network, PaymentRequest, Reason, Refusal, Rejection, RequestCaller,
};
use serde::Deserialize;

use super::book::ClaimRules;
use super::channel::{
    ChannelConfig, WITHDRAW_DELAY_MAX_SECS, WITHDRAW_DELAY_MIN_SECS, domain_separator,
};
use super::reason;
use super::voucher::Voucher;
use crate::chain::Evm;
use crate::exact::payment::Limits;
use crate::exact::{check_parties, unsupported_asset};
use crate::hex::{Hex, address};
use crate::permit2;
use crate::token::{Token, TransferMethod};

/// How long the engine tries to settle an act of a seller, in seconds. The act itself does not
/// expire.
pub(super) const ACT_PATIENCE_SECS: u64 = 3600;

/// What the operator allows the facilitator to do for sellers.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct BatchConfig {
    /// The account that sellers can name as the authorizer of their channels: one of the chain's
    /// signers. It must stay one as long as a channel names it. Only callers with a key can use it.
    pub authorizer: Option<Address>,
    /// Whether the facilitator keeps vouchers for sellers. It needs an authorizer.
    pub keeps_vouchers: bool,
    /// When it claims them.
    pub claims: ClaimRules,
}

/// Why a [`BatchConfig`] makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchConfigError {
    /// Claims are calls of the authorizer, so the chain must be able to sign for it.
    #[error("the authorizer {0} is not one of the signers")]
    NotASigner(Address),
    /// Without an authorizer nothing can be claimed.
    #[error("vouchers can only be kept for channels with an authorizer: name one of the signers")]
    NoAuthorizer,
}

/// What all payments of the scheme on a chain share.
#[derive(Debug, Clone)]
pub(super) struct Setup {
    network: Network,
    pub(super) chain_id: u64,
    tokens: Vec<Token>,
    /// The separator of the EIP-712 domain of the contract of channels.
    pub(super) separator: B256,
    /// The separator of Permit2's EIP-712 domain.
    pub(super) permit2_separator: B256,
    signers: Vec<(Address, LaneId)>,
    pub(super) limits: Limits,
    config: BatchConfig,
}

impl Setup {
    pub(super) fn new(evm: &Evm) -> Self {
        let (config, chain_id) = (evm.config(), evm.chain_id());
        let lane = |address: Address| (address, LaneId::new(&address.to_checksum(None)));
        let signers = config.signers.iter().map(|signer| lane(signer.address()));
        Self {
            network: config.network.clone(),
            chain_id,
            tokens: config.tokens.clone(),
            separator: domain_separator(chain_id),
            permit2_separator: permit2::domain_separator(chain_id),
            signers: signers.collect(),
            limits: Limits::new(config),
            config: BatchConfig::default(),
        }
    }

    pub(super) fn with_config(self, config: BatchConfig) -> Result<Self, BatchConfigError> {
        match config.authorizer {
            Some(authorizer) if self.lane_of(authorizer).is_none() => {
                return Err(BatchConfigError::NotASigner(authorizer));
            }
            None if config.keeps_vouchers => return Err(BatchConfigError::NoAuthorizer),
            _ => {}
        }
        Ok(Self { config, ..self })
    }

    pub(super) fn network(&self) -> &Network {
        &self.network
    }

    pub(super) fn authorizer(&self) -> Option<Address> {
        self.config.authorizer
    }

    pub(super) fn keeps_vouchers(&self) -> bool {
        self.config.keeps_vouchers
    }

    pub(super) fn claim_rules(&self) -> &ClaimRules {
        &self.config.claims
    }

    pub(super) fn tokens(&self) -> impl Iterator<Item = &Token> {
        self.tokens.iter()
    }

    pub(super) fn assets(&self) -> Vec<String> {
        self.tokens()
            .map(|token| token.address.to_checksum(None))
            .collect()
    }

    /// The account that simulates calls which anyone may make.
    pub(super) fn anyone(&self) -> Address {
        self.signers
            .first()
            .map_or(Address::ZERO, |(signer, _)| *signer)
    }

    fn lane_of(&self, account: Address) -> Option<&LaneId> {
        let mut signers = self.signers.iter();
        signers
            .find(|(signer, _)| *signer == account)
            .map(|(_, lane)| lane)
    }

    /// The lane of the authorizer of these channels, if it is this facilitator.
    ///
    /// # Errors
    /// If the facilitator is no authorizer, or another one than the channels'.
    pub(super) fn authorizer_of<'a>(
        &self,
        mut channels: impl Iterator<Item = &'a ChannelConfig>,
    ) -> Result<(Address, LaneId), Rejection> {
        let authorizer = self.authorizer().ok_or_else(|| {
            let detail = "the act needs the signature of the channel's authorizer: this facilitator authorizes nothing";
            Rejection::new(reason::AUTHORIZER_NOT_CONFIGURED, detail)
        })?;
        let lane = self.lane_of(authorizer).cloned();
        let is_other = |config: &ChannelConfig| config.receiver_authorizer != authorizer;
        match (channels.find(|config| is_other(config)), lane) {
            (None, Some(lane)) => Ok((authorizer, lane)),
            (other, _) => {
                let named = other.map_or(authorizer, |config| config.receiver_authorizer);
                let detail = format!(
                    "the channel's authorizer is {named}, whose signature is missing: this facilitator is {authorizer}"
                );
                Err(Rejection::new(reason::AUTHORIZER_ADDRESS_MISMATCH, detail))
            }
        }
    }

    /// Whether the facilitator is the authorizer of a channel.
    pub(super) fn authorizes(&self, config: &ChannelConfig) -> bool {
        self.authorizer() == Some(config.receiver_authorizer)
    }
}

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

/// What a request requires, and who asks.
#[derive(Debug, Clone)]
pub(super) struct Terms {
    pub(super) token: Token,
    /// The separator of the token's EIP-712 domain.
    pub(super) token_separator: B256,
    pub(super) pay_to: Address,
    /// The price. At /settle what is charged of it.
    pub(super) amount: u128,
    /// The price that the payer accepted.
    pub(super) price: u128,
    pub(super) max_timeout_secs: u64,
    pub(super) extra: Extra,
    pub(super) caller: RequestCaller,
    signers: Vec<Address>,
}

impl Terms {
    /// Reads what a request requires.
    ///
    /// # Errors
    /// If a field cannot be read, if the payer accepted other requirements, or if the operator has
    /// not configured the token.
    pub(super) fn read(setup: &Setup, request: &PaymentRequest) -> Result<Self, Refusal> {
        let required = &request.requirements;
        let asset = address("paymentRequirements.asset", &required.asset)?;
        let pay_to = address("paymentRequirements.payTo", &required.pay_to)?;
        let accepted = request.accepted.requirements.as_ref();
        if let Some(accepted) = accepted {
            // The amount is not compared: a settle request has the charge, and not the price.
            accepted.check(address, &asset, &pay_to, accepted.amount)?;
        }
        let price = accepted.map_or(required.amount, |accepted| accepted.amount);
        let tokens = setup.tokens.iter();
        let token = tokens.clone().find(|token| token.address == asset);
        let token = token.ok_or_else(|| unsupported_asset(&setup.network, tokens))?;
        Ok(Self {
            token: token.clone(),
            token_separator: token.domain_separator(setup.chain_id),
            pay_to,
            amount: units("paymentRequirements.amount", required.amount)?,
            price: units("paymentPayload.accepted.amount", price)?,
            max_timeout_secs: required.max_timeout_secs,
            extra: request.extra()?,
            caller: request.caller().clone(),
            signers: setup.signers.iter().map(|(signer, _)| *signer).collect(),
        })
    }

    /// Whether the seller leaves the vouchers to its facilitator.
    pub(super) fn is_managed(&self) -> bool {
        self.extra.voucher_manager.as_deref() == Some(MANAGED)
    }

    /// Whether this request may use the authority of the facilitator over a channel whose deposit
    /// `owner` has asked for: the same caller, or the facilitator itself.
    pub(super) fn is_owner(&self, owner: Option<&str>) -> bool {
        match &self.caller {
            RequestCaller::Engine => true,
            caller => owner.is_some() && caller.to_text().as_deref() == owner,
        }
    }

    /// Checks that the parties can be paid. The engine checks that the payer does not pay itself.
    pub(super) fn check_parties(&self, payer: Address) -> Result<(), Rejection> {
        let is_signer = |account| self.signers.contains(&account);
        check_parties(is_signer, payer, self.token.address, self.pay_to)
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
        if config.token == self.token.address {
            return Ok(());
        }
        let (token, asset) = (config.token, self.token.address);
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

/// The verdict on a payer with code, if the operator accepts keys only.
pub(super) fn contract_not_allowed(reason: Reason) -> Rejection {
    let detail = "this facilitator accepts payments by key only, not from contract wallets or delegated accounts";
    Rejection::new(reason, detail)
}
