//! The settings of the scheme.

use std::collections::BTreeSet;

use alloy::primitives::Address;

use crate::multicall::MULTICALL3;
use crate::permit2::{EXACT_PERMIT2_PROXY, PERMIT2, UPTO_PERMIT2_PROXY};
use crate::token::Token;

/// What the scheme `exact` accepts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ExactConfig {
    /// The contracts that may deploy a payer's account in its payment (ERC-6492); none by default.
    /// The payer chooses the data of the call, and the operator pays its gas. Allow only a contract
    /// that deploys accounts and calls nothing else that the data names.
    pub account_factories: BTreeSet<Address>,
    /// The delegation managers that redeem payments by ERC-7710; none by default, and then no
    /// payment by delegation is accepted. Their permission contexts must have the format of the
    /// [Delegation Framework](crate::erc7710).
    ///
    /// A simulation shows that a manager returns, and not that money moves. Allow only a manager
    /// that checks the delegations and reverts if the call fails.
    pub delegation_managers: BTreeSet<Address>,
}

impl ExactConfig {
    /// Checks the settings for a chain with these tokens.
    pub(super) fn check<'a>(
        &self,
        tokens: impl Iterator<Item = &'a Token>,
    ) -> Result<(), ExactConfigError> {
        let fixed = [
            Address::ZERO,
            MULTICALL3,
            PERMIT2,
            EXACT_PERMIT2_PROXY,
            UPTO_PERMIT2_PROXY,
        ];
        let all = fixed.into_iter().chain(tokens.map(|token| token.address));
        for address in all {
            if self.account_factories.contains(&address) {
                return Err(ExactConfigError::NotAFactory(address));
            }
            if self.delegation_managers.contains(&address) {
                return Err(ExactConfigError::NotAManager(address));
            }
        }
        Ok(())
    }
}

/// A fault in the settings of the scheme.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExactConfigError {
    /// A contract in the list of factories can never be one: a payer could call it with any data.
    #[error("{0} is not a factory of accounts: it is a token, or a contract that moves tokens")]
    NotAFactory(Address),
    /// A contract in the list of delegation managers can never be one.
    #[error("{0} is not a delegation manager: it is a token, or a contract that moves tokens")]
    NotAManager(Address),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contract_that_moves_tokens_has_no_other_purpose() {
        let token = Token::new(Address::repeat_byte(5), "Coin", "1", "COIN", 6);
        let checked = |factory: Address| {
            let listed: BTreeSet<_> = [Address::repeat_byte(9), factory].into();
            let factories = ExactConfig {
                account_factories: listed.clone(),
                ..ExactConfig::default()
            };
            let managers = ExactConfig {
                delegation_managers: listed,
                ..ExactConfig::default()
            };
            [factories, managers].map(|config| config.check([&token].into_iter()))
        };
        assert_eq!(checked(Address::repeat_byte(7)), [Ok(()), Ok(())]);
        for bad in [
            Address::ZERO,
            MULTICALL3,
            PERMIT2,
            EXACT_PERMIT2_PROXY,
            UPTO_PERMIT2_PROXY,
            token.address,
        ] {
            let factory = Err(ExactConfigError::NotAFactory(bad));
            let manager = Err(ExactConfigError::NotAManager(bad));
            assert_eq!(checked(bad), [factory, manager]);
        }
    }
}
