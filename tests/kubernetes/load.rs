//! Calls through the sidecar, one after the other, and who answered them.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::world::within;

/// Ended by its drop.
pub struct Load {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    ended: AtomicBool,
    /// When, and who.
    answers: Mutex<Vec<(Instant, String)>>,
    failures: Mutex<Vec<String>>,
}

impl Load {
    /// About 200 calls a second to `name` on `stream`'s like.
    pub fn start(name: &str, connect: impl Fn() -> TcpStream + Send + 'static) -> Self {
        let shared = Arc::new(Shared::default());
        let (own, name) = (shared.clone(), name.to_owned());
        let thread = std::thread::spawn(move || {
            let mut stream = BufReader::new(connect());
            while !own.ended.load(Ordering::Relaxed) {
                match call(&mut stream, &name) {
                    Ok((200, pod)) => own.answers.lock().unwrap().push((Instant::now(), pod)),
                    other => {
                        own.failures.lock().unwrap().push(format!("{other:?}"));
                        stream = BufReader::new(connect());
                    }
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Self { shared, thread: Some(thread) }
    }

    /// Whether `pod` has answered after `since`.
    pub fn saw(&self, pod: &str, since: Instant) -> bool {
        let answers = self.shared.answers.lock().unwrap();
        answers.iter().rev().take_while(|(at, _)| *at > since).any(|(_, who)| who == pod)
    }

    /// Waits until `pod` answers. Returns how long after `since` it did.
    #[track_caller]
    pub fn first(&self, pod: &str, since: Instant) -> Duration {
        within(&format!("{pod} answers"), || self.saw(pod, since));
        let answers = self.shared.answers.lock().unwrap();
        let first = answers.iter().find(|(at, who)| *at > since && who == pod);
        first.unwrap().0 - since
    }

    /// Waits until `pod` has not answered for half a second. Returns how long
    /// after `since` it did for the last time.
    #[track_caller]
    pub fn last(&self, pod: &str, since: Instant) -> Duration {
        let quiet = Duration::from_millis(500);
        within(&format!("{pod} no longer answers"), || {
            since.elapsed() > quiet && !self.saw(pod, Instant::now() - quiet)
        });
        let answers = self.shared.answers.lock().unwrap();
        let last = answers.iter().rev().find(|(_, who)| who == pod);
        last.map_or(Duration::ZERO, |(at, _)| at.saturating_duration_since(since))
    }

    #[track_caller]
    pub fn end_without_failures(&self) {
        let failures = self.shared.failures.lock().unwrap();
        let answers = self.shared.answers.lock().unwrap().len();
        println!("{answers} calls, {} failed", failures.len());
        // The first call may come before the first answer of discovery.
        assert!(failures.is_empty(), "{failures:#?}");
        assert!(answers > 100, "{answers}");
    }
}

/// One call. Returns the status and the body.
pub fn call(stream: &mut BufReader<TcpStream>, name: &str) -> std::io::Result<(u16, String)> {
    stream.get_mut().write_all(format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n").as_bytes())?;
    let (mut status, mut length) = (0, 0);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(rest) = line.strip_prefix("http/1.1 ") {
            status = rest.split(' ').next().unwrap_or_default().parse().unwrap_or_default();
        } else if let Some(rest) = line.strip_prefix("content-length:") {
            length = rest.trim().parse().unwrap_or_default();
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            ended.unwrap().expect("the load panicked");
        }
    }
}
