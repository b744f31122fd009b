//! Shutdown as a value that is handed around.
//!
//! The signal side moves through the stages; every connection holds a
//! [`Watch`]. The signal side knows that all is done when the last watch is gone.

use std::time::Duration;

use tokio::sync::watch;

/// How far the shutdown has come. Stages only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Business as usual.
    #[default]
    Serving,
    /// Readiness has failed; listeners still accept, so that callers who do
    /// not know yet are served.
    Leaving,
    /// Listeners are closed; connections end after the request at hand.
    Draining,
    /// The deadline has passed or a second signal came: end now.
    Stopped,
}

/// The side that decides. Dropping it counts as [`Stage::Stopped`].
#[derive(Debug)]
pub struct Signal(watch::Sender<Stage>);

/// The side that obeys; held by every listener and connection.
#[derive(Clone, Debug)]
pub struct Watch(watch::Receiver<Stage>);

/// A linked pair.
pub fn channel() -> (Signal, Watch) {
    let (sender, receiver) = watch::channel(Stage::Serving);
    (Signal(sender), Watch(receiver))
}

impl Signal {
    /// Moves on to `stage`; a step back is ignored.
    pub fn advance(&self, stage: Stage) {
        self.0.send_if_modified(|now| {
            let later = stage > *now;
            if later {
                *now = stage;
            }
            later
        });
    }

    /// The stage now.
    pub fn stage(&self) -> Stage {
        *self.0.borrow()
    }

    /// One more watch.
    pub fn watch(&self) -> Watch {
        Watch(self.0.subscribe())
    }

    /// Waits until every watch is gone, at most `limit`. Returns whether all
    /// were gone in time.
    pub async fn all_done(&self, limit: Duration) -> bool {
        tokio::time::timeout(limit, self.0.closed()).await.is_ok()
    }
}

impl Watch {
    /// The stage now.
    pub fn stage(&self) -> Stage {
        if self.0.has_changed().is_err() {
            return Stage::Stopped;
        }
        *self.0.borrow()
    }

    /// Waits until `stage` or a later one.
    pub async fn reached(&mut self, stage: Stage) {
        // An error means that the signal side is gone, which is Stopped.
        let _ = self.0.wait_for(|now| *now >= stage).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn stages_only_grow_and_the_last_watch_ends_the_wait() {
        let (signal, mut watch) = channel();
        signal.advance(Stage::Draining);
        signal.advance(Stage::Leaving);
        assert_eq!(signal.stage(), Stage::Draining);
        watch.reached(Stage::Leaving).await;
        assert_eq!(watch.stage(), Stage::Draining);
        assert!(!signal.all_done(Duration::from_secs(1)).await, "a watch is still held");
        drop(watch);
        assert!(signal.all_done(Duration::from_secs(1)).await);
    }

    #[tokio::test]
    async fn a_lost_signal_side_means_stop() {
        let (signal, mut watch) = channel();
        drop(signal);
        watch.reached(Stage::Stopped).await;
        assert_eq!(watch.stage(), Stage::Stopped);
    }
}
