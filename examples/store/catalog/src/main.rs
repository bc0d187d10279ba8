//! The process: opens the database that the platform made, fills it once, serves.

use std::process::ExitCode;

use store_kit::{Environment, Pool, log, server};

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error("catalog stopped", &error);
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), server::Error> {
    let environment = Environment::of_process();
    let pool = Pool::open(&environment.database()?)?;
    pool.write(catalog::seed::fill).await?;
    server::run(&environment, catalog::api::router(pool)).await
}
