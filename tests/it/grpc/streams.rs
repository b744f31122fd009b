//! More calls at a time than one connection takes.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;

use super::peer::{self, Peer, Rules};
use super::{call, message};
use crate::support::h2peer::{H2Client, exchange};
use crate::support::{beside_others, sidecar};

const CALLS: usize = 500;

/// Answers nobody before `CALLS` are there.
fn all_at_once(streams: Option<u32>) -> Peer {
    Peer::start(Rules { streams, ..Rules::default() }, || {
        let (here, all) = (Rc::new(Cell::new(0)), Rc::new(Notify::new()));
        move |_, respond| {
            let (here, all) = (here.clone(), all.clone());
            Box::pin(async move {
                here.set(here.get() + 1);
                if here.get() < CALLS {
                    all.notified().await;
                } else {
                    all.notify_waiters();
                }
                peer::ok(respond);
            })
        }
    })
}

/// Raises the number of files that this process may open to the most.
pub fn many_files() {
    let mut files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    files.current = files.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, files).unwrap();
}

#[test]
fn no_call_waits_for_the_end_of_another_whatever_a_connection_takes() {
    let _turn = beside_others();
    many_files();
    for (streams, connections) in [(Some(1), CALLS), (Some(10), 50), (Some(100), 5), (None, 5)] {
        let peer = all_at_once(streams);
        let sidecar = sidecar("front")
            .upstream("users", peer.address)
            .with(|model| {
                model.limits.streams = 1000;
                model.defaults.connect_timeout = Duration::from_secs(10);
            })
            .start();
        let client = H2Client::connect(sidecar.at.outbound);
        let answers = client.block_on(async {
            let calls = (0..CALLS)
                .map(|_| tokio::spawn(exchange(client.sender.clone(), call(), vec![message(b"x")], None)));
            let mut answers = Vec::new();
            for call in calls.collect::<Vec<_>>() {
                answers.push(call.await.unwrap().unwrap());
            }
            answers
        });
        for answer in &answers {
            assert_eq!((answer.status(), answer.trailer("grpc-status")), (200, Some("0")), "{streams:?}");
        }
        let made = peer.connections();
        // A few more than it takes: the first are made before the limit is known.
        assert!((connections..=connections + 10).contains(&made), "{made} connections with {streams:?}");
    }
}
