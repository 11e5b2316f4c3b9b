//! The flags as the uppermost layer.

use std::path::{Component, Path, PathBuf};

use toml::{Table, Value};

use super::{Layers, get};
use crate::catalog::{Builtin, ModelRef, ModelSource};
use crate::config::key::Key;
use crate::config::{Overrides, Place};

const MODEL: Place = Place::Flag("--model");

pub(super) fn lay(layers: &mut Layers, overrides: Overrides) {
    let Overrides { listen, model, engine, log_format } = overrides;
    let plain = [("server.listen", "--listen", listen), ("telemetry.log_format", "--log-format", log_format)];
    for (key, flag, value) in plain {
        if let Some(value) = value {
            layers.set(&Key::dotted(key), Value::String(value), Place::Flag(flag));
        }
    }
    if let Some(engine) = engine {
        set_in_pool(layers, "engine", engine, Place::Flag("--engine"));
    }
    if let Some(model) = model {
        lay_model(layers, &model);
    }
}

/// The model of the only pool: a name of the catalog, or a new entry of it.
fn lay_model(layers: &mut Layers, model: &str) {
    if is_known(layers, model) {
        return set_in_pool(layers, "model", model.to_owned(), MODEL);
    }
    let source = match source(model) {
        Ok(source) => source,
        Err(why) => return layers.mistakes.add(MODEL, &Key::default(), why),
    };
    let id = source.default_id();
    if !matches!(source, ModelSource::Builtin(_)) {
        let entry = [("id", id.clone()), ("source", source.to_string())];
        let entry: Table = entry.into_iter().map(|(key, value)| (key.to_owned(), Value::String(value))).collect();
        let models = Key::dotted("catalog.models");
        let next = list_len(layers, &models);
        layers.set(&models.child(next.to_string()), Value::Table(entry), MODEL);
    }
    set_in_pool(layers, "model", id, MODEL);
}

fn set_in_pool(layers: &mut Layers, key: &str, value: String, place: Place) {
    let pools = Key::dotted("pools");
    if list_len(layers, &pools) > 1 {
        return layers.mistakes.add(
            place,
            &Key::default(),
            "there are several pools; say it in the configuration file",
        );
    }
    layers.set(&pools.child("0").child(key), Value::String(value), place);
}

fn list_len(layers: &Layers, key: &Key) -> usize {
    get(&Value::Table(layers.table.clone()), key).and_then(Value::as_array).map_or(0, Vec::len)
}

/// Whether it is the id or an alias of a model in the file.
fn is_known(layers: &Layers, name: &str) -> bool {
    let table = Value::Table(layers.table.clone());
    let models = get(&table, &Key::dotted("catalog.models")).and_then(Value::as_array);
    let named = |model: &Value| {
        let aliases = model.get("aliases").and_then(Value::as_array);
        let mut names = aliases.into_iter().flatten().chain(model.get("id"));
        names.any(|known| known.as_str() == Some(name))
    };
    Builtin::of(name).is_some() || models.is_some_and(|models| models.iter().any(named))
}

/// A reference, or a path of this machine.
fn source(model: &str) -> Result<ModelSource, String> {
    if ["hf:", "file:", "https:", "http:", "sha256:"].iter().any(|scheme| model.starts_with(scheme)) {
        let reference: ModelRef = model.parse().map_err(|error| format!("{error}"))?;
        return ModelSource::from_reference(&reference).map_err(|error| error.to_string());
    }
    let path = std::path::absolute(model).map_err(|error| format!("{model:?}: {error}"))?;
    if path.exists() {
        return Ok(ModelSource::from_path(without_dots(&path)));
    }
    let hub = format!("hf:{model}");
    let hint =
        if hub.parse::<ModelRef>().is_ok() { format!("; {hub} would name it at the hub") } else { String::new() };
    Err(format!("{model:?} is no folder, file or model of the catalog{hint}"))
}

/// An absolute path with each `..` taken back; symbolic links stay as they are, since a link may carry the name that counts.
fn without_dots(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}
