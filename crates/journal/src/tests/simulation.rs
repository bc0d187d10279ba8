//! Random lives of a journal on a disk that crashes at each of its operations, or fails one of them.

use super::model::{Model, open, seed};
use crate::error::Error;
use crate::sim::{Fault, SimDisk};

/// How one life ends and the next begins.
#[derive(Clone, Copy, Debug)]
enum End {
    PowerCut,
    Kill,
}

/// Lives until an error, or until it has done this much.
fn live(disk: &SimDisk, model: &mut Model, random: &mut fastrand::Rng, actions: usize) -> Result<(), Error> {
    let mut recovered = open(disk)?;
    model.check(&recovered);
    for _ in 0..actions {
        model.act(&mut recovered.writer, random)?;
    }
    Ok(())
}

fn end(disk: &SimDisk, end: End) {
    match end {
        End::PowerCut => disk.power_cut(),
        End::Kill => disk.kill(),
    }
}

/// One journal: a fault at an operation of its life, then crashes while it is opened again and used.
fn run(seed: u64, at: u64, fault: Fault, actions: usize) {
    let disk = SimDisk::new(seed ^ at);
    let mut model = Model::new();
    // The same actions whatever the operation: all of them are reached.
    let mut random = fastrand::Rng::with_seed(seed);
    disk.fault_at(at, fault);
    let _ = live(&disk, &mut model, &mut random, actions);
    let mut random = fastrand::Rng::with_seed(seed ^ at);
    for _ in 0..3 {
        // A process that met an error has ended, or opens its journal anew: what is in the kernel's memory stays.
        end(&disk, if random.bool() || fault != Fault::Crash { End::Kill } else { End::PowerCut });
        disk.fault_at(disk.operations() + random.u64(1..30), Fault::Crash);
        let _ = live(&disk, &mut model, &mut random, 5);
        end(&disk, if random.bool() { End::Kill } else { End::PowerCut });
        if let Err(error) = live(&disk, &mut model, &mut random, 3) {
            panic!("it cannot be opened: {}", kit::Chain(&error));
        }
    }
    // And once more, after nothing happened: what was served is still there.
    disk.power_cut();
    live(&disk, &mut model, &mut random, 0).expect("opened");
}

/// Runs every operation of a few lives with this fault, `JOURNAL_LIVES` times as many if that is set; says how many
/// operations there were.
fn sweep(fault: Fault, lives: u64) -> u64 {
    let seed = seed();
    let times = std::env::var("JOURNAL_LIVES").ok().map_or(1, |text| text.parse().expect("JOURNAL_LIVES is a number"));
    let lives = lives * times;
    let mut points = 0;
    for life in 0..lives {
        let seed = seed.wrapping_add(life);
        let disk = SimDisk::new(seed);
        live(&disk, &mut Model::new(), &mut fastrand::Rng::with_seed(seed), 40).expect("nothing fails");
        let operations = disk.operations();
        for at in 1..=operations {
            println!("life {life}, operation {at} of {operations}");
            run(seed, at, fault, 40);
        }
        points += operations;
    }
    println!("{points} operations");
    points
}

#[test]
fn a_crash_at_any_operation_loses_nothing_that_was_acknowledged() {
    assert!(sweep(Fault::Crash, 12) > 1_000);
}

#[test]
fn an_error_of_the_disk_at_any_operation_loses_nothing_that_was_acknowledged() {
    assert!(sweep(Fault::Io, 6) > 500);
}

#[test]
fn a_full_disk_loses_nothing_that_was_acknowledged() {
    sweep(Fault::Full, 3);
}

#[test]
fn a_short_write_is_continued() {
    sweep(Fault::Short, 1);
}
