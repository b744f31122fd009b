//! The answer to a call and that to its copy, side by side.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Response, response};
use http_body::{Body as _, Frame, SizeHint};
use metrics::Counter;

use super::Mirror;
use crate::base::{ProxyError, clock};
use crate::codec::Body;
use crate::policy::mirror::{Difference, Print};
use crate::telemetry::{Metrics, names};

/// How often a worker tells the log of differences of one route.
const AGAIN: Duration = Duration::from_secs(10);

const RESULTS: [&str; 5] = ["equal", "status", "headers", "body", "unknown"];

/// How answers compared so far.
pub struct Counts {
    results: [Counter; RESULTS.len()],
    told: Cell<Option<Instant>>,
    since: Cell<u64>,
}

/// Whose answer it is.
#[derive(Clone, Copy)]
pub enum Side {
    /// The caller's.
    Real,
    /// Nobody's.
    Copy,
}

/// Both answers, as far as they are whole. Whoever lets it go last compares them.
pub struct Pair {
    mirror: Rc<Mirror>,
    prints: RefCell<[Option<Print>; 2]>,
}

impl Counts {
    /// None as yet.
    pub fn new(metrics: &Metrics, [real, template, to]: [&str; 3]) -> Self {
        let counter = |result| metrics.counter(&names::MIRROR_COMPARED, &[real, template, to, result]);
        Self { results: RESULTS.map(counter), told: Cell::new(None), since: Cell::new(0) }
    }

    fn count(&self, result: &str) {
        if let Some(at) = RESULTS.iter().position(|one| *one == result) {
            self.results[at].increment(1);
        }
    }

    /// A difference that the log should hear of; then how many it did not.
    fn due(&self, now: Instant) -> Option<u64> {
        if self.told.get().is_some_and(|told| now.saturating_duration_since(told) < AGAIN) {
            self.since.set(self.since.get() + 1);
            return None;
        }
        self.told.set(Some(now));
        Some(self.since.take())
    }
}

impl Pair {
    /// Of a call and its copy by this mirror.
    pub fn new(mirror: &Rc<Mirror>) -> Rc<Self> {
        Rc::new(Self { mirror: mirror.clone(), prints: RefCell::default() })
    }

    /// An answer has begun.
    pub fn print(&self, head: &response::Parts) -> Print {
        let compare = self.mirror.policy.compare.clone().unwrap_or_default();
        Print::new(&compare, head)
    }

    /// An answer is whole, as far as it is compared.
    pub fn set(&self, side: Side, print: Print) {
        self.prints.borrow_mut()[side as usize] = Some(print);
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        let counts = &self.mirror.compared;
        let ([Some(real), Some(copy)], Some(compare)) = (self.prints.take(), &self.mirror.policy.compare)
        else {
            return counts.count("unknown");
        };
        match real.differs(copy, compare) {
            None => counts.count("equal"),
            Some(difference) => tell(&self.mirror, &difference),
        }
    }
}

fn tell(mirror: &Mirror, difference: &Difference) {
    mirror.compared.count(difference.word());
    if let Some(more) = mirror.compared.due(clock::now()) {
        let (to, real) = (&mirror.policy.to, mirror.real.to_str().unwrap_or_default());
        let more = if more > 0 { format!(" ({more} more since)") } else { String::new() };
        tracing::info!("mirror: `{to}` answers a call of `{real}` otherwise: {difference}{more}");
    }
}

/// A part of an answer has passed.
pub fn follow(print: &mut Print, frame: &Frame<Bytes>) {
    if let Some(data) = frame.data_ref() {
        print.add(data);
    } else if let Some(trailers) = frame.trailers_ref() {
        print.trailed(trailers);
    }
}

/// The caller's answer, watched on its way.
pub fn watch(response: Response<Body>, pair: Rc<Pair>) -> Response<Body> {
    let (head, body) = response.into_parts();
    let print = pair.print(&head);
    if body.is_end_stream() || !print.is_open() {
        pair.set(Side::Real, print);
        return Response::from_parts(head, body);
    }
    let watched = Watched { body, watch: Some((print, pair)) };
    Response::from_parts(head, Body::Boxed(Box::pin(watched)))
}

struct Watched {
    body: Body,
    watch: Option<(Print, Rc<Pair>)>,
}

impl Watched {
    fn finish(&mut self) {
        if let Some((print, pair)) = self.watch.take() {
            pair.set(Side::Real, print);
        }
    }
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = ProxyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ProxyError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some((print, _)) = &mut self.watch {
                    follow(print, frame);
                }
                if frame.is_trailers() || self.body.is_end_stream() {
                    self.finish();
                }
            }
            Some(Err(_)) => self.watch = None,
            None => self.finish(),
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
