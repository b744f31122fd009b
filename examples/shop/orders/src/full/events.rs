//! Order events to Kafka, and the gifts that `recommendations` answers with.

use std::time::Duration;

use axum::http::StatusCode;
use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{CommitMode, Consumer, StreamConsumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde::Deserialize;
use serde_json::json;

use super::{Failure, Shop};

/// Longest wait for a place in the queue of what is sent.
const QUEUE: Duration = Duration::from_secs(5);
/// Between two attempts to handle a record.
const PAUSE: Duration = Duration::from_millis(500);

#[derive(Clone)]
pub struct Events(FutureProducer);

#[derive(Deserialize)]
struct Gift {
    order: i64,
    gift: String,
}

impl Events {
    pub fn new(brokers: &str) -> KafkaResult<Self> {
        Ok(Self(client(brokers).set("enable.idempotence", "true").set("linger.ms", "2").create()?))
    }

    /// Returns when the broker has the event.
    pub async fn placed(&self, order: i64, user: &str, items: &[String]) -> Result<(), Failure> {
        let (key, body) =
            (order.to_string(), json!({"order": order, "user": user, "items": items}).to_string());
        let record = FutureRecord::to("orders").key(&key).payload(&body);
        self.0.send(record, QUEUE).await.map(drop).map_err(|(error, _)| {
            Failure(
                StatusCode::SERVICE_UNAVAILABLE,
                json!({"error": format!("the order is kept, but nobody told: {error}")}),
            )
        })
    }
}

/// Notes each gift at its order, and commits it only then.
pub async fn take_gifts(shop: Shop) {
    let brokers = std::env::var("KAFKA_BROKERS").unwrap_or_default();
    let consumer: KafkaResult<StreamConsumer> = client(&brokers)
        .set("group.id", "orders")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest")
        .set("allow.auto.create.topics", "true")
        .set("topic.metadata.refresh.interval.ms", "1000")
        .create();
    let consumer = match consumer.and_then(|consumer| consumer.subscribe(&["gifts"]).map(|()| consumer)) {
        Ok(consumer) => consumer,
        Err(error) => return println!("no gifts: {error}"),
    };
    loop {
        match consumer.recv().await {
            Ok(record) => {
                while let Err(why) = take(&shop, &consumer, &record).await {
                    println!("a gift is tried again: {why}");
                    tokio::time::sleep(PAUSE).await;
                }
            }
            // The topic comes with its first record.
            Err(KafkaError::MessageConsumption(
                rdkafka::types::RDKafkaErrorCode::UnknownTopicOrPartition,
            )) => {}
            Err(error) => println!("gifts: {error}"),
        }
    }
}

async fn take(shop: &Shop, consumer: &StreamConsumer, record: &BorrowedMessage<'_>) -> Result<(), String> {
    let gift: Gift =
        serde_json::from_slice(record.payload().unwrap_or_default()).map_err(|error| error.to_string())?;
    shop.orders.give(gift.order, &gift.gift).await.map_err(|error| error.to_string())?;
    consumer.commit_message(record, CommitMode::Async).map_err(|error| error.to_string())?;
    let said = json!({"order": gift.order, "status": "gift", "gift": gift.gift});
    let _ = shop.news.send(said.to_string());
    Ok(())
}

fn client(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("broker.address.family", "v4");
    config.set_log_level(RDKafkaLogLevel::Error);
    config
}
