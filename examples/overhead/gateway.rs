//! The engine, and a gateway over that very engine on a socket of this process.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use sluicegate::app::App;
use sluicegate::catalog::LiveCatalog;
use sluicegate::config::{Config, Overrides, Pool};
use sluicegate::engine::mistral::{Device, LoadSpec, MistralEngine, ModelFiles};
use sluicegate::engine::{Engine, LoadError, LoadPermit, Loader, Room};
use sluicegate::lifecycle::Lifecycle;

use crate::Failure;
use crate::listen::listen;

/// Loads the built-in model on the CPU, for so many sequences at once.
pub async fn load(slots: u32) -> Result<Arc<dyn Engine>, Failure> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/builtin-model/model");
    let spec = LoadSpec {
        model: ModelFiles::Folder(folder),
        digest: "sha256:00".into(),
        device: Device::Cpu,
        slots: Some(slots),
        gpu_memory_share: 0.9,
        quantization: None,
        context_length: None,
    };
    Ok(Arc::new(MistralEngine::load(spec).await?))
}

/// "Loads" the engine that is loaded.
struct Shared(Arc<dyn Engine>);

impl Loader for Shared {
    fn load<'a>(&'a self, _: &'a LoadPermit) -> BoxFuture<'a, Result<Arc<dyn Engine>, LoadError>> {
        let engine = Arc::clone(&self.0);
        async { Ok(engine) }.boxed()
    }

    fn verify(&self, _: usize) -> BoxFuture<'_, Result<Room, LoadError>> {
        async { Ok(Room::Beside) }.boxed()
    }

    fn of_model(&self, _: &str) -> Result<Arc<dyn Loader>, LoadError> {
        Ok(Arc::new(Self(Arc::clone(&self.0))))
    }
}

/// Starts a gateway with the default configuration over `engine`, and returns where it listens.
pub async fn serve(engine: Arc<dyn Engine>) -> Result<SocketAddr, Failure> {
    let lifecycle = Lifecycle::new();
    let loader = |_: &Pool, _: &Arc<LiveCatalog>| -> Arc<dyn Loader> { Arc::new(Shared(Arc::clone(&engine))) };
    let app = App::build_with(&config(&[])?, &lifecycle, loader).await?;
    listen(&app, &lifecycle).await
}

/// Starts a gateway with these settings, with the engines that they name.
pub async fn serve_configured(settings: &[(&str, String)]) -> Result<SocketAddr, Failure> {
    let lifecycle = Lifecycle::new();
    let app = App::build(&config(settings)?, &lifecycle).await?;
    listen(&app, &lifecycle).await
}

fn config(settings: &[(&str, String)]) -> Result<Config, Failure> {
    let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
    // Not the folder of a gateway that may be running.
    let store = [("SLUICEGATE_STORE__URL".to_owned(), "sqlite::memory:".to_owned())];
    let settings = BTreeMap::from_iter(store.into_iter().chain(settings));
    Ok(Config::load(None, settings.into_iter(), Overrides::default())?)
}
