//! A server of grpcio behind a sidecar, called by curl, by a browser and by
//! the clients of two projects for gRPC-Web. The descriptor is protoc's own.

mod browser;
mod curl;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crate::parts::installed;
use crate::support::{Process, process, until};

/// The server and the sidecar before it.
struct Shop {
    front: Process,
    said: Arc<Mutex<Vec<String>>>,
    server: Child,
    reader: Option<JoinHandle<()>>,
    _descriptor: tempfile::TempDir,
}

impl Shop {
    /// Both, with `more` keys in `json`.
    fn start(more: &str) -> Self {
        let descriptor = tempfile::tempdir().unwrap();
        let file = descriptor.path().join("shop.pb");
        protoc(&file);
        let (server, address, said, reader) = server();
        let policy = format!(
            "version: 1\ninbound:\n  - grpc_web: true\n    json: {{descriptor: '{}'{more}}}\n",
            file.display()
        );
        let front = process("shop").service(address, "auto").policy(policy).start();
        Self { front, said, server, reader: Some(reader), _descriptor: descriptor }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.front.inbound)
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A command without the proxy variables of whoever runs the tests.
fn command(program: impl Into<PathBuf>) -> Command {
    let mut command = Command::new(program.into());
    for name in ["http_proxy", "https_proxy", "grpc_proxy", "no_proxy", "all_proxy"] {
        command.env_remove(name).env_remove(name.to_uppercase());
    }
    command
}

/// The descriptor, as the real compiler writes it.
fn protoc(to: &Path) {
    let protos = root().join("tests/protos");
    let out = command(installed("python/bin/python"))
        .args(["-m", "grpc_tools.protoc", "--include_imports", "-I"])
        .arg(&protos)
        .arg(format!("--descriptor_set_out={}", to.display()))
        .arg("shop/v1/shop.proto")
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

fn server() -> (Child, SocketAddr, Arc<Mutex<Vec<String>>>, JoinHandle<()>) {
    let mut server = command(installed("python/bin/python"))
        .arg(root().join("tests/parts/shop-grpc/server.py"))
        .arg(installed("browser/page.html").parent().unwrap())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let said: Arc<Mutex<Vec<String>>> = Arc::default();
    let (into, from) = (said.clone(), BufReader::new(server.stdout.take().unwrap()));
    let reader = std::thread::spawn(move || {
        from.lines().map_while(Result::ok).for_each(|line| into.lock().unwrap().push(line));
    });
    until("the server listens", || !said.lock().unwrap().is_empty());
    let first = said.lock().unwrap()[0].clone();
    let address = first.strip_prefix("listening ").unwrap_or_else(|| panic!("{first}")).parse().unwrap();
    (server, address, said, reader)
}
