//! The name of a chain.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

/// A blockchain network: its CAIP-2 identifier, `namespace:reference`, and its other names: that of
/// protocol version 1, and identifiers of other registries.
///
/// Two networks are equal if their identifiers are. An alias is only another spelling.
///
/// ```
/// use quittance_core::Network;
///
/// let base = Network::new("eip155:8453")?.with_alias("base");
/// assert!(base.is("eip155:8453") && base.is("base") && !base.is("eip155:1"));
/// assert_eq!((base.namespace(), base.reference()), ("eip155", "8453"));
/// # Ok::<(), quittance_core::NetworkError>(())
/// ```
#[derive(Clone)]
pub struct Network {
    id: Arc<str>,
    aliases: Vec<Arc<str>>,
}

impl Network {
    /// The network with this CAIP-2 identifier.
    ///
    /// # Errors
    /// When the text is not a CAIP-2 chain id.
    pub fn new(id: &str) -> Result<Self, NetworkError> {
        let (namespace, reference) = id.split_once(':').ok_or(NetworkError)?;
        let lower = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let any = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let ok = (3..=8).contains(&namespace.len())
            && (1..=32).contains(&reference.len())
            && namespace.bytes().all(lower)
            && reference.bytes().all(any);
        if ok {
            Ok(Self {
                id: id.into(),
                aliases: Vec::new(),
            })
        } else {
            Err(NetworkError)
        }
    }

    /// The same network, also known by this name: a version 1 name such as `base-sepolia`, or
    /// another identifier such as `cip34:1-764824073`.
    #[must_use]
    pub fn with_alias(mut self, alias: &str) -> Self {
        self.aliases.push(alias.into());
        self
    }

    /// The CAIP-2 identifier.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The version 1 name: the first alias that is not an identifier itself. Such names have no
    /// colon.
    pub fn alias(&self) -> Option<&str> {
        self.aliases().find(|alias| !alias.contains(':'))
    }

    /// All other names.
    pub fn aliases(&self) -> impl Iterator<Item = &str> {
        self.aliases.iter().map(|alias| &**alias)
    }

    /// The part before the colon: the chain family, such as `eip155`.
    pub fn namespace(&self) -> &str {
        self.id.split(':').next().unwrap_or_default()
    }

    /// The part after the colon: the chain within its family.
    pub fn reference(&self) -> &str {
        self.id.split(':').nth(1).unwrap_or_default()
    }

    /// Whether `name` is exactly this network's identifier or one of its aliases.
    pub fn is(&self, name: &str) -> bool {
        *self.id == *name || self.aliases().any(|alias| alias == name)
    }
}

/// The text is not a CAIP-2 chain id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a CAIP-2 chain id such as `eip155:8453`")]
pub struct NetworkError;

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(id: &str) -> Result<Self, NetworkError> {
        Self::new(id)
    }
}

impl PartialEq for Network {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Network {}

impl Hash for Network {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Network({})", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_caip2_is_read() {
        for id in [
            "eip155:1",
            "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp",
            "ach:us",
            "cosmos:cosmoshub-4",
        ] {
            assert_eq!(
                Network::new(id).map(|network| network.to_string()),
                Ok(id.to_owned())
            );
        }
        for id in [
            "",
            ":",
            "base",
            "eip155:",
            ":1",
            "ei:1",
            "eip155:1:2",
            "EIP155:1",
            "eip155:1 ",
            "eip155:ｘ",
            "toolongname:1",
        ] {
            assert!(Network::new(id).is_err(), "{id}");
        }
        assert!(Network::new(&format!("eip155:{}", "1".repeat(33))).is_err());
    }

    #[test]
    fn a_network_has_any_number_of_names() {
        let network = Network::new("cardano:mainnet").unwrap();
        assert_eq!(network.alias(), None);
        let network = network.with_alias("cip34:1-764824073");
        assert_eq!(network.alias(), None);
        let network = network.with_alias("cardano").with_alias("ada");
        assert_eq!(network.alias(), Some("cardano"));
        for name in ["cardano:mainnet", "cip34:1-764824073", "cardano", "ada"] {
            assert!(network.is(name), "{name}");
        }
        assert!(!network.is("cip34:0-1") && !network.is(""));
        assert_eq!(network.aliases().count(), 3);
    }

    proptest! {
        #[test]
        fn no_text_panics(text: String) {
            let _ = Network::new(&text);
        }
    }
}
