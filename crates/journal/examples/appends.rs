//! How many durable appends a second this machine's disk and the journal give, beside the plain rate of `fdatasync`:
//! `cargo run --release -p journal --example appends [FOLDER]`. The folder should lie on the disk in question, not in memory.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use journal::{Config, Journal, Opened, Sync, Visible};
use kit::tasks::Tasks;

const RUN: Duration = Duration::from_secs(3);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let parent = std::env::args().nth(1).unwrap_or_else(|| ".".to_owned());
    let folder = tempfile::tempdir_in(parent)?;
    for bytes in [200, 1024] {
        let (rate, each) = plain(&folder.path().join("plain"), bytes)?;
        println!("{bytes:5} bytes  write + fdatasync, one after the other  {rate:9.0}/s  {each:6.0} µs");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        for writers in [1, 16, 256, 1000] {
            let path = folder.path().join(format!("{bytes}-{writers}"));
            let (rate, each) = runtime.block_on(appends(&path, bytes, writers, Sync::Always))?;
            println!("{bytes:5} bytes  {writers:4} writers{:26}{rate:13.0}/s  {each:6.0} µs", "");
        }
        let path = folder.path().join(format!("{bytes}-interval"));
        let (rate, each) = runtime.block_on(appends(&path, bytes, 256, Sync::Interval(Duration::from_millis(100))))?;
        println!("{bytes:5} bytes   256 writers, sync every 100 ms       {rate:13.0}/s  {each:6.0} µs");
        runtime.block_on(read(&path))?;
    }
    Ok(())
}

fn plain(path: &Path, bytes: usize) -> std::io::Result<(f64, f64)> {
    let file = std::fs::File::create(path)?;
    let record = vec![b'x'; bytes];
    let (start, mut count) = (Instant::now(), 0u64);
    while start.elapsed() < RUN {
        file.write_all_at(&record, count * bytes as u64)?;
        file.sync_data()?;
        count += 1;
    }
    Ok(figures(count, start.elapsed(), 1))
}

fn config(folder: &Path, sync: Sync) -> Config {
    Config {
        folder: folder.to_owned(),
        sync,
        segment_bytes: 64 << 20,
        record_bytes: 1 << 20,
        queue_bytes: 8 << 20,
        queue_records: 10_000,
        open_files: 8,
    }
}

async fn appends(
    folder: &Path,
    bytes: usize,
    writers: u32,
    sync: Sync,
) -> Result<(f64, f64), Box<dyn std::error::Error>> {
    let Opened { journal, .. } = Journal::open(config(folder, sync), &Tasks::default()).await?;
    let start = Instant::now();
    let running: Vec<_> =
        (0..writers).map(|_| tokio::spawn(append_for(journal.clone(), vec![b'x'; bytes], start))).collect();
    let mut count = 0;
    for writer in running {
        count += writer.await??;
    }
    let elapsed = start.elapsed();
    journal.close().await?;
    Ok(figures(count, elapsed, writers))
}

/// Opens what was written again, reads all of it, and single records here and there.
async fn read(folder: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let start = Instant::now();
    let Opened { journal, .. } = Journal::open(config(folder, Sync::Always), &Tasks::default()).await?;
    let (opened, last) = (start.elapsed(), journal.last(Visible::Synced));
    let (start, mut reader) = (Instant::now(), journal.read(1, Visible::Synced));
    while reader.next().await?.is_some() {}
    let read = start.elapsed();
    let (start, gets) = (Instant::now(), 10_000);
    for turn in 0..gets {
        journal.get(1 + turn * 7919 % last, Visible::Synced).await?;
    }
    let get = start.elapsed().as_micros() as u64 / gets;
    let (mebibytes, rate) = (journal.bytes() >> 20, last as f64 / read.as_secs_f64());
    println!("      {mebibytes} MiB opened in {opened:.1?}, read at {rate:.0} records/s, {get} µs for one by number");
    Ok(())
}

async fn append_for(journal: Journal, record: Vec<u8>, start: Instant) -> journal::Result<u64> {
    let mut count = 0;
    while start.elapsed() < RUN {
        journal.append(&record).await?;
        count += 1;
    }
    Ok(count)
}

/// Operations a second, and the microseconds that each took who waited for it.
fn figures(count: u64, elapsed: Duration, writers: u32) -> (f64, f64) {
    let seconds = elapsed.as_secs_f64();
    (count as f64 / seconds, seconds * f64::from(writers) / count as f64 * 1e6)
}
