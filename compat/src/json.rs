//! Reading a request body so that every mistake names the field it is about, and nothing is dropped in silence.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{self, DeserializeOwned, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::error::Category;

use crate::native::{ErrorCode, ErrorEnvelope, detail};

mod held;
mod repetitions;

pub use held::Held;
use repetitions::{Once, REPEATED};

/// Names reported of one body's unknown fields; more than fit a header help nobody.
const MAX_IGNORED: usize = 32;

/// Places of unknown fields remembered while reading, null ones and repetitions included.
const MAX_UNKNOWN: usize = 1024;

/// What stands for a name of no characters.
const NAMELESS: &str = r#""""#;

/// 2^63, from which on whole numbers are beyond what is read as one.
const I64_END: f64 = 9_223_372_036_854_775_808.0;

/// Bytes of a name, a path or a value that came from the client and is said back to it.
const MAX_ECHO: usize = 128;

/// Reads `body`, a JSON object without a name that is in one object twice, and lists the fields in it that `T` does not know, each once, as visible ASCII
/// (`messages[].cache_control`). A field that is null is absent, and not listed.
///
/// # Errors
///
/// INVALID_PARAMS with the path of the field, or with none where the body is not JSON at all.
pub fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<(T, Vec<String>), ErrorEnvelope> {
    let (value, unknown) = read(body)?;
    Ok((value, ignored(body, &unknown)?))
}

/// Reads `body` as [`parse`] does, and refuses the first field that `T` does not know, null or not.
///
/// # Errors
///
/// INVALID_PARAMS, as [`parse`], or with the field that is not known.
pub fn parse_known<T: DeserializeOwned>(body: &[u8]) -> Result<T, ErrorEnvelope> {
    let (value, unknown) = read(body)?;
    match unknown.first() {
        None => Ok(value),
        Some(pointer) => {
            let field = name(pointer);
            let message = format!("`{field}` is not a field of the contract");
            Err(ErrorEnvelope::invalid(field, message))
        }
    }
}

/// The value, and JSON pointers to the fields that it does not know.
fn read<T: DeserializeOwned>(body: &[u8]) -> Result<(T, Vec<String>), ErrorEnvelope> {
    let mut unknown = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let mut json = serde_json::Deserializer::from_slice(body);
    let tracked = serde_path_to_error::Deserializer::new(Once(&mut json), &mut track);
    let parsed = serde_ignored::deserialize(tracked, |path| {
        if unknown.len() < MAX_UNKNOWN {
            unknown.push(pointer(&path));
        }
    });
    let path = track.path();
    let Object(value) = parsed.map_err(|error| describe(body, &error, &path))?;
    json.end().map_err(|error| describe(body, &error, &path))?;
    Ok((value, unknown))
}

/// A JSON object. A derived struct alone would also take an array, field by field.
#[derive(Debug)]
pub struct Object<T>(pub T);

/// An object or null, for a field.
///
/// # Errors
///
/// Where it is anything else, or `T` does not take it.
pub fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    Ok(Option::<Object<T>>::deserialize(deserializer)?.map(|Object(value)| value))
}

/// A list of objects or null, for a field.
///
/// # Errors
///
/// As [`object`].
pub fn objects<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<Vec<T>>, D::Error> {
    let objects = Option::<Vec<Object<T>>>::deserialize(deserializer)?;
    Ok(objects.map(|objects| objects.into_iter().map(|Object(value)| value).collect()))
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

/// A string, or an array of `T`.
#[derive(Debug)]
pub enum StringOrList<T> {
    String(String),
    List(Vec<T>),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for StringOrList<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EitherVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for EitherVisitor<T> {
            type Value = StringOrList<T>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a string or an array")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(StringOrList::String(text.to_owned()))
            }

            fn visit_string<E: de::Error>(self, text: String) -> Result<Self::Value, E> {
                Ok(StringOrList::String(text))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(seq)).map(StringOrList::List)
            }
        }

        deserializer.deserialize_any(EitherVisitor(PhantomData))
    }
}

/// A string, or an object.
#[derive(Debug)]
pub enum StringOrObject<T> {
    String(String),
    Object(T),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for StringOrObject<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EitherVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for EitherVisitor<T> {
            type Value = StringOrObject<T>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a string or an object")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(StringOrObject::String(text.to_owned()))
            }

            fn visit_string<E: de::Error>(self, text: String) -> Result<Self::Value, E> {
                Ok(StringOrObject::String(text))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(StringOrObject::Object)
            }
        }

        deserializer.deserialize_any(EitherVisitor(PhantomData))
    }
}

/// A field that has to be there and is not.
pub fn missing(param: impl Into<String>) -> ErrorEnvelope {
    let param = param.into();
    let message = format!("Missing required parameter: '{param}'.");
    ErrorEnvelope::invalid(param, message).with_detail(detail::MISSING_PARAMETER)
}

/// A value out of those that are allowed.
pub fn invalid(param: impl Into<String>, why: impl fmt::Display) -> ErrorEnvelope {
    let param = param.into();
    let message = format!("Invalid value for '{param}': {why}.");
    ErrorEnvelope::invalid(param, message).with_detail(detail::INVALID_VALUE)
}

/// A field that is understood, and not served.
pub fn unsupported_parameter(param: impl Into<String>) -> ErrorEnvelope {
    let param = param.into();
    let message = format!("Unsupported parameter: '{param}' is not supported by this gateway.");
    ErrorEnvelope::invalid(param, message).with_detail(detail::UNSUPPORTED_PARAMETER)
}

/// A value that is understood, and not served.
pub fn unsupported_value(param: impl Into<String>, what: impl fmt::Display) -> ErrorEnvelope {
    let param = param.into();
    let message = format!("Unsupported value: '{param}' does not support {what} with this model.");
    ErrorEnvelope::invalid(param, message).with_detail(detail::UNSUPPORTED_VALUE)
}

/// A value that is understood, and not served for the reason that is given.
pub fn not_served(param: impl Into<String>, why: impl fmt::Display) -> ErrorEnvelope {
    let param = param.into();
    let message = format!("Unsupported value: '{param}': {why}.");
    ErrorEnvelope::invalid(param, message).with_detail(detail::UNSUPPORTED_VALUE)
}

/// What `word` stands for among `words`.
///
/// # Errors
///
/// INVALID_PARAMS that lists the words.
pub fn one_of<T: Copy>(param: impl Into<String>, word: &str, words: &[(&str, T)]) -> Result<T, ErrorEnvelope> {
    words.iter().find(|(name, _)| *name == word).map(|(_, value)| *value).ok_or_else(|| {
        let supported = words.iter().map(|(name, _)| format!("'{name}'")).collect::<Vec<_>>().join(", ");
        let message = format!("Invalid value: '{}'. Supported values are: {supported}.", echo(word));
        ErrorEnvelope::invalid(param, message).with_detail(detail::INVALID_VALUE)
    })
}

/// The beginning of what a client sent, short enough for a message.
fn echo(text: &str) -> &str {
    let fits = text.char_indices().map(|(start, char)| start + char.len_utf8()).take_while(|end| *end <= MAX_ECHO);
    &text[..fits.last().unwrap_or(0)]
}

fn describe(body: &[u8], error: &serde_json::Error, path: &serde_path_to_error::Path) -> ErrorEnvelope {
    let text = error.to_string();
    if text.starts_with("recursion limit exceeded") {
        let message = "The JSON body is nested too deeply: at most 127 levels are allowed.";
        return refusal(root(path), message.to_owned()).with_detail(detail::INVALID_VALUE);
    }
    let is_json = || std::str::from_utf8(body).is_ok_and(|body| serde_json::from_str::<de::IgnoredAny>(body).is_ok());
    if error.classify() != Category::Data && is_json() {
        // Good JSON with a text or a number in it that no type takes: a half of a surrogate pair, a key `01` for a number.
        // A key that could not be read is a `?` at the end.
        let path = path.to_string();
        let known = path.strip_suffix('?').map_or(path.as_str(), |path| path.trim_end_matches('.'));
        let param = (!matches!(known, "" | ".")).then(|| echo(known).to_owned());
        let place = param.as_deref().map_or("the body".to_owned(), |param| format!("'{param}'"));
        let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(text, _)| text);
        let message = format!("Invalid value for {place}: {}.", echo(what));
        return refusal(param, message).with_detail(detail::INVALID_VALUE);
    }
    if error.classify() != Category::Data {
        return refusal(None, format!("We could not parse the JSON body of your request: {text}."));
    }
    let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(text, _)| text);
    let mut param = path.iter().next().map(|_| path.to_string());
    if let Some(field) = text.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next()) {
        // The path leads to the field itself.
        let message = format!("`{}` is not a field that is known here.", echo(field));
        return refusal(param.map(|param| echo(&param).to_owned()), message).with_detail(detail::INVALID_VALUE);
    }
    if let Some(name) = text.strip_prefix(REPEATED).and_then(|rest| rest.strip_suffix('`')) {
        // Here too.
        let (param, name) = (param.map(|param| echo(&param).to_owned()), echo(name));
        let place = param.as_deref().map_or("the body".to_owned(), |param| format!("'{param}'"));
        let message = format!("Invalid value for {place}: duplicate field `{name}`.");
        return refusal(param, message).with_detail(detail::INVALID_VALUE);
    }
    let named = ["duplicate field `", "missing field `"].iter().find_map(|lead| text.strip_prefix(lead));
    if let Some(field) = named.and_then(|rest| rest.split('`').next()) {
        let parent = param.map_or(String::new(), |parent| format!("{parent}."));
        param = Some(parent + field);
    }
    let param = param.map(|param| echo(&param).to_owned());
    let place = param.as_deref().map_or("the body".to_owned(), |param| format!("'{param}'"));
    let (message, detail) = wrong(text, &place);
    refusal(param, message).with_detail(detail)
}

fn refusal(param: Option<String>, message: String) -> ErrorEnvelope {
    ErrorEnvelope { param, ..ErrorEnvelope::new(ErrorCode::InvalidParams, message) }
}

/// serde's words for a value that does not fit, in OpenAI's. What it quotes of the value may be a prompt: left out.
fn wrong(text: &str, place: &str) -> (String, &'static str) {
    let got = |rest: &str| if is_huge(rest) { "an integer out of range" } else { kind(first_word(rest)) };
    match (text.strip_prefix("invalid type: "), text.rsplit_once(", expected ")) {
        (Some(rest), Some((_, expected))) => {
            let (expected, got) = (plain(expected), got(rest));
            (format!("Invalid type for {place}: expected {expected}, but got {got} instead."), detail::INVALID_TYPE)
        }
        (None, Some((_, expected))) if text.starts_with("invalid value: ") => {
            (format!("Invalid value for {place}: expected {}.", plain(expected)), detail::INVALID_VALUE)
        }
        _ => (format!("Invalid value for {place}: {}.", echo(text)), detail::INVALID_VALUE),
    }
}

fn first_word(text: &str) -> &str {
    text.split([' ', ',']).next().unwrap_or_default()
}

/// Whether serde's words are about a whole number that no integer of 64 bits holds, which it reads as a decimal one.
fn is_huge(rest: &str) -> bool {
    let number = rest.strip_prefix("floating point `").and_then(|rest| rest.split('`').next());
    number.and_then(|number| number.parse::<f64>().ok()).is_some_and(|number| number.abs() >= I64_END)
}

/// The JSON type that serde's word for an unexpected value means.
fn kind(word: &str) -> &'static str {
    match word {
        "boolean" => "a boolean",
        "integer" => "an integer",
        "floating" => "a decimal number",
        "string" | "character" => "a string",
        "null" | "unit" | "Option" => "null",
        "sequence" => "an array",
        "map" => "an object",
        _ => "another type",
    }
}

/// What serde expected, without Rust's names.
fn plain(expected: &str) -> &str {
    match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a non-negative integer in range",
        "i64" => "an integer in range",
        "f32" | "f64" => "a number",
        "a sequence" => "an array",
        "a map" => "an object",
        other => other,
    }
}

/// The top-level field of a path.
fn root(path: &serde_path_to_error::Path) -> Option<String> {
    let root = path.iter().next()?.to_string();
    Some(echo(&root).to_owned())
}

/// The place of an unknown field, as a JSON pointer.
fn pointer(path: &serde_ignored::Path) -> String {
    use serde_ignored::Path;
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}/{index}", pointer(parent)),
        Path::Map { parent, key } => format!("{}/{}", pointer(parent), key.replace('~', "~0").replace('/', "~1")),
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => pointer(parent),
    }
}

/// The names of the unknown fields that are not null. Reads the body again, which is rare.
fn ignored(body: &[u8], unknown: &[String]) -> Result<Vec<String>, ErrorEnvelope> {
    if unknown.is_empty() {
        return Ok(Vec::new());
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let parsed: Value =
        serde_path_to_error::deserialize(&mut json).map_err(|error| describe(body, error.inner(), error.path()))?;
    let mut names: Vec<String> = Vec::new();
    for pointer in unknown.iter().filter(|pointer| parsed.pointer(pointer).is_none_or(|value| !value.is_null())) {
        let name = name(pointer);
        if names.len() < MAX_IGNORED && !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

/// `/messages/0/name` as `messages[].name`; what does not fit a header is replaced.
fn name(pointer: &str) -> String {
    let mut name = String::new();
    for segment in pointer.split('/').skip(1) {
        if !segment.is_empty() && segment.bytes().all(|byte| byte.is_ascii_digit()) && !name.is_empty() {
            name.push_str("[]");
            continue;
        }
        if !name.is_empty() {
            name.push('.');
        }
        name.push_str(&if segment.is_empty() {
            NAMELESS.into()
        } else {
            segment.replace("~1", "/").replace("~0", "~")
        });
    }
    let visible = |char: char| if char.is_ascii_graphic() && char != ',' { char } else { '?' };
    name.chars().take(MAX_ECHO).map(visible).collect()
}
