//! A broker without users on `127.0.0.1:PORT`, to try clients on: `cargo run -p broker --example serve -- 4222 FOLDER`.
//! With a folder it has streams, which are kept there, in segments of as many bytes as a third argument says. Its limits are
//! nats-server's defaults, so that both can be compared. SIGTERM ends it well; what it has to say it logs to stderr.

use std::time::Duration;

use broker::{Config, JetStream, JetStreamLimits, LameDuck, Limits, Sync};
use tokio::signal::unix::{SignalKind, signal};

const SEGMENT_BYTES: u64 = 64 << 20;

fn jetstream(folder: String, segment_bytes: u64) -> JetStream {
    JetStream {
        folder: folder.into(),
        sync: Sync::Always,
        limits: JetStreamLimits {
            streams_max: 1000,
            consumers_max: 10_000,
            store_bytes_max: 1 << 40,
            memory_bytes_max: 1 << 30,
            segment_bytes,
            queue_bytes: 16 << 20,
            cache_bytes: 8 << 20,
            message_ids_max: 1 << 22,
        },
    }
}

fn config(port: u16, jetstream: Option<JetStream>) -> Config {
    let limits = Limits {
        connections_max: 64 * 1024,
        subscriptions_max: 2_000_000,
        subject_tokens_max: 2048,
        control_line_max: 4096,
        payload_max: 1024 * 1024,
        pending_max: 64 * 1024 * 1024,
        write_deadline: Duration::from_secs(10),
        auth_timeout: Duration::from_secs(2),
        tls_timeout: Duration::from_secs(2),
        ping_interval: Duration::from_secs(120),
        pings_outstanding_max: 2,
        closed_connections_max: 1000,
    };
    Config {
        listen: ([127, 0, 0, 1], port).into(),
        monitor: None,
        name: "serve".to_owned(),
        users: Vec::new(),
        tls: None,
        jetstream,
        limits,
        lame_duck: LameDuck { grace: Duration::ZERO, duration: Duration::from_secs(1) },
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let mut arguments = std::env::args().skip(1);
    let port = arguments.next().map_or(Ok(4222), |text| text.parse())?;
    let folder = arguments.next();
    let segment_bytes = arguments.next().map_or(Ok(SEGMENT_BYTES), |text| text.parse())?;
    let bound = broker::bind(&config(port, folder.map(|folder| jetstream(folder, segment_bytes))))?;
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
