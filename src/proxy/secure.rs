//! Connections that begin with a handshake of TLS.

use std::rc::Rc;

use tokio::net::TcpStream;

use super::worker::Worker;
use crate::codec::Stream;
use crate::codec::tls::{self, Accepted, Failed};
use crate::config::model::Tls;
use crate::telemetry::names;
use crate::telemetry::record::Direction;

/// The stream within, whether HTTP/2 was agreed on, and the name that the caller
/// asked for. Where it begins like HTTP in the clear the stream is still the
/// socket, so that the caller can be told. `None` where the connection is to end.
pub async fn accept(
    tcp: TcpStream,
    tls: &Tls,
    worker: &Rc<Worker>,
    direction: Direction,
) -> Option<(Stream, bool, Option<Box<str>>)> {
    let ended =
        |result| worker.metrics.counter(&names::TLS_HANDSHAKES, &[direction.as_str(), result]).increment(1);
    let share = tls.handshakes.div_ceil(worker.router().model.workers.max(1));
    let Some(_held) = worker.may_shake_hands(share) else {
        ended("limit");
        worker.limited("handshakes");
        return None;
    };
    let mut timer = worker.timers.at(crate::base::clock::now() + tls.handshake_timeout);
    let mut first = [0];
    let looked = tokio::select! {
        biased;
        looked = tcp.peek(&mut first) => looked,
        () = timer.fired() => {
            ended("slow");
            return None;
        }
    };
    if matches!(looked, Ok(1)) && first[0].is_ascii_uppercase() {
        ended("plain");
        return Some((Stream::from(tcp), false, None));
    }
    match tls::accept(tcp, tls.server.clone(), tls.handshake_timeout, &worker.timers).await {
        Ok(Accepted { stream, http2, name }) => {
            ended("ok");
            Some((stream, http2, name))
        }
        Err(failed) => {
            ended(match failed {
                Failed::Slow => "slow",
                Failed::Gone => "gone",
                Failed::Refused(_) => "refused",
            });
            tracing::debug!(?failed, "a handshake of TLS has failed");
            None
        }
    }
}
