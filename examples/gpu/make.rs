//! Writes a model of a real shape with weights that nobody has trained: as heavy as that one, and it talks nonsense.

use std::borrow::Cow;
use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};
use safetensors::{Dtype, View};
use serde_json::{Value, json};

use crate::Failure;
use crate::shape::{BYTES, Shape};

/// Of the built-in model: the first thousand tokens, all bytes among them.
const TOKENIZER: &str = include_str!("../builtin-model/model/tokenizer.json");
const TOKENIZER_CONFIG: &str = include_str!("../builtin-model/model/tokenizer_config.json");

/// Two, so that an answer can be kept from ending.
pub const END_TOKENS: [u32; 2] = [0, 2];

/// Writes the files of a model into `folder`, which is made where it does not exist.
pub fn make(shape: Shape, folder: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(folder)?;
    let write = |name: &str, value: &Value| std::fs::write(folder.join(name), value.to_string());
    write("config.json", &shape.config())?;
    write("generation_config.json", &json!({"eos_token_id": END_TOKENS, "pad_token_id": 0}))?;
    write("tokenizer.json", &tokenizer(shape.sizes().vocabulary)?)?;
    std::fs::write(folder.join("tokenizer_config.json"), TOKENIZER_CONFIG)?;

    let style = ProgressStyle::with_template("{msg} {bar:30} {bytes} of {total_bytes}, {eta} to go")?;
    let bar = ProgressBar::new(0).with_style(style).with_message(folder.display().to_string());
    let tensors = shape.tensors().into_iter().zip(0..);
    let tensors = tensors.map(|((name, shape), seed)| (name, Tensor { shape, seed, bar: bar.clone() }));
    let tensors: Vec<_> = tensors.inspect(|(_, tensor)| bar.inc_length(tensor.data_len() as u64)).collect();
    // Written under another name first: what was cut short is not taken for a model.
    let unfinished = folder.join("model.unfinished");
    safetensors::serialize_to_file(tensors, Some([("format".into(), "pt".into())].into()), &unfinished)?;
    std::fs::rename(unfinished, folder.join("model.safetensors"))?;
    bar.finish();
    Ok(())
}

/// The built-in model's tokenizer, with words of no meaning for what the vocabulary has beyond.
fn tokenizer(vocabulary: usize) -> Result<Value, Failure> {
    let mut tokenizer: Value = serde_json::from_str(TOKENIZER)?;
    let known = tokenizer["model"]["vocab"].as_object_mut().ok_or("a tokenizer without a vocabulary")?;
    for id in known.len()..vocabulary {
        // `Ġ` is a space.
        known.insert(format!("Ġw{id}"), id.into());
    }
    Ok(tokenizer)
}

/// A tensor that is made when it is written.
struct Tensor {
    shape: Vec<usize>,
    seed: u64,
    /// Tells how much is written.
    bar: ProgressBar,
}

/// Of a bf16 (sign, 8 bits of exponent, 7 of mantissa) those that are random, and the others: magnitudes from 2^-7 to 2^-5, which
/// is about what training leaves. Four at once.
const RANDOM_BITS: u64 = 0x80FF_80FF_80FF_80FF;
const EXPONENTS: u64 = 0x3C00_3C00_3C00_3C00;

/// 1 as bf16.
const ONE: [u8; BYTES] = 0x3F80_u16.to_le_bytes();

impl View for Tensor {
    fn dtype(&self) -> Dtype {
        Dtype::BF16
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.bar.inc(self.data_len() as u64);
        // A norm, which has one dimension, changes nothing.
        if let [length] = self.shape[..] {
            return ONE.repeat(length).into();
        }
        let mut random = fastrand::Rng::with_seed(self.seed);
        let mut bytes = vec![0; self.data_len()];
        for four in bytes.chunks_mut(size_of::<u64>()) {
            let numbers = ((random.u64(..) & RANDOM_BITS) | EXPONENTS).to_le_bytes();
            four.copy_from_slice(&numbers[..four.len()]);
        }
        bytes.into()
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * BYTES
    }
}
