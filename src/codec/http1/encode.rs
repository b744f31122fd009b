//! Writes a body onto an HTTP/1 connection, piece by piece, as the peer takes it.

use std::io::{self, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;

use super::{Transport, head};
use crate::base::ProxyError;
use crate::codec::guard::{self, Framing};

/// A body on its way out.
pub struct Encoder<B> {
    body: B,
    framing: Framing,
    /// Bytes still owed, for [`Framing::Length`].
    owed: u64,
    /// Something was taken from the body.
    taken: bool,
    /// All has been queued.
    queued: bool,
}

/// Why a body could not be written whole.
#[derive(Debug)]
pub enum Broken {
    /// The body itself failed.
    Body(ProxyError),
    /// The connection failed.
    Connection(io::Error),
    /// The body is shorter or longer than its declared length.
    Length,
}

impl<B> Encoder<B>
where
    B: http_body::Body<Data = Bytes, Error = ProxyError> + Unpin,
{
    /// An encoder of which nothing is written.
    pub fn new(body: B, framing: Framing) -> Self {
        let owed = match framing {
            Framing::Length(length) => length,
            _ => 0,
        };
        Self { body, framing, owed, taken: false, queued: framing == Framing::None }
    }

    /// Whether nothing of the body was taken.
    pub fn is_untouched(&self) -> bool {
        !self.taken
    }

    /// The body, with what of it is not yet queued.
    pub fn into_body(self) -> B {
        self.body
    }

    /// Takes what the body has ready now and writes it. Ready when all is
    /// written. Before it is pending for the body, everything taken is handed
    /// to the socket, so nothing waits in a buffer.
    pub fn poll(&mut self, cx: &mut Context<'_>, transport: &Transport) -> Poll<Result<(), Broken>> {
        while !self.queued {
            if !transport.can_queue() {
                ready!(transport.poll_flush(cx)).map_err(Broken::Connection)?;
            }
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => self.queue(frame, transport)?,
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(Broken::Body(error))),
                Poll::Ready(None) => self.finish(transport, None)?,
                Poll::Pending => {
                    ready!(transport.poll_flush(cx)).map_err(Broken::Connection)?;
                    return Poll::Pending;
                }
            }
        }
        transport.poll_flush(cx).map_err(Broken::Connection)
    }

    fn queue(&mut self, frame: http_body::Frame<Bytes>, transport: &Transport) -> Result<(), Broken> {
        self.taken = true;
        match frame.into_data() {
            Ok(data) if data.is_empty() => {}
            Ok(data) => {
                match self.framing {
                    Framing::Length(_) => {
                        self.owed = self.owed.checked_sub(data.len() as u64).ok_or(Broken::Length)?;
                        transport.queue(data, b"");
                    }
                    Framing::Chunked => {
                        // Writing to a Vec can't fail.
                        transport.with_output(|out| drop(write!(out, "{:x}\r\n", data.len())));
                        transport.queue(data, b"\r\n");
                    }
                    Framing::UntilClose => transport.queue(data, b""),
                    Framing::None => {}
                }
                let whole = matches!(self.framing, Framing::Length(_)) && self.owed == 0;
                if (whole || self.body.is_end_stream()) && transport.can_queue() {
                    self.finish(transport, None)?;
                }
            }
            Err(frame) => {
                if let Ok(mut trailers) = frame.into_trailers() {
                    guard::strip_trailers(&mut trailers);
                    self.finish(transport, Some(&trailers))?;
                }
            }
        }
        Ok(())
    }

    fn finish(&mut self, transport: &Transport, trailers: Option<&HeaderMap>) -> Result<(), Broken> {
        if self.framing == Framing::Chunked {
            transport.with_output(|out| {
                out.extend_from_slice(b"0\r\n");
                if let Some(trailers) = trailers {
                    head::write_fields(out, trailers);
                }
                out.extend_from_slice(b"\r\n");
            });
        }
        if self.owed > 0 {
            return Err(Broken::Length);
        }
        self.queued = true;
        Ok(())
    }
}
