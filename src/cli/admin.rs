//! Asks the admin port of a sidecar that runs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;

use crate::config::{self, Environment, Model};

/// For the whole question.
const LIMIT: Duration = Duration::from_secs(5);
/// Of an answer: 10,000 endpoints in each of a few upstreams.
const MOST: usize = 64 * 1024 * 1024;
/// Where the admin port is, unless something says otherwise.
const USUAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8700);

/// Which sidecar is asked.
#[derive(Debug, clap::Args)]
pub(super) struct Which {
    /// The admin address of the sidecar, as it says when it starts
    /// [default: `listen.admin` of the configuration].
    #[arg(long, env = "PILLION_ADMIN", value_name = "ADDRESS", value_parser = address)]
    admin: Option<SocketAddr>,
    /// The configuration, for its admin port. Without it ./pillion.yaml, and
    /// without that 127.0.0.1:8700.
    #[arg(short, long, env = "PILLION_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Why there is no answer: for a person, and the exit code.
#[derive(Debug)]
pub(super) struct NoAnswer(pub(super) String, pub(super) u8);

impl Which {
    /// The sidecar's answer to a GET of `target`.
    pub(super) fn ask<T: DeserializeOwned>(&self, target: &str) -> Result<T, NoAnswer> {
        let at = self.address()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let answer = runtime.map_err(|error| NoAnswer(error.to_string(), 1))?.block_on(async {
            match tokio::time::timeout(LIMIT, get(at, target)).await {
                Ok(answer) => answer,
                Err(_) => Err(format!("no answer within {} s", LIMIT.as_secs())),
            }
        });
        let body = answer.map_err(|why| NoAnswer(self.silent(at, &why), 1))?;
        serde_json::from_slice(&body).map_err(|error| {
            NoAnswer(format!("what answers at {at} is no sidecar of this version: {error}"), 1)
        })
    }

    fn address(&self) -> Result<SocketAddr, NoAnswer> {
        if let Some(address) = self.admin {
            return Ok(from_here(address));
        }
        let Some(file) = self.file() else { return Ok(USUAL) };
        match from_here(load(&file)?.listen.admin) {
            address if address.port() == 0 => {
                let file = file.display();
                let why = format!(
                    "`listen.admin` of {file} has port 0: say --admin, as the sidecar does when it starts"
                );
                Err(NoAnswer(why, 1))
            }
            address => Ok(address),
        }
    }

    /// The configuration; where there is no file, the defaults.
    pub(super) fn model(&self) -> Result<Arc<Model>, NoAnswer> {
        match self.file() {
            Some(file) => load(&file),
            None => Ok(Arc::new(config::defaults("service", None, &Environment::process()))),
        }
    }

    fn file(&self) -> Option<PathBuf> {
        let usual = PathBuf::from(super::DEFAULT_FILE);
        self.config.clone().or_else(|| usual.exists().then_some(usual))
    }

    fn silent(&self, at: SocketAddr, why: &str) -> String {
        let hint = match self.admin {
            Some(_) => "",
            None => {
                "\nIs it running? Another address is said with --admin: a sidecar names its own when it\nstarts, and `pillion dev` those of all its sidecars."
            }
        };
        format!("no sidecar answers at {at}: {why}{hint}")
    }
}

fn load(file: &Path) -> Result<Arc<Model>, NoAnswer> {
    let loaded = config::load(file, &Environment::process())
        .map_err(|problems| NoAnswer(problems.to_string(), config::EXIT_CODE))?;
    Ok(loaded.model)
}

async fn get(at: SocketAddr, target: &str) -> Result<Bytes, String> {
    let stream = TcpStream::connect(at).await.map_err(|error| error.to_string())?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let request = Request::get(target).header(HOST, at.to_string()).body(Empty::<Bytes>::new());
    let request = request.map_err(|error| error.to_string())?;
    let answer = async {
        let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = answer.status();
        let body =
            Limited::new(answer.into_body(), MOST).collect().await.map_err(|error| error.to_string())?;
        if status == StatusCode::OK { Ok(body.to_bytes()) } else { Err(format!("it answers {status}")) }
    };
    let mut connection = std::pin::pin!(connection);
    let mut answer = std::pin::pin!(answer);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        _ = &mut connection => answer.await,
    }
}

/// `127.0.0.1:8700`, also as a URL; a port alone is one of this machine.
fn address(text: &str) -> Result<SocketAddr, String> {
    let short = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
    let here = short.strip_prefix("localhost:").or(Some(short)).and_then(|port| port.parse().ok());
    match here {
        Some(port) => Ok(SocketAddr::new(USUAL.ip(), port)),
        None => short.parse().map_err(|_| "write it like `127.0.0.1:8700`".to_owned()),
    }
}

/// What listens everywhere is reached on loopback.
fn from_here(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_be_written_in_many_ways() {
        for text in
            ["127.0.0.1:8700", "http://127.0.0.1:8700", "http://127.0.0.1:8700/", "8700", "localhost:8700"]
        {
            assert_eq!(address(text), Ok(USUAL), "{text}");
        }
        assert_eq!(address("[::1]:1"), Ok("[::1]:1".parse().unwrap()));
        assert!(address("users:8700").is_err() && address("").is_err());
        assert_eq!(from_here("0.0.0.0:1".parse().unwrap()), "127.0.0.1:1".parse().unwrap());
    }
}
