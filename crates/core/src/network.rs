//! The name of a chain.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

/// A blockchain network: its CAIP-2 identifier, `namespace:reference`, and its protocol version 1
/// name, if it has one.
///
/// Two networks are equal if their identifiers are. The alias is only another spelling.
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
    alias: Option<Arc<str>>,
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
                alias: None,
            })
        } else {
            Err(NetworkError)
        }
    }

    /// The same network, also known by a version 1 name such as `base-sepolia`.
    #[must_use]
    pub fn with_alias(self, alias: &str) -> Self {
        Self {
            alias: Some(alias.into()),
            ..self
        }
    }

    /// The CAIP-2 identifier.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The version 1 name.
    pub fn alias(&self) -> Option<&str> {
        self.alias.as_deref()
    }

    /// The part before the colon: the chain family, such as `eip155`.
    pub fn namespace(&self) -> &str {
        self.id.split(':').next().unwrap_or_default()
    }

    /// The part after the colon: the chain within its family.
    pub fn reference(&self) -> &str {
        self.id.split(':').nth(1).unwrap_or_default()
    }

    /// Whether `name` is exactly this network's identifier or its alias.
    pub fn is(&self, name: &str) -> bool {
        *self.id == *name || self.alias() == Some(name)
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

    proptest! {
        #[test]
        fn no_text_panics(text: String) {
            let _ = Network::new(&text);
        }
    }
}
