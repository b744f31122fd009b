//! Enters the fronted service into the registry, and keeps it there.
//!
//! The entry holds as long as the [`Registration`]: its file is locked by this
//! process, made anew when somebody removed it, when the disk was full, or when
//! a reload changed what it says.

use std::ffi::CString;
use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use metrics::Gauge;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::entry::{ENTRY_BYTES, Entry};
use super::folder::{Folder, Refused, own};
use super::registry::{SUFFIX, UNFINISHED};
use crate::base::Standing;
use crate::config::{Model, model};
use crate::discovery::clock;
use crate::telemetry::{Metrics, names};

/// From one look at one's own entries to the next.
const LOOK: Duration = Duration::from_secs(2);

/// The fronted service stands in the registry as long as this lives.
#[must_use = "dropping it takes the service out of the registry"]
pub struct Registration {
    state: Arc<Mutex<State>>,
    task: AbortHandle,
}

struct State {
    withdrawn: bool,
    standing: Standing,
    inbound: SocketAddr,
    held: Vec<Held>,
    /// Folders of which a failure has been logged.
    warned: Vec<PathBuf>,
    gauge: Gauge,
}

/// One entry of ours.
struct Held {
    directory: PathBuf,
    name: CString,
    inode: u64,
    entry: Entry,
    /// Its lock tells the others that we live.
    _file: File,
}

/// Enters the service of `config` into each local registry that it says, with
/// `inbound` as its address, and follows reloads. A folder that can't be used
/// now is no error: it is tried again. Must be called within a runtime.
pub fn register(
    mut config: watch::Receiver<Arc<Model>>,
    inbound: SocketAddr,
    metrics: &Metrics,
) -> Registration {
    let gauge = metrics.gauge(&names::REGISTERED, &["local"]);
    let state = State {
        withdrawn: false,
        standing: Standing::Ready,
        inbound,
        held: Vec::new(),
        warned: Vec::new(),
        gauge,
    };
    let state = Arc::new(Mutex::new(state));
    lock(&state).reconcile(&config.borrow_and_update(), clock::now());
    let task = tokio::spawn({
        let state = state.clone();
        async move {
            loop {
                let lost = tokio::select! {
                    changed = config.changed() => changed.is_err(),
                    () = tokio::time::sleep(LOOK) => false,
                };
                let model = config.borrow_and_update().clone();
                lock(&state).reconcile(&model, clock::now());
                if lost {
                    // No reload can come any more; the entry is still looked after.
                    tokio::time::sleep(LOOK).await;
                }
            }
        }
    });
    Registration { state, task: task.abort_handle() }
}

impl Registration {
    /// A drain begins: others come here only where they know nobody else, until
    /// the entry is withdrawn.
    pub fn terminate(&self, model: &Model) {
        let mut state = lock(&self.state);
        state.standing = Standing::Terminating;
        state.reconcile(model, clock::now());
    }

    /// Takes the service out of the registry.
    pub fn withdraw(&self) {
        self.task.abort();
        lock(&self.state).withdraw();
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.withdraw();
    }
}

impl State {
    fn reconcile(&mut self, model: &Model, now: SystemTime) {
        if self.withdrawn {
            return;
        }
        let wanted = directories(model);
        let (kept, gone): (Vec<_>, Vec<_>) = std::mem::take(&mut self.held).into_iter().partition(|held| {
            let started = held.entry.started;
            wanted.contains(&held.directory)
                && held.entry == Entry::new(&model.service, self.inbound, self.standing, started)
        });
        self.held = kept.into_iter().filter(Held::stands).collect();
        for directory in &wanted {
            if self.held.iter().any(|held| held.directory == *directory) {
                continue;
            }
            let started = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
            let entry = Entry::new(&model.service, self.inbound, self.standing, started);
            match Held::enter(directory, entry) {
                Ok(held) => {
                    let standing = self.standing.as_str();
                    tracing::info!(directory = %directory.display(), address = %held.entry.address, standing, "registered");
                    self.warned.retain(|warned| warned != directory);
                    self.held.push(held);
                }
                Err(why) if !self.warned.contains(directory) => {
                    tracing::warn!(why, "the service can't be entered into the local registry; trying again");
                    self.warned.push(directory.clone());
                }
                Err(_) => {}
            }
        }
        // What changed is removed only now, and stays where nothing could be put
        // in its place, so that there is always an entry.
        for old in gone {
            let replaced = self.held.iter().any(|held| held.directory == old.directory);
            if replaced || !wanted.contains(&old.directory) || !old.stands() {
                old.remove();
            } else {
                self.held.push(old);
            }
        }
        self.warned.retain(|warned| wanted.contains(warned));
        let complete = !wanted.is_empty() && self.held.len() == wanted.len();
        self.gauge.set(if complete { 1.0 } else { 0.0 });
    }

    fn withdraw(&mut self) {
        self.withdrawn = true;
        self.held.drain(..).for_each(|held| held.remove());
        self.gauge.set(0.0);
    }
}

impl Held {
    /// Writes `entry` beside its place, locks it, and moves it there: whoever
    /// sees the entry sees all of it, and its lock.
    fn enter(directory: &Path, entry: Entry) -> Result<Self, String> {
        let folder = Folder::open(directory).map_err(|refused| match refused {
            Refused::Missing => format!("{}: it can't be made", directory.display()),
            Refused::Because(why) => why,
        })?;
        let text = serde_json::to_vec(&entry).map_err(|error| error.to_string())?;
        if text.len() > ENTRY_BYTES {
            return Err(format!("the entry would be larger than {ENTRY_BYTES} bytes: use fewer tags"));
        }
        let stem = file_stem(&entry.name);
        let name = c_string(&format!("{stem}{SUFFIX}"))?;
        let unfinished = c_string(&format!(".{stem}{UNFINISHED}"))?;
        let write = || -> std::io::Result<(File, u64)> {
            let mut file = folder.create(&unfinished)?;
            own(&file)?;
            file.write_all(&text)?;
            let inode = file.metadata()?.ino();
            folder.rename(&unfinished, &name)?;
            Ok((file, inode))
        };
        match write() {
            Ok((file, inode)) => {
                Ok(Self { directory: directory.to_owned(), name, inode, entry, _file: file })
            }
            Err(error) => {
                if let Some(inode) = folder.inode(&unfinished) {
                    folder.remove(&unfinished, inode);
                }
                Err(format!("{}: {error}", directory.display()))
            }
        }
    }

    /// Whether the entry is still where it was put.
    fn stands(&self) -> bool {
        Folder::open(&self.directory).is_ok_and(|folder| folder.inode(&self.name) == Some(self.inode))
    }

    fn remove(&self) {
        if let Ok(folder) = Folder::open(&self.directory) {
            folder.remove(&self.name, self.inode);
        }
    }
}

/// The folders that the service must stand in. A service that takes no calls
/// stands in none.
fn directories(model: &Model) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = Vec::new();
    for source in &model.discovery {
        match source {
            model::Source::Local(local) if local.register && !all.contains(&local.directory) => {
                all.push(local.directory.clone());
            }
            _ => {}
        }
    }
    if model.service.address.is_none() {
        all.clear();
    }
    all
}

/// A name that was never used before, so that nobody removes a new entry in
/// place of an old one.
fn file_stem(service: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '.') { c } else { '_' };
    let service: String = service.chars().take(64).map(plain).collect();
    format!("{}-{}-{:016x}", service.trim_start_matches('.'), std::process::id(), fastrand::u64(..))
}

fn c_string(text: &str) -> Result<CString, String> {
    CString::new(text).map_err(|error| error.to_string())
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
