//! The process: opens the database that the platform made, serves.

use std::process::ExitCode;

use store_kit::{Environment, Pool, log, server};

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error("search stopped", &error);
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), server::Error> {
    let environment = Environment::of_process();
    let pool = Pool::open(&environment.database()?)?;
    server::run(&environment, search::api::router(pool)).await
}
