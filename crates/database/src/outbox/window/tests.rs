//! The window by itself, and a simulation: an outbox, a receiver that fails, dies and lies about it, a broker that drops
//! what it has seen, and kills at any point. Whatever happens, the stream is the table, in its order.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

fn limits(rows: usize) -> Limits {
    Limits { window_rows_max: rows, window_bytes_max: 1_000, ..Limits::standard() }
}

fn away() -> Result<(), Refusal> {
    Err(Refusal::Away("away".to_owned()))
}

fn hear(window: &mut Window, answers: &mut mpsc::UnboundedReceiver<Answer>, now: Instant) {
    while let Ok(answer) = answers.try_recv() {
        window.answer(answer, now);
    }
}

#[test]
fn only_a_settled_prefix_is_deleted() {
    let now = Instant::now();
    let (mut window, mut answers) = Window::new(&limits(10));
    let mut tickets: Vec<_> = (1..=4).map(|id| window.push(id, 1)).collect();
    tickets.remove(1).settle(Ok(()));
    hear(&mut window, &mut answers, now);
    assert_eq!((window.settled(), window.settle_at()), (vec![], None));
    tickets.remove(0).settle(Err(Refusal::Refused("no".to_owned())));
    hear(&mut window, &mut answers, now);
    let first = Settled { id: 1, refused: Some("no".to_owned()) };
    assert_eq!(window.settled(), [first, Settled { id: 2, refused: None }]);
    // Others are still in flight: it is not worth a transaction yet.
    assert_eq!(window.settle_at(), Some(now + SETTLE_AFTER));
    window.forget(2, now);
    assert_eq!((window.len(), window.last(), window.settle_at()), (2, Some(4), None));
}

#[test]
fn a_ticket_that_fails_makes_all_behind_it_unwanted_at_once() {
    let now = Instant::now();
    let (mut window, mut answers) = Window::new(&limits(10));
    let [first, second, third] = [1, 2, 3].map(|id| window.push(id, 1));
    first.settle(Ok(()));
    assert!(third.is_wanted());
    second.settle(away());
    assert!(!third.is_wanted());
    assert!(window.room().is_none());
    hear(&mut window, &mut answers, now);
    window.forget(window.settled().len(), now);
    assert!(!window.may_restart(), "the third is still out");
    drop(third);
    hear(&mut window, &mut answers, now);
    assert!(window.may_restart());
    window.restart();
    assert_eq!((window.room(), window.last()), (Some(Room { rows: 10, bytes: 1_000 }), None));
}

#[test]
fn a_full_window_has_no_room() {
    let (mut window, _answers) = Window::new(&limits(2));
    let _tickets = [window.push(1, 10), window.push(2, 10)];
    assert_eq!(window.room(), None);
    let (mut window, _answers) = Window::new(&limits(9));
    let _ticket = window.push(1, 2_000);
    assert_eq!(window.room(), None);
}

/// Everything that survives a kill.
#[derive(Default)]
struct Disk {
    rows: BTreeMap<i64, bool>,
    aside: Vec<i64>,
    stream: Vec<i64>,
    seen: BTreeSet<i64>,
}

impl Disk {
    fn publish(&mut self, id: i64) {
        if self.seen.insert(id) {
            self.stream.push(id);
        }
    }
}

struct Relay {
    window: Window,
    answers: mpsc::UnboundedReceiver<Answer>,
    queue: VecDeque<(i64, Ticket)>,
}

impl Relay {
    fn new() -> Self {
        let (window, answers) = Window::new(&limits(7));
        Self { window, answers, queue: VecDeque::new() }
    }

    fn look(&mut self, disk: &Disk) {
        let Some(room) = self.window.room() else { return };
        let after = self.window.last().unwrap_or(i64::MIN) + 1;
        for (id, _) in disk.rows.range(after..).take(room.rows) {
            self.queue.push_back((*id, self.window.push(*id, 1)));
        }
    }

    /// The receiver takes one: the outcome is drawn.
    fn receive(&mut self, disk: &mut Disk, random: &mut fastrand::Rng) {
        let Some((id, ticket)) = self.queue.pop_front() else { return };
        if !ticket.is_wanted() {
            return;
        }
        if disk.rows.get(&id) == Some(&false) {
            return ticket.settle(Err(Refusal::Refused("bad".to_owned())));
        }
        let outcome = random.u8(0..10);
        if outcome != 0 {
            disk.publish(id);
        }
        match outcome {
            // Nothing came of it; or the answer was lost; or the receiver died over it.
            0 | 1 => ticket.settle(away()),
            2 => drop(ticket),
            _ => ticket.settle(Ok(())),
        }
    }

    fn settle(&mut self, disk: &mut Disk, now: Instant) {
        hear(&mut self.window, &mut self.answers, now);
        let settled = self.window.settled();
        for row in &settled {
            disk.rows.remove(&row.id);
            if row.refused.is_some() {
                disk.aside.push(row.id);
            }
        }
        self.window.forget(settled.len(), now);
        if self.window.may_restart() {
            self.window.restart();
        }
    }
}

#[test]
fn kills_and_failures_at_any_point_neither_lose_nor_reorder_nor_repeat() {
    for seed in 0..100 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut disk = Disk::default();
        let mut relay = Relay::new();
        let (mut written, mut bad) = (0, Vec::new());
        let now = Instant::now();
        while written < 300 || !disk.rows.is_empty() {
            match random.u8(0..20) {
                0..6 if written < 300 => {
                    written += 1;
                    let is_good = random.u8(0..15) > 0;
                    if !is_good {
                        bad.push(written);
                    }
                    disk.rows.insert(written, is_good);
                }
                6..9 => relay.look(&disk),
                9..16 => relay.receive(&mut disk, &mut random),
                16..19 => relay.settle(&mut disk, now),
                _ if random.u8(0..5) == 0 => relay = Relay::new(),
                _ => {}
            }
        }
        let good: Vec<_> = (1..=300).filter(|id| !bad.contains(id)).collect();
        assert_eq!(disk.stream, good, "seed {seed}");
        assert_eq!(disk.aside, bad, "seed {seed}");
    }
}
