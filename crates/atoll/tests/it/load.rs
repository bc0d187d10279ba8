//! Requests at a fixed rate while something happens to the application, and what became of them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::application::{Application, BOUND};

/// Requests a second, of all threads together.
pub const RATE: u32 = 100;
const THREADS: u32 = 4;

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Sends GETs while `work` is done, which is given how many were sent so far. Gives how many that were in the end, and the
/// first line of every answer that was not 200.
pub fn under_load(app: &Application, path: &str, work: impl FnOnce(&AtomicU32)) -> (u32, Vec<String>) {
    let (stop, sent, failed) = (AtomicBool::new(false), AtomicU32::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (stop, sent, failed, port) = (&stop, &sent, &failed, app.gateway);
            scope.spawn(move || {
                let start = Instant::now();
                for number in (thread..).step_by(THREADS as usize) {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    // A fixed rate, whatever the answers: that is the load, not a wait for a state.
                    let due = Duration::from_secs(1) * number / RATE;
                    std::thread::park_timeout(due.saturating_sub(start.elapsed()));
                    sent.fetch_add(1, Ordering::Relaxed);
                    let line = get(port, path);
                    if !line.starts_with("HTTP/1.1 200") {
                        failed.lock().unwrap().push(line);
                    }
                }
            });
        }
        // Also when it panics: the load ends with it.
        let _stop = Stop(&stop);
        work(&sent);
    });
    (sent.into_inner(), failed.into_inner().unwrap())
}

/// The first line of the answer to a GET on a connection of its own, or what went wrong.
fn get(port: u16, path: &str) -> String {
    let answer = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(BOUND))?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")?;
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        reader.read_to_end(&mut Vec::new())?;
        Ok(line)
    };
    answer().unwrap_or_else(|error| error.to_string())
}
