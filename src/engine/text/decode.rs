//! From the bytes of tokens to pieces of text: each piece is valid UTF-8 and holds what its token completes.

use smol_str::{SmolStr, SmolStrBuilder};

/// Turns bytes into text as they come, keeping back the bytes of an unfinished character.
///
/// The pieces together are the text of all bytes, with U+FFFD for each sequence that can never become a character. What
/// is still unfinished at the end is left out.
#[derive(Debug, Default)]
pub struct Utf8Decoder {
    /// At most 3 bytes between calls.
    unfinished: Vec<u8>,
}

impl Utf8Decoder {
    pub fn push(&mut self, bytes: &[u8]) -> SmolStr {
        if self.unfinished.is_empty()
            && let Ok(text) = str::from_utf8(bytes)
        {
            return SmolStr::new(text);
        }
        self.unfinished.extend_from_slice(bytes);
        let mut text = SmolStrBuilder::new();
        let mut taken = 0;
        for chunk in self.unfinished.utf8_chunks() {
            text.push_str(chunk.valid());
            taken += chunk.valid().len();
            let last = taken + chunk.invalid().len() == self.unfinished.len();
            if chunk.invalid().is_empty() || (last && can_be_finished(chunk.invalid())) {
                break;
            }
            text.push(char::REPLACEMENT_CHARACTER);
            taken += chunk.invalid().len();
        }
        self.unfinished.drain(..taken);
        text.finish()
    }
}

fn can_be_finished(bytes: &[u8]) -> bool {
    str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(chunks: &[&[u8]]) -> Vec<SmolStr> {
        let mut decoder = Utf8Decoder::default();
        chunks.iter().map(|chunk| decoder.push(chunk)).collect()
    }

    #[test]
    fn a_character_comes_out_with_the_token_that_completes_it() {
        assert_eq!(decode(&[b"a\xe2", b"\x82", b"\xacb", b"\xf0\x9f\x8e\x88"]), ["a", "", "€b", "🎈"]);
    }

    #[test]
    fn what_can_never_be_a_character_is_replaced() {
        assert_eq!(decode(&[b"\xe2", b"a", b"\xffb", b"\xf0\x9f"]), ["", "\u{fffd}a", "\u{fffd}b", ""]);
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_text(text in "\\PC{0,40}", cuts in prop::collection::vec(0usize..160, 0..12)) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            prop_assert_eq!(decode(&chunks).concat(), text);
        }

        #[test]
        fn any_bytes_decode_as_the_standard_library_decodes_them(
            bytes in prop::collection::vec(any::<u8>(), 0..60),
            size in 1usize..5,
        ) {
            let chunks: Vec<&[u8]> = bytes.chunks(size).collect();
            let whole = String::from_utf8_lossy(&bytes);
            let text = decode(&chunks).concat();
            // The library also replaces an unfinished end.
            prop_assert!(*whole == text || whole.strip_suffix('\u{fffd}') == Some(&text), "{whole:?} {text:?}");
        }
    }
}
