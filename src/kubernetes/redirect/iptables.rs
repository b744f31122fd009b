//! The rules as iptables holds them, in the words in which `iptables-save`
//! shows them, so that what is there can be compared with what is to be.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::plan::{Action, Family, Match, Rule, Rules};

const OUTPUT: &str = "PILLION_OUTPUT";
const INBOUND: &str = "PILLION_INBOUND";
/// Chains without a rule that say what was not there before the first run, for
/// its undoing.
pub const NEW_TABLE: &str = "PILLION_NEW_TABLE";
/// The beginning of the marks of chains that were not there.
pub const NEW: &str = "PILLION_NEW_";
const OWN: &str = "PILLION_";
/// The first packet of a TCP connection. One that stands is not touched, also
/// where the kernel has not followed it so far.
const FIRST: &str = "-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN";

/// What is ours in the table `nat` of one family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Own chains and their rules.
    pub chains: BTreeMap<String, Vec<String>>,
    /// Rules of other chains that lead into own ones, the chain and the rule,
    /// sorted: only within one chain does the order matter.
    pub jumps: Vec<(String, String)>,
}

impl State {
    /// What is ours in the output of `iptables-save -t nat`.
    pub fn parse(saved: &str) -> Self {
        let mut state = Self::default();
        for line in saved.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match *words.as_slice() {
                [chain, ..] if chain.starts_with(':') && chain[1..].starts_with(OWN) => {
                    state.chains.entry(chain[1..].to_owned()).or_default();
                }
                ["-A", chain, ref rule @ ..] if chain.starts_with(OWN) => {
                    state.chains.entry(chain.to_owned()).or_default().push(rule.join(" "));
                }
                ["-A", chain, ref rule @ .., "-j", own] if own.starts_with(OWN) => {
                    state.jumps.push((chain.to_owned(), format!("{} -j {own}", rule.join(" "))));
                }
                _ => {}
            }
        }
        state.jumps.sort();
        state
    }

    /// What `rules` come to. `marks` are kept.
    pub fn wanted(rules: &Rules, family: Family, marks: impl IntoIterator<Item = String>) -> Self {
        let mut state = Self::default();
        for mark in marks {
            state.chains.insert(mark, Vec::new());
        }
        let lists = [
            (OUTPUT, "OUTPUT", "", &rules.output),
            (INBOUND, "PREROUTING", " -m addrtype --dst-type LOCAL", &rules.inbound),
        ];
        for (chain, base, more, list) in lists {
            if let Some(list) = list {
                let list = list.iter().map(|rule| text(rule, family)).collect();
                state.chains.insert(chain.to_owned(), list);
                state.jumps.push((base.to_owned(), format!("{FIRST}{more} -j {chain}")));
            }
        }
        state.jumps.sort();
        state
    }

    /// The marks among the chains.
    pub fn marks(&self) -> impl Iterator<Item = &String> {
        self.chains.keys().filter(|chain| chain.starts_with(NEW))
    }

    /// Whether nothing is ours.
    pub fn is_empty(&self) -> bool {
        self.chains.is_empty() && self.jumps.is_empty()
    }

    /// What `iptables-restore --noflush` has to be told to come from this to
    /// `to`, in one step; `None` if there is nothing to do.
    pub fn script(&self, to: &Self) -> Option<String> {
        if self == to {
            return None;
        }
        let mut text = String::from("*nat\n");
        let mut line = |words: &[&str]| {
            // To a string: can't fail.
            let _ = writeln!(text, "{}", words.join(" "));
        };
        // Makes a chain, and empties one that is there.
        to.chains.keys().for_each(|chain| line(&[&format!(":{chain}"), "-", "[0:0]"]));
        let jumps_differ = self.jumps != to.jumps;
        if jumps_differ {
            self.jumps.iter().for_each(|(chain, rule)| line(&["-D", chain, rule]));
        }
        for (chain, rules) in &to.chains {
            rules.iter().for_each(|rule| line(&["-A", chain, rule]));
        }
        if jumps_differ {
            to.jumps.iter().for_each(|(chain, rule)| line(&["-A", chain, rule]));
        }
        for chain in self.chains.keys().filter(|chain| !to.chains.contains_key(*chain)) {
            line(&["-F", chain]);
            line(&["-X", chain]);
        }
        text.push_str("COMMIT\n");
        Some(text)
    }
}

/// One rule, in the order of words of `iptables-save`.
fn text(rule: &Rule, family: Family) -> String {
    let loopback = match family {
        Family::V4 => "127.0.0.0/8",
        Family::V6 => "::1/128",
    };
    let (mut to, mut device, mut port, mut owner) = (String::new(), "", String::new(), String::new());
    for condition in &rule.when {
        match condition {
            Match::To(range) => to = format!("-d {range} "),
            Match::NotToLoopback => to = format!("! -d {loopback} "),
            Match::ToLoopbackDevice => device = "-o lo ",
            Match::Port(ports) if ports.0.start() == ports.0.end() => {
                port = format!("-m tcp --dport {} ", ports.0.start());
            }
            Match::Port(ports) => port = format!("-m tcp --dport {}:{} ", ports.0.start(), ports.0.end()),
            Match::Uid(uid) => owner = format!("-m owner --uid-owner {uid} "),
            Match::Gid(gid) => owner = format!("-m owner --gid-owner {gid} "),
        }
    }
    let action = match rule.action {
        Action::Leave => "-j RETURN".to_owned(),
        Action::Redirect(port) => format!("-j REDIRECT --to-ports {port}"),
    };
    let tcp = if port.is_empty() && rule.action == Action::Leave { "" } else { "-p tcp " };
    format!("{to}{device}{tcp}{port}{owner}{action}")
}
