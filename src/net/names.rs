//! The addresses of host names, looked up again when they are older than `dns_max_ttl`.
//!
//! A look-up that fails leaves what was known: servers do not move because a resolver is down.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::lookup_host;
use tokio::time::timeout;

use super::dial::Place;
use crate::config::{Host, Server};

/// LIMIT: names that are remembered. Configured ones, so in practice far fewer.
const NAMES_MAX: usize = 4096;

/// LIMIT: how long one look-up may take.
const LOOKUP_LIMIT: Duration = Duration::from_secs(10);

/// What names stood for when they were looked up last.
#[derive(Debug, Default)]
pub struct Names {
    // Locked for a look at it; never across a wait.
    known: Mutex<HashMap<String, Known>>,
}

#[derive(Debug, Clone)]
struct Known {
    addresses: Arc<[IpAddr]>,
    /// When that was; `None` if they are doubted.
    at: Option<Instant>,
}

impl Names {
    /// Returns where a server may be reached, in the resolver's order.
    ///
    /// Cancel safe: yes.
    ///
    /// # Errors
    /// The resolver's, if nothing is known from earlier; `NotFound` if the name has no address.
    pub async fn places(&self, server: &Server, ttl: Duration) -> io::Result<Vec<Place>> {
        let name = match &server.host {
            Host::Unix(directory) => return Ok(vec![Place::in_directory(directory, server.port)]),
            Host::Tcp(name) => name,
        };
        if is_address(name) {
            // `fe80::1%eth0` has a scope besides; the resolver knows that.
            let found = lookup_host((name.as_str(), server.port)).await?;
            return Ok(found.map(Place::Tcp).collect());
        }
        let addresses = match self.fresh(name, ttl) {
            Some(addresses) => addresses,
            None => self.look_up(name).await?,
        };
        let place = |ip: &IpAddr| Place::Tcp(SocketAddr::new(*ip, server.port));
        Ok(addresses.iter().map(place).collect())
    }

    /// Looks a name up, however long ago that was done last.
    ///
    /// Cancel safe: yes.
    ///
    /// # Errors
    /// As [`places`](Self::places).
    pub async fn look_up(&self, name: &str) -> io::Result<Arc<[IpAddr]>> {
        let outcome = match timeout(LOOKUP_LIMIT, lookup_host((name, 0))).await {
            Ok(outcome) => outcome.map(|found| found.map(|address| address.ip()).collect()),
            Err(elapsed) => Err(elapsed.into()),
        };
        let found: io::Result<Vec<IpAddr>> = outcome.and_then(|found: Vec<IpAddr>| {
            if found.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(found) }
        });
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match (found, known.get(name)) {
            (Ok(found), _) => {
                if known.len() >= NAMES_MAX {
                    known.clear();
                }
                let addresses: Arc<[IpAddr]> = found.into();
                let entry = Known { addresses: Arc::clone(&addresses), at: Some(Instant::now()) };
                known.insert(name.to_owned(), entry);
                Ok(addresses)
            }
            (Err(error), Some(before)) => {
                tracing::debug!(name, %error, "look-up failed, the addresses known before are used");
                Ok(Arc::clone(&before.addresses))
            }
            (Err(error), None) => Err(error),
        }
    }

    /// Has the next [`places`](Self::places) look a name up: its addresses did not answer.
    pub fn doubt(&self, host: &Host) {
        let Host::Tcp(name) = host else { return };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = known.get_mut(name) {
            entry.at = None;
        }
    }

    /// Lists what is known, by name: since when, if it is not doubted, and the addresses.
    pub fn list(&self) -> Vec<(String, Option<Instant>, Arc<[IpAddr]>)> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = |(name, known): (&String, &Known)| {
            (name.clone(), known.at, Arc::clone(&known.addresses))
        };
        let mut list: Vec<_> = known.iter().map(entry).collect();
        list.sort_by(|a, b| a.0.cmp(&b.0));
        list
    }

    fn fresh(&self, name: &str, ttl: Duration) -> Option<Arc<[IpAddr]>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = known.get(name)?;
        entry.at.is_some_and(|at| at.elapsed() < ttl).then(|| Arc::clone(&entry.addresses))
    }
}

/// Says whether a host is an address and not a name; one with a scope (`fe80::1%eth0`) is.
pub fn is_address(name: &str) -> bool {
    name.split('%').next().is_some_and(|address| address.parse::<IpAddr>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(name: &str) -> Server {
        Server { host: Host::Tcp(name.to_owned()), port: 5432 }
    }

    const TTL: Duration = Duration::from_mins(1);

    #[tokio::test]
    async fn names_have_places_and_are_remembered() {
        let names = Names::default();
        let places = names.places(&server("localhost"), TTL).await.unwrap();
        assert!(places.contains(&Place::Tcp("127.0.0.1:5432".parse().unwrap())), "{places:?}");
        assert!(names.fresh("localhost", TTL).is_some());
        assert!(names.fresh("localhost", Duration::ZERO).is_none());
        names.doubt(&Host::Tcp("localhost".to_owned()));
        assert!(names.fresh("localhost", TTL).is_none());
    }

    #[tokio::test]
    async fn addresses_are_not_remembered() {
        let names = Names::default();
        let places = names.places(&server("::1"), TTL).await.unwrap();
        assert_eq!(places, [Place::Tcp("[::1]:5432".parse().unwrap())]);
        assert!(names.known.lock().unwrap().is_empty());
        assert!(is_address("fe80::1%eth0") && !is_address("db.example"));
    }

    #[tokio::test]
    async fn a_failing_resolver_moves_nobody() {
        let names = Names::default();
        let name = "no.such.host.invalid";
        assert!(names.places(&server(name), TTL).await.is_err());
        let entry = Known { addresses: Arc::new([IpAddr::from([192, 0, 2, 1])]), at: None };
        names.known.lock().unwrap().insert(name.to_owned(), entry);
        let addresses = names.look_up(name).await.unwrap();
        assert_eq!(*addresses, [IpAddr::from([192, 0, 2, 1])]);
    }
}
