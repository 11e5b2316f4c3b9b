//! Artifacts: JSON documents that are named by their content.

use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Number, Value};

use super::ErrorEnvelope;

/// Integers beyond this are not told apart by everybody who reads JSON, so two documents would get one id.
const MOST_EXACT: u64 = (1 << 53) - 1;
const MOST_EXACT_FLOAT: f64 = 9_007_199_254_740_991.0;

/// The body of `POST /v2/artifacts`.
#[derive(Debug, Clone, PartialEq)]
pub struct CreateArtifact {
    pub document: Value,
    /// 1 to 64 characters each, none of them a control character; sorted, each once.
    pub tags: Vec<String>,
    /// The ids of the artifacts that it was made from; sorted, each once.
    pub parents: Vec<String>,
}

impl CreateArtifact {
    /// Tags of one artifact.
    pub const MOST_TAGS: usize = 32;
    /// Parents of one artifact.
    pub const MOST_PARENTS: usize = 64;

    /// Reads a body. A field that the contract does not have, a key that is there twice and a number that is not exact are
    /// refused by name.
    ///
    /// # Errors
    ///
    /// INVALID_PARAMS with the path of the field.
    pub fn parse(body: &[u8]) -> Result<Self, ErrorEnvelope> {
        #[derive(Deserialize)]
        struct Body {
            document: Exact,
            #[serde(default)]
            tags: Vec<String>,
            #[serde(default)]
            parents: Vec<String>,
        }
        let Body { document: Exact(document), mut tags, mut parents } = crate::json::parse_known(body)?;
        let good = |tag: &str| (1..=64).contains(&tag.chars().count()) && !tag.chars().any(char::is_control);
        if let Some(at) = tags.iter().position(|tag| !good(tag)) {
            let message = "a tag has 1 to 64 characters and none of them is a control character";
            return Err(ErrorEnvelope::invalid(format!("tags[{at}]"), message));
        }
        if let Some(at) = parents.iter().position(|id| !is_id(id)) {
            return Err(ErrorEnvelope::invalid(format!("parents[{at}]"), "an id has 64 hex digits in lower case"));
        }
        for (name, list, most) in [("tags", &mut tags, Self::MOST_TAGS), ("parents", &mut parents, Self::MOST_PARENTS)]
        {
            list.sort_unstable();
            list.dedup();
            if list.len() > most {
                return Err(ErrorEnvelope::invalid(name, format!("an artifact has at most {most} {name}")));
            }
        }
        Ok(Self { document, tags, parents })
    }
}

/// Whether this may be the id of an artifact.
pub fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// What an artifact was made from, and what was made from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lineage {
    pub parents: Vec<String>,
    /// At most 1,000, the oldest first.
    pub children: Vec<String>,
}

/// The body of `GET /v2/artifacts/{id}`, and of the answer to a post.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ArtifactView {
    pub id: String,
    pub document: Value,
    pub tags: Vec<String>,
    pub lineage: Lineage,
    pub created_at_ms: u64,
    /// When tags or parents were last added.
    pub updated_at_ms: u64,
}

/// A JSON value that reads the same everywhere.
struct Exact(Value);

impl<'de> Deserialize<'de> for Exact {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ExactVisitor)
    }
}

struct ExactVisitor;

impl<'de> Visitor<'de> for ExactVisitor {
    type Value = Exact;

    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Exact, E> {
        Ok(Exact(Value::Null))
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Exact, E> {
        Ok(Exact(value.into()))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Exact, E> {
        if value.unsigned_abs() > MOST_EXACT { Err(inexact()) } else { Ok(Exact(value.into())) }
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Exact, E> {
        if value > MOST_EXACT { Err(inexact()) } else { Ok(Exact(value.into())) }
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Exact, E> {
        // Also an integer that is too long for any other type comes as this one.
        let exact = Number::from_f64(value).filter(|_| value.abs() <= MOST_EXACT_FLOAT);
        exact.map(|number| Exact(Value::Number(number))).ok_or_else(inexact)
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Exact, E> {
        Ok(Exact(value.into()))
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Exact, E> {
        Ok(Exact(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Exact, A::Error> {
        let mut values = Vec::new();
        while let Some(Exact(value)) = seq.next_element()? {
            values.push(value);
        }
        Ok(Exact(values.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Exact, A::Error> {
        let mut values = Map::new();
        while let Some((name, Exact(value))) = map.next_entry::<String, Exact>()? {
            // A name that is there twice is refused by whoever reads the body.
            values.insert(name, value);
        }
        Ok(Exact(values.into()))
    }
}

fn inexact<E: de::Error>() -> E {
    E::custom("a number beyond 2^53 - 1 is not exact in JSON; write it as a string")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(body: &str) -> (String, String) {
        let error = CreateArtifact::parse(body.as_bytes()).expect_err(body);
        (error.param.unwrap_or_default(), error.message)
    }

    #[test]
    fn what_a_document_would_lose_is_refused_by_name() {
        for (body, param) in [
            (r#"{"document": {"a": 9007199254740992}}"#, "document.a"),
            (r#"{"document": [-9007199254740992]}"#, "document[0]"),
            (r#"{"document": [12345678901234567890123]}"#, "document[0]"),
            (r#"{"document": [1e16]}"#, "document[0]"),
            (r#"{"document": {"a": {"b": 1, "b": 2}}}"#, "document.a"),
            (r#"{"document": 1, "tags": ["ok", ""]}"#, "tags[1]"),
            (r#"{"document": 1, "tags": ["a\u0000b"]}"#, "tags[0]"),
            (r#"{"document": 1, "parents": ["ABC"]}"#, "parents[0]"),
            (r#"{"document": 1, "colour": "red"}"#, "colour"),
            (r#"{"tags": []}"#, "document"),
        ] {
            let (named, message) = refused(body);
            assert!(named.starts_with(param), "{body}: {named}: {message}");
        }
        let many: Vec<_> = (0..33).map(|number| number.to_string()).collect();
        assert_eq!(refused(&serde_json::json!({"document": 1, "tags": many}).to_string()).0, "tags");
    }

    #[test]
    fn a_document_is_any_json_and_lists_are_sets() {
        for document in ["null", "true", "-1", "0.5", "\"x\"", "[]", "{\"a\":[9007199254740991]}"] {
            let body = format!(r#"{{"document": {document}, "tags": ["b", "a", "b"]}}"#);
            let read = CreateArtifact::parse(body.as_bytes()).unwrap_or_else(|error| panic!("{body}: {error:?}"));
            assert_eq!(read.document.to_string(), document);
            assert_eq!(read.tags, ["a", "b"]);
        }
    }
}
