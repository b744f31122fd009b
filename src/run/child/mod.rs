//! The service as a child process: it is started in a process group of its own,
//! told of the sidecar by environment variables, signalled, and never outlived
//! by anything that it left behind.
//!
//! The group keeps a terminal's Ctrl-C from reaching the service before the
//! sidecar has drained.

mod orphans;
mod spawn;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::process::{ChildStderr, ChildStdout};

pub use crate::clients::health::Unhealthy;
pub use crate::discovery::health::wait_healthy;
pub use orphans::{adopt_orphans, kill_orphans, reap_orphans};

/// Exit code for a command that can't be run.
pub const NOT_EXECUTABLE: u8 = 126;
/// Exit code for a command that is not there.
pub const NOT_FOUND: u8 = 127;

/// What to start.
#[derive(Clone, Debug, Default)]
pub struct Command {
    /// The program and its arguments; never empty.
    pub words: Vec<OsString>,
    /// Where it runs; the current folder unless told otherwise.
    pub directory: Option<PathBuf>,
    /// Variables beside those of this process.
    pub environment: BTreeMap<OsString, OsString>,
    /// Whether its output is read here instead of going where ours goes.
    pub piped: bool,
}

/// A process that was started and has not been waited for.
#[derive(Debug)]
pub struct Child {
    inner: tokio::process::Child,
    pid: Pid,
    /// Its standard output, where piped.
    pub stdout: Option<ChildStdout>,
    /// Its standard error, where piped.
    pub stderr: Option<ChildStderr>,
}

/// Signals a child while somebody else waits for it. Must not be used after the
/// child was waited for: its id may be another's by then.
#[derive(Clone, Copy, Debug)]
pub struct Signaller(Pid);

/// Why a command could not be started.
#[derive(Debug)]
pub struct SpawnError {
    /// What a shell would exit with: 126 or 127.
    pub code: u8,
    /// For a person.
    pub message: String,
}

impl Child {
    /// Starts `command`. Must be called on a thread that lives as long as the
    /// process does: the kernel ends the child with the thread that made it.
    pub fn spawn(command: &Command) -> Result<Self, SpawnError> {
        let mut inner = spawn::spawn(command).map_err(|error| SpawnError::of(command, &error))?;
        let pid = inner.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let Some(pid) = pid else {
            return Err(SpawnError { code: NOT_EXECUTABLE, message: "the process has no id".into() });
        };
        let (stdout, stderr) = (inner.stdout.take(), inner.stderr.take());
        Ok(Self { inner, pid, stdout, stderr })
    }

    /// Its process id, and that of its group.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Waits for its end, then ends what is left of its group. May be dropped
    /// and called again.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        let status = self.inner.wait().await;
        orphans::forget(self.pid);
        // Nothing is left in most cases, and that is no error.
        let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
        status
    }

    /// Signals the process alone, as an init does.
    pub fn signal(&self, signal: Signal) {
        if self.inner.id().is_some() {
            let _ = rustix::process::kill_process(self.pid, signal);
        }
    }

    /// For whoever signals it while it is waited for.
    pub fn signaller(&self) -> Signaller {
        Signaller(self.pid)
    }

    /// Waits at most `grace`, then kills. Returns how it ended.
    pub async fn end(&mut self, grace: Duration) -> io::Result<ExitStatus> {
        match tokio::time::timeout(grace, self.wait()).await {
            Ok(status) => status,
            Err(_) => {
                self.signaller().group(Signal::KILL);
                self.wait().await
            }
        }
    }
}

impl Signaller {
    /// Signals the whole group, as a terminal does.
    pub fn group(&self, signal: Signal) {
        let _ = rustix::process::kill_process_group(self.0, signal);
    }
}

impl SpawnError {
    fn of(command: &Command, error: &io::Error) -> Self {
        let word = command.words.first().map(|word| word.to_string_lossy()).unwrap_or_default();
        let folder = command.directory.as_ref().filter(|folder| !folder.is_dir());
        let (code, why) = match (error.kind(), folder) {
            (_, Some(folder)) => (NOT_EXECUTABLE, format!("its folder {} is not there", folder.display())),
            (io::ErrorKind::NotFound, None)
                if word.contains('/') && std::path::Path::new(&*word).exists() =>
            {
                (NOT_EXECUTABLE, "the interpreter that its first line names is not there".into())
            }
            (io::ErrorKind::NotFound, None) if word.contains('/') => {
                (NOT_FOUND, "there is no such file".into())
            }
            (io::ErrorKind::NotFound, None) => (NOT_FOUND, "no folder of PATH has it".into()),
            (io::ErrorKind::PermissionDenied, None) => (NOT_EXECUTABLE, "it is not executable".into()),
            _ => (NOT_EXECUTABLE, error.to_string()),
        };
        Self { code, message: format!("can't start `{word}`: {why}") }
    }
}

/// The exit code that a shell would give: the program's own, or 128 + the signal.
pub fn exit_code(status: ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}

/// The variables that lead a service's calls to its sidecar, beside what
/// `inherited` holds.
pub fn variables(
    outbound: SocketAddr,
    service: Option<SocketAddr>,
    inherited: impl Fn(&str) -> Option<OsString>,
) -> BTreeMap<OsString, OsString> {
    let reachable = match outbound.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => (Ipv4Addr::LOCALHOST, outbound.port()).into(),
        IpAddr::V6(ip) if ip.is_unspecified() => (std::net::Ipv6Addr::LOCALHOST, outbound.port()).into(),
        _ => outbound,
    };
    let proxy = OsString::from(format!("http://{reachable}"));
    let mut all = BTreeMap::new();
    for name in ["HTTP_PROXY", "http_proxy"] {
        all.insert(name.into(), proxy.clone());
    }
    // Programs read one spelling or the other: both say the same.
    let kept = inherited("no_proxy").or_else(|| inherited("NO_PROXY")).unwrap_or_default();
    let direct = without_proxy(&kept);
    for name in ["NO_PROXY", "no_proxy"] {
        all.insert(name.into(), direct.clone());
    }
    all.insert("PILLION_OUTBOUND".into(), reachable.to_string().into());
    if let Some(service) = service
        && inherited("PORT").is_none()
    {
        all.insert("PORT".into(), service.port().to_string().into());
    }
    all
}

fn without_proxy(kept: &OsStr) -> OsString {
    let text = kept.to_string_lossy();
    let has = |name: &str| text.split(',').any(|entry| entry.trim() == name);
    let missing = ["localhost", "127.0.0.1", "::1"].into_iter().filter(|name| !has(name));
    let kept = (!text.trim().is_empty()).then(|| text.trim().to_owned());
    kept.into_iter().chain(missing.map(str::to_owned)).collect::<Vec<_>>().join(",").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none(_: &str) -> Option<OsString> {
        None
    }

    #[test]
    fn a_service_is_told_where_its_sidecar_is() {
        let all = variables("0.0.0.0:8701".parse().unwrap(), Some("127.0.0.1:8080".parse().unwrap()), none);
        let get = |name: &str| all[OsStr::new(name)].to_str().unwrap().to_owned();
        assert_eq!(get("HTTP_PROXY"), "http://127.0.0.1:8701");
        assert_eq!(get("http_proxy"), get("HTTP_PROXY"));
        assert_eq!(get("NO_PROXY"), "localhost,127.0.0.1,::1");
        assert_eq!(get("PILLION_OUTBOUND"), "127.0.0.1:8701");
        assert_eq!(get("PORT"), "8080");
    }

    #[test]
    fn what_is_set_already_is_kept() {
        let set = |name: &str| match name {
            "NO_PROXY" => Some("db.internal, localhost".into()),
            "PORT" => Some("9".into()),
            _ => None,
        };
        let all = variables("127.0.0.1:1".parse().unwrap(), Some("127.0.0.1:8080".parse().unwrap()), set);
        assert_eq!(all[OsStr::new("no_proxy")], "db.internal, localhost,127.0.0.1,::1");
        assert!(!all.contains_key(OsStr::new("PORT")));
    }

    #[tokio::test]
    async fn a_command_that_cannot_start_says_why() {
        let start = |word: &str| {
            Child::spawn(&Command { words: vec![word.into()], ..Command::default() }).unwrap_err()
        };
        let missing = start("no-such-program-here");
        assert_eq!(missing.code, NOT_FOUND);
        assert!(missing.message.contains("no folder of PATH"), "{}", missing.message);
        assert_eq!(start("/no/such/file").code, NOT_FOUND);
        let plain = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(start(plain.path().to_str().unwrap()).code, NOT_EXECUTABLE);
        assert_eq!(start("/etc").code, NOT_EXECUTABLE);
    }
}
