//! The checks of `[[pools]]`.

use sluicegate_compat::native::{Modality, Workload};

use super::Check;
use crate::catalog::Catalog;
use crate::config::shape;
use crate::config::{Device, Engine, Pool, Script};

/// Of one pool.
const MOST_REPLICAS: u64 = 64;

/// Each is a value of a label of metrics: `pool_id` and `replica_id`.
const MOST_POOLS: usize = 256;
const MOST_REPLICAS_OF_ALL: usize = 1024;

impl Check<'_> {
    /// The pools; their models are checked where there is a catalog.
    pub(super) fn pools(&mut self, pools: &[shape::Pool], catalog: Option<&Catalog>) -> Vec<Pool> {
        self.ensure(!pools.is_empty(), "pools", "at least one pool is needed");
        let mut checked: Vec<Pool> = Vec::with_capacity(pools.len());
        for (index, pool) in pools.iter().enumerate() {
            let pool = self.pool(index, pool, catalog);
            if checked.iter().any(|other| other.id == pool.id) && !pool.id.is_empty() {
                self.refuse(&format!("pools.{index}.id"), format!("another pool already has the id {:?}", pool.id));
            }
            let same_model = checked.iter().find(|other| other.model == pool.model && !pool.model.is_empty());
            let same_kind = same_model
                .is_none_or(|other| std::mem::discriminant(&other.engine) == std::mem::discriminant(&pool.engine));
            let hint = "pools of one model have one engine, because they share its tokenizer";
            self.ensure(same_kind, &format!("pools.{index}.engine"), hint);
            checked.push(pool);
        }
        self.ensure(checked.len() <= MOST_POOLS, "pools", "256 pools at most");
        let replicas: usize = checked.iter().map(|pool| pool.replicas).sum();
        self.ensure(replicas <= MOST_REPLICAS_OF_ALL, "pools", "1024 replicas at most, all pools together");
        checked
    }

    fn pool(&mut self, index: usize, pool: &shape::Pool, catalog: Option<&Catalog>) -> Pool {
        let key = |name: &str| format!("pools.{index}.{name}");
        let floor = pool.queue.batch_floor;
        self.ensure((0.0..1.0).contains(&floor), &key("queue.batch_floor"), "0 to below 1");
        Pool {
            id: self.pool_id(index, pool.id.as_deref()),
            model: self.pool_model(&key("model"), &pool.model, catalog),
            engine: self.engine(index, pool),
            device: self.device(&key("device"), &pool.device),
            slots: (self.count(&key("slots"), pool.slots.into(), 0, 4096) > 0).then_some(pool.slots),
            on_demand: pool.on_demand,
            replicas: self.count(&key("replicas"), pool.replicas.into(), 1, MOST_REPLICAS),
            queue_capacity: self.count(&key("queue.capacity"), pool.queue.capacity, 1, 1_000_000),
            queue_policy: pool.queue.policy,
            batch_floor: floor,
            watchdog_wall: self.ms(&key("watchdog.wall_ms"), pool.watchdog.wall_ms, 1),
            watchdog_idle: self.ms(&key("watchdog.idle_ms"), pool.watchdog.idle_ms, 1),
            watchdog_load: self.ms(&key("watchdog.load_ms"), pool.watchdog.load_ms, 1),
        }
    }

    /// It becomes a label of metrics, and part of the ids of replicas.
    fn pool_id(&mut self, index: usize, id: Option<&str>) -> String {
        let Some(id) = id else {
            self.refuse(&format!("pools.{index}.id"), "each pool after the first needs an `id`");
            return String::new();
        };
        let plain = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        let sound = (1..=64).contains(&id.len()) && plain;
        self.ensure(sound, &format!("pools.{index}.id"), "1 to 64 letters, digits and . _ -");
        id.to_owned()
    }

    fn pool_model(&mut self, key: &str, model: &str, catalog: Option<&Catalog>) -> String {
        match catalog.map(|catalog| catalog.resolve(model)) {
            Some(Ok(entry)) => entry.id.clone(),
            Some(Err(unknown)) => {
                self.refuse(key, format!("{unknown}; its place is [[catalog.models]]"));
                String::new()
            }
            None => String::new(),
        }
    }

    fn engine(&mut self, index: usize, pool: &shape::Pool) -> Engine {
        let key = |name: &str| format!("pools.{index}.{name}");
        let fixed = pool.on_demand && pool.engine == shape::Engine::Remote;
        self.ensure(!fixed, &key("on_demand"), "a pool with a remote engine has the model that its server has");
        let stray = pool.remote.is_some() && pool.engine != shape::Engine::Remote;
        self.ensure(!stray, &key("remote"), "goes with engine = \"remote\"");
        match pool.engine {
            shape::Engine::Mistralrs => Engine::Mistralrs,
            shape::Engine::Scripted => Engine::Scripted(self.script(&key("scripted"), &pool.scripted)),
            shape::Engine::Remote => Engine::Remote(self.remote(&key("remote"), pool.remote.as_ref())),
        }
    }

    fn script(&mut self, key: &str, script: &shape::Scripted) -> Script {
        let spoken = script.tokens.iter().any(|token| !token.is_empty());
        self.ensure(spoken, &format!("{key}.tokens"), "at least one token with text is needed");
        Script {
            first_token: self.ms(&format!("{key}.first_token_ms"), script.first_token_ms, 0),
            token: self.ms(&format!("{key}.token_ms"), script.token_ms, 0),
            tokens: script.tokens.clone(),
            repeat: script.repeat,
            fail_after: (script.fail_after > 0).then_some(script.fail_after),
            workloads: self.workloads(&format!("{key}.workloads"), &script.workloads),
            modalities: self.modalities(&format!("{key}.modalities"), &script.modalities),
        }
    }

    pub(super) fn workloads(&mut self, key: &str, workloads: &[shape::Workload]) -> Vec<Workload> {
        let once = workloads.iter().enumerate().all(|(at, workload)| !workloads[..at].contains(workload));
        let sound = once && !workloads.is_empty();
        self.ensure(sound, key, "at least one of \"completion\", \"embedding\", \"rerank\", each once");
        let native = |workload: &shape::Workload| match workload {
            shape::Workload::Completion => Workload::Completion,
            shape::Workload::Embedding => Workload::Embedding,
            shape::Workload::Rerank => Workload::Rerank,
        };
        workloads.iter().map(native).collect()
    }

    pub(super) fn modalities(&mut self, key: &str, modalities: &[shape::Modality]) -> Vec<Modality> {
        let once = modalities.iter().enumerate().all(|(at, modality)| !modalities[..at].contains(modality));
        let sound = once && modalities.contains(&shape::Modality::Text);
        self.ensure(sound, key, "\"text\", and what there is beside it of \"image\" and \"audio\", each once");
        let native = |modality: &shape::Modality| match modality {
            shape::Modality::Text => Modality::Text,
            shape::Modality::Image => Modality::Image,
            shape::Modality::Audio => Modality::Audio,
        };
        modalities.iter().map(native).collect()
    }

    fn device(&mut self, key: &str, device: &str) -> Device {
        let cuda = device.strip_prefix("cuda:").and_then(|index| index.parse().ok());
        match (device, cuda) {
            ("auto", _) => Device::Auto,
            ("cpu", _) => Device::Cpu,
            (_, Some(index)) => Device::Cuda(index),
            _ => {
                self.refuse(key, "one of \"auto\", \"cpu\", \"cuda:0\"");
                Device::Auto
            }
        }
    }
}
