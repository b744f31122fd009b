//! Two sidecars between a client and a real server, as processes, from files.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::Sizes;
use crate::support::{Process, process, until};

/// Client → the caller's sidecar → the server's sidecar → server.
pub struct Chain {
    /// The local port of the caller's sidecar.
    pub at: SocketAddr,
    protocol: &'static str,
    front: Process,
    back: Process,
}

/// Ends what waits for it, also when the work before has failed.
struct Over<'a>(&'a AtomicBool);

/// A port that nothing listens on just now, below those of outgoing connections;
/// nobody gets one twice.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let free = |port: &u16| {
        TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok() && GIVEN.lock().unwrap().insert(*port)
    };
    std::iter::repeat_with(|| fastrand::u16(20_000..32_000)).find(free).expect("a free port")
}

impl Chain {
    /// From a local port to `server`, which both sidecars are told speaks `protocol`.
    #[track_caller]
    pub fn at(port: u16, server: SocketAddr, protocol: &'static str) -> Self {
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let back = process("db").service(server, protocol).policy(inbound(0)).start();
        let front = process("caller")
            .upstream("db", &[back.inbound])
            .upstream("other", &[unrelated(0)])
            .policy(outbound(at, protocol, 0))
            .start();
        Self { at, protocol, front, back }
    }

    /// Does `work` while both sidecars load changed files again and again: the
    /// caller's also has changing endpoints of an upstream beside.
    pub fn reloading<T>(&self, sizes: &Sizes, work: impl FnOnce() -> T) -> T {
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let changes = scope.spawn(|| self.change_until(sizes, &over));
            let done = {
                let _over = Over(&over);
                work()
            };
            let count = changes.join().unwrap();
            for sidecar in [&self.front, &self.back] {
                let read =
                    |result| sidecar.metrics().get("pillion_config_reloads_total", &[("result", result)]);
                // Changes that are close together are read together.
                until("the changes are read", || read("applied") * 2.0 >= count as f64);
                assert_eq!(read("rejected"), 0.0, "{}", sidecar.said());
            }
            println!("{count} changes of the files on each side");
            done
        })
    }

    fn change_until(&self, sizes: &Sizes, over: &AtomicBool) -> usize {
        let mut count = 0;
        loop {
            count += 1;
            self.front.policy(&outbound(self.at, self.protocol, count));
            move_unrelated(&self.front, count);
            self.back.policy(&inbound(count));
            let next = Instant::now() + sizes.reload_pause;
            while Instant::now() < next {
                if over.load(Ordering::Relaxed) {
                    return count;
                }
                thread::sleep(Duration::from_millis(10));
            }
        }
    }

    /// Open descriptors of both sidecars.
    pub fn descriptors(&self) -> usize {
        let of = |sidecar: &Process| format!("/proc/{}/fd", sidecar.child.id());
        [&self.front, &self.back].map(|sidecar| fs::read_dir(of(sidecar)).unwrap().count()).iter().sum()
    }

    /// Bytes that the caller's sidecar has carried to the server and back.
    pub fn carried(&self) -> f64 {
        self.front.metrics().get("pillion_tcp_bytes_total", &[])
    }

    /// Connections that found no server.
    pub fn failed(&self) -> f64 {
        self.back.metrics().get("pillion_errors_total", &[("reason", "connect_refused")])
    }
}

fn outbound(at: SocketAddr, protocol: &str, number: usize) -> String {
    format!(
        "version: 1\noutbound:\n  \
         - {{to: db, protocol: {protocol}, listen: '{at}', tunnel_idle: {}s}}\n  \
         - {{to: other, timeout: {}s}}\n  \
         - {{to: other, route: /{number}}}\n",
        3_600 + number,
        1 + number
    )
}

fn inbound(number: usize) -> String {
    format!("version: 1\ninbound:\n  - tunnel_idle: {}s\n  - route: /{number}\n", 3_600 + number)
}

/// An endpoint of the upstream that nobody calls.
fn unrelated(number: usize) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(127, 9, 9, 9), 1 + number as u16))
}

/// Gives the upstream beside another endpoint.
fn move_unrelated(sidecar: &Process, number: usize) {
    let (file, new) = (sidecar.folder.path().join("pillion.yaml"), sidecar.folder.path().join("new"));
    let text = fs::read_to_string(&file).unwrap();
    let moved = text.replace(&unrelated(number - 1).to_string(), &unrelated(number).to_string());
    assert_ne!(moved, text);
    fs::write(&new, moved).unwrap();
    fs::rename(new, file).unwrap();
}

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
