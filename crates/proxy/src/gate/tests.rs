//! What a gate does one by one, against a list; and what holds with many threads at once.

use std::collections::VecDeque;
use std::sync::atomic::AtomicUsize;
use std::task::Wake;
use std::thread::Thread;
use std::time::{Duration, Instant};

use super::*;

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn gate(max: u32, queue: u32) -> Arc<Gate> {
    Arc::new(Gate::new(&Concurrency { max, queue, wait: Duration::ZERO }))
}

fn enter(gate: &Arc<Gate>) -> Place {
    match gate.try_enter() {
        Entered::Place(place) => place,
        other => panic!("no place: {other:?}"),
    }
}

fn wait(gate: &Arc<Gate>) -> Ticket {
    match gate.try_enter() {
        Entered::Wait { ticket, .. } => ticket,
        other => panic!("no waiting: {other:?}"),
    }
}

fn poll(ticket: &mut Ticket, count: &Arc<Count>) -> Option<Place> {
    match ticket.poll(&mut Context::from_waker(&Waker::from(Arc::clone(count)))) {
        Poll::Ready(place) => Some(place),
        Poll::Pending => None,
    }
}

fn stand(gate: &Gate) -> (u32, u32) {
    assert_eq!(gate.queue().waiters.len() as u32, gate.reading().waiting);
    (gate.reading().running, gate.reading().waiting)
}

#[test]
fn places_then_a_queue_then_nothing() {
    let gate = gate(2, 2);
    let (first, second) = (enter(&gate), enter(&gate));
    let (mut third, mut fourth) = (wait(&gate), wait(&gate));
    assert!(matches!(gate.try_enter(), Entered::Full { running: 2, waiting: 2 }));
    let mut counts: [Arc<Count>; 2] = Default::default();
    assert!(poll(&mut third, &counts[0]).is_none() && poll(&mut fourth, &counts[1]).is_none());
    let former = std::mem::take(&mut counts[0]);
    assert!(poll(&mut third, &counts[0]).is_none(), "who asks again is woken as it asked last");
    assert_eq!(gate.reading(), GateReading { running: 2, waiting: 2, max: 2 });
    drop(first);
    let woken = || counts.each_ref().map(|count| count.0.load(Ordering::SeqCst));
    assert_eq!(former.0.load(Ordering::SeqCst), 0);
    assert_eq!((woken(), stand(&gate)), ([1, 0], (2, 1)), "the first who waits, and only it");
    let fifth = wait(&gate);
    drop(second);
    assert_eq!((woken(), stand(&gate)), ([1, 1], (2, 1)));
    let (third_place, fourth_place) = (poll(&mut third, &counts[0]), poll(&mut fourth, &counts[1]));
    assert!(third_place.is_some() && fourth_place.is_some());
    assert!(poll(&mut third, &counts[0]).is_none(), "a place is given once");
    drop((third, fourth));
    assert_eq!(stand(&gate), (2, 1));
    drop(fifth);
    assert_eq!(stand(&gate), (2, 0), "who goes away leaves the queue");
    drop((third_place, fourth_place));
    assert_eq!(stand(&gate), (0, 0));
}

#[test]
fn a_place_that_nobody_takes_is_passed_on() {
    let gate = gate(0, 3);
    let place = enter(&gate);
    let (first, mut second) = (wait(&gate), wait(&gate));
    let count = Arc::new(Count::default());
    assert!(poll(&mut second, &count).is_none());
    drop(place);
    assert_eq!(stand(&gate), (1, 1), "the first one has it, though it never asked");
    drop(first);
    assert_eq!((count.0.load(Ordering::SeqCst), stand(&gate)), (1, (1, 0)));
    drop(second);
    assert_eq!(stand(&gate), (0, 0));
    let none = Arc::new(Gate::new(&Concurrency { max: 1, queue: 0, wait: Duration::ZERO }));
    let _place = enter(&none);
    assert!(matches!(none.try_enter(), Entered::Full { running: 1, waiting: 0 }));
}

#[test]
fn whatever_happens_all_are_served_in_order_and_nothing_leaks() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..200 {
        let (max, queue) = (random.u32(1..5), random.u32(..6));
        let gate = gate(max, queue);
        let mut places = Vec::new();
        // Those that were given a place and did not take it, and those that wait, in order.
        let mut given = Vec::<(Ticket, Arc<Count>)>::new();
        let mut waiting = VecDeque::<(Ticket, Arc<Count>)>::new();
        for _ in 0..300 {
            let has_left = match random.u32(..5) {
                0 | 1 => {
                    let running = (places.len() + given.len()) as u32;
                    match gate.try_enter() {
                        Entered::Place(place) => {
                            assert!(running < max && waiting.is_empty());
                            places.push(place);
                        }
                        Entered::Wait { mut ticket, running: told, ahead } => {
                            assert_eq!((running, told, ahead as usize), (max, max, waiting.len()));
                            let count = Arc::new(Count::default());
                            assert!(poll(&mut ticket, &count).is_none());
                            waiting.push_back((ticket, count));
                        }
                        Entered::Full { running: told, waiting: full } => {
                            assert_eq!((running, told, full, waiting.len() as u32), (max, max, queue, queue));
                        }
                    }
                    false
                }
                2 if !places.is_empty() => {
                    drop(places.swap_remove(random.usize(..places.len())));
                    true
                }
                3 if !waiting.is_empty() => {
                    drop(waiting.remove(random.usize(..waiting.len())));
                    false
                }
                4 if !given.is_empty() => {
                    let (mut ticket, count) = given.swap_remove(random.usize(..given.len()));
                    let is_taken = random.bool();
                    if is_taken {
                        places.push(poll(&mut ticket, &count).unwrap());
                    }
                    !is_taken
                }
                _ => false,
            };
            if has_left {
                given.extend(waiting.pop_front());
            }
            assert_eq!(stand(&gate), ((places.len() + given.len()) as u32, waiting.len() as u32));
            assert!(given.iter().all(|(_, count)| count.0.load(Ordering::SeqCst) == 1), "woken once");
            assert!(waiting.iter().all(|(_, count)| count.0.load(Ordering::SeqCst) == 0));
        }
        drop((places, given, waiting));
        assert_eq!(stand(&gate), (0, 0));
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits for the place; fails the test when it never comes.
fn block_on(mut ticket: Ticket) -> Place {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let began = Instant::now();
    loop {
        if let Poll::Ready(place) = ticket.poll(&mut Context::from_waker(&waker)) {
            return place;
        }
        let left = Duration::from_secs(20).checked_sub(began.elapsed()).expect("a place comes");
        std::thread::park_timeout(left);
    }
}

#[test]
fn threads_that_come_wait_and_go_away_never_exceed_it_and_all_are_served() {
    const THREADS: usize = 6;
    for (max, queue) in [(1, 6), (2, 6), (3, 2), (5, 1), (1, 1)] {
        let gate = gate(max, queue);
        let (inside, served) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (gate, inside, served) = (&gate, &inside, &served);
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(thread as u64);
                    for _ in 0..3000 {
                        let place = match gate.try_enter() {
                            Entered::Place(place) => place,
                            Entered::Full { .. } => {
                                std::thread::yield_now();
                                continue;
                            }
                            Entered::Wait { mut ticket, .. } => match random.u32(..4) {
                                0 => continue,
                                1 => {
                                    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
                                    _ = ticket.poll(&mut Context::from_waker(&waker));
                                    std::thread::yield_now();
                                    continue;
                                }
                                _ => block_on(ticket),
                            },
                        };
                        assert!(inside.fetch_add(1, Ordering::SeqCst) < max as usize);
                        if random.bool() {
                            std::thread::yield_now();
                        }
                        served.fetch_add(1, Ordering::SeqCst);
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(place);
                    }
                });
            }
        });
        assert_eq!(stand(&gate), (0, 0), "{max} {queue}");
        assert!(served.into_inner() > 0);
    }
}
