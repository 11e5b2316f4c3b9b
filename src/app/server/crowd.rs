//! How many connections each address has, so that no one takes all of them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::api::{ClientAddress, Proxies};

/// The open connections, by where they come from.
#[derive(Clone)]
pub(super) struct Crowd {
    /// Held for one look-up. An address is there as long as it has a connection.
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
    /// Connections of one address at most; 0: any number.
    most: usize,
    /// Many clients come from these, and are bounded there.
    proxies: Arc<Proxies>,
}

/// A connection's place; given back on drop.
pub(super) struct Place {
    crowd: Option<(Crowd, IpAddr)>,
}

impl Crowd {
    pub fn new(most: usize, proxies: &Proxies) -> Self {
        Self { open: Arc::default(), most, proxies: Arc::new(proxies.clone()) }
    }

    /// A place for one more connection from there, if there is one.
    pub fn enter(&self, peer: ClientAddress) -> Option<Place> {
        if self.most == 0 || self.proxies.trusts(peer.0) {
            return Some(Place { crowd: None });
        }
        let network = peer.network();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(network).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Place { crowd: Some((self.clone(), network)) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some((crowd, network)) = &self.crowd else { return };
        let mut open = crowd.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(network) {
            *count -= 1;
            if *count == 0 {
                open.remove(network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Forwarding;

    fn crowd(most: usize) -> Crowd {
        Crowd::new(most, &Proxies { trusted: vec!["10.0.0.0/8".parse().unwrap()], header: Forwarding::Usual })
    }

    fn address(text: &str) -> ClientAddress {
        ClientAddress(text.parse().unwrap())
    }

    #[test]
    fn each_address_has_its_own_places_and_gives_them_back() {
        let crowd = crowd(2);
        let places = [crowd.enter(address("192.0.2.1")).unwrap(), crowd.enter(address("192.0.2.1")).unwrap()];
        assert!(crowd.enter(address("192.0.2.1")).is_none());
        assert!(crowd.enter(address("192.0.2.2")).is_some());
        drop(places);
        assert!(crowd.open.lock().unwrap().is_empty(), "nobody is remembered who has left");
        assert!(crowd.enter(address("192.0.2.1")).is_some());
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let crowd = crowd(1);
        let _place = crowd.enter(address("2001:db8::1")).unwrap();
        assert!(crowd.enter(address("2001:db8::2")).is_none());
        assert!(crowd.enter(address("2001:db8:0:1::1")).is_some());
    }

    #[test]
    fn trusted_proxies_have_as_many_as_they_like_and_so_has_everybody_without_a_bound() {
        let (bounded, open) = (crowd(1), crowd(0));
        let places: Vec<_> =
            (0..5).map(|_| (bounded.enter(address("10.0.0.1")), open.enter(address("192.0.2.1")))).collect();
        assert!(places.iter().all(|(proxy, anybody)| proxy.is_some() && anybody.is_some()));
    }
}
