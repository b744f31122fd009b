//! PostgreSQL: `pgbench`, `psql`, psycopg, lib/pq and pgx.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use super::{Chain, SMALL, Server, client, free_port, sizes};

/// Whether the server sees TLS on the connection that asks.
const ENCRYPTED: &str = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";

/// A program of the PostgreSQL that is installed.
fn program(name: &str) -> Command {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let found = versions.map(|version| version.path().join("bin").join(name)).find(|path| path.exists());
    Command::new(found.unwrap_or_else(|| PathBuf::from(name)))
}

fn reach(command: &mut Command, at: SocketAddr) -> &mut Command {
    let port = at.port().to_string();
    command.env("PGHOST", "127.0.0.1").env("PGPORT", port).env("PGUSER", "postgres").env("PGAPPNAME", "test")
}

#[track_caller]
fn pgbench(at: SocketAddr, words: &[&str]) -> String {
    let mut command = program("pgbench");
    client::run(reach(&mut command, at).args(words).arg("postgres"))
}

#[track_caller]
fn psql(at: SocketAddr, more: &str, query: &str) -> String {
    let mut command = program("psql");
    let output =
        client::run(reach(&mut command, at).args(["-XAtqc", query, &format!("dbname=postgres {more}")]));
    output.trim().to_owned()
}

/// Runs `pgbench`, and holds what it counted against what the server has.
#[track_caller]
fn load(at: SocketAddr, server: SocketAddr, words: &[&str], seconds: u64) {
    let history = || psql(server, "", "select count(*) from pgbench_history").parse::<u64>().unwrap();
    let before = history();
    let seconds = seconds.to_string();
    let said = pgbench(at, &[words, &["-n", "-T", &seconds]].concat());
    let number = |label: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(label)).unwrap_or_else(|| panic!("{said}"));
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap()
    };
    let done = number("number of transactions actually processed: ");
    assert!(done > 0, "{said}");
    assert_eq!(number("number of failed transactions: "), 0, "{said}");
    assert_eq!(history() - before, done, "transactions that the server has, and that pgbench counted");
    println!("pgbench {words:?}: {done} transactions in {seconds} s, none failed");
}

fn loads(at: SocketAddr, server: SocketAddr, seconds: u64) {
    load(at, server, &["-c", "8", "-M", "simple"], seconds);
    load(at, server, &["-c", "8", "-M", "extended"], seconds.div_ceil(6));
    load(at, server, &["-c", "8", "-M", "prepared"], seconds.div_ceil(6));
    load(at, server, &["-c", "4", "-C"], seconds.div_ceil(6));
}

#[test]
fn postgres_through_two_sidecars() {
    let server = Server::start("postgres", &[]);
    super::both_ways(free_port(), server.at, "postgres", |at, sizes| {
        pgbench(at, &["-i", "-s", "2", "-q"]);
        loads(at, server.at, sizes.seconds);
        client::python("postgres.py", at, &[&sizes.quiet.to_string()]);
        client::go("postgres", at, sizes);
        // The server has no TLS: it answers the driver's question with N.
        assert_eq!(psql(at, "sslmode=prefer", ENCRYPTED), "f");
    });
}

/// TLS and its channel binding are the driver's and the server's own affair.
#[test]
fn postgres_with_tls_from_end_to_end() {
    let server = Server::start("postgres", &["--tls", "--password=secret"]);
    let root = format!("sslrootcert={}", server.file("server.crt").display());
    for protocol in ["postgres", "auto"] {
        let chain = Chain::at(free_port(), server.at, protocol);
        for mode in [
            "sslmode=prefer",
            "sslmode=require channel_binding=require",
            &format!("sslmode=verify-full host=localhost hostaddr=127.0.0.1 {root}"),
        ] {
            let said = psql(chain.at, &format!("password=secret {mode}"), ENCRYPTED);
            assert_eq!(said, "t", "{mode}");
        }
    }
    let chain = Chain::at(free_port(), server.at, "auto");
    let sizes = sizes::full().unwrap_or(SMALL);
    chain.reloading(&sizes, || {
        let tls = "dbname=postgres sslmode=require channel_binding=require password=secret";
        client::python("postgres.py", chain.at, &[&sizes.quiet.to_string(), tls]);
    });
}

#[test]
fn postgres_killed_and_started_again() {
    super::killed_and_started_again("postgres", Server::start("postgres", &[]));
}
