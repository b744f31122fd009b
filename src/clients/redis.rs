//! Redis as a place where many sidecars count together. Each worker has a
//! connection of its own, over which its questions follow each other without
//! waiting for answers; one task makes it anew and finds out whether Redis is
//! there, so that calls don't have to.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisError, Script};
use tokio::task::{JoinHandle, spawn_local};

/// The generic cell rate algorithm in one step. Times are microseconds by the
/// clock of Redis, so that the clocks of the sidecars don't matter; the state
/// is the time at which the whole burst is there again, and goes then. Nothing
/// else bounds the number of keys.
const TAKE: &str = "
local time = redis.call('TIME')
local now = (time[1] - 1735689600) * 1000000 + time[2]
local interval, window = tonumber(ARGV[1]), tonumber(ARGV[2])
local full = tonumber(redis.call('GET', KEYS[1])) or now
if full < now then full = now end
local next = full + interval
if next - window > now then
  return {0, 0, math.ceil(next - window - now), math.ceil(full - now)}
end
redis.call('SET', KEYS[1], string.format('%.3f', next), 'PX', math.ceil((next - now) / 1000))
return {1, math.floor((window - (next - now)) / interval + 0.000001), 0, math.ceil(next - now)}
";

/// Enters a sidecar under each key, and says how many there are that were
/// entered in the last seconds.
const COUNT: &str = "
local now = tonumber(redis.call('TIME')[1])
local counts = {}
for index, key in ipairs(KEYS) do
  redis.call('ZADD', key, now, ARGV[1])
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now - ARGV[2])
  redis.call('EXPIRE', key, ARGV[2] * 2)
  counts[index] = redis.call('ZCARD', key)
end
return counts
";

/// So many answers in a row may be late before nobody asks any more.
const LATE: u32 = 3;
/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(1);
/// From one look at a Redis that is there to the next.
const LOOK: Duration = Duration::from_secs(1);
/// The first and the longest pause before it is tried again, when it is not there.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// So many looks in a row may go unanswered before the connection is left.
const SILENT: u32 = 2;
/// How long a look may take whose answer no longer counts.
const PATIENCE: Duration = Duration::from_millis(500);

/// One worker's way to Redis.
pub struct Redis {
    link: Rc<Link>,
    keeper: JoinHandle<()>,
}

struct Link {
    client: Client,
    timeout: Duration,
    take: Script,
    connection: RefCell<Option<MultiplexedConnection>>,
    /// Whether it answered in time when it was looked at last.
    there: Cell<bool>,
    /// Answers in a row that came too late.
    late: Cell<u32>,
    /// Looks in a row that were not answered.
    silent: Cell<u32>,
}

/// What Redis said of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Whether it may pass.
    pub passes: bool,
    /// Calls that may follow at once.
    pub left: u32,
    /// Until one may pass.
    pub wait: Duration,
    /// Until the whole burst is there again.
    pub whole: Duration,
}

/// Why Redis did not say anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// It was not asked: it is not there.
    Gone,
    /// It said nothing in time.
    Late,
    /// It failed, or the connection did.
    Failed,
}

impl Redis {
    /// Goes to Redis at `address` and stays there, as long as this is held.
    /// `timeout` is for one answer.
    pub fn new(address: &str, timeout: Duration) -> Option<Self> {
        let link = Rc::new(Link {
            client: Client::open(address).ok()?,
            timeout,
            take: Script::new(TAKE),
            connection: RefCell::default(),
            there: Cell::new(false),
            late: Cell::new(0),
            silent: Cell::new(0),
        });
        let keeper = spawn_local(keep(link.clone()));
        Some(Self { link, keeper })
    }

    /// Takes one call out of what is counted under `key`: one every `interval`,
    /// at most as many at once as make `window`. Ends by `until`.
    pub async fn take(
        &self,
        key: &str,
        (interval, window): (Duration, Duration),
        until: Instant,
    ) -> Result<Taken, Lost> {
        let link = &*self.link;
        let connection = link.connection.borrow().clone().filter(|_| link.there.get());
        let Some(mut connection) = connection else { return Err(Lost::Gone) };
        let micros = |time: Duration| time.as_nanos() as f64 / 1000.0;
        let mut asked = link.take.key(key);
        asked.arg(micros(interval)).arg(micros(window));
        let asked = asked.invoke_async::<(u8, u32, u64, u64)>(&mut connection);
        match by(until, asked).await {
            Some(Ok((passes, left, wait, whole))) => {
                link.late.set(0);
                let time = Duration::from_micros;
                Ok(Taken { passes: passes == 1, left, wait: time(wait), whole: time(whole) })
            }
            Some(Err(error)) => {
                link.failed(&error);
                Err(Lost::Failed)
            }
            None => {
                link.late.set(link.late.get() + 1);
                if link.late.get() >= LATE {
                    link.there.set(false);
                }
                Err(Lost::Late)
            }
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Link {
    /// Also what Redis itself refuses, such as to write on a replica: another
    /// connection may lead elsewhere.
    fn failed(&self, error: &RedisError) {
        tracing::debug!(%error, "Redis did not count a call");
        self.there.set(false);
        *self.connection.borrow_mut() = None;
    }

    /// Whether Redis answers in time, on a connection that is made if need be.
    async fn look(&self) -> bool {
        let connection = self.connection.borrow().clone();
        let mut connection = match connection {
            Some(connection) => connection,
            None => match connect(&self.client).await {
                Ok(connection) => connection,
                Err(_) => return false,
            },
        };
        let begun = Instant::now();
        let answer = by(begun + PATIENCE, redis::cmd("PING").query_async::<String>(&mut connection)).await;
        match &answer {
            Some(Ok(_)) => {
                self.silent.set(0);
                *self.connection.borrow_mut() = Some(connection);
            }
            Some(Err(error)) => self.failed(error),
            // It hangs; the connection may still be good, but not for ever.
            None => {
                self.silent.set(self.silent.get() + 1);
                if self.silent.get() >= SILENT {
                    self.silent.set(0);
                    *self.connection.borrow_mut() = None;
                }
            }
        }
        matches!(answer, Some(Ok(_))) && begun.elapsed() <= self.timeout
    }
}

/// Looks after the connection for as long as it is polled.
async fn keep(link: Rc<Link>) {
    let mut pause = PAUSES.0;
    loop {
        let there = link.look().await;
        link.there.set(there);
        if there {
            link.late.set(0);
            pause = PAUSES.0;
            let mut left = LOOK;
            // Calls may find out sooner.
            while link.there.get() && !left.is_zero() {
                tokio::time::sleep(PAUSES.0).await;
                left = left.saturating_sub(PAUSES.0);
            }
        } else {
            // Not all sidecars at one time, when it is back.
            tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }
}

/// Counts the sidecars that share limits.
pub struct Census {
    client: Client,
    script: Script,
    connection: Option<MultiplexedConnection>,
}

impl Census {
    /// Of the sidecars at `address`.
    pub fn new(address: &str) -> Option<Self> {
        Some(Self { client: Client::open(address).ok()?, script: Script::new(COUNT), connection: None })
    }

    /// Enters `own` under each key for `seconds`, and says how many are entered.
    pub async fn count(&mut self, keys: &[String], own: &str, seconds: u32) -> Result<Vec<u32>, String> {
        let answer = self.ask(keys, own, seconds).await;
        if answer.is_err() {
            self.connection = None;
        }
        answer
    }

    async fn ask(&mut self, keys: &[String], own: &str, seconds: u32) -> Result<Vec<u32>, String> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(connect(&self.client).await?),
        };
        let mut asked = self.script.prepare_invoke();
        for key in keys {
            asked.key(key);
        }
        asked.arg(own).arg(seconds);
        match by(Instant::now() + PATIENCE, asked.invoke_async::<Vec<u32>>(connection)).await {
            Some(answer) => answer.map_err(|error| error.to_string()),
            None => Err("no answer".to_owned()),
        }
    }
}

async fn connect(client: &Client) -> Result<MultiplexedConnection, String> {
    // The answers are waited for by whoever asks.
    let config =
        AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(None);
    client.get_multiplexed_async_connection_with_config(&config).await.map_err(|error| error.to_string())
}

/// Rounds of the worker in which an answer that has come reaches whoever waits.
const ROUNDS: usize = 4;

/// What `future` says by then. Timers have whole milliseconds and fire at the
/// end of theirs, or a little later. A worker that was held up itself finds the
/// timer and the answer at once: the answer counts.
pub(super) async fn by<T>(until: Instant, future: impl Future<Output = T>) -> Option<T> {
    let until = until.checked_sub(Duration::from_micros(1500)).unwrap_or(until);
    let mut future = std::pin::pin!(future);
    if let Ok(said) = tokio::time::timeout_at(until.into(), &mut future).await {
        return Some(said);
    }
    for _ in 0..ROUNDS {
        tokio::task::yield_now().await;
        if let Poll::Ready(said) = futures_util::poll!(&mut future) {
            return Some(said);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_longer_than_told() {
        for micros in [2000, 4999, 5000, 5001, 5500] {
            let begun = tokio::time::Instant::now();
            let most = Duration::from_micros(micros);
            assert_eq!(by((begun + most).into_std(), std::future::pending::<()>()).await, None);
            let waited = begun.elapsed();
            assert!(waited <= most && waited + Duration::from_millis(2) >= most, "{waited:?} of {most:?}");
        }
    }

    #[tokio::test]
    async fn an_answer_that_came_while_the_worker_was_held_up_counts() {
        let (sender, answer) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(async move { sender.send(7) });
        let until = Instant::now() + Duration::from_millis(3);
        let asked = by(until, async {
            std::thread::sleep(Duration::from_millis(20));
            answer.await
        });
        assert_eq!(asked.await, Some(Ok(7)));
        task.await.unwrap().unwrap();
    }

    #[test]
    fn the_address_is_checked_as_the_client_reads_it() {
        for address in
            ["redis://127.0.0.1", "redis://u:p@h:1/2", "redis://[::1]:6379", "unix:///run/redis.sock"]
        {
            assert!(Client::open(address).is_ok(), "{address}");
        }
    }
}
