//! Calls over as many connections as they take.
//!
//! A watch is a stream that stays open. A server allows so many streams on one
//! HTTP/2 connection (kube-apiserver: 100), and hyper keeps one connection to a
//! server, on which one stream more would wait for ever.

use std::sync::{Arc, Mutex, PoisonError};

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Bytes, Incoming};
use hyper_util::client::legacy::connect::Connect;
use hyper_util::client::legacy::{Builder, Client, Error};
use kube::client::Body;
use tower::BoxError;

/// Calls at one time on one connection.
const CALLS: usize = 40;
/// Bytes of one answer; a watch that has brought so many is begun anew.
const ANSWER: usize = 64 << 20;

/// Sends each call on the first connection that has room for it.
pub(super) struct Spread<C> {
    builder: Builder,
    connector: C,
    open: Mutex<Vec<Transport<C>>>,
}

/// The body of an answer; its call ends with it.
type Answer = UnsyncBoxBody<Bytes, BoxError>;

/// One connection, where the server speaks HTTP/2.
struct Transport<C> {
    http: Client<C, Body>,
    /// Held by each call until its answer has ended.
    calls: Arc<()>,
}

impl<C: Connect + Clone + Send + Sync + 'static> Spread<C> {
    /// Connects nothing yet.
    pub(super) fn new(builder: Builder, connector: C) -> Self {
        Self { builder, connector, open: Mutex::default() }
    }

    /// One call.
    pub(super) async fn send(&self, request: http::Request<Body>) -> Result<http::Response<Answer>, Error> {
        let (http, call) = self.room();
        let answer = http.request(request).await?;
        Ok(answer.map(|body| held(body, call)))
    }

    fn room(&self) -> (Client<C, Body>, Arc<()>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let calls = |transport: &Transport<C>| Arc::strong_count(&transport.calls) - 1;
        let index = open.iter().position(|transport| calls(transport) < CALLS);
        let index = index.unwrap_or_else(|| {
            let http = self.builder.build(self.connector.clone());
            open.push(Transport { http, calls: Arc::default() });
            open.len() - 1
        });
        let chosen = (open[index].http.clone(), open[index].calls.clone());
        // The first ones fill up before others do: those that no call is left on
        // are closed.
        open.retain(|transport| calls(transport) > 0);
        chosen
    }
}

/// `body` with the call that it belongs to.
fn held(body: Incoming, call: Arc<()>) -> Answer {
    Limited::new(body, ANSWER)
        .map_frame(move |frame| {
            let _held = &call;
            frame
        })
        .boxed_unsync()
}
