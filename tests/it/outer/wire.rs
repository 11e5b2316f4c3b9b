//! HTTP/1.1 by hand, for tests that have to see bytes and connections.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::running::PATIENCE;

/// A connection. Every read is bounded in time.
pub struct Wire {
    stream: TcpStream,
    unread: Vec<u8>,
}

/// A response, read to its end.
pub struct Answer {
    pub status: u16,
    /// In lower case.
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        let value = self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        value.unwrap_or_default()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

impl Wire {
    pub fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).unwrap())
    }

    pub fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream, unread: Vec::new() }
    }

    pub fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).unwrap();
    }

    /// As [`send`](Self::send), to a peer that may have closed.
    pub fn try_send(&mut self, text: &str) -> bool {
        self.stream.write_all(text.as_bytes()).is_ok()
    }

    /// Everything until the peer closes, however it does.
    pub fn read_to_end_or_reset(&mut self) -> String {
        let mut seen = std::mem::take(&mut self.unread);
        match self.stream.read_to_end(&mut seen) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
        }
        String::from_utf8_lossy(&seen).into_owned()
    }

    /// Says that nothing more will be sent.
    pub fn finish_sending(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// One read: what has come, or nothing where the peer has closed.
    pub fn read(&mut self) -> Vec<u8> {
        if !self.unread.is_empty() {
            return std::mem::take(&mut self.unread);
        }
        let mut buffer = vec![0; 64 * 1024];
        let count = self.stream.read(&mut buffer).unwrap();
        buffer.truncate(count);
        buffer
    }

    /// Whether nothing, and not the end either, comes within this time.
    pub fn is_silent_for(&mut self, time: Duration) -> bool {
        self.stream.set_read_timeout(Some(time)).unwrap();
        let mut byte = [0];
        let silent = self.stream.peek(&mut byte).is_err();
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        silent
    }

    /// Reads up to `text` and returns everything before and with it; what follows is kept.
    pub fn read_until(&mut self, text: &str) -> String {
        let mut seen = Vec::new();
        let mut searched = 0;
        loop {
            if let Some(at) = find(&seen[searched..], text.as_bytes()) {
                self.unread = seen.split_off(searched + at + text.len());
                return String::from_utf8(seen).unwrap();
            }
            searched = seen.len().saturating_sub(text.len());
            let more = self.read();
            assert!(!more.is_empty(), "the peer closed before {text:?}: {}", String::from_utf8_lossy(&seen));
            seen.extend(more);
        }
    }

    /// Everything until the peer closes, with how long that took.
    pub fn read_to_end(&mut self) -> (String, Duration) {
        let began = Instant::now();
        let mut seen = Vec::new();
        loop {
            let more = self.read();
            if more.is_empty() {
                return (String::from_utf8_lossy(&seen).into_owned(), began.elapsed());
            }
            seen.extend(more);
        }
    }

    /// Reads a response that says how long it is.
    pub fn answer(&mut self) -> Answer {
        let head = self.read_until("\r\n\r\n").to_ascii_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut answer = Answer { status, head, body: Vec::new() };
        let length: usize = answer.header("content-length").parse().unwrap();
        while answer.body.len() < length {
            let more = self.read();
            assert!(!more.is_empty(), "the body was cut short");
            answer.body.extend(more);
        }
        self.unread = answer.body.split_off(length);
        answer
    }
}

/// A request without a body.
pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

/// A request with a JSON body; `headers` are whole lines.
pub fn post(path: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{headers}");
    format!("{head}Content-Length: {length}\r\n\r\n{body}")
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}
