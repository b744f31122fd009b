//! `pillion run` as a process of its own, on free ports, from files.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use super::client::get;
use super::server::until;
use super::sidecar::Samples;

/// What is written into `pillion.yaml`, and the policies beside it.
pub struct Setup {
    name: &'static str,
    service: Option<(SocketAddr, &'static str)>,
    health: String,
    upstreams: Vec<(&'static str, Vec<SocketAddr>)>,
    discovery: String,
    more: String,
    policy: Option<String>,
    command: Vec<String>,
    /// What is put before the program.
    through: Vec<String>,
}

/// Killed by its drop, unless it has ended before.
pub struct Process {
    pub child: Child,
    /// Of its files.
    pub folder: TempDir,
    said: Arc<Mutex<Vec<String>>>,
    readers: Vec<JoinHandle<()>>,
    pub inbound: SocketAddr,
    pub outbound: SocketAddr,
    pub admin: SocketAddr,
    pub probes: SocketAddr,
}

pub fn process(name: &'static str) -> Setup {
    Setup {
        name,
        service: None,
        health: String::new(),
        upstreams: Vec::new(),
        discovery: String::new(),
        more: String::new(),
        policy: None,
        command: Vec::new(),
        through: Vec::new(),
    }
}

impl Setup {
    /// The service that it fronts, and what it speaks.
    pub fn service(mut self, address: SocketAddr, protocol: &'static str) -> Self {
        self.service = Some((address, protocol));
        self
    }

    /// `service.health`, and what else follows in `service`.
    #[allow(dead_code, reason = "for tests/real")]
    pub fn health(mut self, text: &str) -> Self {
        self.health = format!(", health: {text}");
        self
    }

    pub fn upstream(mut self, name: &'static str, addresses: &[SocketAddr]) -> Self {
        self.upstreams.push((name, addresses.to_vec()));
        self
    }

    /// One more entry of `discovery`, such as `consul: {}`.
    pub fn discovery(mut self, entry: &str) -> Self {
        self.discovery += &format!(", {entry}");
        self
    }

    /// More lines of `pillion.yaml`.
    pub fn with(mut self, lines: &str) -> Self {
        self.more.push_str(lines);
        self
    }

    /// The policy file.
    pub fn policy(mut self, text: impl Into<String>) -> Self {
        self.policy = Some(text.into());
        self
    }

    /// The service's command, which the sidecar starts.
    pub fn command(mut self, words: &[&str]) -> Self {
        self.command = words.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Words before the program: they must end by running it in their place.
    pub fn through(mut self, words: &[&str]) -> Self {
        self.through = words.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    fn file(&self) -> String {
        let service = match self.service {
            Some((address, protocol)) => format!(", address: '{address}', protocol: {protocol}"),
            None => String::new(),
        };
        let upstreams: String =
            self.upstreams.iter().map(|(name, all)| format!("{name}: {all:?}, ")).collect();
        let any = "127.0.0.1:0";
        format!(
            "version: 1\nservice: {{name: {}{service}{}}}\n\
             listen: {{inbound: '{any}', outbound: '{any}', admin: '{any}', probes: '{any}'}}\n\
             policies: [policies/*.yaml]\ndiscovery: [static: {{{upstreams}}}{}]\nworkers: 2\n{}",
            self.name, self.health, self.discovery, self.more
        )
    }

    /// The command that starts it, and the folder of its files.
    fn prepared(&self) -> (TempDir, Command) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("pillion.yaml"), self.file()).unwrap();
        std::fs::create_dir(folder.path().join("policies")).unwrap();
        if let Some(policy) = &self.policy {
            write_policy(folder.path(), policy);
        }
        let mut command = through(&self.through, program());
        command.arg("run");
        if !self.command.is_empty() {
            command.arg("--").args(&self.command);
        }
        command.current_dir(folder.path()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        (folder, command)
    }

    /// Starts what can't start: its exit code, and what it says.
    #[allow(dead_code, reason = "for tests/real")]
    pub fn refused(self) -> (Option<i32>, String) {
        let (_folder, mut command) = self.prepared();
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Starts it and waits until it is ready.
    #[track_caller]
    pub fn start(self) -> Process {
        let (folder, mut command) = self.prepared();
        let mut child = command.spawn().unwrap();
        let said: Arc<Mutex<Vec<String>>> = Arc::default();
        let outputs: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        let readers = outputs.map(|output| {
            let said = said.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    said.lock().unwrap().push(line);
                }
            })
        });
        let address = |key: &str| address(&said, key);
        let [inbound, outbound, admin, probes] = ["inbound", "outbound", "admin", "probes"].map(address);
        let readers = readers.into();
        let process = Process { child, folder, said, readers, inbound, outbound, admin, probes };
        until("the sidecar is ready", || get(probes, "p", "/readyz").status == 200);
        process
    }
}

/// The program under test: the one that was built with the tests, or another
/// build of it in `PILLION_TEST_PROGRAM`.
pub fn program() -> Command {
    let built = || PathBuf::from(env!("CARGO_BIN_EXE_pillion"));
    let path = std::env::var_os("PILLION_TEST_PROGRAM").map_or_else(built, PathBuf::from);
    let mut command = Command::new(path);
    for name in ["PILLION_LOG", "PILLION_LOG_FORMAT", "PILLION_CONFIG", "PILLION_SERVICE", "PORT"] {
        command.env_remove(name);
    }
    command
}

/// `program` run by `words`.
fn through(words: &[String], program: Command) -> Command {
    let [first, rest @ ..] = words else { return program };
    let mut command = Command::new(first);
    command.args(rest).arg(program.get_program());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

/// Waits for the address that the sidecar says it has bound.
#[track_caller]
fn address(said: &Mutex<Vec<String>>, key: &str) -> SocketAddr {
    let find = || {
        let said = said.lock().unwrap();
        let mut words = said.iter().map(|line| line.split_whitespace());
        let word = words.find_map(|mut words| (words.next() == Some(key)).then(|| words.next()))??;
        word.trim_start_matches("http://").split('/').next()?.parse().ok()
    };
    until(&format!("it tells its address `{key}`"), || find().is_some());
    find().expect("found a moment ago")
}

/// In one step, as editors and ConfigMaps do.
fn write_policy(folder: &Path, text: &str) {
    let new = folder.join("policies/.routes.new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, folder.join("policies/routes.yaml")).unwrap();
}

impl Process {
    /// Replaces a part of `pillion.yaml`, which must be there, in one step.
    #[allow(dead_code, reason = "for tests/real")]
    #[track_caller]
    pub fn edit(&self, from: &str, to: &str) {
        let (file, new) = (self.folder.path().join("pillion.yaml"), self.folder.path().join("new"));
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(&new, text.replace(from, to)).unwrap();
        std::fs::rename(new, file).unwrap();
    }

    /// Replaces the policy file.
    pub fn policy(&self, text: &str) {
        write_policy(self.folder.path(), text);
    }

    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    #[track_caller]
    pub fn metrics(&self) -> Samples {
        Samples::at(self.probes)
    }

    /// Changes `pillion.yaml`, in one step.
    #[track_caller]
    pub fn change(&self, from: &str, to: &str) {
        let file = self.folder.path().join("pillion.yaml");
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(file.with_extension("new"), text.replace(from, to)).unwrap();
        std::fs::rename(file.with_extension("new"), file).unwrap();
    }

    /// Processor time that it has used.
    pub fn cpu(&self) -> std::time::Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let after = stat.rsplit(')').next().unwrap().split_whitespace();
        let ticks: Vec<u64> = after.skip(11).take(2).map(|ticks| ticks.parse().unwrap()).collect();
        std::time::Duration::from_secs_f64(ticks.iter().sum::<u64>() as f64 / 100.0)
    }

    /// Resident bytes.
    pub fn resident(&self) -> u64 {
        super::sidecar::resident_of(&self.child.id().to_string())
    }

    /// What it has written so far.
    pub fn said(&self) -> String {
        self.said.lock().unwrap().join("\n")
    }

    /// Waits until it has ended by itself.
    #[track_caller]
    pub fn ended(&mut self) -> ExitStatus {
        until("the sidecar ends", || self.child.try_wait().unwrap().is_some());
        self.child.wait().unwrap()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        if !std::thread::panicking() {
            assert!(!self.said().contains("panicked"), "{}", self.said());
        }
    }
}
