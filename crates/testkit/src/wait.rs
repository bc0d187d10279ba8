//! Level-triggered waits with a bound, instead of sleeping and hoping.

use std::future::Future;
use std::time::{Duration, Instant};

/// How often the state is looked at. Short enough not to slow a test down, long enough not to burn a core.
const INTERVAL: Duration = Duration::from_millis(5);

/// Calls `look` until it gives `Some`, and returns that.
///
/// # Panics
/// Once `bound` has passed; the message names `what` was waited for.
#[track_caller]
pub fn until<T, F, Look>(what: &str, bound: Duration, mut look: Look) -> impl Future<Output = T>
where
    F: Future<Output = Option<T>>,
    Look: FnMut() -> F,
{
    let caller = std::panic::Location::caller();
    async move {
        let start = Instant::now();
        loop {
            if let Some(found) = look().await {
                return found;
            }
            assert!(start.elapsed() < bound, "{caller}: waited {bound:?} in vain for {what}");
            tokio::time::sleep(INTERVAL).await;
        }
    }
}

/// The same for code without a runtime.
///
/// # Panics
/// Once `bound` has passed; the message names `what` was waited for.
#[track_caller]
pub fn until_blocking<T>(what: &str, bound: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < bound, "waited {bound:?} in vain for {what}");
        std::thread::sleep(INTERVAL);
    }
}
