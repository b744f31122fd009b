//! Traffic of programs that know nothing of a sidecar, captured both ways.

use std::io::{Read as _, Write as _};
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::place::{IP, Running, listens, program, said};
use super::support::hello::hello;
use super::support::until;
use super::world::World;

/// A call by name, one by IPv6, and one by address.
#[track_caller]
fn http_flows(world: &World) {
    let (front, users) = (&world.front, &world.users);
    assert_eq!(front.get("http://users/v1/users/7"), "users\n");
    let request = world.only();
    assert_eq!(request.field("host").as_deref(), Some("users"));
    let via = request.field("via").unwrap_or_default();
    assert!(via.contains("front-out") && via.contains("users-in"), "{via}");
    assert_eq!(request.field("x-forwarded-for").as_deref(), Some("10.87.0.1"), "the caller is told");
    let route = [("upstream", "users"), ("http_route", "/v1/users/{id}")];
    let metrics = front.metrics();
    assert!(
        (metrics.get("http_client_request_duration_seconds_count", &route) - 1.0).abs() < 0.5,
        "the policy applies"
    );
    assert_eq!((front.captured("outbound", "http"), users.captured("inbound", "service")), (1.0, 1.0));
    assert!(users.metrics().get("http_server_request_duration_seconds_count", &[]) > 0.5);

    assert_eq!(front.get("http://users6/"), "users\n");
    let request = world.only();
    let forwarded = request.field("forwarded").unwrap_or_default();
    assert!(forwarded.contains("for=\"[fd87::1]\""), "{forwarded}");

    assert_eq!(front.get("http://10.87.0.2:8080/v1/users/8"), "users\n");
    world.only();
    let metrics = front.metrics();
    assert!(
        metrics.get("http_client_request_duration_seconds_count", &route) > 1.5,
        "the address is known to be of `users`"
    );
}

/// Says a word first and then echoes.
fn banner(mut stream: std::net::TcpStream) {
    let mut bytes = [0; 64];
    stream.write_all(b"welcome\n").unwrap();
    while let Ok(length @ 1..) = stream.read(&mut bytes) {
        if stream.write_all(&bytes[..length]).is_err() {
            return;
        }
    }
}

/// A server that speaks first, on a port that nobody knows.
#[track_caller]
fn opaque_flows(world: &World, at: &str) {
    let _service = world.users.place.serve(at, banner);
    let mut stream = world.front.place.connect(at).unwrap();
    let mut bytes = [0; 8];
    stream
        .read_exact(&mut bytes)
        .unwrap_or_else(|error| panic!("{at}: {error}\n{}\n{}", world.front.log(), world.users.log()));
    assert_eq!(&bytes, b"welcome\n");
    stream.write_all(b"more\n").unwrap();
    stream.read_exact(&mut bytes[..5]).unwrap();
    assert_eq!(&bytes[..5], b"more\n");
}

#[test]
fn http_and_opaque_bytes_flow_with_iptables() {
    let world = World::captured("", &["--tool", "iptables"]);
    http_flows(&world);
    opaque_flows(&world, "10.87.0.2:9200");
    opaque_flows(&world, "[fd87::2]:9200");
    assert_eq!(world.front.captured("outbound", "address"), 2.0);
    assert_eq!(world.users.captured("inbound", "address"), 2.0);
    for pod in [&world.front, &world.users] {
        pod.redirect(&["--undo"]);
        assert!(!pod.place.rules().contains("PILLION"), "{}", pod.place.rules());
    }
    assert!(world.front.place.connect("10.87.0.2:8080").is_err(), "the service listens on 127.0.0.1 alone");
}

#[test]
fn the_same_with_iptables_that_knows_no_nftables() {
    let world = World::captured("", &["--tool", "iptables-legacy"]);
    http_flows(&world);
    opaque_flows(&world, "[fd87::2]:9200");
}

#[test]
fn the_same_where_there_is_nothing_but_nft() {
    let world = World::new("");
    let tools = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(program("nft", "nftables"), tools.path().join("nft")).unwrap();
    for pod in [&world.front, &world.users] {
        let before = pod.place.rules();
        let redirect = |words: &[&str]| {
            let mut command = Command::new(&*IP);
            command
                .args(["netns", "exec", &pod.place.name])
                .arg(&pod.place.shared.program)
                .args(["redirect", "-c"]);
            let output = command.arg(pod.config()).args(words).env("PATH", tools.path()).output().unwrap();
            assert!(output.status.success(), "{}", said(&output));
        };
        redirect(&[]);
        assert!(pod.place.rules().contains("table ip6 pillion"), "{}", pod.place.rules());
        redirect(&["--undo"]);
        assert_eq!(pod.place.rules(), before);
        redirect(&[]);
    }
    http_flows(&world);
    opaque_flows(&world, "10.87.0.2:9200");
}

#[test]
fn a_real_database_and_grpc_flow() {
    let world = World::captured("", &[]);
    let place = &world.users.place;
    let folder = tempfile::tempdir().unwrap();
    let starter = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parts/start/postgres");
    super::place::open_to_all(folder.path());
    let data = folder.path().join("postgres");
    let hba = folder.path().join("hba");
    std::fs::write(&hba, "host all all all trust\n").unwrap();
    let hba = format!("--set=hba_file={}", hba.display());
    let words = [
        starter.as_os_str(),
        data.as_os_str(),
        "--port=5432".as_ref(),
        "--set=listen_addresses=*".as_ref(),
        hba.as_ref(),
        "--with-parent".as_ref(),
    ];
    let mut command = place.command(0, &words);
    let mut postgres = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut ready = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(postgres.stdout.take().unwrap()), &mut ready)
        .unwrap();
    assert!(ready.starts_with("ready"), "{ready}");
    let _postgres = Ended(postgres);
    // `prefer` sends an SSLRequest first.
    for mode in ["prefer", "disable"] {
        let url = format!("postgres://postgres@db:5432/postgres?sslmode={mode}&gssencmode=disable");
        let output = world.front.place.run(&["psql", &url, "-Atc", "select 6 * 7"]);
        assert_eq!(said(&output), "42\n", "{mode}: {}", world.front.log());
    }
    assert!(world.front.captured("outbound", "endpoint") > 1.5, "by the endpoint of `db`");
    let sent = world
        .front
        .metrics()
        .get("pillion_tcp_bytes_total", &[("upstream", "db"), ("direction", "received")]);
    assert!(sent > 100.0, "{sent}");

    let bin = |name: &str| {
        let cache = std::env::var_os("PILLION_CACHE").unwrap_or_else(|| ".cache".into());
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(cache).join("bin").join(name);
        assert!(path.exists(), "{} is missing: run tests/parts/install.sh", path.display());
        path.into_os_string().into_string().unwrap()
    };
    let mut server = place.command(0, &[bin("grpc-go-server"), "-port=10000".to_owned()]);
    let _server = Running(server.stderr(Stdio::null()).spawn().unwrap());
    listens(place, "127.0.0.1:10000");
    for case in ["empty_unary", "large_unary", "ping_pong", "status_code_and_message"] {
        let words = [
            bin("grpc-go-client"),
            "-server_host=grpc".into(),
            "-server_port=10000".into(),
            format!("-test_case={case}"),
        ];
        let output = world.front.place.command(0, &words).output().unwrap();
        assert!(output.status.success(), "{case}: {}", said(&output));
    }
    let calls = |template: &str| {
        world.front.metrics().get("http_client_request_duration_seconds_count", &[("upstream", template)])
    };
    until("the calls are counted for the upstream that the authority names", || {
        calls("grpc:10000") + calls("grpc") > 3.5
    });
}

/// Told to end, so that it ends its own processes.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.0.wait();
    }
}

#[test]
fn dns_and_what_is_left_alone_are_not_touched() {
    let world = World::captured("", &["--skip-outbound-ports", "7000", "--skip-inbound-ports", "7000"]);
    let (front, users) = (&world.front, &world.users);
    let udp = users.place.inside(|| UdpSocket::bind("10.87.0.2:53")).unwrap();
    let asker = front.place.inside(|| UdpSocket::bind("10.87.0.1:0")).unwrap();
    asker.send_to(b"who?", "10.87.0.2:53").unwrap();
    udp.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut bytes = [0; 16];
    let (length, from) = udp.recv_from(&mut bytes).unwrap();
    assert_eq!((&bytes[..length], from), (&b"who?"[..], asker.local_addr().unwrap()));

    for at in ["10.87.0.2:53", "10.87.0.2:7000", "[fd87::2]:7000"] {
        let service = users.place.serve(at, banner);
        let stream = front.place.connect(at).unwrap();
        until("the service has a caller", || !service.callers.lock().unwrap().is_empty());
        assert_eq!(
            service.callers.lock().unwrap()[0],
            stream.local_addr().unwrap(),
            "{at}: nobody is between"
        );
    }
    for pod in [front, users] {
        assert!(pod.metrics().get("pillion_captured_connections_total", &[]) < 0.5, "nothing was captured");
    }
    assert!(front.place.connect("10.87.0.1:8790").is_ok(), "the own machine");
    assert!(front.place.connect("10.87.0.2:8790").is_ok(), "the probes of another");
}

#[test]
fn a_connection_that_stood_before_the_rules_stays_as_it_is() {
    let world = World::new("");
    let service = world.users.place.serve("10.87.0.2:9200", banner);
    let mut stream = world.front.place.connect("10.87.0.2:9200").unwrap();
    let mut bytes = [0; 8];
    stream.read_exact(&mut bytes).unwrap();
    world.front.redirect(&[]);
    world.users.redirect(&[]);
    stream.write_all(b"still me").unwrap();
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"still me");
    assert_eq!(service.callers.lock().unwrap()[..], [stream.local_addr().unwrap()], "nobody is between");
}

#[test]
fn a_pod_that_calls_its_own_name_goes_through_its_own_sidecar_both_ways() {
    let world = World::captured("", &[]);
    let users = &world.users;
    assert_eq!(users.get("http://users/"), "users\n");
    let via = world.only().field("via").unwrap_or_default();
    assert!(via.contains("users-out") && via.contains("users-in"), "{via}");
    assert_eq!((users.captured("outbound", "http"), users.captured("inbound", "service")), (1.0, 1.0));
}

#[test]
fn only_what_is_registered_is_reached_where_egress_says_so() {
    let world = World::captured("egress: registered_only\n", &[]);
    let front = &world.front;
    http_flows(&world);
    let output = front.curl(&["-i", "http://nobody.example:9100/"]);
    let answer = said(&output);
    assert!(
        answer.starts_with("HTTP/1.1 403") && answer.contains("pillion-error: egress_denied"),
        "{answer}"
    );
    let line = "- to: \\\"10.87.0.2:9100\\\"";
    assert!(answer.contains(line), "{answer}");

    let service = world.users.place.serve("10.87.0.2:9200", banner);
    let mut stream = front.place.connect("10.87.0.2:9200").unwrap();
    assert_eq!(stream.read(&mut [0; 8]).unwrap_or(0), 0, "closed");
    assert!(service.callers.lock().unwrap().is_empty());
    front.captured_is("outbound", "denied", 1.0);
    until("the log tells the line that allows it", || {
        front.log().contains("- to: \\\"10.87.0.2:9200\\\"")
            || front.log().contains("- to: \"10.87.0.2:9200\"")
    });

    // The line, written where the log says.
    let policy =
        "version: 1\noutbound:\n- to: \"10.87.0.2:9200\"\n- {to: users, route: 'GET /v1/users/{id}'}\n";
    std::fs::write(front.folder.join("policies/users.yaml"), policy).unwrap();
    until("the policy lets it pass", || {
        let Ok(mut stream) = front.place.connect("10.87.0.2:9200") else { return false };
        matches!(stream.read(&mut [0; 8]), Ok(8))
    });
}

#[test]
fn a_sidecar_that_captures_itself_notices() {
    let mut world = World::captured("", &[]);
    // Not the user whose traffic is left alone.
    world.front.start(4242);
    let output = world.front.curl(&["-i", "http://users/"]);
    assert!(said(&output).contains("pillion-error: loop_detected"), "{}", said(&output));
    let mut stream = world.front.place.connect("10.87.0.2:9300").unwrap();
    assert_eq!(stream.read(&mut [0; 8]).unwrap_or(0), 0, "closed");
    until("the loop is counted", || world.front.captured("outbound", "loop") > 0.5);
    assert!(world.front.log().contains("loop_detected"), "{}", world.front.log());
    let captured = world.front.metrics().get("pillion_captured_connections_total", &[]);
    assert!(captured < 20.0, "it ends soon: {captured} connections");
}

#[test]
fn a_port_of_the_sidecar_can_not_be_reached_from_elsewhere() {
    let world = World::captured("", &[]);
    // A rule of somebody else's that turns all to the inbound port.
    let words = "-t nat -I PREROUTING -p tcp --dport 8700 -j REDIRECT --to-ports 8702";
    let mut command = Command::new(&*IP);
    command.args(["netns", "exec", &world.users.place.name]).arg(program("iptables", "iptables"));
    assert!(command.args(words.split(' ')).status().unwrap().success());
    let mut stream = world.front.place.connect("10.87.0.2:8700").unwrap();
    let _ = stream.write_all(b"GET /config HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    assert!(!answer.contains("200 OK"), "{answer}");
    until("it was refused", || world.users.captured("inbound", "loop") > 0.5);
}

/// Says its name, and then what it reads.
fn named(name: &'static [u8]) -> impl Fn(std::net::TcpStream) + Send + Sync + Clone + 'static {
    move |mut stream| {
        let mut bytes = [0; 4096];
        while let Ok(length @ 1..) = stream.read(&mut bytes) {
            if stream.write_all(&[name, &bytes[..length]].concat()).is_err() {
                return;
            }
        }
    }
}

#[test]
fn tls_goes_by_its_name_or_where_it_was_going() {
    let world = World::captured("", &[]);
    let _db = world.users.place.serve("10.87.0.2:5432", named(b"db "));
    let _other = world.users.place.serve("10.87.0.2:9400", named(b"other "));
    for (number, (name, silent, server)) in [
        (Some("db"), false, &b"db "[..]),
        (None, false, b"other "),
        (Some("nobody.test"), false, b"other "),
        // The connection that was made while it was silent goes to the wrong one.
        (Some("db"), true, b"db "),
    ]
    .into_iter()
    .enumerate()
    {
        let mut stream = world.front.place.connect("10.87.0.2:9400").unwrap();
        if silent {
            std::thread::sleep(Duration::from_millis(300));
        }
        let hello = hello(name, 100);
        stream.write_all(&hello).unwrap();
        let mut answer = vec![0; server.len() + hello.len()];
        stream.read_exact(&mut answer).unwrap_or_else(|error| panic!("{number}: {error}"));
        assert_eq!(answer, [server, &hello].concat(), "{number}");
    }
    assert_eq!(world.front.captured("outbound", "sni"), 2.0);
    assert_eq!(world.front.captured("outbound", "address"), 2.0);
}

#[test]
fn a_caller_that_is_silent_for_a_while_still_goes_by_the_authority() {
    // Its first destination is nobody's, and not registered.
    let world = World::captured("egress: registered_only\n", &[]);
    let mut stream = world.front.place.connect("10.96.0.10:80").unwrap();
    std::thread::sleep(Duration::from_millis(300));
    stream.write_all(b"GET / HTTP/1.1\r\nHost: users\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
}
