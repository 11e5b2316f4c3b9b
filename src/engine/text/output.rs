//! From tokens to the pieces that a sink is given: decoding, stop strings and the parts of an answer together.

use std::collections::VecDeque;
use std::sync::Arc;

use sluicegate_compat::native::{TokenKind, TokenLogprobs};
use smol_str::SmolStr;

use super::answer::{AnswerReader, Class, Segment};
use super::decode::Utf8Decoder;
use super::stop::StopMatcher;
use crate::engine::{Finish, Piece};

/// The text side of one sequence: takes each token's bytes and gives one [`Piece`] per token.
///
/// A token that holds a part of a possible stop string is kept back until that is settled; then it comes out as it is, or
/// cut before the stop string, or not at all. A token that may be part of a call, or of a mark, is kept back likewise; then
/// it comes out as what it is, and empty where it is only punctuation. A token that ends one part of an answer and begins
/// another one comes out as a piece of each.
#[derive(Debug)]
pub struct Output {
    decoder: Utf8Decoder,
    stops: StopMatcher,
    held: VecDeque<Piece>,
    /// Bytes of the held pieces that may be shown.
    cleared: usize,
    /// Tells the parts of an answer apart.
    reader: Option<Box<AnswerReader>>,
    /// Pieces that are not told apart yet.
    unread: VecDeque<Piece>,
    /// What the reader has told of them.
    told: VecDeque<Segment>,
    ready: VecDeque<Piece>,
}

impl Output {
    /// Of a sequence that is all text.
    pub fn new(stop: Vec<String>) -> Self {
        Self::read_by(stop, None)
    }

    /// Of an answer, where there is a reader for it.
    pub fn read_by(stop: Vec<String>, reader: Option<AnswerReader>) -> Self {
        Self {
            reader: reader.map(Box::new),
            unread: VecDeque::new(),
            told: VecDeque::new(),
            decoder: Utf8Decoder::default(),
            stops: StopMatcher::new(stop),
            held: VecDeque::new(),
            cleared: 0,
            ready: VecDeque::new(),
        }
    }

    /// Takes a token; true when it completes a stop string, or the last call that is wanted: no more may follow.
    pub fn push(&mut self, bytes: &[u8], logprobs: Option<Arc<TokenLogprobs>>) -> bool {
        let text = self.decoder.push(bytes);
        let piece = Piece { text, kind: TokenKind::Text, tool: None, logprobs };
        if self.stops.is_idle() {
            return self.deliver(piece);
        }
        let scan = self.stops.push(&piece.text);
        self.held.push_back(piece);
        self.cleared += scan.release;
        let over = self.release(scan.stopped);
        if scan.stopped {
            self.close();
        }
        scan.stopped || over
    }

    /// The text ended without a stop string: what was kept back may go.
    pub fn finish(&mut self) {
        while let Some(piece) = self.held.pop_front() {
            self.deliver(piece);
        }
        self.close();
    }

    /// How a sequence ended that came to its end by itself.
    pub fn finish_reason(&self) -> Finish {
        match &self.reader {
            Some(reader) if reader.calls() > 0 => Finish::ToolCalls,
            _ => Finish::Stop,
        }
    }

    /// The stop string that ended the text.
    pub fn matched_stop(&self) -> Option<&str> {
        self.stops.found()
    }

    /// The next piece that may be shown.
    pub fn pop(&mut self) -> Option<Piece> {
        self.ready.pop_front()
    }

    /// Readies the held pieces that are cleared. An empty piece (a token inside a character) goes with the next one that
    /// has text, since it may turn out to be part of a stop string.
    fn release(&mut self, stopped: bool) -> bool {
        let mut over = false;
        while let Some(at) = self.held.iter().position(|piece| !piece.text.is_empty()) {
            let length = self.held[at].text.len();
            if length > self.cleared {
                if stopped && self.cleared > 0 {
                    let text = &mut self.held[at].text;
                    *text = SmolStr::new(&text[..self.cleared]);
                    over |= self.deliver_held(at);
                }
                break;
            }
            self.cleared -= length;
            over |= self.deliver_held(at);
        }
        if stopped {
            self.held.clear();
        }
        over
    }

    fn deliver_held(&mut self, last: usize) -> bool {
        let pieces: Vec<Piece> = self.held.drain(..=last).collect();
        let mut over = false;
        for piece in pieces {
            over |= self.deliver(piece);
        }
        over
    }

    /// Hands a piece to the reader, or out; true when nothing more is wanted.
    fn deliver(&mut self, piece: Piece) -> bool {
        let Some(reader) = &mut self.reader else {
            self.ready.push_back(piece);
            return false;
        };
        reader.push(&piece.text);
        let over = reader.is_over();
        self.unread.push_back(piece);
        self.tell_apart();
        if over {
            self.close();
        }
        over
    }

    /// No more text comes.
    fn close(&mut self) {
        if let Some(reader) = &mut self.reader {
            reader.finish();
            self.tell_apart();
            self.ready.append(&mut self.unread);
        }
    }

    /// Readies the unread pieces that are told apart as a whole.
    fn tell_apart(&mut self) {
        let Some(reader) = &mut self.reader else { return };
        self.told.extend(std::iter::from_fn(|| reader.pop()));
        let mut known: usize = self.told.iter().map(|segment| segment.length).sum();
        // A token inside a character is part of what the next one is.
        while let Some(at) = self.unread.iter().position(|piece| !piece.text.is_empty()) {
            let length = self.unread[at].text.len();
            if length > known {
                break;
            }
            known -= length;
            let pieces: Vec<Piece> = self.unread.drain(..=at).collect();
            for piece in pieces {
                parts(piece, &mut self.told, &mut self.ready);
            }
        }
    }
}

/// Takes what is told of a piece, and readies a piece for each part of it: at least one.
fn parts(piece: Piece, told: &mut VecDeque<Segment>, ready: &mut VecDeque<Piece>) {
    let (text, mut logprobs) = (piece.text, piece.logprobs);
    if text.is_empty() {
        // Inside a character.
        let kind = match told.front().map(|segment| &segment.class) {
            Some(Class::Text) => Some(TokenKind::Text),
            Some(Class::Reasoning) => Some(TokenKind::Reasoning),
            _ => None,
        };
        let logprobs = logprobs.filter(|_| kind.is_some());
        return ready.push_back(Piece { text, kind: kind.unwrap_or_default(), tool: None, logprobs });
    }
    let (before, mut at) = (ready.len(), 0);
    while at < text.len()
        && let Some(segment) = told.front_mut()
    {
        let end = text.len().min(at + segment.length);
        let part = match &segment.class {
            Class::Text => Some((TokenKind::Text, &text[at..end], None)),
            Class::Reasoning => Some((TokenKind::Reasoning, &text[at..end], None)),
            Class::Call(delta) => Some((TokenKind::Tool, "", Some(Arc::clone(delta)))),
            Class::Hidden => None,
        };
        if let Some((kind, text, tool)) = part {
            ready.push_back(Piece { text: text.into(), kind, tool, logprobs: logprobs.take() });
        }
        if matches!(segment.class, Class::Call(_)) {
            // It came with the first of its tokens.
            segment.class = Class::Hidden;
        }
        segment.length -= end - at;
        at = end;
        if segment.length == 0 {
            told.pop_front();
        }
    }
    if ready.len() == before {
        ready.push_back(Piece { text: SmolStr::default(), kind: TokenKind::Text, tool: None, logprobs: None });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sluicegate_compat::native::Tool;

    use super::*;
    use crate::engine::Calling;
    use crate::engine::text::{CallFormat, Markup};

    fn texts(tokens: &[&[u8]], stop: &[&str]) -> (Vec<String>, bool) {
        let mut output = Output::new(stop.iter().map(|&stop| stop.to_owned()).collect());
        let stopped = tokens.iter().any(|token| output.push(token, None));
        if !stopped {
            output.finish();
        }
        (std::iter::from_fn(|| output.pop()).map(|piece| piece.text.to_string()).collect(), stopped)
    }

    #[test]
    fn without_stop_strings_each_token_is_a_piece_at_once() {
        let mut output = Output::new(Vec::new());
        for token in [&b"a"[..], b"\xe2\x82", b"\xac"] {
            assert!(!output.push(token, None));
            assert!(output.pop().is_some());
        }
    }

    #[test]
    fn tokens_of_a_stop_string_are_cut_or_dropped() {
        assert_eq!(texts(&[b"one ", b"two<", b"/s", b"> three"], &["</s>"]), (vec!["one ".into(), "two".into()], true));
        assert_eq!(texts(&[b"one ", b"<", b"/s>"], &["</s>"]), (vec!["one ".into()], true));
        assert_eq!(texts(&[b"one ", b"<", b"/p>"], &["</s>"]), (vec!["one ".into(), "<".into(), "/p>".into()], false));
        assert_eq!(texts(&[b"one", b"<", b"/"], &["</s>"]), (vec!["one".into(), "<".into(), "/".into()], false));
    }

    #[test]
    fn a_token_inside_the_first_character_of_a_stop_string_is_dropped_with_it() {
        assert_eq!(texts(&[b"a", b"\xe2\x82", b"\xac"], &["€"]), (vec!["a".into()], true));
        assert_eq!(texts(&[b"a", b"\xe2\x82", b"\xad"], &["€"]), (vec!["a".into(), "".into(), "₭".into()], false));
    }

    proptest! {
        #[test]
        fn pieces_are_one_per_token_and_together_the_text_before_the_stop(
            tokens in prop::collection::vec("[ab]{0,4}", 0..20),
            stop in "[ab]{1,4}",
        ) {
            let bytes: Vec<&[u8]> = tokens.iter().map(|token| token.as_bytes()).collect();
            let (pieces, stopped) = texts(&bytes, &[&stop]);
            let whole = tokens.concat();
            prop_assert_eq!(stopped, whole.contains(&stop));
            prop_assert_eq!(pieces.concat(), whole.split(&stop).next().unwrap_or_default());
            if !stopped {
                prop_assert_eq!(pieces, tokens);
            }
        }
    }

    fn answer(tokens: &[&str], stop: &[&str]) -> (Vec<String>, Finish) {
        let tools = vec![Tool {
            r#type: Default::default(),
            function: serde_json::from_value(serde_json::json!({"name": "now"})).unwrap(),
        }];
        let calling = Calling { tools, parallel: true, ..Calling::default() };
        let markup = Markup { calls: Some(CallFormat::Hermes), reasoning: true };
        let stop = stop.iter().map(|&stop| stop.to_owned()).collect();
        let mut output = Output::read_by(stop, Some(AnswerReader::new(markup, Some(Arc::new(calling)), false)));
        if !tokens.iter().any(|token| output.push(token.as_bytes(), None)) {
            output.finish();
        }
        let shown = |piece: Piece| match (piece.kind, piece.tool) {
            (TokenKind::Text, None) => piece.text.to_string(),
            (TokenKind::Reasoning, None) => format!("({})", piece.text),
            (TokenKind::Tool, Some(tool)) => format!("{}:{}", tool.name.as_deref().unwrap_or("+"), tool.arguments),
            other => panic!("{other:?}"),
        };
        let pieces = std::iter::from_fn(|| output.pop()).map(shown).collect();
        (pieces, output.finish_reason())
    }

    #[test]
    fn a_token_is_a_piece_also_where_it_is_punctuation() {
        let tokens = [
            "<think>",
            "\n",
            "Hm",
            "</think>",
            "Hi",
            "\n",
            "<tool_call>",
            "{\"name\": \"now\", ",
            "\"arguments\": {",
            "}",
            "}",
            "</tool_call>",
        ];
        let pieces = ["", "", "(Hm)", "", "Hi", "", "now:{", "", "", "+:}", "", ""];
        let (got, finish) = answer(&tokens, &[]);
        assert_eq!(
            got.iter().filter(|piece| !piece.is_empty()).collect::<Vec<_>>(),
            pieces.iter().filter(|piece| !piece.is_empty()).collect::<Vec<_>>()
        );
        assert_eq!((got.len(), finish), (tokens.len(), Finish::ToolCalls));
    }

    #[test]
    fn a_token_with_several_parts_is_a_piece_of_each() {
        let (pieces, finish) = answer(&["a<tool_call>{\"name\": \"now\"}</tool_call>b", "c"], &[]);
        assert_eq!((pieces, finish), (vec!["a".into(), "now:{}".into(), "b".into(), "c".into()], Finish::ToolCalls));
    }

    #[test]
    fn a_stop_string_ends_a_call_too() {
        let (pieces, finish) = answer(&["<tool_call>", "{\"name\": \"now\", \"arguments\": {\"a", "b\": 1"], &["b\""]);
        assert_eq!((pieces.concat(), finish), ("now:{\"a".into(), Finish::ToolCalls));
        let (pieces, finish) = answer(&["a <tool_", "call> stop"], &["stop"]);
        assert_eq!((pieces.concat(), finish), ("a <tool_call> ".into(), Finish::Stop));
    }

    proptest! {
        #[test]
        fn pieces_are_one_per_token_at_least_and_say_all_that_is_text(
            tokens in prop::collection::vec("[a <]|<tool_call>|é", 0..20),
        ) {
            let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
            let (pieces, finish) = answer(&tokens, &[]);
            prop_assert_eq!(pieces.concat(), tokens.concat());
            prop_assert_eq!(finish, Finish::Stop);
            prop_assert!(pieces.len() >= tokens.len());
        }
    }
}
