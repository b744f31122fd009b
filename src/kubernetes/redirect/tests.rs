use std::sync::LazyLock;

use clap::Parser;

use super::iptables::State;
use super::*;

#[derive(Debug, Parser)]
struct Command {
    #[command(flatten)]
    args: Args,
}

fn parsed(words: &[&str]) -> Result<Args, clap::Error> {
    Command::try_parse_from(["redirect"].iter().chain(words)).map(|command| command.args)
}

fn own() -> Own {
    let mut model = config::defaults("users", Some(8080), &Environment::of([] as [(&str, &str); 0]));
    model.listen.inbound = "0.0.0.0:8702".parse().unwrap();
    Own::of(&model)
}

fn planned(words: &[&str]) -> Plan {
    plan(&parsed(words).unwrap(), &own()).unwrap()
}

/// The script that makes `words` where nothing is.
fn script(words: &[&str], family: Family) -> String {
    let state = State::wanted(&planned(words).rules(family), family, []);
    State::default().script(&state).unwrap_or_default()
}

const DEFAULTS: &str = "\
*nat
:PILLION_INBOUND - [0:0]
:PILLION_OUTPUT - [0:0]
-A PILLION_INBOUND -p tcp -m tcp --dport 53 -j RETURN
-A PILLION_INBOUND -p tcp -m tcp --dport 8700 -j RETURN
-A PILLION_INBOUND -p tcp -m tcp --dport 8701 -j RETURN
-A PILLION_INBOUND -p tcp -m tcp --dport 8702 -j RETURN
-A PILLION_INBOUND -p tcp -m tcp --dport 8790 -j RETURN
-A PILLION_INBOUND -p tcp -j REDIRECT --to-ports 8702
-A PILLION_OUTPUT ! -d 127.0.0.0/8 -o lo -p tcp -m tcp --dport 8080 -m owner --uid-owner 8700 -j REDIRECT --to-ports 8702
-A PILLION_OUTPUT -o lo -j RETURN
-A PILLION_OUTPUT -m owner --uid-owner 8700 -j RETURN
-A PILLION_OUTPUT -p tcp -m tcp --dport 53 -j RETURN
-A PILLION_OUTPUT -p tcp -j REDIRECT --to-ports 8701
-A OUTPUT -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j PILLION_OUTPUT
-A PREROUTING -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -m addrtype --dst-type LOCAL -j PILLION_INBOUND
COMMIT
";

#[test]
fn the_defaults_as_iptables() {
    assert_eq!(script(&[], Family::V4), DEFAULTS);
    assert_eq!(script(&[], Family::V6), DEFAULTS.replace("127.0.0.0/8", "::1/128"));
}

#[test]
fn every_option_as_iptables() {
    let words = [
        "--outbound-port=1701",
        "--inbound-port=1702",
        "--skip-uid=8700,1000",
        "--skip-gid=33",
        "--skip-outbound-ports=5432,6000-6010",
        "--skip-outbound-ranges=10.96.0.10,fd00::/8",
        "--only-outbound-ports=80,8000-8999",
        "--only-outbound-ranges=10.0.0.0/8",
        "--inbound-ports=8080",
        "--skip-inbound-ports=9100",
    ];
    let wanted = "\
*nat
:PILLION_INBOUND - [0:0]
:PILLION_OUTPUT - [0:0]
-A PILLION_INBOUND -p tcp -m tcp --dport 53 -j RETURN
-A PILLION_INBOUND -p tcp -m tcp --dport 1701 -j RETURN
-A PILLION_INBOUND -p tcp -m tcp --dport 1702 -j RETURN
-A PILLION_INBOUND -p tcp -m tcp --dport 8700 -j RETURN
-A PILLION_INBOUND -p tcp -m tcp --dport 8790 -j RETURN
-A PILLION_INBOUND -p tcp -m tcp --dport 9100 -j RETURN
-A PILLION_INBOUND -p tcp -m tcp --dport 8080 -j REDIRECT --to-ports 1702
-A PILLION_OUTPUT ! -d 127.0.0.0/8 -o lo -p tcp -m tcp --dport 8080 -m owner --uid-owner 8700 -j REDIRECT --to-ports 1702
-A PILLION_OUTPUT ! -d 127.0.0.0/8 -o lo -p tcp -m tcp --dport 8080 -m owner --uid-owner 1000 -j REDIRECT --to-ports 1702
-A PILLION_OUTPUT -o lo -j RETURN
-A PILLION_OUTPUT -m owner --uid-owner 8700 -j RETURN
-A PILLION_OUTPUT -m owner --uid-owner 1000 -j RETURN
-A PILLION_OUTPUT -m owner --gid-owner 33 -j RETURN
-A PILLION_OUTPUT -p tcp -m tcp --dport 53 -j RETURN
-A PILLION_OUTPUT -p tcp -m tcp --dport 5432 -j RETURN
-A PILLION_OUTPUT -p tcp -m tcp --dport 6000:6010 -j RETURN
-A PILLION_OUTPUT -d 10.96.0.10/32 -j RETURN
-A PILLION_OUTPUT -d 10.0.0.0/8 -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 1701
-A PILLION_OUTPUT -d 10.0.0.0/8 -p tcp -m tcp --dport 8000:8999 -j REDIRECT --to-ports 1701
-A OUTPUT -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j PILLION_OUTPUT
-A PREROUTING -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -m addrtype --dst-type LOCAL -j PILLION_INBOUND
COMMIT
";
    assert_eq!(script(&words, Family::V4), wanted);
    let v6 = script(&words, Family::V6);
    assert!(v6.contains("-d fd00::/8 -j RETURN") && !v6.contains("10."), "{v6}");
    assert!(!v6.contains("--to-ports 1701"), "nothing but ranges of IPv4 is captured: {v6}");
}

#[test]
fn one_direction_alone() {
    let inbound = script(&["--no-outbound"], Family::V4);
    assert!(!inbound.contains("PILLION_OUTPUT") && inbound.contains("-A PREROUTING"), "{inbound}");
    let outbound = script(&["--no-inbound"], Family::V4);
    assert!(!outbound.contains("PILLION_INBOUND") && outbound.contains("-A OUTPUT"), "{outbound}");
    assert!(!outbound.contains("8702"), "the own inbound port is not used: {outbound}");
}

#[test]
fn dns_is_captured_only_by_name() {
    let left = |words: &[&str]| script(words, Family::V4).matches("--dport 53 -j RETURN").count();
    assert_eq!(left(&["--only-outbound-ports=80", "--inbound-ports=80"]), 2);
    assert_eq!(left(&["--only-outbound-ports=1-100", "--inbound-ports=53"]), 0);
}

#[test]
fn the_defaults_as_nft() {
    let wanted = "\
table ip6 pillion {
	chain output {
		type nat hook output priority -100; policy accept;
		meta l4proto != tcp return
		tcp flags & (fin | syn | rst | ack) != syn return
		ip6 daddr != ::1 oifname \"lo\" tcp dport 8080 meta skuid 8700 redirect to :8702
		oifname \"lo\" return
		meta skuid 8700 return
		tcp dport 53 return
		ip6 daddr fd00::/8 return
		ip6 daddr fe80::1 return
		meta l4proto tcp redirect to :8701
	}

	chain inbound {
		type nat hook prerouting priority dstnat; policy accept;
		meta l4proto != tcp return
		tcp flags & (fin | syn | rst | ack) != syn return
		fib daddr type != local return
		tcp dport 53 return
		tcp dport 8700 return
		tcp dport 8701 return
		tcp dport 8702 return
		tcp dport 8790 return
		tcp dport 9000-9010 return
		meta l4proto tcp redirect to :8702
	}
}
";
    let plan = planned(&["--skip-outbound-ranges=fd00::/8,fe80::1", "--skip-inbound-ports=9000-9010"]);
    let text = nft::wanted(&plan.rules(Family::V6), Family::V6).unwrap();
    assert_eq!(text, wanted);
    let listed = text.replace("& (fin | syn | rst | ack) != syn", "!= syn / fin,syn,rst,ack");
    assert_eq!(nft::script(Family::V6, Some(&listed), Some(&text)), None, "a second run does nothing");
    assert_eq!(nft::script(Family::V6, Some(&listed), None).unwrap(), "delete table ip6 pillion\n");
    let other = nft::wanted(&planned(&[]).rules(Family::V6), Family::V6).unwrap();
    let replaced = nft::script(Family::V6, Some(&listed), Some(&other)).unwrap();
    assert_eq!(replaced, format!("delete table ip6 pillion\n{other}"), "in one step");
}

/// What `iptables-save -t nat` shows of the defaults, among rules of others.
static SAVED: LazyLock<String> = LazyLock::new(|| {
    let body = DEFAULTS
        .replace("*nat\n", "*nat\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [3:180]\n:DOCKER - [0:0]\n");
    body.replace("COMMIT", "-A OUTPUT -d 127.0.0.11/32 -j DOCKER\n-A DOCKER -i docker0 -j RETURN\nCOMMIT")
});

#[test]
fn a_second_run_does_nothing_and_another_option_replaces() {
    let now = State::parse(&SAVED);
    let rules = planned(&[]).rules(Family::V4);
    assert_eq!(now.script(&State::wanted(&rules, Family::V4, [])), None);
    let other = planned(&["--outbound-port=1701", "--no-inbound"]).rules(Family::V4);
    let script = now.script(&State::wanted(&other, Family::V4, [])).unwrap();
    let lines: Vec<&str> = script.lines().collect();
    assert_eq!(lines[..2], ["*nat", ":PILLION_OUTPUT - [0:0]"], "{script}");
    assert!(lines.contains(&"-A PILLION_OUTPUT -p tcp -j REDIRECT --to-ports 1701"), "{script}");
    let tail = ["-F PILLION_INBOUND", "-X PILLION_INBOUND", "COMMIT"];
    assert_eq!(lines[lines.len() - 3..], tail, "{script}");
    assert!(!script.contains("DOCKER"), "rules of others are not touched: {script}");
}

#[test]
fn undoing_takes_back_what_is_ours_and_nothing_else() {
    let script = State::parse(&SAVED).script(&State::default()).unwrap();
    let wanted = "\
*nat
-D OUTPUT -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j PILLION_OUTPUT
-D PREROUTING -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -m addrtype --dst-type LOCAL -j PILLION_INBOUND
-F PILLION_INBOUND
-X PILLION_INBOUND
-F PILLION_OUTPUT
-X PILLION_OUTPUT
COMMIT
";
    assert_eq!(script, wanted);
    let others = "*nat\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -j DOCKER\nCOMMIT\n";
    assert_eq!(State::parse(others).script(&State::default()), None);
}

#[test]
fn a_mark_stays_until_all_is_undone() {
    let rules = planned(&[]).rules(Family::V4);
    let mark = || [iptables::NEW_TABLE.to_owned()];
    let first = State::wanted(&rules, Family::V4, mark());
    let script = State::default().script(&first).unwrap();
    assert!(script.contains(":PILLION_NEW_TABLE - [0:0]\n"), "{script}");
    let now = State::parse(&script);
    assert_eq!(now.marks().cloned().collect::<Vec<_>>(), mark());
    assert_eq!(now.script(&first), None);
    assert!(now.script(&State::default()).unwrap().contains("-X PILLION_NEW_TABLE\n"));
}

#[test]
fn wrong_options_are_refused() {
    for words in [
        &["--no-outbound", "--no-inbound"][..],
        &["--outbound-port=0"],
        &["--inbound-port=70000"],
        &["--skip-uid=pillion"],
        &["--skip-outbound-ports=http"],
        &["--skip-outbound-ranges=10.0.0.1/8"],
        &["--no-inbound", "--inbound-ports=80"],
        &["--family=ipv5"],
        &["--tool=pf"],
    ] {
        assert!(parsed(words).is_err(), "{words:?}");
    }
    let why = |words: &[&str], own: &Own| plan(&parsed(words).unwrap(), own).unwrap_err();
    assert!(why(&["--outbound-port=8702"], &own()).contains("both"));
    let elsewhere = Own { outbound: "10.0.0.1:8701".parse().unwrap(), ..own() };
    assert!(why(&[], &elsewhere).contains("127.0.0.1"));
    let free = Own { inbound: "0.0.0.0:0".parse().unwrap(), ..own() };
    assert!(why(&[], &free).contains("system (0)"));
}

#[test]
fn a_complaint_of_a_tool_has_a_remedy() {
    let remedy = |said: &str| Failure(said.to_owned()).remedy();
    assert!(remedy("iptables: Permission denied (you must be root)").contains("NET_ADMIN"));
    assert!(remedy("nft: Operation not permitted").contains("NET_ADMIN"));
    assert!(remedy("iptables: Table does not exist (do you need to insmod?)").contains("--tool"));
}
