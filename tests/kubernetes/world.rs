//! Three places: the API server, the pods of `users`, and `front`, whose sidecar
//! calls them. `front` has one link to each of the others.

use std::io::BufReader;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::load::{self, Load};
use super::place::{Place, Running, Service, inside, ip, must, said};
use super::support::request;
use super::support::wire::Wire;

/// The server's address, and what it sees of the sidecar.
const SERVER: &str = "10.89.0.1";
const SIDECAR: &str = "10.89.0.2";
/// The pods are 10.88.0.11 to 10.88.0.14.
const PODS: std::ops::RangeInclusive<u8> = 11..=14;
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices";

pub struct World {
    pub server: Option<Running>,
    sidecar: Option<Running>,
    front: Place,
    control: Place,
    _pods: (Vec<Service>, Place),
    folder: PathBuf,
    /// Lines of the audit that are of the past.
    seen: usize,
}

/// Waits for up to a minute.
#[track_caller]
pub fn within(what: &str, met: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !met() {
        assert!(Instant::now() < deadline, "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl World {
    /// With a server that knows the Service `users`, the account of the docs and
    /// no endpoints.
    #[track_caller]
    pub fn new() -> Self {
        let (front, control, pods) = (Place::new(""), Place::new(""), Place::new(""));
        let folder = front.shared.folder.path().join(format!("{}-cluster", front.name));
        std::fs::create_dir_all(folder.join("account")).unwrap();
        link(&front, "eth0", &pods, 88);
        link(&front, "eth1", &control, 89);
        for pod in PODS {
            ip(&format!("-n {} addr add 10.88.0.{pod}/24 dev eth0", pods.name));
        }
        let serve = |pod| pods.serve(&format!("10.88.0.{pod}:8080"), move |stream| answer(stream, pod));
        let services = PODS.map(serve).collect();
        let mut world =
            Self { server: None, sidecar: None, front, control, _pods: (services, pods), folder, seen: 0 };
        world.start_server();
        world.must("POST", "/api/v1/namespaces", &json!({"metadata": {"name": "shop"}}));
        world.account();
        world.role_of_the_docs();
        world.service("users");
        world.new_token();
        world
    }

    #[track_caller]
    pub fn service(&self, name: &str) {
        let service = json!({"metadata": {"name": name},
            "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8080}]}});
        self.must("POST", "/api/v1/namespaces/shop/services", &service);
    }

    fn data(&self) -> PathBuf {
        self.folder.join("server")
    }

    /// Starts the server, the first time or on what it held, and waits for it.
    #[track_caller]
    pub fn start_server(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.folder.join("server.log"));
        let data = self.data();
        let words = [
            program().into_os_string(),
            "--data".into(),
            data.into_os_string(),
            "--address".into(),
            SERVER.into(),
        ];
        let mut command = self.control.command(0, &words);
        self.server = Some(Running(command.stdout(Stdio::null()).stderr(log.unwrap()).spawn().unwrap()));
        within("the API server is ready", || {
            self.data().join("kubeconfig").exists() && self.api("GET", "/readyz", None).is_ok()
        });
    }

    /// Forgets the server's history.
    pub fn compact(&self) {
        let words =
            [program().into_os_string(), "compact".into(), "--data".into(), self.data().into_os_string()];
        must(&mut self.control.command(0, &words));
    }

    /// Asks the server as its administrator.
    fn api(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, String> {
        let read = |name: &str| std::fs::read_to_string(self.data().join(name)).unwrap_or_default();
        let authority = self.data().join("tls.crt").display().to_string();
        let token = format!("Authorization: Bearer {}", read("admin.token"));
        let url = format!("https://{SERVER}:{}{path}", read("port"));
        let mut words = vec![
            "curl",
            "-sS",
            "--max-time",
            "20",
            "--fail-with-body",
            "--cacert",
            &authority,
            "-H",
            &token,
            "-X",
            method,
            &url,
        ];
        let body = body.map(Value::to_string);
        if let Some(body) = &body {
            words.extend(["-H", "Content-Type: application/json", "--data-binary", body]);
        }
        let output = self.control.command(0, &words).output().unwrap();
        if !output.status.success() {
            return Err(said(&output));
        }
        Ok(serde_json::from_slice(&output.stdout).unwrap_or_default())
    }

    #[track_caller]
    fn must(&self, method: &str, path: &str, body: &Value) -> Value {
        self.api(method, path, Some(body)).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// Writes a slice of `users`: its pods by number, each `ready` or `ends`.
    #[track_caller]
    pub fn slice(&self, name: &str, pods: &[(u8, &str)]) {
        self.slice_of("users", name, pods);
    }

    /// The same of another Service.
    #[track_caller]
    pub fn slice_of(&self, service: &str, name: &str, pods: &[(u8, &str)]) {
        let endpoint = |(pod, state): &(u8, &str)| {
            let ready = *state == "ready";
            json!({"addresses": [format!("10.88.0.{pod}")],
                "conditions": {"ready": ready, "serving": true, "terminating": !ready}})
        };
        let slice = json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            "endpoints": pods.iter().map(endpoint).collect::<Vec<_>>(),
        });
        if self.api("PUT", &format!("{SLICES}/{name}"), Some(&slice)).is_err() {
            self.must("POST", SLICES, &slice);
        }
    }

    #[track_caller]
    pub fn delete(&self, name: &str) {
        self.must("DELETE", &format!("{SLICES}/{name}"), &json!({}));
    }

    fn account(&self) {
        let account = json!({"metadata": {"name": "orders"}});
        self.must("POST", "/api/v1/namespaces/shop/serviceaccounts", &account);
    }

    /// The account is another one, of the same name.
    pub fn new_account(&self) {
        self.must("DELETE", "/api/v1/namespaces/shop/serviceaccounts/orders", &json!({}));
        self.account();
    }

    /// What kubelet does now and then.
    pub fn new_token(&self) {
        let path = "/api/v1/namespaces/shop/serviceaccounts/orders/token";
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"expirationSeconds": 3600}});
        let token = self.must("POST", path, &request)["status"]["token"].as_str().unwrap().to_owned();
        let folder = self.folder.join("account");
        std::fs::write(folder.join("new"), token).unwrap();
        std::fs::rename(folder.join("new"), folder.join("token")).unwrap();
        std::fs::copy(self.data().join("tls.crt"), folder.join("ca.crt")).unwrap();
        std::fs::write(folder.join("namespace"), "shop").unwrap();
    }

    /// The role and the binding that docs/kubernetes.md tells users to write.
    fn role_of_the_docs(&self) {
        let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/kubernetes.md");
        let page = std::fs::read_to_string(page).unwrap();
        let block = page.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
        for document in block.split("---\n") {
            let object: Value = serde_yaml::from_str(document).unwrap();
            let kind = object["kind"].as_str().unwrap().to_ascii_lowercase();
            self.must(
                "POST",
                &format!("/apis/rbac.authorization.k8s.io/v1/namespaces/shop/{kind}s"),
                &object,
            );
        }
    }

    /// Starts the sidecar as in a pod of this account, and waits until it is ready.
    #[track_caller]
    pub fn start(&mut self) {
        let config = self.folder.join("pillion.yaml");
        let text = "version: 1\nservice: {name: front}\nworkers: 1\ndiscovery: [kubernetes: {}]\n\
                    outbound:\n  - {to: users, timeout: 5s}\n";
        std::fs::write(&config, text).unwrap();
        let script = "mount -t tmpfs none /run; mkdir -p /run/secrets/kubernetes.io/serviceaccount; \
                      mount --bind \"$1\" /run/secrets/kubernetes.io/serviceaccount; shift; exec \"$@\"";
        let port = std::fs::read_to_string(self.data().join("port")).unwrap();
        let text = |path: PathBuf| path.display().to_string();
        let words = [
            "/bin/sh".to_owned(),
            "-ec".to_owned(),
            script.to_owned(),
            "sh".to_owned(),
            text(self.folder.join("account")),
            "env".to_owned(),
            format!("KUBERNETES_SERVICE_HOST={SERVER}"),
            format!("KUBERNETES_SERVICE_PORT={port}"),
            text(self.front.shared.program.clone()),
            "run".to_owned(),
            "-c".to_owned(),
            text(config),
        ];
        let log = std::fs::File::create(self.folder.join("sidecar.log")).unwrap();
        let mut command = self.front.command(0, &words);
        self.sidecar = Some(Running(command.stdout(Stdio::null()).stderr(log).spawn().unwrap()));
        within("the sidecar is ready", || {
            self.front.connect("127.0.0.1:8701").is_ok() && self.get("users").0 == 200
        });
    }

    /// One call. Returns the status and the body.
    pub fn get(&self, name: &str) -> (u16, String) {
        let Ok(stream) = self.front.connect("127.0.0.1:8701") else { return (0, String::new()) };
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        load::call(&mut BufReader::new(stream), name).unwrap_or_default()
    }

    pub fn load(&self, name: &str) -> Load {
        let name_space = self.front.name.clone();
        Load::start(name, move || {
            let at = SocketAddr::from(([127, 0, 0, 1], 8701));
            inside(&name_space, || TcpStream::connect(at)).unwrap()
        })
    }

    /// Connections of the sidecar to the server.
    pub fn connections(&self) -> usize {
        let output = must(&mut self.front.command(0, &["cat", "/proc/net/tcp"]));
        let hex = u32::from_le_bytes([10, 89, 0, 1]);
        let port: u16 = std::fs::read_to_string(self.data().join("port")).unwrap().parse().unwrap();
        let (far, open) = (format!("{hex:08X}:{port:04X}"), "01");
        let lines = output.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        lines.filter(|words| words.get(2..4) == Some(&[&far, open])).count()
    }

    pub fn link_to_server(&self, state: &str) {
        ip(&format!("-n {} link set eth1 {state}", self.front.name));
    }

    /// What the sidecar asked since [`World::forget_asked`], such as `watch /api/…`.
    pub fn asked(&self) -> Vec<String> {
        self.audit().into_iter().skip(self.seen).map(|(line, _)| line).collect()
    }

    pub fn forget_asked(&mut self) {
        self.seen = self.audit().len();
    }

    /// How many of its questions were refused.
    pub fn refused(&self) -> usize {
        self.audit().iter().filter(|(_, status)| *status >= 400).count()
    }

    /// Whether the server has written this.
    pub fn says(&self, text: &str) -> bool {
        std::fs::read_to_string(self.folder.join("server.log")).unwrap_or_default().contains(text)
    }

    /// Every question of the sidecar with its status, at the time when its
    /// answer begins or, where that is short, ends.
    fn audit(&self) -> Vec<(String, u64)> {
        let text = std::fs::read_to_string(self.data().join("audit.log")).unwrap_or_default();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let ours = lines.filter(|line| {
            let watch = line["verb"] == "watch" && line["responseStatus"]["code"] == 200;
            let stage = if watch { "ResponseStarted" } else { "ResponseComplete" };
            line["sourceIPs"][0] == SIDECAR && line["stage"] == stage
        });
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        ours.map(|line| {
            let status = line["responseStatus"]["code"].as_u64().unwrap_or_default();
            (format!("{} {} {status}", word(&line["verb"]), word(&line["requestURI"])), status)
        })
        .collect()
    }
}

/// The API server, which must have been built.
fn program() -> PathBuf {
    let cache = std::env::var_os("PILLION_CACHE")
        .map_or_else(|| std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache"), PathBuf::from);
    let program = cache.join("bin/kube-apiserver");
    assert!(program.exists(), "{} is missing: run tests/parts/slow/kubernetes.sh", program.display());
    program
}

/// A link between two places: 10.`net`.0.2 at `device` of the first, 10.`net`.0.1
/// at `eth0` of the second.
fn link(first: &Place, device: &str, second: &Place, net: u8) {
    let (a, b) = (&first.name, &second.name);
    ip(&format!("-n {a} link add {device} type veth peer name eth0 netns {b}"));
    for (name, device, number) in [(a, device, 2), (b, "eth0", 1)] {
        ip(&format!("-n {name} addr add 10.{net}.0.{number}/24 dev {device}"));
        ip(&format!("-n {name} link set {device} up"));
    }
}

fn answer(mut stream: TcpStream, pod: u8) {
    use std::io::Write as _;
    let mut wire = Wire::new(stream.try_clone().unwrap());
    while request::read(&mut wire, 0).is_some() {
        let text = format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\npod{pod}");
        if stream.write_all(text.as_bytes()).is_err() {
            return;
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for log in ["sidecar.log", "server.log"] {
                let text = std::fs::read_to_string(self.folder.join(log)).unwrap_or_default();
                let tail: Vec<&str> = text.lines().rev().take(30).collect();
                eprintln!("{log}, the newest line first:\n{}", tail.join("\n"));
            }
        }
    }
}
