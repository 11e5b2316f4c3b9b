//! Log-probabilities as OpenAI's clients read them.

use std::sync::Arc;

use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};

use crate::native::{TokenLogprobs, TopLogprob};

/// Stands for minus infinity, which JSON cannot say; the value is OpenAI's.
const VERY_UNLIKELY: f32 = -9999.0;

/// A log-probability as JSON can say it.
pub const fn sayable(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob } else { VERY_UNLIKELY }
}

/// The `logprobs` of a choice or of a chunk: `{"content": […], "refusal": null}`.
pub struct Logprobs<'a>(pub &'a [Arc<TokenLogprobs>]);

impl Serialize for Logprobs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("content", &Content(self.0))?;
        map.serialize_entry("refusal", &())?;
        map.end()
    }
}

impl Logprobs<'_> {
    /// Those of one token, as a value to be kept.
    pub fn value(token: &TokenLogprobs) -> serde_json::Value {
        serde_json::to_value(Sampled(token)).unwrap_or_default()
    }
}

struct Content<'a>(&'a [Arc<TokenLogprobs>]);

impl Serialize for Content<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|token| Sampled(token)))
    }
}

struct Sampled<'a>(&'a TokenLogprobs);

impl Serialize for Sampled<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(4))?;
        entries(&mut map, &self.0.bytes, self.0.logprob)?;
        map.serialize_entry("top_logprobs", &Top(&self.0.top))?;
        map.end()
    }
}

struct Top<'a>(&'a [TopLogprob]);

impl Serialize for Top<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut seq = serializer.serialize_seq(Some(self.0.len()))?;
        for top in self.0 {
            seq.serialize_element(&Alternative(top))?;
        }
        seq.end()
    }
}

struct Alternative<'a>(&'a TopLogprob);

impl Serialize for Alternative<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(3))?;
        entries(&mut map, &self.0.bytes, self.0.logprob)?;
        map.end()
    }
}

fn entries<M: SerializeMap>(map: &mut M, bytes: &[u8], logprob: f32) -> Result<(), M::Error> {
    map.serialize_entry("token", &Text(bytes))?;
    map.serialize_entry("logprob", &sayable(logprob))?;
    map.serialize_entry("bytes", bytes)
}

/// A token's bytes as text, without allocating: the parts of a character that it may begin or end with are replaced.
struct Text<'a>(&'a [u8]);

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match str::from_utf8(self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => serializer.collect_str(&Lossy(self.0)),
        }
    }
}

struct Lossy<'a>(&'a [u8]);

impl std::fmt::Display for Lossy<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        use std::fmt::Write as _;
        for chunk in self.0.utf8_chunks() {
            f.write_str(chunk.valid())?;
            if !chunk.invalid().is_empty() {
                f.write_char(char::REPLACEMENT_CHARACTER)?;
            }
        }
        Ok(())
    }
}
