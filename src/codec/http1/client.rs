//! The client's side of an HTTP/1 connection: one request, one answer, and the
//! connection is free again when both are complete.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use http::header::{EXPECT, HeaderValue};
use http::{HeaderMap, HeaderName, Method, Response, StatusCode, Version, request, response};
use http_body::Body as _;
use tokio::task::AbortHandle;

use super::encode::{Broken, Encoder};
use super::head;
use super::switch::Asked;
use super::transport::NoHead;
use super::{Incoming, Transport};
use crate::base::Limits;
use crate::base::clock;
use crate::base::{ProxyError, Reason, Sent, Side};
use crate::codec::guard::{self, ConnectionField, Framing};
use crate::codec::{Body, Failed, Interim, SendContext, Stream};

/// 1xx answers to one request; more than this is a service that does not end.
pub const MAX_INTERIM: u32 = 64;
/// How long a service may be silent after `Expect: 100-continue` before the
/// body is sent all the same (RFC 9110, section 10.1.1).
const CONTINUE_WAIT: Duration = Duration::from_secs(1);

/// A connection that can take a request.
pub struct Connection {
    transport: Rc<Transport>,
    /// Requests that it has served.
    served: u32,
}

/// Takes a connection back when it is free again.
pub trait Recycle {
    /// The connection can take another request.
    fn recycle(&self, connection: Connection);
}

/// Told by the body of an answer that it is complete.
pub struct Answered {
    home: Option<(Rc<dyn Recycle>, u32)>,
    /// The rest of a request whose answer came early.
    upload: Option<Upload>,
}

/// The task that writes the rest of a request; ended with this.
struct Upload {
    task: AbortHandle,
    /// The request was written whole.
    whole: Rc<Cell<bool>>,
}

impl Connection {
    /// A connection that has served nothing.
    pub fn new(stream: Stream) -> Self {
        Self { transport: Rc::new(Transport::new(stream)), served: 0 }
    }

    /// Whether the peer has closed it or said something unasked. With `ask`,
    /// the kernel is asked; else what the reactor has seen is believed.
    pub fn is_stale(&self, ask: bool) -> bool {
        self.transport.is_stale(ask)
    }

    /// Whether it has served a request before.
    pub fn is_reused(&self) -> bool {
        self.served > 0
    }

    /// Sends a request and waits for the head of its answer. The head of the
    /// request is only read, so that the caller can send it again.
    pub async fn send(
        self,
        request: &request::Parts,
        body: Body,
        context: &SendContext<'_>,
        home: Rc<dyn Recycle>,
    ) -> Result<Response<Body>, Failed> {
        let transport = self.transport.clone();
        let framing = framing(request, &body);
        let asked = Asked::of(request, context.upgrade);
        transport.with_output(|out| write_head(out, request, context.fields, framing, asked.key()));
        let wait = framing != Framing::None && request.headers.contains_key(EXPECT);
        let mut exchange = Exchange {
            written_before: transport.written(),
            transport: &transport,
            limits: context.limits,
            encoder: Encoder::new(body, framing),
            state: if wait { Sending::Waits } else { Sending::Sends },
            broken: None,
            interims: 0,
        };
        let head = match exchange.run(context).await {
            Ok(head) => head,
            Err(error) => return Err(exchange.fail(error, self.is_reused())),
        };
        let rest = exchange.rest();
        drop(transport);
        self.answer(head, rest, request, &asked, home)
    }

    #[expect(clippy::result_large_err, reason = "a failure is rare, and holds the body for another attempt")]
    fn answer(
        self,
        head: response::Parts,
        rest: Rest,
        request: &request::Parts,
        asked: &Asked,
        home: Rc<dyn Recycle>,
    ) -> Result<Response<Body>, Failed> {
        let bad = |error| Failed { error, body: None };
        if let Err(detail) = asked.check(&head, &request.headers, matches!(rest, Rest::Nothing)) {
            return Err(bad(ProxyError::new(Reason::MalformedResponse, detail)));
        }
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            let Some(transport) = Rc::into_inner(self.transport) else {
                let detail = "the connection is still in use";
                return Err(bad(ProxyError::new(Reason::MalformedResponse, detail)));
            };
            return Ok(Response::from_parts(head, Body::Tunnel(transport.into_stream())));
        }
        let framing = guard::check_http1_response(&head, &request.method).map_err(bad)?;
        let field = ConnectionField::read(&head.headers);
        let lives = match head.version {
            Version::HTTP_10 => field.keep_alive && !field.close,
            _ => !field.close,
        };
        let mut answered = Answered {
            home: (lives && framing != Framing::UntilClose && !matches!(rest, Rest::Never))
                .then_some((home, self.served + 1)),
            upload: None,
        };
        let message = self.transport.begin_body(framing, false);
        if framing == Framing::None {
            if matches!(rest, Rest::Nothing) {
                answered.complete(&self.transport);
            }
            return Ok(Response::from_parts(head, Body::Empty));
        }
        if let Rest::Body(encoder) = rest {
            answered.upload = Some(Upload::spawn(encoder, self.transport.clone()));
        }
        let incoming = Incoming::of_answer(self.transport, message, answered);
        Ok(Response::from_parts(head, Body::Http1(incoming)))
    }
}

impl Answered {
    /// The answer was read whole.
    pub fn complete(&mut self, transport: &Rc<Transport>) {
        let unfinished = self.upload.take().is_some_and(|upload| !upload.whole.get());
        if let Some((home, served)) = self.home.take()
            && !unfinished
            && !transport.has_input()
        {
            home.recycle(Connection { transport: transport.clone(), served });
        }
    }
}

impl Upload {
    fn spawn(mut encoder: Encoder<Body>, transport: Rc<Transport>) -> Self {
        let whole = Rc::new(Cell::new(false));
        let told = whole.clone();
        let task = tokio::task::spawn_local(async move {
            // A failure shows on the side of the answer.
            told.set(poll_fn(|cx| encoder.poll(cx, &transport)).await.is_ok());
        });
        Self { task: task.abort_handle(), whole }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What of a request is left when the head of its answer is there.
enum Rest {
    Nothing,
    /// It goes on while the answer is read.
    Body(Encoder<Body>),
    /// It will not be sent: the connection can't serve another request.
    Never,
}

enum Sending {
    /// Waits for 100 Continue.
    Waits,
    Sends,
    Done,
}

struct Exchange<'a> {
    transport: &'a Transport,
    limits: &'a Limits,
    encoder: Encoder<Body>,
    state: Sending,
    /// A failed write; the answer may have come before it.
    broken: Option<io::Error>,
    written_before: u64,
    interims: u32,
}

impl Exchange<'_> {
    async fn run(&mut self, context: &SendContext<'_>) -> Result<response::Parts, ProxyError> {
        let mut timer = None;
        if matches!(self.state, Sending::Waits) {
            timer = Some(context.timers.at(clock::now() + CONTINUE_WAIT));
        }
        poll_fn(|cx| {
            if let Some(waiting) = &mut timer
                && waiting.poll_fired(cx).is_ready()
            {
                timer = None;
                if matches!(self.state, Sending::Waits) {
                    self.state = Sending::Sends;
                }
            }
            loop {
                if let Err(error) = self.write(cx) {
                    return Poll::Ready(Err(error));
                }
                let limits = self.limits;
                match self.transport.poll_head(cx, limits, |head| head::parse_response(head, limits)) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Err(none)) => return Poll::Ready(Err(self.describe(none))),
                    Poll::Ready(Ok(head)) => {
                        if !head.status.is_informational() || head.status == StatusCode::SWITCHING_PROTOCOLS {
                            return Poll::Ready(Ok(head));
                        }
                        if let Err(error) = self.interim(&head, context.interim) {
                            return Poll::Ready(Err(error));
                        }
                    }
                }
            }
        })
        .await
    }

    fn write(&mut self, cx: &mut std::task::Context<'_>) -> Result<(), ProxyError> {
        let result = match self.state {
            Sending::Done => return Ok(()),
            Sending::Waits => {
                let _ = self.transport.poll_flush(cx);
                return Ok(());
            }
            Sending::Sends => self.encoder.poll(cx, self.transport),
        };
        match result {
            Poll::Pending => {}
            Poll::Ready(Ok(())) => self.state = Sending::Done,
            Poll::Ready(Err(Broken::Body(error))) => return Err(error),
            Poll::Ready(Err(Broken::Length)) => {
                let detail = "the request's body is not as long as its Content-Length says";
                return Err(ProxyError::new(Reason::MalformedRequest, detail));
            }
            Poll::Ready(Err(Broken::Connection(error))) => {
                self.state = Sending::Done;
                self.broken = Some(error);
            }
        }
        Ok(())
    }

    fn interim(&mut self, head: &response::Parts, interim: &Interim) -> Result<(), ProxyError> {
        self.interims += 1;
        if self.interims > MAX_INTERIM {
            return Err(ProxyError::new(Reason::MalformedResponse, "more than 64 interim answers"));
        }
        let mut headers = head.headers.clone();
        strip_interim(&mut headers);
        interim.send(head.status, &headers);
        if head.status == StatusCode::CONTINUE && matches!(self.state, Sending::Waits) {
            self.state = Sending::Sends;
        }
        Ok(())
    }

    fn describe(&mut self, none: NoHead) -> ProxyError {
        match none {
            NoHead::Refused(error) => {
                let reason = match error.reason {
                    Reason::HeaderTooLarge | Reason::TargetTooLong | Reason::ResponseHeaderTooLarge => {
                        Reason::ResponseHeaderTooLarge
                    }
                    _ => Reason::MalformedResponse,
                };
                ProxyError { limit: error.limit, ..ProxyError::new(reason, error.detail) }
            }
            NoHead::Ended { clean: false } => ProxyError::new(
                Reason::ResetBeforeHeaders,
                "the connection ended within the head of the answer",
            ),
            NoHead::Ended { clean: true } => match self.broken.take() {
                Some(error) => reset(&error),
                None => ProxyError::new(
                    Reason::ResetBeforeHeaders,
                    "the connection ended before the head of the answer",
                ),
            },
            NoHead::Failed(error) => reset(&error),
        }
    }

    fn fail(self, mut error: ProxyError, reused: bool) -> Failed {
        let before_answer =
            error.reason == Reason::ResetBeforeHeaders && !self.transport.has_input() && self.interims == 0;
        error.sent = if self.transport.written() == self.written_before {
            Sent::No
        } else if reused && before_answer {
            Sent::OnReused
        } else {
            Sent::Yes
        };
        // A body that failed is no body for another attempt.
        let its_own_fault = error.reason.facts().side == Side::Client;
        if its_own_fault {
            error.sent = Sent::Yes;
        }
        let keep = !its_own_fault && self.encoder.is_untouched();
        Failed { error, body: keep.then(|| self.encoder.into_body()) }
    }

    fn rest(self) -> Rest {
        match self.state {
            Sending::Done if self.broken.is_none() => Rest::Nothing,
            Sending::Sends => Rest::Body(self.encoder),
            Sending::Done | Sending::Waits => Rest::Never,
        }
    }
}

fn reset(error: &io::Error) -> ProxyError {
    ProxyError::new(Reason::ResetBeforeHeaders, format!("the connection failed before the answer: {error}"))
}

/// A request's length is what its body knows; a caller's Content-Length agrees
/// with it, since the guard has read it.
fn framing(request: &request::Parts, body: &Body) -> Framing {
    if request.method == Method::CONNECT || body.is_end_stream() {
        return Framing::None;
    }
    match body.size_hint().exact() {
        Some(0) => Framing::None,
        Some(length) => Framing::Length(length),
        None => Framing::Chunked,
    }
}

fn write_head(
    out: &mut Vec<u8>,
    request: &request::Parts,
    fields: &[(HeaderName, HeaderValue)],
    framing: Framing,
    websocket_key: Option<&HeaderValue>,
) {
    let path = request.uri.path_and_query().map_or("/", |path| path.as_str());
    let target: &[&str] = match path {
        "" if request.method == Method::OPTIONS => &["*"],
        "" => &["/"],
        "*" => &["*"],
        path if path.starts_with('/') => &[path],
        path => &["/", path],
    };
    out.extend_from_slice(request.method.as_str().as_bytes());
    out.push(b' ');
    target.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
    out.extend_from_slice(b" HTTP/1.1\r\n");
    head::write_fields(out, &request.headers);
    for (name, value) in fields {
        head::write_field(out, name, value);
    }
    if let Some(key) = websocket_key {
        out.extend_from_slice(b"sec-websocket-key: ");
        out.extend_from_slice(key.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    match framing {
        Framing::Length(length) => head::write_length(out, length),
        Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        Framing::None if expects_a_length(&request.method) => {
            head::write_length(out, 0);
        }
        _ => {}
    }
    out.extend_from_slice(b"\r\n");
}

/// Methods whose request is expected to have a body (RFC 9110, section 8.6).
fn expects_a_length(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

/// Fields of a 1xx answer that belong to this connection.
fn strip_interim(headers: &mut HeaderMap) {
    for name in
        ["connection", "keep-alive", "transfer-encoding", "content-length", "upgrade", "proxy-connection"]
    {
        headers.remove(name);
    }
}
