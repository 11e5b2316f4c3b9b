//! From a pool's configuration to its engine.

use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt as _};
use sluicegate_compat::native::{EngineName, Quantization};
use tokio::sync::OnceCell;

use crate::catalog::verify::differ;
use crate::catalog::{LiveCatalog, ModelFiles, ModelPath, Storage, TerminalProgress, prepare};
use crate::config::{self, Config};
use crate::engine::mistral::{Device, LoadSpec, MistralEngine, ModelFiles as EngineFiles};
use crate::engine::remote::{Place, RemoteEngine, RemoteSpec};
use crate::engine::scripted::{Failure, FailureKind, Script, ScriptedEngine};
use crate::engine::{Engine, LoadError, LoadPermit, Loader, Room};
use crate::gateway::Configured;
use crate::ids::{ModelId, PoolId};
use crate::lifecycle::Lifecycle;

mod memory;
mod turns;

pub(super) use turns::Turns;

/// The most sequences that the scripted engine runs at once where the configuration says nothing.
const SCRIPTED_SLOTS: u32 = 8;

/// The most sequences that a remote engine is given at once where the configuration says nothing.
const REMOTE_SLOTS: u32 = 32;

pub(super) const fn engine_name(engine: &config::Engine) -> EngineName {
    match engine {
        config::Engine::Mistralrs => EngineName::Mistralrs,
        config::Engine::Scripted(_) => EngineName::Scripted,
        config::Engine::Remote(remote) => match remote.engine {
            config::RemoteEngine::Remote => EngineName::Remote,
            config::RemoteEngine::LlamaCpp => EngineName::LlamaCpp,
            config::RemoteEngine::Vllm => EngineName::Vllm,
            config::RemoteEngine::Tgi => EngineName::Tgi,
            config::RemoteEngine::Triton => EngineName::Triton,
        },
    }
}

/// A pool as the configuration has it.
pub(super) fn configured(pool: &config::Pool) -> Configured {
    Configured {
        id: PoolId::from(pool.id.as_str()),
        model: ModelId::from(pool.model.as_str()),
        engine: engine_name(&pool.engine),
    }
}

/// What loads the engine of `pool`, now and whenever it has to be rebuilt. Its model is looked up in `catalog` by name.
pub(super) fn loader(
    pool: &config::Pool,
    config: &Config,
    lifecycle: &Lifecycle,
    catalog: &Arc<LiveCatalog>,
    turns: &Arc<Turns>,
) -> Arc<dyn Loader> {
    match &pool.engine {
        config::Engine::Scripted(script) => Arc::new(Scripted(scripted(script, pool.slots))),
        config::Engine::Remote(remote) => Arc::new(Remote {
            spec: RemoteSpec {
                engine: engine_name(&pool.engine),
                base_url: remote.base_url.clone(),
                api_key: remote.api_key.clone(),
                model: remote.model.clone(),
                tokenizer: remote.tokenizer.clone(),
                context_length: remote.context_length,
                slots: pool.slots.unwrap_or(REMOTE_SLOTS),
                workloads: remote.workloads.clone(),
                modalities: remote.modalities.clone(),
                media_tokens: remote.media_tokens,
                limits: remote.limits,
            },
            lifecycle: lifecycle.clone(),
        }),
        config::Engine::Mistralrs => Arc::new(Mistral {
            catalog: Arc::clone(catalog),
            model: pool.model.clone(),
            storage: config.storage(),
            devices: pool.devices.clone(),
            gpu_memory_share: pool.gpu_memory_share,
            slots: pool.slots,
            lifecycle: lifecycle.clone(),
            found: Arc::default(),
            turns: Arc::clone(turns),
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
        workloads: script.workloads.clone(),
        modalities: script.modalities.clone(),
        ..Script::default()
    }
}

struct Scripted(Script);

impl Loader for Scripted {
    fn load<'a>(&'a self, _: &'a LoadPermit) -> BoxFuture<'a, Result<Arc<dyn Engine>, LoadError>> {
        async { Ok(Arc::new(ScriptedEngine::new(self.0.clone())) as Arc<dyn Engine>) }.boxed()
    }

    /// Its words are in the configuration: there are no files.
    fn verify(&self, _: usize) -> BoxFuture<'_, Result<Room, LoadError>> {
        async { Ok(Room::Beside) }.boxed()
    }

    fn of_model(&self, _: &str) -> Result<Arc<dyn Loader>, LoadError> {
        Ok(Arc::new(Self(self.0.clone())))
    }
}

struct Remote {
    spec: RemoteSpec,
    lifecycle: Lifecycle,
}

impl Loader for Remote {
    fn load<'a>(&'a self, _: &'a LoadPermit) -> BoxFuture<'a, Result<Arc<dyn Engine>, LoadError>> {
        async {
            let spec = self.spec.clone();
            let made = self.lifecycle.blocking("read tokenizer", move || RemoteEngine::new(spec)).await;
            let engine = made.map_err(|panicked| LoadError(panicked.to_string()))??;
            Ok(Arc::new(engine) as Arc<dyn Engine>)
        }
        .boxed()
    }

    /// Its files are the server's.
    fn verify(&self, _: usize) -> BoxFuture<'_, Result<Room, LoadError>> {
        async { Ok(Room::Beside) }.boxed()
    }

    fn of_model(&self, _: &str) -> Result<Arc<dyn Loader>, LoadError> {
        Err(LoadError("a pool with a remote engine has the model that its server has".into()))
    }

    fn at(&self, place: &Place) -> Option<Arc<dyn Loader>> {
        Some(Arc::new(Self { spec: self.spec.at(place), lifecycle: self.lifecycle.clone() }))
    }
}

#[derive(Clone)]
struct Mistral {
    catalog: Arc<LiveCatalog>,
    /// Its name there.
    model: String,
    storage: Storage,
    /// Of the replicas, in turn.
    devices: Vec<config::Device>,
    gpu_memory_share: f32,
    slots: Option<u32>,
    lifecycle: Lifecycle,
    /// Once for all replicas: an engine that is rebuilt serves the very files that were served before.
    found: Arc<OnceCell<Found>>,
    turns: Arc<Turns>,
}

/// What the catalog has said of the model.
struct Found {
    files: ModelFiles,
    quantization: Option<Quantization>,
}

impl Mistral {
    async fn load_model(&self) -> Result<Arc<dyn Engine>, LoadError> {
        let found = self.found.get_or_try_init(|| self.find()).await?;
        Ok(Arc::new(MistralEngine::load(self.spec(found)).await?))
    }

    fn device(&self) -> config::Device {
        self.devices.first().copied().unwrap_or(config::Device::Auto)
    }

    fn spec(&self, Found { files, quantization }: &Found) -> LoadSpec {
        LoadSpec {
            model: match files.path.clone() {
                ModelPath::Folder(folder) => EngineFiles::Folder(folder),
                ModelPath::Gguf(file) => EngineFiles::Gguf(file),
            },
            digest: files.digest.clone(),
            device: match self.device() {
                config::Device::Auto => Device::Auto,
                config::Device::Cpu => Device::Cpu,
                config::Device::Cuda(number) => Device::Cuda(number as usize),
            },
            slots: self.slots,
            gpu_memory_share: self.gpu_memory_share,
            quantization: *quantization,
            context_length: None,
        }
    }

    async fn find(&self) -> Result<Found, LoadError> {
        let model = self.catalog.resolve(&self.model).map_err(|unknown| LoadError(unknown.to_string()))?;
        let progress = Arc::new(TerminalProgress::new());
        let prepared = prepare(&model.entry, &self.storage, progress, &self.lifecycle).await;
        let files = prepared.map_err(|error| LoadError(error.to_string()))?;
        if let Some(why) = differ(&model.facts.files, &files.files).and_then(|finding| finding.words()) {
            let id = &model.entry.id;
            return Err(LoadError(format!("model {id}: {why} since it was loaded or verified last")));
        }
        self.catalog.loaded(&model.entry.id, &files);
        Ok(Found { files, quantization: model.entry.quantization })
    }
}

impl Loader for Mistral {
    fn ready(&self) -> BoxFuture<'_, Result<LoadPermit, LoadError>> {
        async {
            self.found.get_or_try_init(|| self.find()).await?;
            Ok(self.turns.take(self.device()).await)
        }
        .boxed()
    }

    fn load<'a>(&'a self, _: &'a LoadPermit) -> BoxFuture<'a, Result<Arc<dyn Engine>, LoadError>> {
        self.load_model().boxed()
    }

    fn verify(&self, engines: usize) -> BoxFuture<'_, Result<Room, LoadError>> {
        async move {
            let found = self.found.get_or_try_init(|| self.find()).await?;
            let fits = memory::fits_beside(&self.spec(found), found.files.size, engines);
            Ok(if fits { Room::Beside } else { Room::Instead })
        }
        .boxed()
    }

    fn of_model(&self, model: &str) -> Result<Arc<dyn Loader>, LoadError> {
        Ok(Arc::new(Self { model: model.to_owned(), found: Arc::default(), ..self.clone() }))
    }

    fn for_replica(&self, number: usize) -> Option<Arc<dyn Loader>> {
        let several = self.devices.len() > 1;
        several.then(|| {
            let device = self.devices[number % self.devices.len()];
            Arc::new(Self { devices: vec![device], ..self.clone() }) as Arc<dyn Loader>
        })
    }
}
