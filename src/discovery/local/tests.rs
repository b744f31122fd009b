use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tempfile::TempDir;
use tokio::sync::watch;

use super::entry::Entry;
use super::folder::own;
use super::registry::{ENTRIES, Registry};
use super::{clock, register};
use crate::base::{Endpoint, Standing, UpstreamName};
use crate::config::{Model, model};
use crate::telemetry::Metrics;

const DIRECTORY: &str = "PILLION_TEST_REGISTRY";
const REWRITTEN: &str = "PILLION_TEST_REGISTRY_REWRITTEN";

/// A model whose service stands in the registry of `directory`.
fn model(name: &str, directory: &Path) -> Model {
    let mut model = Model::minimal(name);
    model.service.address = Some(([127, 0, 0, 1], 8080).into());
    model.discovery =
        vec![model::Source::Local(model::Local { directory: directory.into(), register: true })];
    model
}

pub(in crate::discovery) fn folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o700)).unwrap();
    folder
}

fn wanted(names: &[&str]) -> HashSet<UpstreamName> {
    names.iter().map(|name| UpstreamName::new(name)).collect()
}

fn look(path: &Path, names: &[&str], now: SystemTime) -> HashMap<UpstreamName, Vec<Endpoint>> {
    Registry::new(path.into()).look(&wanted(names), now).unwrap()
}

fn files(path: &Path) -> Vec<String> {
    let names =
        std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.collect()
}

/// Writes an entry that is alive as long as the file is open.
fn entry(path: &Path, file: &str, name: &str, port: u16) -> std::fs::File {
    let entry = Entry::new(&Model::minimal(name).service, ([127, 0, 0, 1], port).into(), Standing::Ready, 1);
    std::fs::write(path.join(file), serde_json::to_vec(&entry).unwrap()).unwrap();
    let file = std::fs::File::open(path.join(file)).unwrap();
    own(&file).unwrap();
    file
}

/// Ends the owner of an entry. A copy of the file that a process started at this
/// moment has for an instant must not count.
fn die(owner: &std::fs::File) {
    rustix::fs::flock(owner, rustix::fs::FlockOperation::Unlock).unwrap();
}

/// Not a test: the process that `a_killed_process_…` starts and kills.
#[test]
fn registers_until_it_is_killed() {
    let Ok(directory) = std::env::var(DIRECTORY) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (_keep, config) = watch::channel(Arc::new(model("victim", directory.as_ref())));
        let _registration = register(config, ([0, 0, 0, 0], 4242).into(), &Metrics::new());
        // The service that a sidecar starts must not inherit the lock.
        let mut service = Command::new("sleep").arg("5").stdout(Stdio::null()).spawn().unwrap();
        println!("\nregistered");
        std::thread::spawn(move || service.wait());
        std::future::pending::<()>().await;
    });
}

/// Not a test: the process that `killed_at_any_moment_…` starts and kills.
#[test]
fn rewrites_its_entry_until_it_is_killed() {
    let Ok(directory) = std::env::var(REWRITTEN) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (config, receiver) = watch::channel(Arc::new(model("victim", directory.as_ref())));
        let _registration = register(receiver, ([0, 0, 0, 0], 4242).into(), &Metrics::new());
        println!("\nregistered");
        loop {
            let tags = vec![fastrand::u64(..).to_string().repeat(400).into()];
            config.send_modify(|model| Arc::make_mut(model).service.tags = tags);
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn killed_at_any_moment_it_leaves_no_half_of_an_entry() {
    let folder = folder();
    let mut registry = Registry::new(folder.path().into());
    let mut looks = 0;
    for _ in 0..30 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "discovery::local::tests::rewrites_its_entry_until_it_is_killed",
                "--nocapture",
            ])
            .env(REWRITTEN, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "registered"), "the child could not register");
        let (start, life) = (Instant::now(), Duration::from_micros(fastrand::u64(..20_000)));
        while start.elapsed() < life {
            for file in files(folder.path()).iter().filter(|file| file.ends_with(".json")) {
                // It may have been replaced a moment ago.
                let Ok(text) = std::fs::read(folder.path().join(file)) else { continue };
                assert_eq!(Entry::read(&text).map(|entry| entry.name), Ok("victim".into()));
            }
            let found = registry.look(&wanted(&["victim"]), clock::now()).unwrap();
            assert!(found.values().flatten().all(|endpoint| endpoint.address.port() == 4242));
            looks += 1;
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(looks > 30, "{looks}");
    let deadline = Instant::now() + Duration::from_secs(10);
    while !registry.look(&wanted(&["victim"]), clock::now()).unwrap().is_empty() {
        assert!(Instant::now() < deadline, "a killed process is found out");
        std::thread::yield_now();
    }
    registry.look(&wanted(&["victim"]), clock::now() + Duration::from_secs(120)).unwrap();
    assert_eq!(files(folder.path()), [""; 0], "whatever was unfinished is removed in time");
}

/// A process that has registered `victim` in `directory`.
pub(in crate::discovery) fn child(directory: &Path) -> Child {
    start(Command::new(std::env::current_exe().unwrap()), directory)
}

fn start(mut command: Command, directory: &Path) -> Child {
    let mut child = command
        .args(["--exact", "discovery::local::tests::registers_until_it_is_killed", "--nocapture"])
        .env(DIRECTORY, directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "registered"), "the child could not register");
    child
}

#[test]
fn a_killed_process_is_found_out_and_swept_away() {
    let folder = folder();
    let mut child = child(folder.path());
    let mut registry = Registry::new(folder.path().into());
    let found = registry.look(&wanted(&["victim"]), clock::now()).unwrap();
    let address = found["victim"][0].address;
    assert_eq!(address, "127.0.0.1:4242".parse().unwrap(), "0.0.0.0 is reached on loopback");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(files(folder.path()).len(), 1, "a killed process can't clean up");
    // A process that is being started at this moment holds a copy of the lock for an instant.
    let deadline = Instant::now() + Duration::from_secs(10);
    while !registry.look(&wanted(&["victim"]), clock::now()).unwrap().is_empty() {
        assert!(Instant::now() < deadline, "a killed process is found out");
        std::thread::yield_now();
    }
    assert_eq!(files(folder.path()), [""; 0], "whoever looks sweeps");
}

#[tokio::test]
async fn a_disk_that_takes_nothing_is_tried_again_and_nothing_is_left_behind() {
    let folder = folder();
    // A file size limit of zero fails each write, as a full disk does.
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "trap '' XFSZ; ulimit -S -f 0; exec \"$@\"", "sh"])
        .arg(std::env::current_exe().unwrap());
    let mut child = start(shell, folder.path());
    assert_eq!(files(folder.path()), [""; 0]);
    let limit = ["--fsize=unlimited", "--pid", &child.id().to_string()];
    assert!(Command::new("prlimit").args(limit).status().unwrap().success());
    until("it registers in the end", || look(folder.path(), &["victim"], clock::now()).len() == 1).await;
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn entries_that_nobody_wants_are_swept_as_well() {
    let folder = folder();
    let now = clock::now();
    let mut registry = Registry::new(folder.path().into());
    let dead = entry(folder.path(), "b.json", "b", 2);
    registry.look(&wanted(&["a"]), now).unwrap();
    die(&dead);
    registry.look(&wanted(&["a"]), now).unwrap();
    assert_eq!(files(folder.path()).len(), 1, "not at every look");
    registry.look(&wanted(&["a"]), now + Duration::from_secs(31)).unwrap();
    assert_eq!(files(folder.path()), [""; 0]);
    // One that is dead when it is first seen goes at once.
    die(&entry(folder.path(), "c.json", "c", 3));
    registry.look(&wanted(&["a"]), now + Duration::from_secs(32)).unwrap();
    assert_eq!(files(folder.path()), [""; 0]);
}

#[test]
fn a_folder_that_others_could_have_made_is_refused() {
    let refused = |path: &Path| Registry::new(path.into()).look(&wanted(&["a"]), clock::now()).unwrap_err();
    let ours = folder();
    std::fs::set_permissions(ours.path(), PermissionsExt::from_mode(0o722)).unwrap();
    assert!(refused(ours.path()).contains("others may write to it (mode 722)"));
    std::fs::set_permissions(ours.path(), PermissionsExt::from_mode(0o700)).unwrap();
    let link = ours.path().join("link");
    symlink(ours.path(), &link).unwrap();
    assert!(refused(&link).contains("symbolic link"));
    let foreign = ours.path().join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&foreign, Some(65534), None).unwrap();
        assert!(refused(&foreign).contains("belongs to another user (uid 65534)"));
    } else {
        assert!(refused(Path::new("/usr")).contains("belongs to another user (uid 0)"));
    }
}

#[test]
fn garbage_is_skipped_and_left_alone() {
    let folder = folder();
    let path = folder.path();
    let _alive = entry(path, "a.json", "a", 1);
    std::fs::write(path.join("garbage.json"), [0xff; 100]).unwrap();
    std::fs::write(path.join("large.json"), vec![b' '; 1024 * 1024]).unwrap();
    std::fs::write(path.join("note.txt"), "not ours").unwrap();
    std::fs::create_dir(path.join("folder.json")).unwrap();
    symlink("/etc/passwd", path.join("link.json")).unwrap();
    assert!(Command::new("mkfifo").arg(path.join("pipe.json")).status().unwrap().success());
    let found = look(path, &["a", "root"], clock::now());
    assert_eq!(found.len(), 1);
    assert_eq!(found["a"][0].address.port(), 1);
    assert_eq!(files(path).len(), 7, "nothing that we can't read is removed");
}

#[test]
fn what_a_crash_left_unfinished_is_removed_in_time() {
    let folder = folder();
    std::fs::write(folder.path().join(".a-1-2.tmp"), "{").unwrap();
    let now = clock::now();
    look(folder.path(), &["a"], now);
    assert_eq!(files(folder.path()).len(), 1, "it may still be written");
    look(folder.path(), &["a"], now + Duration::from_secs(120));
    assert_eq!(files(folder.path()), [""; 0]);
}

#[test]
fn no_folder_and_a_folder_made_anew_are_no_failure() {
    let folder = folder();
    let path = folder.path().join("deep/registry");
    let mut registry = Registry::new(path.clone());
    assert!(registry.look(&wanted(&["a"]), clock::now()).unwrap().is_empty());
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700, "it is made for us alone");
    let _first = entry(&path, "a.json", "a", 1);
    assert_eq!(registry.look(&wanted(&["a"]), clock::now()).unwrap().len(), 1);
    std::fs::remove_dir_all(&path).unwrap();
    assert!(registry.look(&wanted(&["a"]), clock::now()).unwrap().is_empty());
    let _second = entry(&path, "a.json", "a", 2);
    assert_eq!(registry.look(&wanted(&["a"]), clock::now()).unwrap()["a"][0].address.port(), 2);
}

#[test]
fn a_folder_that_was_quiet_is_listed_again_when_it_changes() {
    let folder = folder();
    let now = clock::now();
    let quiet = std::fs::File::open(folder.path()).unwrap();
    let mut registry = Registry::new(folder.path().into());
    let mut look = || registry.look(&wanted(&["a"]), now).unwrap().values().map(Vec::len).sum::<usize>();
    for expected in 1..4 {
        let long_ago = Duration::from_secs(100 - expected as u64);
        quiet.set_modified(now - long_ago).unwrap();
        assert_eq!(look(), expected - 1);
        let alive = entry(folder.path(), &format!("{expected}.json"), "a", expected.try_into().unwrap());
        assert_eq!(look(), expected);
        std::mem::forget(alive);
    }
    std::fs::remove_file(folder.path().join("2.json")).unwrap();
    assert_eq!(look(), 2, "an entry that was withdrawn counts no more, even if its owner lives");
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777)).unwrap();
    assert!(registry.look(&wanted(&["a"]), now).is_err(), "a folder that was opened to others is refused");
}

#[test]
fn a_thousand_entries_are_read_in_a_few_milliseconds() {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    let folder = folder();
    let alive: Vec<_> = (1..=1000)
        .map(|n| entry(folder.path(), &format!("s{n}.json"), &format!("s{}", n % 500), n))
        .collect();
    let all: Vec<_> = (0..500).map(|n| format!("s{n}")).collect();
    let all: Vec<_> = all.iter().map(String::as_str).collect();
    let mut registry = Registry::new(folder.path().into());
    // The time of this thread alone, as others use the machine as well.
    let spent = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::try_from(time).unwrap()
    };
    let mut time = |names: &[&str], expect: usize| {
        let took = (0..5).map(|_| {
            let start = spent();
            let found = registry.look(&wanted(names), clock::now()).unwrap();
            assert_eq!(found.values().map(Vec::len).sum::<usize>(), expect);
            spent() - start
        });
        took.min().unwrap()
    };
    let (one, every) = (time(&["s7"], 2), time(&all, 1000));
    let fresh = (0..5).map(|_| {
        let start = spent();
        assert_eq!(look(folder.path(), &all, clock::now()).len(), 500);
        spent() - start
    });
    let fresh = fresh.min().unwrap();
    println!("1,000 entries: first look {fresh:?}, all wanted {every:?}, one service wanted {one:?}");
    assert!(fresh < Duration::from_millis(100) && every < Duration::from_millis(50), "{fresh:?} {every:?}");
    assert!(one < every);
    alive.iter().for_each(die);
    assert!(registry.look(&wanted(&all), clock::now()).unwrap().is_empty());
}

#[test]
fn no_more_entries_are_read_than_the_cap() {
    let folder = folder();
    for n in 0..ENTRIES + 5 {
        std::fs::write(folder.path().join(format!("{n}.txt")), "").unwrap();
    }
    let mut registry = Registry::new(folder.path().into());
    registry.look(&wanted(&["a"]), clock::now()).unwrap();
    assert!(registry.overflow);
}

async fn until(what: &str, met: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !met() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_registration_heals_follows_reloads_and_can_be_withdrawn() {
    let (folder, other) = (folder(), tempfile::tempdir().unwrap());
    let metrics = Metrics::new();
    let registered =
        |value: u8| metrics.render().contains(&format!("pillion_registered{{source=\"local\"}} {value}"));
    let (config, receiver) = watch::channel(Arc::new(model("users", folder.path())));
    let registration = register(receiver, ([127, 0, 0, 1], 8702).into(), &metrics);
    assert_eq!(look(folder.path(), &["users"], clock::now()).len(), 1, "at once");
    assert!(registered(1));
    let name = files(folder.path()).remove(0);
    let mode = std::fs::metadata(folder.path().join(&name)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    std::fs::remove_file(folder.path().join(&name)).unwrap();
    until("it is entered again", || files(folder.path()).iter().any(|file| file.ends_with(".json"))).await;

    let mut changed = model("users", folder.path());
    changed.service.tags = vec!["v2".into()];
    config.send_replace(Arc::new(changed));
    let text = || {
        files(folder.path())
            .iter()
            .filter_map(|file| std::fs::read_to_string(folder.path().join(file)).ok())
            .collect::<String>()
    };
    until("the entry says what the file says", || text().contains("v2")).await;

    let moved = other.path().join("registry");
    config.send_replace(Arc::new(model("users", &moved)));
    until("it follows to another folder", || files(folder.path()).is_empty()).await;
    assert_eq!(look(&moved, &["users"], clock::now()).len(), 1);

    registration.terminate(&model("users", &moved));
    assert_eq!(look(&moved, &["users"], clock::now())["users"][0].standing, Standing::Terminating);
    assert_eq!(files(&moved).len(), 1, "in place of the earlier entry");
    registration.withdraw();
    assert_eq!(files(&moved), [""; 0]);
    assert!(registered(0));
}

#[tokio::test]
async fn a_folder_that_can_not_be_used_now_is_tried_again() {
    let folder = folder();
    let blocked = folder.path().join("registry");
    std::fs::write(&blocked, "in the way").unwrap();
    let (_config, receiver) = watch::channel(Arc::new(model("users", &blocked)));
    let _registration = register(receiver, ([127, 0, 0, 1], 8702).into(), &Metrics::new());
    std::fs::remove_file(&blocked).unwrap();
    until("it registers in the end", || blocked.is_dir() && !files(&blocked).is_empty()).await;
}

#[tokio::test]
async fn only_a_service_that_takes_calls_is_entered() {
    let folder = folder();
    let mut caller = model("caller", folder.path());
    caller.service.address = None;
    let (_config, receiver) = watch::channel(Arc::new(caller));
    let _registration = register(receiver, ([127, 0, 0, 1], 8702).into(), &Metrics::new());
    assert_eq!(files(folder.path()), [""; 0]);
}
