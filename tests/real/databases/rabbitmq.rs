//! RabbitMQ: pika, and amqp091-go.

use super::{Server, client, free_port};

#[test]
fn rabbitmq_through_two_sidecars() {
    let server = Server::start("rabbitmq", &[]);
    super::both_ways(free_port(), server.at, "amqp", |at, sizes| {
        let (quiet, count) = (sizes.quiet.to_string(), sizes.messages.to_string());
        client::python("rabbitmq.py", at, &[&quiet, &count]);
        client::go("rabbitmq", at, sizes);
    });
    super::killed_and_started_again("rabbitmq", server);
}
