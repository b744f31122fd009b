//! A reload changes the `consul` block.

use super::*;
use crate::config::model::Register;

#[tokio::test]
async fn what_consul_lost_is_kept_through_a_reload() {
    let agent = Agent::start().await;
    agent.say(100, instances(&[(1, "passing"), (2, "passing")]));
    let mut asked = ask(agent.model(), "users", &[]);
    asked.until(BOTH).await;
    agent.restart(9, instances(&[(1, "passing")]));
    asked.only(SECOND * 2, BOTH).await;
    let registers = model::Consul { register: Some(Register::default()), ..agent.model() };
    let same = ask(registers, "users", &asked.chain);
    assert!(same.chain[0].is(&asked.chain[0]), "how the service is entered changes no source");
    // Another source, which finds no more than one of them.
    let slower = model::Consul { wait: SECOND * 7, ..agent.model() };
    let mut after = ask(slower, "users", &asked.chain);
    assert!(!after.chain[0].is(&asked.chain[0]));
    assert_eq!(after.next().await, BOTH);
    after.only(SECOND, BOTH).await;
    let elsewhere = model::Consul { datacenter: Some("dc2".into()), ..agent.model() };
    let mut elsewhere = ask(elsewhere, "users", &after.chain);
    assert_eq!(elsewhere.next().await, "10.0.0.1:1", "nothing was lost there");
}
