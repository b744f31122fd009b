//! Who holds a port that the sidecar wants. Asked before the start: workers
//! share their ports (`SO_REUSEPORT`), and so would a second sidecar of the same
//! user by accident.

use std::collections::HashSet;
use std::fmt::Write;
use std::io;
use std::net::{SocketAddr, TcpListener};

use crate::config::Model;
use crate::config::model::Listen;

/// What to do about a port that is taken.
const REMEDY: &str =
    "Choose other addresses under `listen` (port 0 takes a free one), or end what holds these.";

/// Every address of `model` that is taken, with its key and who holds it.
pub fn taken(model: &Model) -> Result<(), String> {
    let Listen { inbound, outbound, admin, probes, .. } = model.listen;
    let mut wanted = vec![
        ("listen.inbound".to_owned(), inbound),
        ("listen.outbound".to_owned(), outbound),
        ("listen.admin".to_owned(), admin),
        ("listen.probes".to_owned(), probes),
    ];
    for (name, upstream) in &model.upstreams {
        wanted.extend(upstream.listen.map(|listen| (format!("outbound, to: {name}, listen"), listen)));
    }
    let gateways = model.gateways.iter().map(|gateway| ("gateway, listen".to_owned(), gateway.listen));
    wanted.extend(gateways);
    let mut problems = String::new();
    for (key, address) in wanted.into_iter().filter(|(_, address)| address.port() != 0) {
        if let Err(error) = TcpListener::bind(address) {
            let origin = model.sources.get(&key).map_or(String::new(), |origin| format!(" ({origin})"));
            let why = describe(address, &error);
            let _ = writeln!(problems, "{key}: can't listen on {address}{origin}: {why}");
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(format!("{problems}{REMEDY}")) }
}

/// Replaces each default port that is taken, or that the service will take, by
/// a free one, and says so: a line for each.
pub fn make_way(model: &mut Model) -> Vec<String> {
    let service = model.service.address.map(|address| address.port());
    let Listen { inbound, outbound, admin, probes, .. } = &mut model.listen;
    let all = [("inbound", inbound), ("outbound", outbound), ("admin", admin), ("probes", probes)];
    let taken = all.into_iter().filter_map(|(key, address)| {
        let why = match TcpListener::bind(*address) {
            Ok(_) if service == Some(address.port()) => "the service listens there".to_owned(),
            Ok(_) => return None,
            Err(error) => describe(*address, &error),
        };
        let said = format!("{key}: not on {address} but on a free port: {why}");
        address.set_port(0);
        Some(said)
    });
    taken.collect()
}

fn describe(address: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => match holder(address.port()) {
            Some(holder) => format!("the port is taken by {holder}"),
            None => "the port is taken by a process of another user".into(),
        },
        io::ErrorKind::PermissionDenied => "ports below 1024 need a privilege".into(),
        io::ErrorKind::AddrNotAvailable => "this machine has no such address".into(),
        _ => error.to_string(),
    }
}

/// `name (pid)` of the process that listens on `port`, as far as we may see.
fn holder(port: u16) -> Option<String> {
    let sockets = listening(port);
    let entries = std::fs::read_dir("/proc").ok()?;
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    for pid in pids {
        let Ok(descriptors) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        let holds = descriptors.flatten().any(|descriptor| {
            std::fs::read_link(descriptor.path())
                .is_ok_and(|link| sockets.contains(link.to_string_lossy().as_ref()))
        });
        if holds {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            return Some(format!("`{}` (process {pid})", name.trim()));
        }
    }
    None
}

/// The sockets that listen on `port`, as the links in `/proc/*/fd` name them.
fn listening(port: u16) -> HashSet<String> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let text: String = tables.iter().filter_map(|table| std::fs::read_to_string(table).ok()).collect();
    text.lines().filter_map(|line| listener_of(line, port)).collect()
}

/// `sl local_address rem_address st … uid timeout inode`; state 0A is LISTEN.
fn listener_of(line: &str, port: u16) -> Option<String> {
    let fields: Vec<_> = line.split_ascii_whitespace().collect();
    let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
    let its_port = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
    (*state == "0A" && its_port == port).then(|| format!("socket:[{inode}]"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn a_taken_port_names_its_key_and_its_holder() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut model = Model::minimal("orders");
        assert_eq!(taken(&model), Ok(()), "port 0 is always free");
        model.listen.admin = held.local_addr().unwrap();
        let problem = taken(&model).unwrap_err();
        assert!(
            problem.starts_with(&format!("listen.admin: can't listen on {}", model.listen.admin)),
            "{problem}"
        );
        assert!(problem.contains("the port is taken by "), "{problem}");
        model.service.address = Some((Ipv4Addr::LOCALHOST, 8702).into());
        model.listen.inbound = (Ipv4Addr::LOCALHOST, 8702).into();
        let said = make_way(&mut model);
        assert!(said.len() == 2 && said[0].starts_with("inbound: not on 127.0.0.1:8702"), "{said:?}");
        assert!(said[1].starts_with("admin: not on 127.0.0.1:"), "{said:?}");
        assert_eq!(taken(&model), Ok(()));
        drop(held);
    }

    #[test]
    fn a_listener_is_read_from_the_kernels_table() {
        let line = "   0: 0100007F:2203 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1";
        assert_eq!(listener_of(line, 8707).as_deref(), Some("socket:[4711]"));
        assert_eq!(listener_of(line, 8708), None);
        assert_eq!(listener_of(&line.replace(" 0A ", " 01 "), 8707), None);
        assert_eq!(listener_of("", 1), None);
    }
}
