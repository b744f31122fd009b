//! Asks endpoints for their health, for those who keep them.

use crate::base::{Protocol, ProxyProtocol};
use crate::clients::health;
use crate::config::model::Question;
use crate::upstream::Probe;

/// Asks once; the error is for a person.
pub(super) async fn ask(probe: Probe) -> Result<(), String> {
    let question = match &probe.question {
        Question::Tcp => health::Question::Connection,
        Question::Grpc(service) => health::Question::Grpc(service),
        Question::Path(path) => match probe.protocol {
            Protocol::Http2 | Protocol::Grpc => health::Question::Path2(path),
            _ => health::Question::Path(path),
        },
    };
    let header = probe.proxy_protocol.map_or(&b""[..], ProxyProtocol::own_header);
    health::ask(probe.address, question, header, probe.timeout).await.map_err(|why| why.to_string())
}
