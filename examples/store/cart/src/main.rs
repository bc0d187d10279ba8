//! The process: opens the database that the platform made, finds the catalog, serves.

use std::process::ExitCode;

use cart::catalog::Catalog;
use store_kit::{Environment, Pool, log, server};

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error("cart stopped", &error);
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), server::Error> {
    let environment = Environment::of_process();
    let pool = Pool::open(&environment.database()?)?;
    let catalog = Catalog::new(&environment.upstream("catalog")?);
    server::run(&environment, cart::api::router(pool, catalog)).await
}
