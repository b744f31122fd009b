//! Reads the registry: which instances of the wanted services live on this machine.
//!
//! A look costs one system call for the folder and one for each wanted entry,
//! unless the folder changed: entries are parsed once, their files stay open as
//! long as somebody wants them, and all others are looked at once in a sweep.

use std::collections::{HashMap, HashSet};
use std::ffi::CStr;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::entry::{ENTRY_BYTES, Entry};
use super::folder::{Folder, Owner, Refused};
use crate::base::{Endpoint, UpstreamName};

/// No more entries than this are read.
pub(super) const ENTRIES: usize = 10_000;
/// The end of an entry's file name, and of one that is being written.
pub(super) const SUFFIX: &str = ".json";
pub(super) const UNFINISHED: &str = ".tmp";
/// From one sweep of all entries to the next.
const SWEEP: Duration = Duration::from_secs(30);
/// An unfinished file of this age that nobody holds was left by a crash.
const LEFT: Duration = Duration::from_secs(60);
/// The folder's time stamp is trusted only when it is older than this: two
/// changes within one tick of the clock look the same.
const SETTLED: Duration = Duration::from_millis(200);

/// What was read so far.
pub(super) struct Registry {
    path: PathBuf,
    known: HashMap<Box<CStr>, Known>,
    /// Inode and modification time of the folder when it was listed.
    listed: Option<Stamp>,
    inode: u64,
    swept: Option<SystemTime>,
    /// More than [`ENTRIES`] were there when the folder was listed last.
    pub overflow: bool,
}

type Stamp = (i64, i64);

struct Known {
    /// `None` for a file that is no entry.
    entry: Option<Entry>,
    inode: u64,
    /// Open as long as the entry's service is wanted.
    file: Option<File>,
}

impl Registry {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, known: HashMap::new(), listed: None, inode: 0, swept: None, overflow: false }
    }

    /// The inode of the folder that was looked at last.
    pub(super) fn inode(&self) -> u64 {
        self.inode
    }

    /// The living instances of the services in `wanted`; removes what the dead
    /// left behind. `None` where there is no registry.
    pub(super) fn look(
        &mut self,
        wanted: &HashSet<UpstreamName>,
        now: SystemTime,
    ) -> Result<HashMap<UpstreamName, Vec<Endpoint>>, String> {
        let folder = match Folder::open(&self.path) {
            Ok(folder) => folder,
            Err(Refused::Missing) => {
                (self.listed, self.known) = (None, HashMap::new());
                return Ok(HashMap::new());
            }
            Err(Refused::Because(why)) => return Err(why),
        };
        if folder.stat.st_ino != self.inode {
            (self.inode, self.listed, self.known) = (folder.stat.st_ino, None, HashMap::new());
        }
        let sweep = self.swept.is_none_or(|then| now.duration_since(then).is_ok_and(|age| age >= SWEEP));
        let stamp = stamp(&folder);
        if sweep || self.listed.is_none() || self.listed != Some(stamp) {
            self.list(&folder, now).map_err(|error| format!("{}: {error}", self.path.display()))?;
            let age = now.duration_since(modified(stamp)).unwrap_or_default();
            self.listed = (age >= SETTLED).then_some(stamp);
        }
        if sweep {
            self.swept = Some(now);
        }
        let mut found: HashMap<UpstreamName, Vec<Endpoint>> = HashMap::new();
        self.known.retain(|name, known| match known.is_alive(&folder, name, wanted, sweep) {
            Some(true) => {
                if let Some(entry) = known.entry.as_ref().filter(|_| known.file.is_some()) {
                    found.entry(entry.upstream()).or_default().push(entry.endpoint());
                }
                true
            }
            Some(false) => {
                tracing::debug!(entry = ?name, "removed: its sidecar is dead");
                folder.remove(name, known.inode);
                false
            }
            None => false,
        });
        Ok(found)
    }

    /// Takes in the files that are new, and forgets those that are gone.
    fn list(&mut self, folder: &Folder, now: SystemTime) -> rustix::io::Result<()> {
        let (names, overflow) = folder.names(ENTRIES)?;
        if overflow && !self.overflow {
            tracing::warn!(directory = %self.path.display(), "more than {ENTRIES} entries: the others are not read");
        }
        self.overflow = overflow;
        let mut old = std::mem::take(&mut self.known);
        for name in names {
            if name.to_bytes().ends_with(UNFINISHED.as_bytes()) {
                remove_if_left(folder, &name, now);
                continue;
            }
            if !name.to_bytes().ends_with(SUFFIX.as_bytes()) {
                continue;
            }
            let known = match old.remove(&name) {
                Some(known) => known,
                None => match Known::read(folder, &name) {
                    Some(known) => known,
                    None => continue,
                },
            };
            self.known.insert(name, known);
        }
        Ok(())
    }
}

impl Known {
    /// Reads a file. One that is no entry is remembered, so that the log has it
    /// once; `None` for one that has just gone.
    fn read(folder: &Folder, name: &CStr) -> Option<Self> {
        let inode = folder.inode(name)?;
        let read = || -> Result<(Entry, File), String> {
            let (mut file, stat) = folder.file(name)?;
            let capacity = usize::try_from(stat.st_size).unwrap_or_default().min(ENTRY_BYTES) + 1;
            let mut text = Vec::with_capacity(capacity);
            let limit = ENTRY_BYTES as u64 + 1;
            file.by_ref().take(limit).read_to_end(&mut text).map_err(|error| error.to_string())?;
            Ok((Entry::read(&text)?, file))
        };
        match read() {
            Ok((entry, file)) => Some(Self { entry: Some(entry), inode, file: Some(file) }),
            Err(_) if folder.inode(name).is_none() => None,
            Err(why) => {
                tracing::warn!(entry = ?name, why, "skipped: this is no entry of the local registry");
                Some(Self { entry: None, inode, file: None })
            }
        }
    }

    /// Whether the entry's sidecar lives; `None` if the entry has just gone.
    /// Afterwards the file is open if and only if the service is wanted.
    fn is_alive(
        &mut self,
        folder: &Folder,
        name: &CStr,
        wanted: &HashSet<UpstreamName>,
        sweep: bool,
    ) -> Option<bool> {
        // What is no entry may be somebody's work in progress: it is left alone.
        let Some(entry) = &self.entry else { return Some(true) };
        let wanted = wanted.contains(&*entry.name);
        if !wanted && !sweep && self.file.is_none() {
            return Some(true);
        }
        let file = match self.file.take() {
            Some(file) => file,
            None => folder.file(name).ok()?.0,
        };
        let owner = Owner::of(&file);
        if wanted && owner == Owner::Alive {
            self.file = Some(file);
        }
        Some(owner == Owner::Alive)
    }
}

fn remove_if_left(folder: &Folder, name: &CStr, now: SystemTime) {
    let Ok((file, stat)) = folder.file(name) else { return };
    let made = modified((stat.st_mtime, stat.st_mtime_nsec as i64));
    let old = now.duration_since(made).is_ok_and(|age| age >= LEFT);
    if old && Owner::of(&file) == Owner::Dead {
        folder.remove(name, stat.st_ino);
    }
}

fn stamp(folder: &Folder) -> Stamp {
    (folder.stat.st_mtime, folder.stat.st_mtime_nsec as i64)
}

fn modified((seconds, nanoseconds): Stamp) -> SystemTime {
    let (seconds, nanoseconds) = (u64::try_from(seconds), u32::try_from(nanoseconds));
    let since = Duration::new(seconds.unwrap_or_default(), nanoseconds.unwrap_or_default().min(999_999_999));
    SystemTime::UNIX_EPOCH.checked_add(since).unwrap_or(SystemTime::UNIX_EPOCH)
}
