//! Server-sent events out of a byte stream, each and all of them within a limit. Pure.

/// Bytes of one event at most.
const LONGEST_EVENT: usize = 1 << 20;

/// An event, or the stream, is longer than it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer is longer than it may be")]
pub struct TooLong;

/// The `data` of events; their names and ids do not matter to the OpenAI API.
#[derive(Debug)]
pub struct Events {
    buffer: Vec<u8>,
    /// Before here, everything was handed out.
    read: usize,
    /// From `read` to here no line ends.
    searched: usize,
    /// The data lines of the event that is not at its end yet.
    data: Vec<u8>,
    left: usize,
}

impl Events {
    /// `most`: bytes of the whole stream.
    pub fn new(most: usize) -> Self {
        Self { buffer: Vec::new(), read: 0, searched: 0, data: Vec::new(), left: most }
    }

    /// Takes what came.
    ///
    /// # Errors
    ///
    /// [`TooLong`].
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        self.left = self.left.checked_sub(bytes.len()).ok_or(TooLong)?;
        self.buffer.drain(..self.read);
        self.searched -= self.read;
        self.read = 0;
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// The data of the next whole event into `into`; whether there was one.
    ///
    /// # Errors
    ///
    /// [`TooLong`].
    pub fn next(&mut self, into: &mut Vec<u8>) -> Result<bool, TooLong> {
        while let Some(at) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
            let end = self.searched + at;
            let line = &self.buffer[self.read..end];
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let ended = line.is_empty() && !self.data.is_empty();
            if let Some(data) = line.strip_prefix(b"data:") {
                if !self.data.is_empty() {
                    self.data.push(b'\n');
                }
                self.data.extend_from_slice(data.strip_prefix(b" ").unwrap_or(data));
            }
            self.read = end + 1;
            self.searched = self.read;
            if self.data.len() > LONGEST_EVENT {
                return Err(TooLong);
            }
            if ended {
                into.clear();
                std::mem::swap(into, &mut self.data);
                self.data.clear();
                return Ok(true);
            }
        }
        self.searched = self.buffer.len();
        if self.searched - self.read > LONGEST_EVENT { Err(TooLong) } else { Ok(false) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(chunks: &[&[u8]]) -> Vec<String> {
        let mut events = Events::new(usize::MAX);
        let (mut found, mut data) = (Vec::new(), Vec::new());
        for chunk in chunks {
            events.push(chunk).unwrap();
            while events.next(&mut data).unwrap() {
                found.push(String::from_utf8(data.clone()).unwrap());
            }
        }
        found
    }

    const STREAM: &str =
        ": hello\n\nevent: x\ndata: one\r\n\r\ndata:two\ndata: lines\n\nid: 3\n\ndata: [DONE]\n\ndata: cut";

    #[test]
    fn comments_names_and_events_without_data_are_passed_over() {
        assert_eq!(all(&[STREAM.as_bytes()]), ["one", "two\nlines", "[DONE]"]);
    }

    #[test]
    fn an_event_or_a_stream_that_does_not_end_is_cut_off() {
        let mut events = Events::new(usize::MAX);
        events.push(b"data: ").unwrap();
        events.push(&vec![b'x'; LONGEST_EVENT]).unwrap();
        assert_eq!(events.next(&mut Vec::new()), Err(TooLong));
        let mut events = Events::new(usize::MAX);
        events.push("data: many short lines\n".repeat(LONGEST_EVENT / 16).as_bytes()).unwrap();
        assert_eq!(events.next(&mut Vec::new()), Err(TooLong));
        let mut events = Events::new(10);
        events.push(b"data: 123").unwrap();
        assert_eq!(events.push(b"45"), Err(TooLong));
    }

    proptest! {
        #[test]
        fn how_the_bytes_are_cut_changes_nothing(at in prop::collection::vec(0..STREAM.len(), 0..8)) {
            let mut at = at;
            at.extend([0, STREAM.len()]);
            at.sort_unstable();
            let chunks: Vec<_> = at.windows(2).map(|pair| &STREAM.as_bytes()[pair[0]..pair[1]]).collect();
            prop_assert_eq!(all(&chunks), ["one", "two\nlines", "[DONE]"]);
        }
    }
}
