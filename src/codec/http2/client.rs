//! The client's side of an HTTP/2 connection: many requests at a time.
//!
//! Nothing is sent before the peer's SETTINGS have come: by then it is known
//! that it speaks HTTP/2, and how many streams it takes.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;
use h2::client::SendRequest;
use http::request;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::batch::{Batch, batched};
use super::floods::Counted;
use super::kept::Kept;
use super::send::{Broken, Sender};
use super::{CONNECTION_WINDOW, GIVEN_UP, SEND_BUFFER, SMALL_FRAMES, STREAM_WINDOW, extended};
use crate::base::Limits;
use crate::base::clock;
use crate::base::{ProxyError, Reason};
use crate::codec::{Body, Stream};

/// Streams that we open at most on one connection, whatever the peer allows.
pub const MAX_STREAMS: usize = 100;

/// A connection that takes requests. Cheap to clone.
#[derive(Clone)]
pub struct Connection {
    sender: SendRequest<Bytes>,
    shared: Rc<Shared>,
}

/// Room for one request on a connection.
pub struct Lease {
    pub(super) sender: SendRequest<Bytes>,
    pub(super) in_use: InUse,
}

/// What the handles to a connection share.
pub(super) struct Shared {
    active: Cell<usize>,
    /// Streams that the peer allows; 0 until its SETTINGS have come.
    room: Cell<usize>,
    /// `room` has changed, or the connection has ended.
    news: Notify,
    closed: Cell<bool>,
    /// Why it ended.
    error: RefCell<Option<h2::Error>>,
    /// An answer has come on it.
    served: Cell<bool>,
    last_used: Cell<Instant>,
    /// Streams that were given up before their end.
    given_up: Cell<usize>,
    task: Cell<Option<AbortHandle>>,
}

/// Counts a stream for as long as it lives, and ends what still sends on it.
pub struct InUse {
    pub(super) shared: Rc<Shared>,
    upload: Option<AbortHandle>,
    /// The peer has sent all that it will.
    over: bool,
}

impl Connection {
    /// Speaks the preface on `stream` and waits for the peer's.
    pub async fn handshake(stream: Stream, limits: &Limits) -> Result<Self, ProxyError> {
        let batch = Batch::new(stream);
        let handshake = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .initial_max_send_streams(0)
            .max_send_buffer_size(SEND_BUFFER)
            .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
            .enable_push(false)
            .data_frame_budget(SMALL_FRAMES)
            // Remembers all that one connection may have given up, and takes what still comes for them.
            .max_concurrent_reset_streams(GIVEN_UP + MAX_STREAMS)
            .max_local_error_reset_streams(None)
            .handshake::<_, Bytes>(Counted::server(batch.clone()));
        let (sender, mut connection) = batched(&batch, handshake).await.map_err(|error| {
            ProxyError::unsent(Reason::ConnectFailed, format!("the HTTP/2 preface failed: {error}"))
        })?;
        let shared = Rc::new(Shared {
            active: Cell::new(0),
            room: Cell::new(0),
            news: Notify::new(),
            closed: Cell::new(false),
            error: RefCell::default(),
            served: Cell::new(false),
            last_used: Cell::new(clock::now()),
            given_up: Cell::new(0),
            task: Cell::new(None),
        });
        let driven = shared.clone();
        let task = tokio::task::spawn_local(async move {
            let ended = poll_fn(|cx| {
                let done = std::pin::Pin::new(&mut connection).poll(cx);
                // A failed write shows as a failed read soon enough.
                let _ = batch.poll_send(cx);
                driven.allowed(connection.max_concurrent_send_streams());
                done
            });
            driven.ended(ended.await.err());
        });
        shared.task.set(Some(task.abort_handle()));
        let made = Self { sender, shared };
        made.settled().await?;
        Ok(made)
    }

    /// Waits for the peer's SETTINGS, which are the first that it sends.
    async fn settled(&self) -> Result<(), ProxyError> {
        let shared = &self.shared;
        while shared.room.get() == 0 {
            if shared.closed.get() {
                let why = shared.error.borrow().as_ref().map_or_else(
                    || "it closed the connection".to_owned(),
                    // Its first bytes, taken for the length of a frame.
                    |error| match error.reason() {
                        Some(h2::Reason::FRAME_SIZE_ERROR) => "it answered in another protocol".to_owned(),
                        _ => format!("it ended the connection: {error}"),
                    },
                );
                let detail = format!("HTTP/2 was not spoken after our preface: {why}");
                return Err(ProxyError::unsent(Reason::NoHttp2, detail));
            }
            shared.news.notified().await;
        }
        Ok(())
    }

    /// Room for one request, if there is some now.
    pub fn lease(&self) -> Option<Lease> {
        if !self.has_room() {
            return None;
        }
        let mut sender = self.sender.clone();
        match sender.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => Some(Lease { sender, in_use: InUse::begin(&self.shared) }),
            // The peer has said GOAWAY; what it has begun still ends here.
            _ => {
                self.shared.closed.set(true);
                None
            }
        }
    }

    /// Whether another stream can be opened at once.
    pub fn has_room(&self) -> bool {
        !self.is_closed() && self.shared.active.get() < self.capacity()
    }

    /// Streams that it can have at one time.
    pub fn capacity(&self) -> usize {
        MAX_STREAMS.min(self.shared.room.get())
    }

    /// Whether it can take no more requests.
    pub fn is_closed(&self) -> bool {
        self.shared.closed.get()
    }

    /// Streams that are open now.
    pub fn active(&self) -> usize {
        self.shared.active.get()
    }

    /// Since when no stream has begun or ended.
    pub fn last_used(&self) -> Instant {
        self.shared.last_used.get()
    }

    /// Whether an upgrade with this head and body can be asked for over HTTP/2.
    pub fn can_upgrade(request: &request::Parts, body: &Body) -> bool {
        extended::can_carry(request, body)
    }

    /// Ends it, with the streams that it has.
    pub fn close(&self) {
        self.shared.closed.set(true);
        if let Some(task) = self.shared.task.take() {
            task.abort();
        }
    }
}

impl Lease {
    /// Whether an upgrade can be asked for here, with an extended CONNECT.
    pub fn takes_upgrades(&self) -> bool {
        self.sender.is_extended_connect_protocol_enabled()
    }
}

impl Shared {
    fn allowed(&self, streams: usize) {
        if self.room.replace(streams) != streams {
            self.news.notify_waiters();
        }
    }

    fn ended(&self, error: Option<h2::Error>) {
        self.closed.set(true);
        *self.error.borrow_mut() = error;
        self.news.notify_waiters();
    }

    /// More streams wait to be opened than the peer allows by now.
    pub(super) fn is_over_full(&self) -> bool {
        self.active.get() > self.room.get()
    }

    /// Ready when the peer allows another number of streams.
    pub(super) fn news(&self) -> tokio::sync::futures::Notified<'_> {
        self.news.notified()
    }

    /// The head of an answer has come.
    pub(super) fn answered(&self) {
        self.served.set(true);
    }

    pub(super) fn has_served(&self) -> bool {
        self.served.get()
    }

    /// Takes no more requests once too many were left before their end.
    fn given_up(&self) {
        self.given_up.set(self.given_up.get() + 1);
        if self.given_up.get() >= GIVEN_UP {
            self.closed.set(true);
        }
    }
}

impl InUse {
    fn begin(shared: &Rc<Shared>) -> Self {
        shared.active.set(shared.active.get() + 1);
        shared.last_used.set(clock::now());
        Self { shared: shared.clone(), upload: None, over: false }
    }

    /// Nothing more comes on the stream.
    pub(super) fn over(&mut self) {
        self.over = true;
    }

    /// Goes on sending while the answer is read.
    pub(super) fn uploading(mut self, upload: Option<Sender<Kept>>) -> Self {
        self.upload = upload.map(|mut sender| {
            sender.body_mut().let_go();
            let task = tokio::task::spawn_local(async move {
                if let Err(Broken::Body(_)) = poll_fn(|cx| sender.poll(cx)).await {
                    sender.reset(h2::Reason::CANCEL);
                }
            });
            task.abort_handle()
        });
        self
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.shared.active.set(self.shared.active.get() - 1);
        self.shared.last_used.set(clock::now());
        if !self.over {
            self.shared.given_up();
        }
        if let Some(upload) = &self.upload {
            upload.abort();
        }
    }
}
