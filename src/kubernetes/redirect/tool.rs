//! The programs that write rules: which of them is there, what it says, and
//! what its complaints mean.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use super::iptables::{self, State};
use super::nft;
use super::plan::{Family, Plan};

/// How long another program that writes rules is waited for, in seconds.
const LOCK: &str = "5";

/// A program that writes rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// iptables, under one of its names, over nftables or by itself.
    Iptables {
        /// `iptables`, `iptables-nft` or `iptables-legacy`.
        name: &'static str,
        /// Not over nftables.
        legacy: bool,
    },
    /// nft, with tables of our own.
    Nft,
}

/// One step for one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    tool: Tool,
    family: Family,
    /// What the program is told.
    script: String,
    /// What it is told to take that back.
    back: String,
    /// What is deleted afterwards, if it is empty: it was not there before.
    empty: Vec<String>,
    /// The same after it is taken back.
    empty_back: Vec<String>,
}

/// What a program said when it failed.
#[derive(Debug)]
pub struct Failure(pub String);

impl Tool {
    /// Every one that is there, the first choice first.
    pub fn all() -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for name in ["iptables", "iptables-nft", "iptables-legacy"] {
            let parts = ["", "-save", "-restore"].map(|part| part_name(name, Family::V4, part));
            if !parts.iter().all(|part| is_there(part)) {
                continue;
            }
            let version = run(name, &["--version"], "").unwrap_or_default();
            let legacy = !version.contains("nf_tables");
            if !all
                .iter()
                .any(|tool| matches!(tool, Self::Iptables { legacy: other, .. } if *other == legacy))
            {
                all.push(Self::Iptables { name, legacy });
            }
        }
        all.extend(is_there("nft").then_some(Self::Nft));
        all
    }

    /// What `--tool` calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Iptables { name, .. } => name,
            Self::Nft => "nft",
        }
    }

    /// Whether it holds rules of ours.
    pub fn holds_ours(self, family: Family) -> Result<bool, Failure> {
        match self {
            Self::Iptables { .. } => Ok(!self.state(family)?.is_empty()),
            Self::Nft => Ok(nft_table(family)?.is_some()),
        }
    }

    /// The step that leads to `plan`, or with none to nothing of ours.
    pub fn change(self, plan: Option<&Plan>, family: Family) -> Result<Option<Change>, Failure> {
        let rules = plan.map(|plan| plan.rules(family)).unwrap_or_default();
        let (script, back, empty, empty_back) = match self {
            Self::Iptables { .. } => {
                let now = self.state(family)?;
                let held: Vec<String> = now.marks().cloned().collect();
                let new = if plan.is_some() && now.is_empty() { self.missing(family) } else { Vec::new() };
                let marks =
                    if plan.is_some() { held.iter().chain(&new).cloned().collect() } else { Vec::new() };
                let wanted = State::wanted(&rules, family, marks);
                let empty = if plan.is_some() { Vec::new() } else { held };
                (now.script(&wanted), wanted.script(&now), empty, new)
            }
            Self::Nft => {
                let (now, wanted) = (nft_table(family)?, nft::wanted(&rules, family));
                let script = nft::script(family, now.as_deref(), wanted.as_deref());
                let back = nft::script(family, wanted.as_deref(), now.as_deref());
                (script, back, Vec::new(), Vec::new())
            }
        };
        let back = back.unwrap_or_default();
        Ok(script.map(|script| Change { tool: self, family, script, back, empty, empty_back }))
    }

    /// What is ours.
    fn state(self, family: Family) -> Result<State, Failure> {
        let Self::Iptables { name, legacy } = self else { return Ok(State::default()) };
        if legacy && !legacy_tables(family).lines().any(|table| table == "nat") {
            // To ask for it would make it.
            return Ok(State::default());
        }
        let saved = run(&part_name(name, family, "-save"), &["-t", "nat"], "")?;
        Ok(State::parse(&saved))
    }

    /// Marks for what is not there yet and would be made.
    fn missing(self, family: Family) -> Vec<String> {
        let Self::Iptables { name, legacy: false } = self else { return Vec::new() };
        let saved = run(&part_name(name, family, "-save"), &[], "").unwrap_or_default();
        if !saved.lines().any(|line| line == "*nat") {
            return vec![iptables::NEW_TABLE.to_owned()];
        }
        // Only nft can tell.
        let listed = run("nft", &["list", "table", nft_family(family), "nat"], "").unwrap_or_default();
        let has = |chain: &str| listed.is_empty() || listed.contains(&format!("chain {chain} {{"));
        let chains = ["OUTPUT", "PREROUTING"].into_iter().filter(|chain| !has(chain));
        chains.map(|chain| format!("{}{chain}", iptables::NEW)).collect()
    }

    fn restore(self, family: Family, script: &str) -> Result<String, Failure> {
        let (program, arguments) = self.restore_command(family);
        run(&program, &arguments, script)
    }

    fn restore_command(self, family: Family) -> (String, Vec<&'static str>) {
        match self {
            Self::Iptables { name, .. } => {
                (part_name(name, family, "-restore"), vec!["--noflush", "-w", LOCK])
            }
            Self::Nft => ("nft".to_owned(), vec!["-f", "-"]),
        }
    }
}

impl Change {
    /// Makes it.
    pub fn apply(&self) -> Result<(), Failure> {
        self.tool.restore(self.family, &self.script)?;
        for mark in &self.empty {
            self.delete_empty(mark);
        }
        Ok(())
    }

    /// Takes it back.
    pub fn take_back(&self) -> Result<(), Failure> {
        self.tool.restore(self.family, &self.back)?;
        self.empty_back.iter().for_each(|mark| self.delete_empty(mark));
        Ok(())
    }

    /// What [`Change::apply`] does, for a shell.
    pub fn shown(&self) -> String {
        let (program, arguments) = self.tool.restore_command(self.family);
        let mut text = format!("{program} {} <<'END'\n{}END\n", arguments.join(" "), self.script);
        for command in self.empty.iter().flat_map(|mark| self.commands(mark)) {
            text.push_str(&format!("{}  # if it is empty\n", command.join(" ")));
        }
        text
    }

    /// What a mark says was not there is deleted, unless somebody uses it by now.
    fn delete_empty(&self, mark: &str) {
        for command in self.commands(mark) {
            let (program, arguments) = command.split_at(1);
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            if program[0] == "nft" {
                let table = arguments[1..].iter().copied();
                let list: Vec<&str> = std::iter::once("list").chain(table).collect();
                match run("nft", &list, "") {
                    Ok(listed) if !listed.contains("chain ") => {}
                    Ok(_) => continue,
                    Err(_) => {
                        eprintln!(
                            "pillion: the table `nat` was not there before and stays, empty: only `nft` can delete it"
                        );
                        continue;
                    }
                }
            }
            // One that is in use stays.
            let _ = run(&program[0], &arguments, "");
        }
    }

    fn commands(&self, mark: &str) -> Vec<Vec<String>> {
        let Tool::Iptables { name, .. } = self.tool else { return Vec::new() };
        let name = part_name(name, self.family, "");
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let chain = |chain: &str| words(&[&name, "-t", "nat", "-X", chain]);
        if mark == iptables::NEW_TABLE {
            let table = words(&["nft", "delete", "table", nft_family(self.family), "nat"]);
            return vec![chain("OUTPUT"), chain("PREROUTING"), table];
        }
        mark.strip_prefix(iptables::NEW).into_iter().map(chain).collect()
    }
}

fn nft_family(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

/// Our table as `nft` lists it, if it is there.
fn nft_table(family: Family) -> Result<Option<String>, Failure> {
    let tables = run("nft", &["list", "tables"], "")?;
    let own = nft::table(family);
    if !tables.lines().any(|line| line.trim() == format!("table {own}")) {
        return Ok(None);
    }
    let words: Vec<&str> = ["list", "table"].into_iter().chain(own.split(' ')).collect();
    run("nft", &words, "").map(Some)
}

/// The tables that the kernel holds for iptables without nftables.
fn legacy_tables(family: Family) -> String {
    let file = match family {
        Family::V4 => "/proc/net/ip_tables_names",
        Family::V6 => "/proc/net/ip6_tables_names",
    };
    std::fs::read_to_string(file).unwrap_or_default()
}

/// The name of a part of iptables: `ip6tables-legacy-save`.
fn part_name(name: &str, family: Family, part: &str) -> String {
    let name = match family {
        Family::V4 => name.to_owned(),
        Family::V6 => name.replacen("iptables", "ip6tables", 1),
    };
    format!("{name}{part}")
}

fn is_there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| is_program(&folder.join(program)))
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// Runs a program and returns what it writes.
fn run(program: &str, arguments: &[&str], input: &str) -> Result<String, Failure> {
    let failed = |why: String| Failure(format!("{program}: {why}"));
    let mut child = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read to the end says why.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    Err(failed(if lines.is_empty() { output.status.to_string() } else { lines.join("; ") }))
}

impl Failure {
    /// What helps, for what programs are known to say.
    pub fn remedy(&self) -> &'static str {
        let says = |words: &[&str]| words.iter().any(|word| self.0.contains(word));
        if says(&["ermission denied", "must be root", "not permitted"]) {
            "it takes root, or the capabilities NET_ADMIN and NET_RAW; in a container \
             `securityContext: {runAsUser: 0, capabilities: {add: [NET_ADMIN, NET_RAW]}}`"
        } else if says(&["owner", "REDIRECT", "addrtype", "Extension"]) {
            "the kernel lacks a part: load xt_owner, xt_REDIRECT and xt_addrtype, or try --tool nft"
        } else if says(&[
            "does not exist",
            "not supported",
            "No such file",
            "can't initialize",
            "Could not fetch",
        ]) {
            "the kernel does not know this kind of rules: try another --tool, or one family with --family"
        } else {
            "nothing was changed; try another --tool"
        }
    }
}
