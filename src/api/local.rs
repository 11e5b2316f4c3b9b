//! Without keys the gateway is for programs on this machine only: a loopback `Host`, and no foreign `Origin`.
//!
//! A web page elsewhere can make a browser send requests here; they carry its `Origin`. A name that is made to resolve to
//! 127.0.0.1 (DNS rebinding) shows in `Host`.

use axum::http::header::{HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Uri};
use sluicegate_compat::native::{ErrorCode, ErrorEnvelope};

/// What proxies add to requests of others.
const PROXIED: [&str; 5] = ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via"];

/// Whether a request comes from this machine.
///
/// # Errors
///
/// FORBIDDEN.
pub fn check(headers: &HeaderMap, uri: &Uri) -> Result<(), ErrorEnvelope> {
    is_local(headers, uri).map_err(|message| ErrorEnvelope::new(ErrorCode::Forbidden, message))
}

fn is_local(headers: &HeaderMap, uri: &Uri) -> Result<(), &'static str> {
    let hosts = headers.get_all(HOST).iter().map(|host| host.to_str().ok().and_then(|host| host.parse().ok()));
    let mut named = hosts.chain(uri.authority().map(|authority| Some(authority.clone()))).peekable();
    if named.peek().is_none() || !named.all(|host: Option<Authority>| host.is_some_and(|host| is_loopback(host.host())))
    {
        return Err("without keys the gateway answers only to a loopback Host, such as 127.0.0.1 or localhost");
    }
    if PROXIED.iter().any(|name| headers.contains_key(*name)) {
        return Err("without keys the gateway answers nobody through a proxy");
    }
    let local = |origin: &axum::http::HeaderValue| {
        let uri: Option<Uri> = origin.to_str().ok().and_then(|origin| origin.parse().ok());
        uri.as_ref().and_then(Uri::host).is_some_and(is_loopback)
    };
    if headers.get_all(ORIGIN).iter().all(local) {
        Ok(())
    } else {
        Err("without keys the gateway answers no foreign web page")
    }
}

/// `localhost`, a name below it, or a loopback address.
fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
    let name = host.to_ascii_lowercase();
    name == "localhost"
        || name.ends_with(".localhost")
        || host.parse().is_ok_and(|address: std::net::IpAddr| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(host: Option<&str>, origin: Option<&str>) -> bool {
        let mut headers = HeaderMap::new();
        host.map(|host| headers.insert(HOST, host.parse().unwrap()));
        origin.map(|origin| headers.insert(ORIGIN, origin.parse().unwrap()));
        is_local(&headers, &Uri::from_static("/v1/models")).is_ok()
    }

    #[test]
    fn only_loopback_hosts_are_answered() {
        for host in
            ["localhost", "localhost:8080", "LOCALHOST", "127.0.0.1:1", "127.9.9.9", "[::1]:8080", "a.localhost"]
        {
            assert!(answered(Some(host), None), "{host}");
        }
        for host in ["example.org", "localhost.example.org", "10.0.0.1:8080", "[::2]", "127.0.0.1.nip.io", ""] {
            assert!(!answered(Some(host), None), "{host}");
        }
        assert!(!answered(None, None));
    }

    #[test]
    fn nobody_is_answered_through_a_proxy() {
        for name in PROXIED {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, "127.0.0.1:8080".parse().unwrap());
            headers.insert(name, "10.0.0.7".parse().unwrap());
            assert!(is_local(&headers, &Uri::from_static("/v1/models")).is_err(), "{name}");
        }
    }

    #[test]
    fn only_pages_of_this_machine_are_answered() {
        assert!(answered(Some("localhost"), Some("http://localhost:3000")));
        for origin in ["https://example.org", "null", "http://localhost.example.org", "file://"] {
            assert!(!answered(Some("localhost"), Some(origin)), "{origin}");
        }
    }
}
