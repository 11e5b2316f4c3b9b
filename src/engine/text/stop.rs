//! Stop strings, matched across any borders of tokens, and never shown, not even in part.

/// Looks for stop strings in text that comes in pieces, and says how much of it may be shown.
///
/// The text ends where the stop string begins that is the first to be complete; where several are complete at the same
/// place, the longest of them. That rule does not depend on how the text is cut into pieces.
#[derive(Debug)]
pub struct StopMatcher {
    stops: Vec<String>,
    /// Text not yet released: the possible beginning of a stop string.
    held: String,
    /// The stop string that was found.
    found: Option<usize>,
}

/// What a piece of text led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scan {
    /// Bytes to release now, from the oldest held on; always whole characters.
    pub release: usize,
    /// Whether a stop string follows the released text. Nothing may be pushed after it.
    pub stopped: bool,
}

impl StopMatcher {
    /// Empty stop strings match nothing.
    pub fn new(stops: Vec<String>) -> Self {
        Self { stops: stops.into_iter().filter(|stop| !stop.is_empty()).collect(), held: String::new(), found: None }
    }

    /// Whether there is nothing to look for.
    pub fn is_idle(&self) -> bool {
        self.stops.is_empty()
    }

    /// The stop string that was found.
    pub fn found(&self) -> Option<&str> {
        self.stops.get(self.found?).map(String::as_str)
    }

    pub fn push(&mut self, text: &str) -> Scan {
        self.held.push_str(text);
        let scan = match self.first_match() {
            Some((start, stop)) => {
                self.found = Some(stop);
                Scan { release: start, stopped: true }
            }
            None => Scan { release: self.held.len() - self.possible_start(), stopped: false },
        };
        self.held.drain(..scan.release);
        scan
    }

    /// What follows is another text: the bytes that may go now, since what was kept back began no stop string.
    pub fn release(&mut self) -> usize {
        let held = self.held.len();
        self.held.clear();
        held
    }

    /// Where the stop string begins that is complete first, and which it is.
    fn first_match(&self) -> Option<(usize, usize)> {
        let stops = self.stops.iter().enumerate();
        let matches =
            stops.filter_map(|(index, stop)| self.held.find(stop.as_str()).map(|at| (at + stop.len(), at, index)));
        matches.min().map(|(_, start, index)| (start, index))
    }

    /// The length of the longest end of the held text that a stop string begins with.
    fn possible_start(&self) -> usize {
        self.stops.iter().map(|stop| overlap(self.held.as_bytes(), stop.as_bytes())).max().unwrap_or(0)
    }
}

/// The length of the longest end of `text` that is a beginning of `stop`, shorter than `stop` itself.
pub fn overlap(text: &[u8], stop: &[u8]) -> usize {
    let longest = text.len().min(stop.len() - 1);
    (1..=longest).rev().find(|&length| text.ends_with(&stop[..length])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The rule, said in another way: cut the text before the stop string that the shortest beginning of it ends with.
    fn reference<'a>(text: &'a str, stops: &[String]) -> &'a str {
        for end in (0..=text.len()).filter(|&end| text.is_char_boundary(end)) {
            let ending = stops.iter().filter(|stop| !stop.is_empty() && text[..end].ends_with(stop.as_str()));
            if let Some(longest) = ending.map(String::len).max() {
                return &text[..end - longest];
            }
        }
        text
    }

    /// Everything released, the held rest included when no stop string was found.
    fn run(text: &str, cuts: &[usize], stops: &[String]) -> String {
        let mut matcher = StopMatcher::new(stops.to_vec());
        let mut cuts: Vec<usize> = cuts.iter().copied().filter(|&cut| text.is_char_boundary(cut)).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let mut released = 0;
        for pair in cuts.windows(2) {
            let scan = matcher.push(&text[pair[0]..pair[1]]);
            released += scan.release;
            assert_eq!(scan.stopped, matcher.found().is_some());
            if let Some(found) = matcher.found() {
                assert!(text[released..].starts_with(found));
                return text[..released].to_owned();
            }
        }
        text.to_owned()
    }

    #[test]
    fn text_is_held_only_while_it_could_begin_a_stop_string() {
        let mut matcher = StopMatcher::new(vec!["<end>".into(), "\n\n".into()]);
        assert_eq!(matcher.push("hello <"), Scan { release: 6, stopped: false });
        assert_eq!(matcher.push("en"), Scan { release: 0, stopped: false });
        assert_eq!(matcher.push("ough\n"), Scan { release: 7, stopped: false });
        assert_eq!(matcher.push("\nmore"), Scan { release: 0, stopped: true });
    }

    proptest! {
        #[test]
        fn any_cutting_gives_the_reference_truncation(
            text in "[abé]{0,40}",
            cuts in prop::collection::vec(0usize..60, 0..20),
            stops in prop::collection::vec("[abé]{0,5}", 0..4),
        ) {
            prop_assert_eq!(run(&text, &cuts, &stops), reference(&text, &stops));
        }
    }
}
