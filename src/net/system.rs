//! What the system knows: the names of its accounts, and its own addresses.

use std::net::IpAddr;

use if_addrs::{IfAddr, get_if_addrs};
use tokio::task::spawn_blocking;

use crate::config::Network;

/// An address of this machine, and the network that it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interface {
    /// The address.
    pub address: IpAddr,
    /// The network, where it has one.
    pub network: Option<Network>,
}

/// Lists the addresses of this machine as of now; none if the system does not say.
pub fn interfaces() -> Vec<Interface> {
    let interfaces = get_if_addrs().unwrap_or_default().into_iter().map(|found| {
        let (address, mask) = match found.addr {
            IfAddr::V4(v4) => (IpAddr::V4(v4.ip), IpAddr::V4(v4.netmask)),
            IfAddr::V6(v6) => (IpAddr::V6(v6.ip), IpAddr::V6(v6.netmask)),
        };
        Interface { address, network: Network::with_mask(address, mask) }
    });
    interfaces.collect()
}

/// Returns the name of an account; `None` if it has none. Where accounts are kept elsewhere this
/// takes its time, so it waits on a thread where it holds up nobody.
pub async fn account(uid: u32) -> Option<String> {
    let found = spawn_blocking(move || uzers::get_user_by_uid(uid)).await.ok()??;
    found.name().to_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_address_is_ours() {
        let own: IpAddr = "127.0.0.1".parse().unwrap();
        let found = interfaces();
        let loopback = found.iter().find(|interface| interface.address == own).unwrap();
        assert!(loopback.network.unwrap().contains("127.3.4.5".parse().unwrap()));
    }

    #[tokio::test]
    async fn the_superuser_has_a_name() {
        assert_eq!(account(0).await.as_deref(), Some("root"));
        assert_eq!(account(u32::MAX - 7).await, None);
    }
}
