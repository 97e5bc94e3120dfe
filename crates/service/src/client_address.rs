//! Who is on the other side of a connection, as far as an address says.

use std::net::{IpAddr, Ipv6Addr};

/// What one subscriber of a network has: an IPv4 address, or all of an IPv6 network of 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ClientAddress(IpAddr);

impl ClientAddress {
    pub(crate) fn new(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) => prefix(address, 64).into(),
            address => address,
        })
    }

    /// The IPv6 network of 48 bits that this one belongs to: the most that providers give one subscriber. `None` for IPv4.
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
    fn addresses_that_one_subscriber_can_choose_among_are_one_peer() {
        let peer = |text: &str| ClientAddress::new(text.parse().unwrap());
        assert_eq!(peer("2001:db8:1:2::1"), peer("2001:db8:1:2:ffff::9"));
        assert_ne!(peer("2001:db8:1:2::1"), peer("2001:db8:1:3::1"));
        assert_eq!(peer("::ffff:192.0.2.1"), peer("192.0.2.1"));
        assert_ne!(peer("192.0.2.1"), peer("192.0.2.2"));
        assert_eq!(
            peer("2001:db8:1:2::1").site(),
            peer("2001:db8:1:3::1").site()
        );
        assert_ne!(peer("2001:db8:1::1").site(), peer("2001:db8:2::1").site());
        assert_eq!(peer("::ffff:192.0.2.1").site(), None);
    }
}
