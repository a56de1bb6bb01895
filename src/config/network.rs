//! Networks: addresses that begin alike.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address, and which of its bits count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    mask: u128,
}

impl Network {
    /// Makes one of an address and a mask of the same family; the mask may have holes.
    pub fn with_mask(address: IpAddr, mask: IpAddr) -> Option<Self> {
        let bits = bits(mask);
        (address.is_ipv4() == mask.is_ipv4()).then_some(Self { address, mask: bits })
    }

    /// Makes one of an address and the number of bits that count.
    pub fn with_prefix(address: IpAddr, prefix: u8) -> Option<Self> {
        let width = if address.is_ipv4() { 32_u32 } else { 128 };
        let rest = width.checked_sub(u32::from(prefix))?;
        let all = if width == 32 { u128::from(u32::MAX) } else { u128::MAX };
        Some(Self { address, mask: all.checked_shl(rest).unwrap_or(0) & all })
    }

    /// Reads `address/prefix`, or an address that stands for itself.
    pub fn parse(text: &str) -> Option<Self> {
        let Some((address, prefix)) = text.split_once('/') else {
            let address: IpAddr = text.parse().ok()?;
            return Self::with_prefix(address, if address.is_ipv4() { 32 } else { 128 });
        };
        let is_number = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
        Self::with_prefix(address.parse().ok()?, is_number.then(|| prefix.parse().ok())??)
    }

    /// Says whether an address is in it. One of IPv4 written as one of IPv6 counts as what it is.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4()
            && bits(address) & self.mask == bits(self.address) & self.mask
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mask = match self.address {
            IpAddr::V4(_) => {
                IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(self.mask).unwrap_or(u32::MAX)))
            }
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(self.mask)),
        };
        let prefix = self.mask.count_ones();
        if u8::try_from(prefix).ok().and_then(|bits| Self::with_prefix(self.address, bits))
            == Some(*self)
        {
            write!(f, "{}/{prefix}", self.address)
        } else {
            write!(f, "{} {mask}", self.address)
        }
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        Network::parse(text).unwrap_or_else(|| panic!("{text} is a network"))
    }

    #[test]
    fn addresses_are_in_networks() {
        let check = |net: &str, address: &str, expected: bool| {
            assert_eq!(
                network(net).contains(address.parse().unwrap()),
                expected,
                "{net} {address}"
            );
        };
        check("10.0.0.0/8", "10.255.0.1", true);
        check("10.0.0.0/8", "11.0.0.1", false);
        check("10.1.2.3/8", "10.9.9.9", true);
        check("0.0.0.0/0", "1.2.3.4", true);
        check("0.0.0.0/0", "::1", false);
        check("::/0", "1.2.3.4", false);
        check("::/0", "fe80::1", true);
        check("::1", "::1", true);
        check("::1/128", "::2", false);
        check("192.168.0.0/16", "::ffff:192.168.3.4", true);
        check("127.0.0.1", "127.0.0.1", true);
        check("127.0.0.1", "127.0.0.2", false);
    }

    #[test]
    fn a_mask_may_have_holes() {
        let mask = |address: &str, mask: &str| {
            Network::with_mask(address.parse().unwrap(), mask.parse().unwrap())
        };
        let odd = mask("10.0.0.1", "255.0.0.255").unwrap();
        assert!(odd.contains("10.7.7.1".parse().unwrap()));
        assert!(!odd.contains("10.7.7.2".parse().unwrap()));
        assert_eq!(odd.to_string(), "10.0.0.1 255.0.0.255");
        assert_eq!(mask("10.0.0.0", "::"), None);
        assert_eq!(mask("10.0.0.0", "255.0.0.0").unwrap().to_string(), "10.0.0.0/8");
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for bad in ["", "x", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/+8", "10.0.0/8", "/8"]
        {
            assert_eq!(Network::parse(bad), None, "{bad}");
        }
    }
}
