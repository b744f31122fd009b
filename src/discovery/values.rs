//! `${consul:key}` in the files, followed live: one blocking question for each
//! key, told to those who read the files.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use super::consul;
use super::source::jittered;
use crate::clients::consul::{Answer, Blocking, Client, Error, Options};
use crate::config::model::Source;
use crate::config::values::{Known, Values, Wants};

/// How long Consul may hold a question, before jitter.
const WAIT: Duration = Duration::from_secs(120);
/// From one answer to the next question.
const BREATH: Duration = Duration::from_millis(200);
/// After a failure: the first pause and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));
/// The largest value, in bytes.
const LARGEST: usize = 64 << 10;
/// How long a value outlives its key where Consul may have lost its state.
const DOUBT: Duration = Duration::from_secs(600);

/// Asks for what the files name, as long as this lives.
pub async fn follow(values: Values) {
    let mut wants = values.wants();
    let (mut tasks, mut followed) = (JoinSet::new(), BTreeMap::<Arc<str>, AbortHandle>::new());
    let mut at: Option<Options> = None;
    loop {
        let now = wants.borrow_and_update().clone();
        let options = options(&now);
        if options != at {
            tasks.abort_all();
            followed.clear();
            at = options;
        }
        followed.retain(|key, task| {
            now.keys.contains(key) || {
                task.abort();
                false
            }
        });
        match at.clone().map(Client::new) {
            Some(Ok(client)) => {
                for key in
                    now.keys.iter().filter(|key| !followed.contains_key(*key)).cloned().collect::<Vec<_>>()
                {
                    let follower =
                        Follower { client: client.clone(), key: key.clone(), values: values.clone() };
                    followed.insert(key, tasks.spawn(follower.run()));
                }
            }
            Some(Err(error)) => now.keys.iter().for_each(|key| values.tell(key, failed(&error))),
            None => now.keys.iter().for_each(|key| values.tell(key, failed(&"`discovery` names no Consul"))),
        }
        tokio::select! {
            changed = wants.changed() => if changed.is_err() { return },
            Some(ended) = tasks.join_next(), if !tasks.is_empty() => {
                if let Err(error) = ended && let Ok(panic) = error.try_into_panic() {
                    std::panic::resume_unwind(panic);
                }
            }
        }
    }
}

/// Asks until everything that the files name is known, for at most `longest`.
/// What is not known by then counts as failed.
pub async fn first(values: &Values, longest: Duration) {
    let wants = values.wants().borrow().clone();
    let known = |key: &Arc<str>| matches!(values.get(key), Some(Known::Found(_) | Known::Absent));
    let all = async {
        while !wants.keys.iter().all(known) {
            sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = follow(values.clone()) => {}
        _ = timeout(longest, all) => {}
    }
    for key in wants.keys.iter().filter(|key| values.get(key).is_none()) {
        values.tell(key, failed(&"no answer in time"));
    }
}

fn options(wants: &Wants) -> Option<Options> {
    if wants.keys.is_empty() {
        return None;
    }
    wants.discovery.iter().find_map(|source| match source {
        Source::Consul(source) => consul::options(source).ok(),
        _ => None,
    })
}

fn failed(why: &dyn std::fmt::Display) -> Known {
    Known::Failed(why.to_string().into())
}

/// One key.
struct Follower {
    client: Client,
    key: Arc<str>,
    values: Values,
}

/// What came with the last answer.
#[derive(Clone, Copy)]
struct Last {
    index: Option<u64>,
    token: u64,
    heard: std::time::Instant,
}

impl Follower {
    async fn run(self) {
        let (mut last, mut failures, mut doubt): (Option<Last>, _, _) = (None, 0, None);
        loop {
            let index = last.and_then(|last| last.index.map(|index| (index, last.heard)));
            let blocking = index.map(|(index, heard)| Blocking { index, wait: jittered(WAIT), heard });
            match self.client.kv(&self.key, blocking).await {
                Ok(answer) if answer.known_leader => {
                    let next = |last: Last| answer.index >= last.index && answer.token == last.token;
                    let anew = !last.is_some_and(next);
                    self.heard(&answer, anew, &mut doubt);
                    let heard = std::time::Instant::now();
                    last = Some(Last { index: answer.index, token: answer.token, heard });
                    failures = 0;
                    sleep(jittered(BREATH)).await;
                }
                outcome => {
                    let error = outcome.err().unwrap_or(Error::Connection("Consul has no leader".into()));
                    self.values.tell(&self.key, failed(&error));
                    if failures == 1 {
                        tracing::warn!(key = %self.key, "Consul does not tell a value, what is known stays: {error}");
                    }
                    let pause = jittered((PAUSE.0 * 2_u32.pow(failures.min(10))).min(PAUSE.1));
                    // An agent that has lost its state would hold the old index.
                    (last, failures) = (None, failures + 1);
                    sleep(pause.max(error.retry_after().unwrap_or_default())).await;
                }
            }
        }
    }

    /// Takes an answer in; `anew` if it is not the next one of a row. A Consul that
    /// has lost its state, and a token that may see nothing, say that there is no
    /// such key. So such an answer is not believed for a while when it comes anew.
    fn heard(&self, answer: &Answer<Option<Bytes>>, anew: bool, doubt: &mut Option<Instant>) {
        let known = match &answer.value {
            Some(bytes) if bytes.len() > LARGEST => failed(&"it is larger than 64 KiB"),
            Some(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => Known::Found(text.trim_end_matches(['\n', '\r']).into()),
                Err(_) => failed(&"it is not UTF-8 text"),
            },
            None => {
                let found = matches!(self.values.get(&self.key), Some(Known::Found(_)));
                if found && anew && doubt.is_none() {
                    tracing::warn!(key = %self.key, "Consul seems to have lost a value; it is kept for a while");
                    *doubt = Some(Instant::now() + DOUBT);
                }
                if found && doubt.is_some_and(|until| Instant::now() < until) {
                    return;
                }
                Known::Absent
            }
        };
        *doubt = None;
        self.values.tell(&self.key, known);
    }
}
