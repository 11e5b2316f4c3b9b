//! Builds a model on its device and starts its engine.

use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use futures_util::FutureExt as _;
use mistralrs::core::{
    EmbeddingLoaderBuilder, EmbeddingSpecificConfig, GGUFLoaderBuilder, GGUFSpecificConfig, Loader, MemoryUsage,
    MistralRsBuilder, NormalLoaderBuilder, NormalSpecificConfig, Pipeline,
};
use mistralrs::{
    DefaultSchedulerMethod, DeviceMapSetting, IsqType, MemoryGpuConfig, MistralRs, ModelDType, PagedAttentionConfig,
    PagedCacheType, SchedulerConfig, TokenSource,
};
use serde_json::Value;
use sluicegate_compat::native::{EngineName, Modality, Quantization, Workload};
use tokio::runtime::Handle;

use super::check::{self, Embedder, Folder, fault};
use super::defaults;
use super::gpu::Gpu;
use super::lanes::{Lane, Lanes, SharedPipeline};
use super::sight::{self, Sight};
use super::{Device, ENGINE_VERSION, LoadSpec, ModelFiles, first_line};
use crate::engine::text::{ChatTemplate, SAMPLER_PROFILE_VERSION, TextModel};
use crate::engine::{Cache, EngineInfo, Instructions, LoadError, Sampling};
use crate::lifecycle::low_priority;

/// Sequences at once on a GPU at most, where the specification does not say.
const SLOTS_ON_GPU: u32 = 256;

/// The same where its sequences share no cache, and nothing bounds the memory that they take.
const SLOTS_WITHOUT_CACHE: u32 = 32;

/// Tokens of a sequence for which a GPU's cache has room at least in each slot, where the specification does not say.
const TOKENS_OF_SLOT: u64 = 256;

/// On the CPU, where it does not say: at most so many, with so many bytes of weights together.
const SLOTS_ON_CPU: u64 = 8;
const BYTES_ON_CPU: u64 = 256 << 20;

/// Starting the engine tries for a lock that its own new thread may hold at that moment, and panics where it does. The
/// next try finds it free.
const STARTS: usize = 3;

/// A model with its engine running.
pub struct Loaded {
    pub info: EngineInfo,
    pub text: TextModel,
    pub ends: Arc<[u32]>,
    pub lanes: Arc<Lanes>,
    pub grammars: Option<Arc<mistralrs::llguidance::ParserFactory>>,
    pub sight: Option<Sight>,
    pub gpu: Option<Gpu>,
}

/// Loads what `spec` says. Panics of the engine come out as errors.
///
/// The engine's threads, and those that it computes with, are started from here and inherit the lower priority.
pub async fn load(spec: LoadSpec) -> Result<Loaded, LoadError> {
    let runtime = Handle::current();
    let loaded = low_priority("model loader", move || runtime.block_on(load_here(&spec))).await;
    loaded.unwrap_or_else(|panicked| Err(LoadError(panicked.to_string())))
}

async fn load_here(spec: &LoadSpec) -> Result<Loaded, LoadError> {
    let (ModelFiles::Folder(path) | ModelFiles::Gguf(path)) = &spec.model;
    if let (ModelFiles::Gguf(_), Some(quantization)) = (&spec.model, spec.quantization) {
        let why = format!("a GGUF file has its quantization already, and is not turned into {}", quantization.as_str());
        return Err(fault(path, why));
    }
    let (device, device_name) = device(spec.device)?;
    let (mut folder, is_multi_head) = match &spec.model {
        ModelFiles::Folder(path) => {
            let folder = check::folder(path)?;
            let is_multi_head = folder.is_multi_head;
            (Some(folder), is_multi_head)
        }
        ModelFiles::Gguf(path) => (None, check::gguf(path)?),
    };
    let on_cpu = device.is_cpu();
    // It would take such a model's queries and keys for a GPU's.
    if cfg!(feature = "cuda") && on_cpu && is_multi_head {
        let why = "its attention has as many heads for keys as for queries, and a program that was built with CUDA runs such a \
                   model on a GPU only";
        return Err(fault(path, why));
    }
    let slots = spec.slots.unwrap_or_else(|| if on_cpu { slots_on_cpu(path) } else { SLOTS_ON_GPU }).max(1);
    let embedder = folder.as_ref().and_then(|folder| folder.embedder.clone());
    let sight = folder.as_mut().and_then(|folder| folder.sight.take());
    let kind = match (&embedder, &sight) {
        (Some(_), _) => Kind::Embeds,
        (None, Some(_)) => Kind::Sees,
        (None, None) => Kind::Writes,
    };
    // Elsewhere than on the CPU its sequences run one at a time: others would be lost beside those with images.
    let slots = if on_cpu || kind != Kind::Sees { slots } else { 1 };
    let (lanes, places) = match (on_cpu, kind) {
        (true, _) => (slots, 1),
        // Those that have a slot take turns.
        (false, Kind::Embeds | Kind::Sees) => (1, 1),
        (false, Kind::Writes) => (1, slots),
    };
    let build = Build { spec, kind, device: &device, place: &device_name };
    let first = build.start(places).await?;
    let (text, metadata) = {
        let locked = first.pipeline.lock().await;
        (text(path, folder, &*locked)?, locked.get_metadata())
    };
    let mut all = vec![Lane::new(first.runner, &first.pipeline)];
    drop(first.pipeline);
    for _ in 1..lanes {
        let started = build.start(places).await?;
        all.push(Lane::new(started.runner, &started.pipeline));
    }
    let (workloads, dimensions, instructions) = match embedder {
        None => (vec![Workload::Completion], None, Instructions::default()),
        Some(Embedder { dimensions, instructions }) => {
            (vec![Workload::Embedding, Workload::Rerank], Some(dimensions), instructions)
        }
    };
    let cache = metadata.cache_config.as_ref().map(|cache| Cache {
        // One block is never used.
        tokens: (cache.num_gpu_blocks.saturating_sub(1) * cache.block_size) as u64,
        block: u32::try_from(cache.block_size).unwrap_or(u32::MAX),
    });
    // A sequence that the cache cannot hold is never run to its end.
    let room = cache.map_or(u32::MAX, |cache| u32::try_from(cache.tokens).unwrap_or(u32::MAX));
    let context = u32::try_from(metadata.max_seq_len).unwrap_or(u32::MAX).min(room);
    let slots = match cache {
        _ if on_cpu || spec.slots.is_some() => slots,
        Some(cache) => slots.min((cache.tokens / TOKENS_OF_SLOT).clamp(1, slots.into()) as u32),
        None => slots.min(SLOTS_WITHOUT_CACHE),
    };
    if let Some(sight) = &sight {
        sight.check(&text).map_err(|what| fault(path, what))?;
    }
    let info = EngineInfo {
        engine: EngineName::Mistralrs,
        engine_version: ENGINE_VERSION.to_owned(),
        sampler_profile_version: SAMPLER_PROFILE_VERSION.to_owned(),
        model_digest: spec.digest.clone(),
        context_length: spec.context_length.map_or(context, |cap| cap.min(context)),
        slots,
        cache,
        device: device_name,
        quantization: spec.quantization,
        vocab_size: text.vocab_size(),
        sampling: match &spec.model {
            ModelFiles::Folder(folder) => defaults::read(folder)?,
            ModelFiles::Gguf(_) => Sampling::default(),
        },
        unsupported: if text.markup().calls.is_some() { &[] } else { &["tools"] },
        workloads,
        modalities: match sight {
            Some(_) => vec![Modality::Text, Modality::Image],
            None => vec![Modality::Text],
        },
        dimensions,
        instructions,
    };
    let (ends, grammars) = (metadata.eos_tok.as_slice().into(), metadata.llg_factory.clone());
    Ok(Loaded { info, text, ends, lanes: Lanes::new(all, places), grammars, sight, gpu: Gpu::of(&device) })
}

/// How many copies of the model an engine keeps in the machine's memory; `None` where it runs on a GPU.
pub fn copies_on_cpu(spec: &LoadSpec) -> Option<u32> {
    let (ModelFiles::Folder(path) | ModelFiles::Gguf(path)) = &spec.model;
    let on_cpu = device(spec.device).is_ok_and(|(device, _)| device.is_cpu());
    on_cpu.then(|| spec.slots.unwrap_or_else(|| slots_on_cpu(path)).max(1))
}

/// Opens the device; its name is `cpu` or `cuda:N`.
fn device(wanted: Device) -> Result<(mistralrs::Device, String), LoadError> {
    let cuda = |ordinal| {
        if !cfg!(feature = "cuda") {
            let why = "this program was built without CUDA (cargo build --release --features cuda)";
            return Err(LoadError(format!("cuda:{ordinal}: {why}")));
        }
        match mistralrs::Device::new_cuda(ordinal) {
            Ok(device) => Ok((device, format!("cuda:{ordinal}"))),
            Err(error) => Err(LoadError(format!("cuda:{ordinal}: {}", first_line(&error.to_string())))),
        }
    };
    match wanted {
        Device::Cpu => Ok((mistralrs::Device::Cpu, "cpu".into())),
        Device::Cuda(ordinal) => cuda(ordinal),
        Device::Auto => Ok(cuda(0).unwrap_or((mistralrs::Device::Cpu, "cpu".into()))),
    }
}

/// What a model takes and gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Texts.
    Writes,
    /// Texts with images.
    Sees,
    /// Vectors and no text.
    Embeds,
}

/// A model to be built, once for each engine thread.
struct Build<'a> {
    spec: &'a LoadSpec,
    kind: Kind,
    device: &'a mistralrs::Device,
    /// The device's name.
    place: &'a str,
}

impl Build<'_> {
    fn path(&self) -> &Path {
        let (ModelFiles::Folder(path) | ModelFiles::Gguf(path)) = &self.spec.model;
        path
    }

    /// The cache that sequences share; `None` on the CPU, and for what keeps no keys and values.
    fn paged(&self) -> Result<Option<PagedAttentionConfig>, String> {
        if self.device.is_cpu() || self.kind == Kind::Embeds || !mistralrs::paged_attn_supported() {
            return Ok(None);
        }
        let said = |error: &dyn std::fmt::Display| format!("{}: {}", self.place, first_line(&error.to_string()));
        let (total, free) = (MemoryUsage.get_total_memory(self.device), MemoryUsage.get_memory_available(self.device));
        let (total, free) = (total.map_err(|error| said(&error))?, free.map_err(|error| said(&error))?);
        // To the engine, what others hold already is part of what it may use.
        let taken = total.saturating_sub(free) as f32 / total.max(1) as f32;
        let share = self.spec.gpu_memory_share;
        if taken + share > 1.0 {
            let percent = |part: f32| (part * 100.0).round();
            return Err(format!(
                "{}: {} % of its memory are in use, which leaves less than the {} % of gpu_memory_share",
                self.place,
                percent(taken),
                percent(share)
            ));
        }
        let memory = MemoryGpuConfig::Utilization(taken + share);
        PagedAttentionConfig::new(None, memory, PagedCacheType::Auto).map(Some).map_err(|error| said(&error))
    }

    /// Reads the weights. Only local files: every path exists, so the engine never looks for a network.
    fn build(&self) -> Result<Arc<SharedPipeline>, LoadError> {
        let (path, device) = (self.path(), self.device);
        let failed = |error: &dyn std::fmt::Display| fault(path, first_line(&error.to_string()));
        // The type is chosen here, because choosing it automatically runs a program that only GPU machines have.
        let dtype = if device.is_cpu() { ModelDType::F32 } else { ModelDType::BF16 };
        let paged = self.paged().map_err(|error| failed(&error))?;
        let quantization = self.spec.quantization.map(isq);
        let loader = match self.kind {
            Kind::Writes => loader(&self.spec.model).map(|loader| (loader, None)),
            Kind::Sees => utf8(path).and_then(|path| sight::loader(&path)).map(|(loader, file)| (loader, Some(file))),
            Kind::Embeds => embedding_loader(path).map(|loader| (loader, None)),
        };
        let (loader, _template) = loader.map_err(|error| failed(&error))?;
        loader
            .load_model_from_hf(
                None,
                TokenSource::None,
                &dtype,
                device,
                true,
                DeviceMapSetting::dummy(),
                quantization,
                paged,
            )
            .map_err(|error| failed(&error))
    }

    /// Builds a copy of the model and starts an engine for up to `places` sequences at once.
    async fn start(&self, places: u32) -> Result<Started, LoadError> {
        let pipeline = catch_unwind(AssertUnwindSafe(|| self.build()))
            .map_err(|_| fault(self.path(), "the engine panicked while it loaded the model"))??;
        let max_num_seqs = NonZeroUsize::MIN.saturating_add(places as usize - 1);
        let scheduler = match pipeline.lock().await.get_metadata().cache_config.clone() {
            Some(config) => SchedulerConfig::PagedAttentionMeta { max_num_seqs: max_num_seqs.get(), config },
            None => SchedulerConfig::DefaultScheduler { method: DefaultSchedulerMethod::Fixed(max_num_seqs) },
        };
        for _ in 0..STARTS {
            let builder =
                MistralRsBuilder::new(pipeline.clone(), scheduler.clone(), false, None).with_no_prefix_cache(true);
            if let Ok(runner) = AssertUnwindSafe(builder.build()).catch_unwind().await {
                return Ok(Started { runner, pipeline });
            }
        }
        Err(fault(self.path(), "the engine panicked while it started"))
    }
}

/// In-situ quantization, as the engine calls it.
const fn isq(quantization: Quantization) -> IsqType {
    match quantization {
        Quantization::Q2K => IsqType::Q2K,
        Quantization::Q3K => IsqType::Q3K,
        Quantization::Q4_0 => IsqType::Q4_0,
        Quantization::Q4_1 => IsqType::Q4_1,
        Quantization::Q4K => IsqType::Q4K,
        Quantization::Q5_0 => IsqType::Q5_0,
        Quantization::Q5_1 => IsqType::Q5_1,
        Quantization::Q5K => IsqType::Q5K,
        Quantization::Q6K => IsqType::Q6K,
        Quantization::Q8_0 => IsqType::Q8_0,
        Quantization::Hqq4 => IsqType::HQQ4,
        Quantization::Hqq8 => IsqType::HQQ8,
    }
}

fn embedding_loader(folder: &Path) -> Result<Box<dyn Loader>, String> {
    Ok(EmbeddingLoaderBuilder::new(EmbeddingSpecificConfig::default(), None, Some(utf8(folder)?)).build(None))
}

fn utf8(path: &Path) -> Result<String, String> {
    path.to_str().map(str::to_owned).ok_or("the path is not UTF-8".to_owned())
}

fn loader(model: &ModelFiles) -> Result<Box<dyn Loader>, String> {
    match model {
        ModelFiles::Folder(folder) => {
            let config = NormalSpecificConfig {
                topology: None,
                organization: Default::default(),
                write_uqff: None,
                from_uqff: None,
                imatrix: None,
                calibration_file: None,
                hf_cache_path: None,
                matformer_config_path: None,
                matformer_slice_name: None,
            };
            let builder = NormalLoaderBuilder::new(config, None, None, Some(utf8(folder)?), false, None);
            builder.build(None).map_err(|error| error.to_string())
        }
        ModelFiles::Gguf(file) => {
            let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let name = file.file_name().map(Path::new).unwrap_or(file);
            let sidecar = folder.join("tokenizer.json").exists().then(|| utf8(folder)).transpose()?;
            let config = GGUFSpecificConfig { topology: None };
            Ok(GGUFLoaderBuilder::new(None, sidecar, utf8(folder)?, vec![utf8(name)?], config, false, None).build())
        }
    }
}

/// The text side of the model, with the very tokenizer that the engine uses.
fn text(path: &Path, folder: Option<Folder>, pipeline: &dyn Pipeline) -> Result<TextModel, LoadError> {
    let tokenizer = pipeline.tokenizer().ok_or_else(|| fault(path, "the model has no tokenizer"))?;
    let (vocab_size, template) = match folder {
        Some(folder) => (folder.vocab_size, folder.template),
        // In a GGUF file the list of tokens has one entry for each row of the embedding.
        None => (tokenizer.get_vocab_size(true) as u32, gguf_template(path, pipeline)?),
    };
    Ok(TextModel::new((*tokenizer).clone(), template, vocab_size))
}

/// The chat template beside the file, else the one in it; `None` where there is neither.
fn gguf_template(path: &Path, pipeline: &dyn Pipeline) -> Result<Option<ChatTemplate>, LoadError> {
    if let Some(template) = path.parent().map(ChatTemplate::in_folder).transpose()?.flatten() {
        return Ok(Some(template));
    }
    let Some(inner) = pipeline.get_chat_template() else { return Ok(None) };
    let Some(source) = inner.chat_template.as_ref().and_then(|value| value.0.as_ref().left().cloned()) else {
        return Ok(None);
    };
    let template = ChatTemplate::new(&Value::String(source), &Value::Null)
        .map_err(|error| fault(path, format_args!("chat template: {error}")))?;
    let named = [("bos_token", inner.bos_tok()), ("eos_token", inner.eos_tok()), ("unk_token", inner.unk_tok())];
    let named = named.into_iter().filter_map(|(key, name)| Some((key, name?)));
    Ok(Some(named.fold(template, |template, (key, name)| template.with_special_token(key, name))))
}

/// One engine thread and its model.
struct Started {
    runner: Arc<MistralRs>,
    pipeline: Arc<SharedPipeline>,
}

/// How many copies of the model fit, if weights take twice their files' size (of half precision, computed in single).
fn slots_on_cpu(path: &Path) -> u32 {
    let copies = BYTES_ON_CPU / (2 * check::weight_bytes(path)).max(1);
    copies.clamp(1, SLOTS_ON_CPU) as u32
}
