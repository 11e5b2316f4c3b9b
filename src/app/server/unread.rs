//! HTTP/2 streams whose client takes nothing more, while its connection is alive: the socket does not tell of them.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::time::Instant;

/// The streams of one connection that wait for their client: each has handed out a part, and was not asked for the next.
#[derive(Debug, Clone, Default)]
pub(super) struct Unread(Arc<Mutex<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    last: u64,
    since: HashMap<u64, Instant>,
}

impl Unread {
    /// Returns once a stream has waited for so long.
    pub async fn longer_than(self, timeout: Duration) {
        loop {
            let oldest = self.lock().since.values().min().copied();
            let due = oldest.unwrap_or_else(Instant::now) + timeout;
            if due <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(due).await;
        }
    }

    /// A body that is watched.
    pub fn watch(&self, body: Body) -> Watched {
        let mut waiting = self.lock();
        waiting.last += 1;
        Watched { body, stream: Some((self.clone(), waiting.last)) }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The body of an answer.
pub(super) struct Watched {
    body: Body,
    /// Of a connection with streams, and its number there.
    stream: Option<(Unread, u64)>,
}

impl From<Body> for Watched {
    /// One that is not watched.
    fn from(body: Body) -> Self {
        Self { body, stream: None }
    }
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Some((unread, stream)) = &self.stream {
            unread.lock().since.remove(stream);
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let (Some((unread, stream)), Some(Ok(_))) = (&self.stream, &frame) {
            unread.lock().since.insert(*stream, Instant::now());
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some((unread, stream)) = &self.stream {
            unread.lock().since.remove(stream);
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use tokio::time::timeout;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    async fn is_stuck(unread: &Unread) -> bool {
        timeout(LIMIT * 2, unread.clone().longer_than(LIMIT)).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_is_stuck_that_has_handed_out_a_part_and_is_not_asked_again() {
        let unread = Unread::default();
        let mut body = unread.watch(Body::from("part"));
        assert!(!is_stuck(&unread).await, "nothing was handed out");
        body.frame().await.unwrap().unwrap();
        let began = Instant::now();
        assert!(is_stuck(&unread).await);
        assert_eq!(began.elapsed(), LIMIT);
        assert!(body.frame().await.is_none());
        assert!(!is_stuck(&unread).await, "it came to its end");
    }

    #[tokio::test(start_paused = true)]
    async fn streams_that_are_read_or_gone_are_not_stuck() {
        let unread = Unread::default();
        let mut gone = unread.watch(Body::from("part"));
        gone.frame().await.unwrap().unwrap();
        drop(gone);
        let waits = Body::new(http_body_util::StreamBody::new(futures_util::stream::pending::<
            Result<Frame<Bytes>, axum::Error>,
        >()));
        let mut waits = unread.watch(waits);
        assert!(timeout(LIMIT, waits.frame()).await.is_err());
        assert!(!is_stuck(&unread).await, "the gateway has nothing to say there");
    }
}
