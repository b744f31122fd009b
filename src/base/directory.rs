//! The table that discovery writes and workers read: for each upstream in use,
//! what is known of it.
//!
//! A worker asks for a name once and keeps the receiver; looking for news is
//! one atomic load. Nobody but discovery writes a resolution.
//!
//! The other way round, from an address to the upstream that has it as an
//! endpoint, is asked where a connection was captured and nothing names its
//! target.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, mpsc, watch};

use super::{Resolution, Trail, UpstreamName};

/// How many upstreams one sidecar follows at once, those of the policy
/// included. A caller who asks for one more gets `overload`; what the policy
/// names is always followed.
pub const MAX_UPSTREAMS: usize = 4096;

/// The addresses are put together at most this often.
const INDEX_PAUSE: Duration = Duration::from_millis(50);

/// Shared between the control thread and all workers.
#[derive(Clone)]
pub struct Directory {
    entries: Arc<Mutex<Entries>>,
    wanted: mpsc::UnboundedSender<Subscription>,
    addresses: Arc<Addresses>,
}

/// Which upstream has an address.
#[derive(Default)]
struct Addresses {
    index: ArcSwap<HashMap<SocketAddr, UpstreamName>>,
    /// Addresses that a source holds of names that nobody may have asked for.
    written: Mutex<Vec<(SocketAddr, UpstreamName)>>,
    /// Addresses that lead to a name and are none of its endpoints.
    leading: Mutex<HashMap<UpstreamName, Vec<SocketAddr>>>,
    /// Names of the policy, each with what led to it when it was let go.
    named: Mutex<HashMap<UpstreamName, Vec<SocketAddr>>>,
    /// Somebody has asked for an address.
    asked: AtomicBool,
    news: Notify,
}

type Entries = HashMap<UpstreamName, Subscription>;

/// A name that somebody asked for, and where discovery writes what it finds.
///
/// When nobody reads it any more (`sender.is_closed()`), discovery may let go
/// of it with [`Directory::forget`].
#[derive(Clone, Debug)]
pub struct Subscription {
    /// The upstream.
    pub name: UpstreamName,
    /// Written by discovery alone.
    pub sender: watch::Sender<Resolution>,
    /// The same: how it came to that, for people.
    pub trail: Arc<Mutex<Trail>>,
}

/// A name that somebody asked for, as it is shown.
#[derive(Clone, Debug)]
pub struct Known {
    /// The upstream.
    pub name: UpstreamName,
    /// What is known of it.
    pub resolution: Resolution,
    /// Who said what.
    pub trail: Trail,
}

/// The table holds [`MAX_UPSTREAMS`] names already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectoryFull;

impl Directory {
    /// An empty directory, and the stream of names that discovery must follow.
    /// The stream is bounded by [`MAX_UPSTREAMS`].
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Subscription>) {
        let (wanted, names) = mpsc::unbounded_channel();
        (Self { entries: Arc::default(), wanted, addresses: Arc::default() }, names)
    }

    /// Follows `name` from now on, if there is room. The first asker makes
    /// discovery look for it.
    pub fn watch(&self, name: &UpstreamName) -> Result<watch::Receiver<Resolution>, DirectoryFull> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= MAX_UPSTREAMS && !entries.contains_key(name) {
            return Err(DirectoryFull);
        }
        Ok(self.subscribe(&mut entries, name))
    }

    /// Follows a name of the policy, for which there is always room.
    pub fn watch_named(&self, name: &UpstreamName) -> watch::Receiver<Resolution> {
        self.addresses.named.lock().unwrap_or_else(PoisonError::into_inner).entry(name.clone()).or_default();
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        self.subscribe(&mut entries, name)
    }

    fn subscribe(&self, entries: &mut Entries, name: &UpstreamName) -> watch::Receiver<Resolution> {
        if let Some(entry) = entries.get(name) {
            return entry.sender.subscribe();
        }
        let (sender, receiver) = watch::channel(Resolution::Pending);
        let subscription = Subscription { name: name.clone(), sender, trail: Arc::default() };
        entries.insert(name.clone(), subscription.clone());
        // A closed channel means that discovery has ended with the process.
        let _ = self.wanted.send(subscription);
        receiver
    }

    /// Drops `name` if nobody reads it. Returns whether it was dropped: then
    /// discovery stops looking for it, and the next asker starts anew. Where the
    /// policy names it, what [`Directory::lead`] said last still leads to it;
    /// addresses of endpoints may soon be those of others.
    pub fn forget(&self, name: &UpstreamName) -> bool {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        match entries.get(name) {
            Some(entry) if entry.sender.is_closed() => {
                entries.remove(name);
                drop(entries);
                self.remember(name);
                true
            }
            Some(_) => false,
            None => true,
        }
    }

    fn remember(&self, name: &UpstreamName) {
        let leading =
            self.addresses.leading.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        let mut named = self.addresses.named.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = named.get_mut(name) {
            *held = leading.unwrap_or_default();
        }
    }

    /// The upstream that has `address` as an endpoint, as far as is known: of
    /// names that somebody asked for, and of those in [`Directory::write_down`].
    pub fn at(&self, address: SocketAddr) -> Option<UpstreamName> {
        if !self.addresses.asked.load(Relaxed) {
            self.addresses.asked.store(true, Relaxed);
        }
        self.addresses.index.load().get(&address).cloned()
    }

    /// Whether [`Directory::at`] was ever called: connections are captured here.
    pub fn is_asked_for_addresses(&self) -> bool {
        self.addresses.asked.load(Relaxed)
    }

    /// Addresses that are known whether or not somebody has asked for their
    /// names, in place of those of the last call.
    pub fn write_down(&self, addresses: Vec<(SocketAddr, UpstreamName)>) {
        *self.addresses.written.lock().unwrap_or_else(PoisonError::into_inner) = addresses;
        self.index();
    }

    /// Addresses that lead to `name` without being its endpoints, such as the one
    /// that kube-proxy serves for a Service, in place of those of the last call.
    pub fn lead(&self, name: &UpstreamName, addresses: &[SocketAddr]) {
        let mut leading = self.addresses.leading.lock().unwrap_or_else(PoisonError::into_inner);
        let old = match addresses.is_empty() {
            true => leading.remove(name).unwrap_or_default(),
            false => leading.insert(name.clone(), addresses.to_owned()).unwrap_or_default(),
        };
        if old != addresses {
            self.changed();
        }
    }

    /// A resolution has changed: [`Directory::keep_index`] takes it over.
    pub fn changed(&self) {
        self.addresses.news.notify_one();
    }

    /// Keeps the way from addresses to names up to date, for as long as it is polled.
    pub async fn keep_index(&self) {
        loop {
            self.addresses.news.notified().await;
            self.index();
            tokio::time::sleep(INDEX_PAUSE).await;
        }
    }

    /// Of several names with one address the shortest wins, then the first by letters.
    fn index(&self) {
        let mut index: HashMap<SocketAddr, UpstreamName> = HashMap::new();
        let mut add = |address: SocketAddr, name: &UpstreamName| {
            let rank = |name: &UpstreamName| (name.as_str().len(), name.clone());
            let held = index.entry(address).or_insert_with(|| name.clone());
            if rank(name) < rank(held) {
                held.clone_from(name);
            }
        };
        for (address, name) in self.addresses.written.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            add(*address, name);
        }
        for (name, addresses) in self.addresses.leading.lock().unwrap_or_else(PoisonError::into_inner).iter()
        {
            addresses.iter().for_each(|address| add(*address, name));
        }
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let named = self.addresses.named.lock().unwrap_or_else(PoisonError::into_inner);
        let at_rest = |name: &UpstreamName| {
            entries.get(name).is_none_or(|entry| *entry.sender.borrow() == Resolution::Pending)
        };
        for (name, addresses) in named.iter().filter(|(name, _)| at_rest(name)) {
            addresses.iter().for_each(|address| add(*address, name));
        }
        drop(named);
        for (name, entry) in entries.iter() {
            // A literal address names nothing.
            if let Resolution::Found(set) = &*entry.sender.borrow()
                && name.as_literal(0).is_none()
            {
                set.endpoints.iter().for_each(|endpoint| add(endpoint.address, name));
            }
        }
        drop(entries);
        self.addresses.index.store(Arc::new(index));
    }

    /// Every name with what is known of it, sorted by name.
    pub fn dump(&self) -> Vec<Known> {
        let mut entries: Vec<Subscription> =
            self.entries.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        let known = |Subscription { name, sender, trail }| Known {
            name,
            resolution: sender.borrow().clone(),
            trail: trail.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        };
        entries.into_iter().map(known).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_asker_wakes_discovery_and_the_last_reader_lets_go() {
        let (directory, mut names) = Directory::new();
        let users = UpstreamName::new("users");
        let first = directory.watch(&users).unwrap();
        let second = directory.watch(&users).unwrap();
        let subscription = names.try_recv().expect("discovery is told once");
        assert_eq!(subscription.name, users);
        assert!(names.try_recv().is_err(), "and only once");
        assert!(!directory.forget(&users), "two readers hold it");
        drop((first, second));
        assert!(directory.forget(&users));
        directory.watch(&users).unwrap();
        assert!(names.try_recv().is_ok(), "a new asker starts anew");
    }

    #[test]
    fn an_address_leads_to_its_upstream() {
        use crate::base::{Endpoint, EndpointSet};
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let (directory, mut names) = Directory::new();
        let set = |text: &str| {
            let endpoints = vec![Endpoint::new(address(text))];
            Resolution::Found(EndpointSet::new(endpoints, "static", std::time::SystemTime::UNIX_EPOCH))
        };
        for (name, at) in
            [("users:80", "10.0.0.1:80"), ("users", "10.0.0.1:80"), ("10.0.0.9:80", "10.0.0.9:80")]
        {
            let _ = directory.watch(&UpstreamName::new(name)).unwrap();
            names.try_recv().unwrap().sender.send_replace(set(at));
        }
        directory.write_down(vec![(address("10.0.0.2:5432"), UpstreamName::new("db"))]);
        let at = |text: &str| directory.at(address(text)).map(|name| name.to_string());
        assert_eq!(at("10.0.0.1:80").as_deref(), Some("users"), "the shortest of two names");
        assert_eq!(at("10.0.0.2:5432").as_deref(), Some("db"), "nobody has asked for it");
        assert_eq!(at("10.0.0.9:80"), None, "an address is no name");
        assert_eq!(at("10.0.0.1:81"), None);
        directory.write_down(Vec::new());
        assert_eq!(at("10.0.0.2:5432"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_may_lead_to_a_name_that_has_no_endpoint_there() {
        let (directory, _names) = Directory::new();
        let (address, name) = ("10.96.0.10:80".parse().unwrap(), UpstreamName::new("users"));
        let keeper = directory.clone();
        let keeper = tokio::spawn(async move { keeper.keep_index().await });
        directory.lead(&name, &[address]);
        tokio::time::sleep(INDEX_PAUSE * 2).await;
        assert_eq!(directory.at(address), Some(name.clone()));
        directory.lead(&name, &[]);
        tokio::time::sleep(INDEX_PAUSE * 2).await;
        assert_eq!(directory.at(address), None);
        keeper.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn what_led_to_a_name_of_the_policy_leads_to_it_when_it_is_let_go() {
        let (directory, mut names) = Directory::new();
        let keeper = directory.clone();
        let keeper = tokio::spawn(async move { keeper.keep_index().await });
        let settled = || tokio::time::sleep(INDEX_PAUSE * 2);
        let (db, other) = (UpstreamName::new("db"), UpstreamName::new("other"));
        let readers = (directory.watch_named(&db), directory.watch(&other).unwrap());
        let [first, second] = [1, 2].map(|port| SocketAddr::from(([10, 96, 0, 1], port)));
        directory.lead(&db, &[first]);
        directory.lead(&other, &[second]);
        settled().await;
        assert!(!directory.is_asked_for_addresses());
        drop(readers);
        for name in [&db, &other] {
            assert!(directory.forget(name));
            directory.lead(name, &[]);
        }
        settled().await;
        assert_eq!(directory.at(first), Some(db.clone()));
        assert_eq!(directory.at(second), None, "no policy names it");
        assert!(directory.is_asked_for_addresses());
        // It is followed again, and found elsewhere.
        let _reader = directory.watch_named(&db);
        directory.changed();
        settled().await;
        assert_eq!(directory.at(first), Some(db.clone()), "nothing else is known yet");
        while let Ok(subscription) = names.try_recv() {
            subscription.sender.send_replace(Resolution::Unknown);
        }
        directory.changed();
        settled().await;
        assert_eq!(directory.at(first), None);
        keeper.abort();
    }

    #[test]
    fn the_table_is_bounded() {
        let (directory, _names) = Directory::new();
        for index in 0..MAX_UPSTREAMS {
            directory.watch(&UpstreamName::new(&format!("s{index}"))).unwrap();
        }
        let more = UpstreamName::new("one-more");
        assert_eq!(directory.watch(&more).unwrap_err(), DirectoryFull);
        assert_eq!(*directory.watch_named(&more).borrow(), Resolution::Pending);
        assert!(directory.watch(&more).is_ok(), "what the policy names is there for all");
    }
}
