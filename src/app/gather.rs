//! What all workers know of endpoints, in one list.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::runtime::Order;
use crate::upstream::Board;
use crate::upstream::snapshot::EndpointStats;

/// How long the admin port waits for a worker.
const STATS_WAIT: Duration = Duration::from_millis(250);

/// Asks every worker, adds up what they say, and says how each endpoint stands.
pub(super) fn gather(orders: &[mpsc::UnboundedSender<Order>], board: &Board) -> Vec<EndpointStats> {
    let (sender, answers) = std::sync::mpsc::channel();
    let asked = orders.iter().filter(|worker| worker.send(Order::Stats(sender.clone())).is_ok()).count();
    drop(sender);
    let key = |one: &EndpointStats| (one.upstream.clone(), one.address);
    let states = board.states(Instant::now());
    let mut all: BTreeMap<_, _> = states.into_iter().map(|one| (key(&one), one)).collect();
    for _ in 0..asked {
        let Ok(stats) = answers.recv_timeout(STATS_WAIT) else { break };
        for one in stats {
            all.entry(key(&one)).and_modify(|sum| sum.add(&one)).or_insert(one);
        }
    }
    all.into_values().collect()
}
