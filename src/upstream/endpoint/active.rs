//! A request at hand, and who hears how it went.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Instant;

use super::{Away, Endpoint, FIRST_AWAY, LONGEST_AWAY, UNABLE};
use crate::base::clock;
use crate::policy::outcome::Class;
use crate::upstream::fuse::Guard;

/// A request at hand. Dropped before its outcome is told, it has waited in vain.
pub struct Active {
    endpoint: Rc<Endpoint>,
    started: Instant,
    told: Cell<bool>,
    /// What its trailers say is not known yet.
    open: Cell<bool>,
    guard: RefCell<Option<Rc<Guard>>>,
}

impl Active {
    /// A request that begins at `started`.
    pub fn new(endpoint: Rc<Endpoint>, started: Instant) -> Self {
        let (told, open, guard) = Default::default();
        Self { endpoint, started, told, open, guard }
    }

    /// The endpoint.
    pub fn endpoint(&self) -> &Rc<Endpoint> {
        &self.endpoint
    }

    /// The head of an answer came. One that says that the endpoint can't serve
    /// counts as slow, however quickly it came: nobody must be drawn to it.
    pub fn answered(&self, now: Instant, class: Class) {
        self.began(now, class, false);
    }

    /// The same; `open` if the end of the answer will say how the call went.
    pub fn began(&self, now: Instant, class: Class, open: bool) {
        self.open.set(open);
        if !open {
            self.endpoint.note(class);
        }
        let latency = now.saturating_duration_since(self.started);
        let unable = matches!(class, Class::Gateway | Class::Busy);
        self.endpoint.observe(now, if unable { latency.max(UNABLE) } else { latency });
        self.endpoint.away.set(None);
        self.told.set(true);
    }

    /// Who else hears how the call ends.
    pub fn hold(&self, guard: Rc<Guard>) {
        self.guard.replace(Some(guard));
    }

    /// Whether its answer has begun and says with its end how the call went.
    pub fn is_open(&self) -> bool {
        self.open.get()
    }

    /// Whether it is a probe whose answer has begun and says with its end how
    /// the call went.
    pub fn is_open_probe(&self) -> bool {
        self.open.get() && self.guard.borrow().as_ref().is_some_and(|guard| guard.is_probe())
    }

    /// The end of the answer says how the call went, where its head did not.
    pub fn settle(&self, class: impl FnOnce() -> Class) {
        if self.open.replace(false) {
            let class = class();
            self.endpoint.note(class);
            self.tell(class);
        }
    }

    /// Says how the call went to who else hears of it.
    pub fn tell(&self, class: Class) {
        if let Some(guard) = self.guard.take() {
            guard.tell(class, clock::now());
        }
    }

    /// No answer came. `unreachable` if there was not even a connection.
    pub fn failed(&self, now: Instant, class: Class, unreachable: bool) {
        let endpoint = &self.endpoint;
        endpoint.note(class);
        let waited = now.saturating_duration_since(self.started);
        // Who is passed over for a while need not count as slow after it.
        endpoint.observe(now, if unreachable { waited } else { waited.max(UNABLE) });
        if unreachable {
            let lasted = match endpoint.away.get() {
                // One absence, however many calls meet it at once.
                Some(away) if away.until > now => return self.told.set(true),
                Some(away) => (away.lasted * 2).min(LONGEST_AWAY),
                None => FIRST_AWAY,
            };
            endpoint.away.set(Some(Away { until: now + lasted, lasted }));
        }
        self.told.set(true);
    }

    /// The outcome says nothing of the endpoint.
    pub fn forget(&self) {
        self.told.set(true);
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        // Its answer had begun; how it would have ended nobody knows.
        self.settle(|| Class::Nothing);
        let endpoint = &self.endpoint;
        endpoint.active.set(endpoint.active.get() - 1);
        if !self.told.get() {
            // Whoever waited gave up: it takes at least this long.
            let now = clock::now();
            let waited = now.saturating_duration_since(self.started);
            if endpoint.latency.get().latency().is_none_or(|known| waited > known) {
                endpoint.observe(now, waited);
            }
        }
    }
}
