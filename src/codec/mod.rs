//! From bytes to a head and a body, and back: HTTP/1 with a codec of our own,
//! HTTP/2 with the `h2` crate. Nothing here knows a route.
//!
//! The phases of a request see [`http::Request`] and [`http::Response`] with
//! the one [`Body`], never the codec. [`guard`] stands between: what it lets
//! through can be read in only one way, whoever reads it next.

pub mod body;
pub mod client_hello;
pub mod guard;
mod handshake;
pub mod http1;
pub mod http2;
pub mod pace;
pub mod proxy_protocol;
pub mod spare;
mod stream;
pub mod tape;
pub mod tls;

use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};

pub use body::{AnswerBody, Body, Takeover};
pub use handshake::is_websocket;
pub use stream::{Duplex, Prefixed, Stream};

use crate::base::Limits;
use crate::base::drain::Stage;
use crate::base::timers::Timers;
use crate::base::{Authority, ProxyError};

/// What every server connection of a worker shares.
pub struct ServerContext {
    /// The caps in force when the connection was accepted.
    pub limits: Limits,
    /// The worker's timers.
    pub timers: Timers,
    /// How far a drain has come; [`Timers::wake_all`] makes connections look.
    pub stage: Rc<Cell<Stage>>,
}

/// How long a connection that waits for a request may still wait when a drain
/// begins: a request may be on its way.
pub const FAREWELL: Duration = Duration::from_millis(500);

impl ServerContext {
    /// Whether connections should not be kept for another request.
    pub fn is_leaving(&self) -> bool {
        self.stage.get() >= Stage::Leaving
    }

    /// Whether connections end as soon as nothing is at hand.
    pub fn is_draining(&self) -> bool {
        self.stage.get() >= Stage::Draining
    }
}

/// Answers the requests of a connection.
pub trait Handler: 'static {
    /// The body of its answers.
    type Body: AnswerBody;

    /// Answers one request. Dropping the future means that the caller has gone.
    fn call(
        &self,
        request: Request<Body>,
        exchange: Exchange,
    ) -> impl Future<Output = Response<Self::Body>> + 'static;

    /// Answers what the codec could not read, or would not wait for.
    fn refuse(&self, error: ProxyError) -> Response<Self::Body>;

    /// A limit was hit; `limit` is its key under `limits`.
    fn limited(&self, limit: &'static str);
}

/// What the codec knows of a request beside its head.
pub struct Exchange {
    /// When the head was complete.
    pub received: Instant,
    /// Whom it is for: the target's authority, else Host.
    pub authority: Option<Authority>,
    /// The caller asks to change to this protocol (`Upgrade`), or for a tunnel.
    pub upgrade: Upgrade,
    /// Passes 1xx answers on.
    pub interim: Interim,
    /// Whether the request's body moves; `None` where it has none.
    pub moved: Option<pace::Moved>,
}

/// Whether a request asks for a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upgrade {
    /// An ordinary request.
    No,
    /// `Upgrade`, to the protocol that the field names; HTTP/2's extended
    /// CONNECT (RFC 8441) looks the same.
    Protocol,
    /// CONNECT.
    Connect,
}

/// The way back for 1xx answers; silent where the caller can't take them.
#[derive(Clone)]
pub enum Interim {
    /// HTTP/1.0.
    None,
    /// HTTP/1.1.
    Http1(Rc<http1::Transport>),
    /// HTTP/2.
    Http2(http2::Responder),
}

/// What sending a request needs beside its head and body.
pub struct SendContext<'a> {
    /// For the head of the answer.
    pub limits: &'a Limits,
    /// The worker's timers.
    pub timers: &'a Timers,
    /// The way back for 1xx answers.
    pub interim: &'a Interim,
    /// Whether the caller asks for a tunnel.
    pub upgrade: Upgrade,
    /// Fields that only this attempt has; the head has none of their names.
    pub fields: &'a [(HeaderName, HeaderValue)],
}

/// Why no answer came, and the body, where nothing of it was taken.
pub struct Failed {
    /// Why.
    pub error: ProxyError,
    /// For another attempt.
    pub body: Option<Body>,
}

impl Interim {
    /// Passes on a 1xx answer other than 101, at once where the socket takes it.
    pub fn send(&self, status: StatusCode, headers: &HeaderMap) {
        match self {
            Self::None => {}
            Self::Http1(transport) => transport.send_interim(status, headers),
            Self::Http2(responder) => responder.send_interim(status, headers),
        }
    }
}
