//! Real files, real events.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::config::load;

struct Counts {
    applied: Arc<AtomicU64>,
    unchanged: Arc<AtomicU64>,
    rejected: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
}

struct Running {
    folder: tempfile::TempDir,
    reload: Option<Reload>,
    models: mpsc::Receiver<Arc<Model>>,
    counts: Counts,
}

fn text(port: u16) -> String {
    format!("version: 1\nservice: {{name: a, port: {port}}}\n")
}

fn port(model: &Model) -> u16 {
    model.service.address.expect("an address").port()
}

impl Running {
    fn start(folder: tempfile::TempDir) -> Self {
        let path = folder.path().join("pillion.yaml");
        let new = || Arc::new(AtomicU64::new(0));
        let counts = Counts { applied: new(), unchanged: new(), rejected: new(), refused: new() };
        let meters = Meters {
            applied: Counter::from_arc(counts.applied.clone()),
            unchanged: Counter::from_arc(counts.unchanged.clone()),
            rejected: Counter::from_arc(counts.rejected.clone()),
            refused: Gauge::from_arc(counts.refused.clone()),
        };
        let loaded = load(&path, &Environment::default()).unwrap_or_else(|problems| panic!("{problems}"));
        let (reload, models) = Reload::start(path, Environment::default(), &loaded, meters).unwrap();
        Self { folder, reload: Some(reload), models, counts }
    }

    fn with(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("pillion.yaml"), text).unwrap();
        Self::start(folder)
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    async fn next(&mut self) -> Arc<Model> {
        let wait = tokio::time::timeout(Duration::from_secs(10), self.models.recv());
        wait.await.expect("a model within 10 s").expect("the thread runs")
    }

    fn gauge(value: &AtomicU64) -> f64 {
        f64::from_bits(value.load(Ordering::SeqCst))
    }

    fn until(&self, what: &str, check: impl Fn(&Counts) -> bool) {
        let end = Instant::now() + Duration::from_secs(10);
        while !check(&self.counts) {
            assert!(Instant::now() < end, "{what} did not come to pass");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

#[tokio::test]
async fn a_write_in_place_is_seen() {
    let mut running = Running::with(&text(8001));
    for port_written in [8002, 8003] {
        fs::write(running.path("pillion.yaml"), text(port_written)).unwrap();
        assert_eq!(port(&*running.next().await), port_written);
    }
    assert_eq!(running.counts.applied.load(Ordering::SeqCst), 2);
    assert_eq!(running.counts.rejected.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_rename_is_seen_again_and_again() {
    let mut running = Running::with(&text(8001));
    for port_written in [8002, 8003, 8004] {
        fs::write(running.path(".pillion.yaml.swp"), text(port_written)).unwrap();
        fs::rename(running.path(".pillion.yaml.swp"), running.path("pillion.yaml")).unwrap();
        assert_eq!(port(&*running.next().await), port_written);
    }
}

/// As Kubernetes mounts a ConfigMap.
fn mount(folder: &Path, name: &str, port: u16) {
    let data = folder.join(name);
    fs::create_dir(&data).unwrap();
    fs::write(data.join("pillion.yaml"), text(port)).unwrap();
    symlink(name, folder.join("..data_tmp")).unwrap();
    fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
}

#[tokio::test]
async fn the_swap_of_a_config_map_is_seen_again_and_again() {
    let folder = tempfile::tempdir().unwrap();
    mount(folder.path(), "..1", 8001);
    symlink("..data/pillion.yaml", folder.path().join("pillion.yaml")).unwrap();
    let mut running = Running::start(folder);
    for (name, old, port_written) in [("..2", "..1", 8002), ("..3", "..2", 8003)] {
        mount(running.folder.path(), name, port_written);
        fs::remove_dir_all(running.path(old)).unwrap();
        assert_eq!(port(&*running.next().await), port_written);
    }
}

#[tokio::test]
async fn a_bad_file_keeps_the_old_model_and_raises_the_alarm() {
    let mut running = Running::with(&text(8001));
    fs::write(running.path("pillion.yaml"), "version: 1\nservice: {nam: a}\n").unwrap();
    running.until("the alarm", |counts| Running::gauge(&counts.refused) == 1.0);
    assert_eq!(running.counts.rejected.load(Ordering::SeqCst), 1);
    assert!(running.models.try_recv().is_err(), "a bad file sends nothing");
    assert_eq!(running.counts.applied.load(Ordering::SeqCst), 0);

    fs::write(running.path("pillion.yaml"), text(8001)).unwrap();
    running.until("the end of the alarm", |counts| Running::gauge(&counts.refused) == 0.0);
    running.until("the count", |counts| counts.unchanged.load(Ordering::SeqCst) == 1);
    assert!(running.models.try_recv().is_err(), "what is in force is not sent again");

    fs::write(running.path("pillion.yaml"), text(8002)).unwrap();
    assert_eq!(port(&*running.next().await), 8002);
}

#[tokio::test]
async fn a_request_reads_at_once_and_counts_what_is_the_same() {
    let running = Running::with(&text(8001));
    running.reload.as_ref().unwrap().trigger();
    running.until("the count", |counts| counts.unchanged.load(Ordering::SeqCst) == 1);
    assert_eq!(running.counts.applied.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_policy_file_that_turns_up_changes_and_goes_is_followed() {
    let mut running = Running::with(&text(8001));
    let route = |timeout: &str| format!("version: 1\ninbound: [{{route: /a, timeout: {timeout}}}]\n");
    fs::create_dir(running.path("policies")).unwrap();
    fs::write(running.path("policies/a.yaml"), route("1s")).unwrap();
    assert_eq!(running.next().await.inbound.len(), 1);
    fs::write(running.path("policies/a.yaml"), route("2s")).unwrap();
    let timeout = running.next().await.inbound[0].policy.timeout;
    assert_eq!(timeout, crate::config::model::Timeout::Whole(Duration::from_secs(2)));
    fs::remove_dir_all(running.path("policies")).unwrap();
    assert_eq!(running.next().await.inbound.len(), 0);
    fs::create_dir(running.path("policies")).unwrap();
    fs::write(running.path("policies/b.yaml"), route("3s")).unwrap();
    assert_eq!(running.next().await.inbound.len(), 1);
}

#[tokio::test]
async fn a_secret_file_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("zone"), "a\n").unwrap();
    let text = "version: 1\nservice: {name: a, locality: {zone: '${file:zone}'}}\n";
    fs::write(folder.path().join("pillion.yaml"), text).unwrap();
    let mut running = Running::start(folder);
    fs::write(running.path("zone"), "b\n").unwrap();
    assert_eq!(running.next().await.service.locality.zone.as_deref(), Some("b"));
}

#[tokio::test]
async fn other_files_of_the_folder_are_not_a_change() {
    let mut running = Running::with(&text(8001));
    for number in 0..50 {
        fs::write(running.path("app.log"), format!("{number}")).unwrap();
    }
    fs::write(running.path("pillion.yaml"), text(8002)).unwrap();
    assert_eq!(port(&*running.next().await), 8002);
    assert_eq!(running.counts.unchanged.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn what_can_t_change_stays_and_the_rest_comes() {
    let mut running = Running::with(&text(8001));
    let changed = "version: 1\nservice: {name: b, port: 8002}\nworkers: 200\nlisten: {admin: 127.0.0.1:1}\n";
    fs::write(running.path("pillion.yaml"), changed).unwrap();
    let model = running.next().await;
    assert_eq!((model.service.name.as_str(), port(&model)), ("a", 8002));
    assert_eq!(model.listen.admin.port(), 8700);
    assert_ne!(model.workers, 200);
}

#[tokio::test]
async fn only_the_last_of_several_models_is_kept_and_dropping_ends_the_thread() {
    let mut running = Running::with(&text(8001));
    for number in 1..=4 {
        fs::write(running.path("pillion.yaml"), text(8001 + number)).unwrap();
        running.until("the count", |counts| counts.applied.load(Ordering::SeqCst) == u64::from(number));
    }
    assert_eq!(port(&*running.next().await), 8002, "the first lay in the channel");
    assert_eq!(port(&*running.next().await), 8005, "the ones between were overtaken");
    fs::write(running.path("pillion.yaml"), text(8009)).unwrap();
    running.until("the count", |counts| counts.applied.load(Ordering::SeqCst) == 5);
    drop(running.reload.take());
    while running.models.recv().await.is_some() {}
}
