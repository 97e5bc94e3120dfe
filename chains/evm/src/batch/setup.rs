//! What all payments of the scheme share, and what a request requires.

use alloy::primitives::{Address, B256};
use quittance_core::{LaneId, Network, PaymentRequest, Reason, Refusal, Rejection, RequestCaller};

use super::book::ClaimRules;
use super::channel::{ChannelConfig, domain_separator};
use super::reason;
use super::required::Required;
use crate::chain::Evm;
use crate::exact::payment::Limits;
use crate::exact::{check_parties, unsupported_asset};
use crate::permit2;
use crate::token::Token;

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
    /// Whether it keeps vouchers of channels without a `payerAuthorizer`, too. Their payers'
    /// accounts can refuse the claim of a voucher that was valid when it was charged.
    pub contract_payers: bool,
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

    /// Checks that the vouchers of a channel can be claimed later, if they are kept here.
    pub(super) fn check_kept_payer(&self, config: &ChannelConfig) -> Result<(), Rejection> {
        match self.keeps_vouchers() && !self.config.contract_payers {
            true => config.check_payer_key(),
            false => Ok(()),
        }
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

/// What a request requires, and who asks.
#[derive(Debug, Clone)]
pub(super) struct Terms {
    pub(super) required: Required,
    pub(super) token: Token,
    /// The separator of the token's EIP-712 domain.
    pub(super) token_separator: B256,
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
        let required = Required::read(request)?;
        let tokens = setup.tokens.iter();
        let token = tokens.clone().find(|token| token.address == required.asset);
        let token = token.ok_or_else(|| unsupported_asset(&setup.network, tokens))?;
        Ok(Self {
            required,
            token: token.clone(),
            token_separator: token.domain_separator(setup.chain_id),
            caller: request.caller().clone(),
            signers: setup.signers.iter().map(|(signer, _)| *signer).collect(),
        })
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
        check_parties(is_signer, payer, self.token.address, self.required.pay_to)
    }
}

/// The verdict on a payer with code, if the operator accepts keys only.
pub(super) fn contract_not_allowed(reason: Reason) -> Rejection {
    let detail = "this facilitator accepts payments by key only, not from contract wallets or delegated accounts";
    Rejection::new(reason, detail)
}
