//! TLS to Consul: rustls with aws-lc-rs, and files that are read again when
//! they change.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::token::{Stamp, stamp};
use super::{Error, Tls};

/// The configuration in force, made of the files as they are.
#[derive(Debug, Default)]
pub(super) struct Configs {
    held: Mutex<Option<(Vec<Stamp>, Arc<ClientConfig>)>>,
}

impl Configs {
    /// For a new connection.
    pub(super) fn current(&self, tls: &Tls) -> Result<Arc<ClientConfig>, Error> {
        let files: Vec<&PathBuf> =
            [&tls.ca_file, &tls.cert_file, &tls.key_file].into_iter().flatten().collect();
        let look = |path: &&PathBuf| {
            stamp(path).map_err(|error| Error::Connection(format!("{}: {error}", path.display())))
        };
        let stamps = files.iter().map(look).collect::<Result<Vec<_>, _>>()?;
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((then, config)) = &*held
            && *then == stamps
        {
            return Ok(config.clone());
        }
        let config = Arc::new(read(tls).map_err(|why| Error::Connection(format!("TLS: {why}")))?);
        *held = Some((stamps, config.clone()));
        Ok(config)
    }
}

fn read(tls: &Tls) -> Result<ClientConfig, String> {
    let named = |path: &PathBuf, error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let mut roots = RootCertStore::empty();
    match &tls.ca_file {
        Some(path) => {
            for certificate in CertificateDer::pem_file_iter(path).map_err(|error| named(path, &error))? {
                let certificate = certificate.map_err(|error| named(path, &error))?;
                roots.add(certificate).map_err(|error| named(path, &error))?;
            }
            if roots.is_empty() {
                return Err(named(path, &"it holds no certificate"));
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    // More than one provider may be in the build; this one is ours.
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    let (Some(cert), Some(key)) = (&tls.cert_file, &tls.key_file) else {
        return Ok(config.with_no_client_auth());
    };
    let chain = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| named(cert, &error))?;
    let own = PrivateKeyDer::from_pem_file(key).map_err(|error| named(key, &error))?;
    config.with_client_auth_cert(chain, own).map_err(|error| named(cert, &error))
}
