//! The programs of each language's gRPC library.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::parts::installed;
use crate::support::until;

/// For one case of grpc-go's client, or all of another client.
const LIMIT: Duration = Duration::from_secs(40);
/// Cases of grpc-go's client that run side by side, each in its process.
const SIDE_BY_SIDE: usize = 4;

/// A library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// grpc-go.
    Go,
    /// grpcio.
    Python,
    /// tonic.
    Rust,
}

impl Language {
    pub const ALL: [Self; 3] = [Self::Go, Self::Python, Self::Rust];
}

/// A server that is killed by its drop.
pub struct Running {
    pub address: SocketAddr,
    pub child: Child,
    reader: Option<JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// A command without the proxy variables of whoever runs the tests.
pub fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    for name in ["http_proxy", "https_proxy", "grpc_proxy", "no_proxy", "all_proxy"] {
        command.env_remove(name).env_remove(name.to_uppercase());
    }
    command.stdin(Stdio::null());
    command
}

/// A script of grpcio's.
pub fn python() -> Command {
    let mut command = command(&installed("python/bin/python"));
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parts/grpc/interop.py"));
    command
}

fn tonic() -> PathBuf {
    installed("tonic-interop/debug/tonic-interop")
}

/// A server of `grpc.testing.TestService`.
pub fn server(language: Language) -> Running {
    match language {
        Language::Go => go_server(),
        Language::Python => listening(python().arg("server")),
        Language::Rust => listening(command(&tonic()).arg("server")),
    }
}

/// Starts a server that says where it listens.
pub fn listening(command: &mut Command) -> Running {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines.next().expect("a line").unwrap();
    let address = line.strip_prefix("listening ").unwrap_or_else(|| panic!("{line}")).parse().unwrap();
    // What else it says must not fill the pipe.
    let reader = std::thread::spawn(move || lines.for_each(drop));
    Running { address, child, reader: Some(reader) }
}

/// grpc-go's server takes no port 0: it gets one that was free a moment ago.
fn go_server() -> Running {
    for _ in 0..5 {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut command = command(&installed("bin/grpc-go-server"));
        let child = command.args(["-port", &free.port().to_string()]).stderr(Stdio::null()).spawn();
        let mut running = Running { address: free, child: child.unwrap(), reader: None };
        let mut ended = false;
        until("grpc-go's server listens", || {
            ended = running.child.try_wait().unwrap().is_some();
            ended || std::net::TcpStream::connect(free).is_ok()
        });
        if !ended {
            return running;
        }
    }
    panic!("no port stayed free for grpc-go's server");
}

/// Runs cases of grpc-go's client; what failed, and why.
pub fn go_cases(target: &str, proxy: Option<SocketAddr>, cases: &[&str]) -> Vec<String> {
    let (host, port) = target.rsplit_once(':').expect("a port");
    let one = |case: &str| {
        let mut command = command(&installed("bin/grpc-go-client"));
        command.args(["-server_host", host, "-server_port", port, "-test_case", case]);
        if case.starts_with("orca") {
            // The balancer of the cases, which reads the reports.
            let config = r#"{"loadBalancingConfig":[{"test_backend_metrics_load_balancer":{}}]}"#;
            command.args(["-service_config_json", config]);
        }
        if let Some(proxy) = proxy {
            command.env("HTTPS_PROXY", format!("http://{proxy}"));
        }
        let output = finish(&mut command);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        (!output.status.success()).then(|| format!("{case}: {}: {told}", output.status))
    };
    let mut failed = Vec::new();
    for some in cases.chunks(SIDE_BY_SIDE) {
        std::thread::scope(|scope| {
            let running: Vec<_> = some.iter().map(|case| scope.spawn(|| one(case))).collect();
            failed.extend(running.into_iter().filter_map(|case| case.join().unwrap()));
        });
    }
    failed
}

/// The same with another library's client, which runs all of them itself.
pub fn cases(
    client: Language,
    target: &str,
    authority: &str,
    proxy: Option<SocketAddr>,
    cases: &[&str],
) -> Vec<String> {
    let mut command = program(client, "client", target, authority, proxy);
    let output = finish(command.args(cases));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let passed = |case: &&&str| !said.lines().any(|line| line == format!("{case} ok"));
    let failed: Vec<String> = cases.iter().filter(passed).map(|case| (*case).to_owned()).collect();
    if failed.is_empty() {
        return failed;
    }
    vec![format!("{failed:?}: {}{said}{}", output.status, String::from_utf8_lossy(&output.stderr))]
}

/// What a library makes of the status of a call that fails.
pub fn error(client: Language, target: &str, authority: &str, proxy: Option<SocketAddr>) -> Output {
    finish(&mut program(client, "errors", target, authority, proxy))
}

fn program(
    client: Language,
    what: &str,
    target: &str,
    authority: &str,
    proxy: Option<SocketAddr>,
) -> Command {
    let mut command = match client {
        Language::Go => command(&installed("bin/grpc-go-errors")),
        Language::Python => python(),
        Language::Rust => command(&tonic()),
    };
    if client != Language::Go {
        command.arg(what);
    }
    command.arg(target);
    match (client, proxy) {
        (Language::Rust, Some(proxy)) => command.arg(format!("proxy={proxy}")),
        (Language::Python, Some(proxy)) => {
            command.arg(authority).env("grpc_proxy", format!("http://{proxy}"))
        }
        (_, Some(proxy)) => command.arg(authority).env("HTTPS_PROXY", format!("http://{proxy}")),
        (_, None) => command.arg(authority),
    };
    command
}

/// Runs a program to its end, or kills it when its time is over.
pub fn finish(command: &mut Command) -> Output {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (out, err) = (reader(child.stdout.take().unwrap()), reader(child.stderr.take().unwrap()));
    let deadline = Instant::now() + LIMIT;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            break child.wait().unwrap();
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    Output { status, stdout: out.join().unwrap(), stderr: err.join().unwrap() }
}

fn reader(mut from: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut all = Vec::new();
        let _ = from.read_to_end(&mut all);
        all
    })
}
