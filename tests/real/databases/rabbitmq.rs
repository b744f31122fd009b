//! RabbitMQ: pika, and amqp091-go.

use super::{Server, client, free_port, sizes};

#[test]
fn rabbitmq_through_two_sidecars() {
    let server = Server::start("rabbitmq", &[]);
    let count = sizes::messages().to_string();
    super::both_ways(free_port(), server.at, "amqp", |at, _| {
        client::python("rabbitmq.py", at, &[&sizes::quiet(), &count]);
        client::go("rabbitmq", at);
    });
    super::killed_and_started_again("rabbitmq", server);
}
