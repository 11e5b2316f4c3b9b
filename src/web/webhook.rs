//! Telling a server of events, as standardwebhooks.com has it: each has an id, a time, and a signature of both and the body, with
//! which the receiver knows who sent it, and that it has had it before. An event that nobody takes is tried again a few times.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac as _};
use reqwest::{StatusCode, Url};
use sha2::Sha256;
use uuid::Uuid;

use super::Problem;
use crate::causes::causes;
use crate::clock::unix_ms;

/// How long the receiver may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// How long is waited before each further try.
const AGAIN_AFTER: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(30), Duration::from_secs(120)];

/// Who is told.
#[derive(Clone)]
pub struct Webhook {
    url: Url,
    /// With the key of the signatures.
    mac: Hmac<Sha256>,
}

impl fmt::Debug for Webhook {
    /// Without the secret, and what is secret of the address.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook").field("host", &self.url.host_str()).finish_non_exhaustive()
    }
}

impl Webhook {
    /// At an address with http or https and without user or password; `None` where it is none.
    pub fn new(url: &str, secret: &[u8]) -> Option<Self> {
        let url = Url::parse(url).ok()?;
        let plain = url.username().is_empty() && url.password().is_none() && url.host_str().is_some();
        let mac = Hmac::new_from_slice(secret).ok()?;
        (plain && matches!(url.scheme(), "http" | "https")).then_some(Self { url, mac })
    }

    /// Of the id, the time and the body.
    fn signature(&self, id: &str, time: u64, body: &str) -> String {
        let mut mac = self.mac.clone();
        mac.update(format!("{id}.{time}.{body}").as_bytes());
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

/// An event was told to nobody, and that was logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotDelivered;

/// Brings events to who is told.
#[derive(Debug)]
pub struct WebhookClient {
    client: reqwest::Client,
    to: Webhook,
}

impl WebhookClient {
    /// # Errors
    ///
    /// [`Problem::Unreachable`] where this machine lets nobody have a client.
    pub fn new(to: Webhook) -> Result<Self, Problem> {
        let client = reqwest::Client::builder()
            // What is told is for nobody else.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(DEADLINE)
            .user_agent(concat!("sluicegate/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| Problem::Unreachable(causes(&error)))?;
        Ok(Self { client, to })
    }

    /// Tells of an event, a JSON text, and tries it again for some minutes.
    ///
    /// # Errors
    ///
    /// [`NotDelivered`].
    pub async fn deliver(&self, body: &str) -> Result<(), NotDelivered> {
        let id = format!("msg_{}", Uuid::now_v7());
        let mut waits = AGAIN_AFTER.iter();
        loop {
            let failed = match self.send(&id, body).await {
                Ok(status) if status.is_success() => return Ok(()),
                Ok(status) => status.to_string(),
                Err(error) => causes(&error.without_url()),
            };
            let Some(wait) = waits.next() else {
                tracing::error!(error = failed, event_id = id, "an event is told to nobody");
                return Err(NotDelivered);
            };
            tracing::warn!(error = failed, event_id = id, again_in_s = wait.as_secs(), "an event was not taken");
            tokio::time::sleep(*wait).await;
        }
    }

    async fn send(&self, id: &str, body: &str) -> Result<StatusCode, reqwest::Error> {
        let time = unix_ms() / 1000;
        let request = self
            .client
            .post(self.to.url.clone())
            .header("content-type", "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", time)
            .header("webhook-signature", self.to.signature(id, time, body));
        request.body(body.to_owned()).send().await.map(|response| response.status())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_signed_as_the_standard_has_it() {
        // The example of the reference implementations.
        let secret = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let webhook = Webhook::new("https://example.com/hook", &secret).unwrap();
        let signed = webhook.signature("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, r#"{"test": 2432232314}"#);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        assert!(!format!("{webhook:?}").contains("hook\""));
    }

    #[test]
    fn an_address_with_a_password_or_of_another_protocol_is_none() {
        for wrong in ["ftp://example.com", "https://user:secret@example.com/", "example.com", "file:///etc/passwd"] {
            assert!(Webhook::new(wrong, &[]).is_none(), "{wrong}");
        }
    }
}
