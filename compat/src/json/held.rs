//! A string or an array, where things that are not served hold an object.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::SeqAccessDeserializer;
use serde::de::{self, IgnoredAny, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::native::{ErrorEnvelope, detail};

/// What is taken, or an object, as things of a kind that is not served hold it: they are refused by their kind, whatever else
/// is in them.
#[derive(Debug)]
pub enum Held<T> {
    Known(T),
    Object,
}

impl<T> Held<T> {
    /// # Errors
    ///
    /// Where it is an object; `path` leads there.
    pub fn known(self, path: &str, expected: &str) -> Result<T, ErrorEnvelope> {
        match self {
            Self::Known(value) => Ok(value),
            Self::Object => {
                let message = format!("Invalid type for '{path}': expected {expected}, but got an object instead.");
                Err(ErrorEnvelope::invalid(path, message).with_detail(detail::INVALID_TYPE))
            }
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Held<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct HeldVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for HeldVisitor<T> {
            type Value = Held<T>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a string or an array")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                T::deserialize(text.into_deserializer()).map(Held::Known)
            }

            fn visit_string<E: de::Error>(self, text: String) -> Result<Self::Value, E> {
                T::deserialize(text.into_deserializer()).map(Held::Known)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
                T::deserialize(SeqAccessDeserializer::new(seq)).map(Held::Known)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                IgnoredAny.visit_map(map).map(|_| Held::Object)
            }
        }

        deserializer.deserialize_any(HeldVisitor(PhantomData))
    }
}
