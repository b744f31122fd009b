//! TLS that is served: certificates, which of them a caller is shown, and what
//! is agreed on.

use std::fmt;
use std::sync::{Arc, OnceLock};

use tokio_rustls::rustls::client::verify_server_name;
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::{
    ClientHello, NoServerSessionStorage, ParsedCertificate, ProducesTickets, ResolvesServerCert,
};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{Error, InconsistentKeys, ServerConfig};

/// Certificates with their keys. The first that is for a name is shown to who
/// asks for it, and the first of all to who asks for no name or another one.
#[derive(Clone)]
pub struct Certificates(Vec<Arc<CertifiedKey>>);

/// What is wrong with the files of a certificate.
#[derive(Debug, PartialEq, Eq)]
pub enum Wrong {
    /// The file of the chain.
    Chain(String),
    /// The file of the key.
    Key(String),
}

impl Certificates {
    /// Certificates in the order in which they are looked through.
    pub fn new(all: Vec<Arc<CertifiedKey>>) -> Self {
        Self(all)
    }

    /// How many there are.
    #[allow(clippy::len_without_is_empty, reason = "there is at least one")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Which of them is shown to who asks for `name`.
    pub fn pick(&self, name: Option<&str>) -> usize {
        let Some(name) = name.and_then(|name| ServerName::try_from(name).ok()) else { return 0 };
        let is_for = |one: &Arc<CertifiedKey>| {
            let leaf = one.end_entity_cert().and_then(ParsedCertificate::try_from);
            leaf.is_ok_and(|leaf| verify_server_name(&leaf, &name).is_ok())
        };
        self.0.iter().position(is_for).unwrap_or(0)
    }
}

/// Never the keys.
impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} certificates", self.0.len())
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.get(self.pick(hello.server_name())).cloned()
    }
}

/// Reads a chain, the server's own certificate first, and its key, both in PEM.
pub fn certificate(chain: &[u8], key: &[u8]) -> Result<Arc<CertifiedKey>, Wrong> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
    let all = all.map_err(|error| Wrong::Chain(format!("is no PEM: {error}")))?;
    if all.is_empty() {
        return Err(Wrong::Chain("holds no certificate in PEM".into()));
    }
    let key = PrivateKeyDer::from_pem_slice(key);
    let key = key.map_err(|_| Wrong::Key("holds no private key in PEM".into()))?;
    let made = CertifiedKey::from_der(all, key, &provider()).map_err(|error| match error {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            Wrong::Key("is not the key of the certificate".into())
        }
        Error::InvalidCertificate(error) => {
            Wrong::Chain(format!("holds a certificate that can't be read: {error:?}"))
        }
        error => Wrong::Key(format!("can't be used: {error}")),
    })?;
    Ok(Arc::new(made))
}

/// What servers of HTTP agree on with callers: HTTP/2 before HTTP/1.1, TLS 1.3 or,
/// unless `only_13`, TLS 1.2.
pub fn server(certificates: Certificates, only_13: bool) -> Result<Arc<ServerConfig>, Error> {
    let versions = if only_13 { &[&TLS13][..] } else { &[&TLS13, &TLS12] };
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(certificates));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Sessions live in tickets, which any worker can open, and not in a table.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = tickets()?;
    Ok(Arc::new(config))
}

/// The keys of tickets, the same after each reload; renewed every 6 h.
fn tickets() -> Result<Arc<dyn ProducesTickets>, Error> {
    static TICKETS: OnceLock<Arc<dyn ProducesTickets>> = OnceLock::new();
    match TICKETS.get() {
        Some(tickets) => Ok(tickets.clone()),
        None => {
            let tickets = aws_lc_rs::Ticketer::new()?;
            Ok(TICKETS.get_or_init(|| tickets).clone())
        }
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}
