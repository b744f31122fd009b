//! A server of Envoy's rate-limit protocol, version 3
//! (<https://www.envoyproxy.io/docs/envoy/latest/api-v3/service/ratelimit/v3/rls.proto>).
//! Each worker has one HTTP/2 connection, on which its questions do not wait for
//! each other; one task makes it anew and finds out whether the server is there,
//! so that calls don't have to.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::{Connection, SendRequest};
use h2::{Ping, PingPong};
use http::{HeaderMap, Request};
use prost::Message;
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, spawn_local};

pub use self::messages::{Answer, Code, Descriptor, Entry, Header, Limit, Question, Span, Status};
use super::redis::{Lost, by};
use crate::base::grpc;

mod messages;

/// So many answers in a row may be late before nobody asks any more.
const LATE: u32 = 3;
/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(1);
/// From one look at a server that is there to the next.
const LOOK: Duration = Duration::from_secs(1);
/// The first and the longest pause before it is tried again, when it is not there.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// How long a look may take whose answer no longer counts.
const PATIENCE: Duration = Duration::from_millis(500);
/// So many looks in a row may go unanswered before the connection is left.
const SILENT: u32 = 2;
/// Bytes that are read of an answer at most.
const MOST: usize = 64 * 1024;

/// One worker's way to the server.
pub struct Service {
    link: Rc<Link>,
    keeper: JoinHandle<()>,
}

struct Link {
    host: String,
    port: u16,
    /// For a look.
    timeout: Duration,
    sender: RefCell<Option<SendRequest<Bytes>>>,
    /// Whether it is asked.
    there: Cell<bool>,
    /// Answers in a row that came too late.
    late: Cell<u32>,
    /// The pause after the next row of them.
    doubt: Cell<Duration>,
}

impl Service {
    /// Goes to the server and stays there, as long as this is held. `timeout` is
    /// for one answer.
    pub fn new(host: &str, port: u16, timeout: Duration) -> Self {
        let link = Rc::new(Link {
            host: host.to_owned(),
            port,
            timeout,
            sender: RefCell::default(),
            there: Cell::new(false),
            late: Cell::new(0),
            doubt: Cell::new(PAUSES.0),
        });
        let keeper = spawn_local(keep(link.clone()));
        Self { link, keeper }
    }

    /// Asks, and ends by `until`.
    pub async fn ask(&self, question: &Question, until: Instant) -> Result<Answer, Lost> {
        let link = &*self.link;
        let sender = link.sender.borrow().clone().filter(|_| link.there.get());
        let Some(sender) = sender else { return Err(Lost::Gone) };
        match by(until, link.exchange(sender, question, until)).await {
            Some(Ok(answer)) => {
                link.late.set(0);
                link.doubt.set(PAUSES.0);
                Ok(answer)
            }
            Some(Err(why)) => {
                tracing::debug!(why, "the rate-limit service did not decide");
                link.missed();
                Err(Lost::Failed)
            }
            None => {
                link.missed();
                Err(Lost::Late)
            }
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Link {
    fn missed(&self) {
        self.late.set(self.late.get() + 1);
        if self.late.get() >= LATE {
            self.there.set(false);
        }
    }

    async fn exchange(
        &self,
        sender: SendRequest<Bytes>,
        question: &Question,
        until: Instant,
    ) -> Result<Answer, String> {
        let text = |error: h2::Error| error.to_string();
        let (host, port) = (&self.host, self.port);
        let bracket = if host.contains(':') { ("[", "]") } else { ("", "") };
        let left = until.saturating_duration_since(Instant::now());
        let request = Request::post(format!(
            "http://{}{host}{}:{port}/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit",
            bracket.0, bracket.1
        ))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header(grpc::TIMEOUT, grpc::write_timeout(left))
        .header("user-agent", concat!("pillion/", env!("CARGO_PKG_VERSION")))
        .body(())
        .map_err(|error| error.to_string())?;
        let mut sender = sender.ready().await.map_err(text)?;
        let (answer, mut stream) = sender.send_request(request, false).map_err(text)?;
        stream.send_data(framed(question), true).map_err(text)?;
        let (head, mut receive) = answer.await.map_err(text)?.into_parts();
        let mut body = BytesMut::new();
        while let Some(bytes) = receive.data().await {
            let bytes = bytes.map_err(text)?;
            receive.flow_control().release_capacity(bytes.len()).map_err(text)?;
            if body.len() + bytes.len() > MOST {
                return Err("its answer is too long".into());
            }
            body.extend_from_slice(&bytes);
        }
        let trailers = receive.trailers().await.map_err(text)?;
        match code(trailers.as_ref().unwrap_or(&head.headers)) {
            Some("0") => {}
            code => return Err(format!("status {}, grpc-status {}", head.status, code.unwrap_or("missing"))),
        }
        let message = body.strip_prefix(&[0]).and_then(|rest| rest.get(4..)).ok_or("no message")?;
        Answer::decode(message).map_err(|error| error.to_string())
    }

    /// For as long as the connection lasts, whether it is asked.
    async fn watch(&self, mut pings: PingPong) {
        let mut silent = 0;
        loop {
            let begun = Instant::now();
            match by(begun + PATIENCE, pings.ping(Ping::opaque())).await {
                Some(Ok(_)) => {
                    silent = 0;
                    self.late.set(0);
                    self.there.set(begun.elapsed() <= self.timeout);
                }
                Some(Err(_)) => return,
                // A ping that is on its way must be answered before the next.
                None => {
                    self.there.set(false);
                    silent += 1;
                    if silent >= SILENT {
                        return;
                    }
                    match by(Instant::now() + PATIENCE, std::future::poll_fn(|cx| pings.poll_pong(cx))).await
                    {
                        Some(Ok(_)) => {}
                        _ => return,
                    }
                }
            }
            let mut left = LOOK;
            // Calls may find out sooner.
            while self.there.get() && !left.is_zero() {
                tokio::time::sleep(PAUSES.0).await;
                left = left.saturating_sub(PAUSES.0);
            }
            if !self.there.get() {
                // It answers pings, and not in time what it is asked.
                tokio::time::sleep(self.doubt.get().mul_f64(0.5 + fastrand::f64())).await;
                self.doubt.set((self.doubt.get() * 2).min(PAUSES.1));
            }
        }
    }

    async fn connect(&self) -> Option<(SendRequest<Bytes>, Connection<TcpStream>)> {
        let made = async {
            let stream = TcpStream::connect((self.host.as_str(), self.port)).await.ok()?;
            stream.set_nodelay(true).ok()?;
            h2::client::handshake(stream).await.ok()
        };
        tokio::time::timeout(CONNECT, made).await.ok().flatten()
    }
}

/// Looks after the connection for as long as it is polled.
async fn keep(link: Rc<Link>) {
    let mut pause = PAUSES.0;
    loop {
        if let Some((sender, mut connection)) = link.connect().await
            && let Some(pings) = connection.ping_pong()
        {
            *link.sender.borrow_mut() = Some(sender);
            let begun = Instant::now();
            tokio::select! {
                biased;
                _ = &mut connection => {}
                () = link.watch(pings) => {}
            }
            link.there.set(false);
            *link.sender.borrow_mut() = None;
            if begun.elapsed() > PAUSES.1 {
                pause = PAUSES.0;
            }
        }
        // Not all sidecars at one time, when it is back.
        tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

fn code(fields: &HeaderMap) -> Option<&str> {
    fields.get("grpc-status")?.to_str().ok()
}

/// One message as gRPC frames it.
fn framed(message: &impl Message) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.encoded_len()).unwrap_or(u32::MAX));
    bytes.extend(message.encode_to_vec());
    bytes.freeze()
}
