//! Two pods, joined by a link: `users`, who are called, and `front`, who calls.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};

use super::place::{IP, Place, Running, Service, ip, listens, must, said};
use super::support::sidecar::Samples;
use super::support::wire::Wire;
use super::support::{Request, request, until};

/// What names mean to everybody: two virtual addresses that only capture can
/// reach, the address of a service by other names, and one that is not served.
const HOSTS: &str = "10.96.0.10 users\nfd96::10 users6\n10.87.0.2 nobody.example grpc db\n10.87.0.1 front\n";
/// What discovery knows in both pods.
const KNOWN: &str = "users: ['10.87.0.2:8080'], users6: ['[fd87::2]:8080'], db: ['10.87.0.2:5432'], \
                     grpc: ['10.87.0.2:10000'], front: ['10.87.0.1:8080']";

/// A service and its sidecar.
pub struct Pod {
    pub place: Place,
    pub folder: PathBuf,
    pub sidecar: Option<Running>,
}

pub struct World {
    pub front: Pod,
    pub users: Pod,
    /// What the service `users` was asked.
    pub asked: Arc<Mutex<Vec<Request>>>,
    _service: Service,
}

impl World {
    /// Both pods with their service and their sidecar, without rules. `more` are
    /// lines of the configuration of `front`.
    #[track_caller]
    pub fn new(more: &str) -> Self {
        let mut front = Pod::new("front", more);
        let mut users = Pod::new("users", "");
        let (a, b) = (&front.place.name, &users.place.name);
        ip(&format!("-n {a} link add eth0 type veth peer name eth0 netns {b}"));
        for (own, number, other) in [(a, 1, 2), (b, 2, 1)] {
            ip(&format!("-n {own} addr add 10.87.0.{number}/24 dev eth0"));
            ip(&format!("-n {own} addr add fd87::{number}/64 dev eth0 nodad"));
            ip(&format!("-n {own} link set eth0 up"));
            ip(&format!("-n {own} route add default via 10.87.0.{other}"));
            ip(&format!("-n {own} -6 route add default via fd87::{other}"));
        }
        let asked: Arc<Mutex<Vec<Request>>> = Arc::default();
        let record = asked.clone();
        let service = users.place.serve("127.0.0.1:8080", move |stream| answer(stream, &record));
        users.start(8700);
        front.start(8700);
        // A link that has just come up may need a second for IPv6.
        listens(&front.place, "[fd87::2]:8702");
        listens(&users.place, "[fd87::1]:8702");
        Self { front, users, asked, _service: service }
    }

    /// The same with rules in both pods.
    #[track_caller]
    pub fn captured(more: &str, options: &[&str]) -> Self {
        let world = Self::new(more);
        world.front.redirect(options);
        world.users.redirect(options);
        world
    }

    /// The one request that `users` was asked since the last call.
    #[track_caller]
    pub fn only(&self) -> Request {
        let mut asked = std::mem::take(&mut *self.asked.lock().unwrap());
        assert_eq!(asked.len(), 1, "{asked:#?}");
        asked.remove(0)
    }
}

fn answer(mut stream: std::net::TcpStream, record: &Mutex<Vec<Request>>) {
    let mut wire = Wire::new(stream.try_clone().unwrap());
    while let Some(request) = request::read(&mut wire, 0) {
        record.lock().unwrap().push(request);
        if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nusers\n").is_err() {
            return;
        }
    }
}

impl Pod {
    fn new(name: &str, more: &str) -> Self {
        let place = Place::new(HOSTS);
        let folder = place.shared.folder.path().join(&place.name);
        std::fs::create_dir_all(folder.join("policies")).unwrap();
        let file = format!(
            "version: 1\nservice: {{name: {name}, port: 8080}}\nworkers: 2\n\
             discovery: [static: {{{KNOWN}}}]\ndrain: {{delay: 0s}}\n{more}"
        );
        std::fs::write(folder.join("pillion.yaml"), file).unwrap();
        let policy = "version: 1\noutbound:\n  - {to: users, route: 'GET /v1/users/{id}', timeout: 5s}\n";
        std::fs::write(folder.join("policies/users.yaml"), policy).unwrap();
        Self { place, folder, sidecar: None }
    }

    pub fn config(&self) -> PathBuf {
        self.folder.join("pillion.yaml")
    }

    /// Starts the sidecar as user `uid`, and waits until it is ready.
    #[track_caller]
    pub fn start(&mut self, uid: u32) {
        self.sidecar = None;
        let log = std::fs::File::create(self.folder.join("log")).unwrap();
        let config = self.config();
        let words =
            [self.place.shared.program.as_os_str(), "run".as_ref(), "-c".as_ref(), config.as_os_str()];
        let mut command = self.place.command(uid, &words);
        let child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        self.sidecar = Some(Running(child));
        // A listener that is not there yet, or not for good, may refuse or reset.
        let ready = || {
            let asked = self.place.inside(|| ask(SocketAddr::from(([127, 0, 0, 1], 8790))));
            asked.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
        };
        until(&format!("the sidecar is ready: {}", self.log()), ready);
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Writes the rules.
    #[track_caller]
    pub fn redirect(&self, options: &[&str]) {
        let output = self.place.redirect(&self.config(), options);
        assert!(output.status.success(), "{}", said(&output));
    }

    pub fn curl(&self, words: &[&str]) -> Output {
        let all: Vec<&str> = ["curl", "-sS", "--max-time", "10"].iter().chain(words).copied().collect();
        self.place.run(&all)
    }

    /// The body of an answer that must be 200.
    #[track_caller]
    pub fn get(&self, url: &str) -> String {
        let output = self.curl(&["--fail-with-body", url]);
        assert!(output.status.success(), "{url}: {}\n{}", said(&output), self.log());
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub fn metrics(&self) -> Samples {
        self.place.inside(|| Samples::at(SocketAddr::from(([127, 0, 0, 1], 8790))))
    }

    /// Connections captured so far.
    pub fn captured(&self, direction: &str, target: &str) -> f64 {
        let labels = [("direction", direction), ("target", target)];
        self.metrics().get("pillion_captured_connections_total", &labels)
    }

    /// Waits until so many connections were captured.
    #[track_caller]
    pub fn captured_is(&self, direction: &str, target: &str, wanted: f64) {
        let count = || self.captured(direction, target);
        until(
            &format!(
                "{wanted} captured {direction} {target}: {}",
                self.metrics().show("pillion_captured_connections_total")
            ),
            || (count() - wanted).abs() < 0.5,
        );
    }
}

/// What `/readyz` at `probes` says.
fn ask(probes: SocketAddr) -> std::io::Result<String> {
    let mut stream = std::net::TcpStream::connect(probes)?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: p\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// The rules of the machine that the tests run on.
pub fn rules_of_the_machine() -> String {
    super::place::rules(|program| std::process::Command::new(program))
}

/// Nothing is left of `name`.
pub fn is_gone(name: &str) -> bool {
    !must(std::process::Command::new(&*IP).args(["netns", "list"])).contains(name)
}
