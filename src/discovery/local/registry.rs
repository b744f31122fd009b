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

/// No more files than this stay open; what is beyond is opened for each look.
const OPEN: usize = 256;

/// What was read so far.
pub(super) struct Registry {
    path: PathBuf,
    /// As it was at the last look, if it could be used.
    folder: Option<Folder>,
    known: HashMap<Box<CStr>, Known>,
    /// Modification time of the folder when it was listed.
    listed: Option<Stamp>,
    swept: Option<SystemTime>,
    /// Files that are open.
    open: usize,
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

/// One look at the folder.
struct Look<'a> {
    folder: &'a Folder,
    wanted: &'a HashSet<UpstreamName>,
    now: SystemTime,
    /// Whether the entries that nobody wants are looked at as well.
    sweep: bool,
}

/// What comes of looking at one entry.
enum Check {
    /// It lives and is wanted.
    Serves,
    /// It is remembered.
    Keep,
    /// It is gone.
    Drop,
    /// It could not be opened: the folder is listed again at the next look.
    Unsure,
}

impl Registry {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            folder: None,
            known: HashMap::new(),
            listed: None,
            swept: None,
            open: 0,
            overflow: false,
        }
    }

    /// The inode of the folder that was looked at last, if there is one.
    pub(super) fn inode(&self) -> Option<u64> {
        Some(self.folder.as_ref()?.stat.st_ino)
    }

    /// The living instances of the services in `wanted`; removes what the dead
    /// left behind.
    pub(super) fn look(
        &mut self,
        wanted: &HashSet<UpstreamName>,
        now: SystemTime,
    ) -> Result<HashMap<UpstreamName, Vec<Endpoint>>, String> {
        let folder = match self.folder.take().and_then(|folder| folder.again(&self.path)) {
            Some(folder) => folder,
            None => {
                (self.listed, self.known) = (None, HashMap::new());
                match Folder::open(&self.path) {
                    Ok(folder) => folder,
                    Err(Refused::Missing) => return Ok(HashMap::new()),
                    Err(Refused::Because(why)) => return Err(why),
                }
            }
        };
        let swept = *self.swept.get_or_insert(now);
        let sweep = now.duration_since(swept).is_ok_and(|age| age >= SWEEP);
        let look = Look { folder: &folder, wanted, now, sweep };
        let stamp = stamp(&folder);
        if sweep || self.listed != Some(stamp) {
            self.list(&look).map_err(|error| format!("{}: {error}", self.path.display()))?;
            let age = now.duration_since(modified(stamp)).unwrap_or_default();
            self.listed = (age >= SETTLED).then_some(stamp);
        }
        if sweep {
            self.swept = Some(now);
        }
        let mut found: HashMap<UpstreamName, Vec<Endpoint>> = HashMap::new();
        self.open = 0;
        self.known.retain(|name, known| {
            let keep = known.check(name, &look, self.open < OPEN);
            self.open += usize::from(known.file.is_some());
            if let (Check::Serves, Some(entry)) = (&keep, &known.entry) {
                found.entry(entry.upstream()).or_default().push(entry.endpoint());
            }
            if matches!(keep, Check::Unsure) {
                self.listed = None;
            }
            matches!(keep, Check::Serves | Check::Keep)
        });
        self.folder = Some(folder);
        Ok(found)
    }

    /// Takes in the files that are new, and forgets those that are gone.
    fn list(&mut self, look: &Look<'_>) -> rustix::io::Result<()> {
        let (names, overflow) = look.folder.names(ENTRIES)?;
        if overflow && !self.overflow {
            tracing::warn!(directory = %self.path.display(), "more than {ENTRIES} entries: the others are not read");
        }
        self.overflow = overflow;
        let mut old = std::mem::take(&mut self.known);
        self.open = 0;
        for name in names {
            if name.to_bytes().ends_with(UNFINISHED.as_bytes()) {
                remove_if_left(look.folder, &name, look.now);
                continue;
            }
            if !name.to_bytes().ends_with(SUFFIX.as_bytes()) {
                continue;
            }
            let known = match old.remove(&name) {
                // It may have been out of reach for a while only.
                Some(known) if known.entry.is_none() && look.sweep => Known::read(look.folder, &name, false),
                Some(known) => Some(known),
                None => Known::read(look.folder, &name, true),
            };
            let Some(mut known) = known else { continue };
            // A new file is open: at once it is closed again unless it is wanted.
            let fresh = known.file.is_some() && !look.wants(&known);
            if !fresh || matches!(known.check(&name, look, false), Check::Keep) {
                self.open += usize::from(known.file.is_some());
                if self.open > OPEN {
                    known.file = None;
                }
                self.known.insert(name, known);
            }
        }
        Ok(())
    }
}

impl Known {
    /// Reads a file. One that is no entry is remembered, so that the log has it
    /// once; `None` for one that has just gone.
    fn read(folder: &Folder, name: &CStr, log: bool) -> Option<Self> {
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
                if log {
                    tracing::warn!(entry = ?name, why, "skipped: this is no entry of the local registry");
                }
                Some(Self { entry: None, inode, file: None })
            }
        }
    }

    /// Looks whether the entry's sidecar lives, and removes what a dead one left.
    fn check(&mut self, name: &CStr, look: &Look<'_>, keep_open: bool) -> Check {
        // What is no entry may be somebody's work in progress: it is left alone.
        if self.entry.is_none() {
            return Check::Keep;
        }
        let wanted = look.wants(self);
        if !wanted && !look.sweep && self.file.is_none() {
            return Check::Keep;
        }
        let file = match self.file.take() {
            Some(file) => file,
            None => match look.folder.file(name) {
                Ok((file, _)) => file,
                Err(_) => return Check::Unsure,
            },
        };
        if Owner::of(&file) == Owner::Dead {
            tracing::debug!(entry = ?name, "removed: its sidecar is dead");
            look.folder.remove(name, self.inode);
            return Check::Drop;
        }
        if !wanted {
            return Check::Keep;
        }
        self.file = keep_open.then_some(file);
        Check::Serves
    }
}

impl Look<'_> {
    fn wants(&self, known: &Known) -> bool {
        known.entry.as_ref().is_some_and(|entry| self.wanted.contains(&*entry.name))
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
