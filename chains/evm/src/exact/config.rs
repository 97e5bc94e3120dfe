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
}

impl ExactConfig {
    /// Checks the settings for a chain with these tokens.
    pub(super) fn check<'a>(
        &self,
        mut tokens: impl Iterator<Item = &'a Token>,
    ) -> Result<(), ExactConfigError> {
        let fixed = [
            Address::ZERO,
            MULTICALL3,
            PERMIT2,
            EXACT_PERMIT2_PROXY,
            UPTO_PERMIT2_PROXY,
        ];
        let known = fixed.into_iter().find(|address| self.allows(*address));
        let token = tokens.find(|token| self.allows(token.address));
        match known.or(token.map(|token| token.address)) {
            Some(address) => Err(ExactConfigError::NotAFactory(address)),
            None => Ok(()),
        }
    }

    fn allows(&self, factory: Address) -> bool {
        self.account_factories.contains(&factory)
    }
}

/// A fault in the settings of the scheme.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExactConfigError {
    /// A contract in the list of factories can never be one: a payer could call it with any data.
    #[error("{0} is not a factory of accounts: it is a token, or a contract that moves tokens")]
    NotAFactory(Address),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contract_that_moves_tokens_is_not_a_factory() {
        let token = Token::new(Address::repeat_byte(5), "Coin", "1", "COIN", 6);
        let checked = |factory: Address| {
            let account_factories = [Address::repeat_byte(9), factory].into();
            ExactConfig { account_factories }.check([&token].into_iter())
        };
        assert_eq!(checked(Address::repeat_byte(7)), Ok(()));
        for bad in [
            Address::ZERO,
            MULTICALL3,
            PERMIT2,
            EXACT_PERMIT2_PROXY,
            UPTO_PERMIT2_PROXY,
            token.address,
        ] {
            assert_eq!(checked(bad), Err(ExactConfigError::NotAFactory(bad)));
        }
    }
}
