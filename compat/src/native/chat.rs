//! Chat messages and tools, in the form that chat templates expect and that every dialect is translated to.

use std::fmt;

use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::media::{Image, Modality, Recording};

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    pub role: Role,
    #[serde(default)]
    pub content: Option<Content>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
}

impl Message {
    /// A message of plain text.
    pub fn text(role: Role, content: impl Into<String>) -> Self {
        Self {
            role,
            content: Some(Content::Text(content.into())),
            name: None,
            reasoning_content: None,
            tool_calls: Vec::new(),
            tool_call_id: None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    System,
    /// The newer name of `system`; templates see it as `system`.
    Developer,
    User,
    Assistant,
    Tool,
}

/// The content of a message: a string, or parts.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Content {
    Text(String),
    Parts(Vec<ContentPart>),
}

impl Content {
    /// Bytes of text.
    pub fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Parts(parts) => parts.iter().map(|part| part.text().len()).sum(),
        }
    }

    /// Bytes of what it shows beside text, as it is written.
    pub fn shown_len(&self) -> usize {
        let shown = |part: &ContentPart| match part {
            ContentPart::Text { .. } => 0,
            ContentPart::ImageUrl { image_url } => image_url.url.len(),
            ContentPart::InputAudio { input_audio } => input_audio.data.len(),
        };
        self.parts().iter().map(shown).sum()
    }

    /// Its parts; none where it is a string.
    pub fn parts(&self) -> &[ContentPart] {
        match self {
            Self::Text(_) => &[],
            Self::Parts(parts) => parts,
        }
    }

    /// How many images and recordings it shows.
    pub fn shown(&self) -> usize {
        self.parts().iter().filter(|part| part.modality() != Modality::Text).count()
    }

    /// Whether there is no text.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The whole text; parts are joined without a separator, and of those that are no text nothing is left.
    pub fn into_text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Parts(parts) => parts.iter().map(ContentPart::text).collect(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", try_from = "PartBody")]
pub enum ContentPart {
    Text { text: String },
    ImageUrl { image_url: Image },
    InputAudio { input_audio: Recording },
}

impl ContentPart {
    /// What it says; nothing where it is no text.
    pub fn text(&self) -> &str {
        match self {
            Self::Text { text } => text,
            Self::ImageUrl { .. } | Self::InputAudio { .. } => "",
        }
    }
}

/// A part as it is read: by its fields, because a derived tagged enum loses the place of a mistake and takes any field.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PartBody {
    r#type: PartKind,
    #[serde(default)]
    text: Option<String>,
    #[serde(default, deserialize_with = "crate::json::object")]
    image_url: Option<Image>,
    #[serde(default, deserialize_with = "crate::json::object")]
    input_audio: Option<Recording>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum PartKind {
    Text,
    ImageUrl,
    InputAudio,
}

impl TryFrom<PartBody> for ContentPart {
    /// The words that serde has for it.
    type Error = &'static str;

    fn try_from(body: PartBody) -> Result<Self, Self::Error> {
        match (body.r#type, body.text, body.image_url, body.input_audio) {
            (PartKind::Text, Some(text), None, None) => Ok(Self::Text { text }),
            (PartKind::ImageUrl, None, Some(image_url), None) => Ok(Self::ImageUrl { image_url }),
            (PartKind::InputAudio, None, None, Some(input_audio)) => Ok(Self::InputAudio { input_audio }),
            (PartKind::Text, None, ..) => Err("missing field `text`"),
            (PartKind::ImageUrl, _, None, _) => Err("missing field `image_url`"),
            (PartKind::InputAudio, _, _, None) => Err("missing field `input_audio`"),
            _ => Err("a part holds what its type says, and nothing else"),
        }
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ContentVisitor;

        impl<'de> Visitor<'de> for ContentVisitor {
            type Value = Content;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a string or a list of content parts")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Content, E> {
                Ok(Content::Text(text.to_owned()))
            }

            fn visit_string<E: de::Error>(self, text: String) -> Result<Content, E> {
                Ok(Content::Text(text))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Content, A::Error> {
                Vec::deserialize(de::value::SeqAccessDeserializer::new(seq)).map(Content::Parts)
            }
        }

        deserializer.deserialize_any(ContentVisitor)
    }
}

/// A function that the model may call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tool {
    pub r#type: FunctionTag,
    pub function: FunctionDefinition,
}

/// The literal `"function"`: the only kind of tool there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FunctionTag {
    #[default]
    Function,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FunctionDefinition {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The arguments as a JSON schema.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<serde_json::Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strict: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    pub id: String,
    #[serde(default)]
    pub r#type: FunctionTag,
    pub function: FunctionCall,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FunctionCall {
    pub name: String,
    /// A JSON object as a string, as the model wrote it.
    pub arguments: String,
}

/// Whether and what the model must call: `"none"`, `"auto"`, `"required"` or `{"type": "function", "function": {"name"}}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolChoice {
    None,
    Auto,
    Required,
    Function(String),
}

impl Serialize for ToolChoice {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::None => serializer.serialize_str("none"),
            Self::Auto => serializer.serialize_str("auto"),
            Self::Required => serializer.serialize_str("required"),
            Self::Function(name) => {
                serde_json::json!({"type": "function", "function": {"name": name}}).serialize(serializer)
            }
        }
    }
}

impl<'de> Deserialize<'de> for ToolChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Named {
            #[serde(rename = "type")]
            _type: FunctionTag,
            function: Name,
        }
        #[derive(Deserialize)]
        struct Name {
            name: String,
        }
        struct ChoiceVisitor;

        impl<'de> Visitor<'de> for ChoiceVisitor {
            type Value = ToolChoice;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str(r#""none", "auto", "required" or {"type": "function", "function": {"name": …}}"#)
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<ToolChoice, E> {
                match word {
                    "none" => Ok(ToolChoice::None),
                    "auto" => Ok(ToolChoice::Auto),
                    "required" => Ok(ToolChoice::Required),
                    other => Err(E::invalid_value(de::Unexpected::Str(other), &self)),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ToolChoice, A::Error> {
                let named = Named::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(ToolChoice::Function(named.function.name))
            }
        }

        deserializer.deserialize_any(ChoiceVisitor)
    }
}
