//! A response body that follows a task's event log.
//!
//! The body is polled only when the socket can take more, so a client that does not read costs a cursor and nothing else.
//! Every poll takes what there is (up to a batch) into one frame.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::HttpBody;
use bytes::{Bytes, BytesMut};
use http_body::Frame;
use sluicegate_compat::native::{self, Event};
use sluicegate_compat::openai::chat::ChunkEncoder;
use sluicegate_compat::sse::KEEP_ALIVE;
use tokio::time::{Instant, Sleep, sleep};

use crate::tasks::{Owner, Read, Reader};

/// A comment is sent after so much silence.
const KEEP_ALIVE_AFTER: Duration = Duration::from_secs(15);

/// How a dialect writes events.
pub trait Encode: Send + Unpin + 'static {
    /// Appends what `event`, the one with this id, means to the client.
    fn encode(&mut self, id: u64, event: &Event, out: &mut Vec<u8>);
}

/// The native dialect: every event, as it is.
pub struct Native {
    /// Say in words what `metrics` events say.
    pub verbose: bool,
}

impl Encode for Native {
    fn encode(&mut self, id: u64, event: &Event, out: &mut Vec<u8>) {
        if self.verbose { native::encode_verbose(id, event, out) } else { native::encode(id, event, out) }
    }
}

impl Encode for ChunkEncoder {
    fn encode(&mut self, _: u64, event: &Event, out: &mut Vec<u8>) {
        ChunkEncoder::encode(self, event, out);
    }
}

/// The body of an event stream.
pub struct EventStream<E> {
    reader: Reader,
    encoder: E,
    events: Vec<Event>,
    written: Vec<u8>,
    /// Frames are split off it, and it is reused once they are sent.
    buffer: BytesMut,
    silence: Pin<Box<Sleep>>,
    ended: bool,
    _owner: Option<Arc<Owner>>,
}

impl<E: Encode> EventStream<E> {
    pub fn new(reader: Reader, encoder: E, owner: Option<Arc<Owner>>) -> Self {
        Self {
            reader,
            encoder,
            events: Vec::new(),
            written: Vec::new(),
            buffer: BytesMut::new(),
            silence: Box::pin(sleep(KEEP_ALIVE_AFTER)),
            ended: false,
            _owner: owner,
        }
    }

    fn write(&mut self, first_id: u64) {
        for (id, event) in (first_id..).zip(&self.events) {
            self.encoder.encode(id, event, &mut self.written);
            self.ended |= event.is_last();
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
            match this.reader.poll_read(cx, &mut this.events) {
                Poll::Ready(Read::Events { first_id }) => this.write(first_id),
                Poll::Ready(Read::End) => this.ended = true,
                Poll::Pending if this.silence.as_mut().poll(cx).is_ready() => {
                    this.written.extend_from_slice(KEEP_ALIVE)
                }
                Poll::Pending => return Poll::Pending,
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
