//! The certificates that gateways name: read with the configuration, so that a
//! changed file is a changed configuration, and a bad one leaves the old in force.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::expand::read_bytes;
use super::form;
use super::model::Tls;
use super::problem::Problems;
use super::resolve::{At, Routes};
use crate::base::tls::{self, Certificates, Wrong};

/// Bytes of a file.
const LARGEST: usize = 1 << 20;

/// What one configuration reads of certificates.
#[derive(Default)]
pub(super) struct Files {
    /// Each file that was looked for, and its content.
    pub read: Vec<(PathBuf, Option<Vec<u8>>)>,
}

impl Files {
    /// Reads what the gateways of one file name.
    pub(super) fn read(&mut self, routes: &mut Routes, problems: &mut Problems) {
        let folder = Path::new(&*routes.file.name).parent().map(Path::to_owned).unwrap_or_default();
        let root = At::root(&routes.file, &routes.root).key("gateway");
        for (number, form) in routes.gateway.iter().enumerate() {
            let Some(form) = &form.tls else { continue };
            let tls = self.tls(form, &folder, root.item(number).key("tls"), problems);
            routes.gateway_tls.extend(tls.map(|tls| (number, tls)));
        }
    }

    fn tls(
        &mut self,
        form: &form::GatewayTls,
        folder: &Path,
        at: At<'_>,
        problems: &mut Problems,
    ) -> Option<Tls> {
        let mut all = Vec::new();
        for (index, form) in form.certificates.iter().flatten().enumerate() {
            let at = at.key("certificates").item(index);
            let (Some(cert), Some(key)) = (&form.cert, &form.key) else { continue };
            let (chain, key) = (
                self.file(&folder.join(&cert.0), at.key("cert"), problems),
                self.file(&folder.join(&key.0), at.key("key"), problems),
            );
            let (Some(chain), Some(key)) = (chain, key) else { continue };
            match tls::certificate(&chain, &key) {
                Ok(certificate) => all.push(certificate),
                Err(Wrong::Chain(why)) => problems.push(at.key("cert").problem(format!("the file {why}"))),
                Err(Wrong::Key(why)) => problems.push(at.key("key").problem(format!("the file {why}"))),
            }
        }
        if all.is_empty() {
            return None;
        }
        let certificates = Certificates::new(all);
        let only_13 = matches!(form.min_version, Some(form::TlsVersion::Tls13));
        match tls::server(certificates.clone(), only_13) {
            Ok(server) => Some(Tls {
                certificates: Arc::new(certificates),
                server,
                only_13,
                handshake_timeout: form
                    .handshake_timeout
                    .as_ref()
                    .map_or(Duration::from_secs(10), |span| span.0),
                handshakes: form.handshakes.unwrap_or(1000),
            }),
            Err(error) => {
                problems.push(at.problem(format!("TLS can't be served: {error}")));
                None
            }
        }
    }

    fn file(&mut self, path: &Path, at: At<'_>, problems: &mut Problems) -> Option<Vec<u8>> {
        let content = read_bytes(path, LARGEST);
        self.read.push((path.to_owned(), content.as_ref().ok().cloned()));
        content.map_err(|why| problems.push(at.problem(format!("can't read this file: {why}")))).ok()
    }
}
