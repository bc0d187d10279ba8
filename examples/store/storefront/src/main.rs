//! The process: finds its upstreams, serves.

use std::process::ExitCode;

use store_kit::{Environment, log, server};
use storefront::routes::{self, Upstreams};

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
    let upstreams = Upstreams {
        catalog: environment.upstream("catalog")?,
        cart: environment.upstream("cart")?,
        search: environment.upstream("search")?,
        recommendation: environment.upstream("recommendation")?,
        events: environment.upstream("events")?,
    };
    server::run(&environment, routes::router(&upstreams)).await
}
