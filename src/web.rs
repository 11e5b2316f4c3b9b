//! Getting what is at an address that a caller or an operator has named, from wherever that may be; and telling a server of events.
//!
//! The gateway must not be made to call services that only it can reach: see [`Hosts`].

mod client;
mod guard;
mod webhook;

pub use client::{Client, Reach};
pub use guard::Hosts;
pub use reqwest::Url;
pub use webhook::{NotDelivered, Webhook, WebhookClient};

/// Why nothing is got from an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The address, or a redirect, is no web address.
    #[error("{0}")]
    Malformed(String),
    #[error("{0} leads to an address of a private network")]
    Private(String),
    #[error("{0} is on no host that is trusted")]
    Elsewhere(String),
    #[error("{0} is not encrypted; write https://")]
    Plain(String),
    #[error("the server cannot be reached: {0}")]
    Unreachable(String),
}

/// An address as it is shown and logged: the query of one that a server redirects to is often a signature.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    // Only addresses that can have none refuse this.
    let _ = url.set_username("").and_then(|()| url.set_password(None));
    url.as_str().chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_what_may_be_secret() {
        let shown = |address: &str| shown(&Url::parse(address).unwrap());
        assert_eq!(shown("https://user:pass@host/m.gguf?X-Signature=1#x"), "https://host/m.gguf");
        assert_eq!(shown("file:///etc/passwd?x"), "file:///etc/passwd");
    }
}
