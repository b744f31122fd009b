//! TLS that gateways serve. The certificates beside this file are of a root made
//! for these tests, whose key nobody has.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ClientConfig, HandshakeKind, ProtocolVersion, RootCertStore};

use super::model;
use super::with_gateways;
use crate::support::{Client, Recorder, Sidecar, beside_others, process, sidecar, until};

const CERTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/gateway/certs");

struct Shop {
    sidecar: Sidecar,
    users: Recorder,
}

fn shop(more: &str) -> Shop {
    let users = Recorder::start();
    let certificate = |name| format!("{{cert: {CERTS}/{name}.pem, key: {CERTS}/{name}.key}}");
    let keys = format!(
        "    tls: {{certificates: [{}, {}]{more}}}\n    routes:
      - {{route: GET /old, redirect: {{host: new.example}}}}\n      - {{route: /**, to: users}}",
        certificate("shop"),
        certificate("other"),
    );
    let setup = sidecar("edge").upstream("users", users.address());
    Shop { sidecar: with_gateways(setup, model(&keys, "")).start(), users }
}

impl Shop {
    fn at(&self) -> SocketAddr {
        *self.sidecar.at.gateways.values().next().unwrap()
    }
}

fn client(
    versions: &[&'static tokio_rustls::rustls::SupportedProtocolVersion],
    alpn: &[&str],
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(format!("{CERTS}/ca.pem")).unwrap()).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

type Secure = TlsStream<tokio::net::TcpStream>;

async fn connect(at: SocketAddr, config: &Arc<ClientConfig>, name: &'static str) -> std::io::Result<Secure> {
    let tcp = tokio::net::TcpStream::connect(at).await?;
    tokio_rustls::TlsConnector::from(config.clone()).connect(ServerName::try_from(name).unwrap(), tcp).await
}

/// Over HTTP/1.1: the whole answer.
async fn get(stream: &mut Secure, host: &str, path: &str) -> std::io::Result<String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(30), future).await.expect("in time") })
}

#[test]
fn both_versions_of_http_and_of_tls_are_served() {
    let _turn = beside_others();
    let shop = shop("");
    for (version, number) in [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)] {
        let config = client(&[version], &["http/1.1"]);
        run(async {
            let mut stream = connect(shop.at(), &config, "shop.example").await.unwrap();
            assert_eq!(stream.get_ref().1.protocol_version(), Some(number));
            let answer = get(&mut stream, "shop.example", "/a").await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            let mut stream = connect(shop.at(), &config, "shop.example").await.unwrap();
            let answer = get(&mut stream, "shop.example", "/old").await.unwrap();
            assert!(answer.contains("location: https://new.example/old"), "{answer}");
            // Sessions are taken up again.
            assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
        });
        let seen = shop.users.only();
        assert_eq!(seen.field("x-forwarded-proto").as_deref(), Some("https"));
        assert!(seen.field("forwarded").unwrap().ends_with("proto=https"));
    }
    run(async {
        let stream =
            connect(shop.at(), &client(&[&TLS13], &["h2", "http/1.1"]), "a.other.example").await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        let connection = tokio::spawn(connection);
        let call = |url: &str| http::Request::get(url).body(()).unwrap();
        let got = crate::support::h2peer::exchange(
            sender.clone(),
            call("https://a.other.example/b"),
            Vec::new(),
            None,
        );
        assert_eq!(got.await.unwrap().head.status, 200);
        // A host of another certificate needs a connection of its own.
        let got = crate::support::h2peer::exchange(
            sender.clone(),
            call("https://shop.example/b"),
            Vec::new(),
            None,
        );
        assert_eq!(got.await.unwrap().head.status, 421);
        drop(sender);
        connection.abort();
    });
    shop.sidecar.metric_is(
        "pillion_tls_handshakes_total",
        &[("direction", "gateway"), ("result", "ok")],
        5.0,
    );
}

#[test]
fn the_name_that_is_asked_for_chooses_the_certificate() {
    let _turn = beside_others();
    let shop = shop("");
    let config = client(&[&TLS13], &[]);
    run(async {
        for (name, fits) in [
            ("shop.example", true),
            ("a.shop.example", true),
            ("other.example", true),
            ("else.example", false),
        ] {
            let connected = connect(shop.at(), &config, name).await;
            assert_eq!(connected.is_ok(), fits, "{name}: {:?}", connected.err());
        }
    });
}

#[test]
fn what_is_no_handshake_ends() {
    let _turn = beside_others();
    let shop = shop(", min_version: TLSv1.3, handshake_timeout: 300ms, handshakes: 1");
    let count = |result: &str, wanted| {
        shop.sidecar.metric_is("pillion_tls_handshakes_total", &[("result", result)], wanted);
    };
    let answer = crate::support::get(shop.at(), "shop.example", "/a");
    assert_eq!((answer.status, answer.reason().as_deref()), (400, Some("malformed_request")));
    count("plain", 1.0);
    let mut client_of_garbage = Client::connect(shop.at());
    client_of_garbage.send(b"\x16\x03\x01\x00\x05hello");
    client_of_garbage.rest();
    count("refused", 1.0);
    run(async {
        assert!(connect(shop.at(), &client(&[&TLS12], &[]), "shop.example").await.is_err());
    });
    count("refused", 2.0);
    // One that says nothing, and one more while it holds the only place.
    let mut silent = Client::connect(shop.at());
    let mut more = Client::connect(shop.at());
    assert!(silent.is_ended() && more.is_ended());
    count("slow", 1.0);
    count("limit", 1.0);
    assert_eq!(shop.users.take().len(), 0);
}

#[test]
fn a_certificate_that_changes_is_served_and_a_bad_one_is_not() {
    let _turn = beside_others();
    let users = Recorder::start();
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str| {
        for kind in ["key", "pem"] {
            let new = folder.path().join("new");
            std::fs::copy(format!("{CERTS}/{name}.{kind}"), &new).unwrap();
            std::fs::rename(new, folder.path().join(format!("tls.{kind}"))).unwrap();
        }
    };
    put("shop");
    let port = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    let at = folder.path().display();
    let gateway = format!(
        "gateway:\n  - listen: {port}\n    tls: {{certificates: [{{cert: {at}/tls.pem, key: {at}/tls.key}}]}}\n    \
         routes: [{{route: /**, to: users}}]\n"
    );
    let process = process("edge").upstream("users", &[users.address()]).with(&gateway).start();
    let config = client(&[&TLS13], &[]);
    let serves = |name| run(async { connect(port, &config, name).await.is_ok() });
    assert!(serves("shop.example") && !serves("other.example"));
    put("other");
    until("the new certificate is served", || serves("other.example"));
    assert!(!serves("shop.example"));
    std::fs::write(folder.path().join("tls.pem"), "no certificate").unwrap();
    until("the file is refused", || process.metrics().get("pillion_config_rejected", &[]) == 1.0);
    assert!(serves("other.example"));
    assert!(process.said().contains("holds no certificate in PEM"), "{}", process.said());
}
