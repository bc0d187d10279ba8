//! Searches for what is remembered of requests, over all processes of the data plane: the loop of `bound` asks each of
//! them, and whoever searches is answered when all have answered, or with what is there when the time is over.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::story::Story;

/// How long a process may take to look; then it is passed over.
const ANSWER_MAX: Duration = Duration::from_secs(1);

// Limit: stories of one answer, which a message has room for.
pub(crate) const STORIES_MAX: usize = 4096;

// Limit: searches at a time. One more finds nothing.
const SEARCHES_MAX: usize = 64;

// Limit: bytes of the stories of one answer: far less than a message has room for.
const STORIES_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Of stories in their order the newest, as many as an answer has room for.
pub(crate) fn fitting(mut stories: Vec<Story>) -> Vec<Story> {
    let mut room = STORIES_BYTES_MAX;
    let fits = |story: &&Story| {
        let length = serde_json::to_vec(story).map_or(usize::MAX, |text| text.len());
        let is_room = length <= room;
        room = room.saturating_sub(length);
        is_room
    };
    let count = stories.iter().rev().take_while(fits).count();
    stories.drain(..stories.len() - count);
    stories
}

/// The searches that are under way.
#[derive(Debug, Default)]
pub(crate) struct Searches {
    last: u64,
    all: BTreeMap<u64, Search>,
}

#[derive(Debug)]
struct Search {
    max: usize,
    until: Instant,
    /// The processes that have not answered yet.
    waiting: BTreeSet<u64>,
    found: Vec<Story>,
    reply: oneshot::Sender<Vec<Story>>,
}

impl Searches {
    /// Takes a search in. Gives its number, with which processes are to be asked before [`Searches::begin`]; none where there
    /// are too many.
    pub(crate) fn ask(&mut self, max: usize, reply: oneshot::Sender<Vec<Story>>) -> Option<u64> {
        self.all.retain(|_, search| !search.reply.is_closed());
        if self.all.len() >= SEARCHES_MAX {
            return None;
        }
        self.last += 1;
        let until = Instant::now() + ANSWER_MAX;
        self.all.insert(self.last, Search { max, until, waiting: BTreeSet::new(), found: Vec::new(), reply });
        Some(self.last)
    }

    /// These processes were asked.
    pub(crate) fn begin(&mut self, id: u64, lives: BTreeSet<u64>) {
        if let Some(search) = self.all.get_mut(&id) {
            search.waiting = lives;
        }
        self.settle();
    }

    /// A process has answered.
    pub(crate) fn tell(&mut self, life: u64, id: u64, stories: Vec<Story>) {
        if let Some(search) = self.all.get_mut(&id).filter(|search| search.waiting.contains(&life)) {
            search.found.extend(stories);
            search.waiting.remove(&life);
        }
        self.settle();
    }

    /// A process has ended, and what it remembered is gone with it.
    pub(crate) fn end(&mut self, life: u64) {
        for search in self.all.values_mut() {
            search.waiting.remove(&life);
        }
        self.settle();
    }

    /// When to give up on those that have not answered.
    pub(crate) fn until(&self) -> Option<Instant> {
        // Numbers rise with time.
        self.all.first_key_value().map(|(_, search)| search.until)
    }

    pub(crate) fn give_up(&mut self, now: Instant) {
        self.all.values_mut().filter(|search| search.until <= now).for_each(|search| search.waiting.clear());
        self.settle();
    }

    fn settle(&mut self) {
        for (_, search) in self.all.extract_if(.., |_, search| search.waiting.is_empty()) {
            let Search { max, mut found, reply, .. } = search;
            found.sort_by_key(|story| story.began);
            found.drain(..found.len().saturating_sub(max));
            // Whoever asked may have gone.
            let _ = reply.send(found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::story::Kept;

    fn story(second: i64) -> Story {
        Story {
            request_id: format!("r{second}"),
            trace_id: String::new(),
            began: jiff::Timestamp::from_second(second).unwrap(),
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
            kept: Kept::Sampled,
        }
    }

    #[test]
    fn an_answer_has_room_for_the_newest_however_large_the_stories_are() {
        let large = |second| Story { path: "x".repeat(3 * 1024 * 1024), ..story(second) };
        let seconds = |all: Vec<Story>| -> Vec<i64> { all.iter().map(|story| story.began.as_second()).collect() };
        assert_eq!(seconds(fitting(vec![])), [0; 0]);
        assert_eq!(seconds(fitting((1..5).map(story).collect())), [1, 2, 3, 4]);
        assert_eq!(seconds(fitting(vec![story(1), large(2), large(3), large(4), story(5)])), [3, 4, 5]);
    }

    fn seen(reply: &mut oneshot::Receiver<Vec<Story>>) -> Option<Vec<i64>> {
        Some(reply.try_recv().ok()?.iter().map(|story| story.began.as_second()).collect())
    }

    #[tokio::test]
    async fn what_several_processes_remember_comes_in_one_order_and_nobody_is_waited_for_in_vain() {
        let mut searches = Searches::default();
        let ask = |searches: &mut Searches, max, lives: &[u64]| {
            let (reply, replied) = oneshot::channel();
            let id = searches.ask(max, reply).unwrap();
            searches.begin(id, lives.iter().copied().collect());
            (id, replied)
        };
        let (first, mut found) = ask(&mut searches, 3, &[1, 2]);
        let (second, mut none) = ask(&mut searches, 3, &[1, 2]);
        searches.tell(1, first, vec![story(1), story(4)]);
        // Neither twice, nor of one that was not asked.
        searches.tell(1, first, vec![story(9)]);
        searches.tell(3, first, vec![story(9)]);
        assert_eq!(seen(&mut found), None);
        searches.tell(2, first, vec![story(2), story(3)]);
        assert_eq!(seen(&mut found), Some(vec![2, 3, 4]));
        searches.end(1);
        assert!(searches.until().is_some() && seen(&mut none).is_none());
        searches.give_up(Instant::now() + ANSWER_MAX);
        assert_eq!((seen(&mut none), searches.until()), (Some(vec![]), None));
        searches.tell(2, second, vec![story(5)]);
        let (_, mut nobody) = ask(&mut searches, 3, &[]);
        assert_eq!(seen(&mut nobody), Some(vec![]));
        let (waiting, mut last): (Vec<_>, Vec<_>) = (0..SEARCHES_MAX).map(|_| ask(&mut searches, 1, &[7])).unzip();
        let (reply, mut refused) = oneshot::channel();
        assert_eq!((searches.ask(1, reply), seen(&mut refused)), (None, None));
        last.truncate(1);
        let (reply, _replied) = oneshot::channel();
        assert_eq!(searches.ask(1, reply), Some(waiting[63] + 1), "those whose asker has gone make room");
    }
}
