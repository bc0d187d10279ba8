//! Takes events on `127.0.0.1:PORT`, to try clients on: `cargo run -p events --example intake -- 4280 nats://127.0.0.1:4222`.
//! The service `cart` may publish to `orders.>`, whose stream is made if need be: `curl 127.0.0.1:4280/cart/orders.placed -d x`.
//! SIGTERM ends it well; what it has to say it logs to stderr.

use async_nats::jetstream::{self, stream};
use events::{Config, Limits, Publisher, Server, Topic};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let mut arguments = std::env::args().skip(1);
    let port = arguments.next().map_or(Ok(4280), |text| text.parse())?;
    let url = arguments.next().unwrap_or_else(|| "nats://127.0.0.1:4222".to_owned());
    let context = jetstream::new(async_nats::connect(&url).await?);
    let config = stream::Config { name: "ORDERS".into(), subjects: vec!["orders.>".into()], ..Default::default() };
    context.get_or_create_stream(config).await?;
    let bound = events::bind(Config {
        listen: ([127, 0, 0, 1], port).into(),
        server: Some(Server { url }),
        application: "example".to_owned(),
        topics: vec![Topic { subject: "orders.>".to_owned(), stream: "ORDERS".to_owned(), schema: None }],
        publishers: vec![Publisher { service: "cart".to_owned(), publishes: vec!["orders.>".to_owned()] }],
        subscriptions: Vec::new(),
        limits: Limits::standard(),
    })?;
    eprintln!("listening on {}", bound.address());
    let (token, _readiness) = kit::readiness::channel();
    let (trigger, drain) = kit::drain::channel();
    let mut terminate = signal(SignalKind::terminate())?;
    let run = bound.run(token, drain);
    tokio::pin!(run);
    tokio::select! {
        ended = &mut run => return Ok(ended?),
        _ = terminate.recv() => trigger.start(),
    }
    Ok(run.await?)
}
