//! The addresses of clients, as units for limits.

use std::net::{IpAddr, Ipv6Addr};

/// The addresses that one client has at least: an IPv4 address, or an IPv6 network of 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ClientAddress(IpAddr);

impl ClientAddress {
    pub(crate) fn new(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) => prefix(address, 64).into(),
            address => address,
        })
    }

    /// The IPv6 network of 48 bits around this one: the largest that providers give one subscriber.
    /// `None` for IPv4.
    pub(crate) fn site(self) -> Option<Self> {
        match self.0 {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some(Self(prefix(address, 48).into())),
        }
    }
}

fn prefix(address: Ipv6Addr, bits: u32) -> Ipv6Addr {
    let rest = Ipv6Addr::BITS - bits;
    Ipv6Addr::from_bits(address.to_bits() >> rest << rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_of_one_subscriber_are_equal() {
        let address = |text: &str| ClientAddress::new(text.parse().unwrap());
        assert_eq!(address("2001:db8:1:2::1"), address("2001:db8:1:2:ffff::9"));
        assert_ne!(address("2001:db8:1:2::1"), address("2001:db8:1:3::1"));
        assert_eq!(address("::ffff:192.0.2.1"), address("192.0.2.1"));
        assert_ne!(address("192.0.2.1"), address("192.0.2.2"));
        assert_eq!(
            address("2001:db8:1:2::1").site(),
            address("2001:db8:1:3::1").site()
        );
        assert_ne!(
            address("2001:db8:1::1").site(),
            address("2001:db8:2::1").site()
        );
        assert_eq!(address("::ffff:192.0.2.1").site(), None);
    }
}
