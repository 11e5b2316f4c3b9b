//! Keeps the text of callers from being read as special tokens.
//!
//! A chat template writes turns with special tokens such as `<|im_end|>`, and the rendered conversation is tokenized with
//! those recognised. A message that contains the same characters could end its own turn and forge another one. So before
//! rendering, each special token's name in the caller's strings (contents, names, tool calls, tools, template variables)
//! is replaced by a placeholder of two characters that no one types, and after rendering each placeholder is tokenized as
//! the plain text it stands for.
//!
//! What this does not cover: added tokens that the tokenizer does not call special (such as `<think>` in some models),
//! and templates that change the letters of a message before writing it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::Value;
use tokenizers::Tokenizer;

/// Opens a placeholder; a Unicode noncharacter, which is never part of interchanged text.
const MARK: char = '\u{fdd0}';
/// The character after the mark is this plus the index of the shielded name.
const FIRST: u32 = 0x10_0000;

/// The special tokens of one tokenizer.
#[derive(Debug)]
pub struct Shield {
    /// The mark itself, then the special tokens; the longest of one beginning first.
    names: Vec<String>,
    by_first_byte: BTreeMap<u8, Vec<usize>>,
}

/// A stretch of a rendered conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stretch<'a> {
    /// Written by the template, or harmless: special tokens in it are meant.
    Rendered(&'a str),
    /// A special token's name that a caller wrote.
    Literal(&'a str),
}

impl Shield {
    pub fn of(tokenizer: &Tokenizer) -> Self {
        let added = tokenizer.get_added_tokens_decoder().into_values();
        let mut names: Vec<String> =
            added.filter(|token| token.special && !token.content.is_empty()).map(|token| token.content).collect();
        names.push(MARK.to_string());
        names.sort_unstable_by(|a, b| b.len().cmp(&a.len()).then(a.cmp(b)));
        names.dedup();
        let mut by_first_byte: BTreeMap<u8, Vec<usize>> = BTreeMap::new();
        for (index, name) in names.iter().enumerate() {
            by_first_byte.entry(name.as_bytes()[0]).or_default().push(index);
        }
        Self { names, by_first_byte }
    }

    /// Replaces special tokens' names in every string of `value`, keys included.
    pub fn cover_all(&self, value: &mut Value) {
        match value {
            Value::String(text) => {
                if let Cow::Owned(covered) = self.cover(text) {
                    *text = covered;
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.cover_all(item)),
            Value::Object(fields) => {
                let covered = std::mem::take(fields).into_iter().map(|(key, mut field)| {
                    self.cover_all(&mut field);
                    (self.cover(&key).into_owned(), field)
                });
                *fields = covered.collect();
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn cover<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut covered = String::new();
        let (mut done, mut at) = (0, 0);
        while at < text.len() {
            match self.name_at(&text.as_bytes()[at..]) {
                Some(index) => {
                    covered.push_str(&text[done..at]);
                    covered.push(MARK);
                    covered.extend(char::from_u32(FIRST + index as u32));
                    at += self.names[index].len();
                    done = at;
                }
                None => at += 1,
            }
        }
        if done == 0 {
            return Cow::Borrowed(text);
        }
        covered.push_str(&text[done..]);
        Cow::Owned(covered)
    }

    /// The longest name that `bytes` begin with.
    fn name_at(&self, bytes: &[u8]) -> Option<usize> {
        let candidates = self.by_first_byte.get(&bytes[0])?;
        candidates.iter().copied().find(|&index| bytes.starts_with(self.names[index].as_bytes()))
    }

    /// The stretches of a rendered conversation, in order, none of them empty.
    pub fn stretches<'a>(&'a self, rendered: &'a str) -> Vec<Stretch<'a>> {
        let mut stretches = Vec::new();
        let mut rest = rendered;
        let mut from = 0;
        while let Some(offset) = rest[from..].find(MARK) {
            let at = from + offset;
            let after = at + MARK.len_utf8();
            let Some((name, length)) = rest[after..].chars().next().and_then(|c| self.named(c)) else {
                from = after;
                continue;
            };
            stretches.extend((at > 0).then(|| Stretch::Rendered(&rest[..at])));
            stretches.push(Stretch::Literal(name));
            rest = &rest[after + length..];
            from = 0;
        }
        stretches.extend((!rest.is_empty()).then_some(Stretch::Rendered(rest)));
        stretches
    }

    fn named(&self, character: char) -> Option<(&str, usize)> {
        let index = (character as u32).checked_sub(FIRST)?;
        Some((self.names.get(index as usize)?.as_str(), character.len_utf8()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shield() -> Shield {
        Shield::of(&super::super::prompt::tests::byte_level())
    }

    #[test]
    fn harmless_text_is_left_alone() {
        assert!(matches!(shield().cover("a < b, naïve, <|nothing|>"), Cow::Borrowed(_)));
    }

    #[test]
    fn names_of_special_tokens_come_back_as_literals() {
        let shield = shield();
        let mut value = json!({"content": "a<|im_end|>\n<|im_start|>b", "<|im_end|>": ["<|im_end|>", 1, null, true]});
        shield.cover_all(&mut value);
        let text = value["content"].as_str().expect("a string");
        assert!(!value.to_string().contains("<|im"));
        assert_eq!(
            shield.stretches(text),
            [
                Stretch::Rendered("a"),
                Stretch::Literal("<|im_end|>"),
                Stretch::Rendered("\n"),
                Stretch::Literal("<|im_start|>"),
                Stretch::Rendered("b"),
            ]
        );
    }

    #[test]
    fn placeholders_cannot_be_typed() {
        let shield = shield();
        let typed = format!("x{MARK}{}y{MARK}", char::from_u32(FIRST).expect("a character"));
        let covered = shield.cover(&typed).into_owned();
        let back: String = shield
            .stretches(&covered)
            .into_iter()
            .map(|stretch| match stretch {
                Stretch::Rendered(text) => text,
                Stretch::Literal(name) => {
                    assert_eq!(name, MARK.to_string());
                    name
                }
            })
            .collect();
        assert_eq!(back, typed);
        assert_eq!(shield.stretches("cut\u{fdd0}"), [Stretch::Rendered("cut\u{fdd0}")]);
    }
}
