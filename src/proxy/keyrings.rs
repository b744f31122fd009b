//! The keys of issuers that are fetched: put here by the control thread, read by
//! all workers. A set that can't be renewed stays.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use arc_swap::ArcSwapOption;
use tokio::sync::Notify;

use crate::config::model::{KeySet, KeysUrl};

/// The rings of one sidecar. All clones are the same.
#[derive(Clone, Default)]
pub struct Keyrings(Arc<Shared>);

#[derive(Default)]
struct Shared {
    all: Mutex<HashMap<KeysUrl, Weak<Ring>>>,
    news: Notify,
}

/// The keys of one address.
pub struct Ring {
    /// Where they are.
    pub from: KeysUrl,
    keys: ArcSwapOption<KeySet>,
    /// A token has named a key that is not there, and nobody was told yet.
    asked: AtomicBool,
    wanted: Arc<Notify>,
}

impl Keyrings {
    /// The ring of an address: what it was, as long as somebody holds it.
    pub fn get(&self, from: &KeysUrl) -> Arc<Ring> {
        let mut all = self.0.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, ring| ring.strong_count() > 0);
        if let Some(ring) = all.get(from).and_then(Weak::upgrade) {
            return ring;
        }
        let (keys, asked) = (ArcSwapOption::empty(), AtomicBool::new(false));
        let ring = Arc::new(Ring { from: from.clone(), keys, asked, wanted: Arc::default() });
        all.insert(from.clone(), Arc::downgrade(&ring));
        self.0.news.notify_one();
        ring
    }

    /// All that somebody holds.
    pub fn all(&self) -> Vec<Arc<Ring>> {
        let all = self.0.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.values().filter_map(Weak::upgrade).collect()
    }

    /// Waits until there is a new ring.
    pub async fn news(&self) {
        self.0.news.notified().await;
    }
}

impl Ring {
    /// The keys, as far as they are there.
    pub fn keys(&self) -> Option<Arc<KeySet>> {
        self.keys.load_full()
    }

    /// These are the keys from now on. The same ones change nothing, so that
    /// what was checked by them stays checked.
    pub fn put(&self, keys: KeySet) {
        if !self.keys.load().as_ref().is_some_and(|held| held.is_same(&keys)) {
            self.keys.store(Some(Arc::new(keys)));
        }
    }

    /// A token has named a key that is not there.
    pub fn want(&self) {
        if !self.asked.swap(true, Ordering::Relaxed) {
            self.wanted.notify_one();
        }
    }

    /// Tells whoever fetches that a key is wanted; it need not hold the ring.
    pub fn wanted(&self) -> Arc<Notify> {
        self.wanted.clone()
    }

    /// They are fetched anew.
    pub fn served(&self) {
        self.asked.store(false, Ordering::Relaxed);
    }
}
