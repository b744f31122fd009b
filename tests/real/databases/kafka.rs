//! Kafka: kafka-python, franz-go, and Kafka's own clients in Java.
//!
//! The broker tells clients to come to the local port of the caller's sidecar.

use std::net::SocketAddr;
use std::process::Command;

use super::{Chain, SMALL, Server, client, free_port, sizes};
use crate::parts::installed;

/// One of Kafka's own programs.
fn java(class: &str) -> Command {
    let mut command = Command::new("java");
    command.args(["-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"]);
    command.arg(format!("{}/*", installed("kafka-3.9.1").display())).arg(class);
    command
}

/// Kafka's own producer and consumer, each with its own group.
fn java_clients(at: SocketAddr, count: u64) {
    let (to, topic) = (at.to_string(), format!("java-{}-{}", at.port(), fastrand::u32(..)));
    let number = count.to_string();
    let mut producer = java("org.apache.kafka.tools.ProducerPerformance");
    producer.args([
        "--topic",
        &topic,
        "--num-records",
        &number,
        "--record-size",
        "500",
        "--throughput",
        "-1",
    ]);
    producer.args(["--producer-props", &format!("bootstrap.servers={to}"), "acks=all", "retries=0"]);
    producer.arg("enable.idempotence=false");
    let said = client::run(&mut producer);
    assert!(said.contains(&format!("{number} records sent")), "{said}");
    assert!(!said.contains("Exception"), "{said}");
    let mut consumer = java("org.apache.kafka.tools.consumer.ConsoleConsumer");
    consumer.args(["--bootstrap-server", &to, "--topic", &topic, "--from-beginning", "--group", "java"]);
    // One more than there are: it ends when no more come.
    let one_more = (count + 1).to_string();
    consumer.args(["--max-messages", &one_more, "--timeout-ms", "3000"]);
    let said = client::run(&mut consumer);
    let came = said.lines().filter(|line| line.len() == 500).count() as u64;
    assert_eq!(came, count, "records that the Java consumer got");
    assert!(said.contains(&format!("Processed a total of {number} messages")), "no end");
    println!("kafka: {count} records from Java to Java, each once");
}

#[test]
fn kafka_through_two_sidecars() {
    let port = free_port();
    let server = Server::start("kafka", &[&format!("--advertised=127.0.0.1:{port}")]);
    super::both_ways(port, server.at, "kafka", |at, sizes| {
        let (quiet, count) = (sizes.quiet.to_string(), sizes.messages.to_string());
        client::python("kafka_all.py", at, &[&quiet, &count]);
        client::go("kafka", at, sizes);
        java_clients(at, sizes.messages);
    });
    let chain = Chain::at(port, server.at, "kafka");
    let count = sizes::full().unwrap_or(SMALL).messages;
    killed_and_started_again(server, &chain, count);
}

/// A producer goes on by itself: what was acknowledged is there.
fn killed_and_started_again(mut server: Server, chain: &Chain, count: u64) {
    let count = count.to_string();
    let mut script = super::Script::start("kafka_again.py", chain.at, &[&count]);
    script.says("works");
    server.kill();
    script.tell("killed");
    script.says("waits");
    server.again();
    script.tell("back");
    println!("kafka: {}", script.says("works"));
    script.ends();
}
