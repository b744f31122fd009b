//! The server's side of an HTTP/1 connection: one request after the other, each
//! answered before the next is read.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{Method, Request, Response, StatusCode, Version, request};

use super::encode::{Broken, Encoder};
use super::head;
use super::transport::{Gone, NoHead};
use super::{Incoming, Transport};
use crate::base::clock;
use crate::base::timers::Timer;
use crate::base::{ProxyError, Reason};
use crate::codec::guard::{self, Framing, RequestFacts};
use crate::codec::pace::Pace;
use crate::codec::{
    AnswerBody, Body, Exchange, FAREWELL, Handler, Interim, ServerContext, Stream, Takeover, Upgrade,
};

/// How long a connection that is to be closed may still send, so that the
/// close does not overtake the answer (RFC 9112, section 9.6).
const LINGER: Duration = Duration::from_secs(2);
/// How long a caller that has ended its side is still served while nothing
/// moves: it may have closed only the one direction, or be gone.
const HALF_CLOSED: Duration = Duration::from_secs(1);
/// How much it may still send.
const LINGER_BYTES: usize = 512 * 1024;

/// Serves `stream` until either side ends it. The first head began at `begun`,
/// if some of it has been seen already.
pub async fn serve<H: Handler>(
    stream: Stream,
    context: &ServerContext,
    handler: &H,
    mut begun: Option<Instant>,
) {
    let mut connection = Connection {
        transport: Rc::new(Transport::new(stream)),
        timer: context.timers.timer(),
        accepted: clock::now(),
        context,
        handler,
    };
    loop {
        let next = match connection.next_head(begun.take()).await {
            Ok(head) => connection.exchange(head).await,
            Err(Some(error)) => connection.refuse(error).await,
            Err(None) => Next::Close,
        };
        match next {
            Next::Request => {}
            Next::Close => return,
            Next::Linger => return connection.linger().await,
            Next::Takeover(takeover) => {
                // Nobody else holds the transport once the exchange is over.
                let Some(transport) = Rc::into_inner(connection.transport) else { return };
                drop(connection.timer);
                return takeover(transport.into_stream()).await;
            }
        }
    }
}

struct Connection<'a, H> {
    transport: Rc<Transport>,
    timer: Timer,
    accepted: Instant,
    context: &'a ServerContext,
    handler: &'a H,
}

enum Next {
    Request,
    Close,
    Linger,
    Takeover(Takeover),
}

impl<H: Handler> Connection<'_, H> {
    /// The next head. `Err(None)` means that the connection is over.
    async fn next_head(&mut self, first_byte: Option<Instant>) -> Result<request::Parts, Option<ProxyError>> {
        let limits = &self.context.limits;
        self.timer.arm(clock::now() + limits.connection_idle);
        let (mut begun, mut leaving) = (false, false);
        poll_fn(|cx| {
            match self.transport.poll_head(cx, limits, |head| head::parse_request(head, limits)) {
                Poll::Ready(Ok(head)) => return Poll::Ready(Ok(head)),
                Poll::Ready(Err(NoHead::Refused(error))) => return Poll::Ready(Err(Some(error))),
                Poll::Ready(Err(_)) => return Poll::Ready(Err(None)),
                Poll::Pending => {}
            }
            if !begun && self.transport.has_input() {
                begun = true;
                self.timer.arm(first_byte.unwrap_or_else(clock::now) + limits.header_timeout);
            }
            if !begun && !leaving && self.context.is_draining() {
                leaving = true;
                self.timer.arm(clock::now() + FAREWELL);
            }
            self.timer.poll_fired(cx).map(|()| {
                match (begun, leaving) {
                    (true, _) => self.handler.limited("header_timeout"),
                    (false, true) => {}
                    (false, false) => self.handler.limited("connection_idle"),
                }
                Err(begun.then(|| {
                    ProxyError::unsent(
                        Reason::RequestTimeout,
                        "the head took longer than limits.header_timeout",
                    )
                }))
            })
        })
        .await
    }

    async fn exchange(&mut self, head: request::Parts) -> Next {
        let facts = match guard::check_http1_request(&head) {
            Ok(facts) => facts,
            Err(error) => return self.refuse(error).await,
        };
        self.timer.disarm();
        let RequestFacts { framing, authority, upgrade, expects_continue, keep_alive } = facts;
        let message = self.transport.begin_body(framing, expects_continue);
        let (method, version) = (head.method.clone(), head.version);
        let (body, moved) = match framing {
            Framing::None => (Body::Empty, None),
            _ => {
                let pace = Pace::new(self.context.timers.clone(), Some(self.context.limits.body_idle));
                let moved = pace.counter();
                (Body::Http1(Incoming::of_request(self.transport.clone(), message, pace)), Some(moved))
            }
        };
        let exchange = Exchange {
            received: clock::now(),
            authority,
            upgrade,
            interim: match version {
                Version::HTTP_10 => Interim::None,
                _ => Interim::Http1(self.transport.clone()),
            },
            moved,
        };
        let Some(response) = self.call(Request::from_parts(head, body), exchange).await else {
            self.transport.abandon_body();
            return Next::Close;
        };
        let answer = Answer { method, version, keep_alive, upgrade };
        let next = self.respond(response, &answer).await;
        self.transport.abandon_body();
        next
    }

    /// `None` if the caller went away first.
    async fn call(&mut self, request: Request<Body>, exchange: Exchange) -> Option<Response<H::Body>> {
        // Boxed, so that a connection that waits does not hold room for a request.
        let mut call = Box::pin(self.handler.call(request, exchange));
        let mut ended_at = None;
        poll_fn(|cx| {
            if let Poll::Ready(response) = call.as_mut().poll(cx) {
                return Poll::Ready(Some(response));
            }
            // What an interim answer left, where the socket was full.
            let _ = self.transport.poll_flush(cx);
            self.poll_gone(cx, &mut ended_at).map(|()| None)
        })
        .await
    }

    /// Ready when the caller has gone: its connection failed, or it has ended
    /// its side and nothing was written for [`HALF_CLOSED`]. `ended_at` keeps
    /// what had been written when that time began.
    fn poll_gone(&mut self, cx: &mut Context<'_>, ended_at: &mut Option<u64>) -> Poll<()> {
        if ready!(self.transport.poll_gone(cx)) == Gone::Failed {
            return Poll::Ready(());
        }
        let written = self.transport.written();
        if *ended_at != Some(written) {
            *ended_at = Some(written);
            self.timer.arm(clock::now() + HALF_CLOSED);
        }
        self.timer.poll_fired(cx)
    }

    async fn respond(&mut self, response: Response<H::Body>, answer: &Answer) -> Next {
        self.transport.withhold_continue();
        let (head, mut body) = response.into_parts();
        if let Some(takeover) = body.takeover() {
            self.transport.with_output(|out| {
                head::write_response(out, head.status, &head.headers);
                out.extend_from_slice(b"\r\n");
            });
            return match self.write(&mut Encoder::new(Body::Empty, Framing::None)).await {
                Ok(()) => {
                    body.written();
                    Next::Takeover(takeover)
                }
                Err(_) => Next::Close,
            };
        }
        let framing = answer.framing(&head, &body);
        let keep = answer.keep_alive
            && answer.upgrade != Upgrade::Connect
            && framing != Framing::UntilClose
            && self.transport.body_is_done()
            && !self.context.is_leaving()
            && clock::since(self.accepted) < self.context.limits.connection_age;
        self.transport.with_output(|out| {
            write_head(out, head, framing, answer, keep);
        });
        if framing == Framing::UntilClose {
            // Whatever ends it early, the caller must not take it for whole.
            self.transport.reset_on_close(true);
        }
        let mut encoder = Encoder::new(body, framing);
        match self.write(&mut encoder).await {
            Ok(()) => {
                encoder.into_body().written();
                self.transport.reset_on_close(false);
                if keep { Next::Request } else { Next::Linger }
            }
            Err(_) => Next::Close,
        }
    }

    /// Writes the body, and gives up when the caller is gone or takes nothing.
    async fn write<B>(&mut self, encoder: &mut Encoder<B>) -> Result<(), Broken>
    where
        B: http_body::Body<Data = bytes::Bytes, Error = ProxyError> + Unpin,
    {
        let (mut stalled_at, mut ended_at) = (None, None);
        let result = poll_fn(|cx| {
            if let Poll::Ready(result) = encoder.poll(cx, &self.transport) {
                return Poll::Ready(result);
            }
            if self.poll_gone(cx, &mut ended_at).is_ready() {
                return Poll::Ready(Err(Broken::Connection(std::io::ErrorKind::ConnectionReset.into())));
            }
            if ended_at.is_some() {
                return Poll::Pending;
            }
            if self.transport.has_output() {
                let written = self.transport.written();
                if stalled_at != Some(written) {
                    stalled_at = Some(written);
                    self.timer.arm(clock::now() + self.context.limits.body_idle);
                }
                if self.timer.poll_fired(cx).is_ready() {
                    self.handler.limited("body_idle");
                    return Poll::Ready(Err(Broken::Connection(std::io::ErrorKind::TimedOut.into())));
                }
            } else if stalled_at.take().is_some() {
                self.timer.disarm();
            }
            Poll::Pending
        })
        .await;
        self.timer.disarm();
        result
    }

    async fn refuse(&mut self, error: ProxyError) -> Next {
        let answer = Answer {
            method: Method::GET,
            version: Version::HTTP_11,
            keep_alive: false,
            upgrade: Upgrade::No,
        };
        match self.respond(self.handler.refuse(error), &answer).await {
            Next::Request | Next::Linger => Next::Linger,
            other => other,
        }
    }

    /// Ends the connection so that the peer can read the whole answer first.
    async fn linger(&mut self) {
        let shutdown = poll_fn(|cx| self.transport.poll_shutdown(cx));
        if shutdown.await.is_err() {
            return;
        }
        self.timer.arm(clock::now() + LINGER);
        let mut left = LINGER_BYTES;
        poll_fn(|cx| {
            while let Poll::Ready(length) = self.transport.poll_discard(cx) {
                left = left.saturating_sub(length);
                if length == 0 || left == 0 {
                    return Poll::Ready(());
                }
            }
            self.timer.poll_fired(cx)
        })
        .await;
    }
}

/// What an answer must know of its request.
struct Answer {
    method: Method,
    version: Version,
    keep_alive: bool,
    upgrade: Upgrade,
}

impl Answer {
    fn framing<B: http_body::Body>(&self, head: &http::response::Parts, body: &B) -> Framing {
        let declared = head.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        if guard::has_no_body(&self.method, head.status) {
            Framing::None
        } else if let Some(length) = declared.or_else(|| body.size_hint().exact()) {
            Framing::Length(length)
        } else if self.version == Version::HTTP_10 {
            Framing::UntilClose
        } else {
            Framing::Chunked
        }
    }
}

fn write_head(
    out: &mut Vec<u8>,
    mut head: http::response::Parts,
    framing: Framing,
    answer: &Answer,
    keep: bool,
) {
    head.headers.remove(TRANSFER_ENCODING);
    if head.status.is_informational() || head.status == StatusCode::NO_CONTENT {
        head.headers.remove(CONTENT_LENGTH);
    }
    head::write_response(out, head.status, &head.headers);
    match framing {
        Framing::Length(length) if !head.headers.contains_key(CONTENT_LENGTH) => {
            head::write_length(out, length);
        }
        Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        _ => {}
    }
    if !keep {
        out.extend_from_slice(b"connection: close\r\n");
    } else if answer.version == Version::HTTP_10 {
        out.extend_from_slice(b"connection: keep-alive\r\n");
    }
    out.extend_from_slice(b"\r\n");
}
