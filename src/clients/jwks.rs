//! Fetches the keys of an issuer of tokens over HTTP.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, HeaderMap, USER_AGENT};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::chain;

/// To connect.
const CONNECT: Duration = Duration::from_secs(3);

/// What was fetched.
#[derive(Debug)]
pub struct Fetched {
    /// As it came.
    pub bytes: Bytes,
    /// For how long it is fresh, as far as `Cache-Control` says so.
    pub fresh: Option<Duration>,
}

/// Fetches `url`, which answers with 200 and at most `most` bytes, in one go:
/// nobody is followed elsewhere. `https` is trusted by the certificates of
/// `ca_file`, or by those of the system. The error is for a person.
pub async fn fetch(url: &str, ca_file: Option<&str>, time: Duration, most: usize) -> Result<Fetched, String> {
    match tokio::time::timeout(time, ask(url, ca_file, most)).await {
        Ok(fetched) => fetched,
        Err(_) => Err(format!("no whole answer within {} s", time.as_secs())),
    }
}

async fn ask(url: &str, ca_file: Option<&str>, most: usize) -> Result<Fetched, String> {
    let mut plain = HttpConnector::new();
    plain.enforce_http(false);
    plain.set_connect_timeout(Some(CONNECT));
    let https = HttpsConnectorBuilder::new()
        .with_tls_config(trust(url, ca_file)?)
        .https_or_http()
        .enable_http1()
        .wrap_connector(plain);
    let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(https);
    let request = Request::get(url)
        .header(ACCEPT, "application/jwk-set+json, application/json")
        .header(USER_AGENT, "pillion")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let response = client.request(request).await.map_err(|error| chain(&error))?;
    if response.status() != StatusCode::OK {
        return Err(format!("the answer is {}", response.status()));
    }
    let fresh = fresh(response.headers());
    let body = Limited::new(response.into_body(), most).collect().await;
    let bytes =
        body.map_err(|error| format!("the answer breaks off, or has more than {most} bytes: {error}"))?;
    Ok(Fetched { bytes: bytes.to_bytes(), fresh })
}

fn trust(url: &str, ca_file: Option<&str>) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        Some(path) => {
            let wrong = |error: &dyn std::fmt::Display| format!("{path}: {error}");
            let file = File::open(Path::new(path)).map_err(|error| wrong(&error))?;
            for certificate in CertificateDer::pem_reader_iter(BufReader::new(file)) {
                roots.add(certificate.map_err(|error| wrong(&error))?).map_err(|error| wrong(&error))?;
            }
        }
        None if url.starts_with("https") => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        None => {}
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// RFC 9111, section 5.2.2.
fn fresh(headers: &HeaderMap) -> Option<Duration> {
    let fields = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let mut fresh = None;
    for word in fields.flat_map(|value| value.split(',')) {
        let word = word.trim().to_ascii_lowercase();
        if matches!(word.as_str(), "no-store" | "no-cache") {
            return Some(Duration::ZERO);
        }
        if let Some(seconds) = word.strip_prefix("max-age=") {
            fresh = seconds.trim_matches('"').parse().ok().map(Duration::from_secs);
        }
    }
    fresh
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn how_long_it_is_fresh() {
        let of = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(CACHE_CONTROL, HeaderValue::from_static(value));
            fresh(&headers).map(|time| time.as_secs())
        };
        assert_eq!(of("public, max-age=600, must-revalidate"), Some(600));
        assert_eq!((of("Max-Age=5"), of("max-age=\"7\"")), (Some(5), Some(7)));
        assert_eq!((of("no-store"), of("max-age=9, no-cache")), (Some(0), Some(0)));
        assert_eq!((of("public"), of("max-age=soon"), of("s-maxage=9")), (None, None, None));
        assert_eq!(fresh(&HeaderMap::new()), None);
    }
}
