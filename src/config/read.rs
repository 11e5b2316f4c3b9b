//! From the document to its shape, with every wrong type and every unknown key.

use toml::{Table, Value};

use super::key::Key;
use super::layers::{Layers, default_of, get, put, text_of};
use super::shape::Shape;
use super::{Mistakes, Place};

mod suggest;

/// The shape of the document. Values of a wrong type are reported and replaced by their defaults, so that the rest can be
/// checked as well; `None` where even that does not help.
pub(super) fn read(layers: &Layers) -> (Option<Shape>, Mistakes) {
    let mut mistakes = layers.mistakes();
    let mut table = Value::Table(layers.table().clone());
    loop {
        let text = text_of(&table);
        match eserde::toml::from_str::<Shape>(&text) {
            Ok(shape) => {
                report_unknown(layers, &text, &mut mistakes);
                return (Some(shape), mistakes);
            }
            Err(errors) => {
                let before = table.clone();
                for error in errors.iter() {
                    let key = error.path().map(Key::from).unwrap_or_default();
                    mistakes.add(layers.place(&key), &key, describe(error.message()));
                    mend(&mut table, &key);
                }
                if table == before {
                    break;
                }
            }
        }
    }
    (None, mistakes)
}

/// The last line says what is wrong; the lines above quote the merged document, which nobody wrote. A value of the wrong
/// type is not repeated, since it could be a secret.
fn describe(message: &str) -> String {
    let message = message.trim().lines().last().unwrap_or("wrong").trim();
    match message.split_once(", expected ") {
        Some((found, expected)) if found.starts_with("invalid type: ") || found.starts_with("invalid value: ") => {
            format!("{} is expected here", plain(expected))
        }
        _ => message.to_owned(),
    }
}

/// What serde expects, in the words of the file.
fn plain(expected: &str) -> &str {
    match expected {
        "u32" | "u64" => "a whole number, 0 or more,",
        "f64" => "a number",
        "a sequence" => "a list",
        "a boolean" => "true or false",
        expected if expected.starts_with("struct ") => "a table",
        expected => expected,
    }
}

fn mend(table: &mut Value, key: &Key) {
    match default_of(key) {
        // The key is there, because it was found wrong.
        Some(default) => drop(put(table, &key.0, default)),
        None => remove(table, key),
    }
}

fn remove(value: &mut Value, key: &Key) {
    let Some((last, parents)) = key.0.split_last() else { return };
    let parent = parents.iter().try_fold(value, |value, segment| match value {
        Value::Table(table) => table.get_mut(segment),
        Value::Array(list) => list.get_mut(segment.parse::<usize>().ok()?),
        _ => None,
    });
    match (parent, last.parse::<usize>()) {
        (Some(Value::Table(table)), _) => drop(table.remove(last)),
        (Some(Value::Array(list)), Ok(index)) if index < list.len() => drop(list.remove(index)),
        _ => {}
    }
}

fn report_unknown(layers: &Layers, text: &str, mistakes: &mut Mistakes) {
    let mut unknown = Vec::new();
    let read: Result<Shape, _> =
        serde_ignored::deserialize(toml::Deserializer::new(text), |path| unknown.push(Key::from(&path)));
    debug_assert!(read.is_ok(), "it was read from the same text before");
    let empty = Table::new();
    for key in &unknown {
        let whole = Value::Table(layers.table().clone());
        let beside = get(&whole, &key.parent()).and_then(Value::as_table).unwrap_or(&empty);
        let known = beside.keys().filter(|name| !unknown.contains(&key.parent().child(name.as_str())));
        let hint = suggest::suggest(key.last(), known.map(String::as_str));
        let place = layers.place(key);
        let hint = match (hint, &place) {
            (Some(name), _) => format!("; did you mean `{name}`?"),
            (None, Place::Environment(_)) => {
                "; levels are parted by two underscores, as in SLUICEGATE_SERVER__LISTEN".into()
            }
            _ => String::new(),
        };
        mistakes.add(place, key, format!("unknown key{hint}"));
    }
}
