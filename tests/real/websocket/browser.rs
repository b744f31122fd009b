//! Chromium as a client: a page that calls the servers and posts what came of it.

use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::response::Html;
use axum::routing::{get, post};

use super::{command, file};

/// For all servers.
const LIMIT: Duration = Duration::from_secs(120);

/// A process that is killed by its drop; the browser's others end with it.
struct Browser(Child);

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Lets a browser call each of `urls`; what its page says of it.
pub fn call(urls: &[String], count: usize) -> String {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (done, outcome) = mpsc::channel();
    let read = |name| std::fs::read_to_string(file(name)).unwrap();
    let (page, script) = (read("page.html"), read("messages.mjs"));
    let router = Router::new()
        .route("/", get(|| async { Html(page) }))
        .route("/messages.mjs", get(|| async { ([(CONTENT_TYPE, "text/javascript")], script) }))
        .route("/done", post(|body: String| async move { done.send(body).unwrap() }));
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    runtime.spawn(async { axum::serve(listener, router).await });
    let query: Vec<_> = urls.iter().map(|url| format!("&url={url}")).collect();
    let page = format!("http://{address}/?count={count}{}", query.concat());
    let profile = tempfile::tempdir().unwrap();
    let program = ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find(|name| which(name))
        .expect("chromium is missing: run tests/parts/install.sh");
    let mut chromium = command(program.as_ref());
    chromium.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
    ]);
    chromium.args(["--disable-background-networking", "--no-proxy-server"]);
    chromium.arg(format!("--user-data-dir={}", profile.path().display())).arg(page);
    // Without `--dump-dom` or the like it stays until it is killed.
    chromium.arg("--remote-debugging-port=0").stdout(Stdio::null()).stderr(Stdio::null());
    let _browser = Browser(chromium.spawn().unwrap());
    outcome.recv_timeout(LIMIT).expect("the page tells what came of it")
}

fn which(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).exists())
}
