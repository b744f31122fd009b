//! The sidecars on this machine, known through a folder and no server.
//!
//! Each sidecar writes one file and holds a lock on it for its life, so that a
//! dead owner is found with certainty, whatever ended it. The folder is watched;
//! a look every second finds what the watch can't tell, such as a process that
//! was killed. Nothing is read while nobody wants a name.

mod entry;
mod folder;
mod registration;
mod registry;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use notify::{EventKind, RecursiveMode, Watcher};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

use self::registry::Registry;
use super::answer::Answer;
use super::clock;
use super::source::Outlet;
use crate::base::{Endpoint, UpstreamName, Watched};

pub use self::registration::{Registration, register};

/// From one look at the folder to the next, as long as nothing is heard.
const LOOK: Duration = Duration::from_secs(1);
/// From news of a change to the look, so that many changes cost one.
const GATHER: Duration = Duration::from_millis(10);

/// The `local` source.
pub(super) struct Local {
    shared: Arc<Shared>,
    task: AbortHandle,
}

struct Shared {
    directory: PathBuf,
    wanted: Mutex<HashMap<UpstreamName, watch::Sender<Option<Answer>>>>,
    /// A name is wanted that was not before, or the folder changed.
    news: Arc<Notify>,
    /// When the folder was looked at last and could be read.
    watched: Watched,
}

/// The watch on the folder.
#[derive(Default)]
struct Eye {
    inode: Option<u64>,
    _watcher: Option<notify::RecommendedWatcher>,
}

impl Local {
    /// Must be called within a runtime.
    pub(super) fn new(directory: PathBuf) -> Self {
        let shared = Arc::new(Shared {
            directory,
            wanted: Mutex::default(),
            news: Arc::default(),
            watched: Watched::default(),
        });
        let task = tokio::spawn(look_on(shared.clone())).abort_handle();
        Self { shared, task }
    }

    /// When its answers were seen to be true for the last time.
    pub(super) fn watched(&self) -> Watched {
        self.shared.watched.clone()
    }

    /// Tells who serves `name`, at once and whenever that changes.
    pub(super) async fn follow(&self, name: &UpstreamName, outlet: &Outlet) {
        let mut answers = self.shared.want(name);
        loop {
            let answer = answers.borrow_and_update().clone();
            if let Some(answer) = answer
                && !outlet.tell(answer).await
            {
                return;
            }
            if answers.changed().await.is_err() {
                return;
            }
        }
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn want(&self, name: &UpstreamName) -> watch::Receiver<Option<Answer>> {
        let mut wanted = self.lock();
        let answers = wanted.entry(name.clone()).or_insert_with(|| watch::Sender::new(None)).subscribe();
        self.news.notify_one();
        answers
    }

    /// The services that somebody follows. A name with a port stands for the
    /// service without it: a service has one address here.
    fn services(&self) -> HashSet<UpstreamName> {
        let mut wanted = self.lock();
        wanted.retain(|_, answers| !answers.is_closed());
        let both = |name: &UpstreamName| [name.clone(), UpstreamName::new(name.host())];
        wanted.keys().flat_map(both).collect()
    }

    fn publish(&self, found: &Result<HashMap<UpstreamName, Vec<Endpoint>>, String>) {
        for (name, answers) in self.lock().iter() {
            let answer = match found {
                Ok(found) => match found.get(name).or_else(|| found.get(name.host())) {
                    Some(endpoints) => Answer::found(endpoints.clone()),
                    None => Answer::Unknown,
                },
                Err(why) => Answer::failed(why),
            };
            answers.send_if_modified(|held| {
                let news = held.as_ref() != Some(&answer);
                *held = Some(answer);
                news
            });
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<UpstreamName, watch::Sender<Option<Answer>>>> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks at the folder as long as a name is wanted.
async fn look_on(shared: Arc<Shared>) {
    let mut registry = Registry::new(shared.directory.clone());
    let mut eye = Eye::default();
    loop {
        let services = shared.services();
        if services.is_empty() {
            eye = Eye::default();
            shared.news.notified().await;
            continue;
        }
        let look = tokio::task::spawn_blocking(move || {
            let found = registry.look(&services, clock::now());
            (registry, found)
        });
        let found;
        (registry, found) = match look.await {
            Ok(looked) => looked,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => return,
            },
        };
        if found.is_ok() {
            shared.watched.confirm(clock::now());
        }
        shared.publish(&found);
        // A folder that was made anew needs a new watch; a watch that can't be
        // had is not asked for again.
        let inode = registry.inode();
        if eye.inode != inode {
            let watcher = inode.and_then(|_| watch_folder(&shared.directory, &shared.news));
            eye = Eye { inode, _watcher: watcher };
        }
        if tokio::time::timeout(LOOK, shared.news.notified()).await.is_ok() {
            tokio::time::sleep(GATHER).await;
        }
    }
}

/// Wakes `news` when an entry comes or goes. `None` where the machine can't
/// watch: the look every second finds it then.
fn watch_folder(directory: &Path, news: &Arc<Notify>) -> Option<notify::RecommendedWatcher> {
    let news = news.clone();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        use notify::event::ModifyKind;
        let matters = |kind| {
            matches!(
                kind,
                EventKind::Create(_) | EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_))
            )
        };
        if event.map_or(true, |event| matters(event.kind)) {
            news.notify_one();
        }
    })
    .ok()?;
    watcher.watch(directory, RecursiveMode::NonRecursive).ok()?;
    Some(watcher)
}

#[cfg(test)]
pub(super) mod tests;
