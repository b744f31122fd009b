//! The called services: what they do is written in the test.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tokio::io::{AsyncReadExt as _, DuplexStream};
use tokio::sync::Notify;
use tokio::task::spawn_local;

use crate::base::timers::Timers;
use crate::base::{Limits, ProxyError, UpstreamName, clock, grpc};
use crate::codec::{Body, Exchange, Handler, ServerContext, Stream, http1, http2};
use crate::config::model::{Answer, Outcome, Status};
use crate::upstream::Network;

/// Bytes on their way in one direction of a connection.
const PIPE: usize = 64 * 1024;
/// What a connection of HTTP/2 begins with (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0";

/// How long a service that refuses connections keeps those it has.
const LEAVING: Duration = Duration::from_millis(1);

/// All called services.
pub struct Services {
    script: RefCell<Script>,
    names: RefCell<BTreeMap<SocketAddr, UpstreamName>>,
    /// What gets copies: what it does is not in the script.
    aside: RefCell<Option<UpstreamName>>,
    timers: RefCell<Option<Timers>>,
    sessions: RefCell<Vec<Weak<Line>>>,
    start: Instant,
}

/// A connection, as far as others are concerned.
#[derive(Default)]
struct Line {
    /// Ends it at once.
    cut: Notify,
    /// Calls at hand.
    busy: Cell<u32>,
}

#[derive(Default)]
struct Script {
    outcomes: Vec<Outcome>,
    next: usize,
    seen: Vec<Seen>,
}

/// An attempt that came to a service, or to nobody.
#[derive(Clone)]
pub struct Seen {
    /// When, since the test began.
    pub at: Duration,
    /// The service.
    pub to: UpstreamName,
    /// Which of its addresses.
    pub address: SocketAddr,
    /// Whether it is a copy of a call.
    pub copy: bool,
    /// What was asked; `None` where no connection was made.
    pub request: Option<String>,
    /// What came of it.
    pub outcome: Outcome,
}

/// One connection.
#[derive(Clone)]
struct Session {
    services: Rc<Services>,
    address: SocketAddr,
    line: Rc<Line>,
}

impl Services {
    /// Services of which nobody knows yet.
    pub fn new() -> Rc<Self> {
        Rc::new(Self {
            script: RefCell::default(),
            names: RefCell::default(),
            aside: RefCell::default(),
            timers: RefCell::default(),
            sessions: RefCell::default(),
            start: clock::now(),
        })
    }

    /// They keep time by these.
    pub fn keep_time_by(&self, timers: &Timers) {
        self.timers.replace(Some(timers.clone()));
    }

    /// `address` is one of the service `name`.
    pub fn listen(&self, address: SocketAddr, name: &UpstreamName) {
        self.names.borrow_mut().insert(address, name.clone());
    }

    /// This one gets copies, and serves them all.
    pub fn set_aside(&self, name: Option<UpstreamName>) {
        self.aside.replace(name);
    }

    fn is_aside(&self, address: SocketAddr) -> bool {
        self.names.borrow().get(&address).is_some_and(|name| self.aside.borrow().as_ref() == Some(name))
    }

    /// What becomes of attempts from now on.
    pub async fn follow(self: &Rc<Self>, outcomes: Vec<Outcome>) {
        {
            let mut script = self.script.borrow_mut();
            (script.outcomes, script.next) = (outcomes, 0);
        }
        if self.leave_if_refusing() {
            // The next call finds the connections ended.
            tokio::time::sleep(2 * LEAVING).await;
        }
    }

    /// A service that refuses connections has none: those without a call end.
    fn leave_if_refusing(self: &Rc<Self>) -> bool {
        if self.next() != Outcome::Connect {
            return false;
        }
        let services = self.clone();
        spawn_local(async move {
            // The answer at hand is written first.
            tokio::time::sleep(LEAVING).await;
            let mut sessions = services.sessions.borrow_mut();
            sessions.retain(|line| line.strong_count() > 0);
            let idle = sessions.iter().filter_map(Weak::upgrade).filter(|line| line.busy.get() == 0);
            idle.for_each(|line| line.cut.notify_one());
        });
        true
    }

    /// What has come since the last question.
    pub fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.script.borrow_mut().seen)
    }

    fn next(&self) -> Outcome {
        let script = self.script.borrow();
        let at = script.next.min(script.outcomes.len().saturating_sub(1));
        script.outcomes.get(at).cloned().unwrap_or(Outcome::Silence)
    }

    /// The next outcome, for an attempt at `address`.
    fn take(&self, address: SocketAddr, request: Option<String>) -> Outcome {
        let outcome = self.next();
        self.script.borrow_mut().next += 1;
        self.see(address, request, outcome.clone(), false);
        outcome
    }

    /// A copy came to `address`: it is served, whatever becomes of calls.
    fn copied(&self, address: SocketAddr, request: String, grpc: bool) -> Outcome {
        let status = if grpc { Status::Grpc(0) } else { Status::Http(200) };
        let (headers, body) = (HeaderMap::new(), Bytes::new());
        let outcome = Outcome::Answer(Answer { status, after: Duration::ZERO, headers, body });
        self.see(address, Some(request), outcome.clone(), true);
        outcome
    }

    fn see(&self, address: SocketAddr, request: Option<String>, outcome: Outcome, copy: bool) {
        let to = self.names.borrow().get(&address).cloned();
        let to = to.unwrap_or_else(|| UpstreamName::new(&address.to_string()));
        let at = clock::now().saturating_duration_since(self.start);
        self.script.borrow_mut().seen.push(Seen { at, to, address, copy, request, outcome });
    }
}

/// The services of one test, as a network.
pub struct ToServices(pub Rc<Services>);

impl Network for ToServices {
    fn connect(&self, address: SocketAddr, place: Box<dyn Any>) -> io::Result<Stream> {
        if self.0.next() == Outcome::Connect && !self.0.is_aside(address) {
            self.0.take(address, None);
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (ours, theirs) = tokio::io::duplex(PIPE);
        let line = Rc::new(Line::default());
        self.0.sessions.borrow_mut().push(Rc::downgrade(&line));
        let session = Session { services: self.0.clone(), address, line: line.clone() };
        spawn_local(async move {
            let _place = place;
            tokio::select! {
                biased;
                () = line.cut.notified() => {}
                () = serve(theirs, session) => {}
            }
        });
        Ok(Stream::Boxed(Box::pin(ours)))
    }
}

async fn serve(mut stream: DuplexStream, session: Session) {
    let Some(timers) = session.services.timers.borrow().clone() else { return };
    let context =
        Rc::new(ServerContext { limits: Limits::default(), timers, stage: Rc::new(Cell::default()) });
    let mut first = BytesMut::new();
    while first.len() < PREFACE.len() && PREFACE.starts_with(&first) {
        if !matches!(stream.read_buf(&mut first).await, Ok(1..)) {
            return;
        }
    }
    let is_http2 = first.starts_with(PREFACE);
    let stream = Stream::Boxed(Box::pin(stream)).with_prefix(first.freeze());
    match is_http2 {
        true => http2::server::serve(stream, context, Rc::new(session), None).await,
        false => http1::server::serve(stream, &context, &session, None).await,
    }
}

impl Handler for Session {
    type Body = Body;

    fn call(
        &self,
        request: Request<Body>,
        _exchange: Exchange,
    ) -> impl Future<Output = Response<Body>> + 'static {
        let session = self.clone();
        async move {
            let text = format!("{} {}", request.method(), request.uri().path());
            let copy = request.headers().contains_key("pillion-mirrored");
            let grpc = grpc::content_type(request.headers()).is_some();
            // A real service reads what it is sent before it answers.
            let line = &session.line;
            line.busy.set(line.busy.get() + 1);
            let _ = request.into_body().collect().await;
            let outcome = match copy {
                true => session.services.copied(session.address, text, grpc),
                false => session.services.take(session.address, Some(text)),
            };
            match outcome {
                Outcome::Answer(answer) => {
                    tokio::time::sleep(answer.after).await;
                    line.busy.set(line.busy.get() - 1);
                    session.services.leave_if_refusing();
                    return response(answer);
                }
                Outcome::Connect | Outcome::Reset => line.cut.notify_one(),
                Outcome::Silence => {}
            }
            std::future::pending().await
        }
    }

    fn refuse(&self, error: ProxyError) -> Response<Body> {
        let mut response = Response::new(Body::full(error.to_string()));
        *response.status_mut() = StatusCode::BAD_REQUEST;
        response
    }

    fn limited(&self, _limit: &'static str) {}
}

fn response(answer: Answer) -> Response<Body> {
    let Answer { status, headers, body, .. } = answer;
    let (status, body, grpc) = match status {
        Status::Http(status) => (status, Body::full(body), None),
        // A call that goes well has a message, and its status behind it.
        Status::Grpc(0) => (200, message(&body), None),
        Status::Grpc(code) => (200, Body::Empty, Some(code)),
    };
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    if !matches!(answer.status, Status::Http(_)) {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    }
    if let Some(code) = grpc {
        response.headers_mut().insert("grpc-status", u16::from(code).into());
    }
    for (name, value) in &headers {
        response.headers_mut().append(name, value.clone());
    }
    response
}

/// One message of gRPC and the status OK.
fn message(bytes: &Bytes) -> Body {
    let mut framed = vec![0];
    framed.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    framed.extend_from_slice(bytes);
    let trailers = HeaderMap::from_iter(
        [("grpc-status".parse().ok(), HeaderValue::from_static("0"))]
            .into_iter()
            .filter_map(|(name, value): (Option<http::HeaderName>, _)| Some((name?, value))),
    );
    let frames = [Ok(Frame::data(framed.into())), Ok(Frame::trailers(trailers))];
    Body::Boxed(Box::pin(StreamBody::new(futures_util::stream::iter(frames))))
}
