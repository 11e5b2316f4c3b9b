//! Sockets: HTTP/1.1 and HTTP/2 on one port, with or without TLS, and with limits on connections, on slow heads, and on
//! clients that do not read.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::{Request, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use crate::api::ClientAddress;
use crate::config::{self, Http2};
use crate::lifecycle::{Lifecycle, OnPanic};

mod crowd;
mod tls;
mod unread;

use crowd::Crowd;
pub(super) use tls::Tls;
pub use tls::TlsError;
use unread::{Unread, Watched};

/// After a failed accept (no file descriptors left, most likely).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// HTTP/2: requests at once on one connection.
const MAX_STREAMS: u32 = 256;

/// HTTP/2: a connection that does not answer a ping is closed.
const PING: Duration = Duration::from_secs(20);

/// Bytes of all headers of a request.
const MAX_HEADER_BYTES: usize = 32 * 1024;

/// What accepts connections.
pub(super) struct Server {
    closing: CancellationToken,
    connections: TaskTracker,
}

impl Server {
    /// Accepts connections from here on.
    pub fn start(
        listener: TcpListener,
        tls: Option<Tls>,
        router: Router,
        config: &config::Server,
        lifecycle: &Lifecycle,
    ) -> Self {
        let server = Self { closing: CancellationToken::new(), connections: TaskTracker::new() };
        let accept = Accept {
            closing: server.closing.clone(),
            connections: server.connections.clone(),
            crowd: Crowd::new(config.max_connections_per_address, &config.proxies),
            permits: Arc::new(Semaphore::new(config.max_connections.min(Semaphore::MAX_PERMITS))),
            tls,
            http: Arc::new(http(config)),
            header_timeout: config.header_timeout,
            write_timeout: config.write_timeout,
            router,
            lifecycle: lifecycle.clone(),
        };
        lifecycle.spawn("accept", OnPanic::Shutdown, accept.run(listener));
        server
    }

    /// Takes no more connections and returns when the open ones have sent what they have.
    pub async fn close(self) {
        self.closing.cancel();
        self.connections.close();
        self.connections.wait().await;
    }
}

/// The protocols, as the configuration has them.
fn http(config: &config::Server) -> Builder<TokioExecutor> {
    let builder = Builder::new(TokioExecutor::new());
    let mut builder = if config.http2 == Http2::Off { builder.http1_only() } else { builder };
    builder.http1().timer(TokioTimer::new()).header_read_timeout(config.header_timeout).max_buf_size(MAX_HEADER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_BYTES as u32)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING);
    builder
}

struct Accept {
    closing: CancellationToken,
    connections: TaskTracker,
    crowd: Crowd,
    /// One per connection; beyond them, clients wait in the backlog.
    permits: Arc<Semaphore>,
    tls: Option<Tls>,
    http: Arc<Builder<TokioExecutor>>,
    /// How long a client may take to ask for something.
    header_timeout: Duration,
    /// How long it may read nothing.
    write_timeout: Duration,
    router: Router,
    lifecycle: Lifecycle,
}

impl Accept {
    async fn run(self, listener: TcpListener) {
        let closing = self.closing.clone();
        closing.run_until_cancelled(self.forever(listener)).await;
    }

    async fn forever(self, listener: TcpListener) {
        loop {
            // The semaphore is never closed.
            let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let peer = ClientAddress(peer.ip().to_canonical());
                    let Some(place) = self.crowd.enter(peer) else {
                        tracing::debug!("an address has as many connections as one may have");
                        continue;
                    };
                    let serve = self.serve(stream, peer);
                    let tracked = self.connections.track_future(async move {
                        serve.await;
                        drop((permit, place));
                    });
                    self.lifecycle.spawn("connection", OnPanic::Continue, tracked);
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// One connection, to its end.
    fn serve(&self, stream: TcpStream, peer: ClientAddress) -> impl Future<Output = ()> + Send + 'static {
        // Without it every token waits for the acknowledgement of the one before: steps of 40 ms.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        // Below TLS, so that a handshake is bounded as well.
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(self.write_timeout));
        let stream = Box::pin(stream);
        let acceptor = self.tls.as_ref().map(Tls::acceptor);
        let connection = Connection {
            peer,
            http: Arc::clone(&self.http),
            closing: self.closing.clone(),
            deadline: self.header_timeout,
            write_timeout: self.write_timeout,
            router: self.router.clone(),
        };
        async move {
            let Some(acceptor) = acceptor else { return connection.run(stream).await };
            let shaken = tokio::time::timeout(connection.deadline, acceptor.accept(stream));
            match connection.closing.clone().run_until_cancelled(shaken).await {
                Some(Ok(Ok(stream))) => connection.run(stream).await,
                Some(Ok(Err(error))) => tracing::debug!(%error, "a client and TLS do not come together"),
                Some(Err(_)) | None => {}
            }
        }
    }
}

/// What a connection needs.
struct Connection {
    peer: ClientAddress,
    http: Arc<Builder<TokioExecutor>>,
    closing: CancellationToken,
    /// How long a client may take to ask for something.
    deadline: Duration,
    write_timeout: Duration,
    router: Router,
}

impl Connection {
    /// Serves HTTP over `stream`, until one of both ends it.
    async fn run<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(self, stream: S) {
        let Self { peer, http, closing, deadline, write_timeout, router } = self;
        let asked = Arc::new(AtomicBool::new(false));
        let unread = Unread::default();
        let service = {
            let (asked, unread) = (Arc::clone(&asked), unread.clone());
            service_fn(move |mut request: Request<Incoming>| {
                asked.store(true, Ordering::Relaxed);
                request.extensions_mut().insert(peer);
                // A stalled HTTP/1 client shows in its socket.
                let watch = (request.version() == Version::HTTP_2).then(|| unread.clone());
                let answer = router.clone().oneshot(request);
                async move {
                    let answer = answer.await?;
                    Ok::<_, Infallible>(answer.map(|body| match watch {
                        Some(unread) => unread.watch(body),
                        None => Watched::from(body),
                    }))
                }
            })
        };
        let connection = http.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        // hyper's own deadline for heads begins when it knows the protocol, and a client may never say.
        let silent = async {
            tokio::time::sleep(deadline).await;
            if asked.load(Ordering::Relaxed) {
                std::future::pending().await
            }
        };
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = silent => return,
            () = unread.longer_than(write_timeout) => {
                tracing::debug!("a client reads nothing of a stream");
                return;
            }
            () = closing.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection ended early");
        }
    }
}
