//! How a model's makers say it should be sampled: its `generation_config.json`.

use std::path::Path;

use serde::Deserialize;

use super::check::fault;
use crate::engine::{LoadError, Sampling};

/// The members that say how to choose tokens; everything else in the file is not ours.
#[derive(Debug, Default, Deserialize)]
struct GenerationConfig {
    do_sample: Option<bool>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<u32>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
}

/// The defaults in `folder`; those of [`Sampling`] where it has none.
///
/// # Errors
///
/// A file that is there and cannot be read, in words for the operator.
pub fn read(folder: &Path) -> Result<Sampling, LoadError> {
    let path = folder.join("generation_config.json");
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Sampling::default()),
        Err(error) => return Err(fault(&path, error)),
    };
    let config = serde_json::from_slice(&text).map_err(|error| fault(&path, error))?;
    Ok(sampling(&config))
}

/// Values outside the ranges that requests must keep are left out.
fn sampling(config: &GenerationConfig) -> Sampling {
    let plain = Sampling::default();
    if config.do_sample == Some(false) {
        return Sampling { temperature: 0.0, ..plain };
    }
    let within = |value: Option<f32>, least: f32, most: f32| value.filter(|value| (least..=most).contains(value));
    Sampling {
        temperature: within(config.temperature, 0.0, 2.0).unwrap_or(plain.temperature),
        top_p: within(config.top_p, f32::MIN_POSITIVE, 1.0).unwrap_or(plain.top_p),
        top_k: config.top_k.filter(|top_k| *top_k > 0),
        min_p: within(config.min_p, 0.0, 1.0).unwrap_or(plain.min_p),
        repetition_penalty: within(config.repetition_penalty, f32::MIN_POSITIVE, 10.0)
            .unwrap_or(plain.repetition_penalty),
        ..plain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Sampling {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("generation_config.json"), text).unwrap();
        read(folder.path()).unwrap()
    }

    #[test]
    fn what_the_makers_say_is_the_default_and_nonsense_is_not() {
        let said = of(r#"{"do_sample": true, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "eos_token_id": [1, 2]}"#);
        assert_eq!(said, Sampling { temperature: 0.6, top_k: Some(20), top_p: 0.95, ..Sampling::default() });
        assert_eq!(of(r#"{"temperature": -1, "top_p": 7, "top_k": 0}"#), Sampling::default());
        assert_eq!(of(r#"{"do_sample": false, "temperature": 0.6}"#).temperature, 0.0);
    }

    #[test]
    fn a_folder_without_the_file_has_plain_defaults_and_a_broken_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path()).unwrap(), Sampling::default());
        std::fs::write(folder.path().join("generation_config.json"), "{").unwrap();
        assert!(read(folder.path()).unwrap_err().to_string().contains("generation_config.json"));
    }
}
