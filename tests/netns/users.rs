//! Two users of one machine, each with sidecars that meet in the usual folder.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use super::support::process::Setup;
use super::support::{Recorder, get, process, until};

/// A user of the machine without a name, and the folder that is theirs.
struct User(u32);

impl User {
    /// One that no other run of these tests has.
    fn new(number: u32) -> Self {
        let user = Self(1_000_000 + std::process::id() * 8 + number);
        user.clear();
        user
    }

    fn folder(&self) -> PathBuf {
        format!("/tmp/pillion-{}", self.0).into()
    }

    /// Runs it as this user, who may read nothing but the program and its files.
    fn runs(&self, setup: Setup) -> Setup {
        let drop_root = format!(
            "chmod a+rx . && {{ ln \"$1\" pillion 2>/dev/null || cp \"$1\" pillion; }} && shift && \
             unset XDG_RUNTIME_DIR && exec setpriv --reuid={0} --regid={0} --clear-groups ./pillion \"$@\"",
            self.0
        );
        setup.discovery("local: {}").through(&["sh", "-c", &drop_root, "sh"])
    }

    fn clear(&self) {
        let folder = self.folder();
        if folder.is_symlink() {
            std::fs::remove_file(folder).unwrap();
        } else if folder.exists() {
            std::fs::remove_dir_all(folder).unwrap();
        }
    }
}

impl Drop for User {
    fn drop(&mut self) {
        self.clear();
    }
}

#[test]
fn two_users_of_one_machine_never_meet() {
    let users = [User::new(1), User::new(2)];
    let servers = [Recorder::start(), Recorder::start()];
    let pairs: Vec<_> = users
        .iter()
        .zip(&servers)
        .map(|(user, server)| {
            let service = user.runs(process("users").service(server.address(), "http1")).start();
            (service, user.runs(process("front")).start())
        })
        .collect();
    for (number, (_, front)) in pairs.iter().enumerate() {
        until("the service is found", || get(front.outbound, "users", "/").status == 200);
        let (own, other) = (&servers[number], &servers[1 - number]);
        other.take();
        own.take();
        for _ in 0..20 {
            assert_eq!(get(front.outbound, "users", "/").status, 200);
        }
        assert_eq!((own.take().len(), other.take().len()), (20, 0));
        let folder = std::fs::metadata(users[number].folder()).unwrap();
        assert_eq!((folder.uid(), folder.mode() & 0o777), (users[number].0, 0o700));
    }
}

#[test]
fn a_folder_that_another_user_made_is_refused_until_it_is_gone() {
    let (hostile, victim) = (User::new(3), User::new(4));
    let server = Recorder::start();
    let trap = |at: &Path| {
        std::fs::create_dir(at).unwrap();
        std::fs::set_permissions(at, PermissionsExt::from_mode(0o777)).unwrap();
        let entry = r#"{"version":1,"name":"users","address":"127.0.0.1:1","pid":1,"started":1}"#;
        std::fs::write(at.join("users-1-1.json"), entry).unwrap();
        chown(at, Some(hostile.0), Some(hostile.0)).unwrap();
    };
    // Theirs in its place, or a link to theirs.
    for link in [false, true] {
        if link {
            trap(&hostile.folder());
            symlink(hostile.folder(), victim.folder()).unwrap();
        } else {
            trap(&victim.folder());
        }
        let sidecar = victim.runs(process("users").service(server.address(), "http1")).start();
        let refused = get(sidecar.outbound, "users", "/");
        assert_eq!(refused.reason().as_deref(), Some("discovery_failed"), "{}", refused.text());
        let theirs = format!("belongs to another user (uid {})", hostile.0);
        let why = if link { "symbolic link" } else { &theirs };
        assert!(refused.text().contains(why), "{}", refused.text());
        until("it is said", || sidecar.said().contains("can't be entered into the local registry"));
        let registered = || sidecar.metrics().get("pillion_registered", &[]);
        assert_eq!(registered(), 0.0);
        victim.clear();
        until("it makes a folder of its own", || registered() > 0.0);
        until("and is found there", || get(sidecar.outbound, "users", "/").status == 200);
        drop(sidecar);
        victim.clear();
    }
}
