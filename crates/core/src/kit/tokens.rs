//! Known tokens by network: those of a chain's crate, and those that a user added.

use std::fmt;

/// The properties of a token that prices and quotes need.
pub trait TokenInfo {
    /// An address of the token's chain.
    type Address: PartialEq;

    /// The token's contract or mint.
    fn address(&self) -> &Self::Address;

    /// The token's ticker, such as `USDC`.
    fn symbol(&self) -> &str;

    /// How many decimal places prices in it may have.
    fn decimals(&self) -> u8;
}

/// The tokens that a payer signs for: first those that its user added, then those of the chain's
/// crate.
///
/// A payer signs for known tokens only. It never uses a seller's description of a token.
#[derive(Clone)]
pub struct KnownTokens<T: 'static> {
    added: Vec<(String, T)>,
    shipped: fn(&str) -> &'static [T],
}

impl<T: TokenInfo> KnownTokens<T> {
    /// The tokens of a chain's crate, by a network's CAIP-2 identifier.
    pub fn new(shipped: fn(&str) -> &'static [T]) -> Self {
        Self {
            added: Vec::new(),
            shipped,
        }
    }

    /// Adds a token on the network with this CAIP-2 identifier. It takes precedence over a token of
    /// the chain's crate with the same address.
    pub fn add(&mut self, network: &str, token: T) {
        self.added.push((network.to_owned(), token));
    }

    /// The token with this address on the network with this CAIP-2 identifier.
    pub fn find(&self, network: &str, address: &T::Address) -> Option<&T> {
        let added = self.added.iter().filter(|(known, _)| known == network);
        added
            .map(|(_, token)| token)
            .chain((self.shipped)(network))
            .find(|token| token.address() == address)
    }
}

impl<T> fmt::Debug for KnownTokens<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KnownTokens({} added)", self.added.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Coin(u8, &'static str);

    impl TokenInfo for Coin {
        type Address = u8;
        fn address(&self) -> &u8 {
            &self.0
        }
        fn symbol(&self) -> &str {
            self.1
        }
        fn decimals(&self) -> u8 {
            6
        }
    }

    fn shipped(network: &str) -> &'static [Coin] {
        match network {
            "test:1" => &[Coin(1, "ONE"), Coin(2, "TWO")],
            _ => &[],
        }
    }

    #[test]
    fn an_added_token_wins_on_its_network_only() {
        let mut tokens = KnownTokens::new(shipped);
        tokens.add("test:1", Coin(2, "MINE"));
        tokens.add("test:2", Coin(1, "OTHER"));
        let symbol = |network: &str, address: u8| tokens.find(network, &address).map(Coin::symbol);
        assert_eq!(symbol("test:1", 1), Some("ONE"));
        assert_eq!(symbol("test:1", 2), Some("MINE"));
        assert_eq!(symbol("test:2", 1), Some("OTHER"));
        assert_eq!(symbol("test:2", 2), None);
    }
}
