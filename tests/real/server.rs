//! A real server, started by its script in `tests/parts/start`.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::support::until;

/// Ended by its drop, or with the tests' process.
pub struct Server {
    name: &'static str,
    options: Vec<String>,
    folder: TempDir,
    child: Child,
    pub at: SocketAddr,
}

/// Held while a server is stopped.
pub struct Frozen(Pid);

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::CONT);
    }
}

impl Server {
    #[track_caller]
    pub fn start(name: &'static str, options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        let (child, at) = spawn(name, &options, folder.path());
        Self { name, options, folder, child, at }
    }

    /// A file that the server or its script has written.
    pub fn file(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// The id of the server itself.
    fn id(&self) -> Pid {
        let text = std::fs::read_to_string(self.file("pid")).unwrap();
        Pid::from_raw(text.trim().parse().unwrap()).unwrap()
    }

    /// It says nothing, and takes what it is sent, until what this gives is dropped.
    pub fn frozen(&self) -> Frozen {
        kill_process(self.id(), Signal::STOP).unwrap();
        Frozen(self.id())
    }

    /// SIGKILL to the server itself. Its script tells that it ended by itself.
    #[track_caller]
    pub fn kill(&mut self) {
        kill_process(self.id(), Signal::KILL).unwrap();
        until("the script has seen the end of its server", || self.child.try_wait().unwrap().is_some());
    }

    /// SIGTERM, and waits until it has ended.
    pub fn stop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
    }

    /// Starts it again, at its port and with its data.
    #[track_caller]
    pub fn again(&mut self) {
        let mut options = self.options.clone();
        options.push(format!("--port={}", self.at.port()));
        (self.child, _) = spawn(self.name, &options, self.folder.path());
    }
}

#[track_caller]
fn spawn(name: &str, options: &[String], folder: &Path) -> (Child, SocketAddr) {
    let told = folder.join("script.log");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parts/start").join(name);
    let mut child = Command::new(script)
        .arg("--with-parent")
        .args(options)
        .arg(folder)
        .env("PILLION_CACHE", std::path::absolute(crate::parts::cache()).unwrap())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(File::create(&told).unwrap())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("ready ").and_then(|text| text.parse().ok());
    let Some(address) = address else {
        let why = std::fs::read_to_string(told).unwrap_or_default();
        panic!("{name} does not start ({:?}): {why}", child.wait());
    };
    (child, address)
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}
