//! What balancing costs with few endpoints and with many: one pick, and taking
//! over an update. `cargo bench --bench balance`; how to read it:
//! docs/benchmarks.md.

use std::hint::black_box;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use pillion::base::directory::{Directory, Subscription};
use pillion::base::timers::Timers;
use pillion::base::{self, EndpointSet, Resolution, UpstreamName};
use pillion::config::Model;
use pillion::config::model::{Balance, HashOn};
use pillion::policy::outcome::Class;
use pillion::policy::vitals::{Vitals, Watch};
use pillion::telemetry::Metrics;
use pillion::upstream::{Board, Keepers, Quotas, Table, Upstream};
use tokio::sync::{mpsc, watch};
use tokio::task::{LocalSet, spawn_local};

const WAYS: [(&str, Balance); 4] = [
    ("ewma", Balance::Ewma),
    ("least_request", Balance::LeastRequest),
    ("round_robin", Balance::RoundRobin),
    ("hash", Balance::Hash(HashOn::Source)),
];
const COUNTS: [u32; 3] = [3, 100, 10_000];
const ROUNDS: u32 = 11;
const PICKS: u32 = 100_000;

/// An upstream from discovery to the worker, on one thread.
struct Scene {
    upstream: Rc<Upstream>,
    discovery: Subscription,
    /// What the control thread hands out.
    news: Box<dyn News>,
    timers: Timers,
    _table: Table,
    _names: mpsc::UnboundedReceiver<Subscription>,
    _config: watch::Sender<Arc<Model>>,
}

/// Told of a new set.
trait News {
    fn is_there(&mut self) -> bool;
}

impl<T> News for watch::Receiver<T> {
    fn is_there(&mut self) -> bool {
        let there = self.has_changed().unwrap_or(false);
        self.mark_unchanged();
        there
    }
}

impl Scene {
    async fn new(balance: &Balance) -> Self {
        let (directory, mut names) = Directory::new();
        let (board, wanted) = Board::new(directory);
        let mut model = Model::minimal("front");
        model.defaults.balance = balance.clone();
        let (config, model) = watch::channel(Arc::new(model));
        let metrics = Metrics::new();
        let keepers = Keepers { board: board.clone(), wanted, config: model, metrics: metrics.clone() };
        spawn_local(keepers.run(Rc::new(|_| Box::pin(async { Ok(()) }))));
        let table = Table::new(board.clone(), metrics.clone(), Quotas::new(metrics));
        let name = UpstreamName::new("users");
        let upstream = table.get(&name).expect("there is room");
        let discovery = names.recv().await.expect("somebody asked");
        let news = Box::new(board.watch(&name).expect("there is room"));
        let mut scene = Self {
            upstream,
            discovery,
            news,
            timers: Timers::default(),
            _table: table,
            _names: names,
            _config: config,
        };
        // The keeper says first that nothing is known.
        scene.settle().await;
        scene
    }

    /// Lets the control thread do what it has to.
    async fn settle(&mut self) {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        self.news.is_there();
    }

    /// How long the control thread needs for an answer of discovery, and then the
    /// worker.
    async fn update(&mut self, set: EndpointSet) -> (Duration, Duration) {
        self.settle().await;
        let start = Instant::now();
        self.discovery.sender.send_replace(Resolution::Found(set));
        while !self.news.is_there() {
            tokio::task::yield_now().await;
        }
        let control = start.elapsed();
        let start = Instant::now();
        let picker = self.upstream.picker(start, &self.timers).await.expect("there are endpoints");
        let worker = start.elapsed();
        assert!(picker.count() > 0);
        (control, worker)
    }

    /// Sends each endpoint a call, so that the worker knows it.
    async fn use_all(&self, count: u32, random: &mut fastrand::Rng) {
        let now = Instant::now();
        let picker = self.upstream.picker(now, &self.timers).await.expect("there are endpoints");
        let mut seen = std::collections::HashSet::new();
        while seen.len() < count as usize {
            let picked = picker.pick(&Balance::LeastRequest, None, &[], now, random);
            let endpoint = picked.expect("there are endpoints");
            seen.insert(endpoint.facts.address);
            let micros = 500 + random.u64(..100);
            endpoint.begin(now).answered(now + Duration::from_micros(micros), Class::Good);
        }
    }

    /// Nanoseconds of one pick.
    async fn pick(&self, balance: &Balance, random: &mut fastrand::Rng) -> f64 {
        let now = Instant::now();
        let picker = self.upstream.picker(now, &self.timers).await.expect("there are endpoints");
        for _ in 0..PICKS {
            let key = random.u64(..).to_be_bytes();
            black_box(picker.pick(balance, Some(&key), &[], now, random));
        }
        now.elapsed().as_nanos() as f64 / f64::from(PICKS)
    }
}

/// Endpoints with the numbers from `from` on.
fn set(from: u32, count: u32) -> EndpointSet {
    let address = |number: u32| {
        let [_, b, c, d] = number.to_be_bytes();
        ([10, b, c, d], 8080)
    };
    let endpoints = (from..from + count).map(|number| base::Endpoint::new(address(number).into()));
    EndpointSet::new(endpoints.collect(), "bench", SystemTime::UNIX_EPOCH)
}

fn median<T: PartialOrd + Copy>(mut all: Vec<T>) -> T {
    all.sort_by(|a, b| a.partial_cmp(b).expect("numbers"));
    all[all.len() / 2]
}

async fn picks() {
    println!("| ns of a pick | {} endpoints | {} | {} |\n|---|---|---|---|", COUNTS[0], COUNTS[1], COUNTS[2]);
    for (name, balance) in WAYS {
        let mut line = format!("| `{name}` |");
        for count in COUNTS {
            let mut random = fastrand::Rng::with_seed(1);
            let mut scene = Scene::new(&balance).await;
            scene.update(set(0, count)).await;
            scene.use_all(count, &mut random).await;
            scene.pick(&balance, &mut random).await;
            let mut all = Vec::new();
            for _ in 0..ROUNDS {
                all.push(scene.pick(&balance, &mut random).await);
            }
            let least = all.iter().copied().fold(f64::INFINITY, f64::min);
            line += &format!(" {:.0} (least {least:.0}) |", median(all));
        }
        println!("{line}");
    }
}

async fn updates() {
    const MANY: u32 = 10_000;
    println!("\n| update of {MANY} endpoints | control thread | worker | greatest |\n|---|---|---|---|");
    for (name, balance) in WAYS {
        for (what, step) in [("1", 1), ("all", MANY)] {
            let mut random = fastrand::Rng::with_seed(1);
            let mut scene = Scene::new(&balance).await;
            scene.update(set(0, MANY)).await;
            let (mut control, mut worker) = (Vec::new(), Vec::new());
            for round in 1..=ROUNDS {
                scene.use_all(MANY, &mut random).await;
                let took = scene.update(set(round * step, MANY)).await;
                control.push(took.0);
                worker.push(took.1);
            }
            let greatest = (control.iter().max().copied(), worker.iter().max().copied());
            let (Some(most), Some(worst)) = greatest else { continue };
            let (control, worker) = (median(control), median(worker));
            println!("| `{name}`, {what} changed | {control:.1?} | {worker:.1?} | {most:.1?}, {worst:.1?} |");
        }
    }
}

/// What it costs that workers share what they count of an endpoint.
fn shared() {
    const NOTES: u32 = 2_000_000;
    let watch = Watch::new(Instant::now());
    let note = |vitals: &Vitals| {
        let start = Instant::now();
        (0..NOTES).for_each(|_| vitals.note(black_box(Class::Good)));
        start.elapsed().as_nanos() as f64 / f64::from(NOTES)
    };
    println!("\n| ns to note an answer | one worker | two workers, the same endpoint |\n|---|---|---|");
    for (what, counts) in [("ejection by failures in a row", false), ("and by success rate", true)] {
        watch.set(5, 5, counts, Duration::ZERO);
        let vitals = Vitals::new(&watch);
        let alone = median((0..ROUNDS).map(|_| note(&vitals)).collect());
        let both = || {
            std::thread::scope(|scope| {
                let other = scope.spawn(|| note(&vitals));
                let here = note(&vitals);
                other.join().map_or(here, |there| f64::max(here, there))
            })
        };
        println!("| {what} | {alone:.1} | {:.1} |", median((0..ROUNDS).map(|_| both()).collect()));
    }
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, async {
        picks().await;
        updates().await;
    });
    shared();
}
