//! gRPC-Web as `@connectrpc/connect-web` and `grpc-web` speak it.

use std::process::Stdio;

use super::{Shop, command};
use crate::parts::installed;
use crate::support::{beside_others, until};

/// What Connect's client must see.
const CONNECT: &str = "\
connect unary {\"id\":\"7\",\"fullName\":\"Ada\",\"level\":\"ADMIN\",\"tags\":[\"a\"]} m l
connect large true
connect watch {\"id\":\"1\"}
connect watch {\"id\":\"2\"}
connect watch {\"id\":\"3\"}
connect streamed true
connect before 1
connect failed 8 this was asked for
connect error 5 nobody 404 € id
connect error 5 nobody 405 € id
";

/// What the official client must see; only its text form streams.
const OFFICIAL: &str = "\
text unary {\"id\":\"7\",\"fullName\":\"Ada\",\"level\":\"ADMIN\",\"tags\":[\"a\"]}
text error 5 nobody 7 €
text large true
text watch {\"id\":\"1\"},{\"id\":\"2\"},{\"id\":\"3\"} end
text streamed true
text watch {\"id\":\"1\"} 8 this was asked for
binary unary {\"id\":\"7\",\"fullName\":\"Ada\",\"level\":\"ADMIN\",\"tags\":[\"a\"]}
binary error 5 nobody 7 €
binary large true
";

/// What `EventSource` and `fetch` must see.
const PLAIN: &str = "\
events {\"id\":\"1\"} {\"id\":\"2\"} error {\"code\":9,\"details\":[{\"@type\":\"type.googleapis.com/google.rpc.BadRequest\",\"fieldViolations\":[{\"description\":\"asked for\",\"field\":\"id\"}]}],\"message\":\"this was asked for\"}
fetch 200 {\"id\":\"7\",\"fullName\":\"Ada\",\"level\":\"ADMIN\",\"tags\":[\"a\"]}
";

#[test]
fn connects_client_in_node() {
    let _turn = beside_others();
    let shop = Shop::start("");
    let out = command("node").arg(installed("browser/node.mjs")).arg(shop.url("")).output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    assert_eq!(said, CONNECT, "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn both_clients_in_chromium_on_a_page_of_the_service() {
    let _turn = beside_others();
    let shop = Shop::start("");
    let profile = tempfile::tempdir().unwrap();
    let mut chromium = command("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--no-proxy-server"])
        .args(["--disable-background-networking", "--remote-debugging-port=0"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(shop.url("/v1/files/page.html"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let reported = std::panic::catch_unwind(|| {
        until("the page has reported", || shop.said.lock().unwrap().iter().any(|line| line == "report end"));
    });
    let _ = chromium.kill();
    let _ = chromium.wait();
    assert!(reported.is_ok(), "no report: {:?}; {}", shop.said.lock().unwrap(), shop.front.said());
    let said = shop.said.lock().unwrap();
    let lines = said.iter().filter_map(|line| line.strip_prefix("report ")).filter(|line| *line != "end");
    let report: String = lines.map(|line| format!("{line}\n")).collect();
    assert_eq!(report, format!("{CONNECT}{OFFICIAL}{PLAIN}"));
}
