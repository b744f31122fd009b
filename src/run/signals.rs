//! The signals of the process as one stream.

use std::future::poll_fn;
use std::io;
use std::task::Poll;

use rustix::process::Signal;
use tokio::signal::unix::{self, SignalKind};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// SIGTERM or SIGINT: end; the second one at once.
    End(Signal),
    /// SIGHUP: read the files anew.
    Reload,
    /// For the service.
    Pass(Signal),
    /// SIGCHLD: a child has ended.
    Child,
}

/// Listens from its making on; a signal that comes before somebody asks is kept.
pub struct Signals {
    all: Vec<(Request, unix::Signal)>,
}

impl Signals {
    /// Must be called in a runtime. SIGUSR1, SIGUSR2 and SIGWINCH no longer end
    /// the process; SIGQUIT does unless a service is there to have it.
    pub fn new(service: bool) -> io::Result<Self> {
        let mut wanted = vec![
            (Request::End(Signal::TERM), SignalKind::terminate()),
            (Request::End(Signal::INT), SignalKind::interrupt()),
            (Request::Reload, SignalKind::hangup()),
            (Request::Pass(Signal::USR1), SignalKind::user_defined1()),
            (Request::Pass(Signal::USR2), SignalKind::user_defined2()),
            (Request::Pass(Signal::WINCH), SignalKind::window_change()),
        ];
        if service {
            wanted.push((Request::Pass(Signal::QUIT), SignalKind::quit()));
            wanted.push((Request::Child, SignalKind::child()));
        }
        let all = wanted.into_iter().map(|(request, kind)| Ok((request, unix::signal(kind)?)));
        Ok(Self { all: all.collect::<io::Result<_>>()? })
    }

    /// The next one.
    pub async fn next(&mut self) -> Request {
        poll_fn(|context| {
            for (request, signal) in &mut self.all {
                if let Poll::Ready(Some(())) = signal.poll_recv(context) {
                    return Poll::Ready(*request);
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// The exit code of a process that a signal ended.
pub fn exit_code(signal: Signal) -> u8 {
    u8::try_from(128 + signal.as_raw()).unwrap_or(1)
}
