//! The header of a GGUF file, walked through before the engine reads it: the engine believes every length in it.
//!
//! The format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use std::fs::File;
use std::io::{self, BufReader, Read as _};
use std::path::Path;

use super::fault;
use super::sizes::{LONGEST_CONTEXT, Weights};
use crate::engine::LoadError;

/// Metadata and the list of tensors together, in bytes; a vocabulary has about 10 MB.
const LARGEST_HEADER: u64 = 256 << 20;

/// In all lists of the metadata together; each takes much more memory than space in the file.
const MOST_ITEMS: u64 = 1 << 24;

const LONGEST_NAME: u64 = 1 << 16;
const MOST_DIMENSIONS: u32 = 8;

/// Types of values in the metadata.
const STRING: u32 = 8;
const LIST: u32 = 9;

/// Lengths of rows and columns, by the end of their key.
const LENGTHS: [&str; 7] = [
    ".embedding_length",
    ".feed_forward_length",
    QUERY_HEADS,
    KEY_HEADS,
    ".attention.key_length",
    ".attention.value_length",
    ".expert_count",
];

/// Heads of the attention; where those for keys are not named there are as many as for queries.
const QUERY_HEADS: &str = ".attention.head_count";
const KEY_HEADS: &str = ".attention.head_count_kv";

/// Checks what a GGUF file says of itself: nothing in it is longer than the file, and the model is no larger than its weights.
/// Returns whether its attention has as many heads for keys as for queries.
///
/// # Errors
///
/// What is wrong, with the name of the file.
pub fn check(path: &Path) -> Result<bool, LoadError> {
    let opened = File::open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
    let (size, file) = opened.map_err(|error| fault(path, error))?;
    let mut header = Header { file: BufReader::new(file), left: size.min(LARGEST_HEADER), version: 3, items: 0 };
    header.walk(size).map_err(|what| fault(path, what))
}

/// What is left of the header.
struct Header {
    file: BufReader<File>,
    /// Bytes that may yet be read.
    left: u64,
    version: u32,
    /// Of lists, so far.
    items: u64,
}

impl Header {
    fn walk(&mut self, size: u64) -> Result<bool, String> {
        let magic: [u8; 4] = self.bytes()?;
        if &magic != b"GGUF" {
            return Err("is not a GGUF file".to_owned());
        }
        self.version = self.u32()?;
        if !(1..=3).contains(&self.version) {
            return Err(format!("is a GGUF file of version {}, which is not known", self.version));
        }
        let (tensors, pairs) = (self.length()?, self.length()?);
        let (mut numbers, mut has_key_heads) = (Vec::new(), false);
        for _ in 0..pairs {
            let key = self.name()?;
            has_key_heads |= key.ends_with(KEY_HEADS);
            let kind = self.u32()?;
            if let Some(number) = self.value(kind)?.filter(|_| is_size(&key)) {
                numbers.push((key, number));
            }
        }
        for _ in 0..tensors {
            self.tensor(size)?;
        }
        let weights = Weights { tensors, bytes: size };
        numbers.iter().try_for_each(|(key, number)| plausible(key, *number, weights))?;
        let heads = |of| numbers.iter().find_map(|(key, number)| key.ends_with(of).then_some(*number));
        // They may be said for each layer.
        Ok(heads(KEY_HEADS).map_or(!has_key_heads, |keys| heads(QUERY_HEADS) == Some(keys)))
    }

    /// Reads past a value; returns it where it is a whole number.
    fn value(&mut self, kind: u32) -> Result<Option<u64>, String> {
        match kind {
            STRING => {
                let length = self.length()?;
                self.skip(length)?;
                Ok(None)
            }
            LIST => {
                let (kind, items) = (self.u32()?, self.length()?);
                self.items = self.items.saturating_add(items);
                if kind == LIST || self.items > MOST_ITEMS {
                    return Err("has lists in lists, or longer ones than any model has".to_owned());
                }
                if kind == STRING {
                    for _ in 0..items {
                        self.value(STRING)?;
                    }
                } else {
                    self.skip(items * width(kind)?)?;
                }
                Ok(None)
            }
            kind => {
                let mut number = [0; 8];
                let width = usize::try_from(width(kind)?).unwrap_or(number.len());
                self.read(&mut number[..width])?;
                // Unsigned and signed whole numbers; a negative one is a very large one, and no size.
                let whole = !matches!(kind, 6 | 7 | 12);
                Ok(whole.then(|| u64::from_le_bytes(number)))
            }
        }
    }

    /// Reads past what is said of a tensor, which must lie within the file.
    fn tensor(&mut self, size: u64) -> Result<(), String> {
        let name = self.name()?;
        let dimensions = self.u32()?;
        if dimensions > MOST_DIMENSIONS {
            return Err(format!("has a tensor {name:?} with {dimensions} dimensions"));
        }
        let mut elements = Some(1_u64);
        for _ in 0..dimensions {
            let length = self.length()?;
            elements = elements.and_then(|elements| elements.checked_mul(length));
        }
        let (kind, offset): (u32, [u8; 8]) = (self.u32()?, self.bytes()?);
        let bytes = elements.and_then(|elements| match kind {
            // F32, F16 and BF16; whatever else there is has one bit for each at least.
            0 => elements.checked_mul(4),
            1 | 30 => elements.checked_mul(2),
            _ => Some(elements / 8),
        });
        let end = bytes.and_then(|bytes| bytes.checked_add(u64::from_le_bytes(offset)));
        if end.is_some_and(|end| end <= size) {
            Ok(())
        } else {
            Err(format!("has a tensor {name:?} that is larger than the file; it is cut short, or not what it says"))
        }
    }

    fn name(&mut self) -> Result<String, String> {
        let length = self.length()?;
        if length > LONGEST_NAME {
            return Err("has a name that is too long".to_owned());
        }
        let mut name = vec![0; usize::try_from(length).unwrap_or(0)];
        self.read(&mut name)?;
        Ok(String::from_utf8_lossy(&name).into_owned())
    }

    /// A number of bytes or things.
    fn length(&mut self) -> Result<u64, String> {
        if self.version == 1 { Ok(self.u32()?.into()) } else { Ok(u64::from_le_bytes(self.bytes()?)) }
    }

    fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut bytes = [0; N];
        self.read(&mut bytes)?;
        Ok(bytes)
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<(), String> {
        self.take(bytes.len() as u64)?;
        self.file.read_exact(bytes).map_err(|error| unreadable(&error))
    }

    fn skip(&mut self, length: u64) -> Result<(), String> {
        self.take(length)?;
        // No more than is left, which is far from the limit.
        self.file.seek_relative(i64::try_from(length).unwrap_or(i64::MAX)).map_err(|error| unreadable(&error))
    }

    fn take(&mut self, length: u64) -> Result<(), String> {
        self.left = self.left.checked_sub(length).ok_or("is cut short, or its header is longer than any model's")?;
        Ok(())
    }
}

fn unreadable(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::UnexpectedEof { "is cut short".to_owned() } else { error.to_string() }
}

/// Bytes of a number of this type.
fn width(kind: u32) -> Result<u64, String> {
    match kind {
        0 | 1 | 7 => Ok(1),
        2 | 3 => Ok(2),
        4..=6 => Ok(4),
        10..=12 => Ok(8),
        _ => Err(format!("has a value of the type {kind}, which is not known")),
    }
}

fn is_size(key: &str) -> bool {
    LENGTHS.iter().chain(&[".block_count", ".context_length"]).any(|end| key.ends_with(end))
}

/// Whether the weights can be those of a model of this size.
fn plausible(key: &str, number: u64, weights: Weights) -> Result<(), String> {
    let most = match key {
        // Each block has tensors of its own.
        key if key.ends_with(".block_count") => weights.tensors,
        key if key.ends_with(".context_length") => LONGEST_CONTEXT,
        _ => weights.parameters(),
    };
    if number <= most { Ok(()) } else { Err(format!("`{key}` is {number}, and {most} at most can be true")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header with these numbers and no tensor, in a file with room for a small model.
    fn is_multi_head(numbers: &[(&str, u32)]) -> bool {
        let mut file = [b"GGUF", &3_u32.to_le_bytes()[..], &0_u64.to_le_bytes()].concat();
        file.extend((numbers.len() as u64).to_le_bytes());
        for (key, number) in numbers {
            file.extend(
                [&(key.len() as u64).to_le_bytes(), key.as_bytes(), &4_u32.to_le_bytes(), &number.to_le_bytes()]
                    .concat(),
            );
        }
        file.resize(4096, 0);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        std::fs::write(&path, file).unwrap();
        check(&path).unwrap()
    }

    #[test]
    fn heads_for_keys_are_as_many_as_for_queries_where_nothing_else_is_said() {
        let (queries, keys) = ("llama.attention.head_count", "llama.attention.head_count_kv");
        assert!(is_multi_head(&[(queries, 8)]));
        assert!(is_multi_head(&[(queries, 8), (keys, 8)]));
        assert!(!is_multi_head(&[(keys, 2), (queries, 8)]));
    }
}
