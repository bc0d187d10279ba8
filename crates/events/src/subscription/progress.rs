//! How far a subscription has come: which events are done, and the record in which that is kept. Pure. Called by `lanes`,
//! which tells it what was read and done, and by the subscription, which keeps the record.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// Sequences between the oldest event that is not done and the newest one read. Reading waits at it, so that what must
/// be read again after a crash, only to be passed over, is bounded.
pub(crate) const WINDOW_MAX: u64 = 1 << 20;

/// Bits of a number that are the sequence of an event in its stream. Those above say the how many-eth stream of its name that
/// is, or how often it has lost its end: only both together tell events apart, and in this order they came.
const SEQUENCE_BITS: u32 = 48;

/// The sequence in its stream that an event with a number has.
pub(crate) fn sequence_of(number: u64) -> u64 {
    number & ((1 << SEQUENCE_BITS) - 1)
}

/// The first of the numbers to which one belongs: that of no event.
fn era_of(number: u64) -> u64 {
    number - sequence_of(number)
}

/// The version of [`Record`]; a newer one is refused.
const VERSION: u32 = 1;

/// What is kept, in numbers. Everything up to `floor` is done, and so is everything up to `through` but `pending`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    version: u32,
    pub(crate) floor: u64,
    pub(crate) through: u64,
    /// Each as the distance from the one before, the first one from `floor`.
    pending: Vec<u64>,
    /// The highest that was ever done, in whatever replay.
    pub(crate) highest: u64,
    /// First and last sequence of the replay that is on.
    pub(crate) replay: Option<(u64, u64)>,
    /// When the stream was made, in nanoseconds: another stream of the same name is not this one.
    #[serde(default)]
    created: Option<i64>,
}

impl Record {
    /// Of a subscription that begins behind a sequence.
    pub(crate) fn after(floor: u64) -> Self {
        Self { version: VERSION, floor, through: floor, ..Self::default() }
    }

    /// Nothing where it is no record of a version that is understood.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let record: Self = serde_json::from_slice(bytes).ok()?;
        let last = record.pending.iter().try_fold(record.floor, |at, step| at.checked_add(*step))?;
        let is_sound = record.version == VERSION
            && record.floor <= record.through
            && last <= record.through
            && record.pending.iter().all(|step| *step > 0);
        is_sound.then_some(record)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a struct of numbers is JSON")
    }

    /// The same in the next era.
    fn next_era(self) -> Self {
        let next = |number: u64| number.saturating_add(1 << SEQUENCE_BITS);
        let (floor, through, highest) = (next(self.floor), next(self.through), next(self.highest));
        Self { floor, through, highest, replay: self.replay.map(|(from, to)| (next(from), next(to))), ..self }
    }

    /// The same, with nothing done behind `last`.
    fn cut(self, last: u64) -> Self {
        let (floor, through) = (self.floor.min(last), self.through.min(last));
        let mut left = last.saturating_sub(self.floor);
        let is_before = |step: &u64| {
            left.checked_sub(*step).is_some_and(|rest| {
                left = rest;
                true
            })
        };
        let pending = self.pending.iter().copied().take_while(is_before).collect();
        Self { floor, through, pending, ..self }
    }

    fn pending(&self) -> impl Iterator<Item = u64> {
        self.pending.iter().scan(self.floor, |at, step| {
            *at += step;
            Some(*at)
        })
    }
}

/// The events between the oldest one that is not done and the newest one read, by their numbers.
#[derive(Debug)]
pub(crate) struct Window {
    /// Those that are not done.
    undone: BTreeSet<u64>,
    /// Everything up to it was read, or is not for this subscription.
    read: u64,
    /// The highest that was done since the window was made.
    through: u64,
    highest: u64,
    replay: Option<(u64, u64)>,
    created: Option<i64>,
    /// What the record says of sequences beyond `read`.
    kept_through: u64,
    kept_pending: BTreeSet<u64>,
}

impl Window {
    pub(crate) fn new(record: &Record) -> Self {
        Self {
            undone: BTreeSet::new(),
            read: record.floor,
            through: record.floor,
            highest: record.highest.max(record.through),
            replay: record.replay,
            created: record.created,
            kept_through: record.through,
            kept_pending: record.pending().collect(),
        }
    }

    /// Begins again at `from`; from there on what was done is done no more. Before it, what is not done stays so.
    pub(crate) fn set_back(&mut self, from: u64) {
        let on = self.replay().map_or(from, |(first, _)| first.min(from));
        let replay = (from <= self.highest).then_some((on, self.highest)).or(self.replay());
        *self = Self::new(&Record { replay, ..self.record().cut(from.saturating_sub(1)) });
    }

    /// The stream has lost what was behind the sequence `last`, and gives the later ones again. What has one of these
    /// numbers now needs no delivery.
    pub(crate) fn cut(&mut self, last: u64, aside: impl Iterator<Item = u64>) {
        for number in aside {
            self.kept_pending.remove(&number);
        }
        let last = self.number(last);
        let replay = self.replay().map(|(from, to)| (from, to.min(last))).filter(|(from, to)| from <= to);
        let cut = Record { highest: self.highest.min(last), replay, ..self.record().cut(last) };
        *self = Self::new(&cut.next_era());
    }

    /// The stream has been made anew, at that time.
    pub(crate) fn begin_anew(&mut self, created: i64) {
        let nothing = Record::after(era_of(self.read)).next_era();
        *self = Self::new(&Record { created: Some(created), ..nothing });
    }

    /// The highest number that it tells anything of.
    pub(crate) fn last_known(&self) -> u64 {
        self.read.max(self.kept_through).max(self.highest)
    }

    /// The number of the event that has a sequence in the stream now.
    pub(crate) fn number(&self, sequence: u64) -> u64 {
        era_of(self.read) + sequence_of(sequence)
    }

    /// Everything up to it is done.
    pub(crate) fn floor(&self) -> u64 {
        self.undone.first().map_or(self.read, |first| first - 1)
    }

    pub(crate) fn read(&self) -> u64 {
        self.read
    }

    /// How many were read that are not done.
    pub(crate) fn open(&self) -> usize {
        self.undone.len()
    }

    /// Whether it was read, and is not done; or will be read, and was not done before.
    pub(crate) fn is_open(&self, sequence: u64) -> bool {
        self.undone.contains(&sequence) || !self.was_done(sequence)
    }

    pub(crate) fn highest(&self) -> u64 {
        self.highest
    }

    /// When the stream was made that the sequences are of.
    pub(crate) fn created(&self) -> Option<i64> {
        self.created
    }

    pub(crate) fn set_created(&mut self, created: i64) {
        self.created = Some(created);
    }

    /// Tells of a sequence, whenever it is asked, whether it is done now.
    pub(crate) fn done_then(&self) -> impl Fn(u64) -> bool + Send + use<> {
        let (read, kept_through, kept_pending) = (self.read, self.kept_through, self.kept_pending.clone());
        let open = self.undone.clone();
        move |one| {
            if one <= read { !open.contains(&one) } else { one <= kept_through && !kept_pending.contains(&one) }
        }
    }

    pub(crate) fn has_room(&self) -> bool {
        self.read - self.floor() < WINDOW_MAX
    }

    /// Whether half of what is remembered of it is used up.
    pub(crate) fn is_half_full(&self) -> bool {
        self.read - self.floor() >= WINDOW_MAX / 2
    }

    /// The replay that is on.
    pub(crate) fn replay(&self) -> Option<(u64, u64)> {
        self.replay.filter(|(_, to)| self.floor() < *to)
    }

    pub(crate) fn is_replayed(&self, sequence: u64) -> bool {
        self.replay.is_some_and(|(from, to)| (from..=to).contains(&sequence))
    }

    /// Whether it was done before the window was made, and was not read since.
    pub(crate) fn was_done(&self, sequence: u64) -> bool {
        sequence <= self.read || (sequence <= self.kept_through && !self.kept_pending.contains(&sequence))
    }

    /// It was read, and is not for this subscription, or done.
    pub(crate) fn pass(&mut self, sequence: u64) {
        self.read = self.read.max(sequence);
        self.kept_pending.remove(&sequence);
    }

    /// It was read, and is to be delivered. Sequences only grow.
    pub(crate) fn push(&mut self, sequence: u64) {
        assert!(sequence > self.read, "sequences grow");
        self.pass(sequence);
        self.undone.insert(sequence);
    }

    /// It needs no delivery any more.
    pub(crate) fn done(&mut self, sequence: u64) {
        if self.undone.remove(&sequence) {
            self.through = self.through.max(sequence);
            self.highest = self.highest.max(sequence);
        }
    }

    pub(crate) fn record(&self) -> Record {
        let floor = self.floor();
        let through = self.through.max(self.kept_through).max(floor);
        let all = self.undone.iter().copied().chain(self.kept_pending.range(self.read + 1..).copied());
        let mut at = floor;
        let pending = all.take_while(|sequence| *sequence <= through).map(|sequence| {
            let step = sequence - at;
            at = sequence;
            step
        });
        let pending = pending.collect();
        Record {
            version: VERSION,
            floor,
            through,
            pending,
            highest: self.highest,
            replay: self.replay(),
            created: self.created,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_follows_the_oldest_that_is_not_done() {
        let mut window = Window::new(&Record::after(10));
        for sequence in [12, 13, 20, 21] {
            window.push(sequence);
        }
        assert_eq!((window.floor(), window.open()), (11, 4));
        window.done(13);
        window.done(20);
        assert_eq!(window.floor(), 11);
        assert_eq!(window.record().pending().collect::<Vec<_>>(), [12]);
        window.done(12);
        assert_eq!((window.floor(), window.record().through, window.open()), (20, 20, 1));
        window.done(21);
        window.pass(30);
        assert_eq!((window.floor(), window.record().pending.len()), (30, 0));
    }

    #[test]
    fn a_record_says_after_a_crash_what_was_done_even_if_the_next_one_comes_early() {
        let mut window = Window::new(&Record::after(0));
        (1..=9).for_each(|sequence| window.push(sequence));
        [1, 3, 5, 8].into_iter().for_each(|sequence| window.done(sequence));
        let record = Record::decode(&window.record().encode()).unwrap();
        let again = |window: &Window| (1..=9).filter(|sequence| !window.was_done(*sequence)).collect::<Vec<_>>();
        let mut window = Window::new(&record);
        assert_eq!(again(&window), [2, 4, 6, 7, 9]);
        // The next crash comes when only some of them were read again.
        for sequence in [2, 3, 4] {
            if window.was_done(sequence) { window.pass(sequence) } else { window.push(sequence) }
        }
        window.done(2);
        let record = Record::decode(&window.record().encode()).unwrap();
        assert_eq!(again(&Window::new(&record)), [4, 6, 7, 9]);
    }

    #[test]
    fn a_replay_ends_where_it_began() {
        let mut window = Window::new(&Record::after(0));
        (1..=5).for_each(|sequence| window.push(sequence));
        (1..=5).for_each(|sequence| window.done(sequence));
        window.set_back(3);
        assert_eq!((window.replay(), window.floor(), window.highest()), (Some((3, 5)), 2, 5));
        let mut window = Window::new(&Record::decode(&window.record().encode()).unwrap());
        for sequence in 3..=6 {
            assert!(!window.was_done(sequence));
            window.push(sequence);
            assert_eq!(window.is_replayed(sequence), sequence < 6);
            window.done(sequence);
        }
        assert_eq!((window.replay(), window.highest()), (None, 6));
    }

    fn again(window: &Window) -> Vec<u64> {
        (1..=10).filter(|sequence| !window.was_done(*sequence)).collect()
    }

    #[test]
    fn a_replay_leaves_none_out_that_was_not_done() {
        let mut window = Window::new(&Record::after(0));
        (1..=9).for_each(|sequence| window.push(sequence));
        [1, 2, 4, 5, 7, 8].into_iter().for_each(|sequence| window.done(sequence));
        for (from, expected) in [(10_000, vec![3, 6, 9, 10]), (8, vec![3, 6, 8, 9, 10]), (2, (2..=10).collect())] {
            window.set_back(from);
            assert_eq!(again(&window), expected, "from {from}");
            assert_eq!(again(&Window::new(&window.record())), expected, "from {from}, recorded");
            assert_eq!(window.highest(), 8);
        }
        assert_eq!((window.floor(), window.replay()), (1, Some((2, 8))));
    }

    #[test]
    fn numbers_that_are_given_again_are_not_done() {
        let mut window = Window::new(&Record::after(0));
        (1..=9).for_each(|sequence| window.push(sequence));
        [1, 2, 4, 5, 7, 8].into_iter().for_each(|sequence| window.done(sequence));
        window.cut(5, std::iter::empty());
        let later = |number: &u64| window.was_done(window.number(*number));
        let again: Vec<u64> = (1..=10).filter(|number| !later(number)).collect();
        assert_eq!((again, sequence_of(window.highest())), (vec![3, 6, 7, 8, 9, 10], 5));
        assert!(window.was_done(9) && !window.is_open(9), "what had the number before is not waited for");
        assert_ne!(window.number(9), 9);
        let record = Record::decode(&window.record().encode()).unwrap();
        assert_eq!(Window::new(&record).number(3), window.number(3));
    }

    #[test]
    fn what_is_aside_is_not_read_again_where_the_stream_was_cut() {
        let mut window = Window::new(&Record::after(0));
        (1..=5).for_each(|sequence| window.push(sequence));
        [1, 3].into_iter().for_each(|sequence| window.done(sequence));
        // 2 is aside, and that it was done is not on record.
        let mut window = Window::new(&window.record());
        window.cut(4, [2].into_iter());
        assert!(window.was_done(window.number(2)) && !window.was_done(window.number(4)));
        window.push(window.number(4));
        window.begin_anew(7);
        assert_eq!((sequence_of(window.floor()), window.created(), window.open()), (0, Some(7), 0));
        assert!(!window.was_done(window.number(1)) && window.highest() < window.number(1));
    }

    #[test]
    fn what_is_no_record_is_none() {
        for bad in [
            "",
            "{}",
            "[]",
            "null",
            r#"{"version":2,"floor":1,"through":1,"pending":[],"highest":1,"replay":null}"#,
            r#"{"version":1,"floor":2,"through":1,"pending":[],"highest":1,"replay":null}"#,
            r#"{"version":1,"floor":1,"through":2,"pending":[0],"highest":1,"replay":null}"#,
            r#"{"version":1,"floor":1,"through":2,"pending":[2],"highest":1,"replay":null}"#,
            r#"{"version":1,"floor":1,"through":2,"pending":[18446744073709551615],"highest":1,"replay":null}"#,
        ] {
            assert_eq!(Record::decode(bad.as_bytes()), None, "{bad}");
        }
    }
}
