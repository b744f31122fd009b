//! The threads: workers, each with a runtime, listeners and connections of its
//! own, and one control thread for everything that may be slow.

use std::collections::HashMap;
use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread::{self, Builder};
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, LocalSet, spawn_local};

use crate::base::drain::{Stage, Watch};
use crate::base::readiness::Condition;
use crate::config::Model;
use crate::proxy::{self, Gate, Instance, Layer, Rates, Worker};
use crate::telemetry::Metrics;
use crate::telemetry::record::Direction;
use crate::upstream::snapshot::EndpointStats;
use crate::upstream::{Board, Quotas};

/// How often a worker that drains looks whether its connections have ended.
const LOOK: Duration = Duration::from_millis(10);
/// How long answers may take that say that the sidecar is ending, and both sides
/// of a WebSocket to close.
const LAST_WORDS: Duration = Duration::from_millis(1000);

/// What a worker begins with.
pub struct Plan {
    /// Listeners of its own, which share their addresses with other workers'.
    pub listeners: Vec<(TcpListener, Gate)>,
    /// The first model.
    pub model: Arc<Model>,
    /// Where upstreams are looked up.
    pub board: Board,
    /// How many connections and how many calls there may be, counted over all workers.
    pub counts: (Quotas, Rates),
    /// Where to count.
    pub metrics: Metrics,
    /// This sidecar's mark.
    pub instance: Instance,
    /// What a user of the library puts around every route.
    pub layer: Option<Layer>,
    /// When to end what concerns calls to the service; gone when that is done.
    pub inbound: Watch,
    /// When to end.
    pub drain: Watch,
    /// What it is told later.
    pub orders: UnboundedReceiver<Order>,
    /// Met when it serves.
    pub serves: Condition,
}

/// What the control thread tells a worker.
pub enum Order {
    /// Serve this model from now on.
    Apply(Arc<Model>),
    /// Accept on one more listener.
    Listen(TcpListener, Gate),
    /// Accept there no more, and say when that is so; its connections stay.
    Close(Gate, oneshot::Sender<()>),
    /// Say what is known of the endpoints.
    Stats(Sender<Vec<EndpointStats>>),
}

/// Starts a worker. The thread ends when the drain is over.
pub fn worker(number: usize, plan: Plan) -> io::Result<thread::JoinHandle<()>> {
    start(format!("worker-{number}"), move || work(plan))
}

/// Starts the control thread, which runs `tasks` until it ends.
pub fn control<F>(tasks: impl FnOnce() -> F + Send + 'static) -> io::Result<thread::JoinHandle<()>>
where
    F: Future<Output = ()> + 'static,
{
    start("control".into(), tasks)
}

fn start<F>(name: String, tasks: impl FnOnce() -> F + Send + 'static) -> io::Result<thread::JoinHandle<()>>
where
    F: Future<Output = ()> + 'static,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Builder::new().name(name).spawn(move || {
        let local = LocalSet::new();
        local.block_on(&runtime, async move { tasks().await });
        // Tasks end before the runtime whose timers and sockets they hold.
        drop(local);
        runtime.shutdown_background();
    })
}

async fn work(plan: Plan) {
    let Plan { listeners, model, board, counts, metrics, instance, layer, .. } = plan;
    let Plan { inbound, drain, orders, serves, .. } = plan;
    let worker = Worker::new(model, board, counts, &metrics, instance, layer);
    let timers = worker.timers.clone();
    spawn_local(async move { timers.drive().await });
    spawn_local(worker.clone().keep_house());
    let relieved = worker.clone();
    spawn_local(async move { relieved.table.relieve().await });
    let mut doors = Doors { worker: worker.clone(), drain: drain.clone(), accepting: HashMap::new() };
    for (listener, gate) in listeners {
        let until = if gate == Gate::Inbound { &inbound } else { &drain }.clone();
        doors.open(listener, gate, until);
    }
    spawn_local(obey(orders, doors));
    serves.met();
    let inbound = self::drain(worker.clone(), Direction::Inbound, inbound);
    let gateway = self::drain(worker.clone(), Direction::Gateway, drain.clone());
    tokio::join!(inbound, gateway, self::drain(worker, Direction::Outbound, drain));
}

/// Leads one direction through its drain, to its end.
async fn drain(worker: Rc<Worker>, direction: Direction, mut watch: Watch) {
    watch.reached(Stage::Leaving).await;
    worker.advance(direction, Stage::Leaving);
    watch.reached(Stage::Draining).await;
    worker.advance(direction, Stage::Draining);
    while worker.is_busy(direction) && watch.stage() < Stage::Stopped {
        let _ = tokio::time::timeout(LOOK, watch.reached(Stage::Stopped)).await;
    }
    worker.advance(direction, Stage::Stopped);
    let _ = tokio::time::timeout(LAST_WORDS, async {
        while worker.is_busy(direction) {
            tokio::time::sleep(LOOK).await;
        }
    })
    .await;
}

/// The listeners of a worker, each with the task that accepts on it.
struct Doors {
    worker: Rc<Worker>,
    drain: Watch,
    /// A gate may have one for each family of addresses.
    accepting: HashMap<Gate, Vec<JoinHandle<()>>>,
}

impl Doors {
    fn open(&mut self, listener: TcpListener, gate: Gate, until: Watch) {
        let task = proxy::accept(listener, gate.clone(), self.worker.clone(), until);
        self.accepting.entry(gate).or_default().push(spawn_local(task));
    }
}

async fn obey(mut orders: UnboundedReceiver<Order>, mut doors: Doors) {
    while let Some(order) = orders.recv().await {
        match order {
            Order::Apply(model) => doors.worker.apply(model),
            Order::Listen(listener, gate) => {
                let until = doors.drain.clone();
                doors.open(listener, gate, until);
            }
            Order::Close(gate, closed) => {
                for task in doors.accepting.remove(&gate).unwrap_or_default() {
                    task.abort();
                    // The listener is gone when its task is.
                    let _ = task.await;
                }
                let _ = closed.send(());
            }
            // Whoever asked may have given up.
            Order::Stats(answer) => drop(answer.send(doors.worker.stats())),
        }
    }
}
