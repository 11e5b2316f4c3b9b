//! A whole gateway over a scripted engine, for the benches that need one.

use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use sluicegate::app::App;
use sluicegate::catalog::LiveCatalog;
use sluicegate::config::{Config, Overrides, Pool};
use sluicegate::engine::scripted::{Script, ScriptedEngine};
use sluicegate::engine::{Engine, LoadError, LoadPermit, Loader, Room};
use sluicegate::lifecycle::Lifecycle;

struct Scripted(Script);

impl Loader for Scripted {
    fn load<'a>(&'a self, _: &'a LoadPermit) -> BoxFuture<'a, Result<Arc<dyn Engine>, LoadError>> {
        async { Ok(Arc::new(ScriptedEngine::new(self.0.clone())) as Arc<dyn Engine>) }.boxed()
    }

    fn verify(&self, _: usize) -> BoxFuture<'_, Result<Room, LoadError>> {
        async { Ok(Room::Beside) }.boxed()
    }

    fn of_model(&self, _: &str) -> Result<Arc<dyn Loader>, LoadError> {
        Ok(Arc::new(Self(self.0.clone())))
    }
}

/// A started gateway with one pool that follows `script`. Call it in a runtime, which it needs for as long as it is used.
pub async fn start(script: Script, settings: &[(&str, &str)]) -> App {
    // Of two settings of one name the last holds.
    let settings = [&[("SLUICEGATE_STORE__URL", "sqlite::memory:")], settings].concat();
    let environment = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let overrides = Overrides { engine: Some("scripted".into()), ..Overrides::default() };
    let config = Config::load(None, environment, overrides).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let loader = |_: &Pool, _: &Arc<LiveCatalog>| -> Arc<dyn Loader> { Arc::new(Scripted(script.clone())) };
    let app = App::build_with(&config, &Lifecycle::new(), loader).await.unwrap_or_else(|error| panic!("{error}"));
    app.start().await.unwrap_or_else(|error| panic!("{error}"));
    app
}
