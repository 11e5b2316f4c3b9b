//! What a message may show a model beside text: images and recordings, as OpenAI's chat messages hold them.

use serde::{Deserialize, Serialize};

use super::{Content, ContentPart, Message, Role, Violation};

/// What a model takes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Modality {
    Text,
    Image,
    Audio,
}

impl Modality {
    pub const ALL: [Self; 3] = [Self::Text, Self::Image, Self::Audio];

    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Image => "image",
            Self::Audio => "audio",
        }
    }
}

/// An image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// A `data:` URL with PNG, JPEG, WebP or GIF in base64, or an address.
    pub url: String,
    /// How closely the model is to look, for engines that know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<Detail>,
    /// Where it stands in the client's body, where that is not a native one.
    #[serde(skip)]
    pub place: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Detail {
    Auto,
    Low,
    High,
    Original,
}

impl Detail {
    /// The words and what they mean.
    pub const WORDS: [(&'static str, Self); 4] =
        [("auto", Self::Auto), ("low", Self::Low), ("high", Self::High), ("original", Self::Original)];
}

/// A recording.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recording {
    /// In base64.
    pub data: String,
    pub format: SoundFormat,
    /// Where it stands in the client's body, where that is not a native one.
    #[serde(skip)]
    pub place: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SoundFormat {
    Wav,
    Mp3,
}

impl SoundFormat {
    /// The words and what they mean.
    pub const WORDS: [(&'static str, Self); 2] = [("wav", Self::Wav), ("mp3", Self::Mp3)];
}

/// An image or a recording in a request.
#[derive(Debug)]
pub enum Shown<'a> {
    Image(&'a mut Image),
    Recording(&'a mut Recording),
}

impl Shown<'_> {
    pub fn modality(&self) -> Modality {
        match self {
            Self::Image(_) => Modality::Image,
            Self::Recording(_) => Modality::Audio,
        }
    }

    fn place(&self) -> Option<&str> {
        match self {
            Self::Image(image) => image.place.as_deref(),
            Self::Recording(recording) => recording.place.as_deref(),
        }
    }
}

impl ContentPart {
    pub fn modality(&self) -> Modality {
        match self {
            Self::Text { .. } => Modality::Text,
            Self::ImageUrl { .. } => Modality::Image,
            Self::InputAudio { .. } => Modality::Audio,
        }
    }

    fn shown(&mut self) -> Option<Shown<'_>> {
        match self {
            Self::Text { .. } => None,
            Self::ImageUrl { image_url } => Some(Shown::Image(image_url)),
            Self::InputAudio { input_audio } => Some(Shown::Recording(input_audio)),
        }
    }
}

/// What the messages show beside text, in order, each with its place as the client knows it.
pub fn shown(messages: &mut [Message]) -> impl Iterator<Item = (String, Shown<'_>)> {
    messages.iter_mut().enumerate().flat_map(|(index, message)| {
        let parts = match &mut message.content {
            Some(Content::Parts(parts)) => parts.as_mut_slice(),
            _ => &mut [],
        };
        parts.iter_mut().enumerate().filter_map(move |(part, content)| {
            let shown = content.shown()?;
            Some((shown.place().map_or_else(|| place(index, part), str::to_owned), shown))
        })
    })
}

/// The first part of the messages that is of this modality: its place as the client knows it.
pub fn first_of(messages: &[Message], wanted: Modality) -> Option<String> {
    each(messages).find(|(.., part)| part.modality() == wanted).map(|(index, at, part)| {
        let known = match part {
            ContentPart::Text { .. } => None,
            ContentPart::ImageUrl { image_url } => image_url.place.clone(),
            ContentPart::InputAudio { input_audio } => input_audio.place.clone(),
        };
        known.unwrap_or_else(|| place(index, at))
    })
}

fn each(messages: &[Message]) -> impl Iterator<Item = (usize, usize, &ContentPart)> {
    messages.iter().enumerate().flat_map(|(index, message)| {
        let parts = message.content.as_ref().map_or(&[][..], Content::parts);
        parts.iter().enumerate().map(move |(part, content)| (index, part, content))
    })
}

fn place(message: usize, part: usize) -> String {
    format!("messages[{message}].content[{part}]")
}

/// Templates have a place for what a user shows, and for nothing else.
pub(super) fn check(messages: &[Message]) -> Result<(), Violation> {
    for (index, part, content) in each(messages) {
        let by_user = messages.get(index).is_some_and(|message| message.role == Role::User);
        if content.modality() != Modality::Text && !by_user {
            let message = "images and recordings stand in messages of the user";
            return Err(Violation { param: place(index, part).into(), message });
        }
        if let ContentPart::ImageUrl { image_url } = content {
            let known = ["data:", "https://", "http://"];
            let known = known.iter().any(|scheme| {
                image_url.url.get(..scheme.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(scheme))
            });
            if !known {
                let message = "a data: URL, or an address that begins with https://";
                return Err(Violation {
                    param: image_url.place.clone().unwrap_or_else(|| place(index, part)).into(),
                    message,
                });
            }
        }
    }
    Ok(())
}
