//! From a pool's configuration to its engine.

use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt as _};
use sluicegate_compat::native::EngineName;

use crate::catalog::{Entry, ModelPath, Storage, TerminalProgress, prepare};
use crate::config::{self, Config};
use crate::engine::mistral::{Device, LoadSpec, MistralEngine, ModelFiles};
use crate::engine::scripted::{Failure, FailureKind, Script, ScriptedEngine};
use crate::engine::{Engine, LoadError, Loader};
use crate::lifecycle::Lifecycle;

/// The most sequences that the scripted engine runs at once where the configuration says nothing.
const SCRIPTED_SLOTS: u32 = 8;

pub(super) const fn engine_name(engine: &config::Engine) -> EngineName {
    match engine {
        config::Engine::Mistralrs => EngineName::Mistralrs,
        config::Engine::Scripted(_) => EngineName::Scripted,
    }
}

/// What loads the engine of `pool`, now and whenever it has to be rebuilt.
pub(super) fn loader(pool: &config::Pool, config: &Config, lifecycle: &Lifecycle) -> Arc<dyn Loader> {
    match &pool.engine {
        config::Engine::Scripted(script) => Arc::new(Scripted(scripted(script, pool.slots))),
        config::Engine::Mistralrs => Arc::new(Mistral {
            // The configuration's check has found the pool's model in the catalog.
            entry: config.catalog.resolve(&pool.model).ok().cloned(),
            model: pool.model.clone(),
            storage: Storage { data_dir: config.data_dir.clone(), hub: config.hub.clone() },
            device: pool.device,
            slots: pool.slots,
            lifecycle: lifecycle.clone(),
        }),
    }
}

fn scripted(script: &config::Script, slots: Option<u32>) -> Script {
    Script {
        first_token: script.first_token,
        token: script.token,
        tokens: script.tokens.clone(),
        repeat: script.repeat,
        failure: script.fail_after.map(|after| Failure { after, kind: FailureKind::Reset, times: u32::MAX }),
        slots: slots.unwrap_or(SCRIPTED_SLOTS),
        ..Script::default()
    }
}

struct Scripted(Script);

impl Loader for Scripted {
    fn load(&self) -> BoxFuture<'_, Result<Arc<dyn Engine>, LoadError>> {
        async { Ok(Arc::new(ScriptedEngine::new(self.0.clone())) as Arc<dyn Engine>) }.boxed()
    }
}

struct Mistral {
    entry: Option<Entry>,
    model: String,
    storage: Storage,
    device: config::Device,
    slots: Option<u32>,
    lifecycle: Lifecycle,
}

impl Mistral {
    async fn load_model(&self) -> Result<Arc<dyn Engine>, LoadError> {
        let unknown = || LoadError(format!("no model is called {:?}", self.model));
        let entry = self.entry.as_ref().ok_or_else(unknown)?;
        let progress = Arc::new(TerminalProgress::new());
        let prepared = prepare(entry, &self.storage, progress, &self.lifecycle).await;
        let files = prepared.map_err(|error| LoadError(error.to_string()))?;
        let spec = LoadSpec {
            model: match files.path.clone() {
                ModelPath::Folder(folder) => ModelFiles::Folder(folder),
                ModelPath::Gguf(file) => ModelFiles::Gguf(file),
            },
            digest: files.digest.clone(),
            device: match self.device {
                config::Device::Auto => Device::Auto,
                config::Device::Cpu => Device::Cpu,
                config::Device::Cuda(index) => Device::Cuda(index as usize),
            },
            slots: self.slots,
            context_length: None,
        };
        Ok(Arc::new(MistralEngine::load(spec).await?))
    }
}

impl Loader for Mistral {
    fn load(&self) -> BoxFuture<'_, Result<Arc<dyn Engine>, LoadError>> {
        self.load_model().boxed()
    }
}
