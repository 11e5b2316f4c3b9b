//! The request as it is on the wire. Every field is optional here, and null is the same as absent; what must be there
//! is asked for by the translation, which can name the place.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::json::{Object, StringOrList, StringOrObject};
use crate::openai::extension::Extension;
use crate::openai::fields::{AudioBody, StreamOptions};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Body {
    pub model: Option<String>,
    pub messages: Option<Vec<Object<MessageBody>>>,
    pub max_tokens: Option<u32>,
    pub max_completion_tokens: Option<u32>,
    pub temperature: Option<f32>,
    pub top_p: Option<f32>,
    pub n: Option<u32>,
    pub stop: Option<StringOrList<String>>,
    pub seed: Option<i64>,
    pub presence_penalty: Option<f32>,
    pub frequency_penalty: Option<f32>,
    /// Token ids as strings.
    pub logit_bias: Option<BTreeMap<String, f32>>,
    pub logprobs: Option<bool>,
    pub top_logprobs: Option<u8>,
    pub stream: Option<bool>,
    pub stream_options: Option<Object<StreamOptions>>,
    pub response_format: Option<Object<ResponseFormat>>,
    pub reasoning_effort: Option<String>,
    pub service_tier: Option<String>,
    pub prompt_cache_key: Option<String>,
    pub user: Option<String>,
    pub safety_identifier: Option<String>,
    pub metadata: Option<BTreeMap<String, String>>,
    pub store: Option<bool>,

    pub tools: Option<Vec<Object<ToolBody>>>,
    pub tool_choice: Option<StringOrObject<Object<ChoiceBody>>>,
    pub parallel_tool_calls: Option<bool>,
    /// The name of `tools` before 2023-12.
    pub functions: Option<Vec<Object<FunctionBody>>>,
    /// The name of `tool_choice` before 2023-12.
    pub function_call: Option<FunctionChoice>,

    // Extensions that are common among engines.
    pub top_k: Option<u32>,
    pub min_p: Option<f32>,
    pub repetition_penalty: Option<f32>,
    pub chat_template_kwargs: Option<BTreeMap<String, Value>>,

    pub sluicegate: Option<Object<Extension>>,

    // Understood, and refused.
    pub modalities: Option<Vec<String>>,
    pub audio: Option<Value>,
    pub web_search_options: Option<Value>,
    pub prediction: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ResponseFormat {
    pub r#type: Option<String>,
    pub json_schema: Option<Object<JsonSchemaFormat>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct JsonSchemaFormat {
    pub name: Option<String>,
    /// For models that are told the schema in words; here it is enforced.
    #[serde(rename = "description")]
    pub _description: Option<String>,
    pub schema: Option<Value>,
    /// Enforced either way.
    #[serde(rename = "strict")]
    pub _strict: Option<bool>,
}

/// One message, of whichever role.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct MessageBody {
    pub role: Option<String>,
    pub content: Option<StringOrList<Object<PartBody>>>,
    pub name: Option<String>,
    pub refusal: Option<String>,
    /// Part of every earlier answer; the model is not shown them.
    pub annotations: Option<Vec<Value>>,
    pub reasoning_content: Option<String>,
    pub tool_calls: Option<Vec<Object<ToolCallBody>>>,
    pub tool_call_id: Option<String>,
    pub function_call: Option<Object<CallBody>>,
    /// An earlier answer in audio, by its id.
    pub audio: Option<Value>,
}

/// One part of a message's content.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct PartBody {
    pub r#type: Option<String>,
    pub text: Option<String>,
    pub refusal: Option<String>,
    pub image_url: Option<Object<ImageBody>>,
    pub input_audio: Option<Object<AudioBody>>,
    // What the parts that are refused hold: declared so that it is not reported as unknown.
    #[serde(rename = "file")]
    pub _file: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ImageBody {
    pub url: Option<String>,
    pub detail: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ToolBody {
    pub r#type: Option<String>,
    pub function: Option<Object<FunctionBody>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct FunctionBody {
    pub name: Option<String>,
    pub description: Option<String>,
    pub parameters: Option<Value>,
    pub strict: Option<bool>,
}

/// A choice of one function, or of some.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ChoiceBody {
    pub r#type: Option<String>,
    pub function: Option<Object<CallBody>>,
    pub allowed_tools: Option<Object<AllowedBody>>,
    /// Of a choice that is refused: declared so that it is not reported as unknown.
    #[serde(rename = "custom")]
    pub _custom: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct AllowedBody {
    pub mode: Option<String>,
    pub tools: Option<Vec<Object<ToolBody>>>,
}

/// A call in an earlier answer of the assistant.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ToolCallBody {
    pub id: Option<String>,
    pub r#type: Option<String>,
    pub function: Option<Object<CallBody>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct CallBody {
    pub name: Option<String>,
    pub arguments: Option<String>,
}

/// `"none"`, `"auto"` or `{"name": …}`.
#[derive(Debug)]
pub enum FunctionChoice {
    Word(String),
    Named(Option<String>),
}

impl<'de> Deserialize<'de> for FunctionChoice {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::{Error, MapAccess, Visitor, value::MapAccessDeserializer};

        struct ChoiceVisitor;

        impl<'de> Visitor<'de> for ChoiceVisitor {
            type Value = FunctionChoice;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str(r#""none", "auto" or {"name": …}"#)
            }

            fn visit_str<E: Error>(self, word: &str) -> Result<FunctionChoice, E> {
                Ok(FunctionChoice::Word(word.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<FunctionChoice, A::Error> {
                let named = CallBody::deserialize(MapAccessDeserializer::new(map))?;
                Ok(FunctionChoice::Named(named.name))
            }
        }

        deserializer.deserialize_any(ChoiceVisitor)
    }
}
