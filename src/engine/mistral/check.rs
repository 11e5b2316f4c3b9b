//! Looks at a model's files before the engine does, so that what is wrong with them is said in one clear line, and so that
//! no file makes the engine reserve memory for more than there is.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use mistralrs::NormalLoaderType;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokenizers::Tokenizer;

use crate::engine::LoadError;
use crate::engine::text::ChatTemplate;

mod gguf;
mod modules;
mod sizes;

use super::sight::{self, Sight};
pub use gguf::check as gguf;
pub use modules::Embedder;
use sizes::Weights;

/// No header of a weights file is larger, in bytes (the safetensors crate's own limit).
const LARGEST_HEADER: u64 = 100_000_000;

/// No `config.json` and no index of weights is larger, in bytes.
const LARGEST_JSON: u64 = 16 << 20;

/// No tokenizer is larger, in bytes; the largest ones have some 40 million.
const LARGEST_TOKENIZER: u64 = 256 << 20;

/// What is read of a tensor in the header of a weights file.
#[derive(serde::Deserialize)]
struct Tensor {
    data_offsets: Option<(u64, u64)>,
}

/// What is read of an index of weights: the file of each tensor.
#[derive(serde::Deserialize)]
struct Index {
    #[serde(default)]
    weight_map: BTreeMap<String, String>,
}

/// What a model's folder says about it.
#[derive(Debug)]
pub struct Folder {
    /// Rows of the embedding.
    pub vocab_size: u32,
    pub template: Option<ChatTemplate>,
    /// Where it is a model that embeds.
    pub embedder: Option<Embedder>,
    /// Where it is a model that sees.
    pub sight: Option<Sight>,
    /// Its attention has as many heads for keys as for queries.
    pub is_multi_head: bool,
}

/// Reads and checks a folder as on Hugging Face.
pub fn folder(path: &Path) -> Result<Folder, LoadError> {
    if !path.is_dir() {
        return Err(fault(path, "is not a folder"));
    }
    let config_path = path.join("config.json");
    let config: Value = required_json(&config_path)?;
    let embedder = modules::embedder(path, &config)?;
    let sight = Sight::of(path, &config)?;
    if sight.is_none() {
        architecture(&config_path, &config, embedder.is_some())?;
    }
    let vocab_size = config["vocab_size"].as_u64().or_else(|| {
        let (size, usual) =
            (config["text_config"]["vocab_size"].as_u64(), sight.is_some().then_some(sight::VOCAB_SIZE));
        size.or(usual)
    });
    let vocab_size = vocab_size.and_then(|size| u32::try_from(size).ok());
    let vocab_size = vocab_size.ok_or_else(|| fault(&config_path, "has no `vocab_size`"))?;
    tokenizer(&path.join("tokenizer.json"))?;
    sizes::check(&config, weights(path)?).map_err(|what| fault(&config_path, what))?;
    let [queries, keys] = ["num_attention_heads", "num_key_value_heads"].map(|name| config[name].as_u64());
    let is_multi_head = keys.is_none() || keys == queries;
    Ok(Folder { vocab_size, template: ChatTemplate::in_folder(path)?, embedder, sight, is_multi_head })
}

/// The size of a model's weights: of the GGUF file, or of the folder's safetensors files. 0 where they cannot be read.
pub fn weight_bytes(path: &Path) -> u64 {
    let size = |path: &Path| path.metadata().map_or(0, |metadata| metadata.len());
    if path.is_dir() { safetensors(path).iter().flatten().map(|path| size(path)).sum() } else { size(path) }
}

/// A load error about one file.
pub fn fault(path: &Path, what: impl std::fmt::Display) -> LoadError {
    LoadError(format!("{}: {what}", path.display()))
}

/// Reads a JSON file that has to be there.
pub fn required_json<T: DeserializeOwned>(path: &Path) -> Result<T, LoadError> {
    small(path, LARGEST_JSON)?;
    let text = std::fs::read(path).map_err(|error| fault(path, error))?;
    serde_json::from_slice(&text).map_err(|error| fault(path, format_args!("is not JSON: {error}")))
}

/// Refuses a file that is too large to be what it should be, before it is read.
fn small(path: &Path, most: u64) -> Result<(), LoadError> {
    let size = path.metadata().map_err(|error| fault(path, error))?.len();
    if size > most { Err(fault(path, format_args!("has {size} bytes, more than {most}"))) } else { Ok(()) }
}

fn architecture(path: &Path, config: &Value, embeds: bool) -> Result<(), LoadError> {
    let name = config["architectures"][0].as_str().ok_or_else(|| fault(path, "has no `architectures`"))?;
    if embeds {
        return modules::architecture(path, name);
    }
    match NormalLoaderType::from_causal_lm_name(name) {
        Ok(_) => Ok(()),
        Err(_) => Err(fault(path, format_args!("the architecture {name} is not one that the engine runs"))),
    }
}

fn tokenizer(path: &Path) -> Result<(), LoadError> {
    small(path, LARGEST_TOKENIZER)?;
    Tokenizer::from_file(path).map(drop).map_err(|error| fault(path, format_args!("is not a tokenizer: {error}")))
}

/// Every weights file is whole, and every one that the index names is there.
fn weights(folder: &Path) -> Result<Weights, LoadError> {
    let mut paths = safetensors(folder).map_err(|error| fault(folder, error))?;
    let index = folder.join("model.safetensors.index.json");
    if index.exists() {
        let index: Index = required_json(&index)?;
        paths.extend(index.weight_map.values().map(|name| folder.join(name)));
    }
    paths.sort_unstable();
    paths.dedup();
    if paths.is_empty() {
        return Err(fault(folder, "has no weights: no file ends in .safetensors"));
    }
    paths.iter().try_fold(Weights::default(), |sum, path| Ok(sum.and(whole(path).map_err(|what| fault(path, what))?)))
}

fn safetensors(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let paths = std::fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.path()));
    Ok(paths.filter(|path| path.extension().is_some_and(|end| end == "safetensors")).collect())
}

/// What a safetensors file holds, which must be all the bytes that its header tells of.
fn whole(path: &Path) -> Result<Weights, String> {
    let mut file = File::open(path).map_err(|error| error.to_string())?;
    let size = file.seek(SeekFrom::End(0)).and_then(|size| file.rewind().map(|()| size));
    let size = size.map_err(|error| error.to_string())?;
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(|_| "is cut short")?;
    let length = u64::from_le_bytes(length);
    if length > LARGEST_HEADER.min(size) {
        return Err("is not a safetensors file".into());
    }
    let mut header = vec![0; length as usize];
    file.read_exact(&mut header).map_err(|_| "is cut short")?;
    let header: BTreeMap<String, Tensor> = serde_json::from_slice(&header).map_err(|_| "is not a safetensors file")?;
    let ends: Vec<_> = header.values().filter_map(|tensor| Some(tensor.data_offsets?.1)).collect();
    let data = ends.iter().copied().max().unwrap_or(0);
    let told = (8 + length).saturating_add(data);
    if size != told {
        return Err(format!("has {size} bytes, and its header tells of {told}"));
    }
    Ok(Weights { tensors: ends.len() as u64, bytes: data })
}
