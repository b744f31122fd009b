//! The folder of the sidecars of one machine: full, crowded, and unwatched.

use std::fs::{File, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Resource, getrlimit, setrlimit};
use tempfile::TempDir;

use super::shown;
use crate::support::{Process, Recorder, beside_others, get, process, until};

fn folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o700)).unwrap();
    folder
}

/// An entry as a sidecar writes it, alive as long as the file is open.
fn entry(folder: &Path, name: &str, address: SocketAddr) -> File {
    let unfinished = folder.join(format!(".{name}.tmp"));
    let text = format!(
        r#"{{"version":1,"name":"{name}","address":"{address}","protocol":"auto","pid":1,"started":1}}"#
    );
    std::fs::write(&unfinished, text).unwrap();
    let file = File::open(&unfinished).unwrap();
    flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
    std::fs::rename(unfinished, folder.join(format!("{name}.json"))).unwrap();
    file
}

fn at(folder: &Path) -> String {
    format!("local: {{directory: '{}'}}", folder.display())
}

fn finds(front: &Process, name: &str) -> bool {
    get(front.outbound, name, "/").status == 200
}

#[test]
fn a_full_disk_stops_no_call_and_takes_no_entry_away() {
    let _turn = beside_others();
    let (folder, users) = (folder(), Recorder::start());
    let disk = folder.path().to_str().unwrap();
    // A disk of its own, which nobody but the sidecar sees, and which is full.
    let full = format!(
        "mount -t tmpfs -o size=64k,mode=700 tmpfs {disk} && ! head -c 1M /dev/zero > {disk}/full && exec \"$@\""
    );
    let sidecar = process("users")
        .service(users.address(), "http1")
        .discovery(&at(folder.path()))
        .through(&["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", &full, "sh"])
        .start();
    let inside = Path::new("/proc").join(sidecar.child.id().to_string()).join("root").join(&disk[1..]);
    let entries = || {
        let names = std::fs::read_dir(&inside).unwrap().map(|entry| entry.unwrap().file_name());
        names.map(|name| name.into_string().unwrap()).filter(|name| name != "full").collect::<Vec<_>>()
    };
    let registered = || sidecar.metrics().get("pillion_registered", &[]);
    until("it is told", || sidecar.said().contains("can't be entered into the local registry"));
    assert_eq!((registered(), entries()), (0.0, Vec::new()));
    assert_eq!(get(sidecar.inbound, "users", "/").status, 200);
    std::fs::remove_file(inside.join("full")).unwrap();
    until("it is entered when there is room", || registered() > 0.0 && entries().len() == 1);

    // What it says now can't be written: what it said before stays.
    let before = entries();
    let more = vec![b' '; 1 << 20];
    assert!(std::fs::write(inside.join("full"), more).is_err(), "the disk is full again");
    sidecar.change("service: {", "service: {tags: [v2], ");
    until("the change is taken", || {
        sidecar.said().matches("can't be entered into the local registry").count() == 2
    });
    assert_eq!(entries(), before);
    std::fs::remove_file(inside.join("full")).unwrap();
    let text =
        || entries().iter().filter_map(|name| std::fs::read_to_string(inside.join(name)).ok()).collect();
    until("the entry says what the file says", || {
        let text: String = text();
        text.contains("v2") && text.matches("version").count() == 1
    });
}

#[test]
fn where_nothing_can_be_watched_the_look_every_second_finds_what_comes_and_goes() {
    let _turn = beside_others();
    let (folder, users) = (folder(), Recorder::start());
    // As when other programs have taken all that one user may have.
    let none = "echo 0 > /proc/sys/user/max_inotify_instances && exec \"$@\"";
    let front = process("front")
        .discovery(&at(folder.path()))
        .through(&["unshare", "--user", "--map-root-user", "sh", "-c", none, "sh"])
        .start();
    assert_eq!(get(front.outbound, "users", "/").reason().as_deref(), Some("unknown_upstream"));
    for round in 0..3 {
        let (start, alive) = (Instant::now(), entry(folder.path(), "users", users.address()));
        until("it is found", || finds(&front, "users"));
        let found = start.elapsed();
        std::fs::remove_file(folder.path().join("users.json")).unwrap();
        let start = Instant::now();
        until("it is gone", || !finds(&front, "users"));
        let gone = start.elapsed();
        assert!(found.max(gone) < Duration::from_secs(3), "{round}: {found:?} {gone:?}");
        drop(alive);
    }
}

#[test]
fn a_thousand_services_in_one_folder_cost_little() {
    let _turn = beside_others();
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    let (folder, users) = (folder(), Recorder::start());
    let mut alive: Vec<File> =
        (0..1000).map(|n| entry(folder.path(), &format!("s{n}"), users.address())).collect();
    let front = process("front").discovery(&at(folder.path())).start();
    for n in 0..100 {
        assert!(finds(&front, &format!("s{n}")), "s{n}");
    }
    let share = |what: &mut dyn FnMut()| {
        let (cpu, start) = (front.cpu(), Instant::now());
        while start.elapsed() < Duration::from_secs(4) {
            what();
            std::thread::sleep(Duration::from_millis(20));
        }
        (front.cpu() - cpu).as_secs_f64() / start.elapsed().as_secs_f64()
    };
    let quiet = share(&mut || {});
    let mut number = 0;
    let busy = share(&mut || {
        number += 1;
        std::fs::remove_file(folder.path().join(format!("s{}.json", 500 + number))).unwrap();
        alive.push(entry(folder.path(), &format!("new{number}"), users.address()));
    });
    let start = Instant::now();
    alive.push(entry(folder.path(), "late", users.address()));
    until("one more is found", || finds(&front, "late"));
    let late = start.elapsed();
    println!(
        "1,000 services, 100 of them called: {quiet:.3} of a processor; 50 changes a second: {busy:.3}; one more after {late:?}"
    );
    assert!(quiet < 0.25 && busy < 0.6, "{quiet} {busy}");
    assert!(late < Duration::from_secs(2), "{late:?}");
    assert_eq!(shown(front.admin, "s7")["endpoints"].as_array().unwrap().len(), 1);
}
