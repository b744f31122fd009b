//! The folders of the files that were read. Folders and not files: an editor's
//! rename and the swap of a ConfigMap's `..data` link replace a file by another
//! one, which a watch on the file itself would not see.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use super::Signal;

/// Which folder stands behind a path: a folder that was replaced is watched anew.
type Identity = (u64, u64);

pub(super) struct Watch {
    watcher: RecommendedWatcher,
    folders: BTreeMap<PathBuf, Identity>,
    files: Arc<Mutex<BTreeSet<PathBuf>>>,
}

impl Watch {
    pub(super) fn new(signal: Arc<Signal>) -> io::Result<Self> {
        let files = Arc::new(Mutex::new(BTreeSet::new()));
        let known = files.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if event.is_ok_and(|event| matters(&event, &known)) {
                signal.raise(|flags| flags.changed = Some(Instant::now()));
            }
        });
        let watcher = watcher.map_err(io::Error::other)?;
        Ok(Self { watcher, folders: BTreeMap::new(), files })
    }

    /// Watches what stands around these paths, and nothing else. Whether a
    /// folder came in new.
    pub(super) fn follow(&mut self, paths: &[PathBuf]) -> bool {
        let (mut folders, mut files) = (BTreeMap::new(), BTreeSet::new());
        for path in paths {
            let Ok(path) = std::path::absolute(path) else { continue };
            around(&path, &mut folders);
            if let Ok(real) = path.canonicalize() {
                around(&real, &mut folders);
                files.insert(real);
            }
            files.insert(path);
        }
        *self.files.lock().unwrap_or_else(PoisonError::into_inner) = files;
        let old = std::mem::take(&mut self.folders);
        for (folder, identity) in &old {
            if folders.get(folder) != Some(identity) {
                let _ = self.watcher.unwatch(folder);
            }
        }
        let mut grown = false;
        for (folder, identity) in folders {
            if old.get(&folder) != Some(&identity) {
                if let Err(error) = self.watcher.watch(&folder, RecursiveMode::NonRecursive) {
                    tracing::warn!("can't watch {}: {error}; SIGHUP still reloads", folder.display());
                    continue;
                }
                grown = true;
            }
            self.folders.insert(folder, identity);
        }
        grown
    }
}

/// The folder itself, if it is one, and the nearest folder above that is there.
fn around(path: &Path, folders: &mut BTreeMap<PathBuf, Identity>) {
    let identity =
        |path: &Path| fs::metadata(path).ok().filter(fs::Metadata::is_dir).map(|m| (m.dev(), m.ino()));
    if let Some(identity) = identity(path) {
        folders.insert(path.to_owned(), identity);
    }
    for folder in path.ancestors().skip(1) {
        if let Some(identity) = identity(folder) {
            folders.insert(folder.to_owned(), identity);
            return;
        }
    }
}

/// Not our own reading, and not a file beside ours, such as a log.
fn matters(event: &Event, files: &Mutex<BTreeSet<PathBuf>>) -> bool {
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => {}
        EventKind::Access(_) => return false,
        _ => {}
    }
    let files = files.lock().unwrap_or_else(PoisonError::into_inner);
    let ours = |path: &PathBuf| files.contains(path) || path.parent().is_some_and(|p| files.contains(p));
    let other = |path: &PathBuf| !ours(path) && fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file());
    event.paths.is_empty() || !event.paths.iter().all(other)
}
