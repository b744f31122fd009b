//! Sees how a call of gRPC ends before its trailers become something else.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::super::stack::Call;
use crate::base::ProxyError;
use crate::codec::Body;

/// An answer of a service of gRPC.
struct Watched {
    inner: Body,
    call: Rc<Call>,
}

/// `inner`, whose trailers `call` hears where it waits for them.
pub fn body(call: &Rc<Call>, inner: Body) -> Body {
    match call.is_open() {
        true => Body::Boxed(Box::pin(Watched { inner, call: call.clone() })),
        false => inner,
    }
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = ProxyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ProxyError>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_ref() {
                    self.call.trailed(trailers);
                }
            }
            Poll::Ready(Some(Err(error))) => self.call.cut(error),
            _ => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
