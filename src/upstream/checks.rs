//! Asks the endpoints of an upstream for their health, once for the whole
//! process, on the control thread.

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, spawn_local};

use crate::base::{Protocol, ProxyProtocol};
use crate::config::model::{HealthCheck, Question};
use crate::policy::fleet::Layout;
use crate::policy::pulse::Pulse;
use crate::policy::vitals::Vitals;

/// Questions of all upstreams that are open at one time.
const AT_ONCE: usize = 64;
/// The first question to an endpoint comes within this time.
const FIRST: Duration = Duration::from_millis(200);
/// The part of an interval that chance takes off.
const JITTER: f64 = 0.1;

/// One question to one endpoint.
#[derive(Clone, Debug)]
pub struct Probe {
    /// Whom.
    pub address: SocketAddr,
    /// What.
    pub question: Question,
    /// What it speaks.
    pub protocol: Protocol,
    /// How it is told of callers.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// For the answer.
    pub timeout: Duration,
}

/// How a question is asked: `Err` says why the endpoint is not healthy.
pub type Ask = Rc<dyn Fn(Probe) -> Pin<Box<dyn Future<Output = Result<(), String>>>>>;

/// Asks, for all upstreams together no more than so many at one time.
#[derive(Clone)]
pub struct Asker {
    ask: Ask,
    room: Arc<Semaphore>,
}

/// The checks of one upstream.
pub struct Checks {
    asker: Asker,
    check: Option<HealthCheck>,
    protocol: Protocol,
    proxy_protocol: Option<ProxyProtocol>,
    running: HashMap<u32, Running>,
    answers: mpsc::UnboundedSender<Answer>,
}

/// One endpoint that is asked.
struct Running {
    vitals: Arc<Vitals>,
    pulse: Pulse,
    why: String,
    task: AbortHandle,
}

/// What an endpoint answered.
pub struct Answer {
    slot: u32,
    vitals: Arc<Vitals>,
    result: Result<(), String>,
}

/// An endpoint that is healthy, or no more.
pub struct Change {
    /// Which.
    pub vitals: Arc<Vitals>,
    /// Why it is not; `None` where it is.
    pub why: Option<String>,
    /// Which.
    pub slot: u32,
}

impl Asker {
    /// Asks by `ask`.
    pub fn new(ask: Ask) -> Self {
        Self { ask, room: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

impl Checks {
    /// Nobody is asked. Also gives where the answers come.
    pub fn new(asker: Asker) -> (Self, mpsc::UnboundedReceiver<Answer>) {
        let (answers, inbox) = mpsc::unbounded_channel();
        let (protocol, proxy_protocol, running) = (Protocol::Auto, None, HashMap::new());
        (Self { asker, check: None, protocol, proxy_protocol, running, answers }, inbox)
    }

    /// What is asked from now on. Who was sick is so no more when nothing is asked.
    pub fn set(&mut self, check: Option<HealthCheck>, protocol: Protocol, proxy: Option<ProxyProtocol>) {
        if self.check != check || self.protocol != protocol || self.proxy_protocol != proxy {
            self.running.clear();
            (self.check, self.protocol, self.proxy_protocol) = (check, protocol, proxy);
        }
    }

    /// Whether anybody is asked.
    pub fn is_on(&self) -> bool {
        self.check.is_some()
    }

    /// Asks those of `layout`, and nobody else.
    pub fn follow(&mut self, layout: &Layout) {
        let Some(check) = &self.check else { return };
        self.running.retain(|slot, running| {
            layout.member(*slot).is_some_and(|member| Arc::ptr_eq(&member.vitals, &running.vitals))
        });
        for (slot, member) in layout.present() {
            if self.running.contains_key(&slot) {
                continue;
            }
            let mut address = member.facts.address;
            address.set_port(check.port.unwrap_or(address.port()));
            let probe = Probe {
                address,
                question: check.question.clone(),
                protocol: self.protocol.or(member.facts.protocol),
                proxy_protocol: self.proxy_protocol,
                timeout: check.timeout,
            };
            let vitals = member.vitals.clone();
            let asked =
                ask_on(self.asker.clone(), probe, check.interval, slot, vitals.clone(), self.answers.clone());
            let task = spawn_local(asked).abort_handle();
            self.running.insert(slot, Running { vitals, pulse: Pulse::default(), why: String::new(), task });
        }
    }

    /// What an endpoint answered last that is not healthy.
    pub fn why(&self, slot: u32) -> &str {
        self.running.get(&slot).map_or("", |running| &running.why)
    }

    /// Takes in an answer; what it changes.
    pub fn take(&mut self, answer: Answer) -> Option<Change> {
        let check = self.check.as_ref()?;
        let running = self.running.get_mut(&answer.slot)?;
        if !Arc::ptr_eq(&running.vitals, &answer.vitals) {
            return None;
        }
        let well = running.pulse.note(answer.result.is_ok(), check.healthy, check.unhealthy);
        running.why = answer.result.err().unwrap_or_default();
        let why = (!well?).then(|| running.why.clone());
        Some(Change { vitals: answer.vitals, why, slot: answer.slot })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn ask_on(
    asker: Asker,
    probe: Probe,
    interval: Duration,
    slot: u32,
    vitals: Arc<Vitals>,
    answers: mpsc::UnboundedSender<Answer>,
) {
    let mut pause = FIRST.min(interval).mul_f64(fastrand::f64());
    loop {
        tokio::time::sleep(pause).await;
        let result = {
            // Never closed.
            let _room = asker.room.acquire().await;
            (asker.ask)(probe.clone()).await
        };
        if answers.send(Answer { slot, vitals: vitals.clone(), result }).is_err() {
            return;
        }
        pause = interval.mul_f64(1.0 - JITTER * fastrand::f64());
    }
}
