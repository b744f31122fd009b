//! A request's body that is recorded while it streams through, so that another
//! attempt can play it again and go on with the rest.
//!
//! Nobody waits for the body to be whole, and nothing is recorded that nobody
//! can play: the record is let go when no other attempt may follow, and when it
//! is longer than its limit.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};

use super::Body;
use crate::base::{ProxyError, Reason};

/// One playing of a body. It begins when it is first asked, and ends the one
/// before.
pub struct Player {
    tape: Rc<RefCell<Tape>>,
    /// Which playing it is, once it has begun.
    playing: Option<u32>,
    /// It was played to its end.
    over: bool,
}

struct Tape {
    source: Body,
    /// What was recorded, in pieces: one for each playing so far.
    pieces: Vec<Bytes>,
    /// What was recorded since.
    tail: BytesMut,
    trailers: Option<HeaderMap>,
    /// Bytes in `pieces` and `tail`.
    bytes: usize,
    limit: usize,
    /// The source has given all.
    ended: bool,
    /// Something has passed that was not recorded, or the source has failed.
    lost: bool,
    /// Players that have not begun.
    waiting: usize,
    /// The latest to begin.
    playing: u32,
    /// The next of `pieces` for it.
    next: usize,
}

impl Player {
    /// Records up to `limit` bytes of `source`.
    pub fn new(source: Body, limit: usize) -> Self {
        let tape = Tape {
            source,
            pieces: Vec::new(),
            tail: BytesMut::new(),
            trailers: None,
            bytes: 0,
            limit,
            ended: false,
            lost: false,
            waiting: 1,
            playing: 0,
            next: 0,
        };
        Self { tape: Rc::new(RefCell::new(tape)), playing: None, over: false }
    }

    /// One more playing; `None` where nobody can begin anew.
    pub fn again(&self) -> Option<Self> {
        let mut tape = self.tape.borrow_mut();
        if tape.lost {
            return None;
        }
        tape.waiting += 1;
        Some(Self { tape: self.tape.clone(), playing: None, over: false })
    }

    /// Whether all that has passed can still be played.
    pub fn is_whole(&self) -> bool {
        !self.tape.borrow().lost
    }

    /// Whether it can be played without waiting for more to come.
    pub fn is_complete(&self) -> bool {
        let tape = self.tape.borrow();
        !tape.lost && (tape.ended || tape.source.is_end_stream())
    }

    /// The next part.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ProxyError>>> {
        if self.over {
            return Poll::Ready(None);
        }
        let mut tape = self.tape.borrow_mut();
        let playing = *self.playing.get_or_insert_with(|| tape.begin());
        if playing != tape.playing {
            let detail = "another attempt has taken the request's body over";
            return Poll::Ready(Some(Err(ProxyError::new(Reason::ClientClosed, detail))));
        }
        let frame = ready!(tape.poll(cx));
        self.over = !matches!(&frame, Some(Ok(frame)) if frame.is_data());
        Poll::Ready(frame)
    }

    /// Whether nothing is left.
    pub fn is_end_stream(&self) -> bool {
        self.over || self.tape.borrow().is_over(self.playing)
    }

    /// What is known of the length.
    pub fn size_hint(&self) -> SizeHint {
        if self.over {
            return SizeHint::with_exact(0);
        }
        let tape = self.tape.borrow();
        match tape.source.size_hint().exact() {
            // Trailers need a form that does not say the length.
            Some(rest) if tape.trailers.is_none() => {
                SizeHint::with_exact(rest + tape.left(self.playing) as u64)
            }
            _ => SizeHint::new(),
        }
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        if self.playing.is_none() {
            let mut tape = self.tape.borrow_mut();
            tape.waiting -= 1;
            tape.let_go();
        }
    }
}

impl Tape {
    /// Another playing begins, at the first byte.
    fn begin(&mut self) -> u32 {
        self.seal();
        self.waiting -= 1;
        self.next = 0;
        self.playing += 1;
        self.playing
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.pieces.push(self.tail.split().freeze());
        }
        self.tail = BytesMut::new();
    }

    fn is_recording(&self) -> bool {
        self.waiting > 0 && !self.lost
    }

    /// Where nobody can play it again, what has passed is not needed any more.
    fn let_go(&mut self) {
        if self.waiting > 0 || self.playing == 0 {
            return;
        }
        let passed = self.next > 0 || !self.tail.is_empty();
        self.lost |= passed;
        let next = self.next;
        self.pieces.drain(..next);
        self.next = 0;
        self.tail = BytesMut::new();
        self.bytes = self.pieces.iter().map(Bytes::len).sum();
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ProxyError>>> {
        if self.next < self.pieces.len() {
            let piece = self.pieces[self.next].clone();
            self.next += 1;
            self.let_go();
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if self.ended {
            let trailers = if self.is_recording() { self.trailers.clone() } else { self.trailers.take() };
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let frame = ready!(Pin::new(&mut self.source).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => self.record(frame),
            Some(Err(_)) => self.lose(),
            None => self.ended = true,
        }
        Poll::Ready(frame)
    }

    fn record(&mut self, frame: &Frame<Bytes>) {
        if let Some(trailers) = frame.trailers_ref() {
            self.ended = true;
            match self.is_recording() {
                true => self.trailers = Some(trailers.clone()),
                false => self.lost = true,
            }
            return;
        }
        let Some(data) = frame.data_ref().filter(|data| !data.is_empty()) else { return };
        if !self.is_recording() {
            self.lost = true;
        } else if self.bytes + data.len() > self.limit {
            self.lose();
        } else {
            // A copy: what passes may be a small part of a large buffer.
            self.tail.extend_from_slice(data);
            self.bytes += data.len();
        }
    }

    /// It can't be played again.
    fn lose(&mut self) {
        self.lost = true;
        self.pieces = Vec::new();
        self.next = 0;
        self.tail = BytesMut::new();
        self.bytes = 0;
    }

    /// Recorded bytes that a playing has before it.
    fn left(&self, playing: Option<u32>) -> usize {
        match playing {
            None => self.bytes,
            Some(_) => self.pieces[self.next..].iter().map(Bytes::len).sum(),
        }
    }

    fn is_over(&self, playing: Option<u32>) -> bool {
        let trailers = match playing {
            None => self.trailers.is_some(),
            // Read with the end of the source, but where it is played again.
            Some(_) => self.ended && self.trailers.is_some(),
        };
        self.left(playing) == 0 && !trailers && (self.ended || self.source.is_end_stream())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt, StreamBody};
    use proptest::prelude::*;

    /// Parts of a body, and whether trailers follow.
    fn body(parts: Vec<Vec<u8>>, trailers: bool) -> Body {
        let mut frames: Vec<_> = parts.into_iter().map(|part| Ok(Frame::data(Bytes::from(part)))).collect();
        if trailers {
            frames.push(Ok(Frame::trailers(sum())));
        }
        Body::Boxed(Box::pin(StreamBody::new(futures_util::stream::iter(frames))))
    }

    fn sum() -> HeaderMap {
        HeaderMap::from_iter([(http::HeaderName::from_static("x-sum"), 7.into())])
    }

    async fn read(player: &mut Player, frames: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for _ in 0..frames {
            let frame = std::future::poll_fn(|cx| player.poll_frame(cx)).await;
            let Some(frame) = frame else { break };
            if let Ok(data) = frame.unwrap().into_data() {
                bytes.extend_from_slice(&data);
            }
        }
        bytes
    }

    async fn whole(player: Player) -> (Vec<u8>, Option<HeaderMap>) {
        let collected = Body::Taped(player).collect().await.unwrap();
        let trailers = collected.trailers().cloned();
        (collected.to_bytes().to_vec(), trailers)
    }

    fn cases() -> u32 {
        std::env::var("PILLION_TEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(10_000)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(cases()))]

        #[test]
        fn every_playing_is_the_whole_body_however_it_is_cut(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..12),
            left_after in prop::collection::vec(0usize..14, 0..4),
            trailers in any::<bool>(),
        ) {
            let bytes = parts.concat();
            tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
                let mut player = Player::new(body(parts, trailers), bytes.len());
                for frames in left_after {
                    let again = player.again().expect("it fits");
                    let read = read(&mut player, frames).await;
                    prop_assert!(bytes.starts_with(&read));
                    player = again;
                }
                let tape = player.tape.clone();
                let (read, found) = whole(player).await;
                prop_assert_eq!(&read, &bytes);
                prop_assert_eq!(found, trailers.then(sum));
                prop_assert_eq!((tape.borrow().pieces.len(), tape.borrow().tail.capacity()), (0, 0), "let go");
                Ok(())
            })?;
        }
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_given_once_and_not_kept() {
        let mut first = Player::new(body(vec![vec![1; 60], vec![2; 60], vec![3; 60]], false), 100);
        let again = first.again().unwrap();
        assert_eq!(read(&mut first, 1).await.len(), 60);
        assert!(again.is_whole() && !again.is_complete());
        assert_eq!(read(&mut first, 1).await.len(), 60);
        assert!(!again.is_whole() && first.again().is_none());
        assert_eq!(first.tape.borrow().bytes, 0);
        assert_eq!(whole(first).await.0, [3; 60]);
    }

    #[tokio::test]
    async fn what_nobody_can_play_again_is_let_go_at_once() {
        let mut first = Player::new(body(vec![vec![1; 60], vec![2; 60], vec![3; 60]], false), 1000);
        let again = first.again().unwrap();
        read(&mut first, 2).await;
        assert_eq!(first.tape.borrow().tail.len(), 120);
        drop(again);
        assert_eq!((first.tape.borrow().tail.capacity(), first.tape.borrow().bytes), (0, 0));
        assert!(first.again().is_none(), "too late");
        // Of a playing that is under way, what is still before it stays.
        let mut first = Player::new(body(vec![vec![1; 60], vec![2; 60]], true), 1000);
        let mut second = first.again().unwrap();
        read(&mut first, 1).await;
        let third = second.again().unwrap();
        assert_eq!(read(&mut second, 1).await, [1; 60]);
        drop(third);
        assert_eq!(second.tape.borrow().bytes, 0);
        assert_eq!(whole(second).await, (vec![2; 60], Some(sum())));
    }

    #[tokio::test]
    async fn the_length_is_known_as_long_as_the_source_knows_it() {
        let mut first = Player::new(Body::full(vec![1; 60]), 1000);
        assert_eq!(first.size_hint().exact(), Some(60));
        let again = first.again().unwrap();
        assert_eq!(read(&mut first, 1).await.len(), 60);
        assert_eq!((first.size_hint().exact(), first.is_end_stream()), (Some(0), true));
        assert_eq!((again.size_hint().exact(), again.is_end_stream()), (Some(60), false));
        assert!(again.is_complete());
    }

    #[tokio::test]
    async fn an_earlier_playing_takes_nothing_from_a_later_one() {
        let mut first = Player::new(body(vec![vec![1; 60], vec![2; 60]], false), 1000);
        let mut second = first.again().unwrap();
        read(&mut first, 1).await;
        assert_eq!(read(&mut second, 1).await, [1; 60]);
        assert!(std::future::poll_fn(|cx| first.poll_frame(cx)).await.unwrap().is_err());
        assert_eq!(whole(second).await.0, [2; 60]);
    }
}
