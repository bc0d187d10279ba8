//! Images that are not services of an application but engines beside it: what to do about each kind.

use crate::scaffold::yaml::Value;

const OUTSIDE: &str = "goes on running outside";

/// Images, by the last part of their name, and what is to be said about them.
const ENGINES: [(&[&str], &str); 7] = [
    (
        &[
            "postgres",
            "postgis",
            "timescaledb",
            "pgvector",
            "mysql",
            "mariadb",
            "percona",
            "mongo",
            "cockroach",
            "mssql",
            "cassandra",
            "clickhouse-server",
            "clickhouse",
            "influxdb",
            "neo4j",
        ],
        "a database. For a new service Atoll keeps a SQLite file (`[databases.NAME]`, given as DATABASE_URL)",
    ),
    (
        &["redis", "valkey", "keydb", "dragonfly", "memcached", "redis-stack"],
        "a cache, which this version of Atoll has no part for",
    ),
    (
        &["nats"],
        "a broker. Atoll's own speaks its protocol: services with `publishes` or `subscribes` are given its address, NATS_URL",
    ),
    (
        &[
            "rabbitmq",
            "kafka",
            "cp-kafka",
            "redpanda",
            "zookeeper",
            "cp-zookeeper",
            "activemq-classic",
            "pulsar",
            "mosquitto",
        ],
        "a broker of another protocol than Atoll's own, which is NATS",
    ),
    (
        &["nginx", "traefik", "haproxy", "envoy", "caddy", "kong", "httpd"],
        "a proxy. Atoll's gateway does this: add `[[routes]]`",
    ),
    (
        &[
            "jaeger",
            "all-in-one",
            "prometheus",
            "grafana",
            "loki",
            "tempo",
            "zipkin",
            "opentelemetry-collector",
            "opentelemetry-collector-contrib",
            "alertmanager",
        ],
        "telemetry. `atoll logs` and `atoll ps` show what services write and how they are",
    ),
    (
        &[
            "elasticsearch",
            "opensearch",
            "minio",
            "etcd",
            "consul",
            "vault",
            "keycloak",
            "mailhog",
            "mailpit",
            "adminer",
            "pgadmin4",
            "localstack",
        ],
        "a program of others",
    ),
];

/// What is to be said where a service is an image of a known engine.
pub fn of(service: &Value) -> Option<&'static str> {
    if service.get("build").is_some() {
        return None;
    }
    let image = service.get("image")?.text()?;
    let name = image.split('@').next()?.rsplit('/').next()?.split(':').next()?;
    ENGINES.iter().find(|(names, _)| names.contains(&name)).map(|(_, said)| *said)
}

/// The whole sentence about an engine: what it is, and how it is reached.
pub fn advice(said: &str, key: &str) -> String {
    if said.starts_with("a proxy") || said.starts_with("a broker. ") || said.starts_with("telemetry") {
        return said.to_owned();
    }
    format!("{said}; this one {OUTSIDE}, as with `docker compose up -d {key}`, and is reached at its published port")
}
