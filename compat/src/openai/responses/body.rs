//! The request as it is on the wire. Every field is optional here, and null is the same as absent; what must be there
//! is asked for by the translation, which can name the place.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::json::{Held, Object, StringOrList, StringOrObject};
use crate::openai::extension::Extension;
use crate::openai::fields::{AudioBody, StreamOptions};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Body {
    pub model: Option<String>,
    pub input: Option<StringOrList<Object<ItemBody>>>,
    pub instructions: Option<String>,
    pub previous_response_id: Option<String>,
    pub max_output_tokens: Option<u32>,
    pub max_tool_calls: Option<u32>,
    pub temperature: Option<f32>,
    pub top_p: Option<f32>,
    pub top_logprobs: Option<u8>,
    pub include: Option<Vec<String>>,
    pub background: Option<bool>,
    pub store: Option<bool>,
    pub stream: Option<bool>,
    pub stream_options: Option<Object<StreamOptions>>,
    pub text: Option<Object<TextBody>>,
    pub reasoning: Option<Object<ReasoningBody>>,
    pub tools: Option<Vec<Object<ToolBody>>>,
    pub tool_choice: Option<StringOrObject<Object<ChoiceBody>>>,
    pub parallel_tool_calls: Option<bool>,
    pub truncation: Option<String>,
    pub service_tier: Option<String>,
    pub metadata: Option<BTreeMap<String, String>>,
    pub prompt_cache_key: Option<String>,
    pub user: Option<String>,
    pub safety_identifier: Option<String>,
    pub sluicegate: Option<Object<Extension>>,

    // Understood, and refused.
    pub conversation: Option<Value>,
    pub prompt: Option<Value>,
}

/// One item of the input, of whichever type.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ItemBody {
    pub r#type: Option<String>,
    pub id: Option<String>,
    pub role: Option<String>,
    pub content: Option<StringOrList<Object<PartBody>>>,
    /// Of an item that came from an answer; every item that comes back is whole.
    #[serde(rename = "status")]
    pub _status: Option<String>,
    pub call_id: Option<String>,
    pub name: Option<String>,
    pub arguments: Option<Held<String>>,
    pub output: Option<Held<StringOrList<Object<PartBody>>>>,
    pub summary: Option<Vec<Object<PartBody>>>,
    /// Reasoning of a model elsewhere, which nobody here can read.
    pub encrypted_content: Option<String>,
}

/// One part of a content.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct PartBody {
    pub r#type: Option<String>,
    pub text: Option<String>,
    pub refusal: Option<String>,
    // Part of every earlier answer; the model is not shown them.
    pub annotations: Option<Vec<Value>>,
    pub logprobs: Option<Vec<Value>>,
    pub image_url: Option<String>,
    pub detail: Option<String>,
    pub input_audio: Option<Object<AudioBody>>,
    pub file_id: Option<String>,
    // What the parts that are refused hold: declared so that it is not reported as unknown.
    #[serde(rename = "file_data")]
    pub _file_data: Option<Value>,
    #[serde(rename = "file_url")]
    pub _file_url: Option<Value>,
    #[serde(rename = "filename")]
    pub _filename: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct TextBody {
    pub format: Option<Object<FormatBody>>,
    pub verbosity: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct FormatBody {
    pub r#type: Option<String>,
    pub name: Option<String>,
    pub description: Option<String>,
    pub schema: Option<Value>,
    /// Enforced either way.
    pub strict: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ReasoningBody {
    pub effort: Option<String>,
    pub summary: Option<String>,
    pub generate_summary: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ToolBody {
    pub r#type: Option<String>,
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
    pub name: Option<String>,
    pub mode: Option<String>,
    pub tools: Option<Vec<Object<ToolBody>>>,
}
