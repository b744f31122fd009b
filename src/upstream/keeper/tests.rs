use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;

use super::*;
use crate::base::directory::{Directory, Subscription};
use crate::base::{Endpoint, Standing};
use crate::config::model::{Ejection, Fitness, HealthCheck, Question, SuccessRate, Upstream};
use crate::policy::outcome::Class;

/// The upstream `users`, of which the test is the discovery and the callers.
struct Stage {
    metrics: Metrics,
    /// How often an endpoint was asked for its health.
    asked: Rc<Cell<usize>>,
    /// Whether it says that it is not healthy.
    sick: Rc<Cell<bool>>,
    resolution: watch::Sender<Resolution>,
    news: watch::Receiver<News>,
    _config: watch::Sender<Arc<Model>>,
    _names: mpsc::UnboundedReceiver<Subscription>,
}

fn play<F: Future<Output = ()>>(fitness: Fitness, scene: impl FnOnce(Stage) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let (directory, mut names) = Directory::new();
        let (board, wanted) = Board::new(directory);
        let mut model = Model::minimal("front");
        model.service.locality.zone = Some("near".into());
        let users = UpstreamName::new("users");
        model.upstreams.insert(users.clone(), Upstream { fitness, ..Upstream::default() });
        let (_config, config) = watch::channel(Arc::new(model));
        let (metrics, asked, sick) = (Metrics::new(), Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
        let keepers = Keepers { board: board.clone(), wanted, config, metrics: metrics.clone() };
        let (count, state) = (asked.clone(), sick.clone());
        tokio::task::spawn_local(keepers.run(Rc::new(move |_| {
            count.set(count.get() + 1);
            let sick = state.get();
            Box::pin(async move { if sick { Err("status 503".into()) } else { Ok(()) } })
        })));
        let news = board.watch_named(&users);
        let resolution = names.recv().await.unwrap().sender;
        scene(Stage { metrics, asked, sick, resolution, news, _config, _names: names }).await;
    });
}

impl Stage {
    /// Discovery names these; waits until that is known.
    async fn find(&mut self, endpoints: Vec<Endpoint>) {
        let count = endpoints.len();
        self.resolution.send_replace(Resolution::Found(EndpointSet::new(endpoints, "test", UNIX_EPOCH)));
        let placed =
            |news: &News| news.fleet.as_ref().is_some_and(|fleet| fleet.layout.present().count() == count);
        self.news.wait_for(placed).await.unwrap();
        self.settle().await;
    }

    async fn settle(&self) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    fn note(&self, port: u16, class: Class, times: usize) {
        let news = self.news.borrow();
        let layout = &news.fleet.as_ref().unwrap().layout;
        let (_, member) = layout.present().find(|(_, m)| m.facts.address.port() == port).unwrap();
        (0..times).for_each(|_| member.vitals.note(class));
    }

    fn state(&self, port: u16) -> &'static str {
        let news = self.news.borrow();
        let layout = &news.fleet.as_ref().unwrap().layout;
        let (_, member) = layout.present().find(|(_, m)| m.facts.address.port() == port).unwrap();
        member.vitals.state(Instant::now())
    }

    fn sum(&self, metric: &str) -> f64 {
        let text = self.metrics.render();
        let lines = text.lines().filter(|line| line.starts_with(&format!("{metric}{{")));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }
}

fn endpoints(ports: impl Iterator<Item = u16>) -> Vec<Endpoint> {
    ports.map(|port| Endpoint::new(([127, 0, 0, 1], port).into())).collect()
}

fn ejecting(ejection: Ejection) -> Fitness {
    Fitness { ejection: Some(ejection), ..Fitness::default() }
}

/// Success is compared so often.
fn comparing(interval: Duration) -> Fitness {
    let success_rate = Some(SuccessRate { interval, requests: 20, endpoints: 5, stdev_factor: 1.9 });
    ejecting(Ejection { success_rate, ..Ejection::default() })
}

#[test]
fn while_all_fail_they_are_judged_once_a_second_and_none_is_out() {
    play(ejecting(Ejection::default()), async |mut stage| {
        stage.find(endpoints(1..4)).await;
        // More than one pause, so that they are judged again after the first.
        let end = Instant::now() + Duration::from_millis(1_300);
        while Instant::now() < end {
            for port in 1..4 {
                stage.note(port, Class::Silent, 5);
                stage.settle().await;
            }
        }
        assert!(stage.sum("pillion_ejections_total") <= 4.0, "{}", stage.sum("pillion_ejections_total"));
        assert_eq!((1..4).map(|port| stage.state(port)).collect::<Vec<_>>(), ["in_use"; 3]);
        // A failure of one alone is heard again, if it came in the pause.
        stage.note(1, Class::Good, 1);
        stage.note(2, Class::Good, 1);
        stage.note(3, Class::Silent, 5);
        tokio::time::sleep(QUIET + Duration::from_millis(100)).await;
        assert_eq!(stage.state(3), "ejected");
    });
}

#[test]
fn endpoints_that_discovery_takes_back_are_let_go() {
    let check = HealthCheck {
        question: Question::Tcp,
        interval: Duration::from_millis(20),
        timeout: Duration::from_secs(1),
        healthy: 1,
        unhealthy: 1,
        port: None,
    };
    play(Fitness { check: Some(check), ..Fitness::default() }, async |mut stage| {
        stage.find(endpoints(1..4)).await;
        assert_eq!(stage.sum("pillion_panic"), 0.0);
        assert!(stage.metrics.render().contains("pillion_panic{upstream=\"users\"} 0"), "from the start");
        stage.sick.set(true);
        stage.news.wait_for(|news| news.fleet.as_ref().is_some_and(|fleet| fleet.panic)).await.unwrap();
        stage.settle().await;
        assert_eq!((stage.sum("pillion_panic"), stage.sum("pillion_endpoints_in_use")), (1.0, 3.0));
        for gone in [Resolution::Unknown, Resolution::Empty { source: "test" }] {
            stage.find(endpoints(1..4)).await;
            stage.resolution.send_replace(gone.clone());
            let known = Known::Not(gone);
            stage.news.wait_for(|news| news.resolution == known).await.unwrap();
            stage.settle().await;
            assert_eq!(stage.news.borrow().fleet.as_ref().unwrap().layout.present().count(), 0);
            assert_eq!((stage.sum("pillion_panic"), stage.sum("pillion_endpoints_in_use")), (0.0, 0.0));
            let asked = stage.asked.get();
            tokio::time::sleep(Duration::from_millis(250)).await;
            assert_eq!(stage.asked.get(), asked, "nobody is asked any more");
        }
    });
}

#[test]
fn gauges_are_zero_once_nobody_uses_the_upstream() {
    play(Fitness::default(), async |mut stage| {
        stage.find(endpoints(1..4)).await;
        assert_eq!(stage.sum("pillion_endpoints_in_use"), 3.0);
        drop(std::mem::replace(&mut stage.news, watch::channel(News::default()).1));
        stage.settle().await;
        assert_eq!(stage.sum("pillion_endpoints_in_use"), 0.0);
    });
}

#[test]
fn who_is_kept_is_counted_once_for_as_long_as_it_fails() {
    let rules = Ejection { max_percent: 0.0, ..Ejection::default() };
    play(ejecting(rules), async |mut stage| {
        stage.find(endpoints(1..4)).await;
        for _ in 0..5 {
            stage.note(1, Class::Silent, 5);
            stage.settle().await;
        }
        assert_eq!(stage.sum("pillion_ejections_denied_total"), 1.0);
        stage.note(1, Class::Good, 1);
        stage.note(2, Class::Silent, 5);
        stage.settle().await;
        stage.note(2, Class::Good, 1);
        stage.note(1, Class::Silent, 5);
        stage.settle().await;
        assert_eq!(stage.sum("pillion_ejections_denied_total"), 3.0);
    });
}

#[test]
fn success_is_compared_though_the_set_changes_all_the_time() {
    play(comparing(Duration::from_millis(200)), async |mut stage| {
        for round in 0..30 {
            // Each round another one comes beside the first six, and one goes.
            stage.find(endpoints((1..7).chain([10 + round]))).await;
            (1..7).for_each(|port| stage.note(port, Class::Good, 10));
            stage.note(3, Class::Server, 20);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(stage.state(3), "ejected");
        assert_eq!(stage.sum("pillion_ejections_total"), 1.0);
    });
}

#[test]
fn who_ends_is_compared_with_nobody() {
    play(comparing(Duration::from_millis(100)), async |mut stage| {
        let mut all = endpoints(1..8);
        all[2].standing = Standing::Terminating;
        stage.find(all).await;
        (1..8).for_each(|port| stage.note(port, Class::Good, 100));
        stage.note(3, Class::Server, 200);
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!((stage.state(3), stage.sum("pillion_ejections_total")), ("in_use", 0.0));
    });
}

#[test]
fn who_answers_is_tried_again_as_long_as_the_others_do_not_suffice() {
    play(ejecting(Ejection::default()), async |mut stage| {
        stage.find(endpoints(1..4)).await;
        stage.note(1, Class::Gateway, 5);
        stage.settle().await;
        assert_eq!(stage.state(1), "ejected");
        stage.note(2, Class::Good, 100);
        tokio::time::sleep(RELIEF + Duration::from_millis(100)).await;
        assert_eq!(stage.state(1), "ejected", "the others do");
        for _ in 0..2 {
            stage.note(2, Class::Busy, 20);
            stage.note(2, Class::Good, 80);
            tokio::time::sleep(RELIEF + Duration::from_millis(100)).await;
            assert_eq!(stage.state(1), "on_probation");
            stage.note(1, Class::Gateway, 1);
            stage.settle().await;
            assert_eq!(stage.state(1), "ejected");
        }
        let notes = stage.news.borrow().notes.clone();
        assert_eq!(notes.values().collect::<Vec<_>>(), ["gateway_errors, 1 in a row"]);
    });
}

#[test]
fn who_is_out_and_then_ends_makes_room_for_others() {
    play(ejecting(Ejection { max_percent: 0.2, ..Ejection::default() }), async |mut stage| {
        stage.find(endpoints(1..5)).await;
        stage.note(1, Class::Silent, 5);
        stage.settle().await;
        assert_eq!(stage.state(1), "ejected");
        let mut ending = endpoints(1..5);
        ending[0].standing = Standing::Terminating;
        stage.find(ending).await;
        assert_eq!(stage.state(1), "on_probation");
        stage.note(2, Class::Silent, 5);
        stage.settle().await;
        assert_eq!(stage.state(2), "ejected", "one of four may be out");
    });
}

#[test]
fn the_own_zone_gets_more_calls_as_its_endpoints_warm_up() {
    let slow = Fitness { slow_start: Some(Duration::from_secs(1)), ..Fitness::default() };
    play(slow, async |mut stage| {
        stage.find(endpoints(1..3)).await;
        let mut all = endpoints(1..4);
        all[2].zone = Some("near".into());
        stage.find(all).await;
        // Of two places: 1.4 × 2 × 0.1 of 2.1 at first, and 1.4 × 2 × 1 of 3.
        let goes_near = |news: &News, draw| news.fleet.as_ref().is_some_and(|fleet| fleet.tier(draw) == 0);
        assert!(goes_near(&stage.news.borrow(), 0.1) && !goes_near(&stage.news.borrow(), 0.5));
        let grown = stage.news.wait_for(|news| goes_near(news, 0.9));
        tokio::time::timeout(Duration::from_secs(3), grown).await.expect("nobody says anything").unwrap();
        assert!(!stage.news.borrow().fleet.as_ref().unwrap().grows);
    });
}
