//! Whether a caller's body still moves.

use std::cell::Cell;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use crate::base::clock;
use crate::base::timers::{Timer, Timers};
use crate::base::{ProxyError, Reason};

/// Counts the parts of a body that have come. Cheap to clone; whoever waits for
/// something else can see by it that the caller is not idle.
#[derive(Clone, Debug, Default)]
pub struct Moved(Rc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    count: Cell<u64>,
    /// When the last part came.
    last: Cell<Option<Instant>>,
    /// A pause is no failure any more.
    forever: Cell<bool>,
    /// Whoever reads the body waits for the caller.
    awaited: Cell<bool>,
}

/// Fails a body that pauses for too long.
pub struct Pace {
    timers: Timers,
    /// `None` where a pause is no failure.
    limit: Option<Duration>,
    timer: Option<Timer>,
    moved: Moved,
}

impl Moved {
    /// Parts so far.
    pub fn count(&self) -> u64 {
        self.0.count.get()
    }

    /// When the last part came, if one has.
    pub fn last(&self) -> Option<Instant> {
        self.0.last.get()
    }

    /// Whether the caller's next part is waited for: then it is not the service
    /// that keeps the call from going on.
    pub fn is_awaited(&self) -> bool {
        self.0.awaited.get()
    }

    /// A pause is no failure any more: both sides may take turns for as long as
    /// they like.
    pub fn wait_for_ever(&self) {
        self.0.forever.set(true);
    }
}

impl Pace {
    /// A pause of `limit` is a failure; none is where it is `None`.
    pub fn new(timers: Timers, limit: Option<Duration>) -> Self {
        Self { timers, limit, timer: None, moved: Moved::default() }
    }

    /// The count of this body's parts.
    pub fn counter(&self) -> Moved {
        self.moved.clone()
    }

    /// A part has come.
    pub fn moved(&mut self) {
        self.timer = None;
        self.moved.0.awaited.set(false);
        self.moved.0.last.set(Some(clock::now()));
        self.moved.0.count.set(self.moved.0.count.get() + 1);
    }

    /// Ready with the error when the pause is too long. Asked while nothing comes.
    pub fn poll_pause(&mut self, cx: &mut Context<'_>) -> Poll<ProxyError> {
        self.moved.0.awaited.set(true);
        let Some(limit) = self.limit.filter(|_| !self.moved.0.forever.get()) else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| self.timers.at(clock::now() + limit));
        ready!(timer.poll_fired(cx));
        let detail = "the request's body paused for longer than limits.body_idle";
        Poll::Ready(ProxyError::new(Reason::RequestTimeout, detail).over("body_idle"))
    }
}
