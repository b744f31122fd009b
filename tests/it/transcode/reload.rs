//! A descriptor that changes while the sidecar runs.

use crate::support::{beside_others, call, process, until};

use super::{frame, grpc};
use crate::support::h2peer::H2Backend;

#[test]
fn a_descriptor_that_changes_is_read_anew_and_a_bad_one_changes_nothing() {
    let _turn = beside_others();
    let backend = H2Backend::answering(|_| grpc(vec![frame("User", "{}")], &[("grpc-status", "0")]));
    let committed = concat!(env!("CARGO_MANIFEST_DIR"), "/config/policies/shop.pb");
    let good = std::fs::read(committed).unwrap();
    // The same with another path, of the same length.
    let place = good.windows(12).position(|bytes| bytes == b"\x0e/v1/users/{").expect("the rule of Get");
    let mut other = good.clone();
    other[place + 5] = b'X';
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("shop.pb");
    let write = |bytes: &[u8]| {
        let new = folder.path().join("new");
        std::fs::write(&new, bytes).unwrap();
        std::fs::rename(&new, &file).unwrap();
    };
    write(&good);
    let policy = format!("version: 1\ninbound:\n  - json: {{descriptor: '{}'}}\n", file.display());
    let front = process("front").service(backend.address(), "grpc").policy(policy).start();
    let status = |path: &str| call(front.inbound, format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).status;
    assert_eq!((status("/v1/users/1"), status("/v1/Xsers/1")), (200, 404));
    write(&other);
    until("the new descriptor is in force", || status("/v1/Xsers/1") == 200);
    assert_eq!(status("/v1/users/1"), 404);
    write(b"nonsense");
    until("it is refused", || front.metrics().get("pillion_config_rejected", &[]) == 1.0);
    assert_eq!(status("/v1/Xsers/1"), 200, "the last good one stays");
    assert!(front.said().contains("is no descriptor set"), "{}", front.said());
    write(&good);
    until("all is well again", || status("/v1/users/1") == 200);
    assert_eq!(front.metrics().get("pillion_config_rejected", &[]), 0.0);
}
