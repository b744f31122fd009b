//! One endpoint as one worker sees it: how it answers, and the connections to it.

mod active;

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

pub use self::active::Active;
use super::connect::Connects;
use super::connecting::{Connecting, Waiting};
use super::quota::Place;
use super::snapshot::EndpointStats;
use crate::base::clock;
use crate::base::timers::Timers;
use crate::base::{self, Protocol, ProxyError, UpstreamName};
use crate::codec::Stream;
use crate::codec::http1::client::{Connection as Http1, Recycle};
use crate::codec::http2::client::{Connection as Http2, Lease, MAX_STREAMS};
use crate::policy::balance::PeakEwma;
use crate::policy::fleet::Member;
use crate::policy::outcome::Class;
use crate::policy::vitals::Vitals;

/// Idle HTTP/1 connections that one worker keeps to one endpoint.
const MAX_IDLE: usize = 128;
/// How long a connection may stand idle before it is closed.
const IDLE: Duration = Duration::from_secs(30);
/// A connection that has stood this long is asked whether it still lives
/// before it is used.
const ASK_AFTER: Duration = Duration::from_millis(500);
/// What an answer counts as that says that the endpoint can't serve, and no
/// answer at all, at least.
const UNABLE: Duration = Duration::from_millis(500);
/// How long an endpoint is not asked again whether it takes upgrades over HTTP/2.
const DECLINED: Duration = Duration::from_secs(30);
/// How long an endpoint that refused HTTP/2 is not asked again.
const HTTP1: Duration = Duration::from_secs(60);
/// How long an endpoint that could not be reached is passed over while there
/// are others, the first time; it doubles up to [`LONGEST_AWAY`].
const FIRST_AWAY: Duration = Duration::from_millis(250);
const LONGEST_AWAY: Duration = Duration::from_secs(10);

/// How often those who wait ask for connections that stand idle.
const POKE: Duration = Duration::from_millis(50);

/// See the module's text.
pub struct Endpoint {
    /// What discovery said of it when this worker first used it.
    pub facts: base::Endpoint,
    /// Its number in the fleet.
    pub slot: u32,
    /// How it fares, for all workers.
    vitals: Arc<Vitals>,
    latency: Cell<PeakEwma>,
    active: Cell<u32>,
    requests: Cell<u64>,
    failures: Cell<u64>,
    away: Cell<Option<Away>>,
    /// How often it had come back when this was measured.
    returns: Cell<u32>,
    idle: RefCell<Vec<Idle>>,
    http2: RefCell<Vec<Http2>>,
    /// When it was last found to take no upgrades over HTTP/2.
    declined: Cell<Option<Instant>>,
    /// When it was last found to speak HTTP/1 only.
    http1: Cell<Option<Instant>>,
    /// HTTP/2 connections that are being made.
    connecting: Connecting,
    connects: Rc<Connects>,
    /// Those who wait for a connection.
    waiting: Cell<usize>,
    /// Told when one can be used.
    freed: Notify,
    /// Discovery knows it no more; calls at hand end on it.
    retired: Cell<bool>,
}

/// What somebody who wants a connection gets.
pub enum Room<T> {
    /// A place for a new one.
    Place(Place),
    /// One that is there.
    Found(T),
}

/// Counts one that waits.
struct Here<'a>(&'a Cell<usize>);

struct Idle {
    connection: Http1,
    since: Instant,
}

#[derive(Clone, Copy)]
struct Away {
    until: Instant,
    lasted: Duration,
}

impl Endpoint {
    /// An endpoint of which nothing is known yet.
    pub fn new(
        facts: base::Endpoint,
        (slot, vitals): (u32, Arc<Vitals>),
        connects: Rc<Connects>,
    ) -> Rc<Self> {
        Rc::new(Self {
            facts,
            slot,
            returns: Cell::new(vitals.returns()),
            vitals,
            latency: Cell::default(),
            active: Cell::new(0),
            requests: Cell::new(0),
            failures: Cell::new(0),
            away: Cell::new(None),
            idle: RefCell::default(),
            http2: RefCell::default(),
            declined: Cell::new(None),
            http1: Cell::new(None),
            connecting: Connecting::new(MAX_STREAMS),
            connects,
            waiting: Cell::new(0),
            freed: Notify::new(),
            retired: Cell::new(false),
        })
    }

    /// Whether it is this member of a fleet.
    pub fn is(&self, member: &Member) -> bool {
        Arc::ptr_eq(&self.vitals, &member.vitals)
    }

    /// Gives up what stands idle, now and from now on: no new call comes here,
    /// however long those at hand last.
    pub fn retire(&self) {
        self.retired.set(true);
        while self.close_idle() {}
    }

    /// Makes a connection, in at most `limit`, where there may be one more, and
    /// says `header` of whom it is for.
    pub async fn connect(
        &self,
        header: &[u8],
        limit: Duration,
        timers: &Timers,
    ) -> Result<Stream, ProxyError> {
        match self.place(clock::now(), timers, || None::<Infallible>).await? {
            Room::Place(place) => {
                self.connects.connect(place, self.facts.address, header, limit, timers).await
            }
            Room::Found(never) => match never {},
        }
    }

    /// Makes a connection for any number of callers, in at most `limit`.
    pub async fn connect_at(
        &self,
        place: Place,
        limit: Duration,
        timers: &Timers,
    ) -> Result<Stream, ProxyError> {
        let header = self.connects.own_header();
        self.connects.connect(place, self.facts.address, header, limit, timers).await
    }

    /// A place for one more connection, for somebody who waits since `asked`; or
    /// what `find` gives, which is asked whenever it may have found something.
    pub async fn place<T>(
        &self,
        asked: Instant,
        timers: &Timers,
        mut find: impl FnMut() -> Option<T>,
    ) -> Result<Room<T>, ProxyError> {
        let quota = &self.connects.quota;
        if let Some(place) = quota.take() {
            return Ok(Room::Place(place));
        }
        let waiting = quota.queue()?;
        let _here = Here::new(&self.waiting);
        let deadline = asked + quota.wait();
        let mut timer = timers.timer();
        let mut place = std::pin::pin!(waiting.place());
        loop {
            let freed = self.freed.notified();
            if let Some(found) = find() {
                return Ok(Room::Found(found));
            }
            quota.poke();
            timer.arm(deadline.min(clock::now() + POKE));
            tokio::select! {
                biased;
                place = &mut place => return Ok(Room::Place(place)),
                () = freed => {}
                () = timer.fired() => {}
            }
            if clock::now() >= deadline {
                return Err(quota.too_late());
            }
        }
    }

    /// Fails for somebody who has waited since `asked` for a connection that
    /// others wait for too.
    pub fn check_wait(&self, asked: Instant) -> Result<(), ProxyError> {
        let quota = &self.connects.quota;
        if quota.is_short() && clock::since(asked) >= quota.wait() { Err(quota.too_late()) } else { Ok(()) }
    }

    /// Closes one connection that nobody uses; whether there was one.
    pub fn close_idle(&self) -> bool {
        let mut idle = self.idle.borrow_mut();
        if !idle.is_empty() {
            // The one that stood longest.
            idle.remove(0);
            return true;
        }
        let mut http2 = self.http2.borrow_mut();
        let unused = http2.iter().position(|connection| connection.active() == 0);
        unused.map(|index| http2.remove(index).close()).is_some()
    }

    /// Whether a connection that is free should be closed, for the sake of those
    /// who wait for another endpoint or on another worker.
    fn gives_up(&self) -> bool {
        let quota = &self.connects.quota;
        if !quota.is_short() {
            return false;
        }
        // Those who wait here get their share, and can use it as it is.
        let (here, all) = (self.waiting.get(), quota.waiting());
        here == 0 || fastrand::usize(..all.max(1)) >= here
    }

    /// What one more request would cost.
    pub fn load(&self, now: Instant, weight: u32) -> f64 {
        self.latency.get().load(now, self.active.get(), weight)
    }

    /// Requests at hand, over the weight.
    pub fn pressure(&self, weight: u32) -> f64 {
        f64::from(self.active.get()) / f64::from(weight.max(1))
    }

    /// Whether it could not be reached a moment ago.
    pub fn is_away(&self, now: Instant) -> bool {
        self.renew();
        self.away.get().is_some_and(|away| away.until > now)
    }

    /// What it was like before it was left out is forgotten once it is back:
    /// else the average of its failures would keep calls from it much longer.
    fn renew(&self) {
        let returns = self.vitals.returns();
        if self.returns.replace(returns) != returns {
            self.latency.take();
            self.away.take();
        }
    }

    /// A request begins.
    pub fn begin(self: &Rc<Self>, now: Instant) -> Active {
        self.active.set(self.active.get() + 1);
        self.requests.set(self.requests.get() + 1);
        Active::new(self.clone(), now)
    }

    /// A call was given up that waited here for an answer.
    pub fn was_silent(&self) {
        self.note(Class::Silent);
    }

    /// What a call says of it.
    fn note(&self, class: Class) {
        self.vitals.note(class);
        if !matches!(class, Class::Good | Class::Nothing) {
            self.failures.set(self.failures.get() + 1);
        }
    }

    fn observe(&self, now: Instant, latency: Duration) {
        let mut ewma = self.latency.get();
        ewma.observe(now, latency);
        self.latency.set(ewma);
    }

    /// An idle HTTP/1 connection that still lives, the last used first.
    /// With `ask`, the kernel is asked in any case.
    pub fn take_idle(&self, now: Instant, ask: bool) -> Option<Http1> {
        loop {
            let idle = self.idle.borrow_mut().pop()?;
            let stood = now.saturating_duration_since(idle.since);
            if stood < IDLE && !idle.connection.is_stale(ask || stood > ASK_AFTER) {
                return Some(idle.connection);
            }
        }
    }

    /// Where a connection goes when it is free again.
    pub fn home(self: &Rc<Self>) -> Rc<dyn Recycle> {
        self.clone()
    }

    /// Keeps a connection of which nothing was used, for an HTTP/1 request.
    pub fn keep(&self, stream: Stream) {
        self.recycle(Http1::new(stream));
    }

    /// Room for a stream on the HTTP/2 connection that has the most.
    pub fn http2(&self) -> Option<Lease> {
        let mut connections = self.http2.borrow_mut();
        loop {
            connections.retain(|connection| !connection.is_closed());
            let with_room = connections.iter().filter(|connection| connection.has_room());
            if let Some(lease) = with_room.min_by_key(|c| c.active())?.lease() {
                return Some(lease);
            }
        }
    }

    /// Keeps a new HTTP/2 connection.
    pub fn add_http2(&self, connection: Http2) {
        self.connecting.learn(connection.capacity());
        self.http2.borrow_mut().push(connection);
        self.freed.notify_waiters();
    }

    /// Waits for what becomes of the connections that others make, but not longer
    /// than anybody may wait for one.
    pub async fn news(&self, waiting: &Waiting<'_>, asked: Instant, timers: &Timers) {
        let quota = &self.connects.quota;
        if !quota.is_short() {
            return waiting.news().await;
        }
        let mut timer = timers.at(asked + quota.wait());
        tokio::select! {
            biased;
            () = waiting.news() => {}
            () = timer.fired() => {}
        }
    }

    /// A call begins to wait for an HTTP/2 connection.
    pub fn wait(&self) -> Waiting<'_> {
        self.connecting.wait()
    }

    /// It does not take upgrades over HTTP/2.
    pub fn declined(&self, now: Instant) {
        self.declined.set(Some(now));
    }

    /// Whether that was found a moment ago, so that it need not be asked again.
    pub fn declines(&self, now: Instant) -> bool {
        self.declined.get().is_some_and(|at| now.saturating_duration_since(at) < DECLINED)
    }

    /// It was found to speak HTTP/1 only.
    pub fn speaks_http1(&self, now: Instant) {
        self.http1.set(Some(now));
    }

    /// Whether it was found so lately.
    pub fn is_http1(&self, now: Instant) -> bool {
        self.http1.get().is_some_and(|found| now.saturating_duration_since(found) < HTTP1)
    }

    /// What to speak, after what discovery says.
    pub fn protocol(&self) -> Protocol {
        self.facts.protocol
    }

    /// Whether it serves a call now.
    pub fn is_busy(&self) -> bool {
        self.active.get() > 0
    }

    /// Closes what has stood idle too long or was closed by the peer.
    pub fn sweep(&self, now: Instant) {
        self.idle.borrow_mut().retain(|idle| {
            now.saturating_duration_since(idle.since) < IDLE && !idle.connection.is_stale(false)
        });
        self.http2.borrow_mut().retain(|connection| {
            let unused =
                connection.active() == 0 && now.saturating_duration_since(connection.last_used()) > IDLE;
            if unused {
                connection.close();
            }
            !connection.is_closed()
        });
    }

    /// What the admin port shows.
    pub fn stats(&self, upstream: &UpstreamName, now: Instant) -> EndpointStats {
        EndpointStats {
            active: self.active.get().into(),
            requests: self.requests.get(),
            failures: self.failures.get(),
            ewma_ms: self.latency.get().latency().map(|latency| latency.as_secs_f64() * 1e3),
            connections: (self.idle.borrow().len() + self.http2.borrow().len()) as u64,
            away: self.is_away(now),
            ..EndpointStats::new(upstream.clone(), self.facts.address)
        }
    }
}

impl Recycle for Endpoint {
    fn recycle(&self, connection: Http1) {
        if self.retired.get() || self.gives_up() {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        if idle.len() < MAX_IDLE {
            idle.push(Idle { connection, since: clock::now() });
            self.freed.notify_one();
        }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        for connection in self.http2.get_mut() {
            if connection.active() == 0 {
                connection.close();
            }
        }
    }
}

impl<'a> Here<'a> {
    fn new(waiting: &'a Cell<usize>) -> Self {
        waiting.set(waiting.get() + 1);
        Self(waiting)
    }
}

impl Drop for Here<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
