//! Where a request comes from: the peer's address, or what a trusted proxy says about it.

use std::net::{IpAddr, Ipv6Addr};

use axum::http::header::FORWARDED;
use axum::http::{HeaderMap, HeaderName};
use ipnet::IpNet;

/// What nearly every proxy appends to.
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Proxies that one request can come through. Whoever names more of them is not believed any further.
const MOST_PROXIES: usize = 32;

/// Where a request comes from: put on it by whoever has accepted the connection, and corrected, before anything else looks at it, to
/// what trusted proxies say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientAddress(pub IpAddr);

impl ClientAddress {
    /// What stands for everybody who can have this address: a subscriber has at least a /64 of IPv6.
    pub fn network(self) -> IpAddr {
        match self.0.to_canonical() {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        }
    }
}

/// The header in which trusted proxies say whom they speak for. The others are whatever a client has written there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forwarding {
    /// `X-Forwarded-For`.
    Usual,
    /// `Forwarded`, as in RFC 7239.
    Standard,
}

/// Whose word about clients counts.
#[derive(Debug, Clone)]
pub struct Proxies {
    pub trusted: Vec<IpNet>,
    pub header: Forwarding,
}

impl Proxies {
    /// The address of the client behind `peer`: the right-most in the header that is no trusted proxy's. What does not read
    /// as an address ends the search at the proxy that has written it.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut known = peer.to_canonical();
        if !self.trusts(known) {
            return known;
        }
        let name = if self.header == Forwarding::Usual { X_FORWARDED_FOR } else { FORWARDED };
        let values = headers.get_all(name);
        // The last line of a header is the one that was added last, and so is the last element of a line.
        let elements = values.iter().rev().flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b','));
        for element in elements.take(MOST_PROXIES) {
            // What is no text is no address either, and says nothing about those beside it.
            let element = std::str::from_utf8(element).unwrap_or_default();
            let node = if self.header == Forwarding::Usual { Some(element) } else { node(element) };
            let Some(address) = node.and_then(address) else { return known };
            known = address;
            if !self.trusts(known) {
                return known;
            }
        }
        known
    }

    /// Whether this is a proxy that is believed.
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(&address))
    }
}

/// What stands behind `for=` in an element of `Forwarded`.
fn node(element: &str) -> Option<&str> {
    element.split(';').find_map(|pair| {
        let (name, node) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then_some(node)
    })
}

/// An address, with a port or without, in brackets or quotation marks or without.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim().trim_matches('"');
    let bare = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.0,
        // More than one colon is an IPv6 address without brackets, which has no port.
        None => match text.split_once(':') {
            Some((address, port)) if !port.contains(':') => address,
            _ => text,
        },
    };
    bare.parse().ok().map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn proxies(header: Forwarding) -> Proxies {
        let trusted = ["10.0.0.0/8", "::1/128", "127.0.0.1/32"].iter().map(|network| network.parse().unwrap());
        Proxies { trusted: trusted.collect(), header }
    }

    fn headers(name: &'static str, lines: &[&str]) -> HeaderMap {
        lines.iter().map(|line| (HeaderName::from_static(name), HeaderValue::from_str(line).unwrap())).collect()
    }

    /// The client of a request of `peer` with these lines of the header that counts, and nonsense in the other.
    fn client(header: Forwarding, peer: &str, lines: &[&str]) -> String {
        let (name, other) = match header {
            Forwarding::Usual => ("x-forwarded-for", "forwarded"),
            Forwarding::Standard => ("forwarded", "x-forwarded-for"),
        };
        let mut headers = headers(name, lines);
        headers.insert(other, HeaderValue::from_static("for=9.9.9.9"));
        proxies(header).client(peer.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn the_right_most_address_that_is_no_proxy_counts() {
        let usual = |peer: &str, lines: &[&str]| client(Forwarding::Usual, peer, lines);
        assert_eq!(usual("203.0.113.7", &["198.51.100.1"]), "203.0.113.7", "a stranger may write what he likes");
        assert_eq!(usual("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(usual("10.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(usual("::ffff:10.0.0.1", &["198.51.100.1"]), "198.51.100.1", "one address in two notations");
        assert_eq!(usual("10.0.0.1", &["1.1.1.1, 198.51.100.1, 10.0.0.2"]), "198.51.100.1");
        assert_eq!(usual("10.0.0.1", &["1.1.1.1", "198.51.100.1", "10.0.0.2"]), "198.51.100.1");
        assert_eq!(usual("::1", &["198.51.100.1:4711"]), "198.51.100.1");
        assert_eq!(usual("::1", &["[2001:db8::1]:4711"]), "2001:db8::1");
        assert_eq!(usual("::1", &["2001:db8::1"]), "2001:db8::1");
        assert_eq!(usual("10.0.0.1", &["10.0.0.3, 10.0.0.2"]), "10.0.0.3", "all of them are ours");
    }

    #[test]
    fn what_is_no_address_ends_the_search_at_who_wrote_it() {
        let usual = |lines: &[&str]| client(Forwarding::Usual, "10.0.0.1", lines);
        for nonsense in ["unknown", "", ",", "_hidden", "1.2.3", "1.2.3.4.5", "[::1", "localhost", "é", "1.1.1.1:2:3"]
        {
            assert_eq!(usual(&[nonsense]), "10.0.0.1", "{nonsense:?}");
            assert_eq!(usual(&[&format!("9.9.9.9, {nonsense}, 10.0.0.2")]), "10.0.0.2", "{nonsense:?}");
        }
        let long = ["9.9.9.9"; 1].iter().chain(&["10.0.0.9"; 4000]).copied().collect::<Vec<_>>().join(",");
        assert_eq!(usual(&[&long]), "10.0.0.9");
    }

    #[test]
    fn forwarded_is_read_where_the_proxies_write_that() {
        let standard = |lines: &[&str]| client(Forwarding::Standard, "10.0.0.1", lines);
        assert_eq!(standard(&["for=198.51.100.1"]), "198.51.100.1");
        assert_eq!(standard(&["For=\"[2001:db8:cafe::17]:4711\";proto=https;by=10.0.0.1"]), "2001:db8:cafe::17");
        assert_eq!(standard(&["for=1.1.1.1, proto=http; for=198.51.100.1, for=10.0.0.2"]), "198.51.100.1");
        assert_eq!(standard(&["for=1.1.1.1, proto=http"]), "10.0.0.1");
        assert_eq!(standard(&["for=\"open, for=198.51.100.1"]), "198.51.100.1");
        assert_eq!(standard(&["for=unknown"]), "10.0.0.1");
    }

    proptest! {
        /// Whatever stands there: an answer, and never an address that nobody has vouched for where the peer is a stranger.
        #[test]
        fn no_header_breaks_anything(line in prop::collection::vec(any::<u8>(), 0..200), standard: bool) {
            let header = if standard { Forwarding::Standard } else { Forwarding::Usual };
            let Ok(value) = HeaderValue::from_bytes(&line) else { return Ok(()) };
            let name = if standard { FORWARDED } else { X_FORWARDED_FOR };
            let headers: HeaderMap = [(name, value)].into_iter().collect();
            proxies(header).client([10, 0, 0, 1].into(), &headers);
            let stranger = IpAddr::from([203, 0, 113, 7]);
            prop_assert_eq!(proxies(header).client(stranger, &headers), stranger);
        }
    }
}
