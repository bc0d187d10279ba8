//! The process: finds its upstreams, serves.

use std::process::ExitCode;

use store_kit::{Environment, log, server};
use storefront::routes;

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error("storefront stopped", &error);
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), server::Error> {
    let environment = Environment::of_process();
    let (catalog, cart) = (environment.upstream("catalog")?, environment.upstream("cart")?);
    server::run(&environment, routes::router(&catalog, &cart)).await
}
