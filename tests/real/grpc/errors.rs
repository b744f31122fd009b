//! Errors of the sidecar's own, as each library reads them: a status with
//! `google.rpc` details.

use serde_json::Value;

use super::programs::{self, Language};
use super::said;
use crate::support::{Deaf, sidecar};

/// What the library prints of the status.
#[track_caller]
fn status(client: Language, outbound: std::net::SocketAddr, upstream: &str, connect: bool) -> Value {
    let output = if connect {
        programs::error(client, &format!("{upstream}:50051"), "-", Some(outbound))
    } else {
        programs::error(client, &outbound.to_string(), upstream, None)
    };
    let said = said(&output);
    serde_json::from_str(said.trim()).unwrap_or_else(|error| panic!("{error}: {said}"))
}

#[test]
fn each_library_decodes_the_details_of_an_error_straight_and_through_connect() {
    let deaf = Deaf::new();
    let sidecar = sidecar("shop").upstream("users", deaf.address()).start();
    for client in Language::ALL {
        for connect in [false, true] {
            let told = status(client, sidecar.at.outbound, "users", connect);
            let why = format!("{client:?}, CONNECT {connect}: {told:#}");
            assert_eq!(told["code"], 14, "{why}");
            assert!(told["message"].as_str().unwrap().starts_with("connect_refused: "), "{why}");
            let details = told["details"].as_array().unwrap();
            let info = details.iter().find(|one| one.get("reason").is_some()).expect(&why);
            assert_eq!(
                (&info["reason"], &info["domain"]),
                (&"CONNECT_REFUSED".into(), &"pillion.mesh".into())
            );
            assert_eq!(info["metadata"]["service"], "shop", "{why}");
            assert!(info["metadata"]["remedy"].as_str().unwrap().contains("Is the service running"), "{why}");
            let retry = details.iter().find(|one| one.get("retry_ms").is_some()).expect(&why);
            assert_eq!(retry["retry_ms"], 1000, "{why}");
        }
    }
}
