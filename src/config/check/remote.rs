//! The checks of a pool's `remote` table.

use std::path::PathBuf;

use sluicegate_compat::native::{Modality, Workload};

use super::Check;
use crate::config::{Remote, RemoteEngine, shape};
use crate::engine::remote::{Limits, Secret, base_url};

/// Tokens of context where the configuration says nothing.
const CONTEXT: u32 = 8192;

/// As how many tokens an image or a recording counts where the configuration says nothing.
const MEDIA_TOKENS: u32 = 2048;

/// In ms, where the configuration says nothing.
const CONNECT_MS: u64 = 5_000;
const FIRST_BYTE_MS: u64 = 60_000;
const IDLE_MS: u64 = 60_000;

impl Check<'_> {
    /// The server that a pool hands its tasks to.
    pub(super) fn remote(&mut self, key: &str, remote: Option<&shape::Remote>) -> Remote {
        if remote.is_none() {
            self.refuse(key, "engine = \"remote\" needs remote = { base_url = \"http://…/v1\", model = \"…\" }");
        }
        let (given, none) = (remote.is_some(), shape::Remote::default());
        let remote = remote.unwrap_or(&none);
        let at = |name: &str| format!("{key}.{name}");
        let context_length = remote.context_length.unwrap_or(CONTEXT);
        self.ensure(context_length > 1, &at("context_length"), "at least 2 tokens");
        let named = remote.model.as_ref().is_some_and(|model| !model.is_empty());
        self.ensure(named || !given, &at("model"), "the model's name on that server is needed");
        let media_tokens = remote.media_tokens.unwrap_or(MEDIA_TOKENS);
        self.ensure(media_tokens > 0, &at("media_tokens"), "at least 1 token");
        Remote {
            base_url: if given { self.base_url(&at("base_url"), remote.base_url.as_deref()) } else { String::new() },
            api_key: self.api_key(&at("api_key_env"), remote.api_key_env.as_deref()),
            model: remote.model.clone().unwrap_or_default(),
            tokenizer: self.tokenizer(&at("tokenizer"), remote.tokenizer.as_deref()),
            engine: remote.engine.unwrap_or(RemoteEngine::Remote),
            context_length,
            workloads: match &remote.workloads {
                None => vec![Workload::Completion],
                Some(workloads) => self.workloads(&at("workloads"), workloads),
            },
            modalities: match &remote.modalities {
                None => vec![Modality::Text],
                Some(modalities) => self.modalities(&at("modalities"), modalities),
            },
            media_tokens,
            limits: Limits {
                connect: self.ms(&at("connect_ms"), remote.connect_ms.unwrap_or(CONNECT_MS), 1),
                first_byte: self.ms(&at("first_byte_ms"), remote.first_byte_ms.unwrap_or(FIRST_BYTE_MS), 1),
                idle: self.ms(&at("idle_ms"), remote.idle_ms.unwrap_or(IDLE_MS), 1),
            },
        }
    }

    fn base_url(&mut self, key: &str, url: Option<&str>) -> String {
        let sound = base_url(url.unwrap_or_default());
        self.ensure(sound.is_some(), key, "an address such as http://127.0.0.1:9000/v1, without user or password");
        sound.unwrap_or_default()
    }

    /// The key itself; only the variable's name is in the configuration.
    fn api_key(&mut self, key: &str, variable: Option<&str>) -> Option<Secret> {
        let variable = variable?;
        let value = self.layers.variable(variable).filter(|value| !value.is_empty()).map(str::to_owned);
        let Some(value) = value else {
            self.refuse(key, format!("the environment has no variable {variable:?}"));
            return None;
        };
        let visible = value.bytes().all(|byte| byte.is_ascii_graphic());
        self.ensure(visible, key, "the variable holds something else than visible ASCII without spaces");
        Some(Secret(value))
    }

    fn tokenizer(&mut self, key: &str, tokenizer: Option<&str>) -> Option<PathBuf> {
        let path = PathBuf::from(tokenizer?.strip_prefix("file:").unwrap_or(tokenizer?));
        self.ensure(path.is_absolute(), key, "file: and the absolute path of a tokenizer.json");
        Some(path)
    }
}
