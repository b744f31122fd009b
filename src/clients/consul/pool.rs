//! The connections at hand. Each carries one question at a time; one that
//! answered is used again, at most [`KEPT`] wait, and each for [`KEPT_FOR`].

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full};

use super::connection::{Address, Connection};
use super::tls::Configs;
use super::{Error, Tls};
use crate::clients::chain;

/// Connections that wait for the next question.
const KEPT: usize = 64;
/// How long they do.
const KEPT_FOR: Duration = Duration::from_secs(30);
/// The largest answer, in bytes: some ten thousand instances.
pub(super) const MAX_ANSWER: usize = 16 << 20;

/// The connections at hand.
#[derive(Debug)]
pub(super) struct Pool {
    address: Address,
    authority: HeaderValue,
    tls: Tls,
    configs: Configs,
    idle: Mutex<Vec<(Instant, Connection)>>,
}

/// An answer whole, whatever its status.
#[derive(Debug)]
pub(super) struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// An answer and the age of its connection.
pub(super) struct Sent {
    pub reply: Reply,
    pub dialed: Instant,
}

/// A question that failed. `unanswered` if nothing of an answer was seen on a
/// connection that had been idle, so that it may be asked once more.
struct Failed {
    error: Error,
    unanswered: bool,
}

impl Pool {
    pub(super) fn new(address: Address, tls: Tls) -> Result<Self, Error> {
        let authority = address.authority()?;
        if address.is_tls() {
            address.server_name(tls.server_name.as_deref())?;
        }
        Ok(Self { address, authority, tls, configs: Configs::default(), idle: Mutex::default() })
    }

    /// Sends `request`, and takes the whole answer within `limit`. Where a kept
    /// connection turns out to have ended, it is sent once more on a new one.
    /// `held` is its target as a question to be held, for connections that were
    /// there at that time already.
    pub(super) async fn send(
        &self,
        request: Request<Vec<u8>>,
        held: Option<(Uri, Instant)>,
        limit: Duration,
    ) -> Result<Sent, Error> {
        let (head, body) = request.into_parts();
        let body = Bytes::from(body);
        let request = |connection: &Connection| {
            let target = held.as_ref().filter(|(_, since)| connection.dialed <= *since);
            let mut request = Request::new(Full::new(body.clone()));
            *request.method_mut() = head.method.clone();
            *request.uri_mut() = target.map_or(&head.uri, |(target, _)| target).clone();
            *request.headers_mut() = head.headers.clone();
            request.headers_mut().insert(header::HOST, self.authority.clone());
            request
        };
        let asked = async {
            // All that Pillion asks of Consul may be asked twice: a
            // registration, a check's state and a removal come to the same.
            if let Some(connection) = self.take() {
                let request = request(&connection);
                match self.ask(connection, request).await {
                    Err(Failed { unanswered: true, .. }) => {}
                    asked => return asked.map_err(|failed| failed.error),
                }
            }
            let connection = self.dial().await?;
            let request = request(&connection);
            self.ask(connection, request).await.map_err(|failed| failed.error)
        };
        tokio::time::timeout(limit, asked).await.map_err(|_| Error::Timeout)?
    }

    async fn dial(&self) -> Result<Connection, Error> {
        let tls = match self.address.is_tls() {
            true => {
                let name = self.address.server_name(self.tls.server_name.as_deref())?;
                Some((self.configs.current(&self.tls)?, name))
            }
            false => None,
        };
        self.address.connect(tls).await
    }

    async fn ask(&self, mut connection: Connection, request: Request<Full<Bytes>>) -> Result<Sent, Failed> {
        let failed = |error: hyper::Error, unanswered: bool| Failed {
            error: Error::Connection(format!("{}: {}", self.address, chain(&error))),
            unanswered,
        };
        let ready = connection.sender.ready().await;
        ready.map_err(|error| failed(error, true))?;
        let response = connection.sender.send_request(request).await.map_err(|error| {
            let unanswered = error.is_canceled() || error.is_incomplete_message() || error.is_closed();
            failed(error, unanswered)
        })?;
        let (head, mut incoming) = response.into_parts();
        let mut body = BytesMut::new();
        while let Some(frame) = incoming.frame().await {
            let frame = frame.map_err(|error| failed(error, false))?;
            if let Some(data) = frame.data_ref() {
                if body.len() + data.len() > MAX_ANSWER {
                    return Err(Failed { error: Error::TooLarge(MAX_ANSWER), unanswered: false });
                }
                body.extend_from_slice(data);
            }
        }
        let dialed = connection.dialed;
        self.put(connection);
        let reply = Reply { status: head.status, headers: head.headers, body: body.freeze() };
        Ok(Sent { reply, dialed })
    }

    fn take(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(since, connection)| since.elapsed() < KEPT_FOR && !connection.sender.is_closed());
        idle.pop().map(|(_, connection)| connection)
    }

    fn put(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < KEPT && !connection.sender.is_closed() {
            idle.push((Instant::now(), connection));
        }
    }
}
