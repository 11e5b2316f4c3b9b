//! Which servers may be asked.
//!
//! A name is resolved by the client itself when it connects, and it connects to what passed here and to nothing else: what a
//! name leads to is looked at each time, so neither a name that changes its meaning between a check and a use, nor a redirect,
//! leads to a private address.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use futures_util::FutureExt as _;
use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::{Problem, shown};

/// Hosts that the operator trusts: they may have private addresses, and be spoken to without encryption.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hosts(Arc<HashSet<String>>);

impl Hosts {
    /// Names and addresses, without ports; of IPv6 addresses without brackets.
    pub fn new(hosts: impl IntoIterator<Item = String>) -> Self {
        Self(Arc::new(hosts.into_iter().map(|host| host.to_ascii_lowercase()).collect()))
    }

    /// Whether a host, as it stands in an address, is one of them.
    pub(super) fn trust(&self, host: &str) -> bool {
        self.0.contains(host.trim_start_matches('[').trim_end_matches(']'))
    }

    /// What can be said of an address without resolving its name.
    ///
    /// # Errors
    ///
    /// [`Problem`].
    pub fn check(&self, address: &str) -> Result<Url, Problem> {
        let url = Url::parse(address).map_err(|error| Problem::Malformed(format!("an address: {error}")))?;
        self.check_url(&url)?;
        Ok(url)
    }

    pub(super) fn check_url(&self, url: &Url) -> Result<(), Problem> {
        let host = url.host_str().ok_or_else(|| Problem::Malformed(format!("{} has no host", shown(url))))?;
        let trusted = self.trust(host);
        match url.scheme() {
            "https" => {}
            "http" if trusted => {}
            "http" => return Err(Problem::Plain(shown(url))),
            _ => return Err(Problem::Malformed(format!("{} is no web address", shown(url)))),
        }
        let literal: Option<IpAddr> = host.trim_start_matches('[').trim_end_matches(']').parse().ok();
        match literal {
            Some(address) if !trusted && !is_public(address) => Err(Problem::Private(shown(url))),
            _ => Ok(()),
        }
    }
}

/// Resolves names; what leads nowhere else than to private addresses is not found.
pub(super) struct Resolver(pub Hosts);

/// Stands in the error of a connection.
#[derive(Debug, thiserror::Error)]
#[error("{0} has an address of a private network")]
pub(super) struct Private(pub String);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let hosts = self.0.clone();
        async move {
            let name = name.as_str().to_owned();
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let any = !found.is_empty();
            let allowed: Vec<_> =
                found.into_iter().filter(|found| hosts.trust(&name) || is_public(found.ip())).collect();
            if any && allowed.is_empty() {
                return Err(Private(name).into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        }
        .boxed()
    }
}

/// Whether an address is one of the internet, as the registries of special addresses have it (IANA, RFC 6890).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_documentation()
        // "This network", with the unspecified address.
        || a == 0
        // Carrier-grade translation.
        || (a == 100 && (64..128).contains(&b))
        // Protocol assignments, relays of 6to4, benchmarks.
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (18..20).contains(&b))
        // Reserved, with the broadcast address.
        || a >= 240;
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, c, d, e, f, g, h] = address.segments();
    // An IPv4 address behind a translator (RFC 6052); the mapped ones are no way to write one here.
    if [a, b, c, d, e, f] == [0x64, 0xff9b, 0, 0, 0, 0] {
        let ([g1, g2], [h1, h2]) = (g.to_be_bytes(), h.to_be_bytes());
        return is_public_v4(Ipv4Addr::new(g1, g2, h1, h2));
    }
    let global = a & 0xe000 == 0x2000;
    // Protocol assignments with Teredo, and documentation.
    let special = a == 0x2001 && (b < 0x200 || b == 0xdb8);
    // 6to4, and documentation again.
    let special = special || a == 0x2002 || (a == 0x3fff && b < 0x1000);
    global && !special
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_internet_are_public() {
        for address in
            ["1.1.1.1", "93.184.216.34", "100.63.255.255", "172.32.0.1", "2606:4700::1111", "64:ff9b::1.1.1.1"]
        {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
        for address in [
            "127.0.0.1",
            "127.9.9.9",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "0.1.2.3",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "192.0.0.8",
            "192.0.2.1",
            "198.18.0.1",
            "::",
            "::1",
            "::ffff:10.0.0.1",
            "::ffff:1.1.1.1",
            "::1.1.1.1",
            "fe80::1",
            "fec0::1",
            "fc00::1",
            "fd00::1",
            "ff02::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "64:ff9b::127.0.0.1",
            "64:ff9b:1::1",
            "100::1",
            "3fff::1",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn an_address_is_refused_before_anything_is_sent_where_it_says_enough() {
        let hosts = Hosts::new(["Models.internal".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()]);
        for good in ["https://host/m.gguf", "http://models.internal:9000/m", "http://127.0.0.1:1/m", "https://[::1]/m"]
        {
            assert!(hosts.check(good).is_ok(), "{good}");
        }
        for address in [
            "https://127.0.0.2/m",
            "https://[::ffff:127.0.0.1]/m",
            "https://10.1/m",
            "https://0x7f000002/m",
            "https://2130706434/m",
            "https://169.254.169.254/latest",
            "https://[fd00::1]/m",
        ] {
            assert!(matches!(hosts.check(address), Err(Problem::Private(_))), "{address}");
        }
        assert!(matches!(hosts.check("http://host/m"), Err(Problem::Plain(_))));
        assert!(matches!(hosts.check("ftp://host/m"), Err(Problem::Malformed(_))));
    }

    #[tokio::test]
    async fn a_name_that_leads_to_this_machine_is_resolved_where_it_is_trusted_only() {
        let resolve = |hosts: Hosts| async move {
            let name = "localhost".parse::<Name>().expect("a name");
            Resolver(hosts).resolve(name).await.map(|found| found.count() > 0)
        };
        assert!(resolve(Hosts::new(["localhost".to_owned()])).await.expect("it is trusted"));
        assert!(resolve(Hosts::default()).await.expect_err("it is private").is::<Private>());
    }
}
