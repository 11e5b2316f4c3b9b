//! From a pool's configuration to its engine.

use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt as _};
use sluicegate_compat::native::EngineName;
use tokio::sync::OnceCell;

use crate::catalog::{LiveCatalog, ModelFiles, ModelPath, Storage, TerminalProgress, prepare};
use crate::config::{self, Config};
use crate::engine::mistral::{Device, LoadSpec, MistralEngine, ModelFiles as EngineFiles};
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

/// What loads the engine of `pool`, now and whenever it has to be rebuilt. Its model is looked up in `catalog` by name.
pub(super) fn loader(
    pool: &config::Pool,
    config: &Config,
    lifecycle: &Lifecycle,
    catalog: &Arc<LiveCatalog>,
) -> Arc<dyn Loader> {
    match &pool.engine {
        config::Engine::Scripted(script) => Arc::new(Scripted(scripted(script, pool.slots))),
        config::Engine::Mistralrs => Arc::new(Mistral {
            catalog: Arc::clone(catalog),
            model: pool.model.clone(),
            storage: Storage { data_dir: config.data_dir.clone(), hub: config.hub.clone() },
            device: pool.device,
            slots: pool.slots,
            lifecycle: lifecycle.clone(),
            files: OnceCell::new(),
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
    catalog: Arc<LiveCatalog>,
    /// Its name there.
    model: String,
    storage: Storage,
    device: config::Device,
    slots: Option<u32>,
    lifecycle: Lifecycle,
    /// Found once: an engine that is rebuilt serves the very files that were served before.
    files: OnceCell<ModelFiles>,
}

impl Mistral {
    async fn load_model(&self) -> Result<Arc<dyn Engine>, LoadError> {
        let files = self.files.get_or_try_init(|| self.find_files()).await?;
        let spec = LoadSpec {
            model: match files.path.clone() {
                ModelPath::Folder(folder) => EngineFiles::Folder(folder),
                ModelPath::Gguf(file) => EngineFiles::Gguf(file),
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

    async fn find_files(&self) -> Result<ModelFiles, LoadError> {
        let model = self.catalog.resolve(&self.model).map_err(|unknown| LoadError(unknown.to_string()))?;
        let progress = Arc::new(TerminalProgress::new());
        let prepared = prepare(&model.entry, &self.storage, progress, &self.lifecycle).await;
        let files = prepared.map_err(|error| LoadError(error.to_string()))?;
        self.catalog.loaded(&model.entry.id, &files);
        Ok(files)
    }
}

impl Loader for Mistral {
    fn load(&self) -> BoxFuture<'_, Result<Arc<dyn Engine>, LoadError>> {
        self.load_model().boxed()
    }
}
