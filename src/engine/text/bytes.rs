//! The bytes that each token stands for.
//!
//! Tokenizers write tokens in an alphabet of their own: byte-level BPE maps each byte to a printable character,
//! SentencePiece writes spaces as `▁` and single bytes as `<0xE2>`. Decoding token by token needs the bytes themselves,
//! because a character may be spread over several tokens. A table made once is exact and costs nothing per token.
//!
//! Text starts as the tokens say: a leading space that SentencePiece models like to generate is kept, so that prompt and
//! output together are always the text of all tokens.

use tokenizers::Tokenizer;

/// The bytes of each token of a vocabulary.
#[derive(Debug)]
pub struct TokenBytes {
    bytes: Box<[u8]>,
    /// Where each token's bytes end.
    ends: Box<[u32]>,
    special: Box<[bool]>,
}

/// How tokens are written in the vocabulary.
#[derive(Debug, Clone, Copy)]
struct Alphabet {
    byte_level: bool,
    byte_fallback: bool,
    spaces_marked: bool,
}

impl TokenBytes {
    pub fn of(tokenizer: &Tokenizer) -> Self {
        let alphabet = Alphabet::of(tokenizer);
        let added = tokenizer.get_added_tokens_decoder();
        let mut tokens: Vec<(u32, String)> =
            tokenizer.get_vocab(true).into_iter().map(|(text, id)| (id, text)).collect();
        tokens.sort_unstable();
        let size = tokens.last().map_or(0, |(id, _)| *id as usize + 1);
        let (mut bytes, mut ends, mut special) = (Vec::new(), Vec::with_capacity(size), vec![false; size]);
        for (id, text) in tokens {
            ends.resize(id as usize, bytes.len() as u32);
            match added.get(&id) {
                Some(token) => {
                    bytes.extend_from_slice(token.content.as_bytes());
                    special[id as usize] = token.special;
                }
                None => alphabet.write(&text, &mut bytes),
            }
            ends.push(bytes.len() as u32);
            // Two spellings of one id: the first one counts.
            ends.truncate(id as usize + 1);
        }
        Self { bytes: bytes.into(), ends: ends.into(), special: special.into() }
    }

    /// Token ids are below this.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The bytes of `token`; for a special token, those of its name. Empty for an unknown one.
    pub fn of_token(&self, token: u32) -> &[u8] {
        let at = token as usize;
        let Some(&end) = self.ends.get(at) else { return &[] };
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        &self.bytes[start as usize..end as usize]
    }

    /// What `token` adds to the text: its bytes, and nothing for a special token.
    pub fn text_of(&self, token: u32) -> &[u8] {
        if self.is_special(token) { &[] } else { self.of_token(token) }
    }

    /// Whether `token` is no text; an unknown one is none.
    pub fn is_special(&self, token: u32) -> bool {
        self.special.get(token as usize).copied().unwrap_or(true)
    }
}

impl Alphabet {
    fn of(tokenizer: &Tokenizer) -> Self {
        let decoder =
            tokenizer.get_decoder().and_then(|decoder| serde_json::to_string(decoder).ok()).unwrap_or_default();
        Self {
            byte_level: decoder.contains("\"ByteLevel\""),
            byte_fallback: decoder.contains("\"ByteFallback\""),
            spaces_marked: decoder.contains('▁'),
        }
    }

    fn write(self, token: &str, bytes: &mut Vec<u8>) {
        if self.byte_level {
            let start = bytes.len();
            for character in token.chars() {
                match byte_of(character) {
                    Some(byte) => bytes.push(byte),
                    None => {
                        bytes.truncate(start);
                        bytes.extend_from_slice(token.as_bytes());
                        return;
                    }
                }
            }
        } else if let Some(byte) = self.byte_fallback.then(|| single_byte(token)).flatten() {
            bytes.push(byte);
        } else if self.spaces_marked {
            bytes.extend_from_slice(token.replace('▁', " ").as_bytes());
        } else {
            bytes.extend_from_slice(token.as_bytes());
        }
    }
}

/// The byte that GPT-2's alphabet writes as `character`: printable ones as themselves, the 68 others from U+0100 on.
fn byte_of(character: char) -> Option<u8> {
    match character {
        '!'..='~' | '¡'..='¬' | '®'..='ÿ' => Some(character as u32 as u8),
        '\u{100}'..='\u{120}' => Some((character as u32 - 0x100) as u8),
        '\u{121}'..='\u{142}' => Some((character as u32 - 0x121 + 0x7f) as u8),
        '\u{143}' => Some(0xad),
        _ => None,
    }
}

/// The byte of a SentencePiece token such as `<0xE2>`.
fn single_byte(token: &str) -> Option<u8> {
    let hex = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (hex.len() == 2).then(|| u8::from_str_radix(hex, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;

    use tokenizers::pre_tokenizers::byte_level::ByteLevel;

    use super::*;

    #[test]
    fn the_byte_alphabet_is_the_one_of_the_tokenizers_crate() {
        let mut bytes: Vec<u8> =
            ByteLevel::alphabet().into_iter().map(|c| byte_of(c).expect("in the alphabet")).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        // Space, newline, NUL, DEL, soft hyphen, a continuation byte.
        assert_eq!("ĠĊĀġŃĤ".chars().map(byte_of).collect::<Option<Vec<u8>>>(), Some(vec![32, 10, 0, 0x7f, 0xad, 0x82]));
    }

    #[test]
    fn byte_level_tokens_decode_as_the_tokenizer_decodes_them() {
        let mut tokenizer = super::super::prompt::tests::byte_level();
        let _ = tokenizer.with_truncation(None);
        let bytes = TokenBytes::of(&tokenizer);
        let text = "naïve — 日本語 🎈\n\tx";
        let ids = tokenizer.encode(text, false).expect("encodes");
        let decoded: Vec<u8> = ids.get_ids().iter().flat_map(|&id| bytes.text_of(id).to_vec()).collect();
        assert_eq!(String::from_utf8(decoded).expect("valid"), text);
    }

    #[test]
    fn sentencepiece_tokens_become_spaces_and_bytes() {
        let tokenizer = Tokenizer::from_str(
            r#"{"version":"1.0","truncation":null,"padding":null,
            "added_tokens":[{"id":0,"content":"<s>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],
            "normalizer":null,"pre_tokenizer":null,"post_processor":null,
            "decoder":{"type":"Sequence","decoders":[
              {"type":"Replace","pattern":{"String":"▁"},"content":" "},{"type":"ByteFallback"},{"type":"Fuse"}]},
            "model":{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,
              "end_of_word_suffix":null,"fuse_unk":false,"byte_fallback":true,
              "vocab":{"<s>":0,"▁hi":1,"<0xE2>":2,"<0x82>":3,"<0xAC>":4,"▁▁":7},"merges":[]}}"#,
        )
        .expect("a tokenizer");
        let bytes = TokenBytes::of(&tokenizer);
        assert_eq!(bytes.len(), 8);
        assert_eq!(bytes.text_of(1), b" hi");
        assert_eq!([2, 3, 4].map(|id| bytes.text_of(id)).concat(), "€".as_bytes());
        assert_eq!(bytes.text_of(7), b"  ");
        assert_eq!((bytes.text_of(0), bytes.of_token(0)), (&b""[..], &b"<s>"[..]));
        assert_eq!((bytes.text_of(5), bytes.text_of(99)), (&b""[..], &b""[..]), "gaps and unknown ids have no text");
    }
}
