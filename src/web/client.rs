//! A client that goes only where it may. Redirects are followed here, so that each is checked as the first address was.

use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{RequestBuilder, Response, Url};

use super::guard::{Hosts, Private, Resolver};
use super::{Problem, shown};
use crate::causes::causes;

/// From one address to the next, at most.
const MOST_REDIRECTS: usize = 5;

/// A client of web servers.
#[derive(Debug, Clone)]
pub struct Client {
    client: reqwest::Client,
    hosts: Hosts,
    reach: Reach,
}

/// Where a client goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// To the hosts that are trusted.
    Trusted,
    /// To those, and to every public one.
    Public,
}

impl Client {
    /// `connect`: how long a connection may take.
    ///
    /// # Errors
    ///
    /// [`Problem::Unreachable`] where this machine lets nobody have a client.
    pub fn new(hosts: Hosts, reach: Reach, connect: Duration) -> Result<Self, Problem> {
        let client = reqwest::Client::builder()
            // A proxy would resolve the names itself.
            .no_proxy()
            .redirect(Policy::none())
            .dns_resolver(Resolver(hosts.clone()))
            .connect_timeout(connect)
            .user_agent(concat!("sluicegate/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| Problem::Unreachable(causes(&error)))?;
        Ok(Self { client, hosts, reach })
    }

    /// Asks for what is at `url`, with the headers that `with` adds. The answer may have any status but those of redirects.
    ///
    /// # Errors
    ///
    /// [`Problem`] where that, or what it redirects to, is not to be asked, and where nothing answers.
    pub async fn get(
        &self,
        mut url: Url,
        with: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, Problem> {
        for _ in 0..=MOST_REDIRECTS {
            self.hosts.check_url(&url)?;
            if self.reach == Reach::Trusted && !url.host_str().is_some_and(|host| self.hosts.trust(host)) {
                return Err(Problem::Elsewhere(shown(&url)));
            }
            let request = with(self.client.get(url.clone()));
            let answer = request.send().await.map_err(|error| unreachable(&url, error))?;
            if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(answer);
            }
            let location = answer.headers().get("location").and_then(|location| location.to_str().ok());
            let next = location.and_then(|location| url.join(location).ok());
            url = next.ok_or_else(|| Problem::Malformed("a redirect that leads nowhere".to_owned()))?;
        }
        Err(Problem::Malformed(format!("more than {MOST_REDIRECTS} redirects")))
    }
}

/// Why nothing was answered; the cause may be that the name is not to be resolved.
fn unreachable(url: &Url, error: reqwest::Error) -> Problem {
    let mut cause: Option<&dyn std::error::Error> = Some(&error);
    while let Some(error) = cause {
        if error.is::<Private>() {
            return Problem::Private(shown(url));
        }
        cause = error.source();
    }
    Problem::Unreachable(causes(&error.without_url()))
}
