//! A response body that follows a task's event log.
//!
//! The body is polled only when the socket can take more, so a client that does not read costs a cursor and nothing else.
//! Every poll takes what there is (up to a batch) into one frame.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use http_body::Frame;
use sluicegate_compat::anthropic;
use sluicegate_compat::native::{self, Event};
use sluicegate_compat::openai::{chat, completions, responses};
use sluicegate_compat::sse::KEEP_ALIVE;
use tokio::time::{Instant, Sleep, sleep};

use crate::gateway::Owned;
use crate::tasks::{Owner, Read, Reader};

/// Something that clients pass over is sent after so much silence.
const KEEP_ALIVE_AFTER: Duration = Duration::from_secs(15);

/// How a dialect writes events.
pub trait Encode: Send + Unpin + 'static {
    /// Appends what `event` means to the client, the one with this id of the task with this index; whether that was the
    /// last that there is to say.
    fn encode(&mut self, task: usize, id: u64, event: &Event, out: &mut Vec<u8>) -> bool;

    /// What is sent after a silence.
    fn keep_alive(&self) -> &'static [u8] {
        KEEP_ALIVE
    }
}

/// The native dialect: every event, as it is.
pub struct Native {
    /// Say in words what `metrics` events say.
    pub verbose: bool,
}

impl Encode for Native {
    fn encode(&mut self, _: usize, id: u64, event: &Event, out: &mut Vec<u8>) -> bool {
        if self.verbose {
            native::encode_verbose(id, event, out)
        } else {
            native::encode(id, event, out)
        }
        event.is_last()
    }
}

impl Encode for chat::ChunkEncoder {
    fn encode(&mut self, _: usize, _: u64, event: &Event, out: &mut Vec<u8>) -> bool {
        chat::ChunkEncoder::encode(self, event, out);
        event.is_last()
    }
}

impl Encode for responses::EventEncoder {
    fn encode(&mut self, _: usize, _: u64, event: &Event, out: &mut Vec<u8>) -> bool {
        responses::EventEncoder::encode(self, event, out);
        event.is_last()
    }
}

impl Encode for completions::ChunkEncoder {
    fn encode(&mut self, task: usize, _: u64, event: &Event, out: &mut Vec<u8>) -> bool {
        completions::ChunkEncoder::encode(self, task, event, out);
        self.is_over()
    }
}

impl Encode for anthropic::EventEncoder {
    fn encode(&mut self, _: usize, _: u64, event: &Event, out: &mut Vec<u8>) -> bool {
        anthropic::EventEncoder::encode(self, event, out);
        event.is_last()
    }

    fn keep_alive(&self) -> &'static [u8] {
        anthropic::PING
    }
}

/// A response whose body is an event stream.
pub fn event_stream<E: Encode>(stream: EventStream<E>) -> Response {
    event_body(Body::new(stream))
}

/// A response with events as its body.
pub fn event_body(body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    // For proxies such as nginx that would gather the stream.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// A task that a stream follows.
pub struct Source {
    reader: Reader,
    /// Where the task ends with its clients.
    _owner: Option<Arc<Owner>>,
}

/// The body of an event stream.
pub struct EventStream<E> {
    /// `None` where there is nothing more to read.
    sources: Vec<Option<Source>>,
    encoder: E,
    events: Vec<Event>,
    written: Vec<u8>,
    /// Frames are split off it, and it is reused once they are sent.
    buffer: BytesMut,
    silence: Pin<Box<Sleep>>,
    ended: bool,
}

impl From<Owned> for Source {
    fn from(Owned { task, owner }: Owned) -> Self {
        Self { reader: task.log.reader(0), _owner: owner }
    }
}

impl<E: Encode> EventStream<E> {
    /// Follows a task that goes on without this client.
    pub fn new(reader: Reader, encoder: E) -> Self {
        Self::of_all(vec![Source { reader, _owner: None }], encoder)
    }

    /// Follows a task that may end with its clients.
    pub fn of(owned: Owned, encoder: E) -> Self {
        Self::of_all(vec![owned.into()], encoder)
    }

    /// Follows several tasks at once.
    pub fn of_all(sources: Vec<Source>, encoder: E) -> Self {
        Self {
            sources: sources.into_iter().map(Some).collect(),
            encoder,
            events: Vec::new(),
            written: Vec::new(),
            buffer: BytesMut::new(),
            silence: Box::pin(sleep(KEEP_ALIVE_AFTER)),
            ended: false,
        }
    }

    /// Takes what the tasks have to tell; whether there was anything.
    fn read(&mut self, cx: &mut Context<'_>) -> bool {
        let mut news = false;
        for task in 0..self.sources.len() {
            let Some(source) = &mut self.sources[task] else { continue };
            match source.reader.poll_read(cx, &mut self.events) {
                Poll::Ready(Read::Events { first_id }) => self.write(task, first_id),
                Poll::Ready(Read::End) => self.sources[task] = None,
                Poll::Pending => continue,
            }
            news = true;
        }
        self.ended |= self.sources.iter().all(Option::is_none);
        news
    }

    fn write(&mut self, task: usize, first_id: u64) {
        for (id, event) in (first_id..).zip(&self.events) {
            self.ended |= self.encoder.encode(task, id, event, &mut self.written);
        }
        self.events.clear();
    }

    fn frame(&mut self) -> Frame<Bytes> {
        self.buffer.extend_from_slice(&self.written);
        self.written.clear();
        self.silence.as_mut().reset(Instant::now() + KEEP_ALIVE_AFTER);
        Frame::data(self.buffer.split().freeze())
    }
}

impl<E: Encode> HttpBody for EventStream<E> {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        while !this.ended {
            let news = this.read(cx);
            if this.ended {
                // Before the last frame: whoever has it finds what is forgotten with its clients gone.
                this.sources.clear();
            }
            if !news {
                ready!(this.silence.as_mut().poll(cx));
                this.written.extend_from_slice(this.encoder.keep_alive());
            }
            if !this.written.is_empty() {
                return Poll::Ready(Some(Ok(this.frame())));
            }
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}
