//! The server's side of an HTTP/2 connection: a task for each stream.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::Request;
use tokio::io::{AsyncRead, AsyncWrite};

use super::batch::{Batch, batched};
use super::floods::{Allowed, Counted, Exceeded};
use super::{CONNECTION_WINDOW, GIVEN_UP, PENDING_RESETS, SEND_BUFFER, SMALL_FRAMES, STREAM_WINDOW, stream};
use crate::base::clock;
use crate::base::timers::Timer;
use crate::codec::{Handler, ServerContext};

/// A stream that is reset sooner than this, without an answer, is one of a
/// rapid-reset attack (CVE-2023-44487).
const RAPID: Duration = Duration::from_millis(20);
/// How long a connection that is told to go may take to hear it.
const GOODBYE: Duration = Duration::from_secs(1);

/// Serves `io` until either side ends it. Its preface began at `begun`, if some
/// of it has been seen.
pub async fn serve<S, H>(io: S, context: Rc<ServerContext>, handler: Rc<H>, begun: Option<Instant>)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    H: Handler,
{
    let limits = &context.limits;
    let allowed = Allowed { control: limits.control_frames, resets: limits.resets };
    let batch = Batch::new(io);
    let (io, exceeded) = Counted::client(batch.clone(), allowed);
    let handshake = h2::server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_streams(limits.streams)
        .enable_connect_protocol()
        // More than the limit, so that a head beyond it gets an answer that says why.
        .max_header_list_size(u32::try_from(limits.header_bytes * 2).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_concurrent_reset_streams(GIVEN_UP)
        .data_frame_budget(SMALL_FRAMES / 4)
        .handshake::<_, Bytes>(io);
    let handshake = batched(&batch, handshake);
    let mut timer = context.timers.at(begun.unwrap_or_else(clock::now) + limits.header_timeout);
    let connection = tokio::select! {
        biased;
        connection = handshake => connection,
        () = timer.fired() => return handler.limited("header_timeout"),
    };
    let Ok(connection) = connection else { return };
    let activity = Rc::new(Activity { streams: Cell::new(0), last: Cell::new(clock::now()) });
    timer.arm(clock::now() + limits.connection_idle);
    let server = Server {
        batch,
        accepted: clock::now(),
        going: false,
        gone: false,
        connection,
        exceeded,
        timer,
        activity,
        context,
        handler,
    };
    server.run().await;
}

struct Server<S, H>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    connection: h2::server::Connection<Counted<Batch<S>>, Bytes>,
    batch: Batch<S>,
    exceeded: Exceeded,
    timer: Timer,
    accepted: Instant,
    activity: Rc<Activity>,
    context: Rc<ServerContext>,
    handler: Rc<H>,
    /// Told to go after the streams at hand.
    going: bool,
    /// Told to go at once.
    gone: bool,
}

struct Activity {
    streams: Cell<usize>,
    last: Cell<Instant>,
}

/// Counts a stream for as long as its task runs.
pub struct Active {
    activity: Rc<Activity>,
    exceeded: Exceeded,
    started: Instant,
    answered: Cell<bool>,
}

impl<S, H> Server<S, H>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    H: Handler,
{
    async fn run(mut self) {
        poll_fn(|cx| {
            let done = self.poll(cx);
            // A failed write shows as a failed read soon enough.
            let _ = self.batch.poll_send(cx);
            done
        })
        .await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some(limit) = self.exceeded.get()
                && !self.gone
            {
                self.handler.limited(limit);
                self.gone = true;
                self.connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                self.timer.arm(clock::now() + GOODBYE);
            }
            if self.gone {
                return match self.connection.poll_closed(cx) {
                    Poll::Ready(_) => Poll::Ready(()),
                    Poll::Pending => self.timer.poll_fired(cx),
                };
            }
            if self.context.is_draining() && !self.going {
                self.go();
            }
            match self.connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => self.accept(request, respond),
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending if self.exceeded.get().is_some() => {}
                Poll::Pending => {
                    std::task::ready!(self.timer.poll_fired(cx));
                    if self.poll_idle() {
                        return Poll::Ready(());
                    }
                }
            }
        }
    }

    fn go(&mut self) {
        self.going = true;
        self.connection.graceful_shutdown();
    }

    /// The timer has fired: ends a connection that is idle or old. Returns
    /// whether it is over.
    fn poll_idle(&mut self) -> bool {
        let context = self.context.clone();
        let limits = &context.limits;
        let idle = self.activity.streams.get() == 0
            && clock::since(self.activity.last.get()) >= limits.connection_idle;
        let old = clock::since(self.accepted) >= limits.connection_age;
        if idle && self.going {
            return true;
        }
        if idle {
            self.handler.limited("connection_idle");
        }
        if (idle || old) && !self.going {
            self.go();
            self.activity.last.set(clock::now());
        }
        self.timer.arm(clock::now() + limits.connection_idle.min(Duration::from_secs(30)));
        false
    }

    fn accept(&mut self, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
        let active = Active::begin(&self.activity, &self.exceeded);
        stream::spawn(request, respond, (&self.context, &self.handler), active);
    }
}

impl Active {
    fn begin(activity: &Rc<Activity>, exceeded: &Exceeded) -> Self {
        activity.streams.set(activity.streams.get() + 1);
        let (activity, exceeded) = (activity.clone(), exceeded.clone());
        Self { activity, exceeded, started: clock::now(), answered: Cell::new(false) }
    }

    /// When it began.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Its answer has begun.
    pub fn answered(&self) {
        self.answered.set(true);
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        let now = clock::now();
        self.activity.streams.set(self.activity.streams.get() - 1);
        self.activity.last.set(now);
        if self.answered.get() || now.saturating_duration_since(self.started) > RAPID {
            self.exceeded.earn_reset();
        }
    }
}
