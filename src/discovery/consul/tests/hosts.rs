//! Instances whose address is the name of a host.

use super::*;
use crate::discovery::dns::server::{Reply, Server};

/// Instances on hosts `h1.test` and so on.
fn named(hosts: std::ops::RangeInclusive<u16>) -> Value {
    let one = |number: u16| {
        json!({
            "Node": {"Node": "n", "Address": "10.0.0.9"},
            "Service": {"ID": number.to_string(), "Address": format!("h{number}.test"), "Port": number},
            "Checks": [{"Status": "passing"}],
        })
    };
    Value::Array(hosts.map(one).collect())
}

#[tokio::test]
async fn hosts_are_looked_up_at_one_time_and_keep_their_last_addresses() {
    let (agent, server) = (Agent::start().await, Server::start().await);
    let dns = model::Dns { servers: vec![server.address], timeout: SECOND * 2, ..model::Dns::default() };
    for number in 1..=5 {
        server.both(&format!("h{number}.test."), &Reply::Silence);
    }
    server.addresses("h6.test.", 1, &["10.0.0.6"]);
    agent.say(100, named(1..=6));
    let sources = vec![model::Source::Consul(Box::new(agent.model())), model::Source::Dns(dns)];
    let chain = source::chain(&model(sources), &[], &Directory::new().0);
    let (sender, answers) = mpsc::channel(64);
    let feed = chain[0].ask(&UpstreamName::new("users"), 1, &sender);
    let mut asked = Asked { answers, last: None, chain, _feed: feed };
    let begun = Instant::now();
    assert_eq!(asked.next().await, "10.0.0.6:6", "those that are silent hold up nobody");
    assert!(begun.elapsed() < SECOND, "{:?}", begun.elapsed());
    // The agent says nothing new: they are looked up again all the same.
    for number in 1..=5 {
        server.addresses(&format!("h{number}.test."), 1, &[&format!("10.0.0.{number}")]);
    }
    let all = "10.0.0.1:1 10.0.0.2:2 10.0.0.3:3 10.0.0.4:4 10.0.0.5:5 10.0.0.6:6";
    assert!(asked.until(all).await < SECOND * 10);
    // One that fails and one that is silent are where they were; one that is
    // said to be nowhere is not.
    server.both("h1.test.", &Reply::ServFail);
    server.both("h2.test.", &Reply::Silence);
    server.both("h3.test.", &Reply::NoSuchName(1));
    agent.say(101, named(1..=5));
    assert!(asked.until("10.0.0.1:1 10.0.0.2:2 10.0.0.4:4 10.0.0.5:5").await < SECOND * 2);
    let before = agent.asked();
    sleep(SECOND * 5).await;
    assert!(agent.asked() - before <= 4, "{} questions in 5 s", agent.asked() - before);
}
