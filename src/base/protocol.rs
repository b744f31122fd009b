//! What is spoken on a connection.

use serde::{Deserialize, Serialize};

/// What a service speaks on its port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// What the caller speaks, by its first bytes: HTTP/2 calls go on as HTTP/2,
    /// HTTP/1 calls as HTTP/1.1, all else as opaque bytes.
    #[default]
    Auto,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 by prior knowledge.
    Http2,
    /// HTTP/2 by prior knowledge, with gRPC's errors.
    Grpc,
    /// Opaque bytes.
    Tcp,
    /// TLS from the first byte, passed through.
    Tls,
    /// PostgreSQL.
    Postgres,
    /// MySQL and MariaDB.
    Mysql,
    /// Redis and Valkey.
    Redis,
    /// AMQP 0-9-1 and 1.0 (RabbitMQ).
    Amqp,
    /// Kafka.
    Kafka,
    /// MongoDB.
    Mongodb,
    /// NATS.
    Nats,
    /// SMTP.
    Smtp,
}

/// Well-known ports, by the IANA registry of service names and port numbers
/// (<https://www.iana.org/assignments/service-names-port-numbers>); those of
/// Kafka and NATS are the defaults of these servers.
const PORTS: [(u16, Protocol); 20] = [
    (21, Protocol::Tcp),
    (22, Protocol::Tcp),
    (25, Protocol::Smtp),
    (110, Protocol::Tcp),
    (143, Protocol::Tcp),
    (443, Protocol::Tls),
    (465, Protocol::Tls),
    (587, Protocol::Smtp),
    (636, Protocol::Tls),
    (993, Protocol::Tls),
    (995, Protocol::Tls),
    (3306, Protocol::Mysql),
    (4222, Protocol::Nats),
    (5432, Protocol::Postgres),
    (5671, Protocol::Tls),
    (5672, Protocol::Amqp),
    (6379, Protocol::Redis),
    (9092, Protocol::Kafka),
    (27017, Protocol::Mongodb),
    (33060, Protocol::Mysql),
];

impl Protocol {
    /// All of them, in the order of the documentation.
    pub const ALL: [Self; 14] = [
        Self::Auto,
        Self::Http1,
        Self::Http2,
        Self::Grpc,
        Self::Tcp,
        Self::Tls,
        Self::Postgres,
        Self::Mysql,
        Self::Redis,
        Self::Amqp,
        Self::Kafka,
        Self::Mongodb,
        Self::Nats,
        Self::Smtp,
    ];

    /// The word that a policy file uses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Postgres => "postgres",
            Self::Mysql => "mysql",
            Self::Redis => "redis",
            Self::Amqp => "amqp",
            Self::Kafka => "kafka",
            Self::Mongodb => "mongodb",
            Self::Nats => "nats",
            Self::Smtp => "smtp",
        }
    }

    /// Whether it is HTTP of any version.
    pub const fn is_http(self) -> bool {
        matches!(self, Self::Http1 | Self::Http2 | Self::Grpc)
    }

    /// Whether its bytes are passed on as they are, without a look at them.
    pub const fn is_opaque(self) -> bool {
        !self.is_http() && !matches!(self, Self::Auto)
    }

    /// What is spoken on a port by convention; [`Protocol::Auto`] where there is none.
    pub fn of_port(port: u16) -> Self {
        PORTS.iter().find(|(known, _)| *known == port).map_or(Self::Auto, |(_, protocol)| *protocol)
    }

    /// The same, unless it is [`Protocol::Auto`]: then `other`.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        if self == Self::Auto { other } else { self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_protocol_is_http_or_opaque_or_guessed() {
        for protocol in Protocol::ALL {
            let kinds = [protocol.is_http(), protocol.is_opaque(), protocol == Protocol::Auto];
            assert_eq!(kinds.iter().filter(|kind| **kind).count(), 1, "{protocol:?}");
            let word = serde_json::to_value(protocol).unwrap();
            assert_eq!(word, protocol.as_str());
        }
    }

    #[test]
    fn well_known_ports_are_sorted_and_opaque() {
        assert!(PORTS.is_sorted_by(|a, b| a.0 < b.0));
        assert!(PORTS.iter().all(|(_, protocol)| protocol.is_opaque()));
        assert_eq!(Protocol::of_port(5432), Protocol::Postgres);
        assert_eq!(Protocol::of_port(80), Protocol::Auto);
        assert_eq!(Protocol::Auto.or(Protocol::Tls), Protocol::Tls);
        assert_eq!(Protocol::Http1.or(Protocol::Tls), Protocol::Http1);
    }
}
