//! Names that are in one object twice. Structs refuse them by themselves; maps and free JSON would keep the last value and
//! lose the others in silence.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::describe;
use crate::native::ErrorEnvelope;

/// # Errors
///
/// INVALID_PARAMS with the path of the first name that is repeated, anywhere in `body`, which is good JSON.
pub(super) fn refuse(body: &[u8]) -> Result<(), ErrorEnvelope> {
    if serde_json::from_slice::<WithoutRepetition>(body).is_ok() {
        return Ok(());
    }
    // Once more, for the path, which takes longer.
    let mut json = serde_json::Deserializer::from_slice(body);
    match serde_path_to_error::deserialize(&mut json) {
        Ok(WithoutRepetition) => Ok(()),
        Err(error) => Err(describe(body, error.inner(), error.path())),
    }
}

/// Any JSON in which each name is there once; nothing of it is kept.
struct WithoutRepetition;

impl<'de> Deserialize<'de> for WithoutRepetition {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyVisitor)
    }
}

/// A name, in place where nothing in it is escaped.
#[derive(Deserialize)]
#[serde(transparent)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

struct AnyVisitor;

impl<'de> Visitor<'de> for AnyVisitor {
    type Value = WithoutRepetition;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_unit<E: de::Error>(self) -> Result<WithoutRepetition, E> {
        Ok(WithoutRepetition)
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<WithoutRepetition, E> {
        Ok(WithoutRepetition)
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<WithoutRepetition, E> {
        Ok(WithoutRepetition)
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<WithoutRepetition, E> {
        Ok(WithoutRepetition)
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<WithoutRepetition, E> {
        Ok(WithoutRepetition)
    }

    fn visit_str<E: de::Error>(self, _: &str) -> Result<WithoutRepetition, E> {
        Ok(WithoutRepetition)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<WithoutRepetition, A::Error> {
        while seq.next_element::<WithoutRepetition>()?.is_some() {}
        Ok(WithoutRepetition)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WithoutRepetition, A::Error> {
        let mut names = HashSet::new();
        while let Some(Name(name)) = map.next_key()? {
            if names.contains(&name) {
                return Err(de::Error::custom(format_args!("duplicate field `{name}`")));
            }
            names.insert(name);
            map.next_value::<WithoutRepetition>()?;
        }
        Ok(WithoutRepetition)
    }
}
