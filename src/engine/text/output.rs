//! From tokens to the pieces that a sink is given: decoding and stop strings together.

use std::collections::VecDeque;
use std::sync::Arc;

use sluicegate_compat::native::{TokenKind, TokenLogprobs};
use smol_str::SmolStr;

use super::decode::Utf8Decoder;
use super::stop::StopMatcher;
use crate::engine::Piece;

/// The text side of one sequence: takes each token's bytes and gives one [`Piece`] per token.
///
/// A token that holds a part of a possible stop string is kept back until that is settled; then it comes out as it is, or
/// cut before the stop string, or not at all.
#[derive(Debug)]
pub struct Output {
    decoder: Utf8Decoder,
    stops: StopMatcher,
    held: VecDeque<Piece>,
    /// Bytes of the held pieces that may be shown.
    cleared: usize,
    ready: VecDeque<Piece>,
}

impl Output {
    pub fn new(stop: Vec<String>) -> Self {
        Self {
            decoder: Utf8Decoder::default(),
            stops: StopMatcher::new(stop),
            held: VecDeque::new(),
            cleared: 0,
            ready: VecDeque::new(),
        }
    }

    /// Takes a token; true when it completes a stop string, after which no more may follow.
    pub fn push(&mut self, bytes: &[u8], logprobs: Option<Arc<TokenLogprobs>>) -> bool {
        let text = self.decoder.push(bytes);
        let piece = Piece { text, kind: TokenKind::Text, logprobs };
        if self.stops.is_idle() {
            self.ready.push_back(piece);
            return false;
        }
        let scan = self.stops.push(&piece.text);
        self.held.push_back(piece);
        self.cleared += scan.release;
        self.release(scan.stopped);
        scan.stopped
    }

    /// The text ended without a stop string: what was kept back may go.
    pub fn finish(&mut self) {
        self.ready.append(&mut self.held);
    }

    /// The next piece that may be shown.
    pub fn pop(&mut self) -> Option<Piece> {
        self.ready.pop_front()
    }

    /// Readies the held pieces that are cleared. An empty piece (a token inside a character) goes with the next one that
    /// has text, since it may turn out to be part of a stop string.
    fn release(&mut self, stopped: bool) {
        while let Some(at) = self.held.iter().position(|piece| !piece.text.is_empty()) {
            let length = self.held[at].text.len();
            if length > self.cleared {
                if stopped && self.cleared > 0 {
                    let text = &mut self.held[at].text;
                    *text = SmolStr::new(&text[..self.cleared]);
                    self.ready.extend(self.held.drain(..=at));
                }
                break;
            }
            self.cleared -= length;
            self.ready.extend(self.held.drain(..=at));
        }
        if stopped {
            self.held.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
}
