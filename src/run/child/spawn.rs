//! The one place that makes a process.
#![allow(unsafe_code)]

use std::io::{self, IsTerminal};
use std::os::unix::process::CommandExt;
use std::process::Stdio;

use rustix::process::Signal;

use super::{Command, orphans};

/// Starts `command` in a process group of its own. The kernel kills it when
/// this thread ends, so that it does not outlive a sidecar that was killed.
pub(super) fn spawn(command: &Command) -> io::Result<tokio::process::Child> {
    let Some((program, arguments)) = command.words.split_first() else {
        return Err(io::Error::new(io::ErrorKind::NotFound, "there is no command"));
    };
    let mut made = std::process::Command::new(program);
    made.args(arguments).envs(&command.environment).process_group(0);
    if let Some(directory) = &command.directory {
        made.current_dir(directory);
    }
    if command.piped {
        made.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    } else if io::stdin().is_terminal() {
        // It is not in the terminal's foreground group: a read would stop it.
        made.stdin(Stdio::null());
    }
    let parent = rustix::process::getpid();
    // SAFETY: between fork and exec only two system calls are made; nothing is
    // allocated, locked or dropped.
    unsafe {
        made.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            // The parent may have ended before the line above took effect.
            match rustix::process::getppid() == Some(parent) {
                true => Ok(()),
                false => Err(io::Error::from_raw_os_error(rustix::io::Errno::SRCH.raw_os_error())),
            }
        });
    }
    let mut made = tokio::process::Command::from(made);
    made.kill_on_drop(true);
    orphans::spawning(|| made.spawn())
}
