//! The folder of the local registry, opened so that nobody else can play tricks
//! with it: it must be ours and writable by nobody else, and everything in it is
//! reached through the open folder and never through a symbolic link.

use std::ffi::CStr;
use std::fs::{DirBuilder, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;

/// The open folder.
pub(super) struct Folder {
    fd: OwnedFd,
    /// As it was when opened.
    pub stat: Stat,
}

/// Why the folder can't be used.
#[derive(Debug)]
pub(super) enum Refused {
    /// There is none, and none could be made.
    Missing,
    /// For a person.
    Because(String),
}

/// Whether the process that made an entry is alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    Alive,
    Dead,
}

impl Folder {
    /// Opens `path`; makes it, for its owner alone, if there is none.
    pub(super) fn open(path: &Path) -> Result<Self, Refused> {
        match Self::open_existing(path) {
            Err(Refused::Missing) => {
                DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|_| Refused::Missing)?;
                Self::open_existing(path)
            }
            opened => opened,
        }
    }

    fn open_existing(path: &Path) -> Result<Self, Refused> {
        let because = |why: String| Refused::Because(format!("{}: {why}", path.display()));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(|error| match error {
            Errno::NOENT => Refused::Missing,
            Errno::LOOP | Errno::NOTDIR => because("it is a symbolic link or no directory".into()),
            error => because(error.to_string()),
        })?;
        let stat = rustix::fs::fstat(&fd).map_err(|error| because(error.to_string()))?;
        check(&stat).map_err(because)?;
        Ok(Self { fd, stat })
    }

    /// The same folder as it is now, if `path` still stands for it and it may
    /// still be used. Opening it anew would wake everybody who watches it.
    pub(super) fn again(self, path: &Path) -> Option<Self> {
        let stat = rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        let same = (stat.st_dev, stat.st_ino) == (self.stat.st_dev, self.stat.st_ino);
        (same && check(&stat).is_ok()).then_some(Self { stat, ..self })
    }

    /// Up to `limit` file names, and whether there are more.
    pub(super) fn names(&self, limit: usize) -> rustix::io::Result<(Vec<Box<CStr>>, bool)> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.fd)? {
            let entry = entry?;
            if entry.file_name().to_bytes().starts_with(b".") && entry.file_name().to_bytes().len() < 3 {
                continue;
            }
            if names.len() == limit {
                return Ok((names, true));
            }
            names.push(entry.file_name().into());
        }
        Ok((names, false))
    }

    /// Opens a file of ours for reading.
    pub(super) fn file(&self, name: &CStr) -> Result<(File, Stat), String> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd =
            rustix::fs::openat(&self.fd, name, flags, Mode::empty()).map_err(|error| error.to_string())?;
        let stat = rustix::fs::fstat(&fd).map_err(|error| error.to_string())?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err("it is no plain file".into());
        }
        if stat.st_uid != self.stat.st_uid {
            return Err(format!("it belongs to another user (uid {})", stat.st_uid));
        }
        Ok((fd.into(), stat))
    }

    /// Makes a file that must not exist yet, for its owner alone.
    pub(super) fn create(&self, name: &CStr) -> rustix::io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        Ok(rustix::fs::openat(&self.fd, name, flags, mode)?.into())
    }

    /// Moves a file within the folder.
    pub(super) fn rename(&self, from: &CStr, to: &CStr) -> rustix::io::Result<()> {
        rustix::fs::renameat(&self.fd, from, &self.fd, to)
    }

    /// Removes `name` if it is still the file of `inode`.
    pub(super) fn remove(&self, name: &CStr, inode: u64) {
        if self.inode(name) == Some(inode) {
            // A file that is gone already is what was wanted.
            let _ = rustix::fs::unlinkat(&self.fd, name, AtFlags::empty());
        }
    }

    /// The inode that `name` stands for now.
    pub(super) fn inode(&self, name: &CStr) -> Option<u64> {
        let stat = rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        Some(stat.st_ino)
    }
}

fn check(stat: &Stat) -> Result<(), String> {
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err(format!("it belongs to another user (uid {})", stat.st_uid));
    }
    if stat.st_mode & 0o022 != 0 {
        return Err(format!("others may write to it (mode {:o})", stat.st_mode & 0o7777));
    }
    Ok(())
}

impl Owner {
    /// The owner holds an exclusive lock for its life; the kernel lets go of it
    /// when the process ends in whatever way. Any number may look at one time.
    pub(super) fn of(file: &File) -> Self {
        match rustix::fs::flock(file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => {
                let _ = rustix::fs::flock(file, FlockOperation::Unlock);
                Self::Dead
            }
            Err(_) => Self::Alive,
        }
    }
}

/// Takes the owner's lock.
pub(super) fn own(file: &File) -> rustix::io::Result<()> {
    rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive)
}
