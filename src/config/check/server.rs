//! The sockets, and who may come to them.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use super::super::shape::{self, ForwardedHeader};
use super::super::{Server, Tls};
use super::Check;
use crate::api::{Cors, Forwarding, Origins, Proxies, RefusalRate};

impl Check<'_> {
    pub(super) fn server(&mut self, server: &shape::Server) -> Server {
        Server {
            listen: self.listen(&server.listen),
            tls: server.tls.as_ref().map(|tls| self.tls(tls)),
            http2: server.http2,
            proxies: self.proxies(server),
            failed_logins: self.failed_logins(&server.failed_logins),
            cors: self.cors(&server.cors),
            compression: server.compression,
            unknown_fields: server.unknown_fields,
            max_body_bytes: self.count("server.max_body_bytes", server.max_body_bytes, 1024, 1 << 32),
            max_connections: self.count("server.max_connections", server.max_connections, 1, 1 << 20),
            max_connections_per_address: self.count(
                "server.max_connections_per_address",
                server.max_connections_per_address,
                0,
                1 << 20,
            ),
            body_timeout: self.ms("server.body_timeout_ms", server.body_timeout_ms, 1),
            write_timeout: self.ms("server.write_timeout_ms", server.write_timeout_ms, 1),
            header_timeout: self.ms("server.header_timeout_ms", server.header_timeout_ms, 1),
            drain_deadline: self.ms("server.drain_deadline_ms", server.drain_deadline_ms, 0),
        }
    }

    fn tls(&mut self, tls: &shape::Tls) -> Tls {
        let cert =
            self.file("server.tls.cert", tls.cert.as_deref(), "the file with the certificate, in PEM form, is needed");
        let key =
            self.file("server.tls.key", tls.key.as_deref(), "the file with its private key, in PEM form, is needed");
        Tls { cert, key }
    }

    /// The path of a file that has to be named.
    fn file(&mut self, key: &str, path: Option<&str>, missing: &str) -> PathBuf {
        let path = Path::new(path.unwrap_or_default());
        std::path::absolute(path).unwrap_or_else(|_| {
            self.refuse(key, missing);
            path.to_owned()
        })
    }

    fn listen(&mut self, text: &str) -> SocketAddr {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let Ok(address) = text.parse::<SocketAddr>() else {
            self.refuse("server.listen", format!("{text:?} is no socket address; write 127.0.0.1:8080 or [::1]:8080"));
            return nowhere;
        };
        address
    }

    fn proxies(&mut self, server: &shape::Server) -> Proxies {
        let mut trusted = Vec::new();
        for (index, text) in server.trusted_proxies.iter().enumerate() {
            match text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)) {
                Ok(network) => trusted.push(network),
                Err(_) => self.refuse(
                    &format!("server.trusted_proxies.{index}"),
                    "an address or a network, such as ::1 or 10.0.0.0/8",
                ),
            }
        }
        let header = match server.forwarded_header {
            ForwardedHeader::XForwardedFor => Forwarding::Usual,
            ForwardedHeader::Forwarded => Forwarding::Standard,
        };
        Proxies { trusted, header }
    }

    fn cors(&mut self, cors: &shape::Cors) -> Option<Cors> {
        let max_age = self.ms("server.cors.max_age_ms", cors.max_age_ms, 0);
        let any = cors.origins.iter().any(|origin| origin == "*");
        self.ensure(!any || cors.origins.len() == 1, "server.cors.origins", "\"*\" is every origin, and stands alone");
        for (index, origin) in cors.origins.iter().enumerate().filter(|(_, origin)| *origin != "*") {
            let key = format!("server.cors.origins.{index}");
            self.ensure(
                is_origin(origin),
                &key,
                "as browsers write it, such as https://app.example or http://localhost:3000",
            );
        }
        let origins = if any { Origins::Any } else { Origins::These(cors.origins.clone()) };
        (!cors.origins.is_empty()).then_some(Cors { origins, max_age })
    }

    fn failed_logins(&mut self, failed: &shape::FailedLogins) -> Option<RefusalRate> {
        let &shape::FailedLogins { burst, per_minute } = failed;
        self.count("server.failed_logins.burst", burst.into(), 0, 1_000_000);
        self.count("server.failed_logins.per_minute", per_minute.into(), 1, 1_000_000);
        (burst > 0).then_some(RefusalRate { burst, per_minute })
    }
}

/// Scheme, host, and the port where it is not the scheme's own: in lower case, and nothing after it.
fn is_origin(text: &str) -> bool {
    let Some((host, own_port)) = (text.strip_prefix("https://").map(|host| (host, ":443")))
        .or_else(|| text.strip_prefix("http://").map(|host| (host, ":80")))
    else {
        return false;
    };
    let named = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._:[]".contains(&byte);
    !host.is_empty() && host.bytes().all(named) && !host.ends_with(own_port) && !host.starts_with(':')
}
