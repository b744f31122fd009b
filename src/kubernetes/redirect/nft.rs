//! The rules as a table of nftables, in the words in which `nft list` shows
//! them, so that what is there can be compared with what is to be.

use super::plan::{Action, Family, Match, Ports, Rule, Rules};

/// Not the first packet of a connection.
const FLAGS: &str = "& (fin | syn | rst | ack) != syn";

/// The table of a family.
pub fn table(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip pillion",
        Family::V6 => "ip6 pillion",
    }
}

/// The table's text; `None` if it would be empty.
pub fn wanted(rules: &Rules, family: Family) -> Option<String> {
    let lists = [
        ("output", "type nat hook output priority -100; policy accept;", None, &rules.output),
        (
            "inbound",
            "type nat hook prerouting priority dstnat; policy accept;",
            Some("fib daddr type != local return"),
            &rules.inbound,
        ),
    ];
    let chains: Vec<String> = lists
        .into_iter()
        .filter_map(|(name, hook, first, list)| {
            let rules = list.as_ref()?.iter().map(|rule| text(rule, family));
            // One that stands is not touched, also where the kernel has not followed it so far.
            let begin = ["meta l4proto != tcp return", &format!("tcp flags {FLAGS} return")];
            let lines = begin.into_iter().chain(first).map(|line| line.to_owned()).chain(rules);
            let lines: String = lines.map(|line| format!("\t\t{line}\n")).collect();
            Some(format!("\tchain {name} {{\n\t\t{hook}\n{lines}\t}}\n"))
        })
        .collect();
    (!chains.is_empty()).then(|| format!("table {} {{\n{}}}\n", table(family), chains.join("\n")))
}

/// What `nft -f -` has to be told to come from one text of the table to
/// another, in one step; `None` if there is nothing to do.
pub fn script(family: Family, from: Option<&str>, to: Option<&str>) -> Option<String> {
    if from.map(words) == to.map(words) {
        return None;
    }
    let delete = from.map(|_| format!("delete table {}\n", table(family)));
    Some(delete.into_iter().chain(to.map(str::to_owned)).collect())
}

/// Only the words matter, and newer versions write this one condition in
/// another way than all can read.
fn words(text: &str) -> Vec<String> {
    let text = text.replace("!= syn / fin,syn,rst,ack", FLAGS);
    text.split_whitespace().map(str::to_owned).collect()
}

fn text(rule: &Rule, family: Family) -> String {
    let (ip, loopback) = match family {
        Family::V4 => ("ip", "127.0.0.0/8"),
        Family::V6 => ("ip6", "::1"),
    };
    let mut words: Vec<String> = Vec::new();
    for condition in &rule.when {
        words.push(match condition {
            Match::To(range) => match range.single() {
                Some(address) => format!("{ip} daddr {address}"),
                None => format!("{ip} daddr {range}"),
            },
            Match::NotToLoopback => format!("{ip} daddr != {loopback}"),
            Match::ToLoopbackDevice => "oifname \"lo\"".to_owned(),
            Match::Port(Ports(ports)) if ports.start() == ports.end() => {
                format!("tcp dport {}", ports.start())
            }
            Match::Port(Ports(ports)) => format!("tcp dport {}-{}", ports.start(), ports.end()),
            Match::Uid(uid) => format!("meta skuid {uid}"),
            Match::Gid(gid) => format!("meta skgid {gid}"),
        });
    }
    match rule.action {
        Action::Leave => words.push("return".to_owned()),
        Action::Redirect(port) => {
            if !rule.when.iter().any(|condition| matches!(condition, Match::Port(_))) {
                words.push("meta l4proto tcp".to_owned());
            }
            words.push(format!("redirect to :{port}"));
        }
    }
    words.join(" ")
}
