//! `pillion redirect`: rules of the kernel that turn a service's connections to
//! its sidecar.
//!
//! [`mod@plan`] makes rules of options, [`mod@iptables`] and [`mod@nft`] make text of rules
//! and find the step from what is there to what is to be, [`mod@tool`] runs the
//! programs. What must hold: a second run changes nothing; a step of one family
//! is taken whole or not at all, and where one family fails the other is taken
//! back; to undo leaves what was there before.

mod iptables;
mod nft;
mod plan;
mod tool;

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use self::plan::{Cidr, Family, Inbound, Outbound, OwnService, Plan, Ports};
use self::tool::{Change, Failure, Tool};
use crate::config::{self, Environment, Model};

const DEFAULT_FILE: &str = "pillion.yaml";
/// The sidecar's user in containers.
const USER: u32 = 8700;

/// Writes rules of the kernel that turn connections to the sidecar.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pillion redirect --dry-run                 what would be done, as a shell script
  pillion redirect                           ports of ./pillion.yaml, or the defaults
  pillion redirect --skip-outbound-ports 5432,6379 --skip-outbound-ranges 10.96.0.10
  pillion redirect --undo                    takes all of it back

The sidecar has to run as a user of --skip-uid: its own traffic is left alone.
Port 53 is captured only by name, and what goes to this machine itself never is.
Exit codes: 0; 1 it can't be done, and nothing is changed; 2 the command line is wrong;
78 the configuration is bad.")]
pub struct Args {
    /// The configuration, for its ports. Without it ./pillion.yaml, and without
    /// that the default ports.
    #[arg(short, long, env = "PILLION_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Prints what would be done and does nothing.
    #[arg(long)]
    dry_run: bool,
    /// Takes all rules back.
    #[arg(long)]
    undo: bool,
    /// The sidecar's port for calls of the service [default: `listen.outbound`].
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    outbound_port: Option<u16>,
    /// The sidecar's port for calls to the service [default: `listen.inbound`].
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    inbound_port: Option<u16>,
    /// Captures no calls of the service.
    #[arg(long, conflicts_with_all = ["no_inbound", "only_outbound_ports", "only_outbound_ranges"])]
    no_outbound: bool,
    /// Captures no calls to the service.
    #[arg(long, conflicts_with = "inbound_ports")]
    no_inbound: bool,
    /// Users whose traffic is left alone: the sidecar's.
    #[arg(long, value_name = "UID", value_delimiter = ',', default_values_t = [USER])]
    skip_uid: Vec<u32>,
    /// Groups whose traffic is left alone.
    #[arg(long, value_name = "GID", value_delimiter = ',')]
    skip_gid: Vec<u32>,
    /// Destinations' ports that are left alone: `5432` or `5000-5010`.
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    skip_outbound_ports: Vec<Ports>,
    /// Destinations that are left alone: `10.0.0.0/8`, `10.1.2.3`, `fd00::/8`.
    #[arg(long, value_name = "RANGES", value_delimiter = ',')]
    skip_outbound_ranges: Vec<Cidr>,
    /// Captures nothing but calls to these ports.
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    only_outbound_ports: Vec<Ports>,
    /// Captures nothing but calls to these destinations.
    #[arg(long, value_name = "RANGES", value_delimiter = ',')]
    only_outbound_ranges: Vec<Cidr>,
    /// Captures calls to these ports only [default: all but 53 and the sidecar's own].
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    inbound_ports: Vec<Ports>,
    /// Calls to these ports are left alone, beside the sidecar's own.
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    skip_inbound_ports: Vec<Ports>,
    /// The families of addresses.
    #[arg(long, value_enum, default_value = "both")]
    family: Families,
    /// The program that writes the rules. `auto`: iptables, else nft.
    #[arg(long, value_enum, default_value = "auto")]
    tool: ToolName,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Families {
    Both,
    Ipv4,
    Ipv6,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ToolName {
    Auto,
    Iptables,
    IptablesNft,
    IptablesLegacy,
    Nft,
}

/// The sidecar's own ports.
struct Own {
    outbound: SocketAddr,
    inbound: SocketAddr,
    others: Vec<u16>,
    /// The service's port, where the sidecar reaches it on 127.0.0.1.
    service: Option<u16>,
}

/// Does what the options say and returns the exit code.
pub fn run(args: &Args) -> u8 {
    let file =
        args.config.clone().or_else(|| Some(DEFAULT_FILE.into()).filter(|file: &PathBuf| file.exists()));
    // To undo takes no ports.
    let plan = match args.undo {
        true => None,
        false => match own_ports(file.as_deref()).map(|own| plan(args, &own)) {
            Ok(Ok(plan)) => Some(plan),
            Ok(Err(wrong)) => return failed(&wrong, "--help tells the options", 2),
            Err(code) => return code,
        },
    };
    let changes = match changes(args, plan.as_ref()) {
        Ok(changes) => changes,
        Err(failure) => return failed(&failure.0, failure.remedy(), 1),
    };
    if args.dry_run {
        return show(&changes);
    }
    let mut done: Vec<&Change> = Vec::new();
    for change in &changes {
        if let Err(failure) = change.apply() {
            for change in done.iter().rev() {
                if let Err(worse) = change.take_back() {
                    eprintln!("pillion: {}: `pillion redirect --undo` may help", worse.0);
                }
            }
            return failed(&failure.0, failure.remedy(), 1);
        }
        done.push(change);
    }
    0
}

fn failed(why: &str, remedy: &str, code: u8) -> u8 {
    eprintln!("pillion: {why}\n  {remedy}");
    code
}

fn show(changes: &[Change]) -> u8 {
    let mut out = io::stdout();
    let text: String = changes.iter().map(Change::shown).collect();
    let text = if text.is_empty() { "# nothing to do\n" } else { &text };
    // A reader that goes away is no error.
    let _ = out.write_all(text.as_bytes());
    0
}

/// The ports of the configuration, or of none.
fn own_ports(file: Option<&Path>) -> Result<Own, u8> {
    let environment = Environment::process();
    let model = match file {
        None => config::defaults("service", None, &environment),
        Some(file) => match config::load(file, &environment) {
            Ok(loaded) => (*loaded.model).clone(),
            Err(problems) => {
                eprint!("{problems}");
                return Err(config::EXIT_CODE);
            }
        },
    };
    Ok(Own::of(&model))
}

impl Own {
    fn of(model: &Model) -> Self {
        let listen = &model.listen;
        let local_ports = model.upstreams.values().filter_map(|upstream| upstream.listen);
        let others = [listen.admin, listen.probes].into_iter().chain(local_ports);
        Self {
            outbound: listen.outbound,
            inbound: listen.inbound,
            others: others.map(|address| address.port()).filter(|port| *port > 0).collect(),
            service: model.service.address.filter(|at| at.ip().is_loopback()).map(|at| at.port()),
        }
    }
}

/// What the options ask for, beside the ports of the configuration.
fn plan(args: &Args, own: &Own) -> Result<Plan, String> {
    // What is turned on its way out arrives at 127.0.0.1 or ::1.
    let reached = |ip: IpAddr| ip.is_loopback() || ip.is_unspecified();
    if args.outbound_port.is_none() && !args.no_outbound && !reached(own.outbound.ip()) {
        return Err(format!("`listen.outbound` is {}: what is captured arrives at 127.0.0.1", own.outbound));
    }
    let outbound = args.outbound_port.unwrap_or(own.outbound.port());
    let inbound = args.inbound_port.unwrap_or(own.inbound.port());
    if (outbound == 0 && !args.no_outbound) || (inbound == 0 && !args.no_inbound) {
        return Err("`listen` leaves a port to the system (0): a rule needs to know it".into());
    }
    if outbound == inbound {
        return Err(format!("port {outbound} can't be both the inbound and the outbound one"));
    }
    let mut skipped: Vec<u16> = [inbound, outbound].into_iter().chain(own.others.iter().copied()).collect();
    skipped.sort_unstable();
    skipped.dedup();
    let skipped = skipped.into_iter().map(|port| Ports(port..=port));
    let own_service = own.service.filter(|_| !args.no_inbound && own.inbound.ip().is_unspecified());
    Ok(Plan {
        outbound: (!args.no_outbound).then(|| Outbound {
            to: outbound,
            skip_uids: args.skip_uid.clone(),
            skip_gids: args.skip_gid.clone(),
            skip_ports: args.skip_outbound_ports.clone(),
            skip_ranges: args.skip_outbound_ranges.clone(),
            only_ports: args.only_outbound_ports.clone(),
            only_ranges: args.only_outbound_ranges.clone(),
            own_service: own_service.map(|port| OwnService { port, to: inbound }),
        }),
        inbound: (!args.no_inbound).then(|| Inbound {
            to: inbound,
            skip_ports: skipped.chain(args.skip_inbound_ports.iter().cloned()).collect(),
            only_ports: args.inbound_ports.clone(),
        }),
    })
}

/// The steps to `plan`, or with none to nothing of ours.
fn changes(args: &Args, plan: Option<&Plan>) -> Result<Vec<Change>, Failure> {
    let families = families(args.family);
    let tools = Tool::all();
    let mut ours = Vec::new();
    for tool in &tools {
        for family in [Family::V4, Family::V6] {
            // One that can't even be asked holds nothing that it could take back.
            if tool.holds_ours(family).unwrap_or(false) && !ours.contains(tool) {
                ours.push(*tool);
            }
        }
    }
    let chosen = |tool: &&Tool| args.tool == ToolName::Auto || tool.is(args.tool);
    if plan.is_none() {
        let held = ours.iter().filter(chosen).copied().collect::<Vec<_>>();
        if held.is_empty() {
            // To tell who may not ask from whom there is nothing to take back.
            choose(args.tool, &tools)?.holds_ours(families[0])?;
        }
        return collect(
            held.iter().flat_map(|tool| families.iter().map(|family| tool.change(None, *family))),
        );
    }
    let tool = match ours.first() {
        Some(tool) if chosen(&tool) => *tool,
        Some(tool) => {
            let name = tool.name();
            return Err(Failure(format!(
                "rules of {name} are in force: undo them first (`pillion redirect --undo --tool {name}`)"
            )));
        }
        None => choose(args.tool, &tools)?,
    };
    // A family that is no longer wanted is taken back.
    let each = [Family::V4, Family::V6].into_iter().map(|family| match families.contains(&family) {
        true => tool.change(plan, family),
        false if ours.contains(&tool) => tool.change(None, family),
        false => Ok(None),
    });
    collect(each)
}

fn collect(changes: impl Iterator<Item = Result<Option<Change>, Failure>>) -> Result<Vec<Change>, Failure> {
    changes.filter_map(Result::transpose).collect()
}

fn families(families: Families) -> Vec<Family> {
    match families {
        Families::Ipv4 => vec![Family::V4],
        Families::Ipv6 => vec![Family::V6],
        Families::Both if Path::new("/proc/net/if_inet6").exists() => vec![Family::V4, Family::V6],
        Families::Both => vec![Family::V4],
    }
}

/// The first that is there and answers.
fn choose(name: ToolName, tools: &[Tool]) -> Result<Tool, Failure> {
    let mut first = None;
    for tool in tools.iter().filter(|tool| name == ToolName::Auto || tool.is(name)) {
        match tool.holds_ours(Family::V4) {
            Ok(_) => return Ok(*tool),
            Err(failure) => first = first.or(Some(failure)),
        }
    }
    Err(first.unwrap_or_else(|| match name {
        ToolName::Auto => {
            Failure("neither iptables nor nft is in PATH: install one (Debian: iptables)".into())
        }
        _ => Failure("the program of --tool is not in PATH, or is the other one under another name".into()),
    }))
}

impl Tool {
    fn is(self, name: ToolName) -> bool {
        match (self, name) {
            (Self::Nft, ToolName::Nft) => true,
            (Self::Iptables { name, .. }, ToolName::Iptables) => name == "iptables",
            (Self::Iptables { legacy, .. }, ToolName::IptablesLegacy) => legacy,
            (Self::Iptables { legacy, .. }, ToolName::IptablesNft) => !legacy,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests;
