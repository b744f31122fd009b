//! The rules themselves: written once, replaced, taken back.

use std::path::Path;
use std::process::Command;

use super::place::{Place, ip, must, open_to_all, program, said};
use super::world::{is_gone, rules_of_the_machine};

/// A place with a configuration, and without anything that runs.
struct Bare {
    place: Place,
    folder: tempfile::TempDir,
}

impl Bare {
    #[track_caller]
    fn new() -> Self {
        let place = Place::new("");
        let folder = tempfile::Builder::new().tempdir_in(place.shared.folder.path()).unwrap();
        std::fs::write(folder.path().join("pillion.yaml"), "version: 1\nservice: {name: a, port: 8080}\n")
            .unwrap();
        Self { place, folder }
    }

    #[track_caller]
    fn redirect(&self, words: &[&str]) -> String {
        let output = self.place.redirect(&self.folder.path().join("pillion.yaml"), words);
        assert!(output.status.success(), "{words:?}: {}", said(&output));
        said(&output)
    }

    fn tool(&self, words: &str) {
        let mut words = words.split(' ');
        let tool = program(words.next().unwrap(), "iptables");
        must(
            Command::new(&*super::place::IP).args(["netns", "exec", &self.place.name]).arg(tool).args(words),
        );
    }
}

/// Every way to write rules, and whether it can be asked without leaving a trace.
const TOOLS: [&str; 4] = ["auto", "iptables-nft", "iptables-legacy", "nft"];

#[test]
fn undoing_leaves_what_was_there_to_the_byte() {
    let machine = rules_of_the_machine();
    for tool in TOOLS {
        let bare = Bare::new();
        if tool == "iptables-legacy" {
            // The kernel makes this table when it is first asked for, for good.
            bare.tool("iptables-legacy -t nat -S");
            bare.tool("ip6tables-legacy -t nat -S");
        }
        let before = bare.place.rules();
        assert!(bare.redirect(&["--tool", tool, "--undo"]).is_empty(), "there is nothing to undo");
        assert_eq!(bare.place.rules(), before, "{tool}");
        bare.redirect(&["--tool", tool]);
        let first = bare.place.rules();
        assert_ne!(first, before, "{tool}");
        assert_eq!(
            bare.redirect(&["--tool", tool, "--dry-run"]),
            "# nothing to do\n",
            "{tool}: a second run"
        );
        bare.redirect(&["--tool", tool]);
        assert_eq!(bare.place.rules(), first, "{tool}: a second run changes nothing");
        bare.redirect(&["--skip-outbound-ports", "5432", "--no-inbound", "--family", "ipv4"]);
        let other = bare.place.rules();
        assert!(other.contains("5432") && !other.contains("8702"), "{tool}: {other}");
        bare.redirect(&["--tool", tool]);
        let sorted =
            |rules: &str| rules.lines().map(str::to_owned).collect::<std::collections::BTreeSet<_>>();
        // nft lists chains in the order in which they were made.
        assert_eq!(sorted(&bare.place.rules()), sorted(&first), "{tool}: an option that is left out again");
        bare.redirect(&["--undo"]);
        assert_eq!(bare.place.rules(), before, "{tool}");
    }
    assert_eq!(rules_of_the_machine(), machine, "the machine's own rules");
}

#[test]
fn rules_of_others_stay_as_they_are() {
    let bare = Bare::new();
    bare.tool("iptables -t nat -N DOCKER");
    bare.tool("iptables -t nat -A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER");
    bare.tool("iptables -t nat -A DOCKER -p tcp --dport 80 -j DNAT --to-destination 10.1.1.1:8080");
    bare.tool("ip6tables -t filter -A OUTPUT -p tcp --dport 25 -j REJECT");
    let before = bare.place.rules();
    for tool in ["iptables", "nft"] {
        bare.redirect(&["--tool", tool]);
        let with = bare.place.rules();
        for line in before.lines().filter(|line| line.contains(" -A ")) {
            assert!(with.lines().any(|other| other == line), "{tool}: {line} is gone: {with}");
        }
        bare.redirect(&["--undo"]);
        assert_eq!(bare.place.rules(), before, "{tool}");
    }
}

#[test]
fn a_dry_run_writes_nothing_and_what_it_prints_does_the_same() {
    let bare = Bare::new();
    for tool in ["iptables", "nft"] {
        let before = bare.place.rules();
        let script = bare.redirect(&["--tool", tool, "--dry-run"]);
        assert_eq!(bare.place.rules(), before, "{tool}");
        let run = |script: &str| must(&mut bare.place.command(0, &["/bin/sh", "-e", "-c", script]));
        run(&script);
        assert_eq!(bare.redirect(&["--tool", tool, "--dry-run"]), "# nothing to do\n", "{tool}: {script}");
        run(&bare.redirect(&["--undo", "--dry-run"]));
        assert_eq!(bare.place.rules(), before, "{tool}");
    }
}

#[test]
fn a_family_that_fails_takes_the_other_back() {
    let bare = Bare::new();
    let before = bare.place.rules();
    // All of iptables, but for a restore of IPv6 that fails.
    let tools = bare.folder.path().join("tools");
    std::fs::create_dir(&tools).unwrap();
    for name in ["iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "nft"] {
        std::os::unix::fs::symlink(program(name, "iptables"), tools.join(name)).unwrap();
    }
    let broken = tools.join("ip6tables-restore");
    std::fs::write(&broken, "#!/bin/sh\necho 'ip6tables-restore: line 3 failed' >&2\nexit 1\n").unwrap();
    open_to_all(&broken);
    let output = redirect_with(&bare, &tools, &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("ip6tables-restore: line 3 failed"), "{}", said(&output));
    assert_eq!(bare.place.rules(), before, "IPv4 was taken back");
}

#[test]
fn what_is_missing_is_told_with_what_helps() {
    let bare = Bare::new();
    let none = bare.folder.path().join("none");
    std::fs::create_dir(&none).unwrap();
    let output = redirect_with(&bare, &none, &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("install one"), "{}", said(&output));
    open_to_all(bare.folder.path());
    let config = bare.folder.path().join("pillion.yaml");
    let words =
        [bare.place.shared.program.as_os_str(), "redirect".as_ref(), "-c".as_ref(), config.as_os_str()];
    let output = bare.place.command(1000, &words).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("NET_ADMIN"), "{}", said(&output));
    std::fs::write(&config, "version: 1\nservice: {name: a, prot: 1}\n").unwrap();
    let output = bare.place.redirect(&config, &[]);
    assert_eq!(output.status.code(), Some(78), "{}", said(&output));
}

#[test]
fn a_place_is_gone_after_its_test() {
    let place = Place::new("");
    let name = place.name.clone();
    ip(&format!("-n {name} link show lo"));
    assert!(!is_gone(&name));
    drop(place);
    assert!(is_gone(&name));
}

/// `pillion redirect` where PATH is one folder.
fn redirect_with(bare: &Bare, path: &Path, words: &[&str]) -> std::process::Output {
    let mut command = Command::new(&*super::place::IP);
    command.args(["netns", "exec", &bare.place.name]).arg(&bare.place.shared.program).arg("redirect");
    command.args(words).env("PATH", path).current_dir(bare.folder.path()).output().unwrap()
}
