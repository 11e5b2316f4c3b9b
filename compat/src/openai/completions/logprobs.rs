//! Log-probabilities in the older form: four lists beside each other.

use std::sync::Arc;

use serde::ser::{SerializeMap, SerializeStruct};
use serde::{Serialize, Serializer};

use crate::native::TokenLogprobs;
use crate::openai::chat::sayable;

/// The `logprobs` of a choice or of a chunk.
pub struct Logprobs<'a> {
    pub tokens: &'a [Arc<TokenLogprobs>],
    /// Characters of the text before the first of them.
    pub offset: usize,
}

impl Serialize for Logprobs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut offset = self.offset;
        let mut offsets = Vec::with_capacity(self.tokens.len());
        for token in self.tokens {
            // A token that goes on with a character begins where this does.
            offsets.push(offset - usize::from(offset > 0 && token.bytes.first().is_some_and(|byte| goes_on(*byte))));
            offset += characters(&token.bytes);
        }
        let texts: Vec<_> = self.tokens.iter().map(|token| text(&token.bytes)).collect();
        let logprobs: Vec<_> = self.tokens.iter().map(|token| sayable(token.logprob)).collect();
        let top: Vec<_> = self.tokens.iter().map(|token| Alternatives(token)).collect();
        let mut lists = serializer.serialize_struct("Logprobs", 4)?;
        lists.serialize_field("text_offset", &offsets)?;
        lists.serialize_field("token_logprobs", &logprobs)?;
        lists.serialize_field("tokens", &texts)?;
        lists.serialize_field("top_logprobs", &top)?;
        lists.end()
    }
}

/// The likeliest tokens, and the one that was taken.
struct Alternatives<'a>(&'a TokenLogprobs);

impl Serialize for Alternatives<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(token) = self;
        let mut map = serializer.serialize_map(None)?;
        for top in &token.top {
            map.serialize_entry(&text(&top.bytes), &sayable(top.logprob))?;
        }
        if !token.top.iter().any(|top| top.bytes == token.bytes) {
            map.serialize_entry(&text(&token.bytes), &sayable(token.logprob))?;
        }
        map.end()
    }
}

/// Characters that begin in these bytes.
pub fn characters(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| !goes_on(**byte)).count()
}

/// Whether a byte of UTF-8 is not the first of its character.
const fn goes_on(byte: u8) -> bool {
    byte & 0b1100_0000 == 0b1000_0000
}

/// A token's text; of one that is a part of a character its bytes, as OpenAI writes them.
fn text(bytes: &[u8]) -> String {
    match str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => format!("bytes:{}", bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect::<String>()),
    }
}
