//! How a folder says that its model embeds: the `modules.json` of sentence-transformers, and what belongs to it.

use std::path::{Component, Path};

use mistralrs::core::EmbeddingLoaderType;
use serde::Deserialize;
use serde_json::Value;

use super::{fault, required_json, whole};
use crate::engine::{Instructions, LoadError};

/// A model that embeds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Embedder {
    /// Numbers of a vector.
    pub dimensions: u32,
    pub instructions: Instructions,
}

#[derive(Debug, Deserialize)]
struct Module {
    path: String,
    r#type: String,
}

/// What makes one vector of the vectors of all tokens.
#[derive(Debug, Deserialize)]
struct Pooling {
    word_embedding_dimension: u32,
    pooling_mode_cls_token: bool,
    pooling_mode_mean_tokens: bool,
    pooling_mode_max_tokens: bool,
    pooling_mode_mean_sqrt_len_tokens: bool,
    pooling_mode_weightedmean_tokens: bool,
    pooling_mode_lasttoken: bool,
    include_prompt: bool,
}

#[derive(Debug, Deserialize)]
struct Dense {
    in_features: u32,
    out_features: u32,
    bias: bool,
    activation_function: String,
}

/// The modules in `folder`, whose model has this configuration; `None` where there are none, and it is a model that writes.
/// The engine panics over what it does not know, so that is refused here.
///
/// # Errors
///
/// In words for the operator: what is wrong, or what the engine cannot compute.
pub fn embedder(folder: &Path, config: &Value) -> Result<Option<Embedder>, LoadError> {
    let path = folder.join("modules.json");
    if !path.exists() {
        return Ok(None);
    }
    let hidden = config["hidden_size"].as_u64().and_then(|size| u32::try_from(size).ok());
    let hidden = hidden.ok_or_else(|| fault(&folder.join("config.json"), "has no `hidden_size`"))?;
    let modules: Vec<Module> = parse(&path)?;
    let refuse = |what: &str| Err(fault(&path, what));
    let kinds: Vec<_> = modules.iter().map(|module| module.r#type.rsplit('.').next().unwrap_or_default()).collect();
    let (["Transformer", "Pooling"], rest) = kinds.split_at(kinds.len().min(2)) else {
        return refuse("the engine needs a Transformer and a Pooling, in this order");
    };
    let normalized = rest.last() == Some(&"Normalize");
    let dense = if normalized { &rest[..rest.len() - 1] } else { rest };
    if dense.iter().any(|kind| *kind != "Dense") {
        return refuse("after them the engine runs Dense modules only, and a Normalize at the end");
    }
    if modules[1..].iter().any(|module| !inside(&module.path)) {
        return refuse("the path of a module is the name of a folder beside it");
    }
    let mean = pooling(&folder.join(&modules[1].path).join("config.json"), hidden)?;
    let (mut dimensions, mut biased) = (hidden, false);
    for module in &modules[2..2 + dense.len()] {
        let layer = self::dense(&folder.join(&module.path), dimensions)?;
        (dimensions, biased) = (layer.out_features, biased || layer.bias);
    }
    // It adds up where it should take the mean, which makes no difference once the length is 1.
    if mean && (biased || !normalized) {
        return refuse("the engine takes a mean only where a Normalize follows, and no bias before it");
    }
    Ok(Some(Embedder { dimensions, instructions: instructions(folder)? }))
}

/// Whether a configuration is of a model that the engine can have embed.
///
/// # Errors
///
/// In words for the operator.
pub fn architecture(path: &Path, name: &str) -> Result<(), LoadError> {
    let known = EmbeddingLoaderType::from_causal_lm_name(name).map(drop);
    known.map_err(|_| fault(path, format_args!("the architecture {name} is not one that the engine embeds with")))
}

/// Whether the mean of all tokens is taken; else it is the last one.
fn pooling(path: &Path, hidden: u32) -> Result<bool, LoadError> {
    let pooling: Pooling = parse(path)?;
    let others = [
        pooling.pooling_mode_cls_token,
        pooling.pooling_mode_max_tokens,
        pooling.pooling_mode_mean_sqrt_len_tokens,
        pooling.pooling_mode_weightedmean_tokens,
    ];
    let one = pooling.pooling_mode_mean_tokens != pooling.pooling_mode_lasttoken;
    if !one || others.contains(&true) || !pooling.include_prompt {
        return Err(fault(path, "the engine takes the last token or the mean, prompt included"));
    }
    if pooling.word_embedding_dimension != hidden {
        return Err(fault(path, "`word_embedding_dimension` is not the model's `hidden_size`"));
    }
    Ok(pooling.pooling_mode_mean_tokens)
}

fn dense(folder: &Path, from: u32) -> Result<Dense, LoadError> {
    let path = folder.join("config.json");
    let dense: Dense = parse(&path)?;
    if !dense.activation_function.ends_with("Identity") {
        return Err(fault(&path, "the engine has no activation function but Identity"));
    }
    if dense.in_features != from {
        return Err(fault(&path, "`in_features` is not what comes out of the module before"));
    }
    let weights = folder.join("model.safetensors");
    whole(&weights).map_err(|what| fault(&weights, what))?;
    Ok(dense)
}

fn instructions(folder: &Path) -> Result<Instructions, LoadError> {
    let path = folder.join("config_sentence_transformers.json");
    let config = if path.exists() { required_json(&path)? } else { Value::Null };
    let prompt = |name: &str| config["prompts"][name].as_str().unwrap_or_default().to_owned();
    Ok(Instructions { query: prompt("query"), document: prompt("document") })
}

fn parse<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, LoadError> {
    serde_json::from_value(required_json(path)?).map_err(|error| fault(path, error))
}

fn inside(path: &str) -> bool {
    let mut components = Path::new(path).components();
    matches!((components.next(), components.next()), (Some(Component::Normal(_)), None))
}
