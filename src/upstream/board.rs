//! The table between the control thread and the workers: for each upstream in
//! use, the endpoints as they can be picked from.
//!
//! A worker asks for a name once and keeps the receiver; looking for news is
//! one atomic load.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::{mpsc, watch};

use super::snapshot::EndpointStats;
use crate::base::directory::{Directory, DirectoryFull};
use crate::base::{Resolution, UpstreamName};
use crate::policy::fleet::Fleet;

/// Shared by the control thread and all workers. All clones are the same.
#[derive(Clone)]
pub struct Board {
    directory: Directory,
    entries: Arc<Mutex<HashMap<UpstreamName, watch::Sender<News>>>>,
    wanted: mpsc::UnboundedSender<Wanted>,
}

/// What workers are told of an upstream.
#[derive(Clone, Debug, Default)]
pub struct News {
    /// What discovery says.
    pub resolution: Known,
    /// Its endpoints, where it has some.
    pub fleet: Option<Arc<Fleet>>,
    /// Why those are out that are, by slot.
    pub notes: Arc<HashMap<u32, String>>,
}

/// What discovery says, without the endpoints.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Known {
    /// Nothing yet.
    #[default]
    Pending,
    /// There are endpoints, by this source.
    Found(&'static str),
    /// There are none; see [`Resolution`].
    Not(Resolution),
}

/// A name that somebody asked for.
pub struct Wanted {
    /// The upstream.
    pub name: UpstreamName,
    /// What discovery says of it.
    pub resolution: watch::Receiver<Resolution>,
    /// Where its endpoints go.
    pub sender: watch::Sender<News>,
}

impl Board {
    /// An empty board over `directory`, and the names that are asked for.
    pub fn new(directory: Directory) -> (Self, mpsc::UnboundedReceiver<Wanted>) {
        let (wanted, names) = mpsc::unbounded_channel();
        (Self { directory, entries: Arc::default(), wanted }, names)
    }

    /// What discovery writes.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Follows `name` from now on, if there is room.
    pub fn watch(&self, name: &UpstreamName) -> Result<watch::Receiver<News>, DirectoryFull> {
        self.subscribe(name, |directory| directory.watch(name))
    }

    /// Follows a name of the policy, for which there is always room.
    pub fn watch_named(&self, name: &UpstreamName) -> watch::Receiver<News> {
        let room = self.subscribe(name, |directory| Ok(directory.watch_named(name)));
        room.unwrap_or_else(|DirectoryFull| watch::channel(News::default()).1)
    }

    fn subscribe(
        &self,
        name: &UpstreamName,
        ask: impl FnOnce(&Directory) -> Result<watch::Receiver<Resolution>, DirectoryFull>,
    ) -> Result<watch::Receiver<News>, DirectoryFull> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let mut news = match entries.get(name) {
            Some(sender) => sender.subscribe(),
            None => {
                let resolution = ask(&self.directory)?;
                let (sender, news) = watch::channel(News::default());
                entries.insert(name.clone(), sender.clone());
                // A closed channel means that the control thread has ended.
                let _ = self.wanted.send(Wanted { name: name.clone(), resolution, sender });
                news
            }
        };
        news.mark_changed();
        Ok(news)
    }

    /// Drops `name` if nobody reads it. Returns whether it was dropped: then the
    /// next asker starts anew.
    pub fn forget(&self, name: &UpstreamName) -> bool {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        match entries.get(name) {
            Some(sender) if !sender.is_closed() => false,
            _ => {
                entries.remove(name);
                true
            }
        }
    }

    /// How the endpoints of every upstream stand.
    pub fn states(&self, now: Instant) -> Vec<EndpointStats> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let all: Vec<_> =
            entries.iter().map(|(name, sender)| (name.clone(), sender.borrow().clone())).collect();
        drop(entries);
        let mut states = Vec::new();
        for (name, news) in all {
            for (slot, member) in news.fleet.iter().flat_map(|fleet| fleet.layout.present()) {
                let mut one = EndpointStats::new(name.clone(), member.facts.address);
                one.state = member.vitals.state(now);
                one.why = news.notes.get(&slot).cloned().unwrap_or_default();
                states.push(one);
            }
        }
        states
    }
}
