//! One file at a web server.

use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _};
use reqwest::Url;

use super::{FetchProblem, WebAccess};
use crate::catalog::download::{Answer, Origin};
use crate::causes::causes;
use crate::web::{Client, Reach};

/// A client of web servers.
pub(super) struct Server(Client);

impl Server {
    pub fn new(access: &WebAccess) -> Result<Self, FetchProblem> {
        Ok(Self(Client::new(access.hosts.clone(), Reach::Public, access.stall)?))
    }

    pub fn file<'a>(&'a self, url: Url, name: &'a str) -> WebFile<'a> {
        WebFile { client: &self.0, url, name }
    }
}

pub(super) struct WebFile<'a> {
    client: &'a Client,
    url: Url,
    name: &'a str,
}

impl Origin for WebFile<'_> {
    fn ask<'a>(&'a self, offset: u64, tag: Option<&'a str>) -> BoxFuture<'a, Result<Answer, FetchProblem>> {
        async move {
            let asked = self.client.get(self.url.clone(), |request| {
                // Sent always, because a range also keeps the answer from being compressed.
                let request = request.header("range", format!("bytes={offset}-")).header("accept-encoding", "identity");
                tag.iter().fold(request, |request, tag| request.header("if-range", *tag))
            });
            let answer = asked.await?;
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
