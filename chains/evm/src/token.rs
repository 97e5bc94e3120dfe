//! Tokens, as signatures and prices need to know them.

use alloy::primitives::{Address, B256};
use quittance_core::kit::TokenInfo;
use serde::{Deserialize, Serialize};

use crate::eip712;

/// A token, as a payment's signature and a price need to know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Token {
    /// The contract.
    #[serde(rename = "asset")]
    pub address: Address,
    /// The name in the token's EIP-712 domain. It may differ from the name that wallets display.
    pub name: String,
    /// The version in the token's EIP-712 domain.
    pub version: String,
    /// The number of decimal places in displayed amounts.
    pub decimals: u8,
    /// The ticker.
    pub symbol: String,
    /// How a payment moves the token, where the seller has the choice: offers ask for this method.
    #[serde(default, rename = "assetTransferMethod")]
    pub method: TransferMethod,
    /// Whether the token accepts signed approvals (EIP-2612).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub supports_eip2612: bool,
    /// Whether the token logs `AuthorizationUsed` right before its `Transfer`, as Circle's
    /// FiatToken does.
    ///
    /// Then equal payments can share a transaction, because the nonce shows which transfer belongs
    /// to which payment. Set it only for a token whose source shows it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub logs_authorization_first: bool,
}

impl TokenInfo for Token {
    type Address = Address;

    fn address(&self) -> &Address {
        &self.address
    }

    fn symbol(&self) -> &str {
        &self.symbol
    }

    fn decimals(&self) -> u8 {
        self.decimals
    }
}

impl Token {
    /// An EIP-3009 token with this contract, this name and version in its EIP-712 domain, and this
    /// number of decimal places.
    pub fn new(address: Address, name: &str, version: &str, symbol: &str, decimals: u8) -> Self {
        Self {
            address,
            name: name.to_owned(),
            version: version.to_owned(),
            decimals,
            symbol: symbol.to_owned(),
            method: TransferMethod::Eip3009,
            supports_eip2612: false,
            logs_authorization_first: false,
        }
    }

    /// The same token. `logs_first` says whether it
    /// [logs the authorization first](Self::logs_authorization_first).
    #[must_use]
    pub fn with_logs_authorization_first(self, logs_first: bool) -> Self {
        Self {
            logs_authorization_first: logs_first,
            ..self
        }
    }

    /// The same token, for which offers ask for this method.
    #[must_use]
    pub fn with_method(self, method: TransferMethod) -> Self {
        Self { method, ..self }
    }

    /// The same token. `supported` says whether it accepts
    /// [signed approvals](Self::supports_eip2612).
    #[must_use]
    pub fn with_eip2612(self, supported: bool) -> Self {
        Self {
            supports_eip2612: supported,
            ..self
        }
    }

    /// The separator of the token's EIP-712 domain on the chain with this id.
    pub fn domain_separator(&self, chain_id: u64) -> B256 {
        eip712::domain_separator(&self.name, &self.version, chain_id, self.address)
    }
}

/// How a payment moves a token on behalf of its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum TransferMethod {
    /// The token itself accepts signed transfers (EIP-3009).
    #[default]
    Eip3009,
    /// The Permit2 contract moves the token.
    Permit2,
}

impl TransferMethod {
    /// The method that `extra.assetTransferMethod` names; `None` for any other name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Eip3009, Self::Permit2]
            .into_iter()
            .find(|method| method.name() == name)
    }

    /// The method as `extra.assetTransferMethod` names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Eip3009 => "eip3009",
            Self::Permit2 => "permit2",
        }
    }
}
