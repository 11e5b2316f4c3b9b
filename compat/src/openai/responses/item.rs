//! Items: what a conversation consists of, as it goes in and as it comes out.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::native::{ContentPart, Detail, Image, Recording, Role};

/// One item of a conversation, with its id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Item {
    Message {
        id: String,
        role: Role,
        status: Status,
        content: Vec<Part>,
    },
    FunctionCall {
        id: String,
        /// Ties the output to the call.
        call_id: String,
        name: String,
        /// A JSON object as a string, as the model wrote it.
        arguments: String,
        status: Status,
    },
    FunctionCallOutput {
        id: String,
        call_id: String,
        output: String,
        status: Status,
    },
    Reasoning {
        id: String,
        /// There is none: the reasoning itself is in `content`.
        summary: Vec<Value>,
        content: Vec<Part>,
        encrypted_content: Option<String>,
        status: Status,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    InProgress,
    Completed,
    Incomplete,
}

/// A part of a message or of reasoning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Part {
    InputText {
        text: String,
    },
    InputImage {
        image_url: String,
        detail: Detail,
        /// There is none: files are not kept here.
        file_id: Option<String>,
        /// Where it stands in the request that brought it.
        #[serde(skip)]
        place: Option<String>,
    },
    InputAudio {
        input_audio: Recording,
    },
    OutputText {
        text: String,
        /// Citations of a search; there is none.
        annotations: Vec<Value>,
        /// Empty where they were not asked for.
        logprobs: Vec<Value>,
    },
    Refusal {
        refusal: String,
    },
    ReasoningText {
        text: String,
    },
}

impl Part {
    /// What it says; nothing where it is no text.
    pub fn text(&self) -> &str {
        match self {
            Self::InputText { text } | Self::OutputText { text, .. } | Self::ReasoningText { text } => text,
            Self::Refusal { refusal } => refusal,
            Self::InputImage { .. } | Self::InputAudio { .. } => "",
        }
    }

    /// Whether it is an image or a recording.
    pub fn is_shown(&self) -> bool {
        matches!(self, Self::InputImage { .. } | Self::InputAudio { .. })
    }

    /// What the model is shown of it.
    pub fn content(&self) -> ContentPart {
        match self {
            Self::InputImage { image_url, detail, place, .. } => {
                let detail = Some(*detail).filter(|detail| *detail != Detail::Auto);
                ContentPart::ImageUrl { image_url: Image { url: image_url.clone(), detail, place: place.clone() } }
            }
            Self::InputAudio { input_audio } => ContentPart::InputAudio { input_audio: input_audio.clone() },
            said => ContentPart::Text { text: said.text().to_owned() },
        }
    }

    /// An output with nothing in it yet.
    pub fn output() -> Self {
        Self::OutputText { text: String::new(), annotations: Vec::new(), logprobs: Vec::new() }
    }
}

impl From<ContentPart> for Part {
    /// What a user says or shows.
    fn from(part: ContentPart) -> Self {
        match part {
            ContentPart::Text { text } => Self::InputText { text },
            ContentPart::InputAudio { input_audio } => Self::InputAudio { input_audio },
            ContentPart::ImageUrl { image_url: Image { url, detail, place } } => {
                Self::InputImage { image_url: url, detail: detail.unwrap_or(Detail::Auto), file_id: None, place }
            }
        }
    }
}

impl Item {
    pub fn id(&self) -> &str {
        match self {
            Self::Message { id, .. }
            | Self::FunctionCall { id, .. }
            | Self::FunctionCallOutput { id, .. }
            | Self::Reasoning { id, .. } => id,
        }
    }

    pub fn status_mut(&mut self) -> &mut Status {
        match self {
            Self::Message { status, .. }
            | Self::FunctionCall { status, .. }
            | Self::FunctionCallOutput { status, .. }
            | Self::Reasoning { status, .. } => status,
        }
    }

    /// What it says, of a message or of reasoning.
    pub fn parts_mut(&mut self) -> Option<&mut Vec<Part>> {
        match self {
            Self::Message { content, .. } | Self::Reasoning { content, .. } => Some(content),
            Self::FunctionCall { .. } | Self::FunctionCallOutput { .. } => None,
        }
    }
}

/// The id of an item: what it is, the task that it is of, and its place there. So an item is found by its id alone.
pub fn id(kind: &str, task: Uuid, place: Place) -> String {
    let letter = match place {
        Place::Input(_) => "i",
        Place::Output(_) => "o",
    };
    let (Place::Input(index) | Place::Output(index)) = place;
    format!("{kind}_{}{letter}{index}", task.simple())
}

/// Where an item is in a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Among what the model was shown.
    Input(usize),
    /// Among what it answered.
    Output(usize),
}

/// The task and the place that an item's id names; `None` where it was not made by [`id`].
pub fn place(id: &str) -> Option<(Uuid, Place)> {
    let (_, rest) = id.split_once('_')?;
    let (task, index) = rest.split_at_checked(32)?;
    let task = Uuid::try_parse(task).ok()?;
    let place = match index.split_at_checked(1)? {
        ("i", index) => Place::Input(index.parse().ok()?),
        ("o", index) => Place::Output(index.parse().ok()?),
        _ => return None,
    };
    Some((task, place))
}
