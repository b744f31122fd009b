//! The real program: exit codes, signals, what a service is told, what is left
//! behind, and `pillion dev`.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(30);

const SIDECAR: &str = "version: 1
service: {name: orders}
listen: {inbound: 127.0.0.1:0, outbound: 127.0.0.1:0, admin: 127.0.0.1:0, probes: 127.0.0.1:0}
drain: {delay: 0s, deadline: 2s}
discovery: []
";

fn pillion(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pillion"));
    command.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for name in [
        "PILLION_LOG",
        "PILLION_LOG_FORMAT",
        "PILLION_CONFIG",
        "PILLION_SERVICE",
        "NO_PROXY",
        "no_proxy",
        "PORT",
    ] {
        command.env_remove(name);
    }
    command
}

fn folder(config: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("pillion.yaml"), config).unwrap();
    folder
}

/// A started program, its output as it comes. Killed when the test is over.
struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
    seen: Vec<String>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let (sender, lines) = mpsc::channel();
        let outputs: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for output in outputs {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    let _ = sender.send(line);
                }
            });
        }
        Self { child, lines, seen: Vec::new() }
    }

    /// Waits for a line with `part`.
    fn line(&mut self, part: &str) -> String {
        let end = Instant::now() + LIMIT;
        if let Some(line) = self.seen.iter().find(|line| line.contains(part)) {
            return line.clone();
        }
        while let Ok(line) = self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            self.seen.push(line.clone());
            if line.contains(part) {
                return line;
            }
        }
        panic!("no line with {part:?} in {:#?}", self.seen);
    }

    fn address(&mut self, key: &str) -> SocketAddr {
        let line = self.line(&format!("  {key} "));
        let word = line.split_whitespace().nth(1).unwrap().trim_start_matches("http://");
        word.split('/').next().unwrap().parse().unwrap()
    }

    fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn code(&mut self) -> Option<i32> {
        let end = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(
                Instant::now() < end,
                "it does not end: {:#?}",
                self.lines.try_iter().collect::<Vec<_>>()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn run(script: &str) -> Output {
    let folder = folder(SIDECAR);
    pillion(folder.path()).args(["run", "--", "sh", "-c", script]).output().unwrap()
}

fn service(folder: &TempDir, script: &str) -> Running {
    let mut command = pillion(folder.path());
    command.args(["run", "--", "sh", "-c", script]);
    Running::start(command)
}

fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    write!(stream, "{request}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn gone(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.map_or(true, |stat| stat.rsplit_once(')').is_some_and(|rest| rest.1.trim_start().starts_with('Z')))
}

fn until_gone(pid: &str) {
    let end = Instant::now() + LIMIT;
    while !gone(pid) {
        assert!(Instant::now() < end, "process {pid} is still there");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_services_exit_code_is_ours() {
    assert_eq!(run("exit 0").status.code(), Some(0));
    assert_eq!(run("exit 3").status.code(), Some(3));
    assert_eq!(run("kill -9 $$").status.code(), Some(137));
    let folder = folder(SIDECAR);
    let of = |word: &str| pillion(folder.path()).args(["run", "--", word]).output().unwrap().status.code();
    assert_eq!(of("no-such-program-here"), Some(127));
    assert_eq!(of("./pillion.yaml"), Some(126));
}

#[test]
fn a_bad_file_is_78_and_a_taken_port_is_1() {
    let bad = folder("version: 1\nservice: {nam: orders}\n");
    let output = pillion(bad.path()).arg("run").output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("pillion.yaml:2:11: unknown key `nam`"), "{text}");
    assert_eq!(pillion(bad.path()).arg("check").output().unwrap().status.code(), Some(78));
    assert_eq!(pillion(bad.path()).args(["--log", "loud", "run"]).output().unwrap().status.code(), Some(78));

    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap();
    let taken = folder(&SIDECAR.replace("admin: 127.0.0.1:0", &format!("admin: '{address}'")));
    let output = pillion(taken.path()).arg("run").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    let holder = format!("(process {})", std::process::id());
    assert!(
        text.contains(&format!("listen.admin: can't listen on {address}")) && text.contains(&holder),
        "{text}"
    );
}

#[test]
fn the_service_is_told_where_its_sidecar_is() {
    let text = String::from_utf8(run("env").stdout).unwrap();
    let value =
        |name: &str| text.lines().find_map(|line| line.strip_prefix(&format!("{name}=")).map(str::to_owned));
    assert_eq!(value("NO_PROXY").unwrap(), "localhost,127.0.0.1,::1");
    assert_eq!(value("HTTP_PROXY").unwrap(), format!("http://{}", value("PILLION_OUTBOUND").unwrap()));
    assert_eq!(value("http_proxy"), value("HTTP_PROXY"));
}

#[test]
fn term_drains_first_and_then_ends_the_service() {
    let folder = folder(SIDECAR);
    let mut running =
        service(&folder, "trap 'echo got-term; exit 7' TERM; echo up; while :; do sleep 0.05; done");
    running.line("up");
    running.signal(Signal::TERM);
    running.line("got-term");
    let at = |part: &str| running.seen.iter().position(|line| line.contains(part));
    assert!(at("drained").is_some() || running.lines.try_iter().any(|line| line.contains("drained")));
    assert_eq!(running.code(), Some(7));
}

/// A service that holds a tunnel through its sidecar, and speaks on it when it
/// is told to end.
const HOLDS_A_TUNNEL: &str = r#"
import os, signal, socket, sys, threading
proxy = os.environ["HTTP_PROXY"].rsplit(":", 1)
tunnel = socket.create_connection(("127.0.0.1", int(proxy[1].strip("/"))))
tunnel.sendall(f"CONNECT {sys.argv[1]} HTTP/1.1\r\nHost: {sys.argv[1]}\r\n\r\n".encode())
print(tunnel.recv(1000).split(b"\r\n")[0].decode(), flush=True)
def ends(*_):
    tunnel.sendall(b"COMMIT")
    print("echoed", tunnel.recv(6).decode(), flush=True)
    os._exit(9)
signal.signal(signal.SIGTERM, ends)
tunnel.sendall(b"BEGIN ")
print("echoed", tunnel.recv(6).decode(), flush=True)
threading.Event().wait()
"#;

#[test]
fn a_services_own_connections_outlive_it() {
    let echo = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = echo.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = echo.accept().unwrap();
        let mut out = stream.try_clone().unwrap();
        let _ = std::io::copy(&mut stream, &mut out);
    });
    let folder = folder(&SIDECAR.replace("deadline: 2s", "deadline: 20s"));
    std::fs::write(folder.path().join("service.py"), HOLDS_A_TUNNEL).unwrap();
    let mut running = service(&folder, &format!("exec python3 service.py {address}"));
    running.line("HTTP/1.1 200");
    running.line("echoed BEGIN");
    let told = Instant::now();
    running.signal(Signal::TERM);
    running.line("echoed COMMIT");
    assert_eq!(running.code(), Some(9));
    assert!(told.elapsed() < Duration::from_secs(10), "nobody waits for what the service itself holds");
}

#[test]
fn a_second_signal_ends_at_once() {
    let folder = folder(&SIDECAR.replace("delay: 0s", "delay: 20s"));
    let mut running = service(&folder, "trap '' TERM INT; echo pid $$; while :; do sleep 0.05; done");
    let pid = running.line("pid ").split(' ').nth(1).unwrap().to_owned();
    running.signal(Signal::TERM);
    running.line("draining");
    running.signal(Signal::INT);
    assert_eq!(running.code(), Some(130));
    until_gone(&pid);
}

#[test]
fn other_signals_reach_the_service_and_hup_does_not() {
    let folder = folder(SIDECAR);
    let script = "for s in USR1 USR2 QUIT WINCH HUP; do trap \"echo got-$s\" $s; done; echo up; \
                  trap 'exit 0' TERM; while :; do sleep 0.05; done";
    let mut running = service(&folder, script);
    running.line("up");
    running.signal(Signal::HUP);
    for (signal, name) in
        [(Signal::USR1, "USR1"), (Signal::USR2, "USR2"), (Signal::QUIT, "QUIT"), (Signal::WINCH, "WINCH")]
    {
        running.signal(signal);
        running.line(&format!("got-{name}"));
    }
    running.signal(Signal::TERM);
    assert_eq!(running.code(), Some(0));
    let all: Vec<String> = running.seen.iter().cloned().chain(running.lines.try_iter()).collect();
    assert!(!all.iter().any(|line| line.contains("got-HUP")), "{all:#?}");
}

#[test]
fn what_the_service_leaves_behind_is_ended() {
    let folder = folder(SIDECAR);
    let mut running =
        service(&folder, "sleep 600 & echo group $!; setsid sleep 600 & echo escaped $!; exit 4");
    let pids = ["group ", "escaped "].map(|word| running.line(word).split(' ').nth(1).unwrap().to_owned());
    assert_eq!(running.code(), Some(4));
    pids.iter().for_each(|pid| until_gone(pid));
}

#[test]
fn a_killed_sidecar_takes_its_service_with_it() {
    let folder = folder(SIDECAR);
    let mut running = service(&folder, "echo pid $$; exec sleep 600");
    let pid = running.line("pid ").split(' ').nth(1).unwrap().to_owned();
    running.child.kill().unwrap();
    running.child.wait().unwrap();
    until_gone(&pid);
}

#[test]
fn ready_only_when_the_service_answers() {
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = held.local_addr().unwrap().port();
    drop(held);
    let folder = folder(&SIDECAR.replace("{name: orders}", &format!("{{name: orders, port: {port}}}")));
    let mut running = service(&folder, "echo port $PORT; exec sleep 600");
    let probes = running.address("probes");
    assert!(running.line("port ").ends_with(&port.to_string()));
    let answer = ask(probes, "GET /readyz HTTP/1.1\r\nHost: x");
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("waits for: service"), "{answer}");
    let _service = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let end = Instant::now() + LIMIT;
    while !ask(probes, "GET /readyz HTTP/1.1\r\nHost: x").starts_with("HTTP/1.1 200") {
        assert!(Instant::now() < end);
        std::thread::sleep(Duration::from_millis(10));
    }
    running.signal(Signal::TERM);
    assert_eq!(running.code(), Some(143));
}

#[test]
fn the_admin_port_answers_changes_the_level_and_drains() {
    let folder = folder(SIDECAR);
    let mut command = pillion(folder.path());
    command.arg("run");
    let mut running = Running::start(command);
    let admin = running.address("admin");
    let host = format!("Host: {admin}");
    let dump = ask(admin, &format!("GET /config_dump HTTP/1.1\r\n{host}"));
    assert!(dump.contains("\"pillion.yaml:2:17\"") && dump.contains("\"default\""), "{dump}");
    assert!(ask(admin, "GET / HTTP/1.1\r\nHost: evil.example").starts_with("HTTP/1.1 403"));
    let changed = ask(admin, &format!("PUT /logging?level=pillion=debug,h2=warn HTTP/1.1\r\n{host}"));
    assert!(changed.contains("pillion=debug,h2=warn"), "{changed}");
    assert!(ask(admin, &format!("PUT /logging?level=loud HTTP/1.1\r\n{host}")).starts_with("HTTP/1.1 400"));
    assert!(ask(admin, &format!("POST /drain HTTP/1.1\r\n{host}")).starts_with("HTTP/1.1 202"));
    assert_eq!(running.code(), Some(0));
}

#[test]
fn nothing_waits_for_callers_of_a_service_that_is_gone() {
    let folder = folder(&SIDECAR.replace("delay: 0s", "delay: 25s"));
    let begun = Instant::now();
    let mut running = service(&folder, "exit 3");
    assert_eq!(running.code(), Some(3));
    assert!(begun.elapsed() < Duration::from_secs(20), "it waited for drain.delay");
}

#[test]
fn a_drain_ends_a_service_that_never_answered() {
    let folder = folder(&SIDECAR.replace("{name: orders}", "{name: orders, port: 9}"));
    let mut running = service(&folder, "trap 'exit 5' TERM; echo up; while :; do sleep 0.05; done");
    let admin = running.address("admin");
    running.line("up");
    assert!(ask(admin, &format!("POST /drain HTTP/1.1\r\nHost: {admin}")).starts_with("HTTP/1.1 202"));
    assert_eq!(running.code(), Some(5));
}

#[test]
fn others_find_a_service_from_its_first_answer_until_it_leaves() {
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = held.local_addr().unwrap().port();
    drop(held);
    let registry = tempfile::tempdir().unwrap();
    let entries = || {
        let files = std::fs::read_dir(registry.path()).unwrap().map(|file| file.unwrap().path());
        // One may be replaced at this moment.
        files.filter_map(|file| std::fs::read_to_string(file).ok()).collect::<Vec<_>>()
    };
    let config = SIDECAR
        .replace("{name: orders}", &format!("{{name: orders, port: {port}}}"))
        .replace("delay: 0s", "delay: 3s")
        .replace("[]", &format!("[local: {{directory: '{}'}}]", registry.path().display()));
    let folder = folder(&config);
    let mut running = service(&folder, "trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done");
    running.line("up");
    assert_eq!(entries(), [""; 0], "it does not answer yet");
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    running.line("registered");
    assert_eq!(entries().len(), 1);
    assert!(!entries()[0].contains("\"terminating\":true"));
    running.signal(Signal::TERM);
    running.line("draining");
    let end = Instant::now() + Duration::from_secs(15);
    let until = |what: &str, met: &dyn Fn() -> bool| {
        while !met() {
            assert!(Instant::now() < end, "{what}: {:?}", entries());
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    until("others are told that it ends", &|| {
        entries().iter().any(|entry| entry.contains("\"terminating\":true"))
    });
    until("it is in the registry no more", &|| entries().is_empty());
    assert_eq!(running.code(), Some(0));
    drop(listener);
}

const DEV: &str = "version: 1
services:
  users:
    build: echo made > made.txt; echo building
    command: 'echo greeting $GREETING; printf partial; exec python3 -u -m http.server --bind 127.0.0.1 $PORT'
    env: {GREETING: '${WORD}'}
    health: /
  crash:
    command: 'echo last words >&2; exit 9'
";

#[test]
fn dev_builds_starts_prefixes_restarts_and_leaves_nothing() {
    let folder = folder("");
    let temp = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("pillion.dev.yaml"), DEV).unwrap();
    std::fs::write(folder.path().join(".env"), "export WORD=\"hello from .env\" # why\n").unwrap();
    let mut command = pillion(folder.path());
    command.args(["dev", "--front", "127.0.0.1:0"]).env("TMPDIR", temp.path());
    let mut running = Running::start(command);
    running.line("users   | building");
    running.line("users   | greeting hello from .env");
    running.line("partial");
    running.line("crash   | last words");
    running.line("pillion | crash crashed");
    running.line("pillion |   last words");
    running.line("crash starts again in 1.0 s");
    assert!(folder.path().join("made.txt").exists());
    assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 1, "the registry is private");
    running.signal(Signal::INT);
    assert_eq!(running.code(), Some(0));
    assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0, "nothing is left");
}

#[test]
fn dev_refuses_a_bad_file_and_an_unknown_service() {
    let folder = folder("");
    let file = folder.path().join("pillion.dev.yaml");
    std::fs::write(&file, DEV.replace("health:", "helth:")).unwrap();
    let dev =
        |words: &[&str]| pillion(folder.path()).arg("dev").args(words).env("WORD", "x").output().unwrap();
    let output = dev(&[]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78));
    assert!(text.contains("pillion.dev.yaml:7:5: unknown key `helth`"), "{text}");
    std::fs::write(&file, DEV).unwrap();
    let output = dev(&["nobody"]);
    assert_eq!(output.status.code(), Some(78));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("there is no service `nobody`; there are crash, users"), "{text}");
    std::fs::write(&file, DEV.replace("echo building", "exit 5")).unwrap();
    assert_eq!(dev(&["users"]).status.code(), Some(1), "a build failed");
}

#[test]
fn dev_starts_and_ends_services_in_the_order_that_they_need() {
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = held.local_addr().unwrap().port();
    let folder = folder("");
    let text = format!(
        "version: 1
services:
  already: {{port: {port}}}
  migrate: {{command: 'echo migrated', after: [already]}}
  database:
    command: 'trap \"sleep 0.3; echo closed; exit 0\" TERM; echo opens; sleep 0.3; \
      python3 -m http.server --bind 127.0.0.1 $$PORT > /dev/null 2>&1 & wait'
    after: [migrate]
  shop: {{command: \"trap 'echo shut; exit 0' TERM; echo sells; while :; do sleep 0.05; done\", after: [database]}}
  never: {{command: echo runs, after: [broken]}}
  broken: {{command: [./no-such-program]}}
"
    );
    std::fs::write(folder.path().join("pillion.dev.yaml"), text).unwrap();
    let mut command = pillion(folder.path());
    command.args(["dev", "--front", "127.0.0.1:0"]);
    let mut running = Running::start(command);
    running.line("never is not started: broken never answered");
    running.line("migrate  | migrated");
    running.line("database | opens");
    running.line("shop     | sells");
    running.signal(Signal::INT);
    running.line("shop     | shut");
    running.line("database | closed");
    assert_eq!(running.code(), Some(0));
    drop(held);
}

#[test]
fn dev_ends_a_hundred_services_as_well_as_one() {
    let folder = folder("");
    let services: String =
        (0..100).map(|number| format!("  s{number}: {{command: 'echo up; exec sleep 600'}}\n")).collect();
    std::fs::write(folder.path().join("pillion.dev.yaml"), format!("version: 1\nservices:\n{services}"))
        .unwrap();
    let mut command = pillion(folder.path());
    command.args(["dev", "--front", "127.0.0.1:0"]);
    let mut running = Running::start(command);
    for number in 0..100 {
        running.line(&format!("{:<7} | up", format!("s{number}")));
    }
    running.signal(Signal::INT);
    assert_eq!(running.code(), Some(0));
}
