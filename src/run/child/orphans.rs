//! Processes that a service left behind. They become children of this process
//! (as PID 1 of a container anyway, elsewhere as a subreaper), which reaps them
//! when they end and ends them when it does.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions};

/// The children that [`super::Child`] waits for; no other code may reap them.
static OWN: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// For what can't be killed, such as a process in an uninterruptible call.
const KILL_LIMIT: Duration = Duration::from_secs(2);

/// Orphans below this process come to it from now on.
pub fn adopt_orphans() {
    // Without it (an old kernel), they go to init.
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
}

/// Reaps the orphans that have ended; called on each SIGCHLD.
pub fn reap_orphans() {
    let own = own();
    for child in children().into_iter().filter(|child| child.ended && !own.contains(&child.pid)) {
        reap(child.pid);
    }
}

/// Kills and reaps every child that nobody waits for, and what these leave.
/// Returns how many there were.
pub fn kill_orphans() -> usize {
    let mut killed = BTreeSet::new();
    let started = Instant::now();
    loop {
        let own = own();
        let orphans: Vec<_> = children().into_iter().filter(|child| !own.contains(&child.pid)).collect();
        if orphans.is_empty() || started.elapsed() > KILL_LIMIT {
            return killed.len();
        }
        for orphan in orphans {
            if !orphan.ended
                && let Some(pid) = Pid::from_raw(orphan.pid)
            {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
                killed.insert(orphan.pid);
            }
            reap(orphan.pid);
        }
        drop(own);
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Runs `spawn` so that its child is never taken for an orphan.
pub(super) fn spawning(
    spawn: impl FnOnce() -> io::Result<tokio::process::Child>,
) -> io::Result<tokio::process::Child> {
    let mut own = own();
    let child = spawn()?;
    own.extend(child.id().and_then(|id| i32::try_from(id).ok()));
    Ok(child)
}

/// `pid` has been waited for.
pub(super) fn forget(pid: Pid) {
    own().remove(&pid.as_raw_nonzero().get());
}

struct Process {
    pid: i32,
    ended: bool,
}

/// The children of this process.
fn children() -> Vec<Process> {
    let parent = rustix::process::getpid().as_raw_nonzero().get();
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (state, its_parent) = state_and_parent(&stat)?;
        (its_parent == parent).then_some(Process { pid, ended: state == 'Z' })
    })
    .collect()
}

/// `pid (name) state ppid …`; the name may hold anything, also `)`.
fn state_and_parent(stat: &str) -> Option<(char, i32)> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn reap(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
    }
}

fn own() -> MutexGuard<'static, BTreeSet<i32>> {
    OWN.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_lie_about_the_parent() {
        assert_eq!(state_and_parent("12 (sh) S 1 12 12 0"), Some(('S', 1)));
        assert_eq!(state_and_parent("12 (a) Z 9 (b) R 7 1"), Some(('R', 7)));
        assert_eq!(state_and_parent("12 sh"), None);
    }
}
