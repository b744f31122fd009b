//! How many HTTP/2 connections to an endpoint are made at one time: enough for
//! all calls that wait, by what one connection was seen to take, and no more.

use std::cell::Cell;

use tokio::sync::Notify;

/// Connections that are made at one time at most: a listener's queue is short.
const AT_ONCE: usize = 32;

/// The connections that are being made, and who waits for them.
pub struct Connecting {
    waiting: Cell<usize>,
    making: Cell<usize>,
    /// Streams that the last connection could have at one time.
    streams: Cell<usize>,
    news: Notify,
}

/// A call that waits for a connection.
pub struct Waiting<'a>(&'a Connecting);

/// A connection is being made.
pub struct Making<'a>(&'a Connecting);

impl Connecting {
    /// None, each of which would have `streams`.
    pub fn new(streams: usize) -> Self {
        Self {
            waiting: Cell::new(0),
            making: Cell::new(0),
            streams: Cell::new(streams.max(1)),
            news: Notify::new(),
        }
    }

    /// A connection can have this many streams.
    pub fn learn(&self, streams: usize) {
        self.streams.set(streams.max(1));
    }

    /// A call begins to wait.
    pub fn wait(&self) -> Waiting<'_> {
        self.waiting.set(self.waiting.get() + 1);
        Waiting(self)
    }
}

impl<'a> Waiting<'a> {
    /// Leave to make a connection, unless those that are being made will do for
    /// all who wait.
    pub fn begin(&self) -> Option<Making<'a>> {
        let all = self.0;
        let making = all.making.get();
        if making >= AT_ONCE || making * all.streams.get() >= all.waiting.get() {
            return None;
        }
        all.making.set(making + 1);
        Some(Making(all))
    }

    /// Ready when a connection was made, or was not.
    pub async fn news(&self) {
        self.0.news.notified().await;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get() - 1);
    }
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        self.0.making.set(self.0.making.get() - 1);
        self.0.news.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_are_made_as_the_calls_need() {
        let connecting = Connecting::new(100);
        let waiting: Vec<_> = (0..250).map(|_| connecting.wait()).collect();
        let making: Vec<_> = waiting.iter().filter_map(Waiting::begin).collect();
        assert_eq!(making.len(), 3);
        connecting.learn(1);
        let more: Vec<_> = waiting.iter().filter_map(Waiting::begin).collect();
        assert_eq!(more.len(), AT_ONCE - 3, "one for each, and no storm");
        drop((making, more, waiting));
        connecting.learn(0);
        let one = connecting.wait();
        assert!(one.begin().is_some_and(|_making| connecting.wait().begin().is_some()));
    }
}
