//! The checks of `[[pools]]`.

use std::collections::BTreeSet;

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

/// Part of a GPU's memory that is shared out where nobody says how, and the most that may be said; the rest is for what engines
/// compute with.
const GPU_MEMORY: f64 = 0.9;
const MOST_GPU_MEMORY: f64 = 0.95;

/// No pool is left with less of it.
const LEAST_GPU_MEMORY: f64 = 0.01;

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
        self.share_gpus(pools, &mut checked);
        let replicas: usize = checked.iter().map(|pool| pool.replicas).sum();
        self.ensure(replicas <= MOST_REPLICAS_OF_ALL, "pools", "1024 replicas at most, all pools together");
        checked
    }

    fn pool(&mut self, index: usize, pool: &shape::Pool, catalog: Option<&Catalog>) -> Pool {
        let key = |name: &str| format!("pools.{index}.{name}");
        let floor = pool.queue.batch_floor;
        self.ensure((0.0..1.0).contains(&floor), &key("queue.batch_floor"), "0 to below 1");
        let devices = self.devices(&key("device"), &pool.device.0);
        let each = self.count(&key("replicas"), pool.replicas.into(), 1, MOST_REPLICAS);
        let share = pool.gpu_memory_share;
        self.ensure((0.0..=MOST_GPU_MEMORY).contains(&share), &key("gpu_memory_share"), "0 to 0.95");
        Pool {
            id: self.pool_id(index, pool.id.as_deref()),
            model: self.pool_model(&key("model"), &pool.model, catalog),
            engine: self.engine(index, pool),
            replicas: each.saturating_mul(devices.len()),
            devices,
            gpu_memory_share: share as f32,
            slots: (self.count(&key("slots"), pool.slots.into(), 0, 4096) > 0).then_some(pool.slots),
            on_demand: pool.on_demand,
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

    fn devices(&mut self, key: &str, written: &[String]) -> Vec<Device> {
        let devices: Vec<Option<Device>> = written.iter().map(|device| parse_device(device)).collect();
        if let [Some(device)] = devices[..] {
            return vec![device];
        }
        let gpus: Vec<Device> = devices.iter().flatten().copied().collect();
        let once = gpus.iter().enumerate().all(|(at, gpu)| !gpus[..at].contains(gpu));
        let all = gpus.len() == written.len() && gpus.iter().all(|gpu| matches!(gpu, Device::Cuda(_)));
        if all && once && !gpus.is_empty() {
            return gpus;
        }
        self.refuse(key, "one of \"auto\", \"cpu\", \"cuda:0\", or a list of GPUs, each once");
        vec![Device::Auto]
    }

    /// Plans the memory of each GPU: who says no share has an equal part of what is left.
    fn share_gpus(&mut self, shapes: &[shape::Pool], pools: &mut [Pool]) {
        let here = |pool: &Pool| pool.engine == Engine::Mistralrs;
        let gpus: BTreeSet<u32> =
            pools.iter().filter(|pool| here(pool)).flat_map(|pool| pool.devices.iter().filter_map(gpu)).collect();
        let mut plans = vec![1.0_f64; pools.len()];
        for number in gpus {
            let on_it = |pool: &Pool| here(pool) && pool.devices.iter().filter_map(gpu).any(|its| its == number);
            let all: Vec<usize> = (0..pools.len()).filter(|at| on_it(&pools[*at])).collect();
            let replicas = |at: &usize| f64::from(shapes[*at].replicas);
            let (stated, open): (Vec<usize>, Vec<usize>) =
                all.iter().partition(|at| shapes[**at].gpu_memory_share > 0.0);
            let taken: f64 = stated.iter().map(|at| shapes[*at].gpu_memory_share * replicas(at)).sum();
            let left = GPU_MEMORY - taken;
            if taken > MOST_GPU_MEMORY + f64::EPSILON {
                let at = stated.last().copied().unwrap_or(0);
                let percent = (taken * 100.0).round();
                let why =
                    format!("the replicas on cuda:{number} have {percent} % of its memory together; 95 % at most");
                self.refuse(&format!("pools.{at}.gpu_memory_share"), why);
            } else if let Some(at) = open.first().filter(|_| left < LEAST_GPU_MEMORY) {
                let why = format!("other pools leave it nothing of the memory of cuda:{number}: say how much it has");
                self.refuse(&format!("pools.{at}.gpu_memory_share"), why);
            }
            let each = left / open.iter().map(replicas).sum::<f64>().max(1.0);
            open.iter().for_each(|at| plans[*at] = plans[*at].min(each));
        }
        for ((pool, shape), plan) in pools.iter_mut().zip(shapes).zip(plans) {
            if shape.gpu_memory_share <= 0.0 {
                pool.gpu_memory_share = plan as f32;
            }
        }
    }
}

fn parse_device(device: &str) -> Option<Device> {
    match device {
        "auto" => Some(Device::Auto),
        "cpu" => Some(Device::Cpu),
        _ => device.strip_prefix("cuda:")?.parse().ok().map(Device::Cuda),
    }
}

/// The GPU that a device is, or may be.
fn gpu(device: &Device) -> Option<u32> {
    match device {
        Device::Auto => Some(0),
        Device::Cpu => None,
        Device::Cuda(number) => Some(*number),
    }
}
