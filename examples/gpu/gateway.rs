//! A gateway in this process, with the engines that its configuration asks for.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use sluicegate::app::App;
use sluicegate::config::{Config, Overrides};
use sluicegate::engine::{Engine, EngineInfo};
use sluicegate::lifecycle::Lifecycle;
use tokio::runtime::Runtime;

use crate::listen::listen;
use crate::sides::{Direct, OverHttp};
use crate::{Failure, MODEL, Measure};

/// Part of a GPU's memory for all replicas together.
const SHARE: f64 = 0.9;

/// A started gateway with one pool.
pub struct Gateway {
    pub http: OverHttp,
    /// The very engines that it has loaded.
    pub direct: Direct,
    /// From the start until the first task could run: digest, weights, cache, trial.
    pub loaded_in: Duration,
    app: App,
    lifecycle: Lifecycle,
}

impl Gateway {
    /// Loads `replicas` engines of the model in `folder`, one beside the other.
    pub fn start(runtime: &Runtime, folder: &Path, replicas: u32, arguments: &Measure) -> Result<Self, Failure> {
        let folder = folder.canonicalize()?;
        let folder = folder.display();
        let settings = [
            ("CATALOG__MODELS", format!(r#"[{{ id = "{MODEL}", source = "file:{folder}" }}]"#)),
            ("CATALOG__ALLOWED_FILE_ROOTS", format!("[\"{folder}\"]")),
            ("POOLS__0__DEVICE", arguments.device.clone()),
            ("POOLS__0__REPLICAS", replicas.to_string()),
            ("POOLS__0__GPU_MEMORY_SHARE", (SHARE / f64::from(replicas)).to_string()),
            // Not the folder of a gateway that may be running.
            ("STORE__URL", "sqlite::memory:".to_owned()),
        ];
        let settings = settings.into_iter().map(|(name, value)| (format!("SLUICEGATE_{name}"), value));
        let config = Config::load(Some(&arguments.config), settings, Overrides::default())?;
        let began = Instant::now();
        runtime.block_on(async {
            let lifecycle = Lifecycle::new();
            let app = App::build(&config, &lifecycle).await?;
            let address = listen(&app, &lifecycle).await?;
            let loaded_in = began.elapsed();
            let engines: Arc<[Arc<dyn Engine>]> = app.pools.iter().flat_map(|pool| pool.engines()).collect();
            if engines.len() != replicas as usize {
                return Err(format!("{} of {replicas} engines were loaded", engines.len()).into());
            }
            Ok(Self { http: OverHttp::new(address)?, direct: Direct(engines), loaded_in, app, lifecycle })
        })
    }

    pub fn info(&self) -> EngineInfo {
        self.direct.0[0].info().clone()
    }

    /// Sequences at once, all engines together.
    pub fn slots(&self) -> usize {
        self.direct.0.iter().map(|engine| engine.info().slots as usize).sum()
    }

    /// How its pool stands.
    pub async fn health(&self) -> Result<Value, Failure> {
        Ok(self.http.get(&format!("/v2/pools/{MODEL}/health")).send().await?.error_for_status()?.json().await?)
    }

    /// Asks for something to be done with the pool.
    pub async fn operate(&self, act: &str, body: &Value) -> Result<(), Failure> {
        let answer = self.http.post(&format!("/v2/pools/{MODEL}/{act}")).json(body).send().await?;
        if answer.status().is_success() { Ok(()) } else { Err(format!("{act}: {}", answer.text().await?).into()) }
    }

    /// Frees the memory of its engines.
    pub fn stop(self, runtime: &Runtime) {
        self.lifecycle.force();
        runtime.block_on(async {
            for pool in &self.app.pools {
                pool.unload().await;
            }
        });
    }
}
