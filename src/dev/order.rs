//! Which service waits for which: a database starts before, and ends after,
//! whoever keeps something in it.

use std::sync::Arc;

use tokio::sync::watch;

use super::service::Spec;

/// How one service is tied to others.
pub(super) struct Links {
    /// Set when it answers, or has ended well; dropped when it is gone.
    pub up: watch::Sender<bool>,
    /// Those that it starts after.
    before: Vec<(String, watch::Receiver<bool>)>,
    /// Those that start after it.
    behind: Vec<watch::Receiver<bool>>,
}

/// For each of `specs`, in their order. A service that was not chosen is not
/// waited for.
pub(super) fn links(specs: &[Arc<Spec>]) -> Vec<Links> {
    let ups: Vec<_> = specs.iter().map(|_| watch::Sender::new(false)).collect();
    let listen = |waits: &dyn Fn(&Spec) -> bool| {
        let chosen = specs.iter().zip(&ups).filter(|(spec, _)| waits(spec));
        chosen.map(|(spec, up)| (spec.name.clone(), up.subscribe())).collect::<Vec<_>>()
    };
    let tied: Vec<_> = specs
        .iter()
        .map(|own| {
            let before = listen(&|other| own.after.contains(&other.name));
            (before, listen(&|other| other.after.contains(&own.name)))
        })
        .collect();
    ups.into_iter()
        .zip(tied)
        .map(|(up, (before, behind))| {
            let behind = behind.into_iter().map(|(_, receiver)| receiver).collect();
            Links { up, before, behind }
        })
        .collect()
}

impl Links {
    /// Waits for all that it starts after; the name of one that never came up.
    pub(super) async fn ready(&mut self) -> Result<(), String> {
        for (name, receiver) in &mut self.before {
            receiver.wait_for(|up| *up).await.map_err(|_| name.clone())?;
        }
        Ok(())
    }

    /// Waits until nobody is left who started after it.
    pub(super) async fn last(&mut self) {
        for receiver in &mut self.behind {
            while receiver.changed().await.is_ok() {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn pair() -> (Links, Links) {
        let (database, orders) = (watch::Sender::new(false), watch::Sender::new(false));
        let before = vec![("database".to_owned(), database.subscribe())];
        let behind = vec![orders.subscribe()];
        (Links { up: database, before: Vec::new(), behind }, Links { up: orders, before, behind: Vec::new() })
    }

    #[test]
    fn one_starts_when_the_other_is_up_and_goes_before_it() {
        let (mut database, mut orders) = pair();
        assert_eq!(orders.ready().now_or_never(), None);
        database.up.send_replace(true);
        assert_eq!(orders.ready().now_or_never(), Some(Ok(())));
        orders.up.send_replace(true);
        assert_eq!(database.last().now_or_never(), None);
        drop(orders);
        assert_eq!(database.last().now_or_never(), Some(()));
    }

    #[test]
    fn one_that_will_never_be_up_is_named() {
        let (database, mut orders) = pair();
        drop(database);
        assert_eq!(orders.ready().now_or_never(), Some(Err("database".to_owned())));
    }
}
