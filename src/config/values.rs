//! `${consul:key}` in values: what the files ask for, and what is known of it.
//! Nothing here asks Consul; whoever does tells the outcome here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::model::Source;

/// What is known of one key.
#[derive(Clone, PartialEq, Eq)]
pub enum Known {
    /// Its value.
    Found(Arc<str>),
    /// There is no such key.
    Absent,
    /// Why there is no answer, as long as none has come.
    Failed(Arc<str>),
}

/// What the files ask for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wants {
    /// The keys.
    pub keys: BTreeSet<Arc<str>>,
    /// `discovery`, which says where Consul is.
    pub discovery: Vec<Source>,
}

/// Shared by those who read the files and by the one who asks Consul.
#[derive(Clone, Default)]
pub struct Values {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    known: Mutex<BTreeMap<Arc<str>, Known>>,
    wants: watch::Sender<Wants>,
    news: Mutex<Option<Box<dyn Fn() + Send>>>,
}

impl Values {
    /// What is known of `key`; `None` as long as nothing has been heard.
    pub fn get(&self, key: &str) -> Option<Known> {
        lock(&self.shared.known).get(key).cloned()
    }

    /// Tells what is known of a key. What was found stays when a later question
    /// fails, and what nobody asks for is not kept.
    pub fn tell(&self, key: &Arc<str>, known: Known) {
        if !self.shared.wants.borrow().keys.contains(key) {
            return;
        }
        {
            let mut all = lock(&self.shared.known);
            let old = all.get(key);
            let answered = matches!(old, Some(Known::Found(_) | Known::Absent));
            if old == Some(&known) || (answered && matches!(known, Known::Failed(_))) {
                return;
            }
            all.insert(key.clone(), known);
        }
        if let Some(news) = &*lock(&self.shared.news) {
            news();
        }
    }

    /// Says what the files ask for now.
    pub fn want(&self, wants: Wants) {
        self.shared.wants.send_if_modified(|now| {
            lock(&self.shared.known).retain(|key, _| wants.keys.contains(key));
            let changed = *now != wants;
            *now = wants;
            changed
        });
    }

    /// What the files ask for, and each change of it.
    pub fn wants(&self) -> watch::Receiver<Wants> {
        self.shared.wants.subscribe()
    }

    /// Calls `news` whenever something else is known.
    pub(super) fn on_news(&self, news: impl Fn() + Send + 'static) {
        *lock(&self.shared.news) = Some(Box::new(news));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Without the value: it may be a secret.
impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Found(_) => f.write_str("Found(…)"),
            Self::Absent => f.write_str("Absent"),
            Self::Failed(why) => write!(f, "Failed({why})"),
        }
    }
}

impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(lock(&self.shared.known).iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn wants(keys: &[&str]) -> Wants {
        Wants { keys: keys.iter().map(|key| Arc::from(*key)).collect(), discovery: Vec::new() }
    }

    #[test]
    fn what_was_found_outlives_a_failure_and_not_its_last_reader() {
        let (values, news) = (Values::default(), Arc::new(AtomicUsize::new(0)));
        let count = news.clone();
        values.on_news(move || _ = count.fetch_add(1, Ordering::SeqCst));
        let (key, found) = (Arc::from("a"), Known::Found("1".into()));
        values.tell(&key, found.clone());
        assert_eq!(values.get("a"), None, "nobody wants it");
        values.want(wants(&["a", "b"]));
        values.tell(&key, Known::Failed("down".into()));
        values.tell(&key, found.clone());
        values.tell(&key, found.clone());
        values.tell(&key, Known::Failed("down".into()));
        assert_eq!((values.get("a"), news.load(Ordering::SeqCst)), (Some(found), 2));
        values.tell(&key, Known::Absent);
        assert_eq!((values.get("a"), news.load(Ordering::SeqCst)), (Some(Known::Absent), 3));
        values.want(wants(&["b"]));
        assert_eq!(values.get("a"), None);
        assert!(!format!("{:?}", Known::Found("s3cr3t".into())).contains("s3cr3t"));
    }
}
