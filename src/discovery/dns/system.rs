//! What the machine says of DNS: `/etc/resolv.conf` and `/etc/hosts`, read anew
//! when they change.

use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{Hosts, TokioResolver};

use crate::config::model::Dns;

/// No more than this is read of either file.
const FILE_BYTES: u64 = 1024 * 1024;

/// Where the machine's own files are.
#[derive(Clone, Debug)]
pub(super) struct Files {
    pub resolv_conf: PathBuf,
    pub hosts: PathBuf,
}

/// One reading of the files.
pub(super) struct System {
    stamps: [Option<Stamp>; 2],
    hosts: Hosts,
    search: Vec<Name>,
    ndots: usize,
    /// `None` where no server is known.
    pub client: Option<TokioResolver>,
}

type Stamp = (u64, u64, i64, i64);

impl Default for Files {
    fn default() -> Self {
        Self { resolv_conf: "/etc/resolv.conf".into(), hosts: "/etc/hosts".into() }
    }
}

impl Files {
    fn stamps(&self) -> [Option<Stamp>; 2] {
        [stamp(&self.resolv_conf), stamp(&self.hosts)]
    }
}

impl System {
    pub(super) fn read(files: &Files, dns: &Dns) -> Self {
        let stamps = files.stamps();
        let conf = read(&files.resolv_conf).map(|text| resolv_conf::Config::parse_with_errors(&text).0);
        let mut hosts = Hosts::default();
        if let Some(text) = read(&files.hosts)
            && let Err(error) = hosts.read_hosts_conf(&*text)
        {
            tracing::warn!(%error, file = %files.hosts.display(), "the hosts file can't be read");
        }
        let conf = conf.unwrap_or_default();
        let search = conf.get_last_search_or_domain().filter(|domain| *domain != "--");
        let search = search.filter_map(|domain| Name::from_str_relaxed(domain).ok()).collect();
        let servers = match dns.servers.as_slice() {
            [] => conf.nameservers.iter().map(|ip| NameServerConfig::udp_and_tcp(ip.into())).collect(),
            servers => servers.iter().map(server).collect(),
        };
        Self { stamps, hosts, search, ndots: conf.ndots as usize, client: client(servers, dns) }
    }

    /// Whether the files are still those that were read.
    pub(super) fn is_current(&self, files: &Files) -> bool {
        self.stamps == files.stamps()
    }

    /// What the hosts file says of `host`.
    pub(super) fn in_hosts_file(&self, host: &Name) -> Vec<IpAddr> {
        let mut found = Vec::new();
        for kind in [RecordType::A, RecordType::AAAA] {
            let lookup = self.hosts.lookup_static_host(&Query::query(host.clone(), kind));
            let records = lookup.iter().flat_map(|lookup| lookup.answers());
            found.extend(records.filter_map(|record| record.data.ip_addr()));
        }
        found
    }

    /// The full names that `name` may stand for, in the order of resolv.conf(5).
    pub(super) fn candidates(&self, name: &Name) -> Vec<Name> {
        let mut full = name.clone();
        full.set_fqdn(true);
        if name.is_fqdn() {
            return vec![full];
        }
        let dots = usize::from(name.num_labels()).saturating_sub(1);
        let searched = self.search.iter().filter_map(|domain| {
            let mut long = name.clone().append_domain(domain).ok()?;
            long.set_fqdn(true);
            Some(long)
        });
        let mut all: Vec<Name> = searched.collect();
        all.insert(if dots >= self.ndots { 0 } else { all.len() }, full);
        all
    }
}

fn server(address: &SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    for connection in &mut server.connections {
        connection.port = address.port();
    }
    server
}

/// hickory keeps nothing: what is known of a name is kept by who follows it, and
/// the search list and the hosts file are our own, because hickory's search
/// takes a failure for "no such name".
fn client(servers: Vec<NameServerConfig>, dns: &Dns) -> Option<TokioResolver> {
    if servers.is_empty() {
        return None;
    }
    let config = ResolverConfig::from_parts(None, Vec::new(), servers);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let options = builder.options_mut();
    options.timeout = dns.timeout;
    options.attempts = 1;
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    match builder.build() {
        Ok(client) => Some(client),
        Err(error) => {
            tracing::error!(%error, "the DNS client can't be made");
            None
        }
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let data = std::fs::metadata(path).ok()?;
    Some((data.ino(), data.len(), data.mtime(), data.mtime_nsec()))
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path).ok()?.take(FILE_BYTES).read_to_end(&mut text).ok()?;
    Some(text)
}

/// Cheap to clone.
pub(super) type Shared = Arc<System>;
