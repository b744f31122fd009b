//! The composition root: the only place that wires the parts together.

mod asking;
mod counting;
mod gather;
mod keys;
mod ports;
mod registered;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::spawn_local;

use self::ports::{key, ports};
use crate::admin::{self, AdminState};
use crate::base::UpstreamName;
use crate::base::directory::Directory;
use crate::base::drain::{self, Stage};
use crate::base::readiness::{Condition, Readiness};
use crate::config::{Model, Values};
use crate::discovery::{Discovery, values};
use crate::proxy::{self, Bulkheads, Gate, Instance, Keyrings, Layer, Rates};
use crate::runtime::{self, Order, Plan};
use crate::telemetry::{Metrics, names};
use crate::upstream::{Board, Fuses, Keepers, Quotas};

/// How long a worker may take to tell those whom it cuts off.
const LAST_WORDS: Duration = Duration::from_millis(1500);
/// How often histograms are folded, and keys of limits let go.
const UPKEEP: Duration = Duration::from_secs(1);

/// What to run, beside the model.
#[derive(Default)]
pub struct Options {
    /// Newer models, each validated; the app applies them.
    pub reloads: Option<mpsc::Receiver<Arc<Model>>>,
    /// What is known of the keys of Consul that the files name; the app asks.
    pub values: Option<Values>,
    /// Where to count; a fresh registry unless told otherwise.
    pub metrics: Metrics,
    /// May hold conditions already, which must be met as well before it is ready.
    pub readiness: Readiness,
    /// A layer around the policy of every route.
    pub layer: Option<Layer>,
}

/// A running sidecar: its threads are up and its listeners are bound.
pub struct App {
    /// The addresses that were bound.
    pub addresses: Addresses,
    /// Whether it takes traffic.
    pub readiness: Readiness,
    /// Its metrics.
    pub metrics: Metrics,
    model: watch::Receiver<Arc<Model>>,
    /// Ends what concerns calls to the service.
    inbound: drain::Signal,
    /// Goes with it, for the entries in registries; nobody waits for them.
    entries: drain::Signal,
    /// Ends the workers.
    workers: drain::Signal,
    /// Ends the control thread, after the workers.
    control: drain::Signal,
    threads: Vec<JoinHandle<()>>,
}

/// The addresses that were bound; port 0 has become a real port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Calls to the service.
    pub inbound: SocketAddr,
    /// Calls of the service.
    pub outbound: SocketAddr,
    /// The admin API.
    pub admin: SocketAddr,
    /// Probes and metrics.
    pub probes: SocketAddr,
    /// The local port of each upstream that has one.
    pub upstreams: BTreeMap<UpstreamName, SocketAddr>,
    /// Calls from outside, by the address that the model names.
    pub gateways: BTreeMap<SocketAddr, SocketAddr>,
}

/// Why a sidecar could not start, for a person.
#[derive(Debug)]
pub struct StartError(pub String);

/// Every listener, bound and not yet served.
struct Bound {
    addresses: Addresses,
    admin: TcpListener,
    probes: TcpListener,
    /// For each worker its own.
    workers: Vec<Vec<(TcpListener, Gate)>>,
}

impl App {
    /// Binds every listener, then starts the threads. An address that is taken
    /// is an error here, and nothing is left running.
    #[allow(clippy::needless_pass_by_value, reason = "it is handed over")]
    pub fn start(model: Arc<Model>, options: Options) -> Result<Self, StartError> {
        let Options { reloads, values, metrics, readiness, layer } = options;
        let Bound { addresses, admin, probes, workers: listeners } = Bound::new(&model)?;
        let first_answers = readiness.condition("discovery");
        let (directory, wanted) = Directory::new();
        let (board, in_use) = Board::new(directory.clone());
        let counts = counting::counts(&metrics, &model);
        let instance = Instance::new(model.service.name.as_str());
        let (model_sender, model_receiver) = watch::channel(model);
        let (inbound, inbound_drain) = drain::channel();
        let (entries, entries_drain) = drain::channel();
        let (workers, worker_drain) = drain::channel();
        let (control, control_drain) = drain::channel();
        let mut app = Self {
            addresses,
            readiness,
            metrics,
            model: model_receiver.clone(),
            inbound,
            entries,
            workers,
            control,
            threads: Vec::new(),
        };
        let mut orders = Vec::new();
        for (number, listeners) in listeners.into_iter().enumerate() {
            let (sender, receiver) = mpsc::unbounded_channel();
            orders.push(sender);
            let plan = Plan {
                listeners,
                model: app.model.borrow().clone(),
                board: board.clone(),
                counts: counts.clone(),
                metrics: app.metrics.clone(),
                instance: instance.clone(),
                layer: layer.clone(),
                inbound: inbound_drain.clone(),
                drain: worker_drain.clone(),
                orders: receiver,
                serves: app.readiness.condition("workers"),
            };
            app.spawn(runtime::worker(number, plan))?;
        }
        drop(inbound_drain);
        let controls = Control {
            orders: Arc::new(orders),
            model: model_sender,
            directory: directory.clone(),
            board: board.clone(),
            counts,
            fuses: instance.fuses().clone(),
            keyrings: instance.keyrings().clone(),
            bulkheads: instance.bulkheads().clone(),
            metrics: app.metrics.clone(),
            readiness: app.readiness.clone(),
            inbound: app.addresses.inbound,
            entries: entries_drain,
            ports: ports(&app.model.borrow()).into_iter().collect(),
            version: 1,
        };
        let keepers =
            Keepers { board, wanted: in_use, config: model_receiver.clone(), metrics: app.metrics.clone() };
        let discovery =
            Discovery { config: model_receiver, names: wanted, directory, metrics: app.metrics.clone() };
        app.metrics.gauge(&names::CONFIG_VERSION, &[]).set(1.0);
        app.spawn(runtime::control(move || {
            let watched = (reloads, values);
            controls.run((discovery, first_answers), keepers, watched, (admin, probes), control_drain)
        }))?;
        Ok(app)
    }

    /// What is in force, and what reloads make of it.
    pub fn model(&self) -> watch::Receiver<Arc<Model>> {
        self.model.clone()
    }

    /// Fails readiness, waits `drain.delay`, then does as [`App::finish`]. May be
    /// dropped midway.
    pub async fn drain(&self) -> bool {
        self.leave().await;
        self.finish().await
    }

    /// The same for calls to the service alone: those that it makes are served
    /// on, so that it can end with its own connections whole. Returns whether
    /// all was finished by `drain.deadline`.
    pub async fn drain_inbound(&self) -> bool {
        self.leave().await;
        let deadline = self.model.borrow().drain.deadline;
        self.advance_inbound(Stage::Draining);
        let finished = self.inbound.all_done(deadline).await;
        self.advance_inbound(Stage::Stopped);
        if !finished {
            // What was cut off is told so.
            self.inbound.all_done(LAST_WORDS).await;
        }
        finished
    }

    async fn leave(&self) {
        let delay = self.model.borrow().drain.delay;
        self.readiness.leave();
        self.advance(Stage::Leaving);
        tokio::time::sleep(delay).await;
    }

    /// The end of a drain, for when no new call can come or be served: closes
    /// the listeners and lets what runs finish until `drain.deadline`. Returns
    /// whether all was finished. The admin API and the probes answer until
    /// [`App::stop`].
    pub async fn finish(&self) -> bool {
        let deadline = self.model.borrow().drain.deadline;
        self.readiness.leave();
        self.advance(Stage::Draining);
        let finished = self.workers.all_done(deadline).await;
        self.advance(Stage::Stopped);
        if !finished {
            self.workers.all_done(LAST_WORDS).await;
        }
        finished
    }

    /// Of all that workers do.
    fn advance(&self, stage: Stage) {
        self.advance_inbound(stage);
        self.workers.advance(stage);
    }

    fn advance_inbound(&self, stage: Stage) {
        self.inbound.advance(stage);
        self.entries.advance(stage);
    }

    /// Ends at once and joins every thread. A panic in one of them is returned.
    pub fn stop(mut self) -> Result<(), String> {
        self.end()
    }

    fn spawn(&mut self, thread: std::io::Result<JoinHandle<()>>) -> Result<(), StartError> {
        self.threads.push(thread.map_err(|error| StartError(format!("a thread can't start: {error}")))?);
        Ok(())
    }

    fn end(&mut self) -> Result<(), String> {
        self.readiness.leave();
        self.advance(Stage::Stopped);
        self.control.advance(Stage::Stopped);
        let panics: Vec<String> = self
            .threads
            .drain(..)
            .filter_map(|thread| thread.join().err())
            .map(|panic| said(&*panic))
            .collect();
        match (panics.is_empty(), self.metrics.panics()) {
            (true, 0) => Ok(()),
            (true, count) => Err(format!("{count} requests panicked")),
            _ => Err(panics.join("; ")),
        }
    }
}

impl Drop for App {
    fn drop(&mut self) {
        // `stop` tells of panics; here nobody is left to hear.
        let _ = self.end();
    }
}

impl Bound {
    fn new(model: &Model) -> Result<Self, StartError> {
        let listen = &model.listen;
        let workers = model.workers.max(1);
        let mut each: Vec<Vec<(TcpListener, Gate)>> = (0..workers).map(|_| Vec::new()).collect();
        let mut add = |listeners: Vec<TcpListener>, gate: &Gate| {
            each.iter_mut().zip(listeners).for_each(|(mine, listener)| mine.push((listener, gate.clone())));
        };
        let mut open = |key: &str, address: SocketAddr, gate: &Gate| {
            let listeners = proxy::bind(address, workers).map_err(|error| refused(key, address, &error))?;
            let bound = listeners[0].local_addr().unwrap_or(address);
            add(listeners, gate);
            // What is captured of IPv6 comes to the same port of IPv6.
            let captures = matches!(gate, Gate::Inbound | Gate::Outbound);
            if let Some(twin) = twin(address).filter(|_| captures) {
                match proxy::bind_ipv6(twin, workers) {
                    Ok(listeners) => add(listeners, gate),
                    Err(error) => tracing::debug!("{key}: {twin} can't be bound as well: {error}"),
                }
            }
            Ok(bound)
        };
        let inbound = open("listen.inbound", listen.inbound, &Gate::Inbound)?;
        let outbound = open("listen.outbound", listen.outbound, &Gate::Outbound)?;
        let (mut upstreams, mut gateways) = (BTreeMap::new(), BTreeMap::new());
        for (gate, address) in ports(model) {
            let bound = open(&key(&gate), address, &gate)?;
            match gate {
                Gate::Upstream(name) => drop(upstreams.insert(name, bound)),
                _ => drop(gateways.insert(address, bound)),
            }
        }
        let single = |key: &str, address: SocketAddr| {
            let mut listeners = proxy::bind(address, 1).map_err(|error| refused(key, address, &error))?;
            listeners.pop().ok_or_else(|| StartError(format!("{key}: no listener")))
        };
        let admin = single("listen.admin", listen.admin)?;
        let probes = single("listen.probes", listen.probes)?;
        let local = |listener: &TcpListener, asked| listener.local_addr().unwrap_or(asked);
        let addresses = Addresses {
            inbound,
            outbound,
            admin: local(&admin, listen.admin),
            probes: local(&probes, listen.probes),
            upstreams,
            gateways,
        };
        Ok(Self { addresses, admin, probes, workers: each })
    }
}

/// The address of IPv6 that means the same, where a port is set.
fn twin(address: SocketAddr) -> Option<SocketAddr> {
    let ip = match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv6Addr::UNSPECIFIED,
        IpAddr::V4(Ipv4Addr::LOCALHOST) => Ipv6Addr::LOCALHOST,
        _ => return None,
    };
    (address.port() != 0).then(|| SocketAddr::new(ip.into(), address.port()))
}

fn refused(key: &str, address: SocketAddr, error: &std::io::Error) -> StartError {
    StartError(format!("{key}: {address} can't be bound: {error}"))
}

fn said(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic".to_owned())
}

/// What the control thread holds.
struct Control {
    orders: Arc<Vec<mpsc::UnboundedSender<Order>>>,
    model: watch::Sender<Arc<Model>>,
    directory: Directory,
    board: Board,
    counts: (Quotas, Rates),
    fuses: Fuses,
    keyrings: Keyrings,
    bulkheads: Bulkheads,
    metrics: Metrics,
    readiness: Readiness,
    inbound: SocketAddr,
    /// How far calls to the service have come in their drain.
    entries: drain::Watch,
    /// The listeners that are served of those that come and go with the model.
    ports: HashMap<Gate, SocketAddr>,
    /// Number of the model in force.
    version: u32,
}

impl Control {
    async fn run(
        mut self,
        (discovery, first_answers): (Discovery, Condition),
        keepers: Keepers,
        (reloads, values): (Option<mpsc::Receiver<Arc<Model>>>, Option<Values>),
        listeners: (TcpListener, TcpListener),
        mut ends: drain::Watch,
    ) {
        let state = self.admin_state();
        let (admin, probes) = listeners;
        let metrics = self.metrics.clone();
        spawn_local(discovery.run(first_answers));
        spawn_local(keepers.run(Rc::new(|probe| Box::pin(asking::ask(probe)))));
        spawn_local(admin::serve(admin, admin::admin(state.clone()), ends.clone()));
        spawn_local(admin::serve(probes, admin::probes(state), ends.clone()));
        let standing = spawn_local(registered::stand(
            self.readiness.clone(),
            self.model.subscribe(),
            (self.inbound, self.entries.clone(), ends.clone()),
            metrics.clone(),
        ));
        if let Some(values) = values {
            spawn_local(values::follow(values));
        }
        spawn_local(keys::follow(self.keyrings.clone(), metrics.clone()));
        let (rates, bulkheads) = (self.counts.1.clone(), self.bulkheads.clone());
        spawn_local(counting::count(rates.clone(), self.model.subscribe()));
        spawn_local(async move {
            loop {
                tokio::time::sleep(UPKEEP).await;
                metrics.upkeep();
                rates.sweep(Instant::now());
                bulkheads.tell();
            }
        });
        if let Some(mut reloads) = reloads {
            spawn_local(async move {
                while let Some(model) = reloads.recv().await {
                    self.apply(model).await;
                }
            });
        }
        ends.reached(Stage::Stopped).await;
        // The last words to registries, which are bounded.
        let _ = standing.await;
    }

    fn admin_state(&self) -> AdminState {
        let model = self.model.subscribe();
        let (orders, board, fuses) = (self.orders.clone(), self.board.clone(), self.fuses.clone());
        let bulkheads = self.bulkheads.clone();
        AdminState {
            readiness: self.readiness.clone(),
            metrics: self.metrics.clone(),
            model: Arc::new(move || model.borrow().clone()),
            directory: self.directory.clone(),
            endpoints: Arc::new(move || gather::gather(&orders, &board)),
            breakers: Arc::new(move || fuses.states(Instant::now())),
            concurrency: Arc::new(move || bulkheads.states()),
            allow_remote: false,
        }
    }

    async fn apply(&mut self, model: Arc<Model>) {
        self.follow_ports(&model).await;
        self.counts.0.apply(&model);
        for worker in self.orders.iter() {
            // A worker that has ended needs no model.
            let _ = worker.send(Order::Apply(model.clone()));
        }
        self.model.send_replace(model);
        self.version += 1;
        self.metrics.gauge(&names::CONFIG_VERSION, &[]).set(f64::from(self.version));
    }

    /// Opens and closes such listeners. What can't be bound is told and tried again
    /// with the next model; the rest goes on.
    async fn follow_ports(&mut self, model: &Model) {
        let wanted = ports(model);
        let stays = |gate: &Gate, at: SocketAddr| wanted.iter().any(|one| *one == (gate.clone(), at));
        let gone = self.ports.iter().filter(|(gate, at)| !stays(gate, **at));
        let gone: Vec<Gate> = gone.map(|(gate, _)| gate.clone()).collect();
        for gate in gone {
            self.ports.remove(&gate);
            for worker in self.orders.iter() {
                let (closed, done) = oneshot::channel();
                if worker.send(Order::Close(gate.clone(), closed)).is_ok() {
                    let _ = done.await;
                }
            }
        }
        for (gate, address) in wanted {
            if self.ports.contains_key(&gate) {
                continue;
            }
            match proxy::bind(address, self.orders.len()) {
                Ok(listeners) => {
                    for (worker, listener) in self.orders.iter().zip(listeners) {
                        let _ = worker.send(Order::Listen(listener, gate.clone()));
                    }
                    self.ports.insert(gate, address);
                }
                Err(error) => tracing::error!("{}", refused(&key(&gate), address, &error)),
            }
        }
    }
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StartError {}
