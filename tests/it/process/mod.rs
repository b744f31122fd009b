//! `pillion run` itself, as a process with files, under load and under attack.
//! `PILLION_TEST_PROGRAM` names another build of it.

mod bodies;
mod changes;
mod slow;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::support::h2peer::{Answer, H2Backend};
use crate::support::{Process, Recorder};

const MIB: u64 = 1 << 20;

/// An HTTP/2 backend that answers with the path.
fn echo_http2() -> H2Backend {
    H2Backend::answering(|seen| Answer {
        body: vec![seen.head.uri.path().to_owned().into()],
        ..Answer::default()
    })
}

fn echo_http1() -> Recorder {
    Recorder::answering(crate::support::backend::echo_path)
}

/// How much the memory of `processes` grows at most while `work` is done.
fn growth<T>(processes: &[&Process], work: impl FnOnce() -> T) -> (Vec<u64>, T) {
    let before: Vec<u64> = processes.iter().map(|process| process.resident()).collect();
    let (over, ended) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let before = &before;
        let watcher = scope.spawn(move || {
            let mut most = vec![0; processes.len()];
            // The sender's drop ends it, in a panic too.
            while ended.recv_timeout(Duration::from_millis(20))
                == Err(std::sync::mpsc::RecvTimeoutError::Timeout)
            {
                for (index, process) in processes.iter().enumerate() {
                    most[index] = most[index].max(process.resident().saturating_sub(before[index]));
                }
            }
            most
        });
        let done = work();
        drop(over);
        (watcher.join().expect("the watcher"), done)
    })
}

/// Waits until `value` has not changed for a while.
fn settled(mut value: impl FnMut() -> u64) {
    let mut last = (value(), Instant::now());
    while last.1.elapsed() < Duration::from_millis(500) {
        let now = value();
        if now != last.0 {
            last = (now, Instant::now());
        }
        std::thread::yield_now();
    }
}

fn everywhere(process: &Process) -> [(SocketAddr, &'static str); 2] {
    [(process.outbound, "users"), (process.inbound, "front")]
}
