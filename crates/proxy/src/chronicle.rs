//! The stories of requests that may be asked for: all that failed or were unusual, and one in many of the rest. One for the
//! whole process, bounded; the oldest goes first. Looked into by whoever explains, never by a request.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use crate::story::{Kept, Story};

// Limit: stories that are kept. A flood of failures does not drive out the sample, nor what was only unusual.
const FAILED_MAX: usize = 2048;
const UNUSUAL_MAX: usize = 1024;
const SAMPLED_MAX: usize = 512;

/// One in so many requests of a core of which nothing needs to be told is kept all the same.
pub(crate) const SAMPLE: u32 = 64;

// Limit: decisions that are kept of one request.
pub(crate) const EVENTS_MAX: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct Chronicle {
    failed: Shelf,
    unusual: Shelf,
    sampled: Shelf,
}

type Shelf = Mutex<VecDeque<Arc<Story>>>;

impl Chronicle {
    pub(crate) fn keep(&self, story: Story) {
        let (shelf, max) = match story.kept {
            Kept::Failed => (&self.failed, FAILED_MAX),
            Kept::Unusual => (&self.unusual, UNUSUAL_MAX),
            Kept::Sampled => (&self.sampled, SAMPLED_MAX),
        };
        let story = Arc::new(story);
        let mut shelf = shelf.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = if shelf.len() >= max { shelf.pop_front() } else { None };
        shelf.push_back(story);
        drop(shelf);
        // Its memory is given back when nobody waits for it.
        drop(gone);
    }

    /// Every story of this request: a request that goes through an edge, too, has two, the oldest first. An empty id
    /// stands for the newest `max` of all.
    pub(crate) fn find(&self, request_id: &str, max: usize) -> Vec<Story> {
        let mut found: Vec<Arc<Story>> = Vec::new();
        for shelf in [&self.failed, &self.unusual, &self.sampled] {
            let shelf = shelf.lock().unwrap_or_else(PoisonError::into_inner);
            let fits = |story: &&Arc<Story>| request_id.is_empty() || story.request_id == request_id;
            found.extend(shelf.iter().rev().filter(fits).take(max).cloned());
        }
        found.sort_by_key(|story| story.began);
        found.drain(..found.len().saturating_sub(max));
        // Whoever keeps a story meanwhile does not wait for this.
        found.into_iter().map(Arc::unwrap_or_clone).collect()
    }
}

/// How many stories one core may keep within a second: under a flood of refusals, telling of each would cost more than the
/// refusing. Only that core looks.
#[derive(Debug, Default)]
pub(crate) struct Allowance {
    /// Since the epoch.
    second: Cell<u64>,
    left: Cell<u32>,
}

// Limit: stories of one kind that a core keeps of one second. What is beyond is counted.
pub(crate) const STORIES_A_SECOND: u32 = 200;

impl Allowance {
    /// Takes one, if there is one left in this second.
    pub(crate) fn take(&self, second: u64) -> bool {
        if self.second.replace(second) != second {
            self.left.set(STORIES_A_SECOND);
        }
        let left = self.left.get();
        self.left.set(left.saturating_sub(1));
        left > 0
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn story(id: u32, kept: Kept) -> Story {
        Story {
            request_id: format!("r{id}"),
            trace_id: String::new(),
            began: jiff::Timestamp::from_second(i64::from(id)).unwrap(),
            listener: String::new(),
            role: String::new(),
            client: String::new(),
            method: String::new(),
            host: String::new(),
            path: String::new(),
            route: None,
            service: None,
            considered: Vec::new(),
            events: Vec::new(),
            events_dropped: 0,
            status: 200,
            reason: None,
            fallback: None,
            attempts: 1,
            state: None,
            duration: Duration::ZERO,
            kept,
        }
    }

    #[test]
    fn a_flood_of_failures_drives_out_the_oldest_of_them_and_nothing_else() {
        let chronicle = Chronicle::default();
        chronicle.keep(story(1, Kept::Sampled));
        chronicle.keep(story(2, Kept::Unusual));
        for id in 10..10 + FAILED_MAX as u32 + 1 {
            chronicle.keep(story(id, Kept::Failed));
        }
        let ids = |id: &str, max| chronicle.find(id, max).into_iter().map(|story| story.request_id).collect::<Vec<_>>();
        assert_eq!(ids("r10", 9), [""; 0]);
        assert_eq!(
            (ids("r11", 9), ids("r1", 9), ids("r2", 9)),
            (vec!["r11".into()], vec!["r1".into()], vec!["r2".into()])
        );
        let newest = 10 + FAILED_MAX;
        assert_eq!(ids("", 2), [format!("r{}", newest - 1), format!("r{newest}")]);
        chronicle.keep(story(2, Kept::Failed));
        assert_eq!(ids("r2", 9), ["r2", "r2"], "one of the gateway and one of an edge");
    }

    #[test]
    fn every_second_has_so_many_stories_and_none_are_saved_up() {
        let allowance = Allowance::default();
        for (second, asked, expected) in
            [(7, 150, 150), (7, 150, 50), (9, 1, 1), (10, 1000, STORIES_A_SECOND), (11, 0, 0)]
        {
            let taken = (0..asked).filter(|_| allowance.take(second)).count();
            assert_eq!(taken, expected as usize, "{second}");
        }
    }
}
