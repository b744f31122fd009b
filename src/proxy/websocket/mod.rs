//! A connection after its change of protocol: bytes pass both ways until both
//! have ended, nothing moves for `tunnel_idle`, or the sidecar ends.
//!
//! In the last two cases both sides of a WebSocket are told to close, as its
//! protocol wants it, where a frame can stand. What breaks the framing is passed
//! on as it is, and ended without a word.

mod frames;
mod side;

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use self::frames::Follower;
use self::side::Side;
use super::relay::{self, End};
use super::router::Route;
use super::stack::Call;
use super::worker::Worker;
use crate::base::Reason;
use crate::base::clock;
use crate::codec::{Stream, is_websocket};
use crate::telemetry::names;

/// The status of an end that has nothing to do with what was said ("going
/// away", RFC 6455, section 7.4.1).
const GOING_AWAY: u16 = 1001;
/// How long the frames at hand may take to pass when the sidecar ends.
const FRAMES: Duration = Duration::from_millis(400);
/// How long both sides may take to close.
const FAREWELL: Duration = Duration::from_millis(400);

/// See the module's text.
pub struct Upgraded {
    worker: Rc<Worker>,
    route: Rc<Route>,
    websocket: bool,
}

impl Upgraded {
    /// What has become of a call.
    pub fn of(call: &Call) -> Self {
        let (worker, route) = (call.worker().clone(), call.route.clone());
        Self { worker, route, websocket: is_websocket(&call.head.headers) }
    }

    /// Passes the bytes on until the end.
    pub async fn relay(self, caller: Stream, upstream: Stream) {
        let _open = self.worker.tunnel(self.route.metrics.direction());
        let name = self.worker.metrics.label(self.route.upstream.name.as_str());
        let count = |direction| self.worker.metrics.counter(&names::TCP_BYTES, &[&name, direction]);
        let follow = |masked| if self.websocket { Follower::new(masked) } else { Follower::lost() };
        let caller = Side::new(caller, follow(true), follow(false), count("received"));
        let upstream = Side::new(upstream, follow(false), follow(true), count("sent"));
        let why = match self.pass(&caller, &upstream).await {
            Some(End::Closed | End::Failed) => return,
            Some(End::Idle) => Reason::StreamIdle,
            None => Reason::ShuttingDown,
        };
        self.route.metrics.failed(why);
        let mut timer = self.worker.timers.at(clock::now() + FAREWELL);
        let mask = fastrand::u32(..).to_be_bytes();
        let close = async { tokio::join!(close(&caller, None), close(&upstream, Some(mask))) };
        tokio::select! {
            _ = close => {}
            () = timer.fired() => {}
        }
    }

    /// `None` if the sidecar ends before both sides have; each frame has passed
    /// whole then, unless it took too long.
    async fn pass(&self, caller: &Side, upstream: &Side) -> Option<End> {
        let (timers, idle) = (&self.worker.timers, self.route.policy.tunnel_idle);
        let mut relay = Box::pin(relay::run(caller.stream(), upstream.stream(), timers, idle));
        let end = poll_fn(|cx| match relay.as_mut().poll(cx) {
            Poll::Ready(relayed) => Poll::Ready(Some(relayed.end)),
            Poll::Pending if self.worker.is_stopping(self.route.metrics.direction()) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        });
        let end = end.await;
        if end.is_none() {
            caller.stop();
            upstream.stop();
            let mut timer = timers.at(clock::now() + FRAMES);
            poll_fn(|cx| {
                let ended = relay.as_mut().poll(cx).is_ready();
                if ended || (caller.has_stopped() && upstream.has_stopped()) {
                    return Poll::Ready(());
                }
                timer.poll_fired(cx)
            })
            .await;
        }
        end
    }
}

/// Tells one side to close where a frame can stand, waits until it has said the
/// same, and ends what it is told.
async fn close(side: &Side, mask: Option<[u8; 4]>) {
    if side.can_close() {
        let frame = frames::close(GOING_AWAY, mask);
        let mut left = &frame[..];
        if poll_fn(|cx| side.poll_tell(cx, &mut left)).await.is_err() {
            return;
        }
        poll_fn(|cx| side.poll_closed(cx)).await;
    }
    // It may be gone.
    let _ = poll_fn(|cx| side.poll_end(cx)).await;
}
