//! Fields that several endpoints have, and what they mean in a task.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::chat::ServiceTier;
use crate::dialect::pass_over;
use crate::json::{Object, StringOrList, invalid, missing, not_served, one_of};
use crate::native::{
    ContentPart, Detail, ErrorEnvelope, Image, ReasoningEffort, Recording, Role, SoundFormat, TaskRequest,
};

/// Bytes of a value of a task's metadata.
const MOST_NOTED: usize = 512;

/// Of a task's metadata.
const MOST_PAIRS: usize = 16;

/// Of which type tools are.
pub const ONLY_FUNCTIONS: &str = "the only tools that are served are those of the type 'function'";

/// What a client wants of a stream.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct StreamOptions {
    pub include_usage: Option<bool>,
    pub include_obfuscation: Option<bool>,
}

/// A recording as it is sent.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct AudioBody {
    pub data: Option<String>,
    pub format: Option<String>,
}

/// An image of the part at `path`, whose address stands in its field `url`.
pub fn image(
    url: Option<String>,
    detail: Option<&str>,
    (path, [url_field, detail_field]): (String, [&str; 2]),
) -> Result<ContentPart, ErrorEnvelope> {
    let url = url.ok_or_else(|| missing(format!("{path}.{url_field}")))?;
    let detail = detail.map(|word| one_of(format!("{path}.{detail_field}"), word, &Detail::WORDS)).transpose()?;
    Ok(ContentPart::ImageUrl { image_url: Image { url, detail, place: Some(path) } })
}

/// The recording of the part at `path`.
pub fn recording(body: Object<AudioBody>, path: String) -> Result<ContentPart, ErrorEnvelope> {
    let Object(AudioBody { data, format }) = body;
    let data = data.ok_or_else(|| missing(format!("{path}.input_audio.data")))?;
    let format = format.ok_or_else(|| missing(format!("{path}.input_audio.format")))?;
    let format = one_of(format!("{path}.input_audio.format"), &format, &SoundFormat::WORDS)?;
    Ok(ContentPart::InputAudio { input_audio: Recording { data, format, place: Some(path) } })
}

/// Nobody but the user shows a model something beside text.
pub fn only_by_user(role: Role, path: &str, what: &str) -> Result<(), ErrorEnvelope> {
    if role == Role::User {
        return Ok(());
    }
    Err(not_served(path, format!("{what} stand in messages of the user only")))
}

pub fn stop_strings(stop: Option<StringOrList<String>>) -> Vec<String> {
    match stop {
        None => Vec::new(),
        Some(StringOrList::String(stop)) => vec![stop],
        Some(StringOrList::List(stops)) => stops,
    }
}

pub fn logit_bias(biases: BTreeMap<String, f32>) -> Result<BTreeMap<u32, f32>, ErrorEnvelope> {
    let mut numbered = BTreeMap::new();
    for (key, bias) in biases {
        let token = key.parse().ok().filter(|_| key.bytes().all(|byte| byte.is_ascii_digit()));
        let token =
            token.ok_or_else(|| invalid("logit_bias", "each key is the id of a token, as a string of digits"))?;
        if numbered.insert(token, bias).is_some() {
            return Err(invalid("logit_bias", format!("the token {token} has two biases")));
        }
    }
    Ok(numbered)
}

/// Whether a stream tells its usage at the end; fields without effect are added to `ignored`.
pub fn include_usage(
    stream: bool,
    options: Option<Object<StreamOptions>>,
    ignored: &mut Vec<String>,
) -> Result<bool, ErrorEnvelope> {
    let Some(Object(options)) = options else { return Ok(false) };
    if !stream {
        return Err(invalid("stream_options", "it is only allowed together with 'stream': true"));
    }
    if options.include_obfuscation == Some(true) {
        ignored.push("stream_options.include_obfuscation".to_owned());
    }
    Ok(options.include_usage.unwrap_or(false))
}

/// Adds what a client says of whose request it is to the metadata of the task, where it can be found; to `ignored` where it
/// has no room there.
pub fn note(task: &mut TaskRequest, name: &str, value: Option<String>, ignored: &mut Vec<String>) {
    let Some(value) = value else { return };
    if value.len() > MOST_NOTED || task.metadata.len() >= MOST_PAIRS || task.metadata.contains_key(name) {
        return pass_over(name, ignored);
    }
    task.metadata.insert(name.to_owned(), value);
}

/// How much the model is to reason; `param` is what the client calls it.
pub fn reasoning_effort(param: &str, word: &str) -> Result<ReasoningEffort, ErrorEnvelope> {
    let words = [
        ("none", ReasoningEffort::None),
        ("minimal", ReasoningEffort::Minimal),
        ("low", ReasoningEffort::Low),
        ("medium", ReasoningEffort::Medium),
        ("high", ReasoningEffort::High),
        ("xhigh", ReasoningEffort::Xhigh),
        ("max", ReasoningEffort::Xhigh),
    ];
    one_of(param, word, &words)
}

/// Tiers that are sold and not served are answered with the default one, as OpenAI does when it has no room.
pub fn service_tier(word: &str) -> Result<ServiceTier, ErrorEnvelope> {
    let words = [
        ("auto", ServiceTier::Default),
        ("default", ServiceTier::Default),
        ("flex", ServiceTier::Flex),
        ("priority", ServiceTier::Default),
        ("fast", ServiceTier::Default),
        ("scale", ServiceTier::Default),
        ("ultrafast", ServiceTier::Default),
    ];
    one_of("service_tier", word, &words)
}
