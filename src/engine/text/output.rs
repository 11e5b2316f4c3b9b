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
/// A token that may be part of a call, or of a mark, is kept back until that is settled; then it comes out as what it is,
/// and empty where it is only punctuation. A token that holds a part of a possible stop string is kept back likewise; then
/// it comes out as it is, or cut before the stop string, or not at all. A token that ends one part of an answer and begins
/// another one comes out as a piece of each.
///
/// Stop strings end text and reasoning, and match within one stretch of them: a call is never cut, whatever is in it.
#[derive(Debug)]
pub struct Output {
    decoder: Utf8Decoder,
    stops: StopMatcher,
    /// Tells the parts of an answer apart.
    reader: Option<Box<AnswerReader>>,
    /// Pieces that are not ready yet.
    held: VecDeque<Piece>,
    /// What of their text is not told apart yet; kept where stop strings are looked for.
    untold: String,
    /// What the held pieces are, as far as that is told.
    told: VecDeque<Segment>,
    /// Bytes of what is told that no stop string can hold any more.
    cleared: usize,
    /// Calls that are told.
    calls: u32,
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
            decoder: Utf8Decoder::default(),
            stops: StopMatcher::new(stop),
            reader: reader.map(Box::new),
            held: VecDeque::new(),
            untold: String::new(),
            told: VecDeque::new(),
            cleared: 0,
            calls: 0,
            ready: VecDeque::new(),
        }
    }

    /// Takes a token; how the sequence ends with it, where a stop string or the last call that is wanted is complete: no
    /// more may follow.
    pub fn push(&mut self, bytes: &[u8], logprobs: Option<Arc<TokenLogprobs>>) -> Option<Finish> {
        let text = self.decoder.push(bytes);
        let piece = Piece { text, kind: TokenKind::Text, tool: None, logprobs };
        if self.reader.is_none() && self.stops.is_idle() {
            self.ready.push_back(piece);
            return None;
        }
        if !self.stops.is_idle() {
            self.untold.push_str(&piece.text);
        }
        let over = match &mut self.reader {
            Some(reader) => {
                reader.push(&piece.text);
                reader.is_over()
            }
            None => {
                let length = piece.text.len();
                if length > 0 {
                    self.clear(Segment { length, class: Class::Text });
                }
                false
            }
        };
        self.held.push_back(piece);
        if over {
            return Some(self.finish(Finish::Stop));
        }
        self.settle();
        self.matched_stop().is_some().then(|| self.ended(Finish::Stop))
    }

    /// No more tokens come, for this reason: what was kept back may go. Says how the sequence ended, since a stop string
    /// may be in what was kept back.
    pub fn finish(&mut self, reason: Finish) -> Finish {
        if let Some(reader) = &mut self.reader {
            if reader.is_in_call() {
                // The beginning of a call that never came is told as text, but was no text to the model.
                self.cleared += self.stops.release();
                self.stops = StopMatcher::new(Vec::new());
            }
            reader.finish();
        }
        self.settle();
        if self.matched_stop().is_none() {
            self.cleared += self.stops.release();
            self.hand_out();
            self.ready.append(&mut self.held);
        }
        self.ended(reason)
    }

    /// The stop string that ended the text.
    pub fn matched_stop(&self) -> Option<&str> {
        self.stops.found()
    }

    /// The next piece that may be shown.
    pub fn pop(&mut self) -> Option<Piece> {
        self.ready.pop_front()
    }

    fn ended(&self, reason: Finish) -> Finish {
        let by_itself = reason == Finish::Stop || self.matched_stop().is_some();
        match by_itself {
            true if self.calls > 0 => Finish::ToolCalls,
            true => Finish::Stop,
            false => reason,
        }
    }

    /// Takes what the reader has told, and readies what may be shown.
    fn settle(&mut self) {
        while self.matched_stop().is_none()
            && let Some(segment) = self.reader.as_mut().and_then(|reader| reader.pop())
        {
            self.clear(segment);
        }
        self.hand_out();
        if self.matched_stop().is_some() {
            self.cut();
        }
    }

    /// Looks for a stop string in what is told next.
    fn clear(&mut self, segment: Segment) {
        self.cleared += match &segment.class {
            _ if self.stops.is_idle() => segment.length,
            Class::Text | Class::Reasoning => self.stops.push(&self.untold[..segment.length]).release,
            Class::Hidden | Class::Call(_) => self.stops.release() + segment.length,
        };
        if !self.stops.is_idle() {
            self.untold.drain(..segment.length);
        }
        self.calls += u32::from(matches!(&segment.class, Class::Call(delta) if delta.name.is_some()));
        self.told.push_back(segment);
    }

    /// Readies the held pieces that are cleared as a whole. An empty piece (a token inside a character) goes with the next
    /// one that has text: it is part of what that is.
    fn hand_out(&mut self) {
        while let Some(at) = self.held.iter().position(|piece| !piece.text.is_empty()) {
            let length = self.held[at].text.len();
            if length > self.cleared {
                break;
            }
            self.cleared -= length;
            self.hand_out_through(at);
        }
    }

    /// Readies what of the held pieces comes before the stop string, and drops the others.
    fn cut(&mut self) {
        if self.cleared > 0
            && let Some(at) = self.held.iter().position(|piece| !piece.text.is_empty())
        {
            let text = &mut self.held[at].text;
            *text = SmolStr::new(&text[..self.cleared]);
            self.hand_out_through(at);
        }
        self.held.clear();
    }

    fn hand_out_through(&mut self, last: usize) {
        for piece in self.held.drain(..=last) {
            parts(piece, &mut self.told, &mut self.ready);
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
        let stopped = tokens.iter().any(|token| output.push(token, None).is_some());
        if !stopped {
            assert_eq!(output.finish(Finish::Length), Finish::Length);
        }
        (std::iter::from_fn(|| output.pop()).map(|piece| piece.text.to_string()).collect(), stopped)
    }

    #[test]
    fn without_stop_strings_each_token_is_a_piece_at_once() {
        let mut output = Output::new(Vec::new());
        for token in [&b"a"[..], b"\xe2\x82", b"\xac"] {
            assert_eq!(output.push(token, None), None);
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

    fn reader() -> AnswerReader {
        let tools = vec![Tool {
            r#type: Default::default(),
            function: serde_json::from_value(serde_json::json!({"name": "now"})).unwrap(),
        }];
        let calling = Calling { tools, parallel: true, ..Calling::default() };
        let markup = Markup { calls: Some(CallFormat::Hermes), reasoning: true };
        AnswerReader::new(markup, Some(Arc::new(calling)), false)
    }

    fn answer(tokens: &[&str], stop: &[&str]) -> (Vec<String>, Finish) {
        let stop = stop.iter().map(|&stop| stop.to_owned()).collect();
        let mut output = Output::read_by(stop, Some(reader()));
        let ended = tokens.iter().find_map(|token| output.push(token.as_bytes(), None));
        let finish = ended.unwrap_or_else(|| output.finish(Finish::Stop));
        let shown = |piece: Piece| match (piece.kind, piece.tool) {
            (TokenKind::Text, None) => piece.text.to_string(),
            (TokenKind::Reasoning, None) => format!("({})", piece.text),
            (TokenKind::Tool, Some(tool)) => format!("{}:{}", tool.name.as_deref().unwrap_or("+"), tool.arguments),
            other => panic!("{other:?}"),
        };
        (std::iter::from_fn(|| output.pop()).map(shown).collect(), finish)
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
    fn a_stop_string_ends_text_and_reasoning_and_cuts_no_call() {
        let call = ["<tool_call>", "{\"name\": \"now\", \"arguments\": {\"a", "b\": 1", "}}\n", "</tool_", "call>"];
        for stop in ["b\"", "}", "\n", "<tool", "tool_call>", "{"] {
            let (pieces, finish) = answer(&call, &[stop]);
            assert_eq!((pieces.concat(), finish), ("now:{\"a+:b\": 1+:}".into(), Finish::ToolCalls), "{stop}");
        }
        let (pieces, finish) = answer(&[&["Let me", " see.\n"], &call[..]].concat(), &["\n"]);
        assert_eq!((pieces.concat(), finish), ("Let me see.now:{\"a+:b\": 1+:}".into(), Finish::ToolCalls));
        let (pieces, finish) = answer(&["one\n", "two", "<tool_call>", "{"], &["\n"]);
        assert_eq!((pieces.concat(), finish), ("one".into(), Finish::Stop));
        let (pieces, finish) = answer(&["a <tool_", "call> stop"], &["stop"]);
        assert_eq!((pieces.concat(), finish), ("a <tool_call> ".into(), Finish::Stop));
        let (pieces, finish) = answer(&["<think>Hm,", " so", "</think>", "\n\nHi"], &["so"]);
        assert_eq!((pieces.concat(), finish), ("(Hm,)( )".into(), Finish::Stop));
        let (pieces, finish) = answer(&["<think>Hm", "</think>", "\n\nHi", " there"], &["\n\n", "</think>"]);
        assert_eq!((pieces.concat(), finish), ("(Hm)Hi there".into(), Finish::Stop));
    }

    #[test]
    fn calls_after_a_stop_string_were_not_made() {
        let call = "<tool_call>{\"name\": \"now\"}</tool_call>";
        let (pieces, finish) = answer(&[&format!("a stop {call}")], &["stop"]);
        assert_eq!((pieces.concat(), finish), ("a ".into(), Finish::Stop));
        let (pieces, finish) = answer(&[&format!("a {call} b stop c")], &["stop"]);
        assert_eq!((pieces.concat(), finish), ("anow:{} b ".into(), Finish::ToolCalls));
    }

    #[test]
    fn the_beginning_of_a_call_that_never_came_stops_nothing() {
        let mut output = Output::read_by(vec!["name".into(), "<tool".into()], Some(reader()));
        assert_eq!(output.push(b"Hm. <tool_call>\n{\"name", None), None);
        assert_eq!((output.finish(Finish::Length), output.matched_stop()), (Finish::Length, None));
        let pieces: String = std::iter::from_fn(|| output.pop()).map(|piece| piece.text.to_string()).collect();
        assert_eq!(pieces, "Hm. <tool_call>\n{\"name");
    }

    #[test]
    fn a_stop_string_that_was_kept_back_is_found_at_the_end() {
        let mut output = Output::read_by(vec!["\n".into()], Some(reader()));
        assert_eq!(output.push(b"a\n", None), None);
        assert_eq!(output.finish(Finish::Length), Finish::Stop);
        assert_eq!((output.pop().unwrap().text.as_str(), output.pop()), ("a", None));
        assert_eq!(output.matched_stop(), Some("\n"));
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
