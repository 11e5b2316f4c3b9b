//! One file at a web server. Redirects are followed here, so that each is checked as the first address was.

use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, Url};

use super::guard::{Private, Resolver};
use super::{FetchProblem, Hosts, WebAccess, shown};
use crate::catalog::download::{Answer, Origin};
use crate::causes::causes;

/// From one address to the next, at most.
const MOST_REDIRECTS: usize = 5;

/// A client of web servers.
pub(super) struct Server {
    client: Client,
    hosts: Hosts,
}

impl Server {
    pub fn new(access: &WebAccess) -> Result<Self, FetchProblem> {
        let client = Client::builder()
            // A proxy would resolve the names itself.
            .no_proxy()
            .redirect(Policy::none())
            .dns_resolver(Resolver(access.hosts.clone()))
            .connect_timeout(access.stall)
            .user_agent(concat!("sluicegate/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| FetchProblem::Unreachable(causes(&error)))?;
        Ok(Self { client, hosts: access.hosts.clone() })
    }

    pub fn file<'a>(&'a self, url: Url, name: &'a str) -> WebFile<'a> {
        WebFile { server: self, url, name }
    }

    async fn ask(&self, mut url: Url, offset: u64, tag: Option<&str>) -> Result<Response, FetchProblem> {
        for _ in 0..=MOST_REDIRECTS {
            self.hosts.check_url(&url)?;
            // Sent always, because a range also keeps the answer from being compressed.
            let request = self.client.get(url.clone()).header("range", format!("bytes={offset}-"));
            let request = request.header("accept-encoding", "identity");
            let request = tag.iter().fold(request, |request, tag| request.header("if-range", *tag));
            let answer = request.send().await.map_err(|error| unreachable(&url, error))?;
            if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(answer);
            }
            let location = answer.headers().get("location").and_then(|location| location.to_str().ok());
            let next = location.and_then(|location| url.join(location).ok());
            url = next.ok_or_else(|| FetchProblem::BadAnswer("a redirect that leads nowhere".to_owned()))?;
        }
        Err(FetchProblem::BadAnswer(format!("more than {MOST_REDIRECTS} redirects")))
    }
}

/// Why nothing was answered; the cause may be that the name is not to be resolved.
fn unreachable(url: &Url, error: reqwest::Error) -> FetchProblem {
    let mut cause: Option<&dyn std::error::Error> = Some(&error);
    while let Some(error) = cause {
        if error.is::<Private>() {
            return FetchProblem::Private(shown(url));
        }
        cause = error.source();
    }
    FetchProblem::Unreachable(causes(&error.without_url()))
}

pub(super) struct WebFile<'a> {
    server: &'a Server,
    url: Url,
    name: &'a str,
}

impl Origin for WebFile<'_> {
    fn ask<'a>(&'a self, offset: u64, tag: Option<&'a str>) -> BoxFuture<'a, Result<Answer, FetchProblem>> {
        async move {
            let answer = self.server.ask(self.url.clone(), offset, tag).await?;
            let headers = answer.headers().clone();
            let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
            let status = answer.status().as_u16();
            let body = answer.bytes_stream().map(|bytes| bytes.map_err(|error| causes(&error.without_url()))).boxed();
            Ok(Answer::new(status, header, body))
        }
        .boxed()
    }

    fn refusal(&self, status: u16) -> FetchProblem {
        match status {
            404 => FetchProblem::NoSuchFile(self.name.to_owned()),
            status => FetchProblem::Status(status),
        }
    }

    fn never_changes(&self) -> bool {
        false
    }
}
