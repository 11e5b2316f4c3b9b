//! The request as it is on the wire. Every field is optional here, and null is the same as absent; what must be there
//! is asked for by the translation, which can name the place.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::extension::Extension;
use crate::json::{Held, Object, StringOrList, StringOrObject};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Body {
    pub model: Option<String>,
    pub messages: Option<Vec<Object<MessageBody>>>,
    pub system: Option<StringOrList<Object<BlockBody>>>,
    pub max_tokens: Option<u32>,
    pub stop_sequences: Option<Vec<String>>,
    pub temperature: Option<f32>,
    pub top_p: Option<f32>,
    pub top_k: Option<u32>,
    pub stream: Option<bool>,
    pub metadata: Option<Object<MetadataBody>>,
    pub service_tier: Option<String>,

    pub tools: Option<Vec<Object<ToolBody>>>,
    pub tool_choice: Option<Object<ToolChoiceBody>>,
    pub thinking: Option<Object<ThinkingBody>>,
    pub output_config: Option<Object<OutputBody>>,
    /// The name of `output_config.format` while it was tried out.
    pub output_format: Option<Object<FormatBody>>,

    pub sluicegate: Option<Object<Extension>>,

    // Understood, and refused.
    pub container: Option<Value>,
    pub mcp_servers: Option<Vec<Value>>,
    pub thread: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct MetadataBody {
    pub user_id: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ThinkingBody {
    pub r#type: Option<String>,
    pub budget_tokens: Option<u32>,
    pub display: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct OutputBody {
    pub effort: Option<String>,
    pub format: Option<Object<FormatBody>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct FormatBody {
    pub r#type: Option<String>,
    pub schema: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct MessageBody {
    pub role: Option<String>,
    pub content: Option<StringOrList<Object<BlockBody>>>,
}

/// A block of content, of whichever type.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct BlockBody {
    pub r#type: Option<String>,
    /// Of a text.
    pub text: Option<String>,
    /// Of earlier reasoning.
    pub thinking: Option<String>,
    /// The same; nobody has to prove where it comes from.
    #[serde(rename = "signature")]
    pub _signature: Option<String>,
    /// Of earlier reasoning that only Anthropic's service can read.
    #[serde(rename = "data")]
    pub _data: Option<String>,
    /// Of a call.
    pub id: Option<String>,
    /// The same.
    pub name: Option<String>,
    /// The same: its arguments.
    pub input: Option<Map<String, Value>>,
    /// Of what a call has come to.
    pub tool_use_id: Option<String>,
    /// The same.
    pub content: Option<Held<StringOrList<Object<BlockBody>>>>,
    /// The same.
    pub is_error: Option<bool>,
    /// Of an image; of a document, which is refused.
    pub source: Option<StringOrObject<Object<SourceBody>>>,
}

/// Where an image comes from.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct SourceBody {
    pub r#type: Option<String>,
    pub media_type: Option<String>,
    /// In base64.
    pub data: Option<String>,
    pub url: Option<String>,
    /// Of an upload, or of a document in blocks, which are refused: declared so that they are not reported as unknown.
    #[serde(rename = "file_id")]
    pub _file_id: Option<Value>,
    #[serde(rename = "content")]
    pub _content: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ToolBody {
    pub r#type: Option<String>,
    pub name: Option<String>,
    pub description: Option<String>,
    pub input_schema: Option<Value>,
    pub strict: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ToolChoiceBody {
    pub r#type: Option<String>,
    pub name: Option<String>,
    pub disable_parallel_tool_use: Option<bool>,
}
