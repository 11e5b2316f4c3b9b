//! Who is told of budgets.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{Check, shape};
use crate::web::Webhook;

const URL: &str = "budgets.webhook_url";
const SECRET: &str = "budgets.webhook_secret_env";

impl Check<'_> {
    pub(super) fn webhook(&mut self, budgets: &shape::Budgets) -> Option<Webhook> {
        let secret = budgets.webhook_secret_env.as_deref().and_then(|name| self.secret(name));
        let url = budgets.webhook_url.as_deref()?;
        let sound = Webhook::new(url, secret.as_deref().unwrap_or_default());
        let message = "an address such as https://ops.example.com/sluicegate, without user or password";
        self.ensure(sound.is_some(), URL, message);
        self.ensure(
            budgets.webhook_secret_env.is_some(),
            SECRET,
            "an event is signed: name the variable with the secret",
        );
        sound.filter(|_| secret.is_some())
    }

    /// The secret in an environment variable.
    fn secret(&mut self, name: &str) -> Option<Vec<u8>> {
        let secret = self.layers.variable(name);
        let bytes = secret.and_then(|secret| STANDARD.decode(secret.strip_prefix("whsec_")?).ok());
        let bytes = bytes.filter(|bytes| (24..=64).contains(&bytes.len()));
        let message = match secret {
            None => format!("there is no environment variable {name}"),
            Some(_) => {
                format!("what the environment variable {name} holds is not `whsec_` and 24 to 64 bytes in base64")
            }
        };
        self.ensure(bytes.is_some(), SECRET, &message);
        bytes
    }
}
