//! A network namespace, and what runs in it.

use std::ffi::OsStr;
use std::fs::File;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tempfile::TempDir;

use super::support::until;

/// Deleted by its drop, with all that runs in it.
pub struct Place {
    pub name: String,
    pub shared: Arc<Shared>,
    /// What `/etc/hosts` holds for those who run here.
    hosts: PathBuf,
}

/// A process that is killed by its drop.
pub struct Running(pub Child);

/// A service of the test's own, ended by its drop.
pub struct Service {
    listener: TcpListener,
    thread: Option<JoinHandle<()>>,
    /// The callers' addresses.
    pub callers: Arc<Mutex<Vec<SocketAddr>>>,
}

/// The programs, absolute: a test may change PATH.
pub static IP: LazyLock<PathBuf> = LazyLock::new(|| program("ip", "iproute2"));
static SETPRIV: LazyLock<PathBuf> = LazyLock::new(|| program("setpriv", "util-linux"));

/// A folder that every user may read, with the program under test: where it was
/// built may be closed to others. Deleted with the last place.
pub struct Shared {
    pub folder: TempDir,
    pub program: PathBuf,
}

/// The folder of all tests that run now.
fn shared() -> Arc<Shared> {
    static NOW: Mutex<Weak<Shared>> = Mutex::new(Weak::new());
    let mut now = NOW.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(shared) = now.upgrade() {
        return shared;
    }
    delete_left_over();
    let folder = tempfile::Builder::new().prefix("pillion-netns-").tempdir().unwrap();
    open_to_all(folder.path());
    let program = folder.path().join("pillion");
    let built = || PathBuf::from(env!("CARGO_BIN_EXE_pillion"));
    let built = std::env::var_os("PILLION_TEST_PROGRAM").map_or_else(built, PathBuf::from);
    std::fs::copy(built, &program).unwrap();
    let shared = Arc::new(Shared { folder, program });
    *now = Arc::downgrade(&shared);
    shared
}

/// Places of test runs that were killed.
fn delete_left_over() {
    for entry in std::fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(pid) = name.strip_prefix("pillion-").and_then(|rest| rest.split('-').next()) else {
            continue;
        };
        if !Path::new("/proc").join(pid).exists() {
            let _ = Command::new(&*IP).args(["netns", "delete", &name]).output();
        }
    }
}

pub fn open_to_all(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

pub fn program(name: &str, package: &str) -> PathBuf {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("`{name}` is missing: install `{package}`, or run tests/parts/install.sh"))
}

/// Runs a command that must succeed, and returns what it wrote.
#[track_caller]
pub fn must(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", said(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// All that a command wrote.
pub fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

#[track_caller]
pub fn ip(words: &str) {
    must(Command::new(&*IP).args(words.split(' ')));
}

impl Place {
    /// An empty place. `hosts` is what names mean in it.
    #[track_caller]
    pub fn new(hosts: &str) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        assert!(
            rustix::process::getuid().is_root(),
            "these tests make network namespaces and write rules of the kernel in them: run them as root"
        );
        let number = NUMBER.fetch_add(1, Ordering::SeqCst);
        let name = format!("pillion-{}-{number}", std::process::id());
        let shared = shared();
        let file = shared.folder.path().join(format!("hosts-{number}"));
        std::fs::write(&file, format!("127.0.0.1 localhost\n::1 localhost\n{hosts}")).unwrap();
        // Nobody answers there, and that is told at once.
        std::fs::write(file.with_extension("resolv"), "nameserver 127.0.0.1\n").unwrap();
        ip(&format!("netns add {name}"));
        let place = Self { name, shared, hosts: file };
        ip(&format!("-n {} link set lo up", place.name));
        place
    }

    /// A command that will run here as user `uid`.
    pub fn command(&self, uid: u32, words: &[impl AsRef<OsStr>]) -> Command {
        let mut command = Command::new(&*IP);
        // `ip netns exec` gives it file systems of its own.
        let script =
            "mount --bind \"$1\" /etc/hosts; mount --bind \"$2\" /etc/resolv.conf; shift 2; exec \"$@\"";
        let resolv = self.hosts.with_extension("resolv");
        command
            .args(["netns", "exec", &self.name, "/bin/sh", "-ec", script, "sh"])
            .args([&self.hosts, &resolv]);
        let uid = uid.to_string();
        command.arg(&*SETPRIV).args(["--reuid", &uid, "--regid", &uid, "--clear-groups", "--"]);
        command.args(words).stdin(Stdio::null());
        command
    }

    /// Runs a command as an ordinary user.
    pub fn run(&self, words: &[&str]) -> Output {
        self.command(1000, words).output().unwrap()
    }

    /// Does something in a thread of this place: its sockets stay here.
    #[track_caller]
    pub fn inside<T: Send>(&self, what: impl FnOnce() -> T + Send) -> T {
        inside(&self.name, what)
    }

    #[track_caller]
    pub fn connect(&self, to: &str) -> std::io::Result<TcpStream> {
        let stream = self.inside(|| TcpStream::connect(to))?;
        stream.set_read_timeout(Some(std::time::Duration::from_secs(5)))?;
        Ok(stream)
    }

    /// Serves each connection to `at` in a thread.
    #[track_caller]
    pub fn serve(&self, at: &str, serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Service {
        let listener = self.inside(|| TcpListener::bind(at)).unwrap_or_else(|error| panic!("{at}: {error}"));
        let callers: Arc<Mutex<Vec<SocketAddr>>> = Arc::default();
        let (own, seen) = (listener.try_clone().unwrap(), callers.clone());
        let thread = std::thread::spawn(move || {
            std::thread::scope(|scope| {
                // Ends when the listener is shut down.
                while let Ok((stream, caller)) = own.accept() {
                    seen.lock().unwrap().push(caller);
                    stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
                    let serve = &serve;
                    scope.spawn(move || serve(stream));
                }
            });
        });
        Service { listener, thread: Some(thread), callers }
    }

    /// Every rule of this place, without the lines that tell the time.
    pub fn rules(&self) -> String {
        rules(|program| {
            let mut command = Command::new(&*IP);
            command.args(["netns", "exec", &self.name]).arg(program);
            command
        })
    }

    /// `pillion redirect` as root.
    pub fn redirect(&self, config: &Path, words: &[&str]) -> Output {
        let mut all: Vec<&OsStr> =
            vec![self.shared.program.as_os_str(), "redirect".as_ref(), "-c".as_ref(), config.as_os_str()];
        all.extend(words.iter().map(OsStr::new));
        self.command(0, &all).output().unwrap()
    }
}

/// Does something in a thread of the place of this name.
#[track_caller]
pub fn inside<T: Send>(name: &str, what: impl FnOnce() -> T + Send) -> T {
    let file = File::open(Path::new("/run/netns").join(name)).unwrap();
    let enter = || {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        what()
    };
    std::thread::scope(|scope| scope.spawn(enter).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// What the programs that show rules show.
pub fn rules(command: impl Fn(&Path) -> Command) -> String {
    let mut text = String::new();
    for (words, package) in [
        ("iptables-save", "iptables"),
        ("ip6tables-save", "iptables"),
        ("iptables-legacy-save", "iptables"),
        ("ip6tables-legacy-save", "iptables"),
        ("nft", "nftables"),
    ] {
        let mut command = command(&program(words, package));
        if words == "nft" {
            command.args(["list", "ruleset"]);
        }
        let shown = must(&mut command);
        let lines = shown.lines().filter(|line| !line.starts_with('#'));
        text.extend(lines.map(|line| format!("{words}: {line}\n")));
    }
    text
}

impl Drop for Place {
    fn drop(&mut self) {
        // A failure of a test must not hide behind one of this.
        let _ = Command::new(&*IP).args(["netns", "delete", &self.name]).output();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = socket2::SockRef::from(&self.listener).shutdown(std::net::Shutdown::Both);
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            ended.unwrap().expect("a thread of a service panicked");
        }
    }
}

/// Waits until `place` takes connections at `at`.
#[track_caller]
pub fn listens(place: &Place, at: &str) {
    until(&format!("somebody listens at {at}"), || place.connect(at).is_ok());
}
