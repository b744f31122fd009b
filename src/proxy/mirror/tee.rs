//! A request's body on its way, of which a copy is kept.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::StreamBody;

use super::{Copy, End};
use crate::base::ProxyError;
use crate::codec::Body;
use crate::policy::mirror::Recording;

/// The same body; when it has passed whole, `copy` is sent.
pub fn tee(body: Body, copy: Copy) -> Body {
    let recording = Recording::new(copy.mirror.policy.buffer);
    Body::Boxed(Box::pin(Tee { body, kept: Some((recording, copy)) }))
}

struct Tee {
    body: Body,
    /// `None` once the copy is sent, or never will be.
    kept: Option<(Recording, Copy)>,
}

impl Tee {
    fn follow(&mut self, frame: &Frame<Bytes>) {
        let Some((recording, _)) = &mut self.kept else { return };
        if let Some(trailers) = frame.trailers_ref() {
            recording.trailed(trailers);
            return self.send();
        }
        match frame.data_ref() {
            Some(data) if !recording.add(data) => self.give_up(End::TooLarge),
            _ if self.body.is_end_stream() => self.send(),
            _ => {}
        }
    }

    fn send(&mut self) {
        let Some((recording, copy)) = self.kept.take() else { return };
        copy.send(match recording.whole() {
            (bytes, None) => Body::full(bytes),
            (bytes, Some(trailers)) => {
                let frames = [Ok(Frame::data(bytes)), Ok(Frame::trailers(trailers))];
                Body::Boxed(Box::pin(StreamBody::new(futures_util::stream::iter(frames))))
            }
        });
    }

    fn give_up(&mut self, why: End) {
        if let Some((_, copy)) = self.kept.take() {
            copy.mirror.count(why);
        }
    }
}

impl http_body::Body for Tee {
    type Data = Bytes;
    type Error = ProxyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ProxyError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => self.follow(frame),
            Some(Err(_)) => self.give_up(End::Unfinished),
            None => self.send(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Tee {
    fn drop(&mut self) {
        self.give_up(End::Unfinished);
    }
}
