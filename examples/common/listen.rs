//! A gateway on a socket of this process.

use std::net::SocketAddr;

use axum::serve::ListenerExt as _;
use sluicegate::app::App;
use sluicegate::lifecycle::{Lifecycle, OnPanic};
use tokio::net::TcpListener;

use crate::Failure;

/// Loads the models of `app` and serves it; returns where it listens.
pub async fn listen(app: &App, lifecycle: &Lifecycle) -> Result<SocketAddr, Failure> {
    app.start().await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    // As the program's own server does, without its limits on connections.
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    let (router, ended) = (app.router.clone(), lifecycle.forced().clone());
    lifecycle.spawn("server", OnPanic::Shutdown, async move {
        if let Some(Err(error)) = ended.run_until_cancelled(axum::serve(listener, router).into_future()).await {
            eprintln!("the server ended: {error}");
        }
    });
    Ok(address)
}
