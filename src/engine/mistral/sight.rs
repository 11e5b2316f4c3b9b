//! Models that see: those of the family Gemma 3, whose images have one size and one number of tokens.
//!
//! The engine takes images only together with a conversation, which it renders, tokenizes, turns back into text, and
//! tokenizes again with the tokens of the images in it. So it is given a template that writes one message as it is, and
//! that message is what our template has rendered; the same is done here beforehand, so that the tokens are known before
//! the prompt is admitted, and the processor sees to it that the engine has come to the same.
//!
//! Other families are not loaded: in mistralrs 0.8.1 the number of tokens of their images depends on the image, or more
//! than one is computed wrongly (Qwen), or the prompt is replaced (Voxtral).

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use image::DynamicImage;
use image::imageops::FilterType;
use mistralrs::core::{Loader, MultimodalLoaderBuilder, MultimodalLoaderType, MultimodalSpecificConfig};
use mistralrs::{MessageContent, RequestMessage};
use serde::Deserialize;
use serde_json::Value;
use sluicegate_compat::native::{Content, ContentPart};
use tempfile::NamedTempFile;

use super::check::{fault, required_json};
use crate::engine::text::TextModel;
use crate::engine::{Chat, LoadError, Prepared, Prompt, PromptError};
use crate::media;

/// The architecture of the family, in `config.json`.
pub const ARCHITECTURE: &str = "Gemma3ForConditionalGeneration";

/// Rows of the embedding where the configuration leaves it out, as published ones do.
pub const VOCAB_SIZE: u64 = 262_208;

/// What a template writes where an image is, and what the engine makes of that.
const IMAGE: &str = "<start_of_image>";
const IMAGE_TOKEN: &str = "<image_soft_token>";
const END: &str = "<end_of_image>";

/// Tokens of an image where the configuration says nothing.
const TOKENS: usize = 256;

/// Images are made this large at most, in pixels of a side.
const LARGEST: u32 = 4096;

/// Writes the one message as it is.
const TEMPLATE: &str = "{{ messages[0]['content'] }}";

/// How images are shown to a model.
#[derive(Debug)]
pub struct Sight {
    /// Of an image, apart from those around it.
    tokens: usize,
    /// The id of each of them.
    token: u64,
    /// Held to decode: an image may take hundreds of MB then, and is small afterwards.
    decoding: Mutex<()>,
    width: u32,
    height: u32,
    filter: FilterType,
    /// An image in the prompt's text.
    expanded: String,
}

/// What is read of `preprocessor_config.json`.
#[derive(Deserialize)]
struct Preprocessor {
    size: Size,
    resample: Option<u64>,
    do_pan_and_scan: Option<bool>,
    do_resize: Option<bool>,
    do_rescale: Option<bool>,
    rescale_factor: Option<f64>,
    do_normalize: Option<bool>,
}

#[derive(Deserialize)]
struct Size {
    width: u32,
    height: u32,
}

/// What is read of `processor_config.json`.
#[derive(Deserialize)]
struct Processor {
    image_seq_length: Option<usize>,
    image_seq_len: Option<usize>,
    chat_template: Option<Value>,
}

impl Sight {
    /// Reads how the model of a folder sees; `config` is its `config.json`.
    pub fn of(folder: &Path, config: &Value) -> Result<Option<Self>, LoadError> {
        if config["architectures"][0] != ARCHITECTURE || config["vision_config"].is_null() {
            return Ok(None);
        }
        let path = folder.join("preprocessor_config.json");
        let preprocessor: Preprocessor = required_json(&path)?;
        let Size { width, height } = preprocessor.size;
        if !(1..=LARGEST).contains(&width) || !(1..=LARGEST).contains(&height) {
            return Err(fault(&path, format_args!("images of {width} x {height} pixels are not served")));
        }
        // The engine has no other way, and takes these for granted.
        let whole = [preprocessor.do_resize, preprocessor.do_rescale, preprocessor.do_normalize];
        if whole != [Some(true); 3] || preprocessor.rescale_factor.is_none() {
            return Err(fault(&path, "images are resized, rescaled and normalized, and it does not say so"));
        }
        if preprocessor.do_pan_and_scan == Some(true) {
            return Err(fault(&path, "`do_pan_and_scan` is not served"));
        }
        let filter = match preprocessor.resample {
            None | Some(2) => FilterType::Triangle,
            Some(0 | 4) => FilterType::Nearest,
            Some(1) => FilterType::Lanczos3,
            Some(3) => FilterType::CatmullRom,
            Some(other) => return Err(fault(&path, format_args!("`resample` is {other}, which is not served"))),
        };
        let path = folder.join("processor_config.json");
        let processor: Option<Processor> = path.exists().then(|| required_json(&path)).transpose()?;
        if processor.as_ref().is_some_and(|processor| processor.chat_template.is_some()) {
            return Err(fault(&path, "a chat template stands in a file of its own"));
        }
        let tokens = processor.and_then(|processor| processor.image_seq_len.or(processor.image_seq_length));
        let tokens = tokens.unwrap_or(TOKENS);
        if config["mm_tokens_per_image"].as_u64() != Some(tokens as u64) {
            let what = format_args!("an image has {tokens} tokens, and config.json says something else");
            return Err(fault(&path, what));
        }
        let vision = &config["vision_config"];
        let side = |name: &str| vision[name].as_u64().filter(|side| *side > 0);
        if side("image_size") != Some(u64::from(width)) || width != height {
            let what = format_args!("images of {width} x {height} pixels are not those of config.json");
            return Err(fault(&folder.join("preprocessor_config.json"), what));
        }
        let patches = side("patch_size").map_or(0, |patch| u64::from(width) / patch);
        let square = (tokens as u64).isqrt();
        if square == 0 || square * square != tokens as u64 || patches == 0 || !patches.is_multiple_of(square) {
            let what = format_args!("an image of {patches} x {patches} patches cannot have {tokens} tokens");
            return Err(fault(&folder.join("config.json"), what));
        }
        let token = config["image_token_index"].as_u64();
        let token = token.ok_or_else(|| fault(&folder.join("config.json"), "has no `image_token_index`"))?;
        let expanded = format!("\n\n{IMAGE}{}{END}\n\n", IMAGE_TOKEN.repeat(tokens));
        Ok(Some(Self { tokens, token, decoding: Mutex::default(), width, height, filter, expanded }))
    }

    /// Whether the tokenizer knows images as the model does.
    ///
    /// # Errors
    ///
    /// What is wrong, in words.
    pub fn check(&self, text: &TextModel) -> Result<(), String> {
        for name in [IMAGE, IMAGE_TOKEN, END] {
            let known = text.added_token(name).filter(|(token, special)| *special && *token < text.vocab_size());
            let (token, _) = known.ok_or_else(|| format!("the tokenizer has no special token {name}"))?;
            if name == IMAGE_TOKEN && u64::from(token) != self.token {
                return Err(format!("{name} is {token}, and `image_token_index` {}", self.token));
            }
        }
        Ok(())
    }

    /// A conversation, if it shows images, as the engine will have it.
    pub fn prepare(&self, text: &TextModel, prompt: &Arc<Prompt>) -> Option<Result<Prepared, PromptError>> {
        let Prompt::Chat(chat) = prompt.as_ref() else { return None };
        images(chat).next().is_some().then(|| self.prepare_shown(text, chat, prompt))
    }

    fn prepare_shown(&self, text: &TextModel, chat: &Chat, prompt: &Arc<Prompt>) -> Result<Prepared, PromptError> {
        let fault = |message: String| PromptError { param: "messages", message };
        // Looked at as a whole: only its head has been yet.
        let shown = self.decode(chat).map_err(|error| fault(format!("an image: {error}")))?;
        let rendered = text.render_shown(chat)?;
        let (written, places) = (text.without_beginning(rendered), shown.len());
        let marks = written.matches(IMAGE).count();
        if marks != places {
            return Err(fault(format!("the model's chat template has a place for {marks} of {places} images")));
        }
        let ids = text.tokenize_expanded(&written, IMAGE, &self.expanded)?;
        // With any other number of them the engine fails.
        if ids.iter().filter(|id| u64::from(**id) == self.token).count() != places * self.tokens {
            return Err(fault("the texts hold what stands for an image".to_owned()));
        }
        Ok(Prepared::Shown { ids, text: written.into(), prompt: Arc::clone(prompt) })
    }

    /// The images of a conversation, as large as the model sees them: what the engine would make of them itself, but that
    /// it would hold the large ones until then, and tells remembered ones of other shapes from each other by their pixels alone.
    fn decode(&self, chat: &Chat) -> Result<Vec<DynamicImage>, media::Unreadable> {
        let _alone = self.decoding.lock().unwrap_or_else(PoisonError::into_inner);
        let decode = |url: &str| {
            let image = media::decode_image(&media::from_data_url(url)?)?;
            let image = DynamicImage::ImageRgb8(image.to_rgb8());
            Ok(image.resize_exact(self.width, self.height, self.filter))
        };
        images(chat).map(decode).collect()
    }

    /// What the engine is asked with a prompt that was [prepared](Self::prepare).
    pub fn request(&self, prompt: &Prompt, text: &str) -> Option<RequestMessage> {
        let Prompt::Chat(chat) = prompt else { return None };
        let message = [("role", "user"), ("content", text)];
        let message = message.map(|(name, value)| (name.to_owned(), MessageContent::Left(value.to_owned())));
        Some(RequestMessage::MultimodalChat {
            images: self.decode(chat).ok()?,
            audios: Vec::new(),
            videos: Vec::new(),
            messages: vec![message.into_iter().collect()],
            enable_thinking: None,
            reasoning_effort: None,
        })
    }
}

/// The `data:` URLs of a conversation's images.
fn images(chat: &Chat) -> impl Iterator<Item = &str> {
    let parts = chat.messages.iter().filter_map(|message| message.content.as_ref()).map(Content::parts);
    parts.flatten().filter_map(|part| match part {
        ContentPart::ImageUrl { image_url } => Some(image_url.url.as_str()),
        _ => None,
    })
}

/// What loads the model of a folder. The file has to be there until it has.
pub fn loader(folder: &str) -> Result<(Box<dyn Loader>, NamedTempFile), String> {
    let template = tempfile::Builder::new().suffix(".jinja").tempfile().map_err(|error| error.to_string())?;
    std::fs::write(template.path(), TEMPLATE).map_err(|error| error.to_string())?;
    let path = template.path().to_str().ok_or("the path of temporary files is not UTF-8")?.to_owned();
    let config = MultimodalSpecificConfig::default();
    let builder = MultimodalLoaderBuilder::new(config, None, None, Some(folder.to_owned()), Some(path));
    Ok((builder.build(Some(MultimodalLoaderType::Gemma3)), template))
}
