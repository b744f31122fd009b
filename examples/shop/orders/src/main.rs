//! The third service of the shop: it keeps the orders, and shows each with its
//! user and with what the user may like.
//!
//! Plain axum. The others are `http://users/` and `http://recommendations/`;
//! the way there comes from the usual proxy variables. Built as it is, it keeps
//! the orders in memory; with the feature `full` it is the one of
//! `make demo-full`: gRPC, PostgreSQL, Kafka and WebSocket.

#[cfg(feature = "full")]
mod full;
#[cfg(not(feature = "full"))]
mod plain;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::response::Response;
#[cfg(feature = "full")]
use full::service;
#[cfg(not(feature = "full"))]
use plain::service;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let port = std::env::var("PORT").unwrap_or_else(|_| "8083".into()).parse()?;
    let mut app = service().await?;
    // A load would fill the terminal.
    if std::env::var("LOG").is_ok_and(|log| log == "quiet") {
        println!("does not log requests");
    } else {
        app = app.layer(middleware::from_fn(logged));
    }
    let listener = tokio::net::TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
    println!("listens on {}", listener.local_addr()?);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    axum::serve(listener, app)
        .with_graceful_shutdown(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        })
        .await?;
    Ok(())
}

/// Writes one line for each request but those for health.
async fn logged(request: Request, next: Next) -> Response {
    let start = Instant::now();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = next.run(request).await;
    if path != "/health" {
        println!("{method} {path} {} {:.1?}", response.status().as_u16(), start.elapsed());
    }
    response
}
