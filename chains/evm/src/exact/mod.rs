//! The scheme `exact`: a payment of exactly the required amount to exactly the required recipient.
//!
//! The payment moves the token by an asset transfer method. With `eip3009` the token itself makes a
//! transfer that the payer signed. With `permit2` the payer approved the Permit2 contract once, and
//! signs a permit for each payment. Anyone who holds the signature can submit it once. With
//! `erc7710` the payer's account has delegated the payment to the facilitator.

pub(crate) mod approval;
mod config;
mod delegation;
pub(crate) mod deployment;
mod eip3009;
mod offer;
pub(crate) mod payer;
pub(crate) mod payment;
pub(crate) mod permit2;
pub mod reason;
pub(crate) mod sponsoring;
mod terms;
pub(crate) mod window;

use std::time::Duration;

use alloy::primitives::{Address, B256};
use quittance_core::json::Object;
use quittance_core::kit::Parties;
use quittance_core::{
    Network, Payment, PaymentId, PaymentRequest, Reason, Refusal, Rejection, Scheme, Timestamp,
    Version,
};

use self::approval::{SponsoredApproval, SponsoredPayment};
pub use self::config::{ExactConfig, ExactConfigError};
pub use self::delegation::{
    DelegationOffer, DelegationPayer, DelegationTerms, DelegationWallet, GrantedDelegation,
};
use self::deployment::AccountDeployment;
use self::eip3009::Eip3009;
pub use self::offer::ExactOffer;
pub use self::payer::ExactPayer;
use self::payment::{ExactPayment, Limits};
use self::permit2::{ExactPermit, Permit2Transfer, check_scope};
use self::sponsoring::SignedApproval;
use self::terms::{Extra, NAME, Payload};
use crate::chain::{ApprovalGas, Evm};
use crate::eip3009::Authorization;
use crate::hex::address;
use crate::known;
use crate::permit2::EXACT_PERMIT2_PROXY;
use crate::signature::PayerSignature;
use crate::token::{Token, TransferMethod};

/// The scheme `exact` on one EVM chain.
#[derive(Debug, Clone)]
pub struct Exact {
    network: Network,
    chain_id: u64,
    tokens: Vec<SignedToken>,
    /// The separator of Permit2's EIP-712 domain, hashed once and not for each payment.
    permit2_separator: B256,
    signers: Vec<Address>,
    /// What the operator gives payers for their approvals.
    approval_gas: Option<ApprovalGas>,
    limits: Limits,
    config: ExactConfig,
}

/// A token with the separator of its EIP-712 domain.
#[derive(Debug, Clone)]
struct SignedToken {
    token: Token,
    domain_separator: B256,
}

impl Exact {
    /// The scheme on this chain, for all of its tokens.
    pub fn new(evm: &Evm) -> Self {
        let config = evm.config();
        let signers = config.signers.iter().map(|signer| signer.address());
        Self {
            signers: signers.collect(),
            approval_gas: config.approval_gas,
            limits: Limits::new(config),
            ..Self::with_tokens(config.network.clone(), evm.chain_id(), &config.tokens)
        }
    }

    /// The scheme with these settings.
    ///
    /// # Errors
    /// If the settings allow what can never be allowed.
    pub fn with_config(self, config: ExactConfig) -> Result<Self, ExactConfigError> {
        config.check(self.tokens.iter().map(|known| &known.token))?;
        Ok(Self { config, ..self })
    }

    /// The scheme without a chain, for checking payments offline. `None` if the network is not
    /// EIP-155.
    pub fn offline(network: Network, tokens: &[Token]) -> Option<Self> {
        let chain_id = known::chain_id(&network)?;
        Some(Self::with_tokens(network, chain_id, tokens))
    }

    fn with_tokens(network: Network, chain_id: u64, tokens: &[Token]) -> Self {
        let signed = |token: &Token| SignedToken {
            domain_separator: token.domain_separator(chain_id),
            token: token.clone(),
        };
        Self {
            network,
            chain_id,
            tokens: tokens.iter().map(signed).collect(),
            permit2_separator: crate::permit2::domain_separator(chain_id),
            signers: Vec::new(),
            approval_gas: None,
            limits: Limits {
                gas_max: 0,
                contract_wallets: true,
            },
            config: ExactConfig::default(),
        }
    }

    fn token(&self, address: Address) -> Option<&SignedToken> {
        self.tokens
            .iter()
            .find(|known| known.token.address == address)
    }
}

/// Checks that a payment between these parties is possible. The engine checks the amount, and that
/// the payer does not pay itself. `is_signer` says whether an account is one of the facilitator's.
pub(crate) fn check_parties(
    is_signer: impl Fn(Address) -> bool,
    payer: Address,
    asset: Address,
    pay_to: Address,
) -> Result<(), Rejection> {
    let unusable = |detail| Err(Rejection::new(Reason::INVALID_PAYMENT_REQUIREMENTS, detail));
    // The first 65,535 addresses are reserved for precompiled contracts.
    let is_reserved = |address: Address| address.iter().take(18).all(|byte| *byte == 0);
    if is_reserved(pay_to) {
        return unusable("payTo is the zero address or a precompiled contract");
    }
    if pay_to == asset {
        return unusable("payTo is the token itself");
    }
    if is_signer(pay_to) {
        return unusable("payTo is the facilitator itself");
    }
    if is_reserved(payer) {
        let detail = "the payer is the zero address or a precompiled contract";
        return Err(Rejection::new(reason::SIGNATURE, detail));
    }
    Ok(())
}

/// The rejection of a token that the operator has not configured.
pub(crate) fn unsupported_asset<'a>(
    network: &Network,
    tokens: impl Iterator<Item = &'a Token>,
) -> Rejection {
    let supported = tokens.map(|token| format!("{} {}", token.symbol, token.address));
    let supported = supported.collect::<Vec<_>>().join(", ");
    let detail = format_args!("tokens supported on {network}: {supported}");
    Rejection::new(Reason::UNSUPPORTED_ASSET, detail)
}

impl Scheme<Evm> for Exact {
    fn name(&self) -> &str {
        NAME
    }

    fn versions(&self) -> &[Version] {
        &[Version::V1, Version::V2]
    }

    /// The accounts that payers can delegate to, if the operator accepts delegations.
    fn extra(&self) -> Option<Object> {
        self.delegates()
    }

    fn assets(&self) -> Vec<String> {
        self.tokens
            .iter()
            .map(|known| known.token.address.to_checksum(None))
            .collect()
    }

    fn extensions(&self) -> &[&str] {
        let tokens = self.tokens.iter().map(|known| &known.token);
        sponsoring::extensions(tokens, self.approval_gas.is_some())
    }

    fn decode(
        &self,
        request: &PaymentRequest,
        now: Timestamp,
    ) -> Result<Box<dyn Payment<Evm>>, Refusal> {
        request.check_scheme(NAME, reason::SCHEME)?;
        let mut payload: Payload = request.payload.read("paymentPayload.payload")?;
        if let Some(delegation) = payload.take_delegation()? {
            return Ok(Box::new(self.decode_delegation(
                &delegation,
                request,
                now,
            )?));
        }
        let (authorization, signature) = payload.into_signed()?;
        let signature = PayerSignature::read(signature)?;
        let extra: Extra = request.extra()?;
        let method = authorization.method();
        let domain = match method {
            TransferMethod::Eip3009 => Some(extra.domain()?),
            TransferMethod::Permit2 => None,
        };
        request.check_network(&self.network, reason::NETWORK_MISMATCH)?;
        let Parties { asset, pay_to } = request.parties(address)?;
        check_method(extra.asset_transfer_method.as_deref(), method)?;
        let known = self.token(asset).ok_or_else(|| {
            let tokens = self.tokens.iter().map(|known| &known.token);
            unsupported_asset(&self.network, tokens)
        })?;
        if let Some((name, version)) = domain {
            if known.token.method == TransferMethod::Permit2 {
                let detail = format!("{} does not support EIP-3009", known.token.symbol);
                return Err(Rejection::new(reason::EIP3009_NOT_SUPPORTED, detail).into());
            }
            check_domain(&known.token, name, version)?;
        }
        let is_signer = |account| self.signers.contains(&account);
        check_parties(is_signer, authorization.payer(), asset, pay_to)?;
        signature.check_possible(authorization.signature_reason())?;
        let amount = request.requirements.amount;
        let (chain_id, limits) = (self.chain_id, self.limits);
        let deployment = AccountDeployment::new(&signature, &self.config.account_factories);
        let signature = (signature, deployment);
        Ok(match authorization {
            Signed::Eip3009(signed) => {
                let separator = known.domain_separator;
                let method = Eip3009::new(chain_id, &known.token, separator, signed);
                let payment = ExactPayment::new(method, limits, signature, pay_to, amount, now);
                Box::new(payment)
            }
            Signed::Permit2(authorization) => {
                check_scope(&authorization.permit, EXACT_PERMIT2_PROXY, asset)?;
                let signed = SignedApproval::read(request)?;
                let gas = self.approval_gas.filter(|_| signed.is_none());
                let permit = &authorization.permit;
                let sponsored = SponsoredApproval::read(gas, request, chain_id, permit)?;
                let method = Permit2Transfer {
                    chain_id,
                    domain_separator: self.permit2_separator,
                    logs_authorization_first: known.token.logs_authorization_first,
                    authorization,
                    approval: signed,
                };
                let payment = ExactPayment::new(method, limits, signature, pay_to, amount, now);
                match sponsored {
                    None => Box::new(payment),
                    Some(approval) => {
                        let scheme = (NAME, chain_id);
                        let hold = Duration::ZERO;
                        Box::new(SponsoredPayment::new(payment, approval, scheme, hold))
                    }
                }
            }
        })
    }
}

/// What the payer signed.
enum Signed {
    Eip3009(Authorization),
    Permit2(ExactPermit),
}

impl Signed {
    fn method(&self) -> TransferMethod {
        match self {
            Self::Eip3009(_) => TransferMethod::Eip3009,
            Self::Permit2(_) => TransferMethod::Permit2,
        }
    }

    fn payer(&self) -> Address {
        match self {
            Self::Eip3009(authorization) => authorization.from,
            Self::Permit2(authorization) => authorization.permit.owner,
        }
    }

    fn signature_reason(&self) -> Reason {
        match self {
            Self::Eip3009(_) => reason::SIGNATURE,
            Self::Permit2(_) => reason::PERMIT2_SIGNATURE,
        }
    }

    /// The identity of a payment by this authorization.
    fn payment_id(&self, chain_id: u64, token: Address) -> PaymentId {
        match self {
            Self::Eip3009(authorization) => authorization.payment_id(chain_id, token),
            Self::Permit2(authorization) => authorization.permit.payment_id(chain_id),
        }
    }
}

/// Checks that the requirements ask for the method by which the payer signed. Requirements without
/// a method ask for EIP-3009.
fn check_method(required: Option<&str>, signed: TransferMethod) -> Result<(), Rejection> {
    let required = required.unwrap_or(TransferMethod::Eip3009.name());
    if required == signed.name() {
        return Ok(());
    }
    let detail = format!(
        "the payload is signed for {}, extra.assetTransferMethod requires {required}",
        signed.name()
    );
    Err(Rejection::new(reason::UNSUPPORTED_PAYLOAD_TYPE, detail))
}

/// Checks that the requirements name the EIP-712 domain of the token.
fn check_domain(token: &Token, name: &str, version: &str) -> Result<(), Rejection> {
    let mismatch = |reason: Reason, found: &str, expected: &str| {
        let detail = format!("the requirements have {found:?}, the token has {expected:?}");
        Err(Rejection::new(reason, detail))
    };
    if *name != token.name {
        return mismatch(reason::TOKEN_NAME_MISMATCH, name, &token.name);
    }
    if *version != token.version {
        return mismatch(reason::TOKEN_VERSION_MISMATCH, version, &token.version);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
