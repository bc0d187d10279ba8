//! The process: listens where the platform says, and stops on SIGTERM or SIGINT.

use std::process::ExitCode;

use hello_service::{log, serve};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log("error", "cannot start", &json!({ "error": error.to_string() }));
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let variable = |name: &str| std::env::var(name).map_err(|error| format!("{name}: {error}"));
    let address = format!("{}:{}", variable("HOST")?, variable("PORT")?);
    let listener = TcpListener::bind(&address).await?;
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    log("info", "listening", &json!({ "address": address }));
    serve(listener, async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
    .await?;
    log("info", "stopped", &json!({}));
    Ok(())
}
